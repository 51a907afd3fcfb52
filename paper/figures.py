"""Figures as a function of records."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.evaluation.compare import Ranking
from bench.plot import COLUMN, TEXT, look, save, styled
from bench.report import Cell, Record, Row, pretrainings, rankings

Run = tuple[str, str, dict[str, Any]]  # row label, method, result of a pre-training


def write(cells: Sequence[Cell], rows: Sequence[Row], records: Sequence[Record], out: Path) -> list[Path]:
    """The files written, each figure as PNG, SVG and PDF; same records, same bytes."""
    aurocs = [c for c in cells if c.metric == "macro_auroc"]
    drawn = save(auroc(aurocs), out / "auroc") if aurocs else []
    for i, each in enumerate(rankings(cells).values(), 1):
        drawn += save(critical_difference(each), out / f"ranks-{i}")
    curves = [(row.label, row.method, r["result"]) for row in rows for r in pretrainings(row, records)]
    return drawn + save(pretraining(curves), out / "pretraining")


@styled
def auroc(cells: Sequence[Cell]) -> Figure:
    """A row of panels per table, a panel per protocol, methods on y; mean, interval, runs as dots."""
    tables = list(dict.fromkeys((cell.store, cell.task) for cell in cells))
    labels = list(dict.fromkeys(cell.row.label for cell in cells))
    panels = [list(dict.fromkeys(c.protocol for c in cells if (c.store, c.task) == t)) for t in tables]
    columns = max(len(panel) for panel in panels)
    height = max(0.24, 0.05 + 0.14 * max(_wrapped(label).count("\n") + 1 for label in labels)) * len(labels) + 0.7
    figure = Figure(figsize=(COLUMN if columns == 1 else TEXT, height * len(tables) + 0.3))
    grid = figure.subplots(len(tables), columns, sharex="row", sharey=True, squeeze=False)
    for table, panel, line in zip(tables, panels, grid, strict=True):
        for axes in line[len(panel) :]:
            axes.set_visible(False)
        for axes, protocol in zip(line, panel, strict=False):
            _dots(axes, [c for c in cells if (c.store, c.task, c.protocol) == (*table, protocol)], labels)
            heading = f"{table[0]}, {table[1]}" if axes is line[0] else ""
            axes.set_title(f"{heading}\n{_wrapped(protocol)}")
    figure.supxlabel("macro AUROC with interval (small dots: runs)", fontsize=7)
    return figure


@styled
def critical_difference(ranking: Ranking) -> Figure:
    """Methods at their mean ranks, the best at the left; a bar joins those that Nemenyi's test does not tell apart."""
    ranks, groups, distance = ranking.ranks, ranking.groups, ranking.critical_difference
    names = [_wrapped(name) for name in ranking.methods]
    n, half = len(ranks), math.ceil(len(ranks) / 2)
    lines = max(name.count("\n") for name in names) + 1
    labels = -0.6 - 0.35 * len(groups) - (0.2 + 0.7 * lines) * np.arange(half)  # heights; the better half is at the left
    figure = Figure(figsize=(TEXT, 0.9 + 0.17 * (2.0 - labels[-1])))
    axes = figure.add_subplot()
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        sign, x, y = (-1, 1.0, labels[i]) if i < half else (1, float(n), labels[n - 1 - i])
        x += sign * 0.06 * (n - 1)
        axes.plot((rank, rank, x), (0, y, y), color="0.4", linewidth=0.7)
        axes.text(x, y, f" {rank:.2f} ", va="center", ha="right" if sign < 0 else "left", fontsize=7)
        axes.text(x + sign * 0.11 * (n - 1), y, name, va="center", ha="right" if sign < 0 else "left", fontsize=7)
    for i, (first, last) in enumerate(groups):
        axes.plot((ranks[first], ranks[last]), (-0.35 * (i + 1),) * 2, color="black", linewidth=2.5,
                  solid_capstyle="butt")
    axes.plot((1, 1 + distance), (1.3, 1.3), color="black", linewidth=1.2, marker="|")
    axes.text(1, 1.7, f"critical difference {distance:.2f}, {ranking.tasks} tasks, Friedman p = {ranking.p:.2g}", fontsize=7)
    axes.plot((1, n), (0, 0), color="black", linewidth=0.8)
    for rank in range(1, n + 1):
        axes.plot((rank, rank), (0, 0.2), color="black", linewidth=0.8)
        axes.text(rank, 0.3, str(rank), ha="center", fontsize=7)
    axes.set(xlim=(1 - 0.65 * (n - 1), n + 0.65 * (n - 1)), ylim=(labels[-1] - 0.5, 2.5))
    axes.axis("off")
    return figure


@styled
def pretraining(runs: Sequence[Run]) -> Figure:
    """Loss against step, a panel per method (their losses do not compare); RankMe; feature sd."""
    seen = list(dict.fromkeys(method for _, method, _ in runs))
    trained = [m for m in seen if any(r["curves"].get("loss") for _, method, r in runs if method == m)]
    rows = math.ceil(len(trained) / 4)
    columns = math.ceil(len(trained) / max(rows, 1))
    figure = Figure(figsize=(TEXT, 1.6 * rows + 2.6))
    heights = [1.6 * rows, 2.6] if rows else [2.6]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    if rows:
        grid = parts[0, 0].subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(trained) :]:
            axes.set_visible(False)
        for axes, name in zip(grid, trained, strict=False):
            _curves(axes, [run for run in runs if run[1] == name], "curves", "loss")
            axes.set_title(name)
        for axes in grid[::columns]:
            axes.set_ylabel("loss")
    bottom = parts[-1, 0]
    for axes, key in zip(bottom.subplots(1, 2), ("rankme", "feature_sd"), strict=True):
        _curves(axes, runs, "monitor", key)
        axes.set_title({"rankme": "RankMe", "feature_sd": "feature sd"}[key])
        axes.set_ylim(bottom=0)
    handles = [Line2D([], [], color=look(m)[0], marker=look(m)[1], label=m) for m in seen]
    if handles:
        bottom.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)))
    return figure


def _curves(axes: Axes, runs: Sequence[Run], part: str, key: str) -> None:
    recipes = list(dict.fromkeys((label, method) for label, method, _ in runs))
    for label, method in recipes:
        namesakes = [each for each, name in recipes if name == method]
        dashes = ("-", "--", ":", "-.")[namesakes.index(label) % 4]
        colour, marker = look(method)
        name: str | None = label.removeprefix(method).strip(" ()") if len(namesakes) > 1 else None
        for result in (r[part] for each, _, r in runs if each == label and r[part].get(key)):
            steps, values = result["step"], np.array(result[key], float)
            line = axes.plot(steps, values, dashes, color=colour, linewidth=0.9)[0]
            if part == "monitor":
                line.set(marker=marker, markersize=3.5, markevery=max(1, len(steps) // 8))
                if len(steps) == 1:  # never trained: the level from which the others start
                    axes.axhline(values[0], color=colour, linewidth=0.6, linestyle=":")
            elif name:
                line.set_label(_wrapped(name))
                name = None  # its seeds share one entry
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=6, handlelength=2.4)
    if not any(result[part].get(key) for _, _, result in runs):
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="0.5")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid()


def _wrapped(label: str) -> str:
    """The label in lines that fit beside a panel, what is in brackets on lines of its own."""
    return "\n".join(
        line
        for part in label.replace(" (", "\n(").split("\n")
        for line in textwrap.wrap(part, 26, break_on_hyphens=False)
    )


def _dots(axes: Axes, cells: Sequence[Cell], labels: Sequence[str]) -> None:
    for cell in cells:
        y, mean = labels.index(cell.row.label), np.mean(cell.values) if cell.values else math.nan
        colour, marker = look(cell.row.method)
        if cell.interval is None:
            axes.text(0.02, y, "--", transform=axes.get_yaxis_transform(), va="center", color="0.5")
            continue
        axes.plot(cell.interval, (y, y), color=colour, solid_capstyle="butt", linewidth=1.2)
        axes.plot(mean, y, marker, color=colour, ms=6, mec="white", mew=0.3, zorder=3)
        axes.plot(cell.values, [y + 0.3] * len(cell.values), ".", color=colour, markersize=3, alpha=0.6)
        if cell.row.method == "random":  # the line that every method has to cross
            axes.axvline(float(mean), color="0.6", linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    axes.set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
