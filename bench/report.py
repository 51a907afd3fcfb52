"""Records -> rows, cells, means, intervals, differences to random, what is missing; paper/ prints and draws them."""

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

from bench.config import Config, canonical
from bench.errors import UserError, unknown
from bench.evaluation.compare import Comparison, Ranking, compare, holm, ranking, runs_of
from bench.evaluation.metrics import RULES, interval
from bench.evaluation.run import defaults

Record = dict[str, Any]

MISSING = "--"
RANDOM = "random"
RANDOM_ROW = "random / from scratch"
SCRATCH, FINETUNE, AFTER_LINEAR = "scratch", "finetune", "finetune-after-linear"
FIRST = ("linear", "superdiagnostic")  # ours: what a folder without any evaluation is asked for
OTHERS = ("README.md", ".gitignore")  # what may lie beside records
LISTED = 20  # run_ids in a message; ours
METRICS = {"macro_auroc": "macro AUROC", "r2": "R2"}  # of a record's result.metric; a table holds one of them

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


def read(results: Path) -> tuple[list[Record], list[str]]:
    """(the folder's records, sorted by run_id; what else lies there, a line per file and why it was skipped).

    UserError where there is no record. Folders in it are not looked into.
    """
    records, skipped = [], []
    for path in sorted(results.glob("*")):
        if path.is_dir() or path.name in OTHERS:
            continue
        try:
            records.append(read_record(path))
        except UserError as error:
            skipped.append(str(error))
    if not records:
        raise UserError("; ".join([
            f"{results} holds no record (<run_id>.json); `ecgbench pretrain {RANDOM} --store STORE` makes one", *skipped]))
    return records, skipped


def footnotes(records: Sequence[Record]) -> list[str]:
    """Why records should not meet in one report, a sentence each: other rules, other data of one name, uncommitted code."""
    configs = [(r["run_id"], r[key]) for r in records for key in ("config", "pretrain_config") if key in r]
    found = {"protocol": [(config["protocol"], run) for run, config in configs]}
    for run, config in configs:
        data, other = config["data"], external(config)
        stores = {data["store"]: data["fingerprint"]} if "store" in data else dict(data.get("fingerprints", {}))
        for store, fingerprint in [*stores.items(), *([(other, config["external"]["fingerprint"])] if other else [])]:
            found.setdefault(f"the fingerprint of {store}", []).append((fingerprint, run))
    notes = [f"Records differ in {what}: {sets}." for what, pairs in sorted(found.items()) if (sets := mixture(pairs))]
    dirty = [r["run_id"] for r in records if r["provenance"].get("dirty")]
    return notes + ([f"Made by code with uncommitted changes: {listed(dirty)}."] if dirty else [])


def refuse(notes: Sequence[str]) -> None:
    """UserError where there are footnotes."""
    if notes:
        raise UserError(f"{' '.join(notes)} Move one set to another results folder, or write --allow for a footnote")


def read_record(path: Path) -> Record:
    """The record; UserError that names the file where it is no JSON, lacks a key or holds NaN."""
    if not re.fullmatch(r"[0-9a-f]{12}\.json", path.name):
        kind = "is half of a file that was being written" if path.suffix == ".tmp" else "has not the name of a record"
        raise UserError(f"{path} {kind} (<run_id>.json); remove it")
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


def mixture(pairs: Iterable[tuple[Any, str]]) -> str:
    """"1: run run; 2: run" of (value, run_id) pairs; "" where they have one value."""
    runs: dict[str, set[str]] = {}
    for value, run in pairs:
        runs.setdefault(str(value), set()).add(run)
    return "; ".join(f"{value}: {listed(sorted(ids))}" for value, ids in sorted(runs.items())) if len(runs) > 1 else ""


def listed(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - LISTED:,} more" if len(runs) > LISTED else ""
    return ", ".join(f"`{run}`" for run in runs[:LISTED]) + more


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


def cells_of(records: Sequence[Record], rows: Sequence[Row], rule: str = "ours") -> list[Cell]:
    """A cell for every table (store, task), column (evaluation recipe) and row, in the order of printing.

    rule: of intervals, one of bench.evaluation.metrics.RULES.
    """
    if rule not in RULES:
        raise unknown("rule of intervals", rule, RULES)
    cells: list[Cell] = []
    tables: dict[tuple[str, str], list[Record]] = {}
    for record in (r for r in records if r["kind"] == "evaluate"):
        store, other = record["config"]["data"]["store"], external(record["config"])
        name = f"{other} (trained on {store})" if other else store
        tables.setdefault((name, record["config"]["task"]), []).append(record)
    for (store, task), here in sorted(tables.items()):
        by_recipe: dict[str, list[Record]] = {}
        for record in here:
            if record["pretrain_config"]["method"]["name"] != RANDOM:
                by_recipe.setdefault(recipe(record["config"]), []).append(record)
        columns = {key: json.loads(key) for key in by_recipe}
        points = {config["at"] for config in columns.values() if "at" in config}
        for record in here:  # what learned nothing is the same at every checkpoint
            if record["pretrain_config"]["method"]["name"] == RANDOM:
                own, *same = (recipe(record["config"] | at) for at in ({}, *({"at": at} for at in points)))
                for key in {*same, own} & columns.keys() or {own}:
                    by_recipe.setdefault(key, []).append(record)
        columns = {key: json.loads(key) for key in by_recipe}
        labels = labelled({key: (config["evaluation"]["name"], config) for key, config in columns.items()})
        for key, label in sorted(labels.items(), key=lambda each: each[1].startswith("finetune")):
            for part in ("replicates", "per_class"):
                sizes = mixture((len(r["result"].get(part, {})), r["run_id"]) for r in by_recipe[key])
                if sizes:
                    raise UserError(f"records differ in the number of {part} of {task} on {store} ({sizes}); remove one set")
            cells += column(store, task, label, evaluation_options(columns[key]), by_recipe[key], rows)
        compared = [c for c in cells if (c.store, c.task) == (store, task) and c.comparison]
        for cell, p in zip(compared, holm([c.comparison.p for c in compared if c.comparison]), strict=True):
            cell.p_holm = p
    if cells:
        for cell in cells:
            cell.rule = rule
        return cells
    mix = rows[-1].config["data"]["mix"]
    store = max(sorted(mix), key=lambda name: mix[name], default="ptb-xl")
    return column(store, FIRST[1], FIRST[0], f"--protocol {FIRST[0]} --task {FIRST[1]} --store {store}", [], rows)


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


