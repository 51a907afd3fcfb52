"""Figures of macro AUROC: per task, against labels, along pre-training, against its cost."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from bench.plot.style import TEXT, styled
from bench.report.results import PretrainRecipe
from bench.report.rows import Row
from paper.families import hours_of
from paper.figures.curves import Curve, draw_curve
from paper.figures.panels import (
    FEW,
    THIN,
    Styles,
    add_legend,
    add_ylabel,
    legend_size,
    make_figure,
    make_panels,
    rows_with_runs,
    wrap,
)
from paper.figures.points import Point, Runs, hours
from paper.labels import row_label

# The line of the random backbone, which every method has to cross.
RANDOM_LINE: dict[str, Any] = {"color": "0.6", "linewidth": 0.6, "linestyle": (0, (3, 2)), "zorder": 0}


@styled
def auroc(points: Sequence[Point], styles: Styles) -> Figure:
    """A row of panels per protocol, a panel per table, methods on y, the best first; mean, interval, runs as dots."""
    keys = dict.fromkeys((p.protocol, p.table) for p in points)
    panels = [[p for p in points if (p.protocol, p.table) == key] for key in keys]
    rows = {p.cell.row.key: p.cell.row for p in points}
    places: dict[PretrainRecipe, list[float]] = {key: [] for key in rows}
    for panel in panels:
        for i, p in enumerate(sorted((p for p in panel if p.cell.runs), key=lambda p: -p.mean)):
            places[p.cell.row.key].append(i / len(panel))
    order = sorted(rows.values(), key=lambda row: np.mean(places[row.key]) if places[row.key] else math.inf)
    names = [wrap(row_label(row), 32) for row in order]
    spacing = [max(1.0, 0.34 + 0.66 * (name.count("\n") + 1)) for name in names]  # a name of many lines has more room
    heights = np.cumsum(spacing) - 0.5 * np.array(spacing) - 0.5
    at = {row.key: float(y) for row, y in zip(order, heights, strict=True)}
    figure = make_figure(points, 0.19 * sum(spacing))
    for axes, panel in make_panels(figure, points, sharex="col", sharey=True):
        _draw_dots(axes, panel, at, styles)
        axes.set_yticks(heights, names)
        axes.set_ylim(sum(spacing) - 0.4, -0.6)
    figure.supxlabel("macro AUROC with interval (small dots: runs; dashed: random)", fontsize=7)
    return figure


def _draw_dots(axes: Axes, panel: Sequence[Point], heights: dict[PretrainRecipe, float], styles: Styles) -> None:
    for p in panel:
        cell, y = p.cell, heights[p.cell.row.key]
        colour = styles.colour(cell.row)
        if cell.interval is None:
            axes.text(0.02, y, "--", transform=axes.get_yaxis_transform(), va="center", color="0.5")
            continue
        axes.plot(cell.interval, (y, y), color=colour, solid_capstyle="butt", linewidth=1.0)
        axes.plot(p.mean, y, **styles.mark(cell.row), markersize=4.5, markeredgewidth=0.8, zorder=3)
        axes.plot(cell.values, [y + 0.35] * len(cell.values), ".", color=colour, markersize=2.5, markeredgewidth=0)
        if cell.row.untrained:
            axes.axvline(p.mean, **RANDOM_LINE)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")


@styled
def labels(points: Sequence[Point], styles: Styles) -> Figure:
    """AUROC against the share of patients with labels: a row of panels per protocol, a panel per table."""
    rows = rows_with_runs(points)
    figure = make_figure(points, 1.5, rows)
    shares = sorted({p.fraction for p in points})
    for axes, panel in make_panels(figure, points, sharex=True):
        _draw_lines(axes, panel, "fraction", styles)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    add_ylabel(figure, "macro AUROC")
    add_legend(figure, rows, styles, f"% of the patients whose labels train ({_bands(points)})")
    return figure


@styled
def along(points: Sequence[Point], runs: Runs, styles: Styles) -> Figure:
    """AUROC along the pre-training (Figure 2 of arXiv 2410.13867), as `labels`; below, loss and RankMe of the same runs.

    Loss and RankMe are means over a row's runs; few rows have a band from the lowest run to the highest.
    """
    rows = rows_with_runs(points)
    upper, lower = make_figure(points, 1.5).get_figheight(), 2.0 + legend_size(rows, TEXT)[1]
    figure = Figure(figsize=(TEXT, upper + lower))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(upper, lower))[:, 0]
    for axes, panel in make_panels(top, points, sharex=True):
        _draw_lines(axes, panel, "at", styles)
    add_ylabel(top, "macro AUROC")
    loss, rankme = bottom.subplots(1, 2, sharex=True)
    for row in rows:
        trained = [run.result for run in runs[row.key] if run.result["curves"].get("loss")]
        band = len(rows) <= FEW
        draw_curve(loss, Curve.of(trained, "curves", "loss", relative=True), styles.line(row) | THIN | {"marker": ""}, band)
        draw_curve(rankme, Curve.of(trained, "monitor", "rankme", relative=True), styles.line(row) | THIN, band)
    loss.set_title("loss, each run's from its lowest (0) to its highest (1)")
    rankme.set_title("RankMe")
    for axes in (loss, rankme, *top.axes):
        axes.set_xlim(0, 1.04)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid()
    add_legend(bottom, rows, styles, f"share of the pre-training's steps ({_bands(points)})")
    return figure


@styled
def cost(points: Sequence[Point], runs: Runs, styles: Styles) -> Figure:
    """AUROC with interval against the time of pre-training: a row of panels per protocol, a panel per table."""
    spent = {p.cell.row.key: hours(runs[p.cell.row.key]) for p in points}
    unit, factor = ("hours", 1) if max(spent.values()) >= 1 else ("seconds", 3600)
    rows = list({p.cell.row.key: p.cell.row for p in points if spent[p.cell.row.key]}.values())
    figure = make_figure(points, 1.5, rows)
    for axes, panel in make_panels(figure, points, sharex=True):
        for p in (p for p in panel if p.cell.interval):
            if x := factor * spent[p.cell.row.key]:
                axes.plot((x, x), p.cell.interval or (), **styles.line(p.cell.row) | {"marker": "", "linewidth": 0.8})
                axes.plot(x, p.mean, **styles.mark(p.cell.row) | {"markersize": 5, "markeredgewidth": 0.7}, zorder=3)
            else:  # never trained
                axes.axhline(p.mean, **RANDOM_LINE)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
    add_ylabel(figure, "macro AUROC with interval")
    add_legend(figure, rows, styles, _time_axis(rows, runs, unit))
    return figure


def _time_axis(rows: Sequence[Row], runs: Runs, unit: str) -> str:
    """What the x axis of `cost` shows: "GPU hours of pre-training (NVIDIA A100; dashed: random)"."""
    kinds = {each[1] for row in rows for each in map(hours_of, runs[row.key]) if each}
    devices = {run.provenance.get("device") or "unknown" for row in rows for run in runs[row.key]}
    device = f"{len(devices)} kinds of device: times do not compare" if len(devices) > 1 else "".join(devices)
    return f"{' or '.join(sorted(kinds))} {unit} of pre-training ({device}; dashed: random)"


def _draw_lines(axes: Axes, panel: Sequence[Point], share: str, styles: Styles) -> None:
    """A line per row through its points at these shares; intervals as _bands says."""
    rows = rows_with_runs(panel)
    best = max((p for p in panel if p.cell.runs), key=lambda p: (getattr(p, share), p.mean))
    for row in rows:
        here = sorted((p for p in panel if p.cell.row.key == row.key and p.cell.runs), key=lambda p: getattr(p, share))
        x = [getattr(p, share) for p in here]
        if len(rows) <= FEW or row.untrained or row.key == best.cell.row.key:
            low, high = zip(*(p.cell.interval or () for p in here), strict=True)
            axes.fill_between(x, low, high, color=styles.colour(row), alpha=0.15, linewidth=0)
        axes.plot(x, [p.mean for p in here], **styles.line(row) | THIN)
    axes.grid()


def _bands(points: Sequence[Point]) -> str:
    return "band: interval of the best and of random" if len(rows_with_runs(points)) > FEW else "band: interval"
