// What somebody has opened, scrolled to or stands on stays so when its part of the page is shown anew.
// The correlation page has a finer way of its own.

(() => {
  const OURS = "[data-live][id]:not(#correlation)";
  const REGIONS = ".table-wrap, [role=region][tabindex]";
  const FOLDS = "details:not(.menu)";
  const STOPS = "a[href], button, summary, [tabindex]";

  // The same thing in the fragment that comes: what it is, what it says or leads to, and the how manieth of those.
  function nameOf(element) {
    return `${element.tagName} ${element.getAttribute("href") ?? element.textContent.trim().slice(0, 80)}`;
  }

  function placeOf(element, all) {
    const name = nameOf(element);
    return { name, nth: all.filter((one) => nameOf(one) === name).indexOf(element) };
  }

  function foundAt(place, all) {
    return all.filter((one) => nameOf(one) === place.name)[place.nth];
  }

  let kept = null;

  document.addEventListener("htmx:beforeSwap", (event) => {
    const fragment = event.detail.target;
    if (!event.detail.shouldSwap || !fragment?.matches?.(OURS)) return;
    const active = document.activeElement;
    const summaries = [...fragment.querySelectorAll(`${FOLDS} > summary`)];
    kept = {
      id: fragment.id,
      open: summaries.filter((one) => one.parentElement.open).map((one) => placeOf(one, summaries)),
      scrolled: [...fragment.querySelectorAll(REGIONS)].map((one) => [one.scrollLeft, one.scrollTop]),
      focus: fragment.contains(active) && !active.id ? placeOf(active, [...fragment.querySelectorAll(STOPS)]) : null,
    };
  });
  document.addEventListener("htmx:afterSwap", () => {
    const fragment = kept && document.getElementById(kept.id);
    if (!fragment) return;
    const { open, scrolled, focus } = kept;
    kept = null;
    const summaries = [...fragment.querySelectorAll(`${FOLDS} > summary`)];
    for (const place of open) {
      const summary = foundAt(place, summaries);
      if (summary) summary.parentElement.open = true;
    }
    const regions = [...fragment.querySelectorAll(REGIONS)];
    if (regions.length === scrolled.length) {
      regions.forEach((region, index) => {
        [region.scrollLeft, region.scrollTop] = scrolled[index];
      });
    }
    if (focus) foundAt(focus, [...fragment.querySelectorAll(STOPS)])?.focus({ preventScroll: true });
  });
})();
