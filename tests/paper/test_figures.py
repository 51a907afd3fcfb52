"""Figures show what they are given, where it is, and nothing where there is nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_fixture import evaluation_config
from scipy import stats

from bench.plot import style
from bench.report.aggregate import Report, make_report
from bench.report.names import Name
from bench.report.results import PretrainRecipe, parse_results
from bench.report.rows import Row
from bench.report.statistics import Ranking
from bench.runs.config import MethodConfig, find_methods, load_pretrain_config
from bench.runs.layers import overrides_of
from paper import figures
from paper.figures.curves import pages_of_curves
from paper.figures.panels import DASHES, FEW, Styles
from paper.figures.points import Point, Runs, points_of
from paper.looks import NAMES, looks_of

RUN = {"curves": {"step": [1, 2, 4], "loss": [3.0, 2.0, 1.0]}, "seconds": 7200.0,
       "monitor": {"step": [0, 4], "rankme": [3.0, 5.0], "feature_sd": [1.0, None]}}  # fmt: skip
UNTRAINED = {"curves": {}, "monitor": {}, "seconds": 0.0}
RANKING = Ranking(("jepa", "mae (mask=0.75)", "simclr", "random"), (1.2, 1.8, 3.0, 4.0), 7, 0.01, 1.5)
SKILL = {"random": 0.6, "jepa": 0.8, "mae": 0.7}


class Study:
    """A study in the making; AUROC is a method's SKILL +- 0.01 for two seeds, its interval +- 0.05."""

    def __init__(self, seeds: Sequence[int] = (0, 1), **provenance: Any) -> None:
        self.results: list[dict[str, Any]] = []
        self.trained: dict[tuple[str, int], dict[str, Any]] = {}
        for method in SKILL:
            for seed in seeds:
                config = load_pretrain_config("mae", overrides_of({"data.mix": {"a": 1.0}, "seed": seed})).to_json()
                config["method"] = {"name": method}
                self.trained[method, seed] = self.add("pretrain", config=config, provenance=provenance,
                                                      result=UNTRAINED if method == "random" else RUN)

    def add(self, kind: str, **parts: Any) -> dict[str, Any]:
        self.results.append({"kind": kind, "run_id": f"{len(self.results):012x}", **parts})
        return self.results[-1]

    def evaluate(self, method: str, protocol: str = "linear", task: str = "t", better: float = 0.0, **shares: float) -> None:
        for (name, seed), run in self.trained.items():
            value = SKILL[method] + better + 0.01 * (2 * seed - 1)
            classes = {"rare": {"auroc": value - 0.1, "positives": 2}, "common": {"auroc": value + 0.1 * seed, "positives": 9}}
            calibration = {"bin": [0, 2], "n": [60 - 20 * seed, 20 + 20 * seed], "predicted": [0.1, 0.9],
                           "observed": [0.2, 0.8 + 0.1 * seed]}
            if name == method:
                self.add("evaluate", pretrain_config=run["config"], provenance={}, config=evaluation_config(protocol) | {
                    "seed": seed, "pretrain": run["run_id"], "task": task, "data": {"store": "s", "fingerprint": ""},
                    **shares}, result={
                    "macro_auroc": value, "replicates": [value - 0.05, value + 0.05], "per_class": classes,
                    "calibration": calibration, "records": {"test": 20}, "bootstrap": {}})

    def report(self) -> Report:
        return make_report(parse_results(self.results)[0])

    def points(self) -> list[Point]:
        return points_of(self.report())

    def styles(self) -> Styles:
        return Styles(self.report().rows)

    def runs(self) -> Runs:
        report = self.report()
        return {row.key: report.pretrainings(row) for row in report.rows}


def some(**provenance: Any) -> Study:
    study = Study(**provenance)
    for method in SKILL:
        study.evaluate(method)
    return study


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
    study = some()
    [axes] = figures.auroc(study.points(), study.styles()).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["jepa", "mae", "random / from scratch"]
    interval, runs = lines(axes, "jepa", 2)
    assert interval == [pytest.approx([0.7525, 0.8475]), [0.0, 0.0]]
    assert runs[0] == pytest.approx([0.79, 0.81])
    assert [0.8] in [pytest.approx(x) for x, _ in lines(axes, "jepa", 1)]


def test_a_method_without_runs_is_dashes_and_a_figure_of_no_run_is_not_drawn(tmp_path: Path) -> None:
    study = Study()
    study.evaluate("jepa")
    axes = figures.auroc(study.points(), study.styles()).axes[0]
    assert [text.get_text() for text in axes.texts] == ["--", "--"]
    assert {path.stem for path in figures.write(Study().report(), tmp_path)} == {"pretraining"}


def test_labels_draws_the_means_at_the_shares_of_patients_and_the_intervals_as_bands() -> None:
    study = Study()
    for fraction, gain in ((0.1, -0.2), (1.0, 0.0)):
        for method in SKILL:
            study.evaluate(method, fraction=fraction, better=gain)
    [axes] = figures.labels(study.points(), study.styles()).axes
    assert lines(axes, "jepa", 2) == [[[0.1, 1.0], pytest.approx([0.6, 0.8])]]
    assert axes.get_xscale() == "log"
    bands = [np.asarray(band.get_datalim(axes.transData).get_points()) for band in axes.collections]
    assert [band[:, 1].tolist() for band in bands][1] == pytest.approx([0.6 - 0.0475, 0.8 + 0.0475])
    assert len(bands) == 3


def test_along_draws_auroc_at_each_checkpoint_beside_loss_and_rankme_of_the_same_runs() -> None:
    study = Study()
    for at, gain in ((0.5, -0.1), (1.0, 0.0)):
        study.evaluate("jepa", at=at, better=gain)
    study.evaluate("random", at=1.0)
    figure = figures.along(study.points(), study.runs(), study.styles())
    auroc, loss, rankme = figure.axes
    assert lines(auroc, "jepa", 2) == [[[0.5, 1.0], pytest.approx([0.7, 0.8])]]
    assert lines(auroc, "random", 2) == [[[0.5, 1.0], pytest.approx([0.6, 0.6])]]
    assert lines(loss, "jepa", 3) == [[[0.25, 0.5, 1.0], [1.0, 0.5, 0.0]]]
    assert lines(rankme, "jepa", 2) == [[[0.0, 1.0], [3.0, 5.0]]]
    assert lines(rankme, "mae", 2) == []  # it has no evaluation
    assert lines(rankme, "random", 1) == lines(loss, "random", 1) == []


@pytest.mark.parametrize(("devices", "said"), [(("cpu", "cpu"), "(cpu; "), (("cpu", "gpu"), "2 kinds of device")])
def test_cost_draws_auroc_over_the_device_hours_of_pretraining(devices: tuple[str, str], said: str) -> None:
    study = some(processes=4)
    for result in study.results:
        result["provenance"] = result["provenance"] | {"device": devices[result["config"].get("seed", 0)]}
    figure = figures.cost(study.points(), study.runs(), study.styles())
    [axes] = figure.axes
    assert lines(axes, "jepa", 1) == [[[8.0], [pytest.approx(0.8)]]]
    assert [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines if line.get_color() == "0.6"] == [
        pytest.approx([0.6, 0.6])]
    assert said in figure.legends[0].get_title().get_text()


def test_reliability_pools_the_bins_of_all_runs_by_how_much_they_hold() -> None:
    study = some()
    [axes] = figures.reliability(study.points(), study.styles()).axes
    [[x, y]] = lines(axes, "jepa", 2)
    assert x == pytest.approx([0.1, 0.9])
    assert y == pytest.approx([0.1, (0.8 + 2 * 0.9) / 3 - 0.9])


@pytest.mark.parametrize(("n", "drawn"), [(14, [0.1, 0.9]), (15, [0.1, 0.5, 0.9])])
def test_reliability_leaves_out_bins_of_few_predictions(n: int, drawn: list[float]) -> None:
    study = some()
    for result in study.results:
        if found := result["result"].get("calibration"):
            for key, value in (("bin", 1), ("n", n), ("predicted", 0.5), ("observed", 0.0)):
                found[key] = [found[key][0], value, found[key][1]]
    [axes] = figures.reliability(study.points(), study.styles()).axes
    assert lines(axes, "jepa", len(drawn))[0][0] == pytest.approx(drawn)


def test_classes_draws_the_difference_of_two_methods_with_welchs_interval_over_runs() -> None:
    study = some()
    [pairs] = figures.pairs_of(study.points()).values()
    assert [(one.row.method, other.row.method) for _, one, other in pairs] == [("jepa", "random"), ("jepa", "mae")]
    against_random, _ = figures.classes(pairs, study.styles()).axes
    assert [text.get_text() for text in against_random.get_yticklabels()] == ["common (9)", "rare (2)"]
    common, rare = lines(against_random, "jepa", 1)
    assert common == [[pytest.approx(0.2)], [0.0]] and rare == [[pytest.approx(0.2)], [1.0]]
    test = stats.ttest_ind([0.79, 0.91], [0.59, 0.71], equal_var=False).confidence_interval(0.95)
    assert lines(against_random, "jepa", 2)[0][0] == pytest.approx([test.low, test.high])


def test_a_class_difference_of_single_runs_has_no_interval() -> None:
    study = Study(seeds=(0,))
    for method in SKILL:
        study.evaluate(method)
    [pairs] = figures.pairs_of(study.points()).values()
    assert [lines(axes, "jepa", 2) for axes in figures.classes(pairs, study.styles()).axes] == [[], []]


def test_methods_stand_at_their_ranks_and_bars_join_those_not_told_apart() -> None:
    axes = figures.critical_difference(RANKING, "linear").axes[0]
    bars = [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines if line.get_linewidth() > 2]
    assert bars == [pytest.approx([1.2, 1.8]), pytest.approx([1.8, 3.0]), pytest.approx([3.0, 4.0])]
    assert {line.get_xdata()[0] for line in axes.lines if np.size(line.get_xdata()) == 3} == {1.2, 1.8, 3.0, 4.0}
    texts = [text.get_text() for text in axes.texts]
    assert {"jepa", "mae\n(mask=0.75)", "simclr", "random"} <= set(texts)


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
def test_curves_beside_each_other_are_means_over_runs_and_have_bands_where_they_can_be_told_apart(
    methods: int, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SKILL", {f"method{i}": 0.6 + 0.01 * i for i in range(methods)})
    study = Study()
    for method in SKILL:
        for at in (0.5, 1.0):
            study.evaluate(method, at=at)
    for run in study.results:
        if run["kind"] == "pretrain":
            run["result"] = run["result"] | {"monitor": {"step": [0, 4], "rankme": [3.0, 5.0 + 2 * run["config"]["seed"]]}}
    *_, rankme = figures.along(study.points(), study.runs(), study.styles()).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in rankme.lines] == [[3.0, 6.0]] * methods
    assert len(rankme.collections) == bands


def test_methods_from_outside_the_repository_look_like_no_other_method_and_always_the_same() -> None:
    outside = [f"method{i}" for i in range(30)]
    looks = looks_of([*NAMES, *outside, "random"])
    assert len(set(looks.values())) == len(looks)
    assert looks_of(reversed([*NAMES, *outside, "random"])) == looks
    assert len({looks[name].colour for name in outside}) == 6
    grey = {name: (look.marker, look.filled) for name, look in looks.items()}
    assert not {grey[name] for name in outside} & {grey[name] for name in NAMES}
    assert len({grey[name] for name in NAMES}) == len(NAMES)
    assert set(find_methods()) - {"random"} == set(NAMES)
    assert looks_of(["method7"])["method7"] == looks_of(["method7", "jepa"])["method7"]


def test_recipes_of_one_method_differ_in_their_dashes_alone() -> None:
    rows = [row_of("jepa", f"optim.lr={lr}") for lr in (1e-3, 2e-3, 3e-3)]
    styles = Styles(rows)
    assert [styles.line(row)["linestyle"] for row in rows] == list(DASHES[:3])
    assert len({str(styles.mark(row)) for row in rows}) == 1


def test_figures_are_of_the_last_checkpoint_and_all_labels_and_pages_begin_with_linear_and_finetune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study()
    for method in SKILL:
        for protocol in ("knn", "finetune", "linear", "linear-mean"):
            for task in "abcde" if protocol == "linear" else "a":
                study.evaluate(method, protocol, task)
        study.evaluate(method, "linear", "a", fraction=0.5, better=0.1)
        if method != "random":
            study.evaluate(method, "linear", "a", at=0.5, better=0.1)
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.name: figure}) or [path])
    figures.write(study.report(), tmp_path)
    assert [name for name in drawn if not name.startswith(("classes", "ranks"))] == [
        "auroc", "auroc-2", "auroc-3", "labels", "along", "cost", "cost-2", "cost-3", "reliability", "reliability-2",
        "reliability-3", "pretraining"]
    shown = {name: [title(axes) for axes in figure.axes if axes.get_visible()] for name, figure in drawn.items()}
    assert shown["auroc"] == ["s, a, linear", "s, b, linear", "s, c, linear", "s, d, linear", "s, a, finetune"]
    assert shown["auroc-2"] == ["s, e, linear"] and shown["auroc-3"] == ["s, a, knn", "s, a, linear-mean"]
    assert shown["labels"] == ["s, a, linear"] and shown["along"][0] == "s, a, linear"
    numbered = [axes.xaxis.get_tick_params()["labelbottom"] for axes in drawn["auroc"].axes[:5]]
    assert numbered == [False, True, True, True, True]  # an axis that nothing stands below has its numbers
    assert lines(drawn["auroc"].axes[0], "jepa", 1)[0][0] == [pytest.approx(0.8)]
    assert {name for name in drawn if name.startswith("classes")} == {f"classes-s-{task}" for task in "abcde"}


def test_same_results_draw_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda figure, path: style.save(figure, path, ("svg",)))
    written = []
    for name in "ab":
        study = some()
        for method in SKILL:
            study.evaluate(method, fraction=0.5)
            study.evaluate(method, at=0.5)
        written.append({path.name: path.read_bytes() for path in figures.write(study.report(), tmp_path / name)})
    assert written[0] == written[1] and len(written[0]) == 7
