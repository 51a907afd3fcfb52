"""R2 and what stands beside it, against their definitions."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bench.core.errors import UserError
from bench.evaluation import metrics, regression

RNG = np.random.default_rng(0)
Y = RNG.normal(60, 15, 300)
P = Y * 0.5 + 30 + RNG.normal(0, 8, 300)


def by_hand(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    return {"r2": sklearn_metrics.r2_score(y, p), "mae": sklearn_metrics.mean_absolute_error(y, p),
            "rmse": sklearn_metrics.mean_squared_error(y, p) ** 0.5, "pearson_r": stats.pearsonr(y, p).statistic}


def test_every_metric_is_that_of_the_libraries() -> None:
    found, expected = regression.summarise(Y[:, None].astype(np.float32), P[:, None]), by_hand(Y.astype(np.float32), P)
    assert found["metric"] == "r2" and found["n"] == 300 and found["undefined"] == {}
    assert found["r2"] == regression.r2(Y.astype(np.float32), P) == pytest.approx(expected["r2"], abs=1e-12)
    for name in ("mae", "rmse", "pearson_r"):
        assert found[name]["value"] == pytest.approx(expected[name], abs=1e-10)
        assert found[name]["lower"] < found[name]["value"] < found[name]["upper"]


def test_a_resample_is_scored_as_its_records_are() -> None:
    weights = regression.draw_resamples(Y, 20)
    assert weights.shape == (20, 300) and (weights.sum(1) == 300).all()
    found = regression._score(Y, P, weights)
    for i, row in enumerate(weights):
        expected = by_hand(np.repeat(Y, row), np.repeat(P, row))
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, abs=1e-9)


def test_the_interval_is_of_1000_resamples_that_are_the_same_for_every_model() -> None:
    a, b = regression.summarise(Y, P), regression.summarise(Y, P + 1)
    assert len(a["replicates"]) == metrics.RESAMPLES == 1000
    assert a["interval"] == pytest.approx(np.percentile(a["replicates"], [2.5, 97.5]), abs=1e-6)
    assert np.corrcoef(a["replicates"], b["replicates"])[0, 1] > 0.9
    assert a == regression.summarise(Y, P)


def test_pearson_r_is_left_out_where_predictions_do_not_vary_and_without_interval_where_some_resample_has_none() -> None:
    for offset in (0.0, 1e6):
        constant = regression.summarise(Y + offset, np.full(300, 0.1 + offset))
        assert "pearson_r" not in constant and constant["undefined"] == {"pearson_r": "the predictions do not vary"}
    rare = regression.summarise(np.arange(20.0), np.eye(20)[3])  # a third of the resamples lack the record that differs
    assert rare["pearson_r"]["lower"] is None and rare["pearson_r"]["value"] < 0
    assert rare["undefined"] == {"pearson_r": "the predictions of a resample do not vary"}


def test_resamples_always_hold_two_values() -> None:
    y = np.zeros(5)
    y[0] = 1.0  # a third of plain resamples lack it
    weights = regression.draw_resamples(y)
    assert (weights[:, 0] > 0).all() and (weights[:, 1:].sum(1) > 0).all()
    assert np.isfinite(regression.summarise(y, y)["replicates"]).all()


@pytest.mark.parametrize(("y", "p", "message"), [
    (np.full(9, 3.0), np.arange(9.0), "the 9 records do not have two different values: R2 is not defined"),
    (np.empty(0), np.empty(0), "the 0 records do not have two different values"),
    (Y, np.full(300, np.inf), "hold NaN or infinite"),
])
def test_what_has_no_r2_is_an_error(y: np.ndarray, p: np.ndarray, message: str) -> None:
    for score in (regression.r2, regression.summarise):
        with pytest.raises(UserError, match=message):
            score(y, p)
