"""Figures as a function of records."""

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from bench.plot.style import COLUMN, TEXT, look, save, styled
from bench.report.aggregate import Cell, Report, spread
from bench.report.results import RANDOM, Pretraining
from bench.report.rows import Row
from bench.report.statistics import Ranking, welch
from paper.columns import rankings
from paper.families import hours_of
from paper.labels import row_label, series_label, store_label

Run = tuple[str, str, dict[str, Any]]  # row label, method, result of a pre-training
Runs = Mapping[str, Sequence[Pretraining]]  # row label -> its pre-trainings
Pair = tuple[str, Cell, Cell]  # protocol; the cells whose difference is drawn, the first minus the second

HEADLINE = ("linear", "finetune")  # the protocols of arXiv 2410.13867: they come first
DOWN, ACROSS = 2, 4  # protocols and tasks on a page; ours
SEEN = 30  # predictions, at least, in a bin whose observed share is drawn: its standard error is at most .09; ours
FEW = 6  # lines in a panel whose intervals can be told apart; ours
THIN: dict[str, Any] = {"linewidth": 0.8, "markersize": 3.5, "markeredgewidth": 0.7}
DASHES = ("-", "--", ":", "-.")  # of the recipes of one method


@dataclass(frozen=True)
class Point:
    """A cell, and what its column stands for."""

    cell: Cell
    protocol: str  # and the next two: its column's
    at: float  # share of the pre-training's steps
    fraction: float  # share of the patients whose labels train

    @property
    def table(self) -> tuple[str, str]:
        return store_label(self.cell.column), self.cell.column.task

    @property
    def mean(self) -> float:
        return float(np.mean(self.cell.values)) if self.cell.values else math.nan


def placed(report: Report) -> list[Point]:
    """The cells of macro AUROC but those of controls."""
    return [Point(c, series_label(column), column.key.at, column.key.fraction) for column in report.columns
            if not column.key.control for c in column.cells if c.metric == "macro_auroc"]


def write(report: Report, out: Path) -> list[Path]:
    """The files written, each figure as PNG, SVG and PDF; same records, same bytes.

    A figure of many protocols or tasks has pages: NAME, NAME-2, ...; linear and finetune are on the first. All but `along`
    are of the last checkpoint, all but `labels` of all labels.
    """
    points = placed(report)
    runs = {row_label(row): report.pretrainings(row) for row in report.rows}
    last, whole = [p for p in points if p.at == 1], [p for p in points if p.fraction == 1]
    main = [p for p in last if p.fraction == 1]
    figures: list[tuple[str, Sequence[Point], Callable[[Sequence[Point]], Figure]]] = [
        ("auroc", main, auroc),
        ("labels", several(last, "fraction"), labels),
        ("along", several(whole, "at"), lambda page: along(page, runs)),
        ("cost", timed(main, runs), lambda page: cost(page, runs)),
        ("reliability", [p for p in main if reliability_of(p.cell)], reliability),
    ]
    drawn = []
    for name, chosen, draw in figures:
        for i, page in enumerate(pages(chosen), 1):
            drawn += save(draw(page), out / (name if i == 1 else f"{name}-{i}"))
    for i, (what, each) in enumerate(rankings(report).items(), 1):
        drawn += save(critical_difference(each, what), out / f"ranks-{i}")
    for (store, task), pairs in pairs_of(main).items():
        name = re.sub("[^a-z0-9]+", "-", f"{store} {task}".lower()).strip("-")
        drawn += save(classes(pairs, f"{store}, {task}"), out / f"classes-{name}")
    curves = [(row_label(row), row.method, r.result) for row in report.rows for r in runs[row_label(row)]]
    return drawn + (save(pretraining(curves), out / "pretraining") if curves else [])


def several(points: Sequence[Point], share: str) -> list[Point]:
    """The points of the tables and protocols in which trained backbones have runs at two or more of these shares."""
    found: dict[Any, set[float]] = {}
    for p in points:
        if p.cell.runs and p.cell.row.method != RANDOM:
            found.setdefault((p.table, p.protocol), set()).add(getattr(p, share))
    return [p for p in points if len(found.get((p.table, p.protocol), ())) > 1]


def pages(points: Sequence[Point]) -> list[list[Point]]:
    """The points of DOWN protocols and ACROSS tables each; pages on which nothing has a run are left out."""
    protocols = sorted({p.protocol for p in points}, key=_first)
    tables = list(dict.fromkeys(p.table for p in points))
    found = []
    for i in range(0, len(protocols), DOWN):
        for j in range(0, len(tables), ACROSS):
            page = [p for p in points if p.protocol in protocols[i : i + DOWN] and p.table in tables[j : j + ACROSS]]
            if any(p.cell.runs for p in page):
                found.append(page)
    return found


def _first(protocol: str) -> tuple[int, str]:
    name = protocol.split(" ")[0]
    return HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), protocol


def hours(runs: Sequence[Pretraining]) -> float:
    """Hours of a GPU or a core that one pre-training takes, mean over these; 0 where none is known."""
    return spread([each[0] for each in map(hours_of, runs) if each])[0] or 0.0


def timed(points: Sequence[Point], runs: Runs) -> list[Point]:
    """The points whose pre-training took a known time, and the random ones beside them."""
    spent = {label: hours(each) for label, each in runs.items()}
    panels = {(p.table, p.protocol) for p in points if p.cell.runs and spent[row_label(p.cell.row)]}
    return [p for p in points if (p.table, p.protocol) in panels and (spent[row_label(p.cell.row)] or p.cell.row.method == RANDOM)]


def reliability_of(cell: Cell) -> list[tuple[float, float]]:
    """(mean predicted probability, share observed) in each bin of SEEN predictions or more, of all the cell's runs."""
    sums: dict[int, np.ndarray] = {}
    for run in cell.runs:
        found = run.result.get("calibration", {"bin": [], "n": [], "predicted": [], "observed": []})
        for i, n, predicted, observed in zip(*(found[k] for k in ("bin", "n", "predicted", "observed")), strict=True):
            sums[i] = sums.get(i, np.zeros(3)) + np.array([n, n * predicted, n * observed])
    return [(float(p / n), float(o / n)) for _, (n, p, o) in sorted(sums.items()) if n >= SEEN]


def pairs_of(points: Sequence[Point]) -> dict[tuple[str, str], list[Pair]]:
    """{table: the best method and random, the two best}, for linear and finetune or, without these, the first protocol."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for table in dict.fromkeys(p.table for p in points):
        here = [p for p in points if p.table == table and _has_classes(p.cell)]
        protocols = sorted({p.protocol for p in here}, key=_first)
        for protocol in [name for name in protocols if name.split(" ")[0] in HEADLINE] or protocols[:1]:
            trained = sorted((p for p in here if p.protocol == protocol and p.cell.row.method != RANDOM), key=lambda p: -p.mean)
            if trained:
                others = [trained[0].cell.random, *(p.cell for p in trained[1:2])]
                found.setdefault(table, []).extend((protocol, trained[0].cell, other) for other in others
                                                   if other and _has_classes(other))
    return {table: pairs[:4] for table, pairs in found.items() if pairs}


def _has_classes(cell: Cell) -> bool:
    return bool(cell.runs and cell.runs[0].result.get("per_class"))


@styled
def auroc(points: Sequence[Point]) -> Figure:
    """A row of panels per protocol, a panel per table, methods on y, the best first; mean, interval, runs as dots."""
    panels = [[p for p in points if (p.protocol, p.table) == key] for key in dict.fromkeys((p.protocol, p.table) for p in points)]
    place: dict[str, list[float]] = {row_label(p.cell.row): [] for p in points}
    for panel in panels:
        for i, p in enumerate(sorted((p for p in panel if p.cell.runs), key=lambda p: -p.mean)):
            place[row_label(p.cell.row)].append(i / len(panel))
    names = sorted(place, key=lambda label: np.mean(place[label]) if place[label] else math.inf)
    height = max(0.15, 0.05 + 0.12 * max(_wrapped(name).count("\n") + 1 for name in names)) * len(names)
    figure = _figure(points, height)
    for axes, panel in _panels(figure, points, sharex="col", sharey=True):
        _dots(axes, [p.cell for p in panel], names)
    figure.supxlabel("macro AUROC with interval (small dots: runs; dashed: random)", fontsize=7)
    return figure


@styled
def labels(points: Sequence[Point]) -> Figure:
    """AUROC against the share of patients with labels: a row of panels per protocol, a panel per table."""
    rows = [p.cell.row for p in points if p.cell.runs]
    figure = _figure(points, 1.5, rows)
    shares = sorted({p.fraction for p in points})
    for axes, panel in _panels(figure, points, sharex=True):
        _lines(axes, panel, "fraction")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    _ylabel(figure, "macro AUROC")
    _legend(figure, rows, f"% of the patients whose labels train ({_bands(points)})")
    return figure


@styled
def along(points: Sequence[Point], runs: Runs) -> Figure:
    """AUROC along the pre-training (Figure 2 of arXiv 2410.13867), as `labels`; below, loss and RankMe of the same runs."""
    rows = list({row_label(p.cell.row): p.cell.row for p in points if p.cell.runs}.values())
    upper, lower = _figure(points, 1.5).get_figheight(), 2.0 + _entries(rows, TEXT)[1]
    figure = Figure(figsize=(TEXT, upper + lower))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(upper, lower))[:, 0]
    for axes, panel in _panels(top, points, sharex=True):
        _lines(axes, panel, "at")
    _ylabel(top, "macro AUROC")
    loss, rankme = bottom.subplots(1, 2, sharex=True)
    for row in rows:
        style = _line(row, rows)
        for result in (r.result for r in runs[row_label(row)]):
            curves, looks = result["curves"], result["monitor"]
            if values := curves.get("loss"):  # none of a backbone that was never trained
                low, high = min(values), max(values)
                loss.plot(np.array(curves["step"]) / curves["step"][-1], (np.array(values) - low) / ((high - low) or 1),
                          style["linestyle"], color=style["color"], linewidth=0.6)
                if looks.get("rankme"):
                    rankme.plot(np.array(looks["step"]) / curves["step"][-1], np.array(looks["rankme"], float), **style, **THIN,
                                markevery=max(1, len(looks["step"]) // 4))
    loss.set_title("loss, each run's from its lowest (0) to its highest (1)")
    rankme.set_title("RankMe")
    for axes in (loss, rankme, *top.axes):
        axes.set_xlim(0, 1.04)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid()
    _legend(bottom, rows, f"share of the pre-training's steps ({_bands(points)})")
    return figure


@styled
def cost(points: Sequence[Point], runs: Runs) -> Figure:
    """AUROC with interval against the time of pre-training: a row of panels per protocol, a panel per table."""
    spent = {row_label(p.cell.row): hours(runs[row_label(p.cell.row)]) for p in points}
    unit, factor = ("hours", 1) if max(spent.values()) >= 1 else ("seconds", 3600)
    rows = list({row_label(p.cell.row): p.cell.row for p in points if spent[row_label(p.cell.row)]}.values())
    of = {each[1] for row in rows for each in map(hours_of, runs[row_label(row)]) if each}
    devices = {r.provenance.get("device") or "unknown" for row in rows for r in runs[row_label(row)]}
    figure = _figure(points, 1.5, rows)
    for axes, panel in _panels(figure, points, sharex=True):
        for p in (p for p in panel if p.cell.interval):
            if x := factor * spent[row_label(p.cell.row)]:
                style = _line(p.cell.row, rows)
                axes.plot((x, x), p.cell.interval or (), color=style["color"], linestyle=style["linestyle"], linewidth=0.8)
                axes.plot(x, p.mean, **{**style, **THIN, "linestyle": "", "markersize": 5}, zorder=3)
            else:  # never trained
                axes.axhline(p.mean, color="0.6", linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
    where = f"{len(devices)} kinds of device: times do not compare" if len(devices) > 1 else "".join(devices)
    _ylabel(figure, "macro AUROC with interval")
    _legend(figure, rows, f"{' or '.join(sorted(of))} {unit} of pre-training ({where}; dashed: random)")
    return figure


@styled
def reliability(points: Sequence[Point]) -> Figure:
    """Share observed minus probability predicted, against the latter; all classes and runs together, 0 where they agree.

    The reliability curve less its diagonal: many methods are told apart only so.
    """
    rows = [p.cell.row for p in points]
    figure = _figure(points, 1.5, rows)
    for axes, panel in _panels(figure, points, sharex=True, sharey=True):
        for p in panel:
            predicted, observed = np.reshape(reliability_of(p.cell), (-1, 2)).T
            axes.plot(predicted, observed - predicted, **_line(p.cell.row, rows), **THIN, markevery=2)
        axes.axhline(0, color="0.4", linewidth=0.7, zorder=0)
        axes.set_xlim(0, 1)
        axes.grid()
    figure.supylabel("observed minus predicted", fontsize=7)
    _legend(figure, rows, f"predicted probability (above 0: predicted too low; bins of {SEEN} predictions or more)")
    return figure


@styled
def classes(pairs: Sequence[Pair], title: str = "") -> Figure:
    """A panel per pair, classes on y, the most frequent first: AUROC of the one minus the other's, interval over runs.

    Each dot is the mark of the method that is better; an interval is Welch's, where both have two runs or more.
    """
    positives = {name: n for _, *both in pairs for cell in both for name, n, _ in cell.per_class()}
    names = sorted(positives, key=lambda name: (-positives[name], name))
    titles = [f"{_wrapped(protocol)}\n{_wrapped(row_label(one.row))}\nminus {_wrapped(row_label(other.row))}"
              for protocol, one, other in pairs]
    lines = max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(COLUMN if len(pairs) < 3 else TEXT, 0.12 * len(names) + 0.12 * lines + 0.8))
    grid = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, heading, (_, one, other) in zip(grid, titles, pairs, strict=True):
        a, b = ({name: values for name, _, values in cell.per_class()} for cell in (one, other))
        for y, name in enumerate(names):
            if name not in a or name not in b:
                continue
            (mean, sd, n), (its_mean, its_sd, its_n) = spread(a[name]), spread(b[name])
            assert mean is not None and its_mean is not None  # a cell of classes has runs
            found = mean - its_mean
            style = look((one if found > 0 else other).row.method)
            if sd is not None and its_sd is not None:
                half = welch((sd, n), (its_sd, its_n))
                axes.plot((found - half, found + half), (y, y), color=style["color"], linewidth=0.8)
            axes.plot(found, y, **style, markersize=3.5, markeredgewidth=0.7)
        axes.axvline(0, color="0.4", linewidth=0.7, zorder=0)
        axes.set_title(heading, fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="x")
    grid[0].set_yticks(range(len(names)), [f"{name} ({positives[name]})" for name in names], fontsize=5.5)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("difference in AUROC (line: 95 % over runs; number: positives)", fontsize=7)
    figure.suptitle(title, fontsize=8)
    return figure


@styled
def critical_difference(ranking: Ranking, title: str = "") -> Figure:
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
    axes.set_title(title)
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
    bottom, monitored = parts[-1, 0], ("rankme", "feature_sd")
    for axes, key in zip(bottom.subplots(1, 2), monitored, strict=True):
        _curves(axes, runs, "monitor", key)
        axes.set_title({"rankme": "RankMe", "feature_sd": "feature sd"}[key])
        axes.set_ylim(bottom=0)
    handles = [Line2D([], [], **look(m), label=m) for m in seen
               if any(r["monitor"].get(key) for _, method, r in runs if method == m for key in monitored)]
    if handles:
        bottom.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))
    return figure


def _curves(axes: Axes, runs: Sequence[Run], part: str, key: str) -> None:
    recipes = list(dict.fromkeys((label, method) for label, method, _ in runs))
    for label, method in recipes:
        namesakes = [each for each, name in recipes if name == method]
        dashes, style = DASHES[namesakes.index(label) % 4], look(method)
        colour = style["color"]
        name: str | None = label.removeprefix(method).strip(" ()") if len(namesakes) > 1 else None
        for result in (r[part] for each, _, r in runs if each == label and r[part].get(key)):
            steps, values = result["step"], np.array(result[key], float)
            line = axes.plot(steps, values, dashes, color=colour, linewidth=0.9)[0]
            if part == "monitor":
                line.set(**style, markersize=3.5, markeredgewidth=0.7, markevery=max(1, len(steps) // 8))
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


def _wrapped(label: str, width: int = 26) -> str:
    """The label in lines that fit beside a panel, what is in brackets on lines of its own."""
    return "\n".join(
        line
        for part in label.replace(" (", "\n(").split("\n")
        for line in textwrap.wrap(part, width, break_on_hyphens=False)
    )


def _figure(points: Sequence[Point], height: float, rows: Sequence[Row] = ()) -> Figure:
    """An empty figure for panels of this height, in inches, and for the rows' legend, which is not to be higher than they are."""
    down, across = len({p.protocol for p in points}), len({p.table for p in points})
    width = COLUMN if across == 1 and _entries(rows, COLUMN)[1] <= down * height else TEXT
    return Figure(figsize=(width, down * (height + 0.45) + 0.3 + _entries(rows, width)[1]))


def _panels(figure: Figure | SubFigure, points: Sequence[Point], **shared: Any) -> Iterator[tuple[Axes, list[Point]]]:
    """The axes of each protocol (down) and table (across, those of most protocols first) that has points, named, and these."""
    panels: dict[tuple[str, tuple[str, str]], list[Point]] = {}
    for p in points:
        panels.setdefault((p.protocol, p.table), []).append(p)
    protocols = sorted({protocol for protocol, _ in panels}, key=_first)
    found = [table for _, table in panels]
    tables = sorted(dict.fromkeys(p.table for p in points), key=lambda table: -found.count(table))
    grid = figure.subplots(len(protocols), len(tables), squeeze=False, **shared)
    for (i, j), axes in np.ndenumerate(grid):
        panel = panels.get((protocols[i], tables[j]), [])
        axes.set_title(f"{_wrapped(', '.join(tables[j]))}\n{_wrapped(protocols[i])}", fontsize=7)
        axes.set_visible(bool(panel))
        if i and not panel:  # a shared axis has its numbers where nothing stands below or before it
            grid[i - 1, j].tick_params(labelbottom=True)
        if not any((protocols[i], table) in panels for table in tables[:j]):
            axes.tick_params(labelleft=True)
        if panel:
            yield axes, panel


def _line(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """The look of a row's line among these rows: recipes of one method differ in dashes."""
    namesakes = list(dict.fromkeys(row_label(each) for each in rows if each.method == row.method))
    return {**look(row.method), "linestyle": DASHES[namesakes.index(row_label(row)) % len(DASHES)]}


def _entries(rows: Sequence[Row], width: float) -> tuple[int, float]:
    """How many columns of a legend fit into this width, and its height; in inches."""
    names = [_wrapped(label, 40).split("\n") for label in dict.fromkeys(row_label(row) for row in rows)]
    columns = max(1, min(8, int(17 * width / (max((len(line) for name in names for line in name), default=1) + 7))))
    return columns, 0.13 * math.ceil(sum(map(len, names)) / columns)


def _ylabel(figure: Figure | SubFigure, text: str) -> None:
    """What is on the y axis of all panels, beside the first of each row."""
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) and place.is_first_col():
            axes.set_ylabel(text, fontsize=7)


def _legend(figure: Figure | SubFigure, rows: Sequence[Row], title: str) -> None:
    """Below the panels what is on their x axis, and a row's line each."""
    width = figure.get_figwidth() if isinstance(figure, Figure) else TEXT
    handles = [Line2D([], [], **_line(row, rows), **THIN, label=_wrapped(label, 40))
               for label, row in {row_label(row): row for row in rows}.items()]
    figure.legend(handles=handles, loc="outside lower center", title=textwrap.fill(title, int(17 * width)), title_fontsize=7,
                  ncols=_entries(rows, width)[0])


def _lines(axes: Axes, panel: Sequence[Point], share: str) -> None:
    """A line per row through its points at these shares; intervals as _bands says."""
    rows = list({row_label(p.cell.row): p.cell.row for p in panel if p.cell.runs}.values())
    best = max((p for p in panel if p.cell.runs), key=lambda p: (getattr(p, share), p.mean))
    for row in rows:
        here = sorted((p for p in panel if row_label(p.cell.row) == row_label(row) and p.cell.runs), key=lambda p: getattr(p, share))
        x, style = [getattr(p, share) for p in here], _line(row, rows)
        if len(rows) <= FEW or row.method == RANDOM or row_label(row) == row_label(best.cell.row):
            low, high = zip(*(p.cell.interval or () for p in here), strict=True)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(x, [p.mean for p in here], **style, **THIN)
    axes.grid()


def _bands(points: Sequence[Point]) -> str:
    many = len({row_label(p.cell.row) for p in points if p.cell.runs}) > FEW
    return "band: interval of the best and of random" if many else "band: interval"


def _dots(axes: Axes, cells: Sequence[Cell], labels: Sequence[str]) -> None:
    for cell in cells:
        y, mean = labels.index(row_label(cell.row)), np.mean(cell.values) if cell.values else math.nan
        style = look(cell.row.method)
        if cell.interval is None:
            axes.text(0.02, y, "--", transform=axes.get_yaxis_transform(), va="center", color="0.5")
            continue
        axes.plot(cell.interval, (y, y), color=style["color"], solid_capstyle="butt", linewidth=1.0)
        axes.plot(mean, y, **style, markersize=4.5, markeredgewidth=0.8, zorder=3)
        axes.plot(cell.values, [y + 0.35] * len(cell.values), ".", color=style["color"], markersize=2.5, markeredgewidth=0)
        if cell.row.method == "random":  # the line that every method has to cross
            axes.axvline(float(mean), color="0.6", linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    axes.set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
