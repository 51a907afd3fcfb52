"use strict";
// Two rows of one column side by side. What is said of their difference was computed when the page was written.

(() => {
  const { el, fixed, signed, within } = page;
  const { columns, rows, cells } = page.data.board;
  const settings = page.data.rows;
  const byId = (id) => document.getElementById(id);
  const KEYS = page.COLUMN_KEYS;
  const cellsOf = new Map(columns.map((_, i) => [i, cells.filter((cell) => cell.column === i && cell.runs)]));
  const usable = columns.map((column, i) => ({ ...column, i })).filter(({ i }) => cellsOf.get(i).length > 1);
  const selects = new Map();
  const chosen = {}; // by key; a and b are the labels of the two rows
  let current = null; // the column that is shown, or on its way

  const labelOf = (cell) => rows[cell.row].label;
  const nameOf = (cell, column) => page.nameOf(rows[cell.row], column, labelOf(cell));

  /** Narrow the columns key by key; a value that no column has becomes the last that one has, but no control. */
  const chooseColumn = () => {
    let left = usable;
    for (const each of KEYS) {
      const { key, value } = each;
      const options = page.options(each, page.values(left, value));
      if (!options.some((option) => option.value === chosen[key]))
        chosen[key] = (options.findLast((option) => !option.group) || options.at(-1)).value;
      page.fill(selects.get(key), options, chosen[key]);
      left = left.filter((column) => String(value(column)) === chosen[key]);
    }
    return left[0];
  };

  /** Two of the column's rows: those chosen where it has them, else the best others. */
  const chooseRows = (column) => {
    const here = cellsOf.get(column.i);
    const best = [...here].sort((x, y) => y.score[0] - x.score[0]).map(labelOf);
    if (!best.includes(chosen.a)) chosen.a = best.find((label) => label !== chosen.b);
    if (!best.includes(chosen.b) || chosen.b === chosen.a) chosen.b = best.find((label) => label !== chosen.a);
    const options = here.map((cell) => ({ value: labelOf(cell), text: nameOf(cell, column) }));
    page.fill(selects.get("a"), options, chosen.a);
    page.fill(
      selects.get("b"),
      options.filter(({ value }) => value !== chosen.a),
      chosen.b,
    );
    return [chosen.a, chosen.b].map((label) => here.find((cell) => labelOf(cell) === label));
  };

  const update = async () => {
    const column = chooseColumn();
    const [a, b] = chooseRows(column);
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    current = column;
    const comparison = await page.load(`compare/${column.i}`);
    if (current === column && chosen.a === labelOf(a) && chosen.b === labelOf(b)) draw(column, comparison, a, b);
  };

  /** The numbers of a minus b: those of the pair as it was written, or with the other sign. */
  const differenceOf = (comparison, a, b) => {
    const isTurned = !(`${a.row}-${b.row}` in comparison.pairs);
    const [[difference, low, high, p, holm], perClass] = comparison.pairs[isTurned ? `${b.row}-${a.row}` : `${a.row}-${b.row}`];
    return isTurned
      ? { numbers: [-difference, -high, -low], p, holm, perClass: perClass.map((each) => (each === null ? null : -each)) }
      : { numbers: [difference, low, high], p, holm, perClass };
  };

  const draw = (column, comparison, a, b) => {
    page.clearCharts();
    const names = [nameOf(a, column), nameOf(b, column)];
    const { numbers, p, holm, perClass } = differenceOf(comparison, a, b);
    byId("verdict").replaceChildren(
      `${column.metric}: `,
      el("strong", {}, names[0]),
      " minus ",
      el("strong", {}, names[1]),
      ` is ${within(numbers, 3, signed)}`,
      typeof p === "number"
        ? `, p ${equals(p)}; corrected for all ${comparison.tested} pairs of this task (Holm), p ${equals(holm)}. ` +
            "The interval (95 %) counts the variance over test records and over runs."
        : ". The interval is that of these runs over the same resamples of the test records; a p needs two runs of both.",
    );
    drawSides(column, a, b, names);
    drawClasses(comparison, a, b, names, perClass);
    drawSettings(a, b, names);
  };

  const equals = (p) => page.p(p).replace(/^(<?)/, (sign) => (sign ? "< " : "= "));

  const linksOf = (cell) => {
    const ids = [...new Set(cell.runs.map((run) => run[1]))].slice(0, 6);
    return el("span", {}, ...ids.flatMap((id) => [el("a", { href: `runs.html#${id}` }, id), " "]));
  };

  const againstRandom = (cell) => {
    if (rows[cell.row].random) return "reference";
    return cell.difference ? within(cell.difference, 3, signed) : NONE;
  };

  const drawSides = (column, a, b, names) => {
    const lines = [
      ["runs", (cell) => String(cell.n)],
      [column.metric, (cell) => fixed(cell.score[0])],
      ["sd over runs", (cell) => fixed(cell.score[1])],
      ["interval", (cell) => `[${fixed(cell.score[2])}, ${fixed(cell.score[3])}]`],
      ["vs random", againstRandom],
      ["p against random (Holm)", (cell) => page.p(cell.p)],
      ["commit", (cell) => cell.commits.join(", ")],
      ["pre-trainings", linksOf],
    ];
    const caption = "Side by side";
    const heads = [a, b].map((cell, i) => el("span", {}, page.marker(rows[cell.row].look), " ", names[i]));
    byId("sides").replaceChildren(
      el("h2", {}, caption),
      sideTable(
        caption,
        heads,
        lines.map(([label, value]) => [label, value(a), value(b)]),
      ),
    );
  };

  const drawSettings = (a, b, names) => {
    const [one, other] = [settings[a.row], settings[b.row]];
    const keys = [...new Set([...Object.keys(one), ...Object.keys(other)])].sort();
    const differ = keys.filter((key) => one[key] !== other[key]);
    const lines = differ.map((key) => [key, one[key] ?? NONE, other[key] ?? NONE]);
    byId("settings").replaceChildren(
      el("h2", {}, "Settings that differ"),
      differ.length ? sideTable("Settings of the pre-training that differ", names, lines) : el("p", {}, "None."),
    );
  };

  /** A table of two columns with these heads; lines: [label, first value, second value]. */
  const sideTable = (caption, heads, lines) => {
    const body = lines.map(([label, ...values]) =>
      el("tr", {}, el("th", { scope: "row" }, label), ...values.map((value) => el("td", { class: "wrap" }, value))),
    );
    const top = el("tr", {}, el("td"), ...heads.map((head) => el("th", { scope: "col", class: "wrap" }, head)));
    const table = el(
      "table",
      { class: "sides" },
      el("caption", { class: "unseen" }, caption),
      el("thead", {}, top),
      el("tbody", {}, ...body),
    );
    return page.scrollBox(caption, table);
  };

  const drawClasses = (comparison, a, b, names, perClass) => {
    const box = byId("classes");
    box.replaceChildren();
    if (!comparison.classes.length) return;
    const lines = comparison.classes.map((name, i) => ({
      name,
      n: comparison.positives[i],
      a: comparison.means[a.row][i],
      b: comparison.means[b.row][i],
      difference: perClass[i],
    }));
    box.append(el("h2", {}, "Per class"));
    drawBars(box, names, lines);
    const table = el("div");
    box.append(
      table,
      el("p", { class: "quiet" }, "Results hold no resamples per class, so a difference of one class has no interval here."),
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
        { label: "difference", value: (line) => line.difference, cell: (line) => signed(line.difference), number: true },
      ],
    });
  };

  const drawBars = (box, names, lines) => {
    const order = lines.filter((line) => line.difference !== null).sort((x, y) => y.difference - x.difference);
    const better = order.filter((line) => line.difference > 0).length;
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
              data: order.map((line) => line.difference),
              barPercentage: 0.6,
              maxBarThickness: 14,
              backgroundColor: order.map((line) => (line.difference >= 0 ? colours.accent : colours.second)),
            },
          ],
        },
        options: {
          indexAxis: "y",
          scales: {
            y: { grid: { display: false }, ticks: { autoSkip: false, color: colours.ink } },
            x: { ticks: { maxTicksLimit: 7 } },
          },
          plugins: { tooltip: { callbacks: { label: (item) => signed(order[item.dataIndex].difference) } } },
        },
      }),
      `${3 + 1.35 * order.length}rem`,
    );
  };

  const start = () => {
    const form = byId("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    if (!usable.length) {
      byId("verdict").textContent = "No two rows have results under the same protocol yet.";
      return;
    }
    const address = new URLSearchParams(location.hash.slice(1));
    const first = usable.find(({ i }) => i === page.data.board.first) || usable.find(({ control }) => !control) || usable[0];
    const initial = { a: "", b: "", ...Object.fromEntries(KEYS.map(({ key, value }) => [key, String(value(first))])) };
    for (const { key, label } of [{ key: "a", label: "First" }, { key: "b", label: "Second" }, ...KEYS]) {
      chosen[key] = address.get(key) ?? initial[key];
      const select = page.select(form, key, label, (now) => {
        chosen[key] = now;
        update();
      });
      selects.set(key, select);
    }
    update();
  };

  start();
})();
