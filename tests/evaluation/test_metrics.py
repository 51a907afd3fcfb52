"""Scores are what they are elsewhere; intervals come from resamples that hold every class."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from bench.core.errors import UserError
from bench.evaluation import metrics


def some(n: int = 60, classes: int = 4, ties: bool = True, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, classes)) < 0.3).astype(np.int64)
    y[:2] = [[0] * classes, [1] * classes]
    p = rng.normal(size=(n, classes)) + y
    return y, np.round(p, 0 if ties else 9)


@pytest.mark.parametrize("ties", [True, False])
def test_auroc_of_all_and_of_every_resample_is_sklearns(ties: bool) -> None:
    y, p = some(n=150, classes=6, ties=ties)
    weights = np.concatenate([np.ones((1, 150), np.int64), metrics.draw_resamples(y, 30)])
    assert metrics.auroc(y, p).tolist() == metrics.auroc(y, p, weights)[0].tolist()
    for row, found in zip(weights, metrics.auroc(y, p, weights), strict=True):
        ids = np.repeat(np.arange(150), row)
        assert found == pytest.approx(roc_auc_score(y[ids], p[ids], average=None), abs=1e-12)


@pytest.mark.parametrize("weights", [None, np.ones((1, 60))])
def test_what_has_no_auroc_is_refused(weights: np.ndarray | None) -> None:
    y, p = some()
    with pytest.raises(UserError, match="NaN or infinite"):
        metrics.auroc(y, np.where(np.arange(4) == 2, np.inf, p), weights)
    y[:, 2] = 1
    with pytest.raises(UserError, match="class 2 has no positive or no negative"):
        metrics.auroc(y, p, weights)


def test_the_published_models_bootstrap_is_reproduced(shared: Path) -> None:
    golden = np.load(shared / "golden" / "strodthoff_xresnet1d101.npz")
    y, p = golden["y_test"].astype(np.int64), golden["p_test"]
    found = metrics.score(y, p, metrics.count_draws(golden["bootstrap_ids"], len(y)), "strodthoff")
    assert found.replicates.shape == (100,)
    assert found.macro == pytest.approx(0.9254358590055028, abs=1e-12)
    assert found.replicates.mean() == pytest.approx(0.9248700603532448, abs=1e-12)
    assert found.lower == pytest.approx(0.9185230258692298, abs=1e-12)
    assert found.upper == pytest.approx(0.9314845724252189, abs=1e-12)


def test_intervals_are_percentiles_of_resamples_that_are_the_same_for_every_model() -> None:
    y, p = some(n=200, ties=False)
    found = metrics.score(y, p)
    assert len(found.replicates) == 1000
    assert np.allclose(found.replicates, 1 - metrics.score(y, -p).replicates, atol=1e-12)  # record by record the same draws
    assert found.macro == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert [found.lower, found.upper] == pytest.approx(np.percentile(found.replicates, [2.5, 97.5]))
    assert found.lower < found.macro < found.upper
    assert ((found.per_class_lower < found.per_class) & (found.per_class < found.per_class_upper)).all()


def test_too_few_positives_for_any_resample_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TRIES", 2000)
    y = np.array([[1, 0], [1, 0], [1, 1]])  # class 0 is complete in no resample
    with pytest.raises(UserError, match="of 2,000 resamples of 3 records only 0 hold every class; too few positives"):
        metrics.draw_resamples(y)


@pytest.mark.parametrize("labels", [
    [[1, 0], [0, 1], [0, 0], [0, 0]],  # no record in common
    [[1, 0], [1, 1], [0, 0], [0, 0]],  # in common
    [[1, 0], [0, 1], [0, 1], [1, 0]],  # no other records
])
def test_resamples_have_the_distribution_of_redrawing(labels: list[list[int]]) -> None:
    y = np.array(labels)
    complete = [np.bincount(ids, minlength=4) for ids in itertools.product(range(4), repeat=4)
                if ((y[list(ids)].sum(0) % 4) > 0).all()]
    expected = {k: v / len(complete) for k, v in Counter(tuple(w.tolist()) for w in complete).items()}
    drawn = 20_000
    found = Counter(tuple(w.tolist()) for w in metrics.draw_resamples(y, drawn))
    assert set(found) <= set(expected)
    chi2 = sum((found[k] - drawn * q) ** 2 / (drawn * q) for k, q in expected.items())
    freedom = len(expected) - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)


def test_many_rare_classes_cost_no_redrawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TRIES", 4000)
    y = np.eye(250, 20, dtype=np.int64)  # one plain resample in ten thousand is complete
    assert metrics.draw_resamples(y).shape == (1000, 250)


def probabilities(seed: int, n: int = 120, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(y, p) with ties."""
    y, p = some(n=n, classes=classes, ties=False, seed=seed)
    return y, np.round(1 / (1 + np.exp(1 - p)), 2)


NAMES = ["a", "b", "c", "d"]


def test_each_score_of_each_class_is_sklearns() -> None:
    (y_validation, p_validation), (y, p) = probabilities(1), probabilities(0)
    found = metrics.summarise(NAMES, y_validation, p_validation, y, p)
    for i, name in enumerate(NAMES):
        each = found["per_class"][name]
        assert each["auroc"] == pytest.approx(roc_auc_score(y[:, i], p[:, i]), abs=1e-12)
        assert each["average_precision"] == pytest.approx(average_precision_score(y[:, i], p[:, i]), abs=1e-12)
        assert each["brier"] == pytest.approx(brier_score_loss(y[:, i], p[:, i]), abs=1e-12)
        assert each["f1"] == pytest.approx(f1_score(y[:, i], p[:, i] >= each["threshold"]), abs=1e-12)
        assert each["positives"] == y[:, i].sum()
        best = max(f1_score(y_validation[:, i], p_validation[:, i] >= t) for t in p_validation[:, i])
        assert f1_score(y_validation[:, i], p_validation[:, i] >= each["threshold"]) == best
    for key in ("auroc", "average_precision", "brier", "ece", "f1"):
        assert found[f"macro_{key}"] == pytest.approx(np.mean([each[key] for each in found["per_class"].values()]))


def test_f_max_is_the_mean_over_records_at_the_threshold_that_is_best_on_validation() -> None:
    (y_validation, p_validation), (y, p) = probabilities(1), probabilities(0)

    def naive(y: np.ndarray, p: np.ndarray, t: float) -> float:
        precision = [y[i, p[i] >= t].mean() for i in range(len(y)) if (p[i] >= t).any()]
        recall = [(p[i, y[i] == 1] >= t).mean() for i in range(len(y)) if y[i].any()]
        a, b = np.mean(precision or [0]), np.mean(recall)
        return 2 * a * b / (a + b) if a + b else 0.0

    found = metrics.summarise(NAMES, y_validation, p_validation, y, p)
    t = found["f_max_threshold"]
    assert found["f_max"] == pytest.approx(naive(y, p, t), abs=1e-12)
    assert naive(y_validation, p_validation, t) == max(naive(y_validation, p_validation, k / 100) for k in range(1, 101))


def test_the_calibration_error_is_the_mean_distance_of_said_and_seen() -> None:
    y, p = probabilities(0)
    p[0, 0], p[1, 1] = 0.0, 1.0
    found = metrics.reliability(y, p)
    distance = 0.0
    for i, k in enumerate(found["bin"]):
        upper = np.inf if k == 14 else (k + 1) / 15
        there = (p >= k / 15) & (p < upper)
        assert found["n"][i] == there.sum() > 0
        assert found["predicted"][i] == pytest.approx(p[there].mean())
        assert found["observed"][i] == pytest.approx(y[there].mean())
        distance += there.mean() * abs(p[there].mean() - y[there].mean())
    assert sum(found["n"]) == p.size
    assert found["ece"] == pytest.approx(distance)
    assert metrics.reliability(y, y.astype(float))["ece"] == 0


def test_what_is_undefined_is_named_and_in_no_mean() -> None:
    (y_validation, p_validation), (y, p) = probabilities(1, classes=6), probabilities(0, classes=6)
    y[:, 4], y[:, 5], y_validation[:, 3] = 0, 1, 0
    found = metrics.summarise([*NAMES, "e", "f"], y_validation, p_validation, y, p)
    assert found["undefined"] == {"e": "no score: no positives in test", "f": "no score: only positives in test",
                                  "d": "no F1: no positives in validation"}
    assert list(found["per_class"]) == NAMES
    assert not {"f1", "threshold"} & set(found["per_class"]["d"])
    assert found["macro_auroc"] == pytest.approx(roc_auc_score(y[:, :4], p[:, :4]), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(np.mean([found["per_class"][c]["f1"] for c in NAMES[:3]]))
    with pytest.raises(UserError, match="no class has positives and negatives among the 120 test records"):
        metrics.summarise(NAMES, y_validation[:, :4], p_validation[:, :4], np.zeros_like(y[:, :4]), p[:, :4])


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    y, p = probabilities(0)
    p[3, 2] = bad
    with pytest.raises(UserError, match="predictions of the test records are not probabilities"):
        metrics.summarise(NAMES, *probabilities(1), y, p)
