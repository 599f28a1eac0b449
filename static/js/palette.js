// ⌘K: find anything without leaving the page; and the map of the keyboard. `/search` answers both this and a reader
// without script, so that they never differ.

(() => {
  const palette = document.getElementById("palette");
  const keys = document.getElementById("keys");

  if (palette) {
    const input = palette.querySelector("input");
    const results = document.getElementById("palette-results");
    const state = palette.querySelector("[data-palette-state]");
    let hits = [];
    let chosen = -1;
    let asked = 0;
    let timer = 0;
    let shownFor = null;
    let isEager = false;

    const choose = (index) => {
      chosen = index;
      hits.forEach((hit, at) => hit.setAttribute("aria-selected", String(at === index)));
      if (index >= 0) {
        input.setAttribute("aria-activedescendant", hits[index].id);
        hits[index].scrollIntoView({ block: "nearest" });
      } else {
        input.removeAttribute("aria-activedescendant");
      }
    };

    const ask = async () => {
      const number = ++asked;
      const text = input.value.trim();
      state.textContent = "looking";
      const answer = await fetch(`${document.body.dataset.search}?${new URLSearchParams({ q: text })}`, {
        headers: { "X-Palette": "1", "X-Project": document.body.dataset.project ?? "" },
      }).catch(() => null);
      if (number !== asked || !palette.open) return;
      if (!answer?.ok || answer.redirected) {
        state.textContent = answer?.redirected ? "signed out: load the page again" : "the server does not answer";
        return;
      }
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
      results.replaceChildren(...parsed.body.children);
      hits = [...results.querySelectorAll("a[data-hit]")];
      hits.forEach((hit, at) => {
        hit.id = `hit-${at}`;
        hit.tabIndex = -1;
        hit.setAttribute("role", "option");
      });
      for (const list of results.querySelectorAll("section, ul, li")) list.setAttribute("role", "presentation");
      shownFor = text;
      state.textContent = text ? `${hits.length} found` : "";
      choose(hits.length ? 0 : -1);
      if (isEager && chosen >= 0) location.assign(hits[chosen].href);
    };

    const askSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(ask, 120);
    };

    const open = (text = "") => {
      if (palette.open) return;
      keys?.close();
      input.value = text;
      isEager = false;
      palette.showModal();
      input.select();
      ask();
    };

    input.addEventListener("input", () => {
      isEager = false;
      askSoon();
    });
    palette.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (shownFor === input.value.trim() && chosen >= 0) {
        location.assign(hits[chosen].href);
        return;
      }
      // Pasted and entered at once: open the first thing that is found.
      isEager = true;
      clearTimeout(timer);
      ask();
    });
    input.addEventListener("keydown", (event) => {
      if ((event.key !== "ArrowDown" && event.key !== "ArrowUp") || !hits.length) return;
      event.preventDefault();
      choose((chosen + (event.key === "ArrowDown" ? 1 : -1) + hits.length) % hits.length);
    });
    palette.addEventListener("click", (event) => {
      if (event.target === palette) palette.close();
    });
    for (const dialog of [palette, keys]) {
      // A dialog that closes gives focus back where it was; htmx must not take its keys for the page's.
      dialog?.addEventListener("keydown", (event) => event.stopPropagation());
    }

    document.addEventListener("click", (event) => {
      const opener = event.target.closest("[data-open-palette]");
      if (!opener) return;
      event.preventDefault();
      open();
    });
    document.addEventListener(
      "keydown",
      (event) => {
        if (event.key.toLowerCase() === "k" && (event.metaKey || event.ctrlKey) && !event.altKey && !event.shiftKey) {
          event.preventDefault();
          event.stopPropagation();
          palette.open ? palette.close() : open(String(getSelection() ?? "").trim().slice(0, 200));
        }
      },
      { capture: true },
    );
  }

  if (keys) {
    const openKeys = () => {
      if (!keys.open) keys.showModal();
    };
    document.addEventListener("click", (event) => {
      if (event.target.closest("[data-open-keys]")) openKeys();
      if (event.target === keys) keys.close();
    });

    let going = 0;
    document.addEventListener("keydown", (event) => {
      const isTypingNow = event.target instanceof HTMLElement && event.target.matches("input:not([type=checkbox]), textarea, select");
      if (isTypingNow || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.key === "?") {
        event.preventDefault();
        openKeys();
      } else if (going && Date.now() - going < 1200) {
        going = 0;
        const entry = document.querySelector(`[data-go="${CSS.escape(event.key.toLowerCase())}"]`);
        if (entry) {
          event.preventDefault();
          event.stopImmediatePropagation();
          entry.click();
        }
      } else if (event.key === "g") {
        going = Date.now();
      } else if (event.key === "t") {
        document.querySelector("[data-toggle-zone]")?.click();
      } else if (event.key === "r") {
        document.querySelector("[data-reload]")?.click();
      }
    }, { capture: true });
  }
})();
