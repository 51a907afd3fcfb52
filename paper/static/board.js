"use strict";
// The leaderboard: one line per row of pre-training and evaluation.

(() => {
  const { el, fixed, signed, share, within } = page;
  const { columns, rows, options, cells, rule, notes } = page.data.board;
  const lines = cells.map((cell, index) => ({ ...cell, index, to: columns[cell.column], of: rows[cell.row] }));
  const byId = (id) => document.getElementById(id);
  byId("rule").textContent = rule;
  byId("notes").append(
    ...notes.map((note) => el("p", {}, ...note.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part)))),
  );

  // key, label, value of a line, its text, and whether a baseline stays whatever is chosen: it learned from no data
  const KEYS = [
    ["task", "Task", (line) => `${line.to.task} on ${line.to.store}`, String],
    ["protocol", "Protocol", (line) => line.to.name, String],
    ["at", "Checkpoint", (line) => line.to.at, share],
    ["fraction", "Labels", (line) => line.to.fraction, share],
    ["size", "Size", (line) => line.of.size, String],
    ["data", "Pre-trained on", (line) => line.of.mix, String, true],
  ];
  const to = columns[page.data.board.first];
  const chosen = {
    task: `${to.task} on ${to.store}`,
    protocol: to.name,
    at: String(to.at),
    fraction: String(to.fraction),
    size: "",
    data: "",
  };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (key in chosen) chosen[key] = value;
  let search = "",
    missing = true;
  const sort = { by: "score", down: true };

  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const [key, label, value, text, exempt] of KEYS) {
    const known = page.values(
      lines.filter((line) => !(exempt && line.of.random)),
      value,
    );
    if (!known.map(String).includes(chosen[key])) chosen[key] = "";
    page.select(form, key, label, [["", "all"], ...known.map((each) => [String(each), text(each)])], chosen[key], (now) => {
      chosen[key] = now;
      history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
      show();
    });
  }
  form.append(
    el(
      "label",
      {},
      "Method contains",
      el("input", {
        type: "search",
        name: "method",
        on: {
          input: (event) => {
            search = event.target.value.toLowerCase();
            show();
          },
        },
      }),
    ),
  );
  form.append(
    el(
      "label",
      { class: "tick" },
      el("input", {
        type: "checkbox",
        name: "missing",
        checked: true,
        on: {
          change: (event) => {
            missing = event.target.checked;
            show();
          },
        },
      }),
      "Rows without a result",
    ),
  );

  const wanted = (line) =>
    KEYS.every(([key, , value, , exempt]) => !chosen[key] || (exempt && line.of.random) || String(value(line)) === chosen[key]) &&
    (line.of.random || ((missing || line.runs) && line.of.label.toLowerCase().includes(search)));

  /** Positions on the common axis of the lines, and its ticks. */
  const axis = (shown) => {
    const all = shown
      .flatMap((line) => (line.runs ? [line.score[0], ...line.score.slice(2), line.random] : []))
      .filter((x) => typeof x === "number");
    if (!all.length) return { at: () => 0, ticks: [] };
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const span = high - low || 0.1;
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((each) => span / each <= 5) || span / 5;
    const [first, last] = [low - 0.03 * span, high + 0.03 * span];
    const ticks = [];
    for (let i = Math.ceil(first / step); i * step <= last; i += 1) ticks.push(i * step);
    return { at: (x) => (100 * (x - first)) / (last - first), ticks, digits: step < 0.01 ? 3 : 2 };
  };

  const name = (line) => {
    const label = page.called(line.of, line.to);
    return line.of.random ? el("span", {}, label, el("small", {}, "baseline, not pre-trained")) : label;
  };

  const show = () => {
    hide();
    const shown = lines.filter(wanted);
    const scale = axis(shown);
    const metric = [...new Set(shown.map((line) => line.to.metric))];
    const bar = (line) => {
      if (!line.runs)
        return el("button", {
          type: "button",
          class: "bar",
          "aria-label": "no result yet; what fills it",
          "aria-expanded": "false",
        });
      const [mean, , low, high] = line.score;
      const at = (x) => `${scale.at(x).toFixed(3)}%`;
      return el(
        "button",
        {
          type: "button",
          class: "bar",
          "aria-expanded": "false",
          "aria-label": `${fixed(mean)}, interval ${fixed(low)} to ${fixed(high)}, n ${line.n}; details`,
        },
        typeof line.random === "number" ? el("span", { class: "floor", style: `left:${at(line.random)}` }) : null,
        el("span", { class: "range", style: `left:${at(low)};width:${(scale.at(high) - scale.at(low)).toFixed(3)}%` }),
        el("span", { class: "mean", style: `left:${at(mean)}` }),
      );
    };
    const score = (i) => (line) => (line.runs ? line.score[i] : null);
    const varying = KEYS.filter(
      ([key, , value]) =>
        page.values(
          shown.filter((line) => !line.of.random || key !== "data"),
          value,
        ).length > 1,
    );
    const table = [
      { label: "Method", value: (line) => page.called(line.of, line.to), cell: name, head: true, className: "method" },
      {
        key: "score",
        label: metric.length === 1 ? metric[0] : "score",
        value: score(0),
        cell: (line) => fixed(score(0)(line)),
        number: true,
      },
      {
        label: "interval",
        value: score(2),
        cell: bar,
        className: "interval",
        extra: () =>
          el(
            "span",
            { class: "axis", "aria-hidden": "true" },
            ...scale.ticks.map((tick) => el("span", { style: `left:${scale.at(tick).toFixed(3)}%` }, tick.toFixed(scale.digits))),
          ),
      },
      { label: "sd", value: score(1), cell: (line) => fixed(score(1)(line)), number: true },
      { label: "n", value: (line) => line.n ?? 0, number: true },
      {
        label: "vs random",
        value: (line) => (line.difference ? line.difference[0] : null),
        number: true,
        cell: (line) => (line.of.random && line.runs ? "reference" : line.difference ? within(line.difference, 3, signed) : NONE),
      },
      { label: "p", value: (line) => line.p ?? null, cell: (line) => page.p(line.p), number: true },
      ...varying.map(([, label, value, text]) => ({
        label,
        value,
        cell: (line) => text(value(line)),
        number: typeof value(shown[0]) === "number",
      })),
    ];
    const said = KEYS.filter((key) => !varying.includes(key) && shown.length).map(([key, label, value, text]) =>
      key === "task"
        ? text(value(shown[0]))
        : `${label.toLowerCase()} ${text(value(shown.find((line) => !line.of.random) || shown[0]))}`,
    );
    byId("what").textContent = said.join(", ");
    byId("count").textContent =
      `${shown.length} of ${lines.length} rows, ${shown.filter((line) => line.runs).length} with results`;
    const box = byId("table");
    page.table(box, {
      caption: `Leaderboard: ${said.join(", ") || "all"}`,
      columns: table,
      rows: shown,
      sort,
      wide: true,
      unseen: true,
      attributes: (line) => ({ class: line.of.random ? "baseline" : null, "data-line": line.index }),
    });
    const images = scale.ticks.map(() => "linear-gradient(var(--rule), var(--rule))");
    box.style.setProperty("--tick-images", images.join(",") || "none");
    box.style.setProperty("--tick-places", scale.ticks.map((tick) => `${scale.at(tick).toFixed(3)}% 0`).join(",") || "0 0");
  };

  // What a row holds beside its numbers: shown at hover and focus, kept by a click or Enter, closed by Escape.
  const tip = byId("tip");
  let on = null,
    kept = false,
    timer = 0;

  const details = (line) => {
    const head = el(
      "p",
      {},
      el("strong", {}, page.called(line.of, line.to)),
      ` | ${line.to.task} on ${line.to.store}, ${line.to.name}, `,
      `checkpoint ${share(line.to.at)}, labels ${share(line.to.fraction)}`,
    );
    if (line.of.label !== line.of.name && !line.of.random) head.append(el("br"), line.of.label);
    if (!line.runs) {
      return [
        head,
        el(
          "p",
          {},
          line.todo.length
            ? "No result yet. What fills it:"
            : "No result, and no command makes one: there is nothing to start from.",
        ),
        ...line.todo.slice(0, 5).map(page.command),
      ];
    }
    const backbones = [...new Set(line.runs.map((run) => run[1]))];
    const known = new Map(line.of.runs);
    const each = (value) => [...new Set(line.runs.map(value))].join(", ");
    const of = (id) => line.runs.filter((run) => run[1] === id);
    const commands = backbones.slice(0, 3).flatMap((id) => {
      const option = of(id)[0][3];
      const seeds = of(id)
        .map((run) => run[2])
        .sort((a, b) => a - b);
      const consecutive = seeds.every((seed, i) => seed === seeds[0] + i);
      return consecutive
        ? [`ecgssl evaluate ${id} ${options[option]} --seed ${seeds[0]}${seeds.length > 1 ? ` --seeds ${seeds.length}` : ""}`]
        : of(id).map((run) => `ecgssl evaluate ${id} ${options[run[3]]} --seed ${run[2]}`);
    });
    const [mean, sd, low, high] = line.score;
    return [
      head,
      el("p", {}, `${line.to.metric} ${within([mean, low, high], 4)}, sd ${fixed(sd, 4)}, n = ${line.n}`),
      el(
        "p",
        {},
        line.of.random ? "" : `Pre-training seeds: ${each((run) => known.get(run[1]) ?? NONE)}. `,
        `Evaluation seeds: ${each((run) => run[2])}. Commit: ${line.commits.join(", ")}.`,
      ),
      el(
        "p",
        {},
        "Runs: ",
        ...line.runs.slice(0, 12).flatMap((run) => [el("a", { href: `runs.html#${run[1]}/${run[0]}` }, run[0]), " "]),
        line.runs.length > 12 ? `and ${line.runs.length - 12} more` : null,
      ),
      ...commands.map(page.command),
      backbones.length > 3 ? el("p", {}, `and ${backbones.length - 3} more backbones alike`) : null,
    ].filter(Boolean);
  };

  const hide = () => {
    clearTimeout(timer);
    tip.hidden = true;
    if (on) {
      on.classList.remove("on");
      const button = on.querySelector(".bar");
      button.setAttribute("aria-expanded", "false");
      button.removeAttribute("aria-describedby");
    }
    on = null;
    keep(false);
  };

  const keep = (now) => {
    kept = now;
    tip.classList.toggle("kept", now);
  };
  const close = () => {
    const button = on.querySelector(".bar");
    if (tip.contains(document.activeElement)) button.focus();
    hide();
  };

  const open = (row) => {
    clearTimeout(timer);
    if (on === row) return;
    hide();
    on = row;
    row.classList.add("on");
    const button = row.querySelector(".bar");
    button.setAttribute("aria-expanded", "true");
    tip.replaceChildren(
      el("button", { type: "button", class: "link close", on: { click: close } }, "Close"),
      ...details(lines[row.dataset.line]),
    );
    button.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    const [place, body] = [button.getBoundingClientRect(), document.documentElement];
    const left = Math.max(scrollX + 8, Math.min(place.left + scrollX, scrollX + body.clientWidth - tip.offsetWidth - 8));
    const below = place.bottom + tip.offsetHeight + 6 <= body.clientHeight || place.top < tip.offsetHeight + 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${scrollY + (below ? place.bottom + 4 : place.top - tip.offsetHeight - 4)}px`;
  };

  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, 250);
  };
  const rowOf = (event) => event.target.closest?.("tbody tr");
  const table = byId("table");
  table.addEventListener("mouseover", (event) => {
    if (!kept && rowOf(event)) open(rowOf(event));
  });
  table.addEventListener("mouseleave", () => {
    if (!kept) later();
  });
  tip.addEventListener("mouseenter", () => clearTimeout(timer));
  tip.addEventListener("mouseleave", () => {
    if (!kept) later();
  });
  table.addEventListener("focusin", (event) => {
    if (event.target.matches(".bar")) {
      keep(false);
      open(rowOf(event));
    }
  });
  for (const part of [table, tip]) {
    part.addEventListener("focusout", (event) => {
      if (!kept && on && !tip.contains(event.relatedTarget) && !on.contains(event.relatedTarget)) later();
    });
  }
  table.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (!row) return;
    const same = kept && on === row;
    keep(false);
    if (same) {
      hide();
      return;
    }
    open(row);
    keep(true);
    if (event.target.closest(".bar")) tip.focus({ preventScroll: true });
  });
  document.addEventListener("click", (event) => {
    if (on && !tip.contains(event.target) && !table.contains(event.target)) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && on) close();
  });
  show();
})();
