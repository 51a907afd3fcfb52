"use strict";
// What all pages share: data from files, elements, tables, selects, charts. Texts of results become text nodes, never markup.

const page = { data: {} };
page.put = (name, value) => {
  page.data[name] = value;
};

/** A promise of the data under the name, from its file: a page opened from disk may load scripts and nothing else. */
page.load = (name) =>
  name in page.data
    ? Promise.resolve(page.data[name])
    : new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => resolve(page.data[name]);
        script.onerror = () => reject(new Error(`data/${name}.js is missing`));
        document.head.append(script);
      });

/** Set attributes and listeners ({on: {event: function}}) of an element and append its children, texts or elements. */
const build = (element, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
};

/** The element with attributes and children. */
page.el = (name, attributes = {}, ...children) => build(document.createElement(name), attributes, children);

/** The marker of a method, as in the figures; a look without a colour has that of the text. */
page.marker = (look) => {
  const svg = (name, attributes, ...children) =>
    build(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const colour = look.colour || "currentColor";
  const path = svg("path", { d: look.path, stroke: colour, fill: look.filled ? colour : "var(--paper)", "stroke-width": 0.3 });
  return svg("svg", { viewBox: "-1.2 -1.2 2.4 2.4", class: "marker", "aria-hidden": "true" }, path);
};

const NONE = "--";
page.fixed = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : NONE);
page.signed = (value, digits = 3) => (typeof value === "number" ? (value < 0 ? "" : "+") + value.toFixed(digits) : NONE);
page.within = ([value, low, high], digits = 3, write = page.fixed) =>
  `${write(value, digits)} [${write(low, digits)}, ${write(high, digits)}]`;
page.p = (value) => (typeof value !== "number" ? NONE : value < 0.001 ? "<0.001" : value.toFixed(3));
page.share = (value) => `${Number((100 * value).toPrecision(4))} %`;
page.number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : NONE);

const isMissing = (value) => value === null || value === undefined || value === "";
const compare = (x, y) =>
  typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });

/** The rows in the order of a column's values; rows without a value come last. */
const sorted = (rows, { value }, down) =>
  [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
    return down ? -compare(x, y) : compare(x, y);
  });

const classOf = (column) => [column.number && "number", column.className].filter(Boolean).join(" ") || null;

/** A header cell; onSort(): its button was pressed. */
const headerCell = (column, direction, onSort) =>
  page.el(
    "th",
    { scope: "col", class: classOf(column), "aria-sort": direction },
    page.el(
      "button",
      { type: "button", on: { click: onSort } },
      column.label,
      direction ? page.el("span", { "aria-hidden": "true" }, direction === "descending" ? " \u2193" : " \u2191") : null,
    ),
    column.extra ? column.extra() : null,
  );

const bodyCell = (column, row) => {
  const content = column.cell ? column.cell(row) : column.value(row);
  const shown = isMissing(content) ? NONE : content;
  return page.el(
    column.head ? "th" : "td",
    { scope: column.head ? "row" : null, class: classOf(column) },
    shown instanceof Node ? shown : String(shown),
  );
};

/** A box that scrolls sideways, with a name and within reach of the keyboard. */
page.scrollBox = (name, table) => page.el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, table);

/**
 * A table that its headers sort, in box. columns: {label, value(row) to sort by, cell(row) if it shows something else,
 * number, head: names the row, className, extra(): an element below the label, key: the label if that may change}.
 * sort: {by: a column's key, down}, held by the caller; by a column that is not there, rows stay as they come.
 */
page.table = (
  box,
  { caption, columns, rows, sort = null, unseen = false, attributes = () => ({}), limit = 300, wide = false },
) => {
  const el = page.el;
  const state = sort || { by: null, down: false };
  const keyOf = (column) => column.key || column.label;
  const draw = (focus) => {
    const by = columns.findIndex((column) => keyOf(column) === state.by);
    const order = by >= 0 ? sorted(rows, columns[by], state.down) : rows;
    const heads = columns.map((column, i) =>
      headerCell(column, by !== i ? null : state.down ? "descending" : "ascending", () => {
        state.down = by === i ? !state.down : Boolean(column.number);
        state.by = keyOf(column);
        draw(i);
      }),
    );
    const lines = order.slice(0, limit).map((row) => el("tr", attributes(row), ...columns.map((column) => bodyCell(column, row))));
    const table = el(
      "table",
      { class: wide ? "wide" : null },
      el("caption", { class: unseen ? "unseen" : null }, caption),
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...lines),
    );
    const left = box.querySelector(".scroll")?.scrollLeft || 0;
    const scroll = page.scrollBox(caption, table);
    box.replaceChildren(scroll);
    scroll.scrollLeft = left;
    if (order.length > limit) {
      const showAll = () => {
        limit = Infinity;
        draw();
      };
      box.append(el("button", { type: "button", class: "more", on: { click: showAll } }, `Show all ${order.length} rows`));
    }
    if (focus !== undefined) table.querySelectorAll("thead button")[focus].focus();
  };
  draw();
};

/** A labelled select in the form; options: see page.fill; onChange(value): another option was chosen. */
page.select = (form, name, label, onChange) => {
  const select = page.el("select", { name, on: { change: () => onChange(select.value) } });
  form.append(page.el("label", {}, label, select));
  return select;
};

/** Give a select its options {value, text, group: the heading under which it stands, if any}. */
page.fill = (select, options, chosen) => {
  const groups = new Map();
  select.replaceChildren();
  for (const { value, text, group } of options) {
    if (group && !groups.has(group)) groups.set(group, select.appendChild(page.el("optgroup", { label: group })));
    (groups.get(group) || select).append(page.el("option", { value, selected: value === String(chosen) }, text));
  }
};

/** The values of a key of all rows, each once, numbers in their order. */
page.values = (rows, key) => [...new Set(rows.map(key))].sort(compare);

/**
 * What a leaderboard column is chosen by: {key, label, value(column), text(value), group(value)}. Controls have a group of
 * their own at the end and are never chosen unless a user does.
 */
page.COLUMN_KEYS = [
  { key: "task", label: "Task", value: (column) => page.taskOf(column), text: String },
  { key: "protocol", label: "Protocol", value: (column) => column.name, text: String },
  { key: "at", label: "Checkpoint", value: (column) => column.at, text: page.share },
  { key: "fraction", label: "Labels", value: (column) => column.fraction, text: page.share },
];

const CONTROL = "control: shuffled labels, ";
page.taskOf = (column) => `${column.control ? CONTROL : ""}${column.task} on ${column.store}`;

/** Options of a select for the values of a key, those of controls last. */
page.options = ({ text }, values) => {
  const isControl = (value) => String(value).startsWith(CONTROL);
  return [...values.filter((value) => !isControl(value)), ...values.filter(isControl)].map((value) => ({
    value: String(value),
    text: text(value),
    group: isControl(value) ? "Controls" : null,
  }));
};

const charts = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/**
 * A chart with its caption, and words for who does not see it; configure(colours) gives Chart.js its type, data and options.
 * Returns the figure.
 */
page.chart = (box, title, words, configure, height) => {
  const canvas = page.el("canvas", { role: "img", "aria-label": `${title}. ${words}` });
  const holder = page.el("div", { class: "canvas" }, canvas);
  if (height) holder.style.height = height;
  const figure = page.el("figure", { class: "chart" }, page.el("figcaption", {}, title), holder);
  box.append(figure);
  const entry = { canvas, configure, chart: null };
  charts.push(entry);
  render(entry);
  return figure;
};

const render = (entry) => {
  if (entry.chart) entry.chart.destroy();
  const colours = Object.fromEntries(["ink", "quiet", "rule", "accent", "second", "paper"].map((name) => [name, colour(name)]));
  Chart.defaults.color = colours.quiet;
  Chart.defaults.borderColor = colours.rule;
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  const settings = entry.configure(colours);
  entry.chart = new Chart(entry.canvas, {
    ...settings,
    options: {
      animation: false,
      maintainAspectRatio: false,
      responsive: true,
      ...settings.options,
      plugins: { legend: { display: false }, ...(settings.options.plugins || {}) },
    },
  });
};

page.clearCharts = () => {
  for (const entry of charts.splice(0)) entry.chart.destroy();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(render));

/** A command that breaks between its words alone. */
page.command = (text) =>
  page.el("pre", {}, page.el("code", {}, ...text.split(" ").flatMap((word, i) => [i ? " " : "", page.el("span", {}, word)])));

/** Lines of key and value. */
page.pairs = (caption, pairs) => {
  const lines = pairs.map(([key, value]) =>
    page.el("tr", {}, page.el("th", { scope: "row" }, key), page.el("td", { class: "wrap" }, value)),
  );
  return page.scrollBox(caption, page.el("table", {}, page.el("caption", {}, caption), page.el("tbody", {}, ...lines)));
};

/** The name of a row in a column: a baseline is frozen at random, or trained from scratch where others are fine-tuned. */
page.nameOf = (row, column, label = row.name) =>
  row.random ? label.replace(/^random( \/ from scratch)?/, /^finetune(?!-)/.test(column.name) ? "scratch" : "random") : label;
