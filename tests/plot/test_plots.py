"""Figures show what they are given, and the same figure is the same bytes every time."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.data.signal import LEADS
from bench.plot.curves import plot_curves
from bench.plot.ecg import plot_ecg
from bench.plot.embeddings import plot_map
from bench.plot.masks import Panel, plot_masks
from bench.plot.style import save
from bench.plot.views import plot_views

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.3, (12, 1000))
VISIBLE = np.repeat(RNG.random((12, 100)) < 0.5, 10, axis=1)
LINES = [{"step": 0, "rankme": 3.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]

FIGURES: dict[str, Callable[[], Figure]] = {
    "curves": lambda: plot_curves([("one", LINES)]),
    "ecg": lambda: plot_ecg(SIGNAL, 100, title="record"),
    "views": lambda: plot_views([("original", SIGNAL), ("crop", SIGNAL[:, :250])], 100),
    "masks": lambda: plot_masks([Panel("record", SIGNAL, VISIBLE), Panel("crop", SIGNAL[:, :250], VISIBLE[:, :250])], 100),
    "map": lambda: plot_map(RNG.normal(size=(50, 2)), ["a", "b", "", "a", "b"] * 10, "embeddings", ("first", "second")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_not_blank_and_leaves_no_global_state(name: str) -> None:
    before, buffer = dict(matplotlib.rcParams), io.BytesIO()
    FIGURES[name]().savefig(buffer, format="rgba", dpi=40)
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(-1, 4)
    assert (pixels[:, :3].min(axis=1) < 128).sum() > 100
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_same_figure_is_the_same_bytes_without_a_date_whatever_the_users_style(tmp_path: Path) -> None:
    def figure() -> Figure:
        return plot_curves([("a$b_c$", LINES), ("$%", [])])

    first = save(figure(), tmp_path / "one" / "figure")
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.hashsalt": "other", "font.size": 20, "savefig.dpi": 50}):
        second = save(figure(), tmp_path / "two" / "figure")
    assert [path.name for path in first] == ["figure.png", "figure.svg", "figure.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(list((tmp_path / "one").iterdir())) == 3
    svg = first[1].read_text()
    assert b"CreationDate" not in first[2].read_bytes() and "<dc:date>" not in svg
    assert ">RankMe<" in svg.replace("\n", "") and ">a$b_c$<" in svg and ">$%<" in svg  # text stays text, a dollar a dollar


def test_ecg_is_drawn_at_25_mm_per_second_and_10_mm_per_millivolt_and_leads_are_matched_by_name() -> None:
    signal = np.zeros((12, 1000))
    signal[1, 500:] = 1.0
    figure = plot_ecg(signal, 100)
    axes = figure.axes[0]
    strip = next(line for line in axes.lines if np.size(line.get_xdata()) == 1000)
    x, y = (np.asarray(data, float) for data in strip.get_data())
    assert x[400] - x[0] == pytest.approx(100)
    assert y[500] - y[499] == pytest.approx(10)
    box = axes.get_position()
    size_mm = figure.get_size_inches() * 25.4 * [box.width, box.height]
    assert size_mm == pytest.approx([axes.get_xlim()[1], axes.get_ylim()[1]])
    order = [name.upper() for name in reversed(LEADS)]
    signal = np.arange(12 * 1000, dtype=float).reshape(12, 1000)
    drawn = [np.asarray(line.get_ydata(), float) for line in plot_ecg(signal * 1e-4, 100, order).axes[0].lines]
    baseline = drawn[0][0]  # where the calibration pulse of the first row begins
    pieces = [y for y in drawn if len(y) == 250]  # four columns that follow each other in time
    assert len(pieces) == 12 and pieces[3][0] - baseline == pytest.approx(signal[order.index("V4"), 750] * 1e-3)


def test_visible_samples_are_black_hidden_ones_on_grey_and_rebuilt_ones_between() -> None:
    visible = np.ones((12, 1000), bool)
    visible[1, 200:300] = visible[1, 400:450] = False
    rebuilt = np.where(visible, np.nan, 0.5)
    [axes] = plot_masks([Panel("record", SIGNAL, visible, rebuilt)], 100).axes
    boxes = [tuple(np.round(path.get_extents().bounds, 6)[[0, 2]]) for bars in axes.collections for path in bars.get_paths()]
    assert boxes == [(2.0, 1.0), (4.0, 0.5)]
    black = [line for line in axes.lines if line.get_color() == "black"]
    hidden = [np.flatnonzero(np.isnan(np.asarray(line.get_ydata(), float))) for line in black]
    assert [len(h) for h in hidden] == [0, 150, *[0] * 10]
    base = axes.get_yticks()
    np.testing.assert_allclose(np.asarray(black[2].get_ydata(), float), base[2] + SIGNAL[2])
    drawn = np.asarray(axes.lines[25].get_ydata(), float)
    assert np.nanmax(drawn) == np.nanmin(drawn) == base[1] + 0.5


def test_a_map_shows_its_bulk_and_puts_outliers_on_the_edge_and_counts_all() -> None:
    points = np.concatenate([RNG.uniform(-2, 2, (500, 2)), [[1000.0, 0.0]]])
    figure = plot_map(points, ["a", "b", "", "a", "b"] * 100 + ["b"], "map")
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    assert -4 < low < -2 and 2 < high < 4
    drawn = np.concatenate([line.get_xydata() for line in axes.lines])
    assert len(drawn) == 501 and drawn[:, 0].max() == high
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a (200)", "b (201)", "other (100)", "outside the axes (1)"]


def test_the_legend_of_a_map_lies_in_the_figure_below_the_axes() -> None:
    figure = plot_map(RNG.normal(size=(50, 2)), [letter * 60 for letter in "abcdef"] * 8 + ["", ""], "map", ("x", "y"))
    figure.draw_without_rendering()
    legend, page = figure.legends[0].get_window_extent(), figure.bbox
    assert legend.x0 >= page.x0 and legend.x1 <= page.x1 and legend.y0 >= page.y0
    assert legend.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0
