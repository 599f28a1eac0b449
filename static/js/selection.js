// Selected rows of a list: all of a page at once, a count, and a selection that outlives live updates.
// Without this file the boxes are ordinary form fields, and the bar appears by CSS alone.

(() => {
  const bar = document.getElementById("selection");

  if (bar) {
    const all = document.querySelector("[data-pick-all]");
    const label = bar.querySelector("[data-picked]");
    const picked = new Set();
    const boxes = () => [...document.querySelectorAll("input[name=row][form=selection]")];

    const show = () => {
      const known = boxes();
      const chosen = known.filter((box) => box.checked).length;
      label.textContent = `${chosen} selected`;
      if (all) {
        all.checked = chosen > 0 && chosen === known.length;
        all.indeterminate = chosen > 0 && chosen < known.length;
      }
    };

    let last = null;
    document.addEventListener("click", (event) => {
      const box = event.target.closest?.("input[name=row][form=selection]");
      if (!box) return;
      // Shift selects everything between this row and the one before.
      const known = boxes();
      const from = last ? known.findIndex((one) => one.value === last) : -1;
      if (event.shiftKey && from >= 0) {
        const to = known.indexOf(box);
        for (const one of known.slice(Math.min(from, to), Math.max(from, to) + 1)) {
          one.checked = box.checked;
          picked[box.checked ? "add" : "delete"](one.value);
        }
      }
      last = box.value;
    });
    document.addEventListener("change", (event) => {
      if (event.target === all) {
        for (const box of boxes()) {
          box.checked = all.checked;
          picked[all.checked ? "add" : "delete"](box.value);
        }
      } else if (event.target.matches?.("input[name=row][form=selection]")) {
        picked[event.target.checked ? "add" : "delete"](event.target.value);
      } else {
        return;
      }
      show();
    });
    bar.addEventListener("reset", () => {
      picked.clear();
      for (const box of boxes()) box.checked = false;
      setTimeout(show);
    });
    // Fresh rows come without their boxes ticked.
    document.addEventListener("htmx:afterSwap", () => {
      for (const box of boxes()) box.checked = picked.has(box.value);
      show();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "x" || event.ctrlKey || event.metaKey || event.altKey) return;
      const box = document.activeElement?.closest?.("tr")?.querySelector("input[name=row][form=selection]");
      if (box && document.activeElement.matches("a")) box.click();
    });
    for (const box of boxes()) if (box.checked) picked.add(box.value);
    show();
  }
})();
