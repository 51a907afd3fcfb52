"""Groups results into rows, columns and cells, with means, intervals, differences to the random backbone, and missing runs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bench.core.errors import UserError, unknown
from bench.core.models import validate
from bench.evaluation.metrics import RULES, interval
from bench.evaluation.protocols import load_defaults
from bench.report.checks import by_value, list_runs
from bench.report.names import Name, distinguish
from bench.report.results import AFTER_LINEAR, Evaluation, EvaluationRecipe, Pretraining, PretrainRecipe, Results
from bench.report.rows import Row, backbone_of, rows_of
from bench.report.statistics import Comparison, by_class, by_run, compare_pairs, holm, runs_of
from bench.runs.config import EvaluationConfig

FIRST_PROTOCOL, FIRST_TASK = "linear", "superdiagnostic"  # the only column of a report without evaluations
DEFAULT_STORE = "ptb-xl"


@dataclass(frozen=True)
class ToRun:
    """The runs that would fill a cell: evaluations of these pre-trainings with these seeds; if there are none, a pre-training."""

    runs: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """The evaluations of one row by the recipe of one column."""

    row: Row
    column: EvaluationRecipe
    runs: tuple[Evaluation, ...]  # sorted by run_id
    metric: str = "macro_auroc"  # one of METRICS
    rule: str = "default"  # rule of the intervals: one of bench.evaluation.metrics.RULES
    to_run: ToRun | None = None  # None if the cell has runs, or can have none
    random: "Cell | None" = None  # the cell of the random backbone in the same column, with which this cell is compared
    comparison: Comparison | None = None  # of this cell with random; None if either has fewer than two runs
    p_holm: float | None = None  # p of the comparison, corrected for all cells of the table

    @cached_property
    def values(self) -> list[float]:
        """The score of each run. The score of a pre-training is the mean over its evaluations."""
        return [float(value) for value in runs_of(self.runs)[0]] if self.runs else []

    @property
    def mean(self) -> float:
        """Mean of the values, rounded to twelve digits, so that the order of a sum does not decide a rank."""
        return round(float(np.mean(self.values)), 12)

    @property
    def replicates(self) -> np.ndarray:
        """(R,) mean of the runs on each resample of the test records."""
        return np.asarray(runs_of(self.runs)[1].mean(0))

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """(lower, upper) of the mean over runs, by resampling the test records; None without a run."""
        return interval(self.replicates, self.rule) if self.runs else None

    @cached_property
    def difference(self) -> tuple[float, float, float] | None:
        """(difference to random, lower, upper); None unless both have runs. If both have two or more runs, the interval counts
        the variance over runs, too."""
        if self.comparison:
            return self.comparison.difference, self.comparison.lower, self.comparison.upper
        if self.random is None or not (self.runs and self.random.runs):
            return None
        return (float(np.mean(self.values) - np.mean(self.random.values)),
                *interval(self.replicates - self.random.replicates, self.rule))

    def per_class(self) -> Iterator[tuple[str, int, list[float]]]:
        """Yields (class, positives among the test records, AUROC of each run), sorted by class; UserError if classes differ."""
        if not self.runs:
            return
        scores = [run.result.get("per_class", {}) for run in self.runs]
        aurocs = [by_class(each, "auroc") for each in scores]
        if any(each.keys() != aurocs[0].keys() for each in aurocs):
            raise UserError(f"results of {self.column.task} on {self.column.store} differ in their classes: "
                            f"{list_runs([run.run_id for run in self.runs])}; remove what does not belong")
        positives = by_class(scores[0], "positives")
        values = by_run(self.runs, [list(each.values()) for each in aurocs])
        for (name, n), own in zip(positives.items(), values.T.tolist(), strict=True):
            yield name, int(n), own


@dataclass(frozen=True, eq=False)
class Column:
    """One recipe of evaluation with a cell for each row."""

    key: EvaluationRecipe
    name: Name  # its name among the columns of its table
    series: Name  # its name among the columns of all tasks, checkpoints and shares of the labels on its store
    metric: str
    cells: tuple[Cell, ...]  # one per row, in the order of the rows

    @property
    def has_run(self) -> bool:
        """Whether any evaluation of this recipe has run."""
        return any(cell.runs for cell in self.cells)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that tables and figures show."""

    results: Results
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]  # sorted by table, which is one task on one store; controls are last
    rule: str  # rule of the intervals

    @cached_property
    def cells(self) -> dict[tuple[PretrainRecipe, EvaluationRecipe], Cell]:
        """(row's key, column's key) -> cell."""
        return {(cell.row.key, column.key): cell for column in self.columns for cell in column.cells}

    @cached_property
    def tables(self) -> dict[tuple[bool, str, str, str], list[Column]]:
        """EvaluationRecipe.table -> its columns, in their order."""
        out: dict[tuple[bool, str, str, str], list[Column]] = {}
        for column in self.columns:
            out.setdefault(column.key.table, []).append(column)
        return out

    def pretrainings(self, row: Row) -> list[Pretraining]:
        """The results of a row's pre-trainings, sorted by seed. Some may be missing, even if their evaluations are here."""
        return [self.results.by_run[run] for _, run in row.pretrained if run in self.results.by_run]


def make_report(results: Results, rule: str = "default") -> Report:
    """The report of the results. rule: rule of the intervals, one of bench.evaluation.metrics.RULES."""
    if rule not in RULES:
        raise unknown("rule of intervals", rule, RULES)
    rows = rows_of(results)
    tables: dict[tuple[bool, str, str, str], list[Evaluation]] = {}
    for evaluation in results.evaluations:
        tables.setdefault(evaluation.recipe.table, []).append(evaluation)
    columns = [column for _, here in sorted(tables.items()) for column in _table(here, rows, rule)]
    if not columns:
        key = _first_recipe(rows)
        columns = [_column(key, Name(FIRST_PROTOCOL), [], rows, rule)]
    return Report(results, rows, _with_series(columns), rule)


def _first_recipe(rows: Sequence[Row]) -> EvaluationRecipe:
    """The recipe of the only column of a report without evaluations: linear evaluation on the store with the largest weight."""
    mix = rows[-1].config.data.mix
    store = max(sorted(mix), key=lambda name: mix[name], default=DEFAULT_STORE)
    values = load_defaults(FIRST_PROTOCOL).value
    values |= {"seed": 0, "pretrain": "", "task": FIRST_TASK, "data": {"store": store, "fingerprint": ""},
               "after": values["after"] or None}
    return EvaluationRecipe.of(validate(EvaluationConfig, values))


def _with_series(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns, each with its `series`."""
    plain = {column.key: column.key.config.replace(task="", at=1.0, fraction=1.0) for column in columns}
    stores: dict[tuple[bool, str, str], dict[EvaluationRecipe, EvaluationConfig]] = {}
    for column in columns:
        if column.has_run:
            stores.setdefault(column.key.table[:3], {})[EvaluationRecipe.of(plain[column.key])] = plain[column.key]
    names = {store: distinguish({key: (key.protocol, config) for key, config in recipes.items()})
             for store, recipes in stores.items()}
    return tuple(replace(column, series=names[column.key.table[:3]][EvaluationRecipe.of(plain[column.key])])
                 if column.has_run else column for column in columns)


def _table(evaluations: Sequence[Evaluation], rows: Sequence[Row], rule: str) -> list[Column]:
    """The columns of one task on one store, with p values that are corrected for all of their cells."""
    by_recipe = _by_column(evaluations)
    names = distinguish({key: (key.protocol, key.config) for key in by_recipe})
    columns = []
    for key in sorted(names, key=lambda key: key.protocol.startswith("finetune")):
        for part in ("replicates", "per_class"):
            if sizes := by_value([(len(each.result.get(part, ())), each.run_id) for each in by_recipe[key]]):
                raise UserError(f"results differ in the number of {part} of {key.task} on {key.store} ({sizes}); remove one set")
        columns.append(_column(key, names[key], by_recipe[key], rows, rule))
    compared = [cell.comparison.p for column in columns for cell in column.cells if cell.comparison]
    p_holm = iter(holm(compared))
    return [replace(column, cells=tuple(replace(cell, p_holm=next(p_holm)) if cell.comparison else cell
                                        for cell in column.cells)) for column in columns]


def _by_column(evaluations: Sequence[Evaluation]) -> dict[EvaluationRecipe, list[Evaluation]]:
    """The evaluations of each column. An untrained backbone has one checkpoint; its evaluations stand in the columns of all."""
    out: dict[EvaluationRecipe, list[Evaluation]] = {}
    for each in evaluations:
        if not each.untrained:
            out.setdefault(each.recipe, []).append(each)
    trained, shares = set(out), {key.at for key in out}
    columns: dict[EvaluationRecipe, set[EvaluationRecipe]] = {}
    for each in evaluations:
        if each.untrained:
            if each.recipe not in columns:
                own = {each.recipe, *(each.recipe.at_checkpoint(share) for share in shares)}
                columns[each.recipe] = own & trained or {each.recipe}
            for key in columns[each.recipe]:
                out.setdefault(key, []).append(each)
    return out


def _column(key: EvaluationRecipe, name: Name, evaluations: Sequence[Evaluation], rows: Sequence[Row], rule: str) -> Column:
    """The column of one recipe. evaluations: all evaluations by this recipe."""
    by_backbone: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        by_backbone.setdefault(each.config.pretrain, []).append(each)
    metric = evaluations[0].metric if evaluations else "macro_auroc"
    seeds = {(each.untrained, each.config.seed) for each in evaluations} or {(True, 0)}
    cells: dict[PretrainRecipe, Cell] = {}
    for row in rows:
        runs = [each for _, run in row.pretrained
                for each in by_backbone.get(run, []) or by_backbone.get(row.twins.get(run, ""), [])]
        to_run = None
        if not runs and not (row.untrained and key.protocol == AFTER_LINEAR):  # this protocol needs a trained backbone
            wanted = {seed for untrained, seed in seeds if untrained == row.untrained} or {seed for _, seed in seeds}
            to_run = ToRun(tuple(run for _, run in row.pretrained), tuple(sorted(wanted)))
        cells[row.key] = Cell(row, key, tuple(sorted(runs, key=lambda each: each.run_id)), metric, rule, to_run)
    return Column(key, name, name, metric, tuple(_compare_with_random(list(cells.values()))))


def _compare_with_random(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Yields the cells of a column; a cell of a trained backbone gets the random backbone's cell and the comparison with it."""
    randoms: dict[str, Cell] = {}
    for cell in cells:
        like = backbone_of(cell.row.config)
        if cell.row.untrained and (like not in randoms or (cell.runs and not randoms[like].runs)):
            randoms[like] = cell
    enough = [cell for cell in cells if len(cell.runs) > 1]
    place = {cell.row.key: i for i, cell in enumerate(enough)}
    against = {cell.row.key: randoms[backbone_of(cell.row.config)] for cell in cells if not cell.row.untrained}
    pairs = {key: (place[key], place[random.row.key]) for key, random in against.items()
             if key in place and random.row.key in place}
    comparisons = dict(zip(pairs, compare_pairs([cell.runs for cell in enough], list(pairs.values())), strict=True))
    for cell in cells:
        yield replace(cell, random=against.get(cell.row.key), comparison=comparisons.get(cell.row.key))


def spread(values: Sequence[float]) -> tuple[float | None, float | None, int]:
    """(mean, standard deviation with ddof 1, number of values); None where there are too few values."""
    n = len(values)
    mean = math.fsum(values) / n if n else None
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if mean is not None and n > 1 else None
    return mean, sd, n
