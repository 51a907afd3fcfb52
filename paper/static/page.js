"use strict";
// What all pages share: data from files, elements, tables, selects, charts. Texts of records become text nodes alone.

const page = { data: {} };
page.put = (name, value) => {
  page.data[name] = value;
};

/** A promise of the data under the name, from its file: a page opened from disk may load scripts and nothing else. */
page.load = (name) =>
  name in page.data
    ? Promise.resolve(page.data[name])
    : new Promise((done, failed) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => done(page.data[name]);
        script.onerror = () => failed(new Error(`data/${name}.js is missing`));
        document.head.append(script);
      });

/** The element with attributes and children, texts or elements. */
page.el = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
};

const NONE = "--";
page.fixed = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : NONE);
page.signed = (value, digits = 3) => (typeof value === "number" ? (value < 0 ? "" : "+") + value.toFixed(digits) : NONE);
page.within = ([value, low, high], digits = 3, write = page.fixed) =>
  `${write(value, digits)} [${write(low, digits)}, ${write(high, digits)}]`;
page.p = (value) => (typeof value !== "number" ? NONE : value < 0.001 ? "<0.001" : value.toFixed(3));
page.share = (value) => `${Number((100 * value).toPrecision(4))} %`;
page.number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : NONE);

/**
 * A table that its headers sort, in box. columns: {label, value(row) to sort by, cell(row) if it shows something else,
 * number, head: names the row, className, extra(): an element below the label, key: the label if that may change}.
 * sort: {by: a column's key, down}, kept by the caller; by a column that is not there, rows stay as they come.
 */
page.table = (
  box,
  { caption, columns, rows, sort = null, unseen = false, attributes = () => ({}), limit = 300, wide = false },
) => {
  const el = page.el;
  const state = sort || { by: null, down: false };
  const keyOf = (column) => column.key || column.label;
  const draw = (focus) => {
    const order = [...rows];
    const by = columns.findIndex((column) => keyOf(column) === state.by);
    if (by >= 0) {
      const value = columns[by].value;
      const missing = (x) => x === null || x === undefined || x === "";
      order.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const found =
          typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return state.down ? -found : found;
      });
    }
    const heads = columns.map((column, i) =>
      el(
        "th",
        {
          scope: "col",
          class: [column.number && "number", column.className].filter(Boolean).join(" ") || null,
          "aria-sort": by === i ? (state.down ? "descending" : "ascending") : null,
        },
        el(
          "button",
          {
            type: "button",
            on: {
              click: () => {
                state.down = by === i ? !state.down : Boolean(column.number);
                state.by = keyOf(column);
                draw(i);
              },
            },
          },
          column.label,
          by === i ? el("span", { "aria-hidden": "true" }, state.down ? " \u2193" : " \u2191") : null,
        ),
        column.extra ? column.extra() : null,
      ),
    );
    const lines = order.slice(0, limit).map((row) =>
      el(
        "tr",
        attributes(row),
        ...columns.map((column) => {
          const shown = column.cell ? column.cell(row) : column.value(row);
          const text = shown === null || shown === undefined || shown === "" ? NONE : shown;
          return el(
            column.head ? "th" : "td",
            {
              scope: column.head ? "row" : null,
              class: [column.number && "number", column.className].filter(Boolean).join(" ") || null,
            },
            text instanceof Node ? text : String(text),
          );
        }),
      ),
    );
    const table = el(
      "table",
      { class: wide ? "wide" : null },
      el("caption", { class: unseen ? "unseen" : null }, caption),
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...lines),
    );
    const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
    const left = box.querySelector(".scroll")?.scrollLeft || 0;
    box.replaceChildren(scroll);
    scroll.scrollLeft = left;
    if (order.length > limit) {
      box.append(
        el(
          "button",
          {
            type: "button",
            class: "more",
            on: {
              click: () => {
                limit = Infinity;
                draw();
              },
            },
          },
          `Show all ${order.length} rows`,
        ),
      );
    }
    if (focus !== undefined) table.querySelectorAll("thead button")[focus].focus();
  };
  draw();
};

/** A labelled select in the form; options are [value, text]. */
page.select = (form, name, label, options, chosen, changed) => {
  const select = page.el("select", { name, on: { change: () => changed(select.value) } });
  page.fill(select, options, chosen);
  form.append(page.el("label", {}, label, select));
  return select;
};

page.fill = (select, options, chosen) => {
  select.replaceChildren(
    ...options.map(([value, text]) => page.el("option", { value, selected: value === String(chosen) }, text)),
  );
};

/** The values of a key of all rows, each once, numbers in their order. */
page.values = (rows, key) =>
  [...new Set(rows.map(key))].sort((a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }),
  );

const drawn = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A chart with its caption, in words for who does not see it; configure(colours) gives Chart.js its type, data and options. */
page.chart = (box, title, words, configure, height) => {
  const canvas = page.el("canvas", { role: "img", "aria-label": `${title}. ${words}` });
  const holder = page.el("div", { class: "canvas" }, canvas);
  if (height) holder.style.height = height;
  const figure = page.el("figure", { class: "chart" }, page.el("figcaption", {}, title), holder);
  box.append(figure);
  const each = { canvas, configure, chart: null };
  drawn.push(each);
  render(each);
  return figure;
};

const render = (each) => {
  if (each.chart) each.chart.destroy();
  const colours = Object.fromEntries(["ink", "quiet", "rule", "accent", "second", "paper"].map((name) => [name, colour(name)]));
  Chart.defaults.color = colours.quiet;
  Chart.defaults.borderColor = colours.rule;
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  const made = each.configure(colours);
  each.chart = new Chart(each.canvas, {
    ...made,
    options: {
      animation: false,
      maintainAspectRatio: false,
      responsive: true,
      ...made.options,
      plugins: { legend: { display: false }, ...(made.options.plugins || {}) },
    },
  });
};

page.clearCharts = () => {
  for (const each of drawn.splice(0)) each.chart.destroy();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(render));

/** A command that breaks between its words alone. */
page.command = (text) =>
  page.el("pre", {}, page.el("code", {}, ...text.split(" ").flatMap((word, i) => [i ? " " : "", page.el("span", {}, word)])));

/** Lines of key and value. */
page.pairs = (caption, pairs) =>
  page.el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    page.el(
      "table",
      {},
      page.el("caption", {}, caption),
      page.el(
        "tbody",
        {},
        ...pairs.map(([key, value]) =>
          page.el("tr", {}, page.el("th", { scope: "row" }, key), page.el("td", { class: "wrap" }, value)),
        ),
      ),
    ),
  );

/** What a row is called: a baseline is frozen at random, or trained from scratch where others are fine-tuned. */
page.called = (row, column, label = row.name) =>
  row.random ? label.replace(/^random( \/ from scratch)?/, /^finetune(?!-)/.test(column.name) ? "scratch" : "random") : label;
