// The correlation page: brush, zoom, pan, jumps, hover pairs, crosshair; and links that change only what they must.
// Enhancement only: every link and every button works without this file. What the page shows stands in its address.

(() => {
  const root = () => document.getElementById("correlation");
  const scroller = () => document.querySelector("[data-scroller]");
  const plane = () => document.querySelector(".tl");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // Going somewhere ---------------------------------------------------------------------------------------------------
  // A link of the page fetches the same view as a fragment; scroll, focus and opened payloads are kept.

  let hold = null;

  function blocksInView() {
    const region = scroller();
    if (!region?.classList.contains("long")) return "";
    const box = region.getBoundingClientRect();
    const seen = [...region.querySelectorAll("[data-block]")].filter((block) => {
      const { top, bottom } = block.getBoundingClientRect();
      return bottom > box.top && top < box.bottom;
    });
    if (!seen.length) return "";
    return `${seen[0].dataset.block}-${seen.at(-1).dataset.block}`;
  }

  function keep() {
    const region = scroller();
    const active = document.activeElement;
    hold = {
      top: region?.scrollTop ?? 0,
      left: region?.scrollLeft ?? 0,
      focus: root()?.contains(active) ? (active.id ? `#${CSS.escape(active.id)}` : pathOf(active)) : "",
      open: [...document.querySelectorAll("#correlation details[open][id]")].map((one) => one.id),
    };
  }

  function pathOf(element) {
    const href = element.getAttribute?.("href");
    if (href) return `[href="${CSS.escape(href)}"]`;
    const grip = element.dataset?.grip;
    if (grip) return `[data-grip="${grip}"]`;
    return element.matches?.("[data-scroller]") ? "[data-scroller]" : "";
  }

  function restore() {
    const region = scroller();
    if (hold && region) {
      region.scrollTop = hold.top;
      region.scrollLeft = hold.left;
    }
    for (const id of hold?.open ?? []) document.getElementById(id)?.setAttribute("open", "");
    if (hold?.focus) document.querySelector(hold.focus)?.focus({ preventScroll: true });
    hold = null;
  }

  function go(search, { replace = false, keepScroll = true } = {}) {
    const target = new URL(search, location.href);
    const url = target.pathname + target.search;
    history[replace ? "replaceState" : "pushState"](null, "", url);
    load(target, keepScroll);
  }

  let latest = 0;
  let isLoading = false;
  // An answer that was under way when the reader went on is older than what a tick has told since.
  let isMissed = false;

  async function load(url, keepScroll) {
    const fetched = new URL(url);
    const blocks = keepScroll ? blocksInView() : "";
    if (blocks && !fetched.searchParams.has("rows")) fetched.searchParams.set("rows", blocks);
    const number = ++latest;
    isLoading = true;
    try {
      const headers = { "HX-Request": "true", "HX-Current-URL": location.href, "X-Project": document.body.dataset.project ?? "" };
      const answer = await fetch(fetched.pathname + fetched.search, { headers });
      if (number !== latest) return;
      if (!answer.ok || answer.headers.has("HX-Redirect")) {
        location.assign(url);
        return;
      }
      // A position of the scrubber is answered with the address of its moment.
      if (answer.redirected) {
        const found = new URL(answer.url);
        found.searchParams.delete("rows");
        history.replaceState(null, "", found.pathname + found.search);
      }
      const text = await answer.text();
      if (number !== latest) return;
      if (keepScroll) keep();
      else hold = { isFresh: true };
      htmx.swap("#correlation", text, { swapStyle: "outerHTML", swapDelay: 0, settleDelay: 0 });
      if (isMissed) document.dispatchEvent(new CustomEvent("sagascope:missed"));
      isMissed = false;
    } catch {
      location.assign(url);
    } finally {
      if (number === latest) isLoading = false;
    }
  }

  // Other files of this page go somewhere by this event: to a query, as a new entry of the history or not.
  document.addEventListener("sagascope:go", (event) => go(event.detail.search, { replace: event.detail.replace }));
  addEventListener("popstate", () => load(new URL(location.href), true));

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#correlation a[href]");
    if (!link || link.hasAttribute("download") || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const href = link.getAttribute("href");
    if (link.dataset.key === "n" || link.dataset.key === "w") {
      event.preventDefault();
      jump(link.dataset.key === "n" ? "failed" : "waiting", 1);
    } else if (href.startsWith("?")) {
      event.preventDefault();
      go(href, { keepScroll: !link.closest(".tabs") });
    }
  });

  document.addEventListener("htmx:configRequest", (event) => {
    // A live look again: the rows in view, not the tail.
    const elt = event.detail.elt;
    const blocks = elt.id === "correlation" && event.detail.triggeringEvent?.type === "refresh" ? blocksInView() : "";
    if (blocks) event.detail.parameters.rows = blocks;
  });
  // A live look that was asked for before the reader went on shows what they have left: it is dropped.
  function saysTheSame(search) {
    const plain = (text) => {
      const parameters = new URLSearchParams(text);
      parameters.delete("rows");
      parameters.sort();
      return parameters.toString();
    };
    return plain(search) === plain(location.search);
  }
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target?.id !== "correlation") return;
    const asked = new URL(event.detail.pathInfo?.requestPath ?? "", location.href);
    if (isLoading || !saysTheSame(asked.search)) {
      event.detail.shouldSwap = false;
      isMissed = isLoading;
    } else keep();
  });
  document.addEventListener("htmx:afterSettle", () => {
    if (!root() || root().dataset.ready) return;
    const fresh = hold?.isFresh;
    ready();
    if (!fresh) restore();
    hold = null;
  });

  // Time and place ----------------------------------------------------------------------------------------------------

  function breaks() {
    return (plane()?.dataset.breaks ?? "").split(" ").filter(Boolean).map((pair) => pair.split(":").map(Number));
  }

  function momentAt(x) {
    const joints = breaks();
    for (let i = 1; i < joints.length; i += 1) {
      const [t0, x0] = joints[i - 1];
      const [t1, x1] = joints[i];
      if (x <= x1) return t0 + (t1 - t0) * Math.max(0, (x - x0) / (x1 - x0));
    }
    return joints.at(-1)?.[0] ?? 0;
  }

  function clock(micros, length) {
    const origin = Number(plane()?.dataset.origin ?? 0);
    if (origin) return `+${sinceText(micros - origin)}`;
    if (isLocal()) return momentText(new Date(micros / 1000), length < 20e6 ? "millis" : "time");
    const text = new Date(micros / 1000).toISOString();
    return length < 20e6 ? text.slice(11, 23) : text.slice(11, 19);
  }

  function sinceText(micros) {
    if (micros < 60e6) return `${(micros / 1e6).toFixed(micros < 10e6 ? 2 : 1)} s`;
    const seconds = Math.floor(micros / 1e6);
    return seconds < 3600 ? `${Math.floor(seconds / 60)} m ${String(seconds % 60).padStart(2, "0")} s` : `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} m`;
  }

  // The reader's own zone, as the button in the head has it: the axis follows.
  const isLocal = () => zone !== "UTC";

  function showAxis() {
    for (const label of document.querySelectorAll(".tl-axis text[data-at]")) {
      label.dataset.utc ??= label.textContent;
      label.textContent = isLocal() ? momentText(new Date(Number(label.dataset.at) / 1000), label.dataset.fine) : label.dataset.utc;
    }
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-toggle-zone]")) setTimeout(showAxis);
  });

  function shown() {
    const brush = document.querySelector("[data-brush]");
    return brush && { from: Number(brush.dataset.from), to: Number(brush.dataset.to) };
  }

  function whole() {
    const [start, end] = (plane()?.dataset.whole ?? "0:1").split(":").map(Number);
    return { start, end };
  }

  let waiting = 0;

  function show(from, to, delay = 0) {
    const { start, end } = whole();
    const length = Math.max(Math.min(to - from, end - start), 10);
    const begin = Math.min(Math.max(from, start), end - length);
    const url = new URL(location.href);
    url.searchParams.delete("rows");
    if (length >= end - start) {
      url.searchParams.delete("from");
      url.searchParams.delete("to");
    } else {
      url.searchParams.set("from", Math.round(begin));
      url.searchParams.set("to", Math.round(begin + length));
    }
    clearTimeout(waiting);
    waiting = setTimeout(() => go(url.search || "?", { replace: true }), delay);
  }

  let pointerX = 50;

  function zoom(factor) {
    const centre = momentAt(pointerX);
    const { from, to } = shown() ?? {};
    if (from === undefined) return;
    const length = (to - from) / factor;
    const share = (centre - from) / (to - from || 1);
    show(centre - length * share, centre + length * (1 - share));
  }

  function pan(share) {
    const { from, to } = shown() ?? {};
    const { start, end } = whole();
    const region = scroller();
    if (from === undefined) return;
    if (from <= start && to >= end) region?.scrollBy({ left: share * region.clientWidth, behavior: calm.matches ? "auto" : "smooth" });
    else show(from + (to - from) * share, to + (to - from) * share);
  }

  // Jumps: also into rows that are not loaded yet -----------------------------------------------------------------------

  let jumpWanted = null;

  function jump(what, step) {
    const region = scroller();
    if (!region) return;
    const marks = [...region.querySelectorAll(`[data-outcome=${what}], [data-block].waiting[data-${what}]:not([data-${what}="0"])`)];
    if (!marks.length) {
      announce(`Nothing ${what} in the window shown`);
      return;
    }
    const here = marks.findIndex((mark) => mark === document.activeElement);
    let next = marks[(here + step + marks.length) % marks.length];
    if (here < 0) {
      const box = region.getBoundingClientRect();
      next = marks.find((mark) => mark.getBoundingClientRect().bottom > box.top) ?? marks[0];
      if (step < 0) next = marks.at(-1);
    }
    if (next.matches(".waiting")) {
      jumpWanted = { what, step, block: next.dataset.block };
      next.scrollIntoView({ block: "center" });
      return;
    }
    focusBar(next);
  }

  function focusBar(bar) {
    bar.focus({ preventScroll: true });
    bar.scrollIntoView({ block: "center", inline: "center", behavior: calm.matches ? "auto" : "smooth" });
    announce(bar.getAttribute("aria-label") ?? "");
  }

  function announce(text) {
    const place = document.getElementById("announcements");
    if (place) place.textContent = text;
  }

  // Rows of a long saga come block by block, before they are scrolled to --------------------------------------------------

  const AHEAD = 900;
  const FETCHED_AT_ONCE = 2;
  let near = null;
  let fetching = 0;

  function setUpBlocks(region) {
    near?.disconnect();
    const waits = region.querySelectorAll("[data-block].waiting");
    if (!waits.length) return;
    const wanted = new Set();
    const next = () => {
      // The newest wish first: who scrolls fast does not wait for what has passed.
      const block = [...wanted].at(-1);
      if (!block || fetching >= FETCHED_AT_ONCE) return;
      wanted.delete(block);
      fetching += 1;
      fetchBlock(region, block).finally(() => {
        fetching -= 1;
        next();
      });
    };
    near = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (entry.isIntersecting) wanted.add(entry.target);
          else wanted.delete(entry.target);
        }
        next();
        next();
      },
      { root: region, rootMargin: `${AHEAD}px 0px` },
    );
    for (const block of waits) near.observe(block);
  }

  async function fetchBlock(region, waits) {
    const headers = { "HX-Request": "true", "X-Project": document.body.dataset.project ?? "" };
    try {
      const answer = await fetch(region.dataset.blocks + waits.dataset.block, { headers });
      if (!answer.ok) return;
      const text = await answer.text();
      // Parsed and laid out while nothing else is to do, not within a frame that scrolls.
      await new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done, { timeout: 200 }));
      if (!waits.isConnected) return;
      const block = new DOMParser().parseFromString(text, "text/html").querySelector("[data-block]");
      if (!block) return;
      near?.unobserve(waits);
      waits.replaceWith(block);
      region.dispatchEvent(new Event("scroll"));
      jumpInto(block);
    } catch {
      // Its link stays where the rows would be.
    }
  }

  function jumpInto(block) {
    if (block.dataset.block !== jumpWanted?.block) return;
    const bars = [...block.querySelectorAll(`[data-outcome=${jumpWanted.what}]`)];
    const bar = jumpWanted.step < 0 ? bars.at(-1) : bars[0];
    jumpWanted = null;
    if (bar) focusBar(bar);
  }

  // Keyboard ------------------------------------------------------------------------------------------------------------

  const keys = {
    "+": () => zoom(1.6),
    "=": () => zoom(1.6),
    "-": () => zoom(1 / 1.6),
    0: () => show(whole().start, whole().end),
    n: () => jump("failed", 1),
    N: () => jump("failed", -1),
    w: () => jump("waiting", 1),
    W: () => jump("waiting", -1),
    f: () => document.querySelector(".tools [data-key=f]")?.click(),
    c: () => document.querySelector(".tools [data-key=c]")?.click(),
    a: () => document.querySelector(".tools [data-key=a]")?.click(),
    s: () => {
      const menu = document.querySelector(".tools details[data-key=s]");
      menu?.toggleAttribute("open");
      menu?.querySelector(menu.open ? "a" : "summary").focus();
    },
    ArrowLeft: () => pan(-0.25),
    ArrowRight: () => pan(0.25),
    Escape: () => document.querySelector(".insp [data-close]")?.click(),
    "[": () => document.querySelectorAll(".twist:not(.shut)")[0]?.click(),
    "]": () => document.querySelectorAll(".twist.shut")[0]?.click(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input, textarea, select, [data-grip]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!root() || !keys[event.key]) return;
    if (event.key.startsWith("Arrow") && (!plane() || event.target.closest?.("pre, table"))) return;
    if (event.key !== "Escape") event.preventDefault();
    keys[event.key]();
  });

  // Brush ---------------------------------------------------------------------------------------------------------------

  function brushOf(svg) {
    const number = (name) => Number(svg.dataset[name]);
    const left = number("left");
    const right = number("right");
    const start = number("start");
    const end = number("end");
    return {
      moment: (x) => start + ((end - start) * (Math.min(Math.max(x, left), right) - left)) / (right - left),
      place: (moment) => left + ((right - left) * (moment - start)) / (end - start || 1),
      start,
      end,
    };
  }

  function drawWindow(svg, from, to) {
    const { place } = brushOf(svg);
    const x0 = place(from);
    const x1 = place(to);
    const frame = svg.querySelector("[data-window]");
    frame.setAttribute("x", `${x0}%`);
    frame.setAttribute("width", `${Math.max(0, x1 - x0)}%`);
    svg.querySelector("[data-out=before]").setAttribute("width", `${x0}%`);
    svg.querySelector("[data-out=after]").setAttribute("x", `${x1}%`);
    svg.querySelector("[data-out=after]").setAttribute("width", `${Math.max(0, 100 - x1)}%`);
    svg.querySelector("[data-grip=from] > svg").setAttribute("x", `${x0}%`);
    svg.querySelector("[data-grip=to] > svg").setAttribute("x", `${x1}%`);
  }

  function setUpBrush(svg) {
    svg.classList.add("ready");
    const brush = brushOf(svg);
    const xOf = (event) => {
      const box = svg.getBoundingClientRect();
      return (100 * (event.clientX - box.left)) / box.width;
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const grip = event.target.closest("[data-grip]")?.dataset.grip;
      const window = shown();
      const anchor = grip === "from" ? window.to : grip === "to" ? window.from : brush.moment(xOf(event));
      let other = anchor;
      let hasMoved = false;
      svg.setPointerCapture(event.pointerId);
      const move = (moved) => {
        if (!hasMoved && Math.abs(moved.clientX - event.clientX) < 3) return;
        hasMoved = true;
        other = brush.moment(xOf(moved));
        drawWindow(svg, Math.min(anchor, other), Math.max(anchor, other));
      };
      const stop = () => {
        svg.removeEventListener("pointermove", move);
        svg.removeEventListener("pointerup", stop);
        svg.removeEventListener("pointercancel", stop);
        if (hasMoved && anchor !== other) show(Math.min(anchor, other), Math.max(anchor, other));
      };
      svg.addEventListener("pointermove", move);
      svg.addEventListener("pointerup", stop);
      svg.addEventListener("pointercancel", stop);
    });
    svg.addEventListener("dblclick", () => show(brush.start, brush.end));
    for (const grip of svg.querySelectorAll("[data-grip]")) setUpGrip(svg, grip, brush);
  }

  function setUpGrip(svg, grip, brush) {
    const isFrom = grip.dataset.grip === "from";
    const { from, to } = shown();
    grip.setAttribute("role", "slider");
    grip.setAttribute("aria-valuetext", grip.dataset.valuetext);
    grip.setAttribute("tabindex", "0");
    grip.setAttribute("aria-valuemin", "0");
    grip.setAttribute("aria-valuemax", "100");
    grip.setAttribute("aria-valuenow", String(Math.round((100 * ((isFrom ? from : to) - brush.start)) / (brush.end - brush.start || 1))));
    grip.addEventListener("keydown", (event) => {
      const window = shown();
      const step = ((brush.end - brush.start) * (event.shiftKey ? 10 : 1)) / 100;
      const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -Infinity, End: Infinity };
      if (!(event.key in moves)) return;
      event.preventDefault();
      event.stopPropagation();
      const least = (brush.end - brush.start) / 1000;
      if (isFrom) window.from = Math.min(Math.max(brush.start, window.from + moves[event.key]), window.to - least);
      else window.to = Math.max(Math.min(brush.end, window.to + moves[event.key]), window.from + least);
      svg.dataset.from = window.from;
      svg.dataset.to = window.to;
      drawWindow(svg, window.from, window.to);
      show(window.from, window.to, 250);
    });
  }

  // Hover and focus: the row, its connectors, and what it undoes; a crosshair tells the time -------------------------------

  function light(row) {
    for (const one of document.querySelectorAll("#correlation .lit")) one.classList.remove("lit");
    for (const tie of (row?.dataset.ties ?? "").split(" ").filter(Boolean)) {
      document.querySelector(`[data-tie="${tie}"]`)?.classList.add("lit");
      for (const other of document.querySelectorAll(`[data-ties~="${tie}"]`)) other.classList.add("lit");
    }
  }

  let pointer = null;

  function setUpPlane(tl) {
    const cross = tl.querySelector("[data-cross]");
    const chip = tl.querySelector("[data-cross-chip]");
    const axis = tl.querySelector(".tl-axis > svg");
    const label = chip?.querySelector("text");
    const hide = () => {
      cross?.setAttribute("visibility", "hidden");
      chip?.setAttribute("visibility", "hidden");
    };
    tl.addEventListener("pointerover", (event) => light(event.target.closest?.(".tl-row")));
    tl.addEventListener("focusin", (event) => light(event.target.closest?.(".tl-row")));
    const point = () => {
      const box = axis.getBoundingClientRect();
      const x = (100 * (pointer.x - box.left)) / box.width;
      if (x < 0 || x > 100) return hide();
      pointerX = x;
      const { from, to } = shown() ?? { from: 0, to: 0 };
      cross.setAttribute("x1", `${x}%`);
      cross.setAttribute("x2", `${x}%`);
      cross.setAttribute("visibility", "visible");
      label.textContent = clock(momentAt(x), to - from);
      chip.firstElementChild.setAttribute("x", `${x}%`);
      chip.setAttribute("visibility", "visible");
    };
    tl.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return hide();
      pointer = { x: event.clientX, y: event.clientY };
      point();
    });
    tl.addEventListener("pointerleave", () => {
      pointer = null;
      hide();
      pointerX = 50;
      light(null);
    });
    // The rows were drawn anew under a pointer that rests.
    if (pointer) {
      const under = document.elementFromPoint(pointer.x, pointer.y);
      if (tl.contains(under)) {
        point();
        light(under.closest(".tl-row"));
      } else pointer = null;
    }
  }

  // Where a narrow screen does not reach: a row whose bars all lie beyond an edge shows there which way they lie -----------

  function isFar(row, box) {
    const { top, bottom } = row.getBoundingClientRect();
    return bottom < box.top - 200 || top > box.bottom + 200;
  }

  function setUpEdges(region) {
    let asked = false;
    let wasNarrow = false;
    const look = () => {
      asked = false;
      const box = region.getBoundingClientRect();
      const label = region.querySelector(".lab")?.getBoundingClientRect().width ?? 0;
      const isWide = region.scrollWidth <= region.clientWidth + 1;
      if (isWide && !wasNarrow) return;
      wasNarrow = !isWide;
      for (const row of region.querySelectorAll(".tl-block .tl-row")) {
        const bars = isWide || isFar(row, box) ? [] : [...row.querySelectorAll(".plane a")].map((bar) => bar.getBoundingClientRect());
        row.classList.toggle("off-left", bars.length > 0 && bars.every((bar) => bar.right < box.left + label));
        row.classList.toggle("off-right", bars.length > 0 && bars.every((bar) => bar.left > box.right));
      }
    };
    const soon = () => {
      if (!asked) requestAnimationFrame(look);
      asked = true;
    };
    region.addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon, { passive: true });
    region.addEventListener("click", (event) => {
      const row = event.target.closest?.(".off-left, .off-right");
      if (!row || event.target.closest("a")) return;
      row.querySelector(".plane a")?.scrollIntoView({ block: "nearest", inline: "center", behavior: calm.matches ? "auto" : "smooth" });
    });
    soon();
  }

  // A long saga opens at its tail (or at the selected event), a narrow screen at the selected event, else at now ------------

  function firstLook(region) {
    const chosen = region.querySelector(".tl-row.sel");
    if (region.classList.contains("long")) {
      if (chosen) chosen.scrollIntoView({ block: "center" });
      else if (!new URLSearchParams(location.search).has("rows")) region.scrollTop = region.scrollHeight;
      else region.querySelector("[data-block]:not(.waiting)")?.scrollIntoView({ block: "start" });
    }
    const label = region.querySelector(".lab")?.getBoundingClientRect().width ?? 0;
    const mark = region.querySelector(".ring.on") ?? region.querySelector(".tl-over .now-line");
    if (mark && region.scrollWidth > region.clientWidth) {
      const box = region.getBoundingClientRect();
      region.scrollLeft = mark.getBoundingClientRect().left - box.left - label - (region.clientWidth - label) * 0.7;
    }
  }

  function ready() {
    const page = root();
    if (!page) return;
    page.dataset.ready = "true";
    const brush = page.querySelector("[data-brush]");
    if (brush) setUpBrush(brush);
    if (plane()) setUpPlane(plane());
    if (scroller() && (!hold || hold.isFresh)) firstLook(scroller());
    if (scroller()) {
      setUpEdges(scroller());
      setUpBlocks(scroller());
    }
    showAxis();
  }

  ready();
})();
