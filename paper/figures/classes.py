"""Figures of probabilities and classes: how well probabilities are calibrated, and where two methods differ."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.plot.style import COLUMN, TEXT, styled
from bench.report.aggregate import Cell, spread
from bench.report.statistics import welch
from paper.columns import RARE
from paper.figures.panels import FEW, PALE, THIN, Styles, add_legend, make_figure, make_panels, rows_with_runs, wrap
from paper.figures.points import LEAST_PREDICTIONS, Pair, Point, reliability_of
from paper.labels import row_label


@styled
def reliability(points: Sequence[Point], styles: Styles) -> Figure:
    """Share observed minus probability predicted, against the latter; all classes and runs together, 0 where they agree.

    The reliability curve less its diagonal. Of many rows the best and random stand out, and the others are pale.
    """
    rows = rows_with_runs(points)
    figure = make_figure(points, 1.5, rows)
    for axes, panel in make_panels(figure, points, sharex=True, sharey=True):
        best = max(panel, key=lambda p: p.mean)
        for p in panel:
            predicted, observed = np.reshape(reliability_of(p.cell), (-1, 2)).T
            clear = len(panel) <= FEW or p is best or p.cell.row.untrained
            axes.plot(predicted, observed - predicted, **styles.line(p.cell.row) | (THIN if clear else PALE), markevery=2)
        axes.axhline(0, color="0.4", linewidth=0.7, zorder=0)
        axes.set_xlim(0, 1)
        axes.grid()
    figure.supylabel("observed minus predicted", fontsize=7)
    pale = "; with markers: the best and random" if len(rows) > FEW else ""
    bins = f"bins of {LEAST_PREDICTIONS} predictions or more"
    add_legend(figure, rows, styles, f"predicted probability (above 0: predicted too low; {bins}{pale})")
    return figure


@styled
def classes(pairs: Sequence[Pair], styles: Styles, title: str = "") -> Figure:
    """A panel per pair, classes on y, the most frequent first: AUROC of the one minus the other's, interval over runs.

    Each dot is the mark of the method that is better; an interval is Welch's, where both have two runs or more.
    """
    positives = {name: n for _, *both in pairs for cell in both for name, n, _ in cell.per_class()}
    positives = dict(sorted(positives.items(), key=lambda each: (-each[1], each[0])))
    titles = [f"{wrap(protocol)}\n{wrap(row_label(one.row))}\nminus {wrap(row_label(other.row))}"
              for protocol, one, other in pairs]
    lines = max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(COLUMN if len(pairs) < 3 else TEXT, 0.12 * len(positives) + 0.12 * lines + 0.9))
    grid = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, heading, (_, one, other) in zip(grid, titles, pairs, strict=True):
        _draw_differences(axes, one, other, positives, styles)
        axes.set_title(heading, fontsize=7)
    grid[0].set_yticks(range(len(positives)), [f"{name} ({n})" for name, n in positives.items()], fontsize=5.5)
    grid[0].set_ylim(len(positives) - 0.4, -0.6)
    text = "difference in AUROC (line: 95 % over runs, of rare classes cut at the edge; number: positives)"
    figure.supxlabel(textwrap.fill(text, int(17 * figure.get_figwidth())), fontsize=7)
    figure.suptitle(title, fontsize=8)
    return figure


def _draw_differences(axes: Axes, one: Cell, other: Cell, positives: Mapping[str, int], styles: Styles) -> None:
    """The classes that both cells have, each at its place; the interval of a rare class does not widen the panel."""
    a, b = ({name: values for name, _, values in cell.per_class()} for cell in (one, other))
    inside = [0.0]
    for y, (name, count) in enumerate(positives.items()):
        if name not in a or name not in b:
            continue
        (mean, sd, n), (other_mean, other_sd, other_n) = spread(a[name]), spread(b[name])
        assert mean is not None and other_mean is not None  # a cell of classes has runs
        difference = mean - other_mean
        inside.append(difference)
        better = (one if difference > 0 else other).row
        if sd is not None and other_sd is not None:
            half = welch((sd, n), (other_sd, other_n))
            axes.plot((difference - half, difference + half), (y, y), color=styles.colour(better), linewidth=0.8)
            inside += (difference - half, difference + half) if count >= RARE else ()
        axes.plot(difference, y, **styles.mark(better), markersize=3.5, markeredgewidth=0.7)
    margin = 0.08 * ((max(inside) - min(inside)) or 0.1)
    axes.set_xlim(min(inside) - margin, max(inside) + margin)
    axes.axvline(0, color="0.4", linewidth=0.7, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x")
