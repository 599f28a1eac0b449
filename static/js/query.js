// The query box of the instances page: completion of keys and values. The server knows the language; this only shows
// what it proposes and puts the chosen words in place. Without this file the box is an ordinary form field.

(() => {
  const form = document.querySelector("form.query");
  const input = form?.querySelector("input[name=q]");
  const list = document.getElementById("complete");

  if (input && list) {
    const heading = list.querySelector(".what");
    const options = list.querySelector("ul");
    let proposals = [];
    let chosen = -1;
    let asked = 0;
    let timer = 0;

    const close = () => {
      list.hidden = true;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
      chosen = -1;
    };

    const choose = (index) => {
      chosen = index;
      [...options.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
      if (index >= 0) {
        input.setAttribute("aria-activedescendant", `option-${index}`);
        options.children[index].scrollIntoView({ block: "nearest" });
      } else {
        input.removeAttribute("aria-activedescendant");
      }
    };

    const put = (proposal) => {
      const rest = input.value.slice(proposal.end);
      input.value = input.value.slice(0, proposal.start) + proposal.text + rest;
      const caret = proposal.start + proposal.text.length;
      input.setSelectionRange(caret, caret);
      ask();
    };

    const show = (answer) => {
      proposals = answer.items;
      heading.textContent = answer.problem ? `Character ${answer.problem.position + 1}: ${answer.problem.message}` : answer.heading;
      heading.classList.toggle("t-fail", Boolean(answer.problem));
      options.replaceChildren(
        ...proposals.map((proposal, index) => {
          const option = document.createElement("li");
          option.id = `option-${index}`;
          option.setAttribute("role", "option");
          const code = document.createElement("code");
          const bold = document.createElement("b");
          code.textContent = proposal.lead;
          bold.textContent = proposal.label;
          code.append(bold);
          const detail = document.createElement("span");
          detail.className = "soft";
          detail.textContent = proposal.detail;
          option.append(code, detail);
          if (proposal.count !== null) {
            const count = document.createElement("span");
            count.className = "muted";
            count.textContent = proposal.count.toLocaleString("en");
            option.append(count);
          }
          option.addEventListener("mousedown", (event) => {
            event.preventDefault();
            put(proposal);
          });
          return option;
        }),
      );
      choose(-1);
      list.hidden = proposals.length === 0 && !answer.problem;
      input.setAttribute("aria-expanded", String(!list.hidden));
    };

    const ask = async () => {
      const number = ++asked;
      const query = new URLSearchParams({ q: input.value, caret: String(input.selectionStart ?? input.value.length) });
      const answer = await fetch(`${form.dataset.complete}?${query}`, {
        headers: { "X-Project": document.body.dataset.project ?? "" },
      }).catch(() => null);
      if (number === asked && answer?.ok && document.activeElement === input) show(await answer.json());
    };

    const askSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(ask, 90);
    };

    // A query that was refused opens with the caret at what is wrong with it.
    if (input.dataset.wrongFrom !== undefined) {
      const from = Number(input.dataset.wrongFrom);
      input.focus({ preventScroll: true });
      input.setSelectionRange(from, from + Number(input.dataset.wrongLength));
    }
    document.querySelector("[data-add-term]")?.addEventListener("click", () => {
      if (input.value && !input.value.endsWith(" ")) input.value += " ";
      input.focus();
      input.setSelectionRange(input.value.length, input.value.length);
      askSoon();
    });

    input.addEventListener("input", askSoon);
    input.addEventListener("focus", askSoon);
    input.addEventListener("click", askSoon);
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      if (list.hidden) return;
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        if (!proposals.length) return;
        const step = event.key === "ArrowDown" ? 1 : -1;
        choose((chosen + step + proposals.length + (chosen < 0 && step < 0 ? 1 : 0)) % proposals.length);
      } else if (event.key === "Tab" && !event.shiftKey && chosen >= 0) {
        event.preventDefault();
        put(proposals[chosen]);
      } else if (event.key === "Enter" && chosen >= 0) {
        event.preventDefault();
        put(proposals[chosen]);
      } else if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
  }
})();
