"""Macro AUROC with bootstrap intervals. y is (n, C) of 0 and 1, p (n, C) scores; no NaN passes."""

from dataclasses import dataclass

import numpy as np

from bench.errors import UserError

RESAMPLES = 1000  # ours; so is the choice of 2.5 and 97.5 percentiles
SEED = 20241013  # fixed: every model on the same labels sees the same resamples, so differences are paired
BLOCK = 50  # resamples in memory at a time
TRIES = 200_000  # resamples drawn before giving up; ours


def auroc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUROC of each class, (C,); with weights (R, n), how often each record is in each resample, (R, C).

    The share of (positive, negative) pairs in the right order, ties counting half (Mann-Whitney). UserError when a
    class lacks a positive or a negative.
    """
    w = np.ones((1, len(y))) if weights is None else np.asarray(weights, np.float64)
    if not np.isfinite(p).all():
        raise UserError("scores hold NaN or infinite values")
    out = np.empty((len(w), y.shape[1]))
    for c in range(y.shape[1]):
        order = np.argsort(p[:, c], kind="stable")
        ties = np.flatnonzero(np.r_[True, np.diff(p[order, c]) != 0])  # first of each group of equal scores
        sorted_w = w[:, order]
        positive = np.add.reduceat(sorted_w * y[order, c], ties, axis=1)
        negative = np.add.reduceat(sorted_w * (1 - y[order, c]), ties, axis=1)
        pairs = positive.sum(1) * negative.sum(1)
        if (pairs == 0).any():
            raise UserError(f"class {c} has no positive or no negative: AUROC is not defined")
        below = np.cumsum(negative, axis=1) - negative
        out[:, c] = (positive * (below + 0.5 * negative)).sum(1) / pairs
    return out[0] if weights is None else out


def class_complete_resamples(y: np.ndarray, count: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """(count, n) int32: how often each record is in each resample; resamples that lose a class are redrawn."""
    rng = np.random.default_rng(seed)
    n = len(y)
    found: list[np.ndarray] = []
    for _ in range(TRIES // 200):
        draws = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(200)])
        positives = draws @ y
        found.extend(draws[((positives > 0) & (positives < n)).all(1)])
        if len(found) >= count:
            return np.stack(found[:count]).astype(np.int32)
    raise UserError(f"of {TRIES:,} resamples of {n} records only {len(found)} hold every class; too few positives")


@dataclass(frozen=True)
class Score:
    macro: float
    lower: float
    upper: float
    replicates: np.ndarray  # (R,) macro AUROC of every resample
    per_class: np.ndarray  # (C,)
    per_class_lower: np.ndarray
    per_class_upper: np.ndarray


def score(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None,
          percentiles: tuple[float, float] = (2.5, 97.5)) -> Score:
    """Point values on all records, intervals from the resamples (ours by default)."""
    weights = class_complete_resamples(y) if weights is None else weights
    each = np.concatenate([auroc(y, p, weights[i: i + BLOCK]) for i in range(0, len(weights), BLOCK)])
    macro = each.mean(1)
    lower, upper = np.percentile(macro, percentiles)
    low, high = np.percentile(each, percentiles, axis=0)
    point = auroc(y, p)
    return Score(float(point.mean()), float(lower), float(upper), macro, point, low, high)


def counts(ids: np.ndarray, n: int) -> np.ndarray:
    """Resamples given as record numbers (R, n) -> how often each record is in each, (R, n)."""
    return np.stack([np.bincount(row, minlength=n) for row in ids])
