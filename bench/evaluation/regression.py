"""R2 of predicted values, with MAE, RMSE and Pearson's r, and bootstrap intervals. NaN is an error.

The docstring of metrics.py says where else a new score is named.
"""

from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.evaluation.metrics import RESAMPLES, SEED

PERCENTILES = (2.5, 97.5)  # as for AUROC


def r2(y: np.ndarray, p: np.ndarray) -> float:
    """1 - squared error / squared distance of y to its mean; y and p (n,) or (n, 1). UserError if all y are equal."""
    return float(_score(*_check(y, p), np.ones((1, len(y))))["r2"][0])


def _check(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (n,)."""
    y, p = (np.asarray(v, np.float64).ravel() for v in (y, p))
    if not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise UserError("values or predictions hold NaN or infinite numbers")
    if not len(y) or (y == y[0]).all():
        raise UserError(f"the {len(y)} records do not have two different values: R2 is not defined")
    return y, p


def _score(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metric -> (R,) its value in each resample; r is NaN if predictions do not vary. weights (R, n): see draw_resamples."""
    e, y, p = p - y, y - y.mean(), p - p.mean()
    n = weights.sum(1)
    error, absolute, a, b, aa, bb, ab = (weights @ v / n for v in (e * e, abs(e), y, p, y * y, p * p, y * p))
    y_variance, p_variance, covariance = aa - a * a, bb - b * b, ab - a * b
    varies = p_variance > 1e-12 * bb  # the variance of a constant is a rounding error
    return {
        "r2": 1 - error / y_variance,
        "mae": absolute,
        "rmse": np.sqrt(error),
        "pearson_r": np.where(varies, covariance / np.sqrt(y_variance * np.where(varies, p_variance, 1)), np.nan),
    }


def draw_resamples(y: np.ndarray, count: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """(count, n) int32: how often each record is in each resample. A resample in which all values are equal is redrawn."""
    rng, n = np.random.default_rng(seed), len(y)
    counts = np.zeros((count, n), np.int32)
    for row in counts:
        while not row.any():  # at least every other draw holds two values
            ids = rng.integers(n, size=n)
            if (y[ids] != y[ids[0]]).any():
                row += np.bincount(ids, minlength=n).astype(np.int32)
    return counts


def summarise(y_test: np.ndarray, p_test: np.ndarray) -> dict[str, Any]:
    """The scores of a result: R2 with its interval and replicates, and {value, lower, upper} of the other metrics.

    y_test and p_test (n,) or (n, 1), in the target's unit. All models on the same records use the same resamples.
    `undefined` says why a metric has no value or no interval. Pearson's r has no value if the predictions do not vary, and
    no interval if those of some resample do not vary.
    """
    y, p = _check(y_test, p_test)
    point, each = _score(y, p, np.ones((1, len(y)))), _score(y, p, draw_resamples(y))
    out: dict[str, Any] = {"metric": "r2", "r2": float(point["r2"][0]), "n": len(y), "undefined": {}}
    for name, values in each.items():
        defined = bool(np.isfinite(values).all())
        interval = [float(v) for v in np.percentile(values, PERCENTILES)] if defined else None
        if name == "r2":
            out |= {"interval": interval, "replicates": [round(float(v), 6) for v in values]}
        elif np.isfinite(point[name][0]):
            lower, upper = interval or (None, None)
            out[name] = {"value": float(point[name][0]), "lower": lower, "upper": upper}
        if not defined:
            out["undefined"][name] = "the predictions" + (" of a resample" if name in out else "") + " do not vary"
    out["bootstrap"] = {"resamples": RESAMPLES, "percentiles": list(PERCENTILES), "seed": SEED, "kind": "two values or more"}
    return out
