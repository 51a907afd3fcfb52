"""The critical-difference diagram: methods at their mean ranks over tasks."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.plot.style import TEXT, styled
from bench.report.statistics import Ranking
from paper.figures.panels import wrap


@styled
def critical_difference(ranking: Ranking, title: str = "") -> Figure:
    """Methods at their mean ranks, the best at the left; a bar joins those that Nemenyi's test does not tell apart."""
    names = [wrap(name) for name in ranking.methods]
    n, half = len(names), math.ceil(len(names) / 2)
    lines = max(name.count("\n") for name in names) + 1
    heights = -0.6 - 0.35 * len(ranking.groups) - (0.2 + 0.7 * lines) * np.arange(half)  # the better half is at the left
    figure = Figure(figsize=(TEXT, 0.9 + 0.17 * (2.0 - heights[-1])))
    axes = figure.add_subplot()
    for i, (name, rank) in enumerate(zip(names, ranking.ranks, strict=True)):
        sign, x, y = (-1, 1.0, heights[i]) if i < half else (1, float(n), heights[n - 1 - i])
        x += sign * 0.06 * (n - 1)
        side = "right" if sign < 0 else "left"
        axes.plot((rank, rank, x), (0, y, y), color="0.4", linewidth=0.7)
        axes.text(x, y, f" {rank:.2f} ", va="center", ha=side, fontsize=7)
        axes.text(x + sign * 0.11 * (n - 1), y, name, va="center", ha=side, fontsize=7)
    for i, (first, last) in enumerate(ranking.groups):
        axes.plot((ranking.ranks[first], ranking.ranks[last]), (-0.35 * (i + 1),) * 2, color="black", linewidth=2.5,
                  solid_capstyle="butt")
    _draw_scale(axes, ranking)
    axes.set_title(title)
    axes.set(xlim=(1 - 0.65 * (n - 1), n + 0.65 * (n - 1)), ylim=(heights[-1] - 0.5, 2.5))
    axes.axis("off")
    return figure


def _draw_scale(axes: Axes, ranking: Ranking) -> None:
    """The axis of ranks at height 0; above it, the critical difference as a bar."""
    distance, n = ranking.critical_difference, len(ranking.ranks)
    axes.plot((1, 1 + distance), (1.3, 1.3), color="black", linewidth=1.2, marker="|")
    axes.text(1, 1.7, f"critical difference {distance:.2f}, {ranking.tasks} tasks, Friedman p = {ranking.p:.2g}", fontsize=7)
    axes.plot((1, n), (0, 0), color="black", linewidth=0.8)
    for rank in range(1, n + 1):
        axes.plot((rank, rank), (0, 0.2), color="black", linewidth=0.8)
        axes.text(rank, 0.3, str(rank), ha="center", fontsize=7)
