"use strict";
// The leaderboard: one line per row of pre-training and evaluation.

const board = {};

(() => {
  const { el, fixed, signed, within } = page;
  const { columns, rows, cells, rule, notes } = page.data.board;
  board.lines = cells.map((cell, index) => ({ ...cell, index, column: columns[cell.column], row: rows[cell.row] }));
  const byId = (id) => document.getElementById(id);
  byId("rule").textContent = rule;
  byId("notes").append(
    ...notes.map((note) => el("p", {}, ...note.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part)))),
  );

  // Keys of the filters; baselineStays: a baseline is shown whatever is chosen, as it learned from no data.
  const KEYS = [
    ...page.COLUMN_KEYS.map((each) => ({ ...each, value: (line) => each.value(line.column) })),
    { key: "size", label: "Size", value: (line) => line.row.size, text: String },
    { key: "data", label: "Pre-trained on", value: (line) => line.row.mix, text: String, baselineStays: true },
  ];
  const first = columns[page.data.board.first];
  const chosen = { size: "", data: "", ...Object.fromEntries(page.COLUMN_KEYS.map(({ key, value }) => [key, String(value(first))])) };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (key in chosen) chosen[key] = value;
  const also = { method: "", empty: true }; // the words in a method's name, and whether rows without a result are shown
  const sort = { by: "score", down: true };

  const makeFilters = (form) => {
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const each of KEYS) {
      const { key, label, value, baselineStays } = each;
      const known = page.values(
        board.lines.filter((line) => !(baselineStays && line.row.random)),
        value,
      );
      if (!known.map(String).includes(chosen[key])) chosen[key] = "";
      const select = page.select(form, key, label, (now) => {
        chosen[key] = now;
        history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
        show();
      });
      page.fill(select, [{ value: "", text: "all" }, ...page.options(each, known)], chosen[key]);
    }
    const onMethod = (event) => {
      also.method = event.target.value.toLowerCase();
      show();
    };
    const onEmpty = (event) => {
      also.empty = event.target.checked;
      show();
    };
    const tick = el("input", { type: "checkbox", name: "missing", checked: true, on: { change: onEmpty } });
    form.append(
      el("label", {}, "Method contains", el("input", { type: "search", name: "method", on: { input: onMethod } })),
      el("label", { class: "tick" }, tick, "Rows without a result"),
    );
  };

  const isShown = (line) =>
    (chosen.task || !line.column.control) &&
    KEYS.every(
      ({ key, value, baselineStays }) =>
        !chosen[key] || (baselineStays && line.row.random) || String(value(line)) === chosen[key],
    ) &&
    (line.row.random || ((also.empty || line.runs) && line.row.label.toLowerCase().includes(also.method)));

  /** Places on the common axis of the lines in per cent, and its ticks. */
  const axisOf = (lines) => {
    const numbers = lines
      .flatMap((line) => (line.runs ? [line.score[0], ...line.score.slice(2), line.random] : []))
      .filter((x) => typeof x === "number");
    if (!numbers.length) return { place: () => 0, ticks: [] };
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const span = high - low || 0.1;
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((each) => span / each <= 5) || span / 5;
    const [start, end] = [low - 0.03 * span, high + 0.03 * span];
    const ticks = [];
    for (let i = Math.ceil(start / step); i * step <= end; i += 1) ticks.push(i * step);
    return { place: (x) => `${((100 * (x - start)) / (end - start)).toFixed(3)}%`, ticks, digits: step < 0.01 ? 3 : 2 };
  };

  /** The method, and below it in small letters its settings, which may break after a dot, "=" or ",". */
  const methodCell = (line) => {
    const [name, ...settings] = page.nameOf(line.row, line.column).split(/ (?=\()/);
    const parts = settings.join(" ").split(/(?<=[.=,_])/);
    return el(
      "span",
      {},
      name,
      settings.length ? el("small", { class: "settings" }, ...parts.flatMap((part) => [part, el("wbr")])) : null,
      line.row.random ? el("small", {}, "baseline, not pre-trained") : null,
    );
  };

  /** The interval as a bar with the method's marker at the mean: a button that shows the details. */
  const intervalCell = ({ place }) => (line) => {
    const attributes = (label) => ({ type: "button", class: "bar", "aria-expanded": "false", "aria-label": label });
    if (!line.runs) return el("button", attributes("no result yet; the command for it"));
    const [mean, , low, high] = line.score;
    const look = line.row.look;
    const range = `left:${place(low)};right:calc(100% - ${place(high)});background:${look.colour || "currentColor"}`;
    return el(
      "button",
      attributes(`${fixed(mean)}, interval ${fixed(low)} to ${fixed(high)}, n ${line.n}; details`),
      typeof line.random === "number" ? el("span", { class: "floor", style: `left:${place(line.random)}` }) : null,
      el("span", { class: "range", style: range }),
      el("span", { class: "mean", style: `left:${place(mean)}` }, page.marker(look)),
    );
  };

  const axisHead = ({ place, ticks, digits }) =>
    el(
      "span",
      { class: "axis", "aria-hidden": "true" },
      ...ticks.map((tick) => el("span", { style: `left:${place(tick)}` }, tick.toFixed(digits))),
    );

  const differenceCell = (line) => {
    if (line.row.random && line.runs) return "reference";
    return line.difference ? within(line.difference, 3, signed) : NONE;
  };

  /** The columns of the table; keys: those in which the lines differ. */
  const tableColumns = (lines, axis, keys) => {
    const metrics = [...new Set(lines.map((line) => line.column.metric))];
    const score = (i) => (line) => (line.runs ? line.score[i] : null);
    return [
      { label: "Method", value: (line) => page.nameOf(line.row, line.column), cell: methodCell, head: true, className: "method" },
      {
        key: "score",
        label: metrics.length === 1 ? metrics[0] : "score",
        value: score(0),
        cell: (line) => fixed(score(0)(line)),
        number: true,
      },
      { label: "interval", value: score(2), cell: intervalCell(axis), className: "interval", extra: () => axisHead(axis) },
      { label: "sd", value: score(1), cell: (line) => fixed(score(1)(line)), number: true },
      { label: "n", value: (line) => line.n ?? 0, number: true },
      { label: "vs random", value: (line) => line.difference?.[0] ?? null, cell: differenceCell, number: true },
      { label: "p", value: (line) => line.p ?? null, cell: (line) => page.p(line.p), number: true },
      ...keys.map(({ key, label, value, text }) => ({
        label,
        value,
        className: key === "data" ? "wrap" : null,
        cell: (line) => text(value(line)),
        number: typeof value(lines[0]) === "number",
      })),
    ];
  };

  /** What all lines have in common, in words: "superdiagnostic on ptb-xl, protocol linear, ..." */
  const describe = (lines, keys) => {
    const trained = lines.find((line) => !line.row.random) || lines[0];
    return keys
      .map(({ key, label, value, text }) =>
        key === "task" ? text(value(trained)) : `${label.toLowerCase()} ${text(value(trained))}`,
      )
      .join(", ");
  };

  const show = () => {
    board.hideDetails();
    const lines = board.lines.filter(isShown);
    const axis = axisOf(lines);
    const differ = KEYS.filter(({ value, baselineStays }) => {
      const compared = lines.filter((line) => !(baselineStays && line.row.random));
      return page.values(compared, value).length > 1;
    });
    const description = lines.length ? describe(lines, KEYS.filter((each) => !differ.includes(each))) : "";
    byId("what").textContent = description;
    byId("count").textContent =
      `${lines.length} of ${board.lines.length} rows, ${lines.filter((line) => line.runs).length} with results`;
    const box = byId("table");
    page.table(box, {
      caption: `Leaderboard: ${description || "all"}`,
      columns: tableColumns(lines, axis, differ),
      rows: lines,
      sort,
      wide: true,
      unseen: true,
      attributes: (line) => ({ class: line.row.random ? "baseline" : null, "data-line": line.index }),
    });
    const images = axis.ticks.map(() => "linear-gradient(var(--rule), var(--rule))");
    box.style.setProperty("--tick-images", images.join(",") || "none");
    box.style.setProperty("--tick-places", axis.ticks.map((tick) => `${axis.place(tick)} 0`).join(",") || "0 0");
  };

  board.start = () => {
    makeFilters(byId("filters"));
    show();
  };
})();
