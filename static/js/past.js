// The scrubber: drag it, press , and . or have it played, to see the saga as it was known after each event. Enhancement
// only: without this file the same form is sent with its button.

(() => {
  const form = () => document.querySelector("#correlation [data-scrub]");

  function go(position, replace = false) {
    const url = new URL(location.href);
    const page = form();
    for (const name of ["at", "nth", "rows", "by"]) url.searchParams.delete(name);
    if (page.querySelector("[data-scrub-by]").value === "arrival") url.searchParams.set("by", "arrival");
    if (position !== null) url.searchParams.set("step", position);
    document.dispatchEvent(new CustomEvent("sagascope:go", { detail: { search: url.search || "?", replace } }));
  }

  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-scrubber]")) return;
    const { value, max } = event.target;
    const words = `${Number(value).toLocaleString("en")} of ${Number(max).toLocaleString("en")}`;
    form().querySelector("[data-scrub-count]").textContent = words;
    event.target.setAttribute("aria-valuetext", `${words} events`);
  });

  let waiting = 0;
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-scrubber]")) {
      // Arrow keys change it again and again: only where they rest is looked at.
      clearTimeout(waiting);
      waiting = setTimeout(() => go(event.target.value), 160);
    } else if (event.target.matches("[data-scrub-by]")) {
      const range = form().querySelector("[data-scrubber]");
      go(range.value === range.max ? null : range.value);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input:not([type=range]), textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "p") {
      document.querySelector("#correlation [data-play]")?.click();
      return;
    }
    const where = { ",": "previous", ".": "next", "<": "first", ">": "now" }[event.key];
    const link = where && document.querySelector(`#correlation [data-past=${where}][href]`);
    if (!link) return;
    event.preventDefault();
    link.click();
  });

  // Playing: a look after another, each when the one before it stands, up to the present. A long saga takes as many
  // looks as a short one. Who wants little motion gets few looks, each long enough to be read.

  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const PACES = { calm: { looks: 12, wait: 2000 }, usual: { looks: 60, wait: 600 } };
  const play = { isOn: false, isOurs: false, timer: 0 };

  function showButton() {
    const button = document.querySelector("#correlation [data-play]");
    if (!button) return;
    const icon = button.querySelector("[data-play-icon]");
    icon.setAttribute("href", icon.getAttribute("href").replace(/#.*/, play.isOn ? "#i-pause" : "#i-play"));
    button.setAttribute("aria-label", play.isOn ? "Pause" : "Play");
  }

  function tell(text) {
    const place = document.getElementById("announcements");
    if (place) place.textContent = text;
  }

  function lookOn() {
    const range = form()?.querySelector("[data-scrubber]");
    if (!range || document.hidden) {
      stop();
      return;
    }
    const [known, total] = [Number(range.value), Number(range.max)];
    const { looks } = calm.matches ? PACES.calm : PACES.usual;
    // From the present it begins anew.
    const next = known >= total ? 1 : known + Math.ceil(total / looks);
    play.isOurs = true;
    go(next >= total ? null : next, true);
    play.isOurs = false;
    if (next >= total) stop("Played up to now");
  }

  function stop(said = "") {
    if (!play.isOn) return;
    play.isOn = false;
    clearTimeout(play.timer);
    showButton();
    if (said) tell(said);
  }

  function toggle() {
    if (play.isOn) {
      stop(`Paused at ${form().querySelector("[data-scrub-count]").textContent} events`);
      return;
    }
    play.isOn = true;
    tell("Playing");
    showButton();
    lookOn();
  }

  // Whoever goes somewhere else meanwhile wants to stay there.
  document.addEventListener("sagascope:go", () => play.isOurs || stop());
  addEventListener("popstate", () => stop());
  document.addEventListener("click", (event) => {
    if (event.target.closest("#correlation [data-play]")) toggle();
    else if (event.target.closest("#correlation a[href], #correlation summary")) stop();
  });
  document.addEventListener("input", (event) => event.target.matches("[data-scrubber]") && stop());

  function ready() {
    form()?.closest(".scrub").classList.add("ready");
    showButton();
    clearTimeout(play.timer);
    if (play.isOn) play.timer = setTimeout(lookOn, (calm.matches ? PACES.calm : PACES.usual).wait);
  }
  document.addEventListener("htmx:afterSettle", ready);
  ready();
})();
