"use strict";
// Two rows of one column side by side. What is said of their difference was computed with the records at hand.

(() => {
  const { el, fixed, signed, share, within } = page;
  const { columns, rows, cells } = page.data.board;
  const settings = page.data.rows;
  const byId = (id) => document.getElementById(id);
  const have = new Map(columns.map((_, i) => [i, cells.filter((cell) => cell.column === i && cell.runs)]));
  const usable = columns.map((column, i) => ({ ...column, i })).filter(({ i }) => have.get(i).length > 1);
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!usable.length) {
    byId("verdict").textContent = "No two rows have results under the same protocol yet.";
    return;
  }
  const KEYS = [
    ["task", "Task", (c) => `${c.task} on ${c.store}`, String],
    ["protocol", "Protocol", (c) => c.name, String],
    ["at", "Checkpoint", (c) => c.at, share],
    ["fraction", "Labels", (c) => c.fraction, share],
  ];
  const given = new URLSearchParams(location.hash.slice(1));
  const chosen = {};
  const start = usable.find(({ i }) => i === page.data.board.first) || usable[0];
  for (const [key, , value] of KEYS) chosen[key] = given.get(key) ?? String(value(start));
  let [first, second] = [given.get("a"), given.get("b")];
  const selects = new Map();
  let wanted = null;
  for (const [key, label] of [
    ["a", "First"],
    ["b", "Second"],
  ]) {
    selects.set(
      key,
      page.select(form, key, label, [], "", (now) => {
        if (key === "a") first = now;
        else second = now;
        update();
      }),
    );
  }
  for (const [key, label] of KEYS)
    selects.set(
      key,
      page.select(form, key, label, [], "", (now) => {
        chosen[key] = now;
        update();
      }),
    );

  /** Narrow the columns key by key; what no column has falls back to the last that one has. */
  const update = async () => {
    let left = usable;
    for (const [key, , value, text] of KEYS) {
      const known = page.values(left, value);
      if (!known.map(String).includes(chosen[key])) chosen[key] = String(known[known.length - 1]);
      page.fill(
        selects.get(key),
        known.map((each) => [String(each), text(each)]),
        chosen[key],
      );
      left = left.filter((column) => String(value(column)) === chosen[key]);
    }
    const column = left[0];
    const here = have.get(column.i);
    const names = here.map((cell) => [rows[cell.row].label, called(cell, column)]);
    const best = [...here].sort((x, y) => y.score[0] - x.score[0]).map((cell) => rows[cell.row].label);
    if (!best.includes(first)) first = best.find((label) => label !== second);
    if (!best.includes(second) || second === first) second = best.find((label) => label !== first);
    page.fill(selects.get("a"), names, first);
    page.fill(
      selects.get("b"),
      names.filter(([label]) => label !== first),
      second,
    );
    history.replaceState(null, "", `#${new URLSearchParams({ ...chosen, a: first, b: second })}`);
    wanted = column;
    const found = await page.load(`compare/${column.i}`);
    if (wanted !== column) return; // another was chosen while this one came
    const of = (label) => here.find((cell) => rows[cell.row].label === label);
    draw(column, found, of(first), of(second));
  };

  const called = (cell, column) => page.called(rows[cell.row], column, rows[cell.row].label);
  const equals = (p) => page.p(p).replace(/^(<?)/, (sign) => (sign ? "< " : "= "));

  const draw = (column, found, a, b) => {
    page.clearCharts();
    const names = [called(a, column), called(b, column)];
    const turned = !(`${a.row}-${b.row}` in found.pairs);
    const pair = found.pairs[turned ? `${b.row}-${a.row}` : `${a.row}-${b.row}`];
    const sign = turned ? -1 : 1;
    let [difference, low, high, p, holm] = pair[0];
    if (turned) [difference, low, high] = [-difference, -high, -low];
    const per = pair[1].map((each) => (each === null ? null : sign * each));
    const tested = typeof p === "number";
    byId("verdict").replaceChildren(
      `${column.metric}: `,
      el("strong", {}, names[0]),
      " minus ",
      el("strong", {}, names[1]),
      ` is ${within([difference, low, high], 3, signed)}`,
      tested
        ? `, p ${equals(p)}; corrected for all ${found.tested} pairs of this task (Holm), p ${equals(holm)}. ` +
            "The interval (95 %) counts the variance over test records and over runs."
        : ". The interval is that of the runs at hand over the same resamples of the test records; a p needs two runs of both.",
    );
    const sides = [
      ["runs", (cell) => String(cell.n)],
      [column.metric, (cell) => fixed(cell.score[0])],
      ["sd over runs", (cell) => fixed(cell.score[1])],
      ["interval", (cell) => `[${fixed(cell.score[2])}, ${fixed(cell.score[3])}]`],
      [
        "vs random",
        (cell) => (rows[cell.row].random ? "reference" : cell.difference ? within(cell.difference, 3, signed) : NONE),
      ],
      ["p against random (Holm)", (cell) => page.p(cell.p)],
      ["commit", (cell) => cell.commits.join(", ")],
      [
        "pre-trainings",
        (cell) =>
          el(
            "span",
            {},
            ...[...new Set(cell.runs.map((run) => run[1]))]
              .slice(0, 6)
              .flatMap((id) => [el("a", { href: `runs.html#${id}` }, id), " "]),
          ),
      ],
    ];
    const caption = "Side by side";
    byId("sides").replaceChildren(
      el("h2", {}, caption),
      side(
        caption,
        names,
        sides.map(([label, value]) => [label, value(a), value(b)]),
      ),
    );
    classes(found, a, b, names, per);
    const keys = [...new Set([...Object.keys(settings[a.row]), ...Object.keys(settings[b.row])])].sort();
    const differ = keys.filter((key) => settings[a.row][key] !== settings[b.row][key]);
    byId("settings").replaceChildren(
      el("h2", {}, "Settings that differ"),
      differ.length
        ? side(
            "Settings of the pre-training that differ",
            names,
            differ.map((key) => [key, settings[a.row][key] ?? NONE, settings[b.row][key] ?? NONE]),
          )
        : el("p", {}, "None."),
    );
  };

  const side = (caption, names, lines) =>
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el(
        "table",
        {},
        el("caption", { class: "unseen" }, caption),
        el("thead", {}, el("tr", {}, el("td"), ...names.map((name) => el("th", { scope: "col", class: "wrap" }, name)))),
        el(
          "tbody",
          {},
          ...lines.map(([label, ...values]) =>
            el("tr", {}, el("th", { scope: "row" }, label), ...values.map((value) => el("td", { class: "wrap" }, value))),
          ),
        ),
      ),
    );

  const classes = (found, a, b, names, per) => {
    const box = byId("classes");
    box.replaceChildren();
    if (!found.classes.length) return;
    const lines = found.classes.map((name, i) => ({
      name,
      n: found.positives[i],
      a: found.means[a.row][i],
      b: found.means[b.row][i],
      d: per[i],
    }));
    const order = lines.filter((line) => line.d !== null).sort((x, y) => y.d - x.d);
    box.append(el("h2", {}, "Per class"));
    const better = order.filter((line) => line.d > 0).length;
    page.chart(
      box,
      `AUROC per class, mean over runs: ${names[0]} minus ${names[1]}; to the right ${names[0]} is better`,
      `${names[0]} is higher in ${better} of ${order.length} classes; the table below holds the numbers.`,
      (colours) => ({
        type: "bar",
        data: {
          labels: order.map((line) => line.name),
          datasets: [
            {
              data: order.map((line) => line.d),
              barPercentage: 0.6,
              maxBarThickness: 14,
              backgroundColor: order.map((line) => (line.d >= 0 ? colours.accent : colours.second)),
            },
          ],
        },
        options: {
          indexAxis: "y",
          scales: {
            y: { grid: { display: false }, ticks: { autoSkip: false, color: colours.ink } },
            x: { ticks: { maxTicksLimit: 7 } },
          },
          plugins: { tooltip: { callbacks: { label: (item) => signed(order[item.dataIndex].d) } } },
        },
      }),
      `${3 + 1.35 * order.length}rem`,
    );
    const table = el("div");
    box.append(
      table,
      el("p", { class: "quiet" }, "Records hold no resamples per class, so a difference of one class has no interval here."),
    );
    page.table(table, {
      caption: "AUROC per class",
      rows: lines,
      sort: { by: "difference", down: true },
      columns: [
        { label: "Class", value: (line) => line.name, head: true },
        { label: "positives", value: (line) => line.n, number: true },
        { label: names[0], className: "wrap", value: (line) => line.a, cell: (line) => fixed(line.a), number: true },
        { label: names[1], className: "wrap", value: (line) => line.b, cell: (line) => fixed(line.b), number: true },
        { label: "difference", value: (line) => line.d, cell: (line) => signed(line.d), number: true },
      ],
    });
  };

  update();
})();
