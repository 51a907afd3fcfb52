"""What is drawn anywhere: AUROC, pre-training curves, an ECG on paper, its views and masks; no pyplot."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from bench.core.errors import UserError
from bench.core.files import replace_file
from bench.data.signal import LEADS

COLUMN, TEXT = 3.5, 7.0  # inches: one column of a journal page, and both
PAPER = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
MARGIN = 10.0  # mm at the left of a page: a calibration pulse fits
HEAD = 10.0  # mm above a page, for its title
# mm of paper per unit: 10 mm/mV is the clinical standard; 2.5 mm/sd is ours (a lead's sd is about 0.2 mV).
GAIN = {"mV": 10.0, "sd": 2.5}
MM_PER_SECOND = 25.0

STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "lines.linewidth": 1.0, "lines.markersize": 5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.titlelocation": "left",
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "grid.color": "0.88", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "figure.constrained_layout.use": True, "savefig.dpi": 200, "svg.fonttype": "none",
    "svg.hashsalt": "ecgssl", "pdf.fonttype": 42, "pdf.use14corefonts": False,
    "text.parse_math": False,  # a name may hold a dollar
}  # fmt: skip
styled = matplotlib.style.context(["default", STYLE])  # as a decorator: a user's matplotlibrc changes nothing

# Okabe & Ito's palette without its yellow, which is too light for a line on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
NAMES = ("jepa", "mae", "simclr", "byol", "data2vec", "dino", "vicreg", "moco", "cpc", "lejepa", "cmsc", "st_mem", "mtae", "mlae",
         "barlow")
SHAPES = [(marker, filled) for filled in (True, False) for marker in "osD^vP*"] + [("X", False)]  # of NAMES
OTHERS = [(marker, filled) for filled in (True, False) for marker in "<>phd"]  # of methods that are not in NAMES


def look(method: str) -> dict[str, Any]:
    """Colour and marker of a method in matplotlib's words, the same in every figure: `axes.plot(x, y, **look(name))`.

    In grey, shape and filling alone tell known methods apart. A method that is not known gets its look, none of theirs,
    from the CRC-32 of its name.
    """
    i = NAMES.index(method) if method in NAMES else zlib.crc32(method.encode())
    marker, filled = SHAPES[i] if method in NAMES else OTHERS[i // 6 % len(OTHERS)]
    colour = COLOURS[1 + i % 6]
    if method == "random":
        colour, marker, filled = COLOURS[0], "X", True
    return {"color": colour, "marker": marker, "markeredgecolor": colour, "markerfacecolor": colour if filled else "white"}


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """The files written, `path` with each format's suffix; each is whole or absent, and holds no date."""
    cleared: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    for suffix in formats:
        image = io.BytesIO()
        with matplotlib.style.context(["default", STYLE]):
            figure.savefig(image, format=suffix, metadata=cleared[suffix])
        written.append(path.with_name(f"{path.name}.{suffix}"))
        with replace_file(written[-1]) as file:
            file.write(image.getvalue())
    return written


TITLES = {"loss": "loss", "rankme": "RankMe", "feature_sd": "feature sd", "lr": "learning rate",
          "gradient_norm": "gradient norm", "records_per_second": "records/s", "memory_mb": "peak memory (MB)"}


@styled
def runs(named: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Figure:
    """[(name, lines of metrics.jsonl)] -> a panel per quantity that any run has logged, a line per run."""
    logged = dict.fromkeys([*TITLES, *(key for _, lines in named for line in lines for key in line)])
    keys = [k for k in logged if k not in ("step", "seconds", "seconds_left")
            and any(k in line for _, lines in named for line in lines)]
    rows = max(1, math.ceil(len(keys) / 4))
    figure = Figure(figsize=(TEXT, 1.5 * rows + 0.25 * len(named) + 0.3))
    grid = figure.subplots(rows, 4, squeeze=False).ravel()
    for axes in grid[len(keys):]:
        axes.set_visible(False)
    for axes, key in zip(grid, keys, strict=False):
        for i, (name, lines) in enumerate(named):
            points = [(line["step"], line[key]) for line in lines if key in line]
            axes.plot(*np.reshape(points, (-1, 2)).T, color=COLOURS[i % len(COLOURS)], label=name, linewidth=0.9,
                      linestyle=("-", "--", ":", "-.")[i // len(COLOURS) % 4])
        axes.set_title(TITLES.get(key, key))
    figure.supxlabel("step", fontsize=8)
    if keys:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center")
    return figure


@dataclass(frozen=True)
class _Page:
    """An ECG laid out on paper; all lengths in mm of paper."""

    pieces: list[tuple[int, float, str, np.ndarray]]  # row, left edge, lead, trace
    baselines: list[float]  # of each row, above the bottom
    width: float
    height: float


def _page(signal: np.ndarray, rate_hz: float, leads: Sequence[str], unit: str) -> _Page:
    if unit not in GAIN:
        raise UserError(f"unit is {unit!r}; known are {', '.join(GAIN)}; write one of them")
    _check(signal, leads)
    at = {name.lower(): index for index, name in enumerate(leads)}
    millimetres = np.asarray(signal, float) * GAIN[unit]
    part = round(2.5 * rate_hz)
    whole = millimetres.shape[1] >= 4 * part
    pieces: list[tuple[int, float, str, np.ndarray]] = []
    for row, names in enumerate(PAPER):
        for column, name in enumerate(names):
            start = column * part if whole else 0  # columns follow each other in time, as on a recorder
            trace = millimetres[at[name.lower()], start : start + part]
            pieces.append((row, column * 2.5 * MM_PER_SECOND, name, trace))
    if whole:
        pieces.append((3, 0.0, "II", millimetres[at["ii"], : 4 * part]))
    baselines, height = _baselines([[p[3] for p in pieces if p[0] == row] for row in range(3 + whole)])
    return _Page(pieces, baselines, MARGIN + 4 * 2.5 * MM_PER_SECOND + 5.0, height)


def _draw_page(axes: Axes, page: _Page, rate_hz: float, unit: str, size: float) -> None:
    """The page on axes of its own shape; size 1 is true scale, lines and letters shrink with it."""
    for step, weight in ((1.0, 0.25), (5.0, 0.7)):
        if size * step >= 0.5:  # closer lines would be one red surface
            grid: dict[str, Any] = {"color": "#f0a8a8", "linewidth": weight * size, "zorder": 0}
            axes.vlines(np.arange(0.0, page.width + 0.1, step), 0, page.height, **grid)
            axes.hlines(np.arange(0.0, page.height + 0.1, step), 0, page.width, **grid)
    for baseline in page.baselines:
        pulse = baseline + GAIN[unit] * np.array([0, 0, 1, 1, 0, 0])
        axes.plot((2.5, 3.5, 3.5, 8.5, 8.5, 9.5), pulse, color="black", linewidth=0.8 * size)
    for row, x, name, trace in page.pieces:
        seconds = np.arange(trace.size) / rate_hz
        axes.plot(MARGIN + x + MM_PER_SECOND * seconds, page.baselines[row] + trace, color="black", linewidth=0.7 * size**0.5)
        if x:
            axes.plot((MARGIN + x,) * 2, page.baselines[row] + np.array([-4.0, 4.0]), color="black", linewidth=0.5 * size)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8 * size}
        # The name stands above the 0.32 s of trace that it would cover.
        top = min(40.0, float(np.nanmax(trace[: round(0.32 * rate_hz)], initial=5.0)))
        axes.text(MARGIN + x + 1.2, page.baselines[row] + top + 1.0, name, fontweight="bold", fontsize=8 * size**0.7, bbox=box,
                  zorder=1)
    axes.set(xlim=(0, page.width), ylim=(0, page.height))
    axes.axis("off")


@styled
def ecg(signal: np.ndarray, rate_hz: float, leads: Sequence[str] = LEADS, unit: str = "mV", title: str = "") -> Figure:
    """(12, T) ECG -> ECG paper at true scale: 3 x 4 leads of 2.5 s; below, lead II where 10 s are there."""
    page = _page(signal, rate_hz, leads, unit)
    figure = Figure(figsize=(page.width / 25.4, (page.height + HEAD) / 25.4), layout=None)
    figure.set_layout_engine("none")
    _draw_page(figure.add_axes((0.0, 0.0, 1.0, page.height / (page.height + HEAD))), page, rate_hz, unit, 1.0)
    y = 1 - 0.5 * HEAD / (page.height + HEAD)
    figure.text(0.01, y, title, va="center", fontsize=9)
    figure.text(0.99, y, _scale(rate_hz, unit), va="center", ha="right", fontsize=8)
    return figure


def _scale(rate_hz: float, unit: str) -> str:
    return (f"{MM_PER_SECOND:g} mm/s, {GAIN[unit]:g} mm/{unit}{' (unit: sd, not mV)' if unit == 'sd' else ''}, "
            f"{rate_hz:g} Hz")  # fmt: skip


@styled
def contact_sheet(signals: Sequence[np.ndarray], titles: Sequence[str], rate_hz: float, unit: str = "mV", columns: int = 2,
                  size: float = 0.5) -> Figure:
    """Many (12, T) ECGs in LEADS' order -> one sheet of small pages, row after row, at `size` of true scale."""
    pages = [_page(signal, rate_hz, LEADS, unit) for signal in signals]
    lines = [pages[i : i + columns] for i in range(0, len(pages), columns)]
    heights = [max(page.height for page in line) + HEAD for line in lines]
    width, height = columns * (pages[0].width + MARGIN), sum(heights) + HEAD
    figure = Figure(figsize=(size * width / 25.4, size * height / 25.4), layout=None)
    figure.set_layout_engine("none")
    top = height - HEAD
    for i, (line, tall) in enumerate(zip(lines, heights, strict=True)):
        for j, page in enumerate(line):
            left, bottom = j * (page.width + MARGIN) + MARGIN / 2, top - HEAD - page.height
            axes = figure.add_axes((left / width, bottom / height, page.width / width, page.height / height))
            _draw_page(axes, page, rate_hz, unit, size)
            figure.text(left / width, (top - 0.8 * HEAD) / height, titles[columns * i + j], fontsize=7)
        top -= tall
    figure.text(0.99, 1 - 0.6 * HEAD / height, f"{size:g} x {_scale(rate_hz, unit)}", va="center", ha="right", fontsize=7)
    return figure


@styled
def label_counts(tables: Sequence[tuple[str, Mapping[str, np.ndarray]]], folds: Sequence[int], title: str = "") -> Figure:
    """[(task, class -> records per fold)] -> a panel per task: records per class, and the share of each fold in grey."""
    rows = [max(1, len(classes)) for _, classes in tables]
    figure = Figure(figsize=(TEXT, sum(0.16 * n + 0.55 for n in rows) + 0.3))
    grid = figure.subplots(len(tables), 2, squeeze=False, width_ratios=(3, 2), height_ratios=[0.16 * n + 0.4 for n in rows])
    for (counts, shares), (task, classes) in zip(grid, tables, strict=True):
        names = sorted(classes, key=lambda name: (-classes[name].sum(), name))
        table = np.array([classes[name] for name in names]).reshape(len(names), len(folds))
        total = table.sum(1)
        counts.barh(range(len(names)), total, color="0.55", height=0.7)
        for y, n in enumerate(total):
            counts.text(n, y, f" {n:,}", va="center", fontsize=6)
        counts.set_xscale("symlog", linthresh=10)
        counts.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        counts.set_xlim(0, 3 * max(10, total.max(initial=1)))
        counts.set_title(f"{task}: records per class")
        image = shares.imshow(table / np.maximum(total, 1)[:, None], cmap="Greys", aspect="auto", vmin=0)
        for y, x in zip(*np.nonzero(table == 0), strict=True):  # no positive there: AUROC is not defined
            shares.text(x, y, "0", ha="center", va="center", fontsize=6, color="#D55E00")
        shares.set_xticks(range(len(folds)), [str(f) if f else "none" for f in folds])
        shares.set_title("share of each fold (0: none)")
        for axes in (counts, shares):
            axes.set_yticks(range(len(names)), names, fontsize=6)
            axes.set_ylim(len(names) - 0.4, -0.6)
        shares.tick_params(labelleft=False)
        image.set_clim(0, max(0.15, float(image.get_clim()[1] or 0)))
    figure.suptitle(title, fontsize=8)
    return figure


def _baselines(rows: Sequence[Sequence[np.ndarray]]) -> tuple[list[float], float]:
    """(mm of each row's zero above the bottom, height in mm): 25 mm apart, farther where rows would meet."""
    # 40 mm is the limit: an artefact may leave its row, but not make the page endless.
    extents = [np.concatenate(row) for row in rows]
    above = [float(np.clip(np.nanmax(e, initial=0.0), 10.0, 40.0)) for e in extents]
    below = [float(np.clip(-np.nanmin(e, initial=0.0), 6.0, 40.0)) for e in extents]
    depth = [above[0] + 5.0]
    for i in range(1, len(rows)):
        depth.append(depth[-1] + max(25.0, below[i - 1] + above[i] + 4.0))
    height = 5.0 * math.ceil((depth[-1] + below[-1] + 4.0) / 5.0)
    return [height - d for d in depth], height


@styled
def views(
    panels: Sequence[tuple[str, np.ndarray]], rate_hz: float, leads: Sequence[str] = ("II", "V1", "V5")
) -> Figure:
    """[(name, (12, T) ECG in LEADS' order)], original first -> a row per view over the original in grey."""
    figure = Figure(figsize=(COLUMN if len(leads) == 1 else TEXT, 0.75 * len(panels) + 0.5))
    grid = figure.subplots(len(panels), len(leads), sharex=True, sharey="col", squeeze=False)
    for line, (name, signal) in zip(grid, panels, strict=True):
        _check(signal, LEADS)
        for axes, lead in zip(line, leads, strict=True):
            for trace, colour in ((panels[0][1], "0.75"), (signal, "black")):
                if trace.shape == signal.shape:
                    trace = trace[LEADS.index(lead)]
                    axes.plot(np.arange(trace.size) / rate_hz, trace, color=colour, linewidth=0.7)
            axes.margins(x=0)
        line[0].set_title(name)
    for axes, lead in zip(grid[0], leads, strict=True):
        axes.set_title(lead, loc="right", fontweight="bold")
    figure.supxlabel("seconds", fontsize=8)
    return figure


@dataclass(frozen=True)
class Sight:
    """What an encoder is given of a record: (12, T) in LEADS' order."""

    name: str
    signal: np.ndarray  # sd
    seen: np.ndarray  # bool
    rebuilt: np.ndarray | None = None  # what a decoder makes of the hidden samples, NaN elsewhere


@styled
def sights(panels: Sequence[Sight], rate_hz: float, title: str = "", spacing: float = 6.0) -> Figure:
    """All leads of each panel, side by side on one scale of time, `spacing` sd apart: black is seen, grey is hidden."""
    figure = Figure(figsize=(TEXT, 4.6))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[p.signal.shape[1] for p in panels])[0]
    baselines = -spacing * np.arange(len(LEADS))
    for axes, panel in zip(grid, panels, strict=True):
        _check(panel.signal, LEADS)
        seconds = np.arange(panel.signal.shape[1]) / rate_hz
        for base, trace, seen in zip(baselines, panel.signal, panel.seen, strict=True):
            edges = np.flatnonzero(np.diff(np.r_[True, seen, True])) / rate_hz  # where what is hidden begins, ends, begins, ...
            axes.broken_barh(list(zip(edges[::2], np.diff(edges)[::2], strict=True)), (base - spacing / 2, spacing),
                             color="0.93", linewidth=0)
            axes.plot(seconds, base + trace, color="0.7", linewidth=0.6)
            axes.plot(seconds, base + np.where(seen, trace, np.nan), color="black", linewidth=0.7)
        if panel.rebuilt is not None:
            axes.plot(seconds, (baselines[:, None] + panel.rebuilt).T, color=COLOURS[1], linewidth=1.0)
        axes.set_title(panel.name, fontsize=7)
        axes.set_xticks(np.arange(0, seconds[-1] + 1.5 / rate_hz, 1 if seconds[-1] < 5 else 2))
        axes.margins(x=0)
    grid[0].set_yticks(baselines, LEADS)
    grid[0].set_ylim(baselines[-1] - spacing, spacing)
    figure.supxlabel("seconds", fontsize=7)
    figure.suptitle(title, fontsize=8)
    return figure


@styled
def scatter(points: np.ndarray, names: Sequence[str], title: str = "", axis: Sequence[str] = ("", "")) -> Figure:
    """(n, 2) points, each with the name of its class or "" -> a map: a colour and marker per class, "" small and grey."""
    figure = Figure(figsize=(COLUMN, COLUMN + 0.5))
    axes = figure.add_subplot()
    given = np.array(names)
    found = [str(name) for name in np.unique(given) if name]
    if len(found) >= len(COLOURS):
        raise UserError(f"{len(found)} classes; {len(COLOURS) - 1} can be told apart")
    # Drawn as an image in vector formats, too: thousands of marks make files of megabytes.
    axes.plot(*points[given == ""].T, ".", color="0.8", markersize=2, markeredgewidth=0, rasterized=True)
    handles = []
    for name, colour, (marker, _) in zip(found, COLOURS[1:], SHAPES, strict=False):
        here = points[given == name]
        axes.plot(*here.T, marker, color=colour, markersize=2.2, markeredgewidth=0, alpha=0.7, rasterized=True)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=f"{name} ({len(here):,})"))
    if "" in names:
        handles.append(Line2D([], [], color="0.8", marker=".", linestyle="", label=f"other ({names.count(''):,})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0.1)
    axes.set(xlabel=axis[0], ylabel=axis[1], xticks=[], yticks=[])
    axes.set_title(title)
    return figure


def _check(signal: np.ndarray, leads: Sequence[str]) -> None:
    if signal.ndim != 2 or len(signal) != 12 or {x.lower() for x in leads} != {x.lower() for x in LEADS}:
        raise UserError(f"signal {signal.shape}, leads {', '.join(leads)}; draw (12, T): {', '.join(LEADS)}")
