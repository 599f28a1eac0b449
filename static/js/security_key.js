// Says on the page why a security key could not be used; without this it would be a line in the browser's console.
"use strict";

document.addEventListener("allauth.error", (event) => {
  const place = document.getElementById("security-key-error");
  if (!place) return;
  event.preventDefault();
  const reason = event.detail.exception;
  place.textContent =
    reason && reason.name === "NotAllowedError"
      ? "The security key was not used: it was cancelled, or nobody touched the key in time."
      : "The security key could not be used in this browser.";
  place.hidden = false;
});
