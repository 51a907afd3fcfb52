"""Macro AUROC is what it is elsewhere, and its intervals come from resamples that hold every class."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bench.errors import UserError
from bench.evaluation import metrics


def some(n: int = 60, classes: int = 4, ties: bool = True, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, classes)) < 0.3).astype(np.int64)
    y[:2] = [[0] * classes, [1] * classes]
    p = rng.normal(size=(n, classes)) + y
    return y, np.round(p, 0 if ties else 9)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_sklearns(ties: bool, seed: int) -> None:
    y, p = some(ties=ties, seed=seed)
    assert metrics.auroc(y, p) == pytest.approx(roc_auc_score(y, p, average=None), abs=1e-12)
    assert metrics.auroc(y, p.astype(np.float32)) == pytest.approx(roc_auc_score(y, p.astype(np.float32), average=None))


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    y, p = some(n=25)
    for c in range(y.shape[1]):
        pairs = [(a > b) + 0.5 * (a == b) for a in p[y[:, c] == 1, c] for b in p[y[:, c] == 0, c]]
        assert metrics.auroc(y, p)[c] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_weights_are_repetitions() -> None:
    y, p = some(n=40)
    rng = np.random.default_rng(1)
    ids = np.stack([np.r_[0, 1, rng.integers(40, size=38)] for _ in range(5)])
    for row, found in zip(ids, metrics.auroc(y, p, metrics.counts(ids, 40)), strict=True):
        assert found == pytest.approx(roc_auc_score(y[row], p[row], average=None), abs=1e-12)


def test_a_perfect_a_reversed_and_a_constant_score() -> None:
    y = np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert metrics.auroc(y, y.astype(float)).tolist() == [1, 1, 1]
    assert metrics.auroc(y, -y.astype(float)).tolist() == [0, 0, 0]
    assert metrics.auroc(y, np.zeros((4, 3))).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    y, p = some()
    p[3, 2] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        metrics.auroc(y, p)


@pytest.mark.parametrize("value", [0, 1])
def test_a_class_without_a_positive_or_a_negative_is_refused(value: int) -> None:
    y, p = some()
    y[:, 2] = value
    with pytest.raises(UserError, match="class 2 has no positive or no negative"):
        metrics.auroc(y, p)


def test_the_published_models_bootstrap_is_reproduced(shared: Path) -> None:
    golden = np.load(shared / "golden" / "strodthoff_xresnet1d101.npz")
    y, p = golden["y_test"].astype(np.int64), golden["p_test"]
    found = metrics.score(y, p, metrics.counts(golden["bootstrap_ids"], len(y)), (5, 95))
    assert found.replicates.shape == (100,)
    assert found.macro == pytest.approx(0.9254358590055028, abs=1e-12)
    assert found.replicates.mean() == pytest.approx(0.9248700603532448, abs=1e-12)
    assert found.lower == pytest.approx(0.9185230258692298, abs=1e-12)
    assert found.upper == pytest.approx(0.9314845724252189, abs=1e-12)


def test_every_resample_holds_a_positive_and_a_negative_of_every_class() -> None:
    y = np.zeros((30, 3), np.int64)
    y[:2, 0] = y[5:, 1] = y[::3, 2] = 1  # of class 0 a plain resample loses every positive one time in eight
    weights = metrics.class_complete_resamples(y, 400)
    assert weights.shape == (400, 30)
    assert (weights.sum(1) == 30).all()
    positives = weights @ y
    assert positives.min() > 0
    assert (positives < 30).all()
    rng = np.random.default_rng(0)
    plain = np.stack([np.bincount(rng.integers(30, size=30), minlength=30) for _ in range(400)])
    assert ((plain @ y)[:, 0] == 0).mean() > 0.08


def test_resamples_are_plain_ones_with_the_incomplete_redrawn() -> None:
    y = np.zeros((6, 1), np.int64)
    y[0] = 1
    weights = metrics.class_complete_resamples(y, 4000)
    assert weights[:, 0].min() == 1
    rng = np.random.default_rng(0)
    plain = rng.multinomial(6, [1 / 6] * 6, 40_000)
    kept = plain[(plain[:, 0] > 0) & (plain[:, 0] < 6)]
    assert weights.mean(0) == pytest.approx(kept.mean(0), abs=0.06)


def test_every_model_sees_the_same_resamples() -> None:
    y, p = some(ties=False)
    a, b = metrics.score(y, p), metrics.score(y, -p)
    assert a.replicates.shape == (metrics.RESAMPLES,) == (1000,)
    assert np.allclose(a.replicates, 1 - b.replicates, atol=1e-12)  # record by record the same draws
    assert np.array_equal(metrics.class_complete_resamples(y, 50), metrics.class_complete_resamples(y, 50))
    assert metrics.score(y, p).replicates.tolist() == a.replicates.tolist()


def test_intervals_are_percentiles_around_the_point_of_all_records() -> None:
    y, p = some(n=200, ties=False)
    found = metrics.score(y, p)
    assert found.macro == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert [found.lower, found.upper] == pytest.approx(np.percentile(found.replicates, [2.5, 97.5]))
    assert found.lower < found.macro < found.upper
    assert (found.per_class_lower < found.per_class).all()
    assert (found.per_class < found.per_class_upper).all()
    assert found.per_class.mean() == pytest.approx(found.macro)


def test_too_few_positives_for_any_resample_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TRIES", 2000)
    y = np.array([[1, 0], [1, 0], [1, 1]])  # class 0 is complete in no resample
    with pytest.raises(UserError, match="of 2,000 resamples of 3 records only 0 hold every class; too few positives"):
        metrics.class_complete_resamples(y)
