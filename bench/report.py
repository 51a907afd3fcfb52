"""Tables and figures as a function of records: means, intervals, differences to random, what is missing."""

import csv
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np

from bench import plot
from bench.config import Config, canonical
from bench.errors import UserError, unknown
from bench.evaluation.compare import Comparison, Ranking, compare, holm, ranking, runs_of
from bench.evaluation.metrics import RULES, interval
from bench.evaluation.run import defaults
from bench.files import write_text

Record = dict[str, Any]

MISSING = "--"
RANDOM = "random"
RANDOM_ROW = "random / from scratch"
SCRATCH, FINETUNE, AFTER_LINEAR = "scratch", "finetune", "finetune-after-linear"
FIRST = ("linear", "superdiagnostic")  # ours: what a folder without any evaluation is asked for
SCORES = {"macro_auroc": ("macro_average_precision", "macro_f1", "f_max", "macro_brier", "macro_ece"),
          "r2": ("mae", "rmse", "pearson_r")}  # beside a table's metric
METRICS = {"macro_auroc": "macro AUROC", "r2": "R2"}  # of a record's result.metric; a table holds one of them
NOTE = f"""\
Macro AUROC, or what a table's heading names, on the test records: mean over runs (sd over runs), n runs,
[{{}}, {{}}] percentiles of the runs' mean over {{}} bootstrap resamples of those records. A run is a pre-training, the
mean of its evaluations; where there is one backbone alone, a run is an evaluation of it: frozen heads on it differ in
their initial weights, not in the crops that they see. "vs random": difference to the row `{RANDOM_ROW}`; where both have
two or more runs, its 95 % interval counts the variance over test records and over runs, and p is corrected for all
differences of its table (Holm); otherwise the interval is that of the runs at hand, over the same resamples, without p.
`pairs.csv` compares all rows.
The random row's backbone learned nothing: frozen protocols evaluate its random weights; beside `finetune` stands
training from scratch, weights drawn anew from the evaluation's seed. `{MISSING}`: no value yet.
"""

# What the tables read of a record, by kind; anything else in it may change freely.
CONFIG = ["protocol", "seed", "method.name", "data.mix", "data.rate_hz", "encoder"]
EVALUATION = ["protocol", "seed", "pretrain", "data.store", "data.fingerprint", "task", "evaluation.name", "folds.test"]
NEEDS = {
    "pretrain": ["result.curves", "result.monitor", *(f"config.{k}" for k in CONFIG)],
    "evaluate": ["result.records.test", "result.bootstrap",
                 *(f"config.{k}" for k in EVALUATION), *(f"pretrain_config.{k}" for k in CONFIG)],
}


@dataclass(frozen=True)
class Row:
    """One recipe of pre-training, all seeds; `pretrained` holds (seed, run_id), nothing if none ran."""

    method: str
    label: str
    config: Config
    pretrained: tuple[tuple[int, str], ...]


@dataclass
class Cell:
    """One row under one evaluation recipe: evaluation records, or the commands that make them."""

    store: str
    task: str
    row: Row
    protocol: str
    runs: list[Record]
    commands: list[str]
    random: "Cell | None" = None  # the cell of the untrained backbone in the same column
    rule: str = "ours"  # of intervals: bench.evaluation.metrics.RULES
    p_holm: float | None = None  # that it equals random, corrected for the cells of its table
    metric: str = "macro_auroc"  # one of METRICS

    @cached_property
    def values(self) -> list[float]:
        """The score of each run: of a pre-training, the mean of its evaluations."""
        return runs_of(self.runs)[0].tolist() if self.runs else []

    @cached_property
    def replicates(self) -> np.ndarray:
        """(R,) mean of the runs, per resample."""
        return runs_of(self.runs)[1].mean(0)

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.replicates, self.rule) if self.runs else None

    @cached_property
    def comparison(self) -> Comparison | None:
        """With random; None where either has fewer than two runs."""
        return compare(self.runs, self.random.runs) if self.random and min(len(self.runs), len(self.random.runs)) > 1 else None

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """(difference to random, lower, upper), over runs, too, where there are enough."""
        if self.comparison:
            return self.comparison.difference, self.comparison.lower, self.comparison.upper
        if self.random is None or not (self.runs and self.random.runs):
            return None
        return (float(np.mean(self.values) - np.mean(self.random.values)),
                *interval(self.replicates - self.random.replicates, self.rule))

    def per_class(self) -> Iterator[tuple[str, int, list[float]]]:
        """(class, positives in the test fold, AUROC of each run), ..."""
        for name, first in sorted(self.runs[0]["result"].get("per_class", {}).items()) if self.runs else ():
            yield name, first["positives"], [run["result"]["per_class"][name]["auroc"] for run in self.runs]


def write(results: Path, out: Path, rule: str = "ours") -> list[Path]:
    """The files written: table.md, table.csv, pairs.csv, per_class.csv, scores.csv, figures/; same records, same bytes."""
    if rule not in RULES:
        raise unknown("rule of intervals", rule, RULES)
    records = read(results)
    rows = rows_of(records)
    cells = cells_of(records, rows)
    for cell in cells:
        cell.rule = rule
    ranks = rankings(cells)
    curves = [(row.label, row.method, r["result"]) for row in rows for r in pretrainings(row, records)]
    texts = {"table.md": markdown(cells, rows, records), "table.csv": table(cells), "pairs.csv": pairs(cells),
             "per_class.csv": classes(cells), "scores.csv": scores(cells)}
    for name, text in texts.items():
        write_text(out / name, text)
    aurocs = [c for c in cells if c.metric == "macro_auroc"]
    figures = plot.save(plot.auroc(aurocs), out / "figures" / "auroc") if aurocs else []
    for i, each in enumerate(ranks.values(), 1):
        figures += plot.save(plot.critical_difference(each), out / "figures" / f"ranks-{i}")
    figures += plot.save(plot.pretraining(curves), out / "figures" / "pretraining")
    return [*(out / name for name in texts), *figures]


def rankings(cells: Sequence[Cell]) -> dict[str, Ranking]:
    """{"protocol on store": ranking of the rows that have runs in all its tasks}, where 3 or more rows and 2 tasks are."""
    found = {}
    for store, protocol in dict.fromkeys((c.store, c.protocol) for c in cells):
        here = [c for c in cells if (c.store, c.protocol) == (store, protocol)]
        tasks = len({c.task for c in here})
        means = {row: [float(np.mean(c.values)) for c in here if c.row.label == row and c.runs]
                 for row in dict.fromkeys(c.row.label for c in here)}
        complete = {row: values for row, values in means.items() if len(values) == tasks}
        if len(complete) > 2 and tasks > 1:
            found[f"{protocol} on {store}"] = ranking(complete)
    return found


def read(results: Path) -> list[Record]:
    """The folder's records, sorted by run_id. UserError where one is broken or two do not compare."""
    paths = sorted(p for p in results.glob("*.json") if re.fullmatch(r"[0-9a-f]{12}\.json", p.name))
    if not paths:
        raise UserError(
            f"{results} holds no record (<run_id>.json); `ecgbench pretrain {RANDOM} --store STORE` makes one"
        )
    records = [read_record(path) for path in paths]
    configs = [(r["run_id"], r[key]) for r in records for key in ("config", "pretrain_config") if key in r]
    refuse_mixture("protocol", [(config["protocol"], run) for run, config in configs])
    prints: dict[str, list[tuple[str, str]]] = {}
    for run, config in configs:
        data, other = config["data"], external(config)
        stores = {data["store"]: data["fingerprint"]} if "store" in data else data.get("fingerprints", {})
        for store, fingerprint in stores.items():
            prints.setdefault(store, []).append((fingerprint, run))
        if other:
            prints.setdefault(other, []).append((config["external"]["fingerprint"], run))
    for store in sorted(prints):
        refuse_mixture(f"the fingerprint of {store}", prints[store])
    return records


def read_record(path: Path) -> Record:
    """The record; UserError that names the file where it is no JSON, lacks a key or holds NaN."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != 1 or record["kind"] not in NEEDS or record["run_id"] != path.stem:
            raise ValueError("schema must be 1, kind pretrain or evaluate, and run_id the file's name")
        for key in ["provenance", *NEEDS[record["kind"]]]:
            reduce(getitem, key.split("."), record)
        if record["kind"] == "evaluate":
            result = record["result"]
            metric = metric_of(record)
            if metric not in METRICS:
                raise ValueError(f"its metric {metric!r} is not {' or '.join(METRICS)}")
            classes = result["per_class"] if metric == "macro_auroc" else {}
            aurocs = [(each["positives"], each["auroc"]) for each in classes.values()]
            numbers = [result[metric], *np.ravel(aurocs), *result["replicates"]]
            if not result["replicates"] or not np.isfinite(numbers).all():
                raise ValueError("a number is not finite or there are no replicates")
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is no record ({error})"
        raise UserError(f"{path} {what}; remove it and run that run again") from None
    return record


def metric_of(record: Record) -> str:
    return record["result"].get("metric", "macro_auroc")


def external(config: Config) -> str:
    """The store that was tested on instead of the test folds, or ""."""
    return config.get("external", {}).get("store", "")


def refuse_mixture(what: str, pairs: Iterable[tuple[Any, str]]) -> None:
    """UserError unless the (value, run_id) pairs have one value."""
    runs: dict[str, set[str]] = {}
    for value, run in pairs:
        runs.setdefault(str(value), set()).add(run)
    if len(runs) > 1:
        sets = "; ".join(f"{value}: {' '.join(sorted(ids))}" for value, ids in sorted(runs.items()))
        raise UserError(f"records differ in {what} ({sets}); move one set to another results folder")


def recipe(config: Config) -> str:
    """A recipe's identity: the config without its seed and, of an evaluation, without what it evaluates.

    From scratch is fine-tuning of what has learned nothing: one recipe, one column.
    """
    if protocol_of(config) == SCRATCH:
        config = config | {"evaluation": config["evaluation"] | {"name": FINETUNE}}
    return canonical({key: value for key, value in config.items() if key not in ("seed", "pretrain")})


def protocol_of(config: Config) -> str | None:
    return config.get("evaluation", {}).get("name")


def leaves(config: Config | list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("optim.steps", 1000), ... of a recipe; the corpora are one value, fingerprints are left out."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        name = f"{prefix}{key}"
        if name == "views" or (isinstance(value, dict) and name != "data.mix"):
            yield from leaves(value, f"{name}.")
        elif name not in ("seed", "pretrain") and not name.startswith(("data.fingerprint", "external.")):
            yield name, value


def text_of(value: Any) -> str:
    """A config's value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def labelled(recipes: dict[str, tuple[str, Config]]) -> dict[str, str]:
    """{recipe: (name, config)} -> {recipe: name, and in brackets what tells it from its namesakes}, sorted."""
    flat = {key: dict(leaves(config)) for key, (_, config) in recipes.items()}
    found = []
    for key, (name, _) in recipes.items():
        peers = [flat[k] for k in recipes if recipes[k][0] == name]
        names = sorted({leaf for peer in peers for leaf in peer})
        own = {leaf: flat[key].get(leaf, MISSING) for leaf in names
               if len({text_of(peer.get(leaf, MISSING)) for peer in peers}) > 1}  # fmt: skip
        label = f"{name} ({', '.join(f'{k}={text_of(v)}' for k, v in own.items())})" if own else name
        order = [(0, v, "") if isinstance(v, int | float) else (1, 0, text_of(v)) for v in own.values()]
        found.append((name, order, key, label))
    return {key: label for _, _, key, label in sorted(found)}


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row per recipe of pre-training; random ones come first, and every backbone has one, run or not."""
    configs: dict[str, Config] = {}
    pretrained: dict[str, set[tuple[int, str]]] = {}
    for record in records:
        config, run = record["config"], record["run_id"]
        if record["kind"] == "evaluate":
            config, run = record["pretrain_config"], config["pretrain"]
        configs.setdefault(recipe(config), config)
        pretrained.setdefault(recipe(config), set()).add((config["seed"], run))
    randoms = [configs[key] for key in sorted(configs) if configs[key]["method"]["name"] == RANDOM]
    for _, config in sorted(configs.items()):
        if backbone(config) not in map(backbone, randoms):
            like = (randoms or [config])[0]  # so that its label differs from theirs in the backbone alone
            data = like["data"] | {key: config["data"][key] for key in ("mix", "rate_hz")}
            randoms.append(like | {"method": {"name": RANDOM}, "data": data, "encoder": config["encoder"]})
            configs[recipe(randoms[-1])] = randoms[-1]
    names = {key: config["method"]["name"] for key, config in configs.items()}
    shown = {key: (RANDOM_ROW if names[key] == RANDOM else names[key], configs[key]) for key in configs}
    rows = []
    for key, label in labelled(shown).items():
        rows.append(Row(names[key], label, configs[key], tuple(sorted(pretrained.get(key, ())))))
    return sorted(rows, key=lambda row: row.method != RANDOM)


def backbone(config: Config) -> str:
    """What a random backbone has to share with a trained one to be its baseline: the encoder and the rate."""
    return canonical({"encoder": config["encoder"], "rate_hz": config["data"]["rate_hz"]})


def pretrainings(row: Row, records: Sequence[Record]) -> list[Record]:
    """The row's pre-training records, by seed."""
    return [r for _, run in row.pretrained for r in records if r["run_id"] == run and r["kind"] == "pretrain"]


def cells_of(records: Sequence[Record], rows: Sequence[Row]) -> list[Cell]:
    """A cell for every table (store, task), column (evaluation recipe) and row, in the order of printing."""
    cells: list[Cell] = []
    tables: dict[tuple[str, str], list[Record]] = {}
    for record in (r for r in records if r["kind"] == "evaluate"):
        store, other = record["config"]["data"]["store"], external(record["config"])
        name = f"{other} (trained on {store})" if other else store
        tables.setdefault((name, record["config"]["task"]), []).append(record)
    for (store, task), here in sorted(tables.items()):
        for part in ("replicates", "per_class"):
            sizes = [(len(r["result"].get(part, {})), r["run_id"]) for r in here]
            refuse_mixture(f"the number of {part} of {task} on {store}", sizes)
        learned = [r for r in here if r["pretrain_config"]["method"]["name"] != RANDOM]
        keys = [recipe(r["config"]) for r in learned]
        configs = {key: json.loads(key) for key in keys}
        for record in here:  # what learned nothing is the same at every checkpoint
            if not any(fills(record, key, config) for key, config in configs.items()):
                configs[recipe(record["config"])] = json.loads(recipe(record["config"]))
        columns = {key: (config["evaluation"]["name"], config) for key, config in configs.items()}
        for key, label in sorted(labelled(columns).items(), key=lambda each: each[1].startswith("finetune")):
            runs = [r for r in here if fills(r, key, configs[key])]
            cells += column(store, task, label, evaluation_options(columns[key][1]), runs, rows)
        compared = [c for c in cells if (c.store, c.task) == (store, task) and c.comparison]
        for cell, p in zip(compared, holm([c.comparison.p for c in compared if c.comparison]), strict=True):
            cell.p_holm = p
    if cells:
        return cells
    mix = rows[-1].config["data"]["mix"]
    store = max(sorted(mix), key=lambda name: mix[name], default="ptb-xl")
    return column(store, FIRST[1], FIRST[0], f"--protocol {FIRST[0]} --task {FIRST[1]} --store {store}", [], rows)


def fills(record: Record, key: str, config: Config) -> bool:
    """Whether the evaluation belongs into the column of this recipe; one of a random backbone whatever its checkpoint."""
    random = record["pretrain_config"]["method"]["name"] == RANDOM
    return recipe(record["config"] | ({"at": config.get("at", 1.0)} if random and "at" in config else {})) == key


def column(store: str, task: str, label: str, options: str, runs: list[Record], rows: Sequence[Row]) -> list[Cell]:
    """The cells of one evaluation recipe, one per row; `runs` are all its records."""
    cells = []
    seeds = sorted({r["config"]["seed"] for r in runs}) or [0]
    for row in rows:
        filled = [r for r in runs if recipe(r["pretrain_config"]) == recipe(row.config)]
        own = options
        if row.method == RANDOM:
            own = re.sub(r" --at \S+", "", options.replace(f"--protocol {FINETUNE} ", f"--protocol {SCRATCH} "))
        commands = [f"ecgbench evaluate {run} {own} --seed {n}" for _, run in row.pretrained for n in seeds]
        if row.method == RANDOM and f"--protocol {AFTER_LINEAR} " in options:  # there is nothing to start from
            commands = []
        elif not row.pretrained:
            commands = [f"ecgbench pretrain {row.method} {pretraining_options(row.config)}"]
        metric = metric_of(runs[0]) if runs else "macro_auroc"
        cells.append(Cell(store, task, row, label, filled, [] if filled else commands, metric=metric))
    for cell in cells:
        if cell.row.method != RANDOM:
            wanted = backbone(cell.row.config)
            same = [c for c in cells if c.row.method == RANDOM and backbone(c.row.config) == wanted]
            cell.random = next((c for c in same if c.runs), same[0])
    return cells


def evaluation_options(config: Config) -> str:
    """What makes `ecgbench evaluate` run this recipe: names, and --set for what is not its protocol's default."""
    name, task, store = config["evaluation"]["name"], config["task"], config["data"]["store"]
    default = dict(leaves(defaults(name))) | {"task": task, "data.store": store}
    settings = [(key, value) for key, value in sorted(leaves(config)) if default.get(key) != value]
    other = [f"--external {external(config)}"] if external(config) else []
    other += [f"--at {value:g}" for key, value in settings if key == "at"]
    settings = [(key, value) for key, value in settings if key != "at"]
    return " ".join([f"--protocol {name} --task {task} --store {store}", *other, *map(as_set, settings)])


def pretraining_options(config: Config) -> str:
    """What makes `ecgbench pretrain` build this backbone on these corpora; nothing of how it is trained."""
    settings = [(k, v) for k, v in sorted(leaves(config)) if k == "data.rate_hz" or k.startswith("encoder.")]
    stores = [f"--store {shlex.quote(f'{k}={v}')}" for k, v in sorted(config["data"]["mix"].items())]
    return " ".join([*stores, *map(as_set, settings)])


def as_set(setting: tuple[str, Any]) -> str:
    return f"--set {shlex.quote(f'{setting[0]}={text_of(setting[1])}')}"


def spread(values: Sequence[float]) -> tuple[float | None, float | None, int]:
    """(mean, sd with ddof 1, n); None where there are too few values for it."""
    n = len(values)
    return float(np.mean(values)) if n else None, float(np.std(values, ddof=1)) if n > 1 else None, n


def table(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell, floats in full."""
    head = ["store", "task", "metric", "method", "row", "protocol", "mean", "sd", "n", "lower", "upper"]
    lines = [[*head, "vs_random", "vs_random_lower", "vs_random_upper", "p", "p_holm", "run_ids", "command"]]
    for c in cells:
        bounds, difference = c.interval or (None,) * 2, c.difference or (None,) * 3
        p = (c.comparison.p if c.comparison else None, c.p_holm)
        numbers = [MISSING if x is None else x for x in (*spread(c.values), *bounds, *difference, *p)]
        names = [c.store, c.task, c.metric, c.row.method, c.row.label, c.protocol]
        lines.append([*names, *numbers, " ".join(r["run_id"] for r in c.runs), "; ".join(c.commands)])
    return as_csv(lines)


def pairs(cells: Sequence[Cell]) -> str:
    """CSV, a line per two rows of a column with two or more runs each; p_holm is corrected for all pairs of a table."""
    lines = [["store", "task", "protocol", "row", "other", "difference", "lower", "upper", "p", "p_holm", "sd_records", "sd_runs",
              "runs", "other_runs"]]
    for store, task in dict.fromkeys((c.store, c.task) for c in cells):
        here = [c for c in cells if (c.store, c.task) == (store, task) and len(c.runs) > 1]
        found = [(a, b, compare(a.runs, b.runs)) for a, b in itertools.combinations(here, 2) if a.protocol == b.protocol]
        for (a, b, each), p_holm in zip(found, holm([each.p for *_, each in found]), strict=True):
            numbers = (each.difference, each.lower, each.upper, each.p, p_holm, each.sd_records, each.sd_runs, *each.runs)
            lines.append([store, task, a.protocol, a.row.label, b.row.label, *map(str, numbers)])
    return as_csv(lines)


def classes(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and class, floats in full."""
    head = ["store", "task", "method", "row", "protocol", "class", "positives", "mean", "sd", "n"]
    lines: list[list[Any]] = [head]
    for c in cells:
        for name, positives, values in c.per_class():
            numbers = [MISSING if x is None else x for x in spread(values)]
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, positives, *numbers])
    return as_csv(lines)


def scores(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and score beside its metric, floats in full; over the runs that have it."""
    lines: list[list[Any]] = [["store", "task", "method", "row", "protocol", "score", "mean", "sd", "n"]]
    for c in cells:
        for name in SCORES[c.metric]:
            found = [r["result"][name] for r in c.runs if name in r["result"]]
            found = [each["value"] if isinstance(each, dict) else each for each in found]
            numbers = [MISSING if x is None else x for x in spread(found)]
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, *numbers])
    return as_csv(lines)


def as_csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def markdown(cells: Sequence[Cell], rows: Sequence[Row], records: Sequence[Record]) -> str:
    """The report for reading, three decimals."""
    count, (low, high) = RULES[cells[0].rule]
    drawn = ["![AUROC](figures/auroc.png)"] if any(c.metric == "macro_auroc" for c in cells) else []
    parts = ["# ecgbench report", NOTE.format(low, high, f"{count:,}"), *drawn]
    for store, task in dict.fromkeys((c.store, c.task) for c in cells):
        here = [c for c in cells if (c.store, c.task) == (store, task)]
        protocols = list(dict.fromkeys(c.protocol for c in here))
        lines = [["pre-training", *(head for name in protocols for head in (name, "vs random"))]]
        for row in rows:
            lines.append([row.label, *(text for c in here if c.row is row for text in cell_texts(c))])
        title = f"## {task} on {store}" + ("" if here[0].metric == "macro_auroc" else f": {METRICS[here[0].metric]}")
        parts += [title, as_markdown(lines)]
        commands = list(dict.fromkeys(f"- `{command}`" for c in here for command in c.commands))
        if commands:
            parts += ["To fill:", "\n".join(commands)]
        for name in protocols:
            done = [c for c in here if c.protocol == name and c.runs]
            if done and here[0].metric == "macro_auroc":
                found = [list(c.per_class()) for c in done]
                body = [[each[0][0], str(each[0][1]), *(f"{np.mean(values):.3f}" for _, _, values in each)]
                        for each in zip(*found, strict=True)]  # fmt: skip
                head = ["class", "positives", *(c.row.label for c in done)]
                parts += [f"### AUROC per class: {name}", as_markdown([head, *body])]
    for i, name in enumerate(rankings(cells), 1):
        parts += [f"## Mean ranks over tasks: {name}", f"![ranks](figures/ranks-{i}.png)",
                  "Both tests take the tasks for independent; tasks on the same records are not."]
    parts += ["## Pre-training", "![pre-training](figures/pretraining.png)"]
    parts.append(as_markdown(settings(rows, records)))
    dirty = [f"`{r['run_id']}`" for r in records if r["provenance"].get("dirty")]
    if dirty:
        parts.append(f"Made by code with uncommitted changes: {', '.join(dirty)}.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def cell_texts(c: Cell) -> tuple[str, str]:
    """("0.870 (0.010), n=3 [0.850, 0.890]", "+0.050 [+0.030, +0.070]")"""
    value = MISSING
    if c.interval:
        mean, sd, n = spread(c.values)
        brackets = "[{:.3f}, {:.3f}]".format(*c.interval)
        value = f"{mean:.3f} ({MISSING if sd is None else f'{sd:.3f}'}), n={n} {brackets}"
    if c.row.method == RANDOM and c.runs:
        return value, "reference"
    p = "" if c.p_holm is None else f", p={c.p_holm:.2g}"
    return value, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*c.difference) + p if c.difference else MISSING


def settings(rows: Sequence[Row], records: Sequence[Record]) -> list[list[str]]:
    """Each row's budget; records/s and seconds are means over its pre-trainings."""
    keys = ("encoder.size", "data.rate_hz", "encoder.patch", "optim.steps", "optim.batch", "data.mix")
    heads = ["pre-training", "size", "rate (Hz)", "patch", "steps", "batch", "data"]
    lines = [[*heads, "runs", "records/s", "seconds", "device"]]
    for row in rows:
        config = dict(leaves(row.config)) if row.pretrained else {}
        runs = pretrainings(row, records)
        line = [row.label, *(text_of(config.get(key, MISSING)) for key in keys), str(len(row.pretrained))]
        for key in ("records_per_second", "seconds"):
            mean = spread([r["result"][key] for r in runs if key in r["result"]])[0]
            line.append(MISSING if mean is None else f"{mean:.1f}")
        devices = sorted({str(r["provenance"].get("device", MISSING)) for r in runs})
        lines.append([*line, ", ".join(devices) or MISSING])
    return lines


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
