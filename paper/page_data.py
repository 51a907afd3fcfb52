"""The data of the page: the numbers of a report as JSON for the leaderboard, the comparisons and the pages of runs."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.core.models import canonical
from bench.core.yaml import read_yaml
from bench.evaluation.metrics import RULES, interval
from bench.report.aggregate import FIRST_PROTOCOL, Cell, Column, Report, spread
from bench.report.names import distinguish, leaves, text_of
from bench.report.results import METRICS, OTHER_SCORES, RANDOM, Evaluation, EvaluationRecipe, PretrainRecipe
from bench.report.rows import Row
from bench.report.statistics import compare_pairs, holm
from bench.runs.config import BASE, PretrainConfig, find_methods, load_pretrain_config
from bench.runs.mixtures import name_mixture
from paper.commands import commands_of, evaluation_options, set_options, store_options
from paper.families import mixture_of
from paper.labels import label, row_label, series_label
from paper.looks import BLACK, Look, looks_of
from paper.tables import notes_of

PER_CLASS = ("positives", "auroc", "lower", "upper", "average_precision", "f1", "brier", "ece")
COST = ("seconds", "records_per_second", "peak_memory_mb", "parameters")
Json = dict[str, Any]
Pairs = list[tuple[str, str]]  # keys and values to print


def data_of(report: Report) -> dict[str, Any]:
    """{name: data that the page loads by this name}: "board", "rows", "recipes", "compare/COLUMN", "runs/RUN_ID"."""
    options = Options()
    runs, recipes = runs_of(report, options)
    rows = [{key: text_of(value) for key, value in leaves(row.config).items()} for row in report.rows]
    comparisons = {f"compare/{i}": each for i, each in enumerate(comparisons_of(report))}
    return {"board": board_of(report, options), "rows": rows, "recipes": recipes, **comparisons,
            **{f"runs/{name}": run for name, run in runs.items()}}


@dataclass
class Options:
    """The options of `ecgssl evaluate`: built once per recipe, as there may be 100,000 evaluations."""

    by_recipe: dict[tuple[str, int, str], str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # options -> their place in the page's list

    def text(self, evaluation: Evaluation) -> str:
        """The options that run this evaluation again, without backbone and seed."""
        config = evaluation.config
        key = config.evaluation.name, config.shuffle_labels, evaluation.recipe.identity
        if key not in self.by_recipe:
            self.by_recipe[key] = evaluation_options(config)
        return self.by_recipe[key]

    def number(self, evaluation: Evaluation) -> int:
        """Where the options stand in the page's list."""
        return self.numbers.setdefault(self.text(evaluation), len(self.numbers))


def rounded(value: Any, digits: int = 6) -> Any:
    """The number rounded for the page; a list element by element; None stays None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return [rounded(each, digits) for each in value] if isinstance(value, list | tuple) else value


def pairs_of(values: Mapping[str, Any]) -> Pairs:
    """("optim.steps", "1000"), ..., sorted."""
    return [(key, text_of(value)) for key, value in sorted(values.items())]


def board_of(report: Report, options: Options) -> Json:
    """What the leaderboard shows: columns, rows, the options of commands, and a line per cell."""
    places = {row.key: i for i, row in enumerate(report.rows)}
    lines = [_line(cell, i, places, options) for i, column in enumerate(report.columns) for cell in column.cells]
    count, (low, high) = RULES[report.rule]
    return {"columns": [{**facts_of(column.key), "name": series_label(column), "metric": METRICS[column.metric]}
                        for column in report.columns],
            "rows": _rows(report.rows), "options": list(options.numbers), "cells": lines,
            "first": report.columns.index(first_column(report.columns)), "notes": notes_of(report),
            "rule": f"{low:g} and {high:g} percentiles of {count:,} resamples of the test records"}


def first_column(columns: Sequence[Column]) -> Column:
    """The column that the leaderboard shows first: the one with most runs; a control only if there is nothing else."""
    return max(columns, key=lambda column: (not column.key.control, sum(len(cell.runs) for cell in column.cells),
                                            column.key.protocol == FIRST_PROTOCOL, column.key.at, column.key.fraction))


def facts_of(key: EvaluationRecipe) -> Json:
    """The facts by which a user chooses a column."""
    return {"store": f"{key.external} (trained on {key.store})" if key.external else key.store, "task": key.task,
            "control": key.control, "at": key.at, "fraction": key.fraction}


def _rows(rows: Sequence[Row]) -> list[Json]:
    names = distinguish({i: (row.method, _without_columns(row.config)) for i, row in enumerate(rows)})
    looks = looks_of(row.method for row in rows)
    return [{"label": row_label(row), "name": label(names[i]), "method": row.method, "random": row.untrained,
             "look": look_for_page(looks[row.method]), "size": row.config.encoder.size, "rate": row.config.data.rate_hz,
             "mix": corpora(row.config), "runs": [[run, seed] for seed, run in row.pretrained]}
            for i, row in enumerate(rows)]


def _without_columns(config: PretrainConfig) -> PretrainConfig:
    """The config without what the leaderboard shows in columns of their own: its size and its corpora."""
    return config.replace(encoder=config.encoder.replace(size=""), data=config.data.replace(mix={}))


def look_for_page(look: Look) -> Json:
    """The look as page.js draws it; black becomes the colour of the text."""
    return {"colour": None if look.colour == BLACK else look.colour, "path": look.outline(), "filled": look.filled}


def corpora(config: PretrainConfig) -> str:
    """A short text for the data of a pre-training: "none" for the random backbone, else that of mixture_of."""
    return "none" if config.method.name == RANDOM else mixture_of(config.data.mix)


def _line(cell: Cell, column: int, places: Mapping[PretrainRecipe, int], options: Options) -> Json:
    """A cell of the leaderboard."""
    line: Json = {"column": column, "row": places[cell.row.key], "todo": commands_of(cell)}
    if cell.runs:
        mean, sd, n = spread(cell.values)
        has_random = cell.random is not None and cell.random.runs
        line |= {"score": [rounded(x) for x in (mean, sd, *map(float, cell.interval or ()))], "n": n,
                 "difference": rounded(cell.difference), "p": rounded(cell.p_holm, 3),
                 "random": rounded(float(np.mean(cell.random.values))) if cell.random and has_random else None,
                 "commits": sorted({commit(run.provenance) for run in cell.runs}),
                 "runs": [[run.run_id, run.config.pretrain, run.config.seed, options.number(run)]
                          for run in sorted(cell.runs, key=_by_seed)]}
    return line


def _by_seed(evaluation: Evaluation) -> tuple[int, int, str]:
    return evaluation.pretrain_config.seed, evaluation.config.seed, evaluation.run_id


def commit(provenance: Mapping[str, Any]) -> str:
    """The commit in ten digits, and whether the code had uncommitted changes."""
    return f"{(provenance.get('commit') or 'unknown')[:10]}{' with uncommitted changes' if provenance.get('dirty') else ''}"


def comparisons_of(report: Report) -> list[Json]:
    """For each column, its pairs of rows: difference, interval, p, Holm's p over all pairs of the table, difference per class."""
    places = {row.key: i for i, row in enumerate(report.rows)}
    tested: dict[Any, list[list[float]]] = {}  # the tested pairs of each table
    comparisons = []
    for column in report.columns:
        cells = [cell for cell in column.cells if cell.runs]
        numbers = _differences(cells)
        tests = tested.setdefault(column.key.table, [])
        tests += (each for each in numbers.values() if len(each) > 3)
        comparisons.append((cells, numbers, tests))
    for tests in tested.values():
        for numbers_of_pair, p in zip(tests, holm([each[3] for each in tests]), strict=True):
            numbers_of_pair.append(p)
    return [_comparison(cells, numbers, len(tests), places) for cells, numbers, tests in comparisons]


def _differences(cells: Sequence[Cell]) -> dict[tuple[int, int], list[float]]:
    """{pair of cells: [difference, lower, upper, and p where both have two runs or more]}."""
    several = [i for i, cell in enumerate(cells) if len(cell.runs) > 1]
    compared = compare_pairs([cells[i].runs for i in several], list(itertools.combinations(range(len(several)), 2)))
    tested = {pair: [each.difference, each.lower, each.upper, each.p]
              for pair, each in zip(itertools.combinations(several, 2), compared, strict=True)}
    replicates = [cell.replicates for cell in cells] if len(several) < len(cells) else []
    return {(i, j): tested.get((i, j)) or [float(np.mean(cells[i].values) - np.mean(cells[j].values)),
                                           *map(float, interval(replicates[i] - replicates[j], cells[i].rule))]
            for i, j in itertools.combinations(range(len(cells)), 2)}


def _comparison(cells: Sequence[Cell], numbers: Mapping[tuple[int, int], list[float]], tested: int,
                places: Mapping[PretrainRecipe, int]) -> Json:
    """The pairs of one column. tested: the number of pairs for which p was corrected."""
    aurocs = [{name: float(np.mean(values)) for name, _, values in cell.per_class()} for cell in cells]
    positives = {name: n for cell in reversed(cells) for name, n, _ in cell.per_class()}
    names = sorted(positives)
    rows = [places[cell.row.key] for cell in cells]
    pairs = {}
    for (i, j), line in numbers.items():
        one, other = aurocs[i], aurocs[j]
        per_class = [one[name] - other[name] if name in one and name in other else None for name in names]
        pairs[f"{rows[i]}-{rows[j]}"] = [rounded(line, 4), rounded(per_class, 3)]
    return {"classes": names, "positives": [positives[name] for name in names], "pairs": pairs, "tested": tested,
            "means": {str(row): [rounded(each.get(name), 4) for name in names] for row, each in zip(rows, aurocs, strict=True)}}


def runs_of(report: Report, options: Options) -> tuple[dict[str, Json], list[Json]]:
    """({run_id of a pre-training: its config, curves, provenance, command, evaluations}, recipes of these evaluations)."""
    runs = _pretrainings(report)
    recipes: dict[str, Json] = {}
    places: dict[str, int] = {}
    for each in report.results.evaluations:
        classes = sorted(each.result.get("per_class", {}))
        key = canonical({"options": options.text(each), "recipe": each.recipe.identity, "classes": classes})
        if key not in recipes:
            places[key] = len(recipes)
            recipes[key] = {**facts_of(each.recipe), "protocol": each.config.evaluation.name, "metric": METRICS[each.metric],
                            "options": options.text(each), "config": pairs_of(leaves(each.config)), "classes": classes}
        run, provenance = runs[each.config.pretrain], pairs_of(each.provenance)
        if provenance not in run["provenances"]:
            run["provenances"].append(provenance)
        place = run["provenances"].index(provenance)
        run["evaluations"].append(_evaluation(each, classes, report.rule) | {"recipe": places[key], "provenance": place})
    shown = list(recipes.values())
    for run in runs.values():
        run["evaluations"].sort(key=lambda e: (*(shown[e["recipe"]][k] for k in ("task", "store", "protocol", "at", "fraction")),
                                               e["recipe"], e["seed"]))
    return runs, shown


def _pretrainings(report: Report) -> dict[str, Json]:
    """{run_id: facts about the pre-training}, including pre-trainings whose own result is missing."""
    labels = {run: row_label(row) for row in report.rows for run in (*(run for _, run in row.pretrained), *row.twins.values())}
    runs: dict[str, Json] = {}
    for name, config in report.results.configs.items():
        runs[name] = {"label": labels[name], "seed": config.seed, "config": pairs_of(leaves(config)),
                      "command": pretrain_command(config), "evaluations": [], "provenances": []}
    for trained in report.results.pretrainings:
        result = trained.result
        runs[trained.run_id] |= {
            "provenance": pairs_of(trained.provenance), "cost": {key: rounded(result[key]) for key in COST if key in result},
            **{part: {key: rounded(values, 5) for key, values in result[part].items()} for part in ("curves", "monitor")}}
    return runs


def _evaluation(evaluation: Evaluation, classes: Sequence[str], rule: str) -> Json:
    """The scores of one evaluation; no resamples, as 10,000 evaluations must not make a page of gigabytes."""
    result, metric = evaluation.result, evaluation.metric
    scores = {"score": evaluation.score, **{key: result[key] for key in OTHER_SCORES[metric] if key in result}}
    per_class = [result.get("per_class", {})[name] for name in classes]
    return {"id": evaluation.run_id, "seed": evaluation.config.seed, "records": result["records"]["test"],
            "scores": {key: rounded(value["value"] if isinstance(value, dict) else value, 4) for key, value in scores.items()},
            "interval": [rounded(float(x), 4) for x in interval(np.array(result["replicates"]), rule)],
            "per_class": {key: [rounded(each.get(key), 3) for each in per_class] for key in PER_CLASS
                          if any(each.get(key) is not None for each in per_class)}}


def pretrain_command(config: PretrainConfig) -> str:
    """The command that repeats a pre-training: stores, seed, and settings that differ from the method's defaults."""
    name = config.method.name
    if "imported" in config.method.arguments:
        saw = (f"--saw {shlex.quote(store)}" for store in sorted(config.data.mix) or ["unknown"])
        return " ".join(["ecgssl import FILE --as", shlex.quote(name), *saw])
    default = load_pretrain_config(name).to_json() if name in find_methods() else read_yaml(BASE)
    usual, values = leaves(default), config.to_json()
    settings = [(key, value) for key, value in leaves(config).items() if key not in ("protocol", "method.name", "data.mix")
                and not key.startswith("views.") and usual.get(key, ...) != value]
    if values["views"] != default["views"]:
        settings.append(("views", values["views"]))
    mixture = name_mixture(config.data.mix) if len(config.data.mix) > 1 else None
    stores = [f"--mix {mixture}"] if mixture else store_options(config)
    return " ".join(["ecgssl pretrain", shlex.quote(name), *stores, f"--seed {config.seed}", *set_options(settings)])
