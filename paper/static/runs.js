"use strict";
// All pre-trainings, or the one that the address names after its #, with what was evaluated of it.

(() => {
  const { el, fixed, share, within } = page;
  const { rows } = page.data.board;
  const recipes = page.data.recipes;
  const box = document.getElementById("run");
  const TITLES = {
    loss: "loss",
    rankme: "RankMe",
    feature_sd: "feature sd",
    lr: "learning rate",
    gradient_norm: "gradient norm",
    records_per_second: "records/s",
    memory_mb: "peak memory (MB)",
  };
  const COST = {
    seconds: "seconds",
    records_per_second: "records/s",
    peak_memory_mb: "peak memory (MB)",
    parameters: "parameters",
  };
  const SCORES = {
    macro_average_precision: "average precision",
    macro_f1: "F1",
    f_max: "F-max",
    macro_brier: "Brier",
    macro_ece: "calibration error",
    mae: "MAE",
    rmse: "RMSE",
    pearson_r: "Pearson's r",
  };
  const CLASSES = {
    positives: "positives",
    auroc: "AUROC",
    lower: "lower",
    upper: "upper",
    average_precision: "average precision",
    f1: "F1",
    brier: "Brier",
    ece: "calibration error",
  };

  const list = () => {
    document.title = "Runs | ecgssl";
    const lines = rows.flatMap((row) => row.runs.map(([id, seed]) => ({ id, seed, row })));
    const table = el("div");
    box.replaceChildren(el("h1", {}, "Runs"), table);
    page.table(table, {
      caption: `${lines.length} pre-trainings`,
      rows: lines,
      columns: [
        { label: "Pre-training", value: (line) => line.row.label, head: true, className: "method" },
        { label: "seed", value: (line) => line.seed, number: true },
        { label: "run", value: (line) => line.id, cell: (line) => el("a", { href: `#${line.id}` }, line.id) },
        { label: "size", value: (line) => line.row.size },
        { label: "rate (Hz)", value: (line) => line.row.rate, number: true },
        { label: "data", value: (line) => line.row.mix, className: "wrap" },
      ],
    });
  };

  const curve = (parent, title, steps, values) => {
    const points = steps.map((step, i) => ({ x: step, y: values[i] })).filter((point) => typeof point.y === "number");
    if (!points.length) return;
    const [start, end] = [points[0], points.at(-1)].map((point) => `${page.number(point.y)} at step ${point.x}`);
    const figure = page.chart(parent, title, `From ${start} to ${end}.`, (colours) => ({
      type: "line",
      data: {
        datasets: [
          {
            data: points,
            borderColor: colours.accent,
            backgroundColor: colours.accent,
            borderWidth: 1.5,
            pointRadius: points.length > 1 && points.length < 30 ? 2 : points.length > 1 ? 0 : 4,
            pointHitRadius: 8,
          },
        ],
      },
      options: {
        parsing: false,
        interaction: { mode: "nearest", axis: "x", intersect: false },
        scales: {
          x: { type: "linear", title: { display: true, text: "step" }, ticks: { maxTicksLimit: 6 }, grid: { display: false } },
          y: { ticks: { maxTicksLimit: 5 } },
        },
        plugins: {
          tooltip: { callbacks: { title: (items) => `step ${items[0].parsed.x}`, label: (item) => page.number(item.parsed.y) } },
        },
      },
    }));
    const numbers = el("details", {}, el("summary", {}, `Numbers of ${title}`));
    numbers.addEventListener("toggle", () => {
      if (numbers.children.length === 1)
        numbers.append(
          page.pairs(
            `step and ${title}`,
            points.map((point) => [String(point.x), page.number(point.y)]),
          ),
        );
    });
    figure.append(numbers);
  };

  const run = async (id, evaluation) => {
    let found;
    try {
      found = await page.load(`runs/${id}`);
    } catch {
      box.replaceChildren(
        el("h1", {}, "Runs"),
        el("p", {}, `There is no run ${id} among these records. `, el("a", { href: "#" }, "All runs")),
      );
      return;
    }
    page.clearCharts();
    document.title = `${found.label}, seed ${found.seed} | ecgssl`;
    const curves = el("div", { class: "curves" });
    const drawn = { ...found.monitor, ...found.curves };
    const own = (part, key) => found[part] && key in found[part] && key !== "step";
    const keys = [...new Set([...Object.keys(TITLES), ...Object.keys(drawn)])].filter(
      (key) => own("curves", key) || own("monitor", key),
    );
    const evaluations = el("div"),
      detail = el("div");
    box.replaceChildren(
      el("p", { class: "quiet" }, el("a", { href: "#" }, "All runs")),
      el("h1", {}, `${found.label}, seed ${found.seed}`),
      el("p", { class: "quiet" }, "Pre-training ", el("code", {}, id)),
      el("h2", {}, "Run it again"),
      page.command(found.command),
      el("h2", {}, "Curves"),
      curves,
      el("h2", {}, "Evaluations"),
      evaluations,
      detail,
      el("h2", {}, "Configuration"),
      page.pairs("Of the pre-training", found.config),
      el("h2", {}, "Provenance"),
      found.provenance
        ? page.pairs("What it ran on", found.provenance)
        : el("p", {}, "These records hold no record of the pre-training itself."),
      ...(Object.keys(found.cost || {}).length
        ? [
            el("h2", {}, "Cost"),
            page.pairs(
              "Of the pre-training",
              Object.entries(COST)
                .filter(([key]) => key in found.cost)
                .map(([key, label]) => [label, page.number(found.cost[key])]),
            ),
          ]
        : []),
    );
    for (const key of keys) curve(curves, TITLES[key] || key, found[own("curves", key) ? "curves" : "monitor"].step, drawn[key]);
    if (!curves.children.length)
      curves.replaceWith(el("p", {}, found.provenance ? "It trained nothing." : "Its record is not among these."));
    if (!found.evaluations.length) {
      evaluations.append(el("p", {}, "None yet."));
      return;
    }
    const lines = found.evaluations.map((each) => ({ ...each, of: recipes[each.recipe] }));
    const scores = Object.keys(SCORES).filter((key) => lines.some((line) => key in line.scores));
    page.table(evaluations, {
      caption: "Evaluations of this backbone; a click on one shows it below",
      rows: lines,
      limit: 50,
      columns: [
        { label: "Task", value: (line) => `${line.of.task} on ${line.of.store}`, head: true },
        { label: "protocol", value: (line) => line.of.protocol },
        { label: "checkpoint", value: (line) => line.of.at, cell: (line) => share(line.of.at), number: true },
        { label: "labels", value: (line) => line.of.fraction, cell: (line) => share(line.of.fraction), number: true },
        { label: "seed", value: (line) => line.seed, number: true },
        {
          label: "score",
          value: (line) => line.scores.score,
          cell: (line) => within([line.scores.score, ...line.interval]),
          number: true,
        },
        ...scores.map((key) => ({
          label: SCORES[key],
          value: (line) => line.scores[key] ?? null,
          cell: (line) => fixed(line.scores[key]),
          number: true,
        })),
        { label: "evaluation", value: (line) => line.id, cell: (line) => el("a", { href: `#${id}/${line.id}` }, line.id) },
      ],
    });
    const chosen = lines.find((line) => line.id === evaluation) || lines[0];
    one(detail, chosen, found, id);
    if (chosen.id === evaluation) detail.querySelector("h2").scrollIntoView();
  };

  const one = (parent, line, found, id) => {
    const { of } = line;
    const labels = Object.keys(CLASSES).filter((key) => key in line.per_class);
    const name = `${of.task} on ${of.store}, ${of.protocol}, seed ${line.seed}`;
    parent.replaceChildren(
      el("h2", {}, name),
      el(
        "p",
        {},
        `${of.metric} ${within([line.scores.score, ...line.interval], 4)} on ${line.records} test records. Evaluation `,
        el("code", {}, line.id),
      ),
      page.command(`ecgssl evaluate ${id} ${of.options} --seed ${line.seed}`),
    );
    if (of.classes.length) {
      const classes = of.classes.map((each, i) => ({
        name: each,
        ...Object.fromEntries(labels.map((key) => [key, line.per_class[key][i]])),
      }));
      const order = [...classes].sort((x, y) => y.auroc - x.auroc);
      const shown = (each) => within([each.auroc, each.lower, each.upper]);
      const said = (each) => `${each.name}, ${fixed(each.auroc)}`;
      const bars = order.map((each) => (typeof each.lower === "number" ? [each.lower, each.upper] : null));
      page.chart(
        parent,
        "AUROC per class with interval",
        `Highest: ${said(order[0])}. Lowest: ${said(order.at(-1))}. The table below holds the numbers.`,
        (colours) => ({
          type: "bar",
          data: {
            labels: order.map((each) => each.name),
            datasets: [
              {
                type: "line",
                data: order.map((each) => each.auroc),
                showLine: false,
                pointRadius: 4,
                pointBackgroundColor: colours.accent,
                pointBorderColor: colours.accent,
              },
              { data: bars, barThickness: 3, backgroundColor: colours.accent },
            ],
          },
          options: {
            indexAxis: "y",
            scales: {
              y: { grid: { display: false }, ticks: { autoSkip: false, color: colours.ink } },
              x: { beginAtZero: false, ticks: { maxTicksLimit: 7 } },
            },
            plugins: {
              tooltip: {
                callbacks: {
                  label: (item) => shown(order[item.dataIndex]),
                },
              },
            },
          },
        }),
        `${3 + 1.35 * order.length}rem`,
      );
      const table = el("div");
      parent.append(table);
      page.table(table, {
        caption: `Per class: ${name}`,
        rows: classes,
        columns: [
          { label: "Class", value: (each) => each.name, head: true },
          ...labels.map((key) => ({
            label: CLASSES[key],
            value: (each) => each[key],
            number: true,
            cell: (each) => (key === "positives" ? String(each[key]) : fixed(each[key])),
          })),
        ],
      });
    }
    parent.append(
      el(
        "details",
        {},
        el("summary", {}, "Configuration and provenance of this evaluation"),
        page.pairs("Configuration", of.config),
        page.pairs("Provenance", found.provenances[line.provenance]),
      ),
    );
  };

  const route = () => {
    const named = /^#([0-9a-f]{12})(?:\/([0-9a-f]{12}))?$/.exec(location.hash);
    if (named) run(named[1], named[2]);
    else if (location.hash !== "#main") list();
  };
  addEventListener("hashchange", route);
  route();
})();
