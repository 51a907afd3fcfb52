"""Figures show what they are given, where it is, and nothing where there is nothing."""

from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_fixture import Runs
from scipy import stats

from bench.report.names import Name
from bench.report.results import PretrainRecipe
from bench.report.rows import Row
from bench.report.statistics import Ranking
from bench.runs.config import MethodConfig, find_methods
from paper import figures
from paper.figures.curves import pages_of_curves
from paper.figures.panels import DASHES, FEW, Styles
from paper.figures.points import points_of
from paper.looks import NAMES, looks_of

RUN = {"curves": {"step": [1, 2, 4], "loss": [3.0, 2.0, 1.0]}, "seconds": 7200.0,
       "monitor": {"step": [0, 4], "rankme": [3.0, 5.0], "feature_sd": [1.0, None]}}
UNTRAINED = {"curves": {}, "monitor": {}, "seconds": 0.0}
RANKING = Ranking(("jepa", "mae (mask=0.75)", "simclr", "random"), (1.2, 1.8, 3.0, 4.0), 7, 0.01, 1.5)
SKILL = {"random": 0.6, "jepa": 0.8, "mae": 0.7}


def trained(*methods: str, **provenance: Any) -> Runs:
    """Two pre-trainings of each method, one of random."""
    runs = Runs()
    for method in methods or SKILL:
        for seed in (0, 1):
            runs.pretrain(method, seed, **provenance)["result"] = UNTRAINED if method == "random" else RUN
    return runs


def evaluate(runs: Runs, method: str, protocol: str = "linear", task: str = "t", better: float = 0.0, **settings: Any) -> None:
    """Evaluations of the method's pre-trainings: their AUROC is its SKILL +- 0.01, their interval +- 0.05."""
    for seed in (0, 1):
        value = SKILL.get(method, 0.5) + better + 0.01 * (2 * seed - 1)
        each = runs.evaluate(runs.pretrain(method, seed), [value - 0.05, value + 0.05], seed, protocol, value, task, **settings)
        each["result"]["per_class"] = {"rare": {"auroc": value - 0.1, "positives": 2},
                                       "common": {"auroc": value + 0.1 * seed, "positives": 9}}
        each["result"]["calibration"] = {"bin": [0, 2, 3, 4], "n": [60 - 20 * seed, 20 + 20 * seed, 15, 14],
                                         "predicted": [0.1, 0.5, 0.8, 0.9], "observed": [0.2, 0.4 + 0.1 * seed, 0.8, 0.8]}


def evaluated(**provenance: Any) -> Runs:
    runs = trained(**provenance)
    for method in SKILL:
        evaluate(runs, method)
    return runs


def draw(figure: Any, runs: Runs) -> Figure:
    report = runs.report()
    pretrainings = {row.key: report.pretrainings(row) for row in report.rows}
    with_pretrainings = [pretrainings] if figure in (figures.along, figures.cost) else []
    drawn = figure(points_of(report), *with_pretrainings, Styles(report.rows))
    assert isinstance(drawn, Figure)
    return drawn


def row_of(method: str, *overrides: str) -> Row:
    config = configs.load("mae", overrides).replace(method=MethodConfig(name=method))
    return Row(PretrainRecipe.of(config), Name(method), ())


def lines(axes: Axes, method: str, length: int) -> list[list[list[float]]]:
    """[x, y] of a method's lines of this many points, in the order of drawing."""
    found = [line for line in axes.lines if line.get_color() == looks_of([method])[method].colour]
    drawn = [[np.asarray(data, float).tolist() for data in line.get_data()] for line in found]
    return [xy for xy in drawn if len(xy[0]) == length]


def title(axes: Axes) -> str:
    return axes.get_title(loc="left").replace("\n", ", ")


def test_auroc_draws_each_interval_and_each_run_at_its_value_the_best_on_top() -> None:
    [axes] = draw(figures.auroc, evaluated()).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["jepa", "mae", "random / from scratch"]
    interval, runs = lines(axes, "jepa", 2)
    assert interval == [pytest.approx([0.7525, 0.8475]), [0.0, 0.0]]
    assert sorted(runs[0]) == pytest.approx([0.79, 0.81])
    assert [0.8] in [pytest.approx(x) for x, _ in lines(axes, "jepa", 1)]


def test_a_method_without_runs_is_dashes_and_a_figure_of_no_run_is_not_drawn(tmp_path: Path) -> None:
    runs = trained()
    assert {path.stem for path in figures.write(runs.report(), tmp_path)} == {"pretraining"}
    evaluate(runs, "jepa")
    assert [text.get_text() for text in draw(figures.auroc, runs).axes[0].texts] == ["--", "--"]


def test_labels_draws_the_means_at_the_shares_of_patients_and_the_intervals_as_bands() -> None:
    runs = trained()
    for fraction, gain in ((0.1, -0.2), (1.0, 0.0)):
        for method in SKILL:
            evaluate(runs, method, fraction=fraction, better=gain)
    [axes] = draw(figures.labels, runs).axes
    assert lines(axes, "jepa", 2) == [[[0.1, 1.0], pytest.approx([0.6, 0.8])]]
    assert axes.get_xscale() == "log"
    bands = [np.asarray(band.get_datalim(axes.transData).get_points()) for band in axes.collections]
    assert [band[:, 1].tolist() for band in bands][1] == pytest.approx([0.6 - 0.0475, 0.8 + 0.0475])


def test_along_draws_auroc_at_each_checkpoint_beside_loss_and_rankme_of_the_same_runs() -> None:
    runs = trained()
    for at, gain in ((0.5, -0.1), (1.0, 0.0)):
        evaluate(runs, "jepa", at=at, better=gain)
    evaluate(runs, "random")
    auroc, loss, rankme = draw(figures.along, runs).axes
    assert lines(auroc, "jepa", 2) == [[[0.5, 1.0], pytest.approx([0.7, 0.8])]]
    assert lines(auroc, "random", 2) == [[[0.5, 1.0], pytest.approx([0.6, 0.6])]]
    assert lines(loss, "jepa", 3) == [[[0.25, 0.5, 1.0], [1.0, 0.5, 0.0]]]
    assert lines(rankme, "jepa", 2) == [[[0.0, 1.0], [3.0, 5.0]]]
    assert lines(rankme, "mae", 2) == []  # it has no evaluation
    assert lines(rankme, "random", 1) == lines(loss, "random", 1) == []


def test_cost_draws_auroc_over_the_device_hours_of_pretraining_and_says_where_devices_differ() -> None:
    runs = evaluated(processes=4, device="cpu")
    assert "(cpu; " in draw(figures.cost, runs).legends[0].get_title().get_text()
    for each in runs.made:
        each["provenance"]["device"] = ("cpu", "gpu")[each["config"]["seed"]]
    figure = draw(figures.cost, runs)
    [axes] = figure.axes
    assert lines(axes, "jepa", 1) == [[[8.0], [pytest.approx(0.8)]]]
    assert [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines if line.get_color() == "0.6"] == [
        pytest.approx([0.6, 0.6])]
    assert "2 kinds of device" in figure.legends[0].get_title().get_text()


def test_reliability_pools_the_bins_of_all_runs_by_how_much_they_hold_and_leaves_out_those_of_few_predictions() -> None:
    [axes] = draw(figures.reliability, evaluated()).axes
    [[x, y]] = lines(axes, "jepa", 3)  # the fourth bin holds 28
    assert x == pytest.approx([0.1, 0.5, 0.8])
    assert y == pytest.approx([0.1, (0.4 + 2 * 0.5) / 3 - 0.5, 0])


def test_classes_draws_the_difference_of_two_methods_with_welchs_interval_over_runs() -> None:
    report = evaluated().report()
    [pairs] = figures.pairs_of(points_of(report)).values()
    assert [(one.row.method, other.row.method) for _, one, other in pairs] == [("jepa", "random"), ("jepa", "mae")]
    against_random, against_mae = figures.classes(pairs, Styles(report.rows)).axes
    assert [text.get_text() for text in against_random.get_yticklabels()] == ["common (9)", "rare (2)"]
    common, rare = lines(against_random, "jepa", 1)
    assert common == [[pytest.approx(0.2)], [0.0]] and rare == [[pytest.approx(0.2)], [1.0]]
    test = stats.ttest_ind([0.79, 0.91], [0.69, 0.81], equal_var=False).confidence_interval(0.95)
    assert lines(against_mae, "jepa", 2)[0][0] == pytest.approx([test.low, test.high])


def test_methods_stand_at_their_ranks_and_bars_join_those_not_told_apart() -> None:
    axes = figures.critical_difference(RANKING, "linear").axes[0]
    bars = [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines if line.get_linewidth() > 2]
    assert bars == [pytest.approx([1.2, 1.8]), pytest.approx([1.8, 3.0]), pytest.approx([3.0, 4.0])]
    assert {line.get_xdata()[0] for line in axes.lines if np.size(line.get_xdata()) == 3} == {1.2, 1.8, 3.0, 4.0}
    assert {"jepa", "mae\n(mask=0.75)", "simclr", "random"} <= {text.get_text() for text in axes.texts}


def test_every_recipe_has_panels_of_its_own_with_one_line_in_a_band_from_its_lowest_run_to_its_highest() -> None:
    rows = [row_of(f"method{i}") for i in range(15)]
    runs = [RUN | {"monitor": RUN["monitor"] | {"rankme": [3.0, 5.0 + i]}} for i in range(3)]
    trained = [(row, runs) for row in rows]
    pages = pages_of_curves(trained)
    drawn = [figures.pretraining(page, trained, Styles(rows)) for page in pages]
    assert [part.get_suptitle() for figure in drawn for part in figure.subfigs] == [row.method for row in rows]
    panels = [axes for figure in drawn for axes in figure.axes]
    assert {len(axes.lines) for axes in panels} == {1} and max(len(figure.axes) for figure in drawn) <= 24
    loss, rankme, sd = panels[:3]
    assert np.asarray(rankme.lines[0].get_ydata()).tolist() == [3.0, 6.0]
    assert rankme.collections[0].get_datalim(rankme.transData).intervaly.tolist() == [3.0, 7.0]
    assert len({axes.get_ylim() for axes in panels[1::3]}) == 1
    assert np.asarray(loss.lines[0].get_ydata()).tolist() == [3.0, 2.0, 1.0] and not loss.collections
    assert np.asarray(sd.lines[0].get_ydata()).tolist() == [1.0]


@pytest.mark.parametrize(("methods", "bands"), [(FEW, FEW), (FEW + 1, 0)])
def test_curves_beside_each_other_are_means_over_runs_and_have_bands_where_these_can_be_read(methods: int, bands: int) -> None:
    names = [f"method{i}" for i in range(methods)]
    runs = trained(*names)
    for each in runs.made:
        each["result"] = RUN | {"monitor": {"step": [0, 4], "rankme": [3.0, 5.0 + 2 * each["config"]["seed"]]}}
    for name in names:
        for at in (0.5, 1.0):
            evaluate(runs, name, at=at)
    *_, rankme = draw(figures.along, runs).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in rankme.lines] == [[3.0, 6.0]] * methods
    assert len(rankme.collections) == bands


def test_methods_from_outside_the_repository_look_like_no_other_method_and_always_the_same_and_recipes_differ_in_dashes() -> None:
    outside = [f"method{i}" for i in range(30)]
    looks = looks_of([*NAMES, *outside, "random"])
    assert len(set(looks.values())) == len(looks) and set(find_methods()) - {"random"} == set(NAMES)
    assert looks_of(reversed([*NAMES, *outside, "random"])) == looks
    grey = {name: (look.marker, look.filled) for name, look in looks.items()}
    assert not {grey[name] for name in outside} & {grey[name] for name in NAMES}
    assert len({grey[name] for name in NAMES}) == len(NAMES)
    rows = [row_of("jepa", f"optim.lr={lr}") for lr in (1e-3, 2e-3, 3e-3)]
    styles = Styles(rows)
    assert [styles.line(row)["linestyle"] for row in rows] == list(DASHES[:3])
    assert len({str(styles.mark(row)) for row in rows}) == 1


def test_figures_are_of_the_last_checkpoint_and_all_labels_and_pages_begin_with_linear_and_finetune(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = trained()
    for method in SKILL:
        for protocol in ("knn", "finetune", "linear", "linear-mean"):
            for task in "abcde" if protocol == "linear" else "a":
                evaluate(runs, method, protocol, task)
        evaluate(runs, method, "linear", "a", fraction=0.5, better=0.1)
        if method != "random":
            evaluate(runs, method, "linear", "a", at=0.5, better=0.1)
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}) or [path])
    figures.write(runs.report(), tmp_path)
    assert [name for name in drawn if not name.startswith(("classes", "ranks"))] == [
        "auroc", "auroc-2", "auroc-3", "labels", "along", "cost", "cost-2", "cost-3", "reliability", "reliability-2",
        "reliability-3", "pretraining"]
    shown = {name: [title(axes) for axes in figure.axes if axes.get_visible()] for name, figure in drawn.items()}
    assert shown["auroc"] == ["a, a, linear", "a, b, linear", "a, c, linear", "a, d, linear", "a, a, finetune"]
    assert shown["auroc-2"] == ["a, e, linear"] and shown["auroc-3"] == ["a, a, knn", "a, a, linear-mean"]
    assert shown["labels"] == ["a, a, linear"] and shown["along"][0] == "a, a, linear"
    assert lines(drawn["auroc"].axes[0], "jepa", 1)[0][0] == [pytest.approx(0.8)]
    assert {name for name in drawn if name.startswith("classes")} == {f"classes-a-{task}" for task in "abcde"}
