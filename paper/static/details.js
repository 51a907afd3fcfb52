"use strict";
// What a row of the leaderboard holds beside its numbers: shown at hover and focus, pinned by a click or Enter, closed by Escape.

(() => {
  const { el, fixed, share, within } = page;
  const { options } = page.data.board;
  const tip = document.getElementById("tip");
  const table = document.getElementById("table");
  let openRow = null; // the row whose details are shown
  let isPinned = false;
  let timer = 0;

  /** The commands that run a line's evaluations again, of its first three backbones. */
  const commandsOf = (line, backbones) =>
    backbones.slice(0, 3).flatMap((id) => {
      const runs = line.runs.filter((run) => run[1] === id);
      const seeds = runs.map((run) => run[2]).sort((a, b) => a - b);
      if (!seeds.every((seed, i) => seed === seeds[0] + i))
        return runs.map((run) => `ecgssl evaluate ${id} ${options[run[3]]} --seed ${run[2]}`);
      return [`ecgssl evaluate ${id} ${options[runs[0][3]]} --seed ${seeds[0]}${seeds.length > 1 ? ` --seeds ${seeds.length}` : ""}`];
    });

  const headOf = (line) => {
    const { row, column } = line;
    const head = el(
      "p",
      {},
      el("strong", {}, page.nameOf(row, column)),
      ` | ${page.taskOf(column)}, ${column.name}, `,
      `checkpoint ${share(column.at)}, labels ${share(column.fraction)}`,
    );
    if (row.label !== row.name && !row.random) head.append(el("br"), row.label);
    return head;
  };

  const withoutResult = (line) => {
    const text = line.todo.length
      ? "No result yet. The command for it:"
      : "No result, and no command makes one: there is no run to start from.";
    return [headOf(line), el("p", {}, text), ...line.todo.slice(0, 5).map(page.command)];
  };

  const withResult = (line) => {
    const backbones = [...new Set(line.runs.map((run) => run[1]))];
    const seedOf = new Map(line.row.runs);
    const list = (value) => [...new Set(line.runs.map(value))].join(", ");
    const [mean, sd, low, high] = line.score;
    const links = line.runs.slice(0, 12).flatMap((run) => [el("a", { href: `runs.html#${run[1]}/${run[0]}` }, run[0]), " "]);
    return [
      headOf(line),
      el("p", {}, `${line.column.metric} ${within([mean, low, high], 4)}, sd ${fixed(sd, 4)}, n = ${line.n}`),
      el(
        "p",
        {},
        line.row.random ? "" : `Pre-training seeds: ${list((run) => seedOf.get(run[1]) ?? NONE)}. `,
        `Evaluation seeds: ${list((run) => run[2])}. Commit: ${line.commits.join(", ")}.`,
      ),
      el("p", {}, "Runs: ", ...links, line.runs.length > 12 ? `and ${line.runs.length - 12} more` : null),
      ...commandsOf(line, backbones).map(page.command),
      backbones.length > 3 ? el("p", {}, `and the same for ${backbones.length - 3} more backbones`) : null,
    ].filter(Boolean);
  };

  const pin = (now) => {
    isPinned = now;
    tip.classList.toggle("pinned", now);
  };

  const hide = () => {
    clearTimeout(timer);
    tip.hidden = true;
    if (openRow) {
      openRow.classList.remove("open");
      const button = openRow.querySelector(".bar");
      button.setAttribute("aria-expanded", "false");
      button.removeAttribute("aria-describedby");
    }
    openRow = null;
    pin(false);
  };

  const hideSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, 250);
  };

  /** Hide the details; the keyboard goes on from the row. */
  const close = () => {
    const button = openRow.querySelector(".bar");
    if (tip.contains(document.activeElement)) button.focus();
    hide();
  };

  /** Put the details below the bar, or above it where there is no room below. */
  const place = (bar, body) => {
    const left = Math.max(scrollX + 8, Math.min(bar.left + scrollX, scrollX + body.clientWidth - tip.offsetWidth - 8));
    const isBelow = bar.bottom + tip.offsetHeight + 6 <= body.clientHeight || bar.top < tip.offsetHeight + 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${scrollY + (isBelow ? bar.bottom + 4 : bar.top - tip.offsetHeight - 4)}px`;
  };

  const open = (row) => {
    clearTimeout(timer);
    if (openRow === row) return;
    hide();
    openRow = row;
    row.classList.add("open");
    const line = board.lines[row.dataset.line];
    const button = row.querySelector(".bar");
    button.setAttribute("aria-expanded", "true");
    tip.replaceChildren(
      el("button", { type: "button", class: "link close", on: { click: close } }, "Close"),
      ...(line.runs ? withResult(line) : withoutResult(line)),
    );
    button.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    place(button.getBoundingClientRect(), document.documentElement);
  };

  const rowOf = (event) => event.target.closest?.("tbody tr");

  const listenToPointer = () => {
    table.addEventListener("mouseover", (event) => {
      if (!isPinned && rowOf(event)) open(rowOf(event));
    });
    tip.addEventListener("mouseenter", () => clearTimeout(timer));
    for (const part of [table, tip])
      part.addEventListener("mouseleave", () => {
        if (!isPinned) hideSoon();
      });
    table.addEventListener("click", (event) => {
      const row = rowOf(event);
      if (!row) return;
      const isAgain = isPinned && openRow === row;
      pin(false);
      if (isAgain) {
        hide();
        return;
      }
      open(row);
      pin(true);
      if (event.target.closest(".bar")) tip.focus({ preventScroll: true });
    });
    document.addEventListener("click", (event) => {
      if (openRow && !tip.contains(event.target) && !table.contains(event.target)) hide();
    });
  };

  const listenToKeyboard = () => {
    table.addEventListener("focusin", (event) => {
      if (event.target.matches(".bar")) {
        pin(false);
        open(rowOf(event));
      }
    });
    for (const part of [table, tip]) {
      part.addEventListener("focusout", (event) => {
        const next = event.relatedTarget;
        if (!isPinned && openRow && !tip.contains(next) && !openRow.contains(next)) hideSoon();
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && openRow) close();
    });
  };

  board.hideDetails = hide;
  listenToPointer();
  listenToKeyboard();
  board.start();
})();
