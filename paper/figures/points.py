"""Which cells a figure draws: of one checkpoint or all, of all labels or shares, on pages of few panels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.report.aggregate import Cell, Report, spread
from bench.report.results import Pretraining, PretrainRecipe
from paper.families import hours_of
from paper.labels import series_label, store_label

Runs = Mapping[PretrainRecipe, Sequence[Pretraining]]  # a row's key -> its pre-trainings
Pair = tuple[str, Cell, Cell]  # protocol; the cells whose difference is drawn, the first minus the second

HEADLINE = ("linear", "finetune")  # the protocols of arXiv 2410.13867: they come first
DOWN, ACROSS = 2, 4  # protocols and tasks on a page
LEAST_PREDICTIONS = 30  # in a bin whose observed share is drawn: its standard error is at most .09


@dataclass(frozen=True)
class Point:
    """A cell, and what its column stands for."""

    cell: Cell
    protocol: str  # what its column is called, and the next two of its column
    at: float  # share of the pre-training's steps
    fraction: float  # share of the patients whose labels train

    @property
    def table(self) -> tuple[str, str]:
        """Store and task."""
        return store_label(self.cell.column), self.cell.column.task

    @property
    def mean(self) -> float:
        """The mean over runs; NaN where none has run."""
        return float(np.mean(self.cell.values)) if self.cell.values else math.nan


def points_of(report: Report) -> list[Point]:
    """The cells of macro AUROC but those of controls."""
    return [Point(cell, series_label(column), column.key.at, column.key.fraction) for column in report.columns
            if not column.key.control for cell in column.cells if cell.metric == "macro_auroc"]


def with_several(points: Sequence[Point], share: str) -> list[Point]:
    """The points of the tables and protocols in which trained backbones have runs at two or more of these shares."""
    shares: dict[Any, set[float]] = {}
    for p in points:
        if p.cell.runs and not p.cell.row.untrained:
            shares.setdefault((p.table, p.protocol), set()).add(getattr(p, share))
    return [p for p in points if len(shares.get((p.table, p.protocol), ())) > 1]


def pages_of(points: Sequence[Point]) -> list[list[Point]]:
    """The points of DOWN protocols and ACROSS tables each; pages on which nothing has a run are left out."""
    protocols = sorted({p.protocol for p in points}, key=order)
    tables = list(dict.fromkeys(p.table for p in points))
    pages = []
    for i in range(0, len(protocols), DOWN):
        for j in range(0, len(tables), ACROSS):
            page = [p for p in points if p.protocol in protocols[i : i + DOWN] and p.table in tables[j : j + ACROSS]]
            if any(p.cell.runs for p in page):
                pages.append(page)
    return pages


def order(protocol: str) -> tuple[int, str]:
    """A key that sorts protocols: linear, finetune, then the others by name."""
    name = protocol.split(" ")[0]
    return HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), protocol


def hours(runs: Sequence[Pretraining]) -> float:
    """Hours of a GPU or a core that one pre-training takes, mean over these; 0 where none is known."""
    return spread([each[0] for each in map(hours_of, runs) if each])[0] or 0.0


def with_hours(points: Sequence[Point], runs: Runs) -> list[Point]:
    """The points whose pre-training took a known time, and the random ones beside them."""
    spent = {key: hours(each) for key, each in runs.items()}
    panels = {(p.table, p.protocol) for p in points if p.cell.runs and spent[p.cell.row.key]}
    return [p for p in points if (p.table, p.protocol) in panels and (spent[p.cell.row.key] or p.cell.row.untrained)]


def reliability_of(cell: Cell) -> list[tuple[float, float]]:
    """(mean predicted probability, share observed) in each bin of LEAST_PREDICTIONS or more, of all the cell's runs."""
    sums: dict[int, np.ndarray] = {}
    for run in cell.runs:
        bins = run.result.get("calibration", {"bin": [], "n": [], "predicted": [], "observed": []})
        for i, n, predicted, observed in zip(*(bins[k] for k in ("bin", "n", "predicted", "observed")), strict=True):
            sums[i] = sums.get(i, np.zeros(3)) + np.array([n, n * predicted, n * observed])
    return [(float(p / n), float(o / n)) for _, (n, p, o) in sorted(sums.items()) if n >= LEAST_PREDICTIONS]


def pairs_of(points: Sequence[Point]) -> dict[tuple[str, str], list[Pair]]:
    """{table: the best method and random, the two best}, for linear and finetune or, without these, the first protocol."""
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for table in dict.fromkeys(p.table for p in points):
        here = [p for p in points if p.table == table and _has_classes(p.cell)]
        protocols = sorted({p.protocol for p in here}, key=order)
        for protocol in [name for name in protocols if name.split(" ")[0] in HEADLINE] or protocols[:1]:
            trained = sorted((p for p in here if p.protocol == protocol and not p.cell.row.untrained), key=lambda p: -p.mean)
            if trained:
                others = [trained[0].cell.random, *(p.cell for p in trained[1:2])]
                pairs.setdefault(table, []).extend((protocol, trained[0].cell, other) for other in others
                                                   if other and _has_classes(other))
    return {table: each[:4] for table, each in pairs.items() if each}


def _has_classes(cell: Cell) -> bool:
    return bool(cell.runs and cell.runs[0].result.get("per_class"))
