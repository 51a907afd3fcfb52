"""Figures show what they are given and are the same bytes every time."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import plot
from bench.errors import UserError
from bench.evaluation.compare import Ranking
from bench.report import Cell, Row
from paper import figures

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.3, (12, 1000))
RUN = {"curves": {"step": [0, 1, 2], "loss": [3.0, 2.0, 1.0]},
       "monitor": {"step": [0, 2], "rankme": [3.0, 4.0], "feature_sd": [1.0, None]}}  # fmt: skip
UNTRAINED = {"curves": {}, "monitor": {"step": [0], "rankme": [2.0], "feature_sd": [1.0]}}
RANKING = Ranking(("jepa", "mae (mask=0.75)", "simclr", "random"), (1.2, 1.8, 3.0, 4.0), 7, 0.01, 1.5)


def cells() -> list[Cell]:
    made = []
    for protocol in ("linear", "finetune"):
        for method, centre in (("random", 0.6), ("jepa", 0.8), ("mae", 0.0)):
            results = [{"run_id": f"{d}", "config": {"pretrain": f"{d}"}, "result": {
                "macro_auroc": centre + d, "replicates": [centre - 0.05, centre + 0.05]}}
                       for d in (-0.01, 0.01)] if centre else []  # fmt: skip
            made.append(Cell("store", "task", Row(method, method, {}, ()), protocol, results, []))
    return made


FIGURES: dict[str, Callable[[], Figure]] = {
    "auroc": lambda: figures.auroc(cells()),
    "auroc of nothing": lambda: figures.auroc([cells()[-1]]),
    "critical difference": lambda: figures.critical_difference(RANKING),
    "pretraining": lambda: figures.pretraining([("random", "random", UNTRAINED), ("jepa", "jepa", RUN)]),
    "pretraining of nothing": lambda: figures.pretraining([]),
    "ecg": lambda: plot.ecg(SIGNAL, 100, title="record"),
    "views": lambda: plot.views([("original", SIGNAL), ("crop", SIGNAL[:, :250])], 100),
    "masks": lambda: plot.masks(SIGNAL, [("random", RNG.random(100) < 0.5)], 100, 10),
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
    first = plot.save(FIGURES["auroc"](), tmp_path / "one" / "figure")
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.hashsalt": "other", "font.size": 20, "savefig.dpi": 50}):
        second = plot.save(FIGURES["auroc"](), tmp_path / "two" / "figure")
    assert [path.name for path in first] == ["figure.png", "figure.svg", "figure.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(list((tmp_path / "one").iterdir())) == 3


def test_saved_files_hold_no_date_and_their_text_stays_text(tmp_path: Path) -> None:
    _, svg, pdf = plot.save(FIGURES["auroc"](), tmp_path / "figure")
    assert b"CreationDate" not in pdf.read_bytes()
    assert "<dc:date>" not in svg.read_text()
    assert ">finetune<" in svg.read_text().replace("\n", "")


def test_figures_leave_no_global_state() -> None:
    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        make()
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_every_known_method_has_a_look_of_its_own_and_an_unknown_one_keeps_its() -> None:
    assert len({plot.look(name) for name in plot.NAMES}) == len(plot.NAMES)
    assert plot.look("mine") == plot.look("mine")


def test_auroc_draws_each_interval_and_each_run_at_its_value() -> None:
    axes = figures.auroc(cells()).axes[0]
    lines = [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines]
    assert [pytest.approx([0.5525, 0.6475]), pytest.approx([0.7525, 0.8475])] == [
        line for line in lines if len(line) == 2 and line[1] - line[0] > 0.05]  # fmt: skip
    assert pytest.approx([0.79, 0.81]) in lines


def test_methods_stand_at_their_ranks_and_bars_join_those_not_told_apart() -> None:
    axes = figures.critical_difference(RANKING).axes[0]
    lines = [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines if line.get_linewidth() > 2]
    assert lines == [pytest.approx([1.2, 1.8]), pytest.approx([1.8, 3.0]), pytest.approx([3.0, 4.0])]
    assert {line.get_xdata()[0] for line in axes.lines if np.size(line.get_xdata()) == 3} == {1.2, 1.8, 3.0, 4.0}
    texts = [text.get_text() for text in axes.texts]
    assert {"jepa", "mae\n(mask=0.75)", "simclr", "random"} <= set(texts)


def test_each_method_has_a_loss_panel_of_its_own() -> None:
    figure = figures.pretraining([("jepa", "jepa", RUN), ("mae", "mae", RUN), ("random", "random", UNTRAINED)])
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["jepa", "mae", "RankMe", "feature sd"]


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
    with pytest.raises(UserError, match="101 patches"):
        plot.masks(SIGNAL, [("random", np.ones(101, bool))], 100, 10)
