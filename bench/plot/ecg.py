"""Draws ECG on ECG paper: one record at true scale, or many small ones on a contact sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.errors import UserError
from bench.data.ingest.records import read_wfdb
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.plot.records import find_row
from bench.plot.style import image_format, save_as, styled

Signal = np.ndarray[Any, Any]  # (12, T)
PAPER = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))  # rows of four leads
MARGIN = 10.0  # mm at the left of a page, for the calibration pulse
HEAD = 10.0  # mm above a page, for its title
GAIN = {"mV": 10.0, "sd": 2.5}  # mm of paper per unit; 10 mm/mV is the clinical standard, the sd of a lead is about 0.2 mV
MM_PER_SECOND = 25.0


def draw_records(store: Store, record_ids: Sequence[str], out: Path) -> Path:
    """Write the first 10 s of these records to out, on ECG paper; without ids, of the store's first record."""
    image_format(out)
    rate_hz, unit = store.rate_hz, store.manifest["units"]
    rows = [find_row(store, record_id) for record_id in record_ids] or [0]
    signals = [store.signal(row)[:, : 10 * rate_hz] for row in rows]
    titles = [_title(store, row) for row in rows]
    if len(rows) == 1:
        return save_as(plot_ecg(signals[0], rate_hz, unit=unit, title=titles[0]), out)
    return save_as(plot_contact_sheet(signals, titles, rate_hz, unit=unit), out)


def draw_file(path: Path, out: Path) -> Path:
    """Write the first 10 s of a published WFDB record (a .hea file) to out, on ECG paper.

    UserError if lead I + lead III is not lead II, as with LUDB, whose headers hold wrong gains.
    """
    image_format(out)
    recording = read_wfdb(path)
    signal_mv, rate_hz = recording.physical(), recording.rate_hz
    return save_as(plot_ecg(signal_mv[:, : 10 * rate_hz], rate_hz, title=path.stem), out)


def _title(store: Store, row: int) -> str:
    labels = {task: store.records[task][row] for task in store.manifest["tasks"]}
    return f"{store.name} {store.records.record_id[row]}  {labels.get('all') or labels.get('superdiagnostic') or ''}"


@styled
def plot_ecg(signal: Signal, rate_hz: float, leads: Sequence[str] = LEADS, unit: str = "mV", title: str = "") -> Figure:
    """An ECG (12, T) on paper at true scale: 3 rows of 4 leads, 2.5 s each; if it has 10 s, lead II below.

    unit: "mV" or "sd". UserError for another, or if the leads are not the 12 standard ones.
    """
    page = _lay_out(signal, rate_hz, leads, unit)
    figure = Figure(figsize=(page.width / 25.4, (page.height + HEAD) / 25.4), layout=None)
    figure.set_layout_engine("none")
    _draw_page(figure.add_axes((0.0, 0.0, 1.0, page.height / (page.height + HEAD))), page, rate_hz, unit, 1.0)
    y = 1 - 0.5 * HEAD / (page.height + HEAD)
    figure.text(0.01, y, title, va="center", fontsize=9)
    figure.text(0.99, y, _scale(rate_hz, unit), va="center", ha="right", fontsize=8)
    return figure


@styled
def plot_contact_sheet(signals: Sequence[Signal], titles: Sequence[str], rate_hz: float, *, unit: str = "mV",
                       columns: int = 2, size: float = 0.5) -> Figure:
    """Many ECGs (12, T), leads in the order of LEADS, on one sheet of small pages, row after row, at `size` of true scale."""
    pages = [_lay_out(signal, rate_hz, LEADS, unit) for signal in signals]
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


@dataclass(frozen=True)
class _Page:
    """An ECG laid out on paper; all lengths in mm of paper."""

    pieces: list[tuple[int, float, str, Signal]]  # row, left edge, lead, trace
    baselines: list[float]  # the zero of each row above the bottom
    width: float
    height: float


def _lay_out(signal: Signal, rate_hz: float, leads: Sequence[str], unit: str) -> _Page:
    """The layout of the signal: where each piece of it stands on the page."""
    if unit not in GAIN:
        raise UserError(f"unknown unit {unit!r}; write one of {', '.join(GAIN)}")
    check_leads(signal, leads)
    at = {name.lower(): index for index, name in enumerate(leads)}
    millimetres = np.asarray(signal, float) * GAIN[unit]
    part = round(2.5 * rate_hz)
    whole = millimetres.shape[1] >= 4 * part
    pieces: list[tuple[int, float, str, Signal]] = []
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
    """Draw the page on axes of its shape. size 1 is true scale; lines and letters shrink with it."""
    for step, weight in ((1.0, 0.25), (5.0, 0.7)):
        if size * step >= 0.5:  # lines that are closer together would be one red surface
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
        # The name stands above the first 0.32 s of the trace, which it would cover.
        top = min(40.0, float(np.nanmax(trace[: round(0.32 * rate_hz)], initial=5.0)))
        axes.text(MARGIN + x + 1.2, page.baselines[row] + top + 1.0, name, fontweight="bold", fontsize=8 * size**0.7, bbox=box,
                  zorder=1)
    axes.set(xlim=(0, page.width), ylim=(0, page.height))
    axes.axis("off")


def _scale(rate_hz: float, unit: str) -> str:
    return (f"{MM_PER_SECOND:g} mm/s, {GAIN[unit]:g} mm/{unit}{' (unit: sd, not mV)' if unit == 'sd' else ''}, "
            f"{rate_hz:g} Hz")  # fmt: skip


def _baselines(rows: Sequence[Sequence[Signal]]) -> tuple[list[float], float]:
    """The height of each row's zero above the bottom and the height of the page, in mm. Rows are 25 mm apart, or more if they
    would meet."""
    # At most 40 mm: an artefact may leave its row, but it must not make the page endless.
    extents = [np.concatenate(row) for row in rows]
    above = [float(np.clip(np.nanmax(e, initial=0.0), 10.0, 40.0)) for e in extents]
    below = [float(np.clip(-np.nanmin(e, initial=0.0), 6.0, 40.0)) for e in extents]
    depth = [above[0] + 5.0]
    for i in range(1, len(rows)):
        depth.append(depth[-1] + max(25.0, below[i - 1] + above[i] + 4.0))
    height = 5.0 * math.ceil((depth[-1] + below[-1] + 4.0) / 5.0)
    return [height - d for d in depth], height


def check_leads(signal: Signal, leads: Sequence[str]) -> None:
    """UserError unless signal is (12, T) and the leads are the 12 standard ones, in any order."""
    if signal.ndim != 2 or len(signal) != 12 or {x.lower() for x in leads} != {x.lower() for x in LEADS}:
        raise UserError(f"cannot draw a signal {signal.shape} of leads {', '.join(leads)}; give (12, T): {', '.join(LEADS)}")
