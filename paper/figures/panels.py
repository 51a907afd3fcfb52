"""What the figures share: a grid of panels, the lines of the rows, and the legend below them."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from bench.plot.style import COLUMN, TEXT
from bench.report.results import PretrainRecipe
from bench.report.rows import Row
from paper.figures.points import Point, order
from paper.labels import row_label
from paper.looks import looks_of

FEW = 6  # lines in a panel whose bands can be told apart
THIN: dict[str, Any] = {"linewidth": 0.8, "markersize": 3.5, "markeredgewidth": 0.7}
PALE: dict[str, Any] = {"linewidth": 0.6, "marker": "", "alpha": 0.35}  # of lines that only show the range of many
DASHES = ("-", "--", ":", "-.")  # of the recipes of one method


class Styles:
    """How the rows of one report are drawn: by the look of their method, its recipes by their dashes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._looks = looks_of(row.method for row in rows)
        recipes: dict[str, list[PretrainRecipe]] = {}
        for row in rows:
            recipes.setdefault(row.method, []).append(row.key)
        self._dashes = {key: DASHES[i % len(DASHES)] for keys in recipes.values() for i, key in enumerate(keys)}

    def colour(self, row: Row) -> str:
        """The row's colour."""
        return self._looks[row.method].colour

    def mark(self, row: Row) -> dict[str, Any]:
        """The row's marker in matplotlib's words, without a line."""
        return {**self._looks[row.method].style(), "linestyle": ""}

    def line(self, row: Row) -> dict[str, Any]:
        """The row's line with its markers in matplotlib's words."""
        return {**self._looks[row.method].style(), "linestyle": self._dashes[row.key]}


def wrap(label: str, width: int = 26) -> str:
    """The label in lines that fit beside a panel, what is in brackets on lines of its own."""
    return "\n".join(
        line
        for part in label.replace(" (", "\n(").split("\n")
        for line in textwrap.wrap(part, width, break_on_hyphens=False)
    )


def make_figure(points: Sequence[Point], height: float, rows: Sequence[Row] = ()) -> Figure:
    """An empty figure for panels of this height, in inches, and for the rows' legend, which is not to be higher than they are."""
    down, across = len({p.protocol for p in points}), len({p.table for p in points})
    width = COLUMN if across == 1 and legend_size(rows, COLUMN)[1] <= down * height else TEXT
    return Figure(figsize=(width, down * (height + 0.45) + 0.3 + legend_size(rows, width)[1]))


def make_panels(figure: Figure | SubFigure, points: Sequence[Point], **shared: Any) -> Iterator[tuple[Axes, list[Point]]]:
    """The axes of each protocol (down) and table (across, those of most protocols first) that has points, named, and these."""
    panels: dict[tuple[str, tuple[str, str]], list[Point]] = {}
    for p in points:
        panels.setdefault((p.protocol, p.table), []).append(p)
    protocols = sorted({protocol for protocol, _ in panels}, key=order)
    counts = [table for _, table in panels]
    tables = sorted(dict.fromkeys(p.table for p in points), key=lambda table: -counts.count(table))
    grid = figure.subplots(len(protocols), len(tables), squeeze=False, **shared)
    for (i, j), axes in np.ndenumerate(grid):
        panel = panels.get((protocols[i], tables[j]), [])
        axes.set_title(f"{wrap(', '.join(tables[j]))}\n{wrap(protocols[i])}", fontsize=7)
        axes.set_visible(bool(panel))
        if i and not panel:  # a shared axis has its numbers where nothing stands below or before it
            grid[i - 1, j].tick_params(labelbottom=True)
        if not any((protocols[i], table) in panels for table in tables[:j]):
            axes.tick_params(labelleft=True)
        if panel:
            yield axes, panel


def legend_size(rows: Sequence[Row], width: float) -> tuple[int, float]:
    """How many columns of a legend fit into this width, and its height; in inches."""
    names = [wrap(label, 40).split("\n") for label in map(row_label, rows)]
    columns = max(1, min(8, int(17 * width / (max((len(line) for name in names for line in name), default=1) + 7))))
    return columns, 0.13 * math.ceil(sum(map(len, names)) / columns)


def add_ylabel(figure: Figure | SubFigure, text: str) -> None:
    """What is on the y axis of all panels, beside the first of each row."""
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) and place.is_first_col():
            axes.set_ylabel(text, fontsize=7)


def add_legend(figure: Figure | SubFigure, rows: Sequence[Row], styles: Styles, title: str) -> None:
    """Below the panels what is on their x axis, and a row's line each."""
    width = figure.get_figwidth() if isinstance(figure, Figure) else TEXT
    handles = [Line2D([], [], **styles.line(row) | THIN, label=wrap(row_label(row), 40)) for row in rows]
    figure.legend(handles=handles, loc="outside lower center", title=textwrap.fill(title, int(17 * width)), title_fontsize=7,
                  ncols=legend_size(rows, width)[0])


def rows_with_runs(points: Sequence[Point]) -> list[Row]:
    """The rows that have a run among the points, each once, in their order."""
    return list({p.cell.row.key: p.cell.row for p in points if p.cell.runs}.values())
