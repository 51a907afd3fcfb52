"use strict";
// All pre-trainings, or the one that the address names after its #, with its evaluations.

(() => {
  const { el, fixed, share, within } = page;
  const { rows } = page.data.board;
  const recipes = page.data.recipes;
  const box = document.getElementById("run");
  const CURVES = {
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

  const drawList = () => {
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
        { label: "data", value: (line) => line.row.mix, className: "wrap data" },
      ],
    });
  };

  /** A chart of one quantity against the step, with its numbers below. */
  const drawCurve = (parent, title, steps, values) => {
    const points = steps.map((step, i) => ({ x: step, y: values[i] })).filter((point) => typeof point.y === "number");
    if (!points.length) return;
    const [start, end] = [points[0], points.at(-1)].map((point) => `${page.number(point.y)} at step ${point.x}`);
    const radius = points.length === 1 ? 4 : points.length < 30 ? 2 : 0;
    const line = { data: points, borderWidth: 1.5, pointRadius: radius, pointHitRadius: 8 };
    const figure = page.chart(parent, title, `From ${start} to ${end}.`, (colours) => ({
      type: "line",
      data: { datasets: [{ ...line, borderColor: colours.accent, backgroundColor: colours.accent }] },
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
    const pairs = points.map((point) => [String(point.x), page.number(point.y)]);
    numbers.addEventListener("toggle", () => {
      if (numbers.children.length === 1) numbers.append(page.pairs(`step and ${title}`, pairs));
    });
    figure.append(numbers);
  };

  /** The charts of a run; a sentence where it has none. */
  const drawCurves = (parent, run) => {
    const parts = [run.curves || {}, run.monitor || {}];
    const keys = [...new Set([CURVES, ...parts].flatMap(Object.keys))].filter((key) => key !== "step");
    for (const key of keys) {
      const part = parts.find((each) => key in each);
      if (part) drawCurve(parent, CURVES[key] || key, part.step, part[key]);
    }
    if (!parent.children.length)
      parent.replaceWith(el("p", {}, run.provenance ? "It trained nothing." : "Its own result is not among these results."));
  };

  const drawMissing = (id) =>
    box.replaceChildren(
      el("h1", {}, "Runs"),
      el("p", {}, `There is no run ${id} among these results. `, el("a", { href: "#" }, "All runs")),
    );

  const costOf = (run) => {
    const pairs = Object.entries(COST)
      .filter(([key]) => key in (run.cost || {}))
      .map(([key, label]) => [label, page.number(run.cost[key])]);
    return pairs.length ? [el("h2", {}, "Cost"), page.pairs("Of the pre-training", pairs)] : [];
  };

  const drawRun = async (id, evaluation) => {
    let run;
    try {
      run = await page.load(`runs/${id}`);
    } catch {
      drawMissing(id);
      return;
    }
    page.clearCharts();
    const title = `${run.label}, seed ${run.seed}`;
    document.title = `${title} | ecgssl`;
    const curves = el("div", { class: "curves" });
    const evaluations = el("div");
    const details = el("div");
    box.replaceChildren(
      el("p", { class: "quiet" }, el("a", { href: "#" }, "All runs")),
      el("h1", {}, title),
      el("p", { class: "quiet" }, "Pre-training ", el("code", {}, id)),
      el("h2", {}, "Run it again"),
      page.command(run.command),
      el("h2", {}, "Curves"),
      curves,
      el("h2", {}, "Evaluations"),
      evaluations,
      details,
      el("h2", {}, "Configuration"),
      page.pairs("Of the pre-training", run.config),
      el("h2", {}, "Provenance"),
      run.provenance
        ? page.pairs("What it ran on", run.provenance)
        : el("p", {}, "The result of the pre-training itself is not among these results."),
      ...costOf(run),
    );
    drawCurves(curves, run);
    drawEvaluations(evaluations, details, run, id, evaluation);
  };

  /** The table of a run's evaluations, and the chosen one, or the first, in detail. */
  const drawEvaluations = (parent, details, run, id, evaluation) => {
    if (!run.evaluations.length) {
      parent.append(el("p", {}, "None yet."));
      return;
    }
    const lines = run.evaluations.map((each) => ({ ...each, of: recipes[each.recipe] }));
    const scores = Object.keys(SCORES).filter((key) => lines.some((line) => key in line.scores));
    const interval = (line) => within([line.scores.score, ...line.interval]);
    page.table(parent, {
      caption: "Evaluations of this backbone; a click on one shows it below",
      rows: lines,
      limit: 50,
      columns: [
        { label: "Task", value: (line) => page.taskOf(line.of), head: true },
        { label: "protocol", value: (line) => line.of.protocol },
        { label: "checkpoint", value: (line) => line.of.at, cell: (line) => share(line.of.at), number: true },
        { label: "labels", value: (line) => line.of.fraction, cell: (line) => share(line.of.fraction), number: true },
        { label: "seed", value: (line) => line.seed, number: true },
        { label: "score", value: (line) => line.scores.score, cell: interval, number: true },
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
    drawEvaluation(details, chosen, run, id);
    if (chosen.id === evaluation) details.querySelector("h2").scrollIntoView();
  };

  const drawEvaluation = (parent, line, run, id) => {
    const recipe = line.of;
    const name = `${page.taskOf(recipe)}, ${recipe.protocol}, seed ${line.seed}`;
    const score = `${recipe.metric} ${within([line.scores.score, ...line.interval], 4)} on ${line.records} test records.`;
    parent.replaceChildren(
      el("h2", {}, name),
      el("p", {}, `${score} Evaluation `, el("code", {}, line.id)),
      page.command(`ecgssl evaluate ${id} ${recipe.options} --seed ${line.seed}`),
    );
    if (recipe.classes.length) drawClasses(parent, line, name);
    parent.append(
      el(
        "details",
        {},
        el("summary", {}, "Configuration and provenance of this evaluation"),
        page.pairs("Configuration", recipe.config),
        page.pairs("Provenance", run.provenances[line.provenance]),
      ),
    );
  };

  const drawClasses = (parent, line, name) => {
    const keys = Object.keys(CLASSES).filter((key) => key in line.per_class);
    const classes = line.of.classes.map((each, i) => ({
      name: each,
      ...Object.fromEntries(keys.map((key) => [key, line.per_class[key][i]])),
    }));
    drawIntervals(parent, classes);
    const table = el("div");
    parent.append(table);
    page.table(table, {
      caption: `Per class: ${name}`,
      rows: classes,
      columns: [
        { label: "Class", value: (each) => each.name, head: true },
        ...keys.map((key) => ({
          label: CLASSES[key],
          value: (each) => each[key],
          number: true,
          cell: (each) => (key === "positives" ? String(each[key]) : fixed(each[key])),
        })),
      ],
    });
  };

  /** A chart of AUROC per class, the highest first, with intervals. */
  const drawIntervals = (parent, classes) => {
    const order = [...classes].sort((x, y) => y.auroc - x.auroc);
    const words = (each) => `${each.name}, ${fixed(each.auroc)}`;
    const intervals = order.map((each) => (typeof each.lower === "number" ? [each.lower, each.upper] : null));
    const label = (item) => within([order[item.dataIndex].auroc, order[item.dataIndex].lower, order[item.dataIndex].upper]);
    page.chart(
      parent,
      "AUROC per class with interval",
      `Highest: ${words(order[0])}. Lowest: ${words(order.at(-1))}. The table below holds the numbers.`,
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
            { data: intervals, barThickness: 3, backgroundColor: colours.accent },
          ],
        },
        options: {
          indexAxis: "y",
          scales: {
            y: { grid: { display: false }, ticks: { autoSkip: false, color: colours.ink } },
            x: { beginAtZero: false, ticks: { maxTicksLimit: 7 } },
          },
          plugins: { tooltip: { callbacks: { label } } },
        },
      }),
      `${3 + 1.35 * order.length}rem`,
    );
  };

  const route = () => {
    const match = /^#([0-9a-f]{12})(?:\/([0-9a-f]{12}))?$/.exec(location.hash);
    if (match) drawRun(match[1], match[2]);
    else if (location.hash !== "#main") drawList();
  };
  addEventListener("hashchange", route);
  route();
})();
