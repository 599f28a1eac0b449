// Notices when an incident opens: a tick says that incidents changed, the page then asks what is new. In the page a
// toast, read aloud politely; outside, where the reader allowed it, a notification of the browser.

(() => {
  const noticed = {
    url: document.body.dataset.notices,
    latest: Number(document.body.dataset.latestIncident ?? 0),
    isAsking: false,
    isAskedAgain: false,
  };
  const mayNotify = "Notification" in window && window.isSecureContext;

  function wantsNotifications() {
    try {
      return mayNotify && Notification.permission === "granted" && localStorage.getItem("notify") === "on";
    } catch {
      return false;
    }
  }

  function showToast(text, url, severity) {
    const log = document.getElementById("toasts");
    const toast = document.createElement("div");
    toast.className = `toast ${severity === "critical" ? "grave" : ""}`;
    const link = document.createElement("a");
    link.href = url;
    link.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "toast-close";
    close.setAttribute("aria-label", "Close this notice");
    close.textContent = "×";
    const remove = () => toast.remove();
    close.addEventListener("click", remove);
    toast.append(link, close);
    log.append(toast);
    while (log.children.length > 4) log.firstElementChild.remove();
    // What is critical stays until somebody closes it; the rest goes, but not while it is being read.
    if (severity !== "critical") {
      const goLater = () => setTimeout(() => (toast.matches(":hover, :focus-within") ? goLater() : remove()), 12000);
      goLater();
    }
  }

  function showUnread(answer) {
    const entry = document.querySelector('[data-nav="incidents"]');
    if (!entry) return;
    let count = entry.querySelector(".count");
    if (!count && answer.unresolved) {
      count = document.createElement("span");
      count.className = "count bad";
      const number = document.createElement("span");
      number.dataset.navCount = "";
      const words = document.createElement("span");
      words.className = "sr";
      words.textContent = " unresolved";
      count.append(number, words);
      entry.append(" ", count);
    }
    if (count) {
      count.querySelector("[data-nav-count]").textContent = answer.unresolved.toLocaleString("en");
      count.hidden = answer.unresolved === 0;
    }
    let mark = entry.querySelector(".unread");
    if (!mark && answer.unread) {
      mark = document.createElement("span");
      mark.className = "unread";
      const words = document.createElement("span");
      words.className = "sr";
      mark.append(words);
      entry.append(mark);
    }
    if (mark) {
      mark.hidden = answer.unread === 0;
      mark.title = `${answer.unread} not looked at yet`;
      mark.firstElementChild.textContent = ` ${mark.title}`;
    }
  }

  async function askForNotices() {
    if (noticed.isAsking) {
      noticed.isAskedAgain = true;
      return;
    }
    noticed.isAsking = true;
    const answer = await fetch(`${noticed.url}?after=${noticed.latest}`, {
      headers: { "X-Project": document.body.dataset.project, "HX-Request": "true" },
    })
      .then((response) => (response.ok && !response.headers.has("HX-Redirect") ? response.json() : null))
      .catch(() => null);
    noticed.isAsking = false;
    if (answer) {
      const isNew = answer.latest > noticed.latest;
      noticed.latest = Math.max(noticed.latest, answer.latest);
      showUnread(answer);
      if (isNew) tell(answer);
    }
    if (noticed.isAskedAgain) {
      noticed.isAskedAgain = false;
      askForNotices();
    }
  }

  function tell(answer) {
    const isAway = document.hidden || !document.hasFocus();
    for (const one of [...answer.opened].reverse()) {
      // In front of the incident itself there is nothing to tell.
      if (location.pathname === one.url && !isAway) continue;
      if (isAway && wantsNotifications()) {
        const notice = new Notification(`INC-${one.number}`, {
          body: one.title,
          // Several open pages tell of it once.
          tag: `sagascope-${document.body.dataset.project}-${one.number}`,
          requireInteraction: one.severity === "critical",
        });
        notice.addEventListener("click", () => {
          window.focus();
          location.assign(one.url);
        });
      }
      showToast(`INC-${one.number}: ${one.title}`, one.url, one.severity);
    }
    if (answer.has_more) showToast("More incidents have opened", "/incidents", "warning");
  }

  if (noticed.url) {
    document.addEventListener("sagascope:tick", (event) => {
      try {
        if (JSON.parse(event.detail).incidents) askForNotices();
      } catch {
        // Not a tick of ours.
      }
    });
    // Lost ticks cost nothing: who comes back looks, and so does a page without a live connection.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) askForNotices();
    });
    setInterval(() => {
      if (!document.hidden || wantsNotifications()) askForNotices();
    }, 30000);

    for (const button of document.querySelectorAll("[data-ask-notify]")) {
      const show = () => {
        button.textContent = !mayNotify
          ? "Notices need HTTPS"
          : Notification.permission === "denied"
            ? "The browser forbids notices"
            : wantsNotifications()
              ? "Stop notifying me here"
              : "Notify me in this browser";
        button.disabled = !mayNotify || Notification.permission === "denied";
      };
      button.addEventListener("click", async () => {
        const isOn = wantsNotifications();
        if (!isOn && Notification.permission !== "granted") await Notification.requestPermission();
        try {
          localStorage.setItem("notify", isOn ? "off" : "on");
        } catch {
          // Without storage the choice cannot be kept.
        }
        show();
      });
      show();
    }
  }
})();
