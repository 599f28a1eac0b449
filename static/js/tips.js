// What a mark in a picture stands for, in words beside it: for the pointer, and for who goes there by the keyboard.
// Without this file the browser shows the same words to the pointer, and screen readers read them aloud.

(() => {
  const MARK = "main svg a[aria-label]";
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.id = "tip";
  tip.hidden = true;
  // Screen readers have heard the same words already: they are the mark's name.
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  let told = null;

  function tell(mark, x) {
    told = mark;
    // The browser's own words would stand beside ours.
    mark.querySelector(":scope > title, :scope > g > title, :scope > rect > title")?.remove();
    const [head, ...rest] = mark.getAttribute("aria-label").split(", ");
    const name = document.createElement("b");
    name.textContent = head;
    tip.replaceChildren(name, document.createTextNode(rest.length ? rest.join(", ") : ""));
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = Math.max(box.left, Math.min(x ?? box.left, box.right));
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
  }

  function hush() {
    told = null;
    tip.hidden = true;
  }

  document.addEventListener("pointerover", (event) => {
    const mark = event.pointerType === "touch" ? null : event.target.closest?.(MARK);
    if (mark && mark !== told) tell(mark, event.clientX);
    else if (!mark && told && !told.matches(":focus-visible")) hush();
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest?.(MARK);
    if (mark?.matches(":focus-visible")) tell(mark);
    else hush();
  });
  document.addEventListener("focusout", hush);
  document.addEventListener("pointerdown", hush);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hush();
  });
  addEventListener("scroll", () => told && !told.matches(":focus-visible") && hush(), { capture: true, passive: true });
  document.addEventListener("htmx:afterSettle", () => told && !told.isConnected && hush());
})();
