"""Records -> rows, cells, means, intervals, differences to random, what is missing; paper/ prints and draws them."""

import json
import math
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from bench.core.errors import UserError, unknown
from bench.core.models import canonical
from bench.evaluation.metrics import RULES, interval
from bench.evaluation.protocols import load_defaults
from bench.report.statistics import Comparison, by_class, by_run, compare_pairs, holm, runs_of
from bench.runs.reading import METRICS as METRICS
from bench.runs.reading import Record, metric_of
from bench.runs.reading import read as read

if TYPE_CHECKING:  # whoever makes tables need not wait for pandas
    import pandas as pd

Config = dict[str, Any]  # of a result, as JSON has it
MISSING = "--"
RANDOM = "random"
RANDOM_ROW = "random / from scratch"
SCRATCH, FINETUNE, AFTER_LINEAR = "scratch", "finetune", "finetune-after-linear"
FIRST = ("linear", "superdiagnostic")  # ours: what a folder without any evaluation is asked for
OTHER_SCORES = {"macro_auroc": ("macro_average_precision", "macro_f1", "f_max", "macro_brier", "macro_ece"),
                "r2": ("mae", "rmse", "pearson_r")}  # beside a table's metric
SHUFFLED = "labels shuffled"  # after the store's name: tables of controls, see evaluation's shuffle_labels
LISTED = 20  # run_ids in a message; ours


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
    comparison: Comparison | None = None  # with random; None where either has fewer than two runs
    p_holm: float | None = None  # that it equals random, corrected for the cells of its table
    metric: str = "macro_auroc"  # one of METRICS

    @cached_property
    def values(self) -> list[float]:
        """The score of each run: of a pre-training, the mean of its evaluations."""
        return runs_of(self.runs)[0].tolist() if self.runs else []

    @property
    def mean(self) -> float:
        """Of the values, to twelve digits: what is equal but for the order of a sum shares its rank."""
        return round(float(np.mean(self.values)), 12)

    @property
    def replicates(self) -> np.ndarray:
        """(R,) mean of the runs, per resample."""
        return runs_of(self.runs)[1].mean(0)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.replicates, self.rule) if self.runs else None

    @cached_property
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
        if self.runs:
            found = [run["result"].get("per_class", {}) for run in self.runs]
            aurocs = [by_class(each, "auroc") for each in found]
            if any(each.keys() != aurocs[0].keys() for each in aurocs):
                raise UserError(f"records of {self.task} on {self.store} differ in their classes: "
                                f"{listed([run['run_id'] for run in self.runs])}; remove what does not belong")
            positives = by_class(found[0], "positives")
            values = by_run(self.runs, [list(each.values()) for each in aurocs])
            for (name, n), own in zip(positives.items(), values.T.tolist(), strict=True):
                yield name, int(n), own


def footnotes(records: Sequence[Record]) -> list[str]:
    """Why records should not meet in one report, a sentence each: other rules, other data of one name, uncommitted code."""
    configs = [*((r["run_id"], r["config"]) for r in records), *pretrainings_of(records).items()]
    found: dict[str, list[tuple[Any, str]]] = {"protocol": [(config["protocol"], run) for run, config in configs]}
    for run, config in configs:
        for what, value in _fingerprints(config):
            found.setdefault(f"the {what}", []).append((value, run))
    notes = [f"Records differ in {what}: {sets}." for what, pairs in sorted(found.items()) if (sets := by_value(pairs))]
    dirty = [r["run_id"] for r in records if r["provenance"].get("dirty")]
    return notes + ([f"Made by code with uncommitted changes: {listed(dirty)}."] if dirty else [])


def refuse(notes: Sequence[str]) -> None:
    """UserError where there are footnotes."""
    if notes:
        raise UserError(f"{' '.join(notes)} Move one set to another results folder, or write --allow for a footnote")


def external(config: Config) -> str:
    """The store that was tested on instead of the test folds, or ""."""
    return config.get("external", {}).get("store", "")


def by_value(pairs: Sequence[tuple[Any, str]]) -> str:
    """"1: run run; 2: run" of (value, run_id) pairs; "" where they have one value."""
    runs: dict[str, set[str]] = {}
    for value, run in pairs if len({value for value, _ in pairs}) > 1 else ():
        runs.setdefault(str(value), set()).add(run)
    return "; ".join(f"{value}: {listed(sorted(ids))}" for value, ids in sorted(runs.items()))


def listed(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - LISTED:,} more" if len(runs) > LISTED else ""
    return ", ".join(f"`{run}`" for run in runs[:LISTED]) + more


def recipe(config: Config) -> str:
    """A recipe's identity: the config without its seed and, of an evaluation, without what it evaluates.

    From scratch is fine-tuning of what has learned nothing: one recipe, one column. So are controls, whatever the order of
    their labels: what a head learns from one order by chance moves its score by some .05, and the mean over many tells.
    """
    if protocol_of(config) == SCRATCH:
        config = config | {"evaluation": config["evaluation"] | {"name": FINETUNE}}
    config = {key: value for key, value in config.items() if key not in ("seed", "pretrain")}
    if config.get("shuffle_labels"):
        config["shuffle_labels"] = 1
    return orjson.dumps(config, option=orjson.OPT_SORT_KEYS).decode()


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
    named: dict[str, dict[str, dict[str, Any]]] = {}
    for key, (name, config) in recipes.items():
        named.setdefault(name, {})[key] = dict(leaves(config))
    found = []
    for name, peers in named.items():
        differ = _differing(peers)
        alike: dict[str, list[str]] = {}  # but for their data, which then is no leaf: footnotes say so
        for key, flat in peers.items():
            alike.setdefault(canonical({leaf: flat.get(leaf) for leaf in differ}), []).append(key)
        for keys in alike.values():
            prints = {key: dict(_fingerprints(recipes[key][1])) for key in keys} if len(keys) > 1 else {}
            others = _differing(prints)
            for key in keys:
                own = {leaf: peers[key].get(leaf, MISSING) for leaf in differ} | {
                    leaf: prints[key].get(leaf, MISSING) for leaf in others}
                label = f"{name} ({', '.join(f'{k}={text_of(v)}' for k, v in own.items())})" if own else name
                order = [(0, v, "") if isinstance(v, int | float) else (1, 0, text_of(v)) for v in own.values()]
                found.append((name, order, key, label))
    return {key: label for _, _, key, label in sorted(found)}


def _differing(peers: dict[str, dict[str, Any]]) -> list[str]:
    """The leaves in which they differ, sorted."""
    names = sorted({leaf for flat in peers.values() for leaf in flat})
    return [leaf for leaf in names if len({text_of(flat.get(leaf, MISSING)) for flat in peers.values()}) > 1]


def _fingerprints(config: Config) -> Iterator[tuple[str, str]]:
    """("fingerprint of ptb-xl", ...), ... of the stores of a recipe."""
    data, other = config["data"], config.get("external", {})
    stores = {data["store"]: data["fingerprint"]} if "store" in data else dict(data.get("fingerprints", {}))
    if external(config):
        stores[other["store"]] = other["fingerprint"]
    yield from ((f"fingerprint of {store}", print_) for store, print_ in stores.items())


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row per recipe of pre-training; random ones come first, and every backbone has one, run or not."""
    configs: dict[str, Config] = {}
    pretrained: dict[str, set[tuple[int, str]]] = {}
    for run, config in pretrainings_of(records).items():
        configs.setdefault(recipe(config), config)
        pretrained.setdefault(recipe(config), set()).add((config["seed"], run))
    randoms = [configs[key] for key in sorted(configs) if configs[key]["method"]["name"] == RANDOM]
    known = set(map(backbone, randoms))
    for _, config in sorted(configs.items()):
        if backbone(config) not in known:
            like = (randoms or [config])[0]  # so that its label differs from theirs in the backbone alone
            data = like["data"] | {key: config["data"][key] for key in ("mix", "rate_hz")}
            randoms.append(like | {"method": {"name": RANDOM}, "data": data, "encoder": config["encoder"]})
            configs[recipe(randoms[-1])] = randoms[-1]
            known.add(backbone(config))
    names = {key: config["method"]["name"] for key, config in configs.items()}
    shown = {key: (RANDOM_ROW if names[key] == RANDOM else names[key], configs[key]) for key in configs}
    rows = []
    for key, label in labelled(shown).items():
        rows.append(Row(names[key], label, configs[key], tuple(sorted(pretrained.get(key, ())))))
    return sorted(rows, key=lambda row: row.method != RANDOM)


def pretrainings_of(records: Sequence[Record]) -> dict[str, Config]:
    """{run_id: config} of every pre-training that has a record, or an evaluation that has one."""
    return {r["config"]["pretrain"]: r["pretrain_config"] for r in records if r["kind"] == "evaluate"} | {
        r["run_id"]: r["config"] for r in records if r["kind"] == "pretrain"}


def backbone(config: Config) -> str:
    """What a random backbone has to share with a trained one to be its baseline: the encoder and the rate."""
    return canonical({"encoder": config["encoder"], "rate_hz": config["data"]["rate_hz"]})


def pretrainings(row: Row, records: Sequence[Record]) -> list[Record]:
    """The row's pre-training records, by seed."""
    order = {run: i for i, (_, run) in enumerate(row.pretrained)}
    return sorted((r for r in records if r["kind"] == "pretrain" and r["run_id"] in order), key=lambda r: order[r["run_id"]])


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
        name += f", {SHUFFLED}" if record["config"].get("shuffle_labels") else ""  # a control is no column of its task
        tables.setdefault((name, record["config"]["task"]), []).append(record)
    for (store, task), here in sorted(tables.items()):
        learned = [r for r in here if r["pretrain_config"]["method"]["name"] != RANDOM]
        by_recipe: dict[str, list[Record]] = {}
        for record in learned:
            by_recipe.setdefault(recipe(record["config"]), []).append(record)
        columns = set(by_recipe)
        points = {runs[0]["config"]["at"] for runs in by_recipe.values() if "at" in runs[0]["config"]}
        for record in here:  # what learned nothing is the same at every checkpoint
            if record["pretrain_config"]["method"]["name"] == RANDOM:
                own, *same = (recipe(record["config"] | at) for at in ({}, *({"at": at} for at in points)))
                for key in {*same, own} & columns or {own}:
                    by_recipe.setdefault(key, []).append(record)
        configs = {key: json.loads(key) for key in by_recipe}
        labels = labelled({key: (config["evaluation"]["name"], config) for key, config in configs.items()})
        found: list[Cell] = []
        for key, label in sorted(labels.items(), key=lambda each: each[1].startswith("finetune")):
            for part in ("replicates", "per_class"):
                sizes = by_value([(len(r["result"].get(part, ())), r["run_id"]) for r in by_recipe[key]])
                if sizes:
                    raise UserError(f"records differ in the number of {part} of {task} on {store} ({sizes}); remove one set")
            made = column(store, task, label, evaluation_options(configs[key]), by_recipe[key], rows)
            compare_with_random_(made)
            found += made
        compared = [(c, c.comparison.p) for c in found if c.comparison]
        for (cell, _), p in zip(compared, holm([p for _, p in compared]), strict=True):
            cell.p_holm = p
        cells += found
    if cells:
        for cell in cells:
            cell.rule = rule
        return cells
    mix = rows[-1].config["data"]["mix"]
    store = max(sorted(mix), key=lambda name: mix[name], default="ptb-xl")
    return column(store, FIRST[1], FIRST[0], f"--protocol {FIRST[0]} --task {FIRST[1]} --store {store}", [], rows)


def column(store: str, task: str, label: str, options: str, runs: list[Record], rows: Sequence[Row]) -> list[Cell]:
    """The cells of one evaluation recipe, one per row; `runs` are all its records."""
    cells, randoms = [], dict[str, Cell]()
    asked = {(r["pretrain_config"]["method"]["name"] == RANDOM, r["config"]["seed"]) for r in runs} or {(True, 0)}
    metric = metric_of(runs[0]) if runs else "macro_auroc"
    by_backbone: dict[str, list[Record]] = {}
    for record in runs:
        by_backbone.setdefault(record["config"]["pretrain"], []).append(record)
    for row in rows:
        filled = [r for _, run in row.pretrained for r in by_backbone.get(run, ())]
        own, commands = options, list[str]()
        if row.method == RANDOM:
            own = re.sub(r" --at \S+", "", options.replace(f"--protocol {FINETUNE} ", f"--protocol {SCRATCH} "))
        if not filled and not (row.method == RANDOM and f"--protocol {AFTER_LINEAR} " in options):  # nothing to start from
            seeds = sorted({n for untrained, n in asked if untrained == (row.method == RANDOM)} or {n for _, n in asked})
            commands = [f"ecgssl evaluate {run} {own} --seed {n}" for _, run in row.pretrained for n in seeds] or [
                f"ecgssl pretrain {row.method} {pretraining_options(row.config)}"]
        cells.append(Cell(store, task, row, label, sorted(filled, key=lambda r: r["run_id"]), commands, metric=metric))
    backbones = [backbone(row.config) for row in rows]
    for cell, like in zip(cells, backbones, strict=True):
        if cell.row.method == RANDOM and (like not in randoms or (cell.runs and not randoms[like].runs)):
            randoms[like] = cell
    for cell, like in zip(cells, backbones, strict=True):
        if cell.row.method != RANDOM:
            cell.random = randoms[like]
    return cells


def compare_with_random_(cells: Sequence[Cell]) -> None:
    """Fill in the comparisons of the cells of one column."""
    enough = [cell for cell in cells if len(cell.runs) > 1]
    number = {id(cell): i for i, cell in enumerate(enough)}
    pairs = [(i, number[id(cell.random)]) for i, cell in enumerate(enough) if id(cell.random) in number]
    if pairs:
        found = compare_pairs([cell.runs for cell in enough], pairs)
        for (i, _), each in zip(pairs, found, strict=True):
            enough[i].comparison = each


def evaluation_options(config: Config) -> str:
    """What makes `ecgssl evaluate` run this recipe: names, and --set for what is not its protocol's default."""
    name, task, store = config["evaluation"]["name"], config["task"], config["data"]["store"]
    default = dict(leaves(load_defaults(name).value)) | {"task": task, "data.store": store}
    settings = [(key, value) for key, value in sorted(leaves(config)) if default.get(key) != value]
    other = [f"--external {external(config)}"] if external(config) else []
    other += [f"--at {value:g}" for key, value in settings if key == "at"]
    settings = [(key, value) for key, value in settings if key != "at"]
    return " ".join([f"--protocol {name} --task {task} --store {store}", *other, *map(as_set, settings)])


def pretraining_options(config: Config) -> str:
    """What makes `ecgssl pretrain` build this backbone on these corpora; nothing of how it is trained."""
    settings = [(k, v) for k, v in sorted(leaves(config)) if k == "data.rate_hz" or k.startswith("encoder.")]
    stores = [f"--store {shlex.quote(f'{k}={v}')}" for k, v in sorted(config["data"]["mix"].items())]
    return " ".join([*stores, *map(as_set, settings)])


def as_set(setting: tuple[str, Any]) -> str:
    return f"--set {shlex.quote(f'{setting[0]}={text_of(setting[1])}')}"


def spread(values: Sequence[float]) -> tuple[float | None, float | None, int]:
    """(mean, sd with ddof 1, n); None where there are too few values for it."""
    n = len(values)
    mean = math.fsum(values) / n if n else None
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if mean is not None and n > 1 else None
    return mean, sd, n


def load(results: str | Path) -> "pd.DataFrame":
    """The evaluations in a folder of records as a tidy table, see frame_of; warns of each file that is no record."""
    records, skipped = read(Path(results))
    for line in skipped:
        warnings.warn(f"skipped: {line}", stacklevel=2)
    return frame_of(records)


def frame_of(records: Sequence[Record]) -> "pd.DataFrame":
    """A row per evaluation, sorted by run_id; None or NaN where a record does not say it.

    run_id, seed                            of the evaluation
    pretrain, pretrain_seed                 the pre-training's run_id and seed
    method, row                             its method, and its label in the report's tables
    size, tokens, patch, rate_hz            of the backbone: encoder.size, .tokens, .patch (samples), data.rate_hz
    steps, batch, mix                       of the pre-training: optimiser steps, records a step, {store: weight} as JSON
    store, fingerprint, external            trained and tested on; the store that was tested on instead, or ""
    task, protocol, at, fraction            protocol: linear, finetune, ...; checkpoint and labels, shares
    rules                                   `protocol` of the config: version of the benchmark's rules
    metric, score, lower, upper             macro_auroc or r2; score and percentiles of its resamples on the test records
    macro_average_precision ... pearson_r   other scores, as in results/README.md; the value alone
    n_train, n_validation, n_test           records
    best_step, seconds, together            the step that was chosen; of the group, and how many evaluations it was
    peak_memory_mb                          of the evaluation
    pretrain_seconds, pretrain_records_per_second, pretrain_peak_memory_mb
    parameters                              of the pre-training, where its record is there; parameters: those it trained
    commit, dirty, device, slurm_job        of the evaluation: code, whether it had uncommitted changes, where it ran
    pretrain_commit, pretrain_dirty         of the pre-training, where its record is there
    """
    import pandas as pd

    label = {run: row.label for row in rows_of(records) for _, run in row.pretrained}
    trained = {r["run_id"]: r for r in records if r["kind"] == "pretrain"}
    made = []
    for r in records:
        if r["kind"] != "evaluate":
            continue
        config, result, origin = r["config"], r["result"], r["provenance"]
        before, first = r["pretrain_config"], trained.get(config["pretrain"], {"result": {}, "provenance": {}})
        cost, encoder, optim = first["result"], before["encoder"], before.get("optim", {})
        lower, upper = result.get("interval", (None, None))
        others = {name: value.get("value") if isinstance(value := result.get(name), dict) else value
                  for names in OTHER_SCORES.values() for name in names}
        made.append({
            "run_id": r["run_id"], "seed": config["seed"], "pretrain": config["pretrain"], "pretrain_seed": before["seed"],
            "method": before["method"]["name"], "row": label[config["pretrain"]],
            **{key: encoder.get(key) for key in ("size", "tokens", "patch")}, "rate_hz": before["data"]["rate_hz"],
            **{key: optim.get(key) for key in ("steps", "batch")}, "mix": text_of(before["data"]["mix"]),
            "store": config["data"]["store"], "fingerprint": config["data"]["fingerprint"], "external": external(config),
            "task": config["task"], "protocol": config["evaluation"]["name"], "at": config.get("at", 1.0),
            "fraction": config.get("fraction", 1.0), "rules": config["protocol"],
            "metric": metric_of(r), "score": result[metric_of(r)], "lower": lower, "upper": upper, **others,
            **{f"n_{part}": result["records"].get(part) for part in ("train", "validation", "test")},
            **{key: result.get(key) for key in ("best_step", "seconds", "together", "peak_memory_mb")},
            **{f"pretrain_{key}": cost.get(key) for key in ("seconds", "records_per_second", "peak_memory_mb")},
            "parameters": cost.get("parameters", {}).get("trained"),
            **{key: origin.get(key) for key in ("commit", "dirty", "device", "slurm_job")},
            **{f"pretrain_{key}": first["provenance"].get(key) for key in ("commit", "dirty")}})
    return pd.DataFrame(made)
