// What every page shares: theme, time zone, counting times, live updates, keyboard, completion, copying.
// Enhancement only: every page is right without this file. No inline script or style anywhere (strict CSP).

const root = document.documentElement;

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage may be forbidden: the choice then lasts as long as the page.
  }
}

function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function isTyping(element) {
  return element instanceof HTMLElement && element.matches("input:not([type=checkbox]), textarea, select");
}

// Theme ------------------------------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-toggle-theme]")) return;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  remember("theme", root.dataset.theme);
});

// Density: the server keeps the choice and draws a timeline's rows by it; everything else follows at once --------------

async function chooseDensity(form) {
  const answer = await fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" }).catch(() => null);
  if (answer?.type !== "opaqueredirect") {
    form.submit();
    return;
  }
  const isCompact = form.elements.density.value === "compact";
  if (isCompact) root.dataset.density = "compact";
  else delete root.dataset.density;
  for (const one of document.querySelectorAll("[data-density-form]")) {
    one.elements.density.value = isCompact ? "comfortable" : "compact";
    one.querySelector("button").setAttribute("aria-pressed", String(isCompact));
  }
  if (document.getElementById("correlation")) {
    document.dispatchEvent(new CustomEvent("sagascope:go", { detail: { search: location.search || "?", replace: true } }));
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-density-form]")) return;
  event.preventDefault();
  chooseDensity(event.target);
});

// Times: UTC as sent, or the reader's own zone ---------------------------------------------------------------------

const serverNow = Number(document.querySelector("meta[name=server-now]")?.content ?? 0) / 1000;
const clockOffset = serverNow ? serverNow - Date.now() : 0;
const localZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
let zone = recall("zone") === "local" ? localZone : "UTC";

const parts = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  millis: { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 },
  date: { day: "numeric", month: "short", year: "numeric" },
  minute: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" },
  clock: { hour: "2-digit", minute: "2-digit" },
};
parts.full = { ...parts.date, ...parts.time };
const formats = new Map();

function momentText(moment, style) {
  const key = `${style} ${zone}`;
  if (!formats.has(key)) {
    formats.set(key, new Intl.DateTimeFormat("en-GB", { ...(parts[style] ?? parts.full), hourCycle: "h23", timeZone: zone }));
  }
  const text = formats.get(key).format(moment);
  return style === "minute" ? text : text.replace(",", "");
}

function showTimes(within) {
  for (const element of within.querySelectorAll("time[data-style]")) {
    const moment = new Date(element.dateTime);
    if (!Number.isNaN(moment.getTime())) element.textContent = momentText(moment, element.dataset.style);
  }
  for (const element of within.querySelectorAll("[data-toggle-zone]")) {
    element.textContent = zone === "UTC" ? "UTC" : "local";
    element.title = `Times are shown in ${zone}. Press for ${zone === "UTC" ? localZone : "UTC"}`;
  }
  for (const element of within.querySelectorAll("[data-zone-name]")) element.textContent = zone;
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-toggle-zone]")) return;
  zone = zone === "UTC" ? localZone : "UTC";
  remember("zone", zone === "UTC" ? "utc" : "local");
  showTimes(document);
});

// Counting times ---------------------------------------------------------------------------------------------------

function elapsedText(milliseconds) {
  const all = Math.max(0, Math.floor(milliseconds / 1000));
  if (all < 60) return `${all} s`;
  for (const [size, unit, below, belowUnit] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
    if (all >= size) {
      const rest = String(Math.floor((all % size) / below)).padStart(2, "0");
      return `${Math.floor(all / size).toLocaleString("en")} ${unit} ${rest} ${belowUnit}`;
    }
  }
  return "";
}

function countTimes(within) {
  const now = Date.now() + clockOffset;
  for (const element of within.querySelectorAll("time[data-counts]")) {
    const moment = new Date(element.dateTime).getTime();
    if (Number.isNaN(moment)) continue;
    const elapsed = now - moment;
    let text = elapsedText(elapsed);
    if (element.dataset.counts === "ago") text += " ago";
    if (element.dataset.counts === "due") {
      text = elapsed >= 0 ? `${text} over` : `in ${elapsedText(-elapsed)}`;
      element.classList.toggle("t-late", elapsed >= 0);
    }
    if (element.textContent !== text) element.textContent = text;
  }
}

// Live: a tick says "look again"; the page re-fetches the fragments that it shows ----------------------------------
// A fragment is an element with [data-live] and hx-trigger="refresh". Lost ticks cost nothing: everything is fetched
// again every SLOW milliseconds anyway, because deadlines pass without any event.

const SLOW = 15000;
const POLL = 5000;
const GAP = 250;
// So long a look may take before another one is made without its answer; and so long is a burst held back at most.
const PATIENCE = 8000;
const live = { socket: null, isOpen: false, wasTried: false, hasFailed: false, lastAt: Date.now(), startedAt: 0, cost: 0, asked: new Set(), timer: 0, retry: 0, isTold: false, isAnswering: false, again: 0 };

function isBusy(fragment) {
  const active = document.activeElement;
  if (active && fragment.contains(active) && isTyping(active)) return true;
  // Also somebody who is about to decide: what was ticked and typed must not be taken away.
  if (fragment.querySelector("details.menu[open], details[data-deciding][open]")) return true;
  const selection = getSelection();
  return Boolean(selection && !selection.isCollapsed && fragment.contains(selection.anchorNode));
}

function refresh() {
  live.timer = 0;
  if (document.hidden) return;
  if (live.asked.size && Date.now() - live.startedAt < PATIENCE) return;
  live.asked.clear();
  const fragments = [...document.querySelectorAll("[data-live]")].filter((fragment) => !isBusy(fragment));
  if (!fragments.length) return;
  live.startedAt = Date.now();
  live.isAnswering = live.isTold;
  live.isTold = false;
  for (const fragment of fragments) {
    live.asked.add(fragment);
    htmx.trigger(fragment, "refresh");
  }
}

// The first tick is followed at once; a burst is followed at most every GAP, and never faster than four times what
// one look costs the server.
function refreshSoon() {
  if (live.timer) return;
  const wait = Math.max(0, live.startedAt + Math.min(Math.max(GAP, 4 * live.cost), PATIENCE) - Date.now());
  live.timer = setTimeout(refresh, wait);
}

function showPill() {
  for (const pill of document.querySelectorAll("[data-live-pill]")) {
    const word = live.hasFailed ? "no answer" : live.isOpen ? "live" : live.wasTried ? "polling" : "connecting";
    pill.dataset.state = live.hasFailed || word === "connecting" ? "off" : word;
    pill.title = live.hasFailed
      ? "The server does not answer; this is what it last said"
      : live.isOpen
        ? "Changes are shown as they happen"
        : `No live connection: looking again every ${POLL / 1000} seconds`;
    pill.querySelector("[data-live-text]").textContent = `${word} · ${elapsedText(Date.now() - live.lastAt)} ago`;
  }
}

function connect() {
  // An embedded timeline belongs to nobody who has signed in: it polls.
  if (!document.body.dataset.project) {
    live.wasTried = true;
    return;
  }
  const query = new URLSearchParams();
  if (document.body.dataset.project) query.set("project", document.body.dataset.project);
  if (document.body.dataset.correlation) query.set("correlation", document.body.dataset.correlation);
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live?${query}`);
  live.socket = socket;
  socket.addEventListener("open", () => {
    live.isOpen = true;
    root.dataset.socket = "open";
    live.retry = 0;
    live.isTold = true;
    refreshSoon();
    showPill();
  });
  socket.addEventListener("message", (event) => {
    document.dispatchEvent(new CustomEvent("sagascope:tick", { detail: event.data }));
    live.isTold = true;
    refreshSoon();
  });
  socket.addEventListener("close", (event) => {
    live.isOpen = false;
    live.wasTried = true;
    delete root.dataset.socket;
    showPill();
    // Signed out, or no longer a member: the page itself then says what is the case.
    if (event.code === 4401 || event.code === 4403) {
      location.reload();
      return;
    }
    setTimeout(connect, reconnectWait(live.retry));
    live.retry += 1;
  });
}

// From a second to half a minute, each time another part of it: tabs that lost a server do not all come back at once.
function reconnectWait(tries) {
  return Math.min(1000 * 2 ** tries, 30000) * (0.5 + Math.random() / 2);
}

// An answer to a tick may hold figures from a moment before it, counted for everybody who looks. By then they are
// counted anew, so that one more look is enough.
function lookAgain(wait) {
  if (!wait || !live.isAnswering) return;
  clearTimeout(live.again);
  live.again = setTimeout(refreshSoon, wait);
}

function lookAgainAtOnce() {
  live.isTold = true;
  refreshSoon();
}

// An answer that was under way when the reader went on is not shown: what it would have told is asked for anew.
document.addEventListener("sagascope:missed", lookAgainAtOnce);
document.addEventListener("htmx:beforeOnLoad", (event) => live.asked.delete(event.detail.requestConfig?.elt));
document.addEventListener("htmx:afterSettle", () => {
  // A fragment that was replaced while it asked never hears its answer.
  const lost = [...live.asked].filter((fragment) => !fragment.isConnected);
  for (const fragment of lost) live.asked.delete(fragment);
  if (lost.length) lookAgainAtOnce();
});

document.addEventListener("htmx:afterRequest", (event) => {
  // The element that asked; `detail.elt` is another one when the answer has taken its place.
  if (!event.detail.requestConfig?.elt?.matches?.("[data-live]")) return;
  live.asked.delete(event.detail.requestConfig.elt);
  live.hasFailed = !event.detail.successful;
  if (event.detail.successful) {
    live.lastAt = Date.now();
    live.cost = live.lastAt - live.startedAt;
    lookAgain(Number(event.detail.xhr.getResponseHeader("Look-Again")));
  }
  // A tick that came while this was under way.
  if (live.isTold && !live.asked.size) refreshSoon();
  showPill();
});
document.addEventListener("htmx:afterSettle", (event) => {
  const settled = event.detail.elt;
  showTimes(settled.parentNode ?? document);
  countTimes(settled.parentNode ?? document);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.querySelector("[data-live]")) refreshSoon();
});

function lookAround() {
  countTimes(document);
  showPill();
  // A request that never came back must not stop the page for good.
  if (live.asked.size && Date.now() - live.startedAt >= PATIENCE) refreshSoon();
  if (Date.now() - Math.max(live.lastAt, live.startedAt) >= (live.isOpen ? SLOW : POLL)) refreshSoon();
}

// Rows that arrive wait to be asked for: "12 new" ------------------------------------------------------------------

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-reload]")) location.reload();
  if (event.target.closest("[data-print]")) print();
});
// A page that was empty and taught how to begin shows the first saga by itself.
document.addEventListener("htmx:afterSettle", () => {
  if (document.querySelector(".first") && document.querySelector("[data-reload]")) location.reload();
});

// On paper everything lies open; afterwards it is as it was.
const unfolded = [];
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("main details:not([open], .menu)")) {
    fold.open = true;
    unfolded.push(fold);
  }
});
addEventListener("afterprint", () => {
  while (unfolded.length) unfolded.pop().open = false;
});

// Keyboard ---------------------------------------------------------------------------------------------------------

function moveRow(step) {
  const rows = [...document.querySelectorAll("main a[data-row]")];
  if (!rows.length) return;
  const here = rows.indexOf(document.activeElement);
  const next = here < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, here + step));
  rows[next].focus();
  rows[next].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
  if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    const query = document.querySelector("main .query input") ?? document.querySelector(".find input");
    if (!query) return;
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "d") {
    document.querySelector("[data-density-form]")?.requestSubmit();
  } else if (event.key === "j" || event.key === "k") {
    moveRow(event.key === "j" ? 1 : -1);
  }
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  // A click anywhere in a row opens it, unless it was meant for something else.
  const row = event.target.closest("tr");
  const link = row?.querySelector("a[data-row]");
  if (link && !event.target.closest("a, button, input, select, summary, label") && getSelection()?.isCollapsed) link.click();
});

// Forms ------------------------------------------------------------------------------------------------------------

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
  const label = button.querySelector("[data-copy-label]") ?? button;
  const before = label.textContent;
  try {
    await navigator.clipboard.writeText(text.trim());
    label.textContent = "Copied";
  } catch {
    label.textContent = "Select and copy";
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
  }
  setTimeout(() => {
    label.textContent = before;
  }, 1600);
});

showTimes(document);
countTimes(document);
// Not before htmx knows the fragments, which it does when all scripts are there: what is asked earlier is lost.
document.addEventListener("DOMContentLoaded", () => {
  connect();
  setInterval(lookAround, 1000);
});

// Definition editor: the line numbers follow what is typed ------------------------------------------------------------

for (const editor of document.querySelectorAll("textarea[data-editor]")) {
  const gutter = editor.previousElementSibling;
  const number = () => {
    const count = editor.value.split("\n").length;
    if (gutter.textContent.trim().split("\n").length !== count) {
      gutter.textContent = Array.from({ length: count }, (_, index) => index + 1).join("\n");
    }
    editor.rows = Math.max(20, count);
  };
  editor.addEventListener("input", number);
  editor.addEventListener("scroll", () => {
    gutter.scrollTop = editor.scrollTop;
  });
}
