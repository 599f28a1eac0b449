// The scrubber: drag it or press , and . to see the saga as it was known after each event. Enhancement only: without this
// file the same form is sent with its button.

(() => {
  const form = () => document.querySelector("#correlation [data-scrub]");

  function go(position) {
    const url = new URL(location.href);
    const page = form();
    for (const name of ["at", "nth", "rows", "by"]) url.searchParams.delete(name);
    if (page.querySelector("[data-scrub-by]").value === "arrival") url.searchParams.set("by", "arrival");
    if (position !== null) url.searchParams.set("step", position);
    document.dispatchEvent(new CustomEvent("sagascope:go", { detail: url.search || "?" }));
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
    const where = { ",": "previous", ".": "next", "<": "first", ">": "now" }[event.key];
    const link = where && document.querySelector(`#correlation [data-past=${where}][href]`);
    if (!link) return;
    event.preventDefault();
    link.click();
  });

  function ready() {
    form()?.closest(".scrub").classList.add("ready");
  }
  document.addEventListener("htmx:afterSettle", ready);
  ready();
})();
