"""Figures of how pre-trainings went: loss, RankMe and feature sd against the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.plot.style import TEXT, styled
from bench.report.rows import Row
from paper.figures.panels import THIN, Styles, wrap
from paper.labels import row_label

Result = Mapping[str, Any]  # of a pre-training
Trained = tuple[Row, Sequence[Result]]

QUANTITIES = (("curves", "loss", "loss"), ("monitor", "rankme", "RankMe"), ("monitor", "feature_sd", "feature sd"))
ROWS = 8  # of panels on a page


@dataclass(frozen=True)
class Curve:
    """One quantity of several runs at the steps at which any of them has a value."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray  # of the runs
    high: np.ndarray

    @classmethod
    def of(cls, results: Sequence[Result], part: str, key: str, relative: bool = False) -> "Curve":
        """The curve of these runs, empty where none has values.

        relative: steps as shares of the last step of training, and losses scaled from each run's lowest (0) to its highest (1).
        """
        values: dict[float, list[float]] = {}
        for result in results:
            last = result["curves"]["step"][-1] if relative else 1
            pairs = zip(result[part].get("step", ()), result[part].get(key, ()), strict=False)
            run = [(step / last, value) for step, value in pairs if value is not None]
            if relative and key == "loss" and run:
                low, high = min(y for _, y in run), max(y for _, y in run)
                run = [(x, (y - low) / ((high - low) or 1)) for x, y in run]
            for x, y in run:
                values.setdefault(x, []).append(y)
        steps = sorted(values)
        lists = [values[step] for step in steps]
        return cls(np.array(steps), np.array([np.mean(each) for each in lists]), np.array([min(each) for each in lists]),
                   np.array([max(each) for each in lists]))


def draw_curve(axes: Axes, curve: Curve, style: Mapping[str, Any], band: bool = True) -> None:
    """The mean over runs as a line, with a band from the lowest run to the highest."""
    if curve.steps.size:
        if band and (curve.low < curve.high).any():
            axes.fill_between(curve.steps, curve.low, curve.high, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(curve.steps, curve.mean, **style, markevery=max(1, len(curve.steps) // 5))


def pages_of_curves(trained: Sequence[Trained]) -> list[Sequence[Trained]]:
    """As many rows on each page as can be read."""
    return [trained[i : i + ROWS] for i in range(0, len(trained), ROWS)]


@styled
def pretraining(page: Sequence[Trained], every: Sequence[Trained], styles: Styles) -> Figure:
    """A row of three panels per recipe: loss, RankMe, feature sd; the mean over runs in a band from the lowest to the highest.

    every: what all pages show. RankMe and feature sd have one scale on all of them, the losses of one method, too.
    """
    names = [wrap(row_label(row), 110) for row, _ in page]
    heights = [1.0 + 0.15 * (name.count("\n") + 1) for name in names]
    figure = Figure(figsize=(TEXT, sum(heights) + 0.3))
    parts = figure.subfigures(len(page), 1, squeeze=False, height_ratios=heights)[:, 0]
    for name, subfigure, (row, results) in zip(names, parts, page, strict=True):
        subfigure.suptitle(name, x=0.01, ha="left", fontsize=8)
        for axes, (part, key, title) in zip(subfigure.subplots(1, len(QUANTITIES)), QUANTITIES, strict=True):
            draw_curve(axes, Curve.of(results, part, key), styles.line(row) | THIN | ({"marker": ""} if key == "loss" else {}))
            axes.set_ylabel(title, fontsize=7)
            peers = [each for other, each in every if key != "loss" or other.method == row.method]
            if limits := _limits(peers, part, key):
                axes.set_ylim(limits)
            else:
                axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="0.5")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
            axes.grid()
    parts[-1].supxlabel("step (line: mean over runs; band: from the lowest run to the highest)", fontsize=7)
    return figure


def _limits(peers: Sequence[Sequence[Result]], part: str, key: str) -> tuple[float, float] | None:
    """The y axis of a quantity: with a margin around all values, from 0 but for losses; None without a value."""
    values = [y for results in peers for result in results for y in result[part].get(key, ()) if y is not None]
    if not values:
        return None
    low, high = (min(values) if key == "loss" else 0.0), max(values)
    margin = 0.06 * ((high - low) or 1.0)
    return (low - margin if key == "loss" else 0.0), high + margin
