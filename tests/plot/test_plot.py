"""Figures show what they are given and are the same bytes every time."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.core.errors import UserError
from bench.plot import drawing as plot
from bench.runs.config import ROOT

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.3, (12, 1000))
SEEN = np.repeat(RNG.random((12, 100)) < 0.5, 10, axis=1)
LINES = [{"step": 0, "rankme": 3.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]

FIGURES: dict[str, Callable[[], Figure]] = {
    "runs": lambda: plot.runs([("one", LINES)]),
    "ecg": lambda: plot.ecg(SIGNAL, 100, title="record"),
    "views": lambda: plot.views([("original", SIGNAL), ("crop", SIGNAL[:, :250])], 100),
    "sights": lambda: plot.sights([plot.Sight("record", SIGNAL, SEEN), plot.Sight("crop", SIGNAL[:, :250], SEEN[:, :250])], 100),
    "scatter": lambda: plot.scatter(RNG.normal(size=(50, 2)), ["a", "b", "", "a", "b"] * 10, "embeddings", ("first", "second")),
}


def pixels(figure: Figure) -> np.ndarray:
    """(H, W, 4) values 0..255."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=40)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(-1, 4)


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_not_blank(name: str) -> None:
    found = pixels(FIGURES[name]())
    assert (found[:, :3].min(axis=1) < 128).sum() > 100


def test_same_figure_is_saved_as_the_same_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    first = plot.save(FIGURES["runs"](), tmp_path / "one" / "figure")
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.hashsalt": "other", "font.size": 20, "savefig.dpi": 50}):
        second = plot.save(FIGURES["runs"](), tmp_path / "two" / "figure")
    assert [path.name for path in first] == ["figure.png", "figure.svg", "figure.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(list((tmp_path / "one").iterdir())) == 3


def test_saved_files_hold_no_date_and_their_text_stays_text(tmp_path: Path) -> None:
    _, svg, pdf = plot.save(FIGURES["runs"](), tmp_path / "figure")
    assert b"CreationDate" not in pdf.read_bytes()
    assert "<dc:date>" not in svg.read_text()
    assert ">RankMe<" in svg.read_text().replace("\n", "")


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path) -> None:
    [path] = plot.save(plot.runs([("a$b_c$", [{"step": 1, "loss": 1.0}]), ("$%", [])]), tmp_path / "runs", ["svg"])
    assert ">a$b_c$<" in path.read_text() and ">$%<" in path.read_text()


def test_figures_leave_no_global_state() -> None:
    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        make()
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_every_known_method_has_a_look_that_grey_keeps_and_an_unknown_one_has_none_of_theirs() -> None:
    def grey(method: str) -> tuple[str, bool]:
        look = plot.look(method)
        return look["marker"], look["markerfacecolor"] == look["color"]

    known = [path.stem for path in (ROOT / "methods").glob("*.yaml")]
    assert len({grey(name) for name in known}) == len(known) == 16
    assert plot.look("mine") == plot.look("mine")
    assert not {grey(f"mine{i}") for i in range(30)} & {grey(name) for name in known}


def test_ecg_is_drawn_at_25_mm_per_second_and_10_mm_per_millivolt() -> None:
    signal = np.zeros((12, 1000))
    signal[1, 500:] = 1.0
    figure = plot.ecg(signal, 100)
    axes = figure.axes[0]
    strip = next(line for line in axes.lines if np.size(line.get_xdata()) == 1000)
    x, y = (np.asarray(data, float) for data in strip.get_data())
    assert x[400] - x[0] == pytest.approx(100)
    assert y[500] - y[499] == pytest.approx(10)
    box = axes.get_position()
    size_mm = figure.get_size_inches() * 25.4 * [box.width, box.height]
    assert size_mm == pytest.approx([axes.get_xlim()[1], axes.get_ylim()[1]])


def test_columns_of_an_ecg_follow_each_other_in_time_and_leads_are_found_by_name() -> None:
    order = [name.upper() for name in reversed(plot.LEADS)]
    signal = np.arange(12 * 1000, dtype=float).reshape(12, 1000)
    drawn = [np.asarray(line.get_ydata(), float) for line in plot.ecg(signal * 1e-4, 100, order).axes[0].lines]
    rises = [y for y in drawn if len(y) == 250]
    assert len(rises) == 12
    first_of_v4 = signal[order.index("V4"), 750] * 1e-3
    pulse = drawn[0][0]  # the baseline of the first row
    assert rises[3][0] - pulse == pytest.approx(first_of_v4)


@pytest.mark.parametrize(("samples", "strips"), [(1000, 1), (999, 0), (100, 0)])
def test_rhythm_strip_needs_ten_seconds(samples: int, strips: int) -> None:
    names = [text.get_text() for text in plot.ecg(SIGNAL[:, :samples], 100).axes[0].texts]
    assert names.count("II") == 1 + strips


def test_ecg_in_standard_deviations_says_so() -> None:
    assert any("sd, not mV" in text.get_text() for text in plot.ecg(SIGNAL, 100, unit="sd").texts)


def test_gap_in_an_ecg_is_left_open() -> None:
    signal = SIGNAL.copy()
    signal[1] = np.nan
    assert np.isfinite(plot.ecg(signal, 100).axes[0].get_ylim()).all()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="volts"):
        plot.ecg(SIGNAL, 100, unit="volts")
    with pytest.raises(UserError, match=r"\(8, 1000\)"):
        plot.ecg(SIGNAL[:8], 100)
    with pytest.raises(UserError, match="7 classes; 6 can be told apart"):
        plot.scatter(np.zeros((7, 2)), list("abcdefg"))


def test_sights_show_what_is_seen_in_black_what_is_hidden_on_grey_and_what_is_rebuilt_between() -> None:
    seen = np.ones((12, 1000), bool)
    seen[1, 200:300] = seen[1, 400:450] = False
    rebuilt = np.where(seen, np.nan, 0.5)
    [axes] = plot.sights([plot.Sight("record", SIGNAL, seen, rebuilt)], 100).axes
    boxes = [tuple(np.round(path.get_extents().bounds, 6)[[0, 2]]) for bars in axes.collections for path in bars.get_paths()]
    assert boxes == [(2.0, 1.0), (4.0, 0.5)]
    black = [line for line in axes.lines if line.get_color() == "black"]
    hidden = [np.flatnonzero(np.isnan(np.asarray(line.get_ydata(), float))) for line in black]
    assert [len(h) for h in hidden] == [0, 150, *[0] * 10]
    base = axes.get_yticks()
    np.testing.assert_allclose(np.asarray(black[2].get_ydata(), float), base[2] + SIGNAL[2])
    drawn = np.asarray(axes.lines[25].get_ydata(), float)
    assert np.nanmax(drawn) == np.nanmin(drawn) == base[1] + 0.5


def test_a_scatter_has_each_class_where_its_points_are_and_counts_them() -> None:
    points = np.arange(10.0).reshape(5, 2)
    figure = plot.scatter(points, ["a", "b", "", "a", ""])
    other, a, b = ([line.get_xydata().tolist() for line in figure.axes[0].lines])
    assert (other, a, b) == (points[[2, 4]].tolist(), points[[0, 3]].tolist(), points[[1]].tolist())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a (2)", "b (1)", "other (2)"]
