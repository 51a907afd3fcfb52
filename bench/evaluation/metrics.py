"""Scores of class predictions with bootstrap intervals. y is (n, C) of 0 and 1, p (n, C) scores; NaN is an error.

A new score is computed in `summarise` (that of a regression: in regression.py). It is named in OTHER_SCORES of
bench/report/results.py, labelled in paper/static/runs.js, and described in results/README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import poisson

from bench.core.errors import UserError, unknown

RESAMPLES = 1000
SEED = 20241014  # fixed: every model on the same labels sees the same resamples, so differences are paired
BLOCK = 200  # resamples that are drawn and held in memory at a time; another number would draw other resamples
TRIES = 200_000  # draws before the search for class-complete resamples ends
RULES = {  # name -> (number of class-complete resamples, percentiles that bound the interval)
    "default": (RESAMPLES, (2.5, 97.5)),
    "strodthoff": (100, (5.0, 95.0)),  # Strodthoff et al. 2021, arXiv 2004.13701
}
BINS = 15  # bins of the predicted probability, of equal width: Guo et al. 2017, arXiv 1706.04599
NO_AUROC = "class {} has no positive or no negative: AUROC is not defined"
STEPS = 100  # thresholds tried for F-max, in (0, 1]: Radivojac et al. 2013, doi 10.1038/nmeth.2340


def auroc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUROC of each class, (C,). With weights (R, n), how often each record is in each of R resamples, it is (R, C).

    AUROC is the share of (positive, negative) pairs in the right order; a tie counts half (Mann-Whitney). With weights it
    is computed from the ranks of the positives. UserError if a class lacks a positive or a negative.
    """
    if not np.isfinite(p).all():
        raise UserError("scores hold NaN or infinite values")
    if weights is None:
        return np.array([_auroc(p[:, c][y[:, c] > 0], p[:, c][y[:, c] == 0], c) for c in range(y.shape[1])])
    n, w = len(y), np.asarray(weights)
    drawn = w.sum(1)
    # float32 is exact here: all values are multiples of 1/2 below 2**23
    blocks = [np.ascontiguousarray(w[i: i + BLOCK].T, np.float32) for i in range(0, len(w), BLOCK)]
    out = np.empty((len(w), y.shape[1]))
    for c in range(y.shape[1]):
        order = np.argsort(p[:, c], kind="stable")
        positive = np.flatnonzero(y[order, c])
        tie = np.cumsum(np.r_[0, np.diff(p[order, c]) != 0])  # which group of equal scores a record is in
        holds = np.bincount(tie, y[order, c])[tie] > 0  # whether that group has a positive
        first = np.r_[True, (np.diff(tie) > 0) & (holds[1:] | holds[:-1])]  # adjacent groups without positives merge
        starts, group = np.flatnonzero(first), (np.cumsum(first) - 1)[positive]
        sums = csr_array((np.ones(n, np.float32), order, np.r_[starts, n]), shape=(len(starts), n))
        for i, block in enumerate(blocks):
            size = sums @ block
            rank = np.cumsum(size, axis=0) - size / 2
            own = block[order[positive]]
            total = own.sum(0, dtype=np.float64)
            pairs = total * (drawn[i * BLOCK: (i + 1) * BLOCK] - total)
            if (pairs == 0).any():
                raise UserError(NO_AUROC.format(c))
            ranks = np.einsum("ir,ir->r", own, rank[group], dtype=np.float64)
            # total**2 / 2 of the ranks comes from the positives among themselves, whatever their scores
            out[i * BLOCK: (i + 1) * BLOCK, c] = (ranks - total**2 / 2) / pairs
    return out


def _auroc(positive: np.ndarray, negative: np.ndarray, c: int) -> float:
    """AUROC of class c from the scores of its positives and its negatives: it counts the negatives below each positive."""
    if not (len(positive) and len(negative)):
        raise UserError(NO_AUROC.format(c))
    negative = np.sort(negative)
    below = sum(int(negative.searchsorted(positive, side).sum()) for side in ("left", "right"))
    return below / 2 / (len(positive) * len(negative))


def draw_resamples(y: np.ndarray, count: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """(count, n) int32: how often each record is in each resample; every resample holds every class.

    The distribution is that of plain resamples, each redrawn until it holds every class. Redrawing alone would reject most
    resamples: 88 % with PTB-XL's 71 statements. Instead, the rarest classes that share no record are drawn at least once
    each, and a resample is redrawn only if it still lacks a class. The distribution stays the same, because the counts of
    the records in a resample are independent Poisson(1) numbers, conditioned on their sum n. A group of k records is drawn
    Poisson(k) times, conditioned on at least one draw, and each draw picks one of its records uniformly. The counts of the
    groups are accepted in proportion to the probability that the other records fill up the sum to n.
    """
    n, labels, member = len(y), y.astype(np.float64), np.zeros(len(y), np.int64)  # each record's group; 0: none
    for c in np.argsort(y.sum(0), kind="stable"):
        if not member[y[:, c] > 0].any():
            member[y[:, c] > 0] = member.max() + 1
    records, size = np.argsort(member, kind="stable"), np.bincount(member)
    start, others = np.cumsum(size) - size, poisson(size[0])
    rng = np.random.default_rng(seed)
    complete: list[np.ndarray] = []
    for _ in range(TRIES // BLOCK):
        # events of a Poisson process up to time k: the time of the first, given that there is one; the number of the others
        first = -np.log1p(rng.random((BLOCK, len(size) - 1)) * np.expm1(-size[1:]))
        times = 1 + rng.poisson(np.maximum(size[1:] - first, 0))
        left = n - times.sum(1)
        fits = rng.random(BLOCK) < others.pmf(left) / others.pmf(size[0])
        for each in np.column_stack([left, times])[fits]:
            group = np.repeat(np.arange(len(size)), each)
            drawn = np.bincount(records[start[group] + rng.integers(size[group])], minlength=n)
            positives = drawn @ labels
            if (positives > 0).all() and (positives < n).all():
                complete.append(drawn.astype(np.int32))
        if len(complete) >= count:
            return np.stack(complete[:count])
    raise UserError(f"of {TRIES:,} resamples of {n} records only {len(complete)} hold every class; too few positives")


@dataclass(frozen=True)
class Score:
    """AUROC of C classes, with intervals from R resamples."""

    macro: float
    lower: float
    upper: float
    replicates: np.ndarray  # (R,) macro AUROC of every resample
    per_class: np.ndarray  # (C,)
    per_class_lower: np.ndarray
    per_class_upper: np.ndarray


def score(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None, rule: str = "default") -> Score:
    """AUROC on all records, with intervals by a rule of RULES. weights: of resamples, see auroc."""
    weights = draw_resamples(y) if weights is None else weights
    point, each = auroc(y, p), auroc(y, p, weights)
    macro = each.mean(1)
    (lower, upper), (low, high) = interval(macro, rule), interval(each, rule)
    return Score(float(point.mean()), float(lower), float(upper), macro, point, low, high)


def interval(replicates: np.ndarray, rule: str = "default") -> tuple[Any, Any]:
    """(lower, upper) by a rule of RULES: of (R,) replicates, or of each column of (R, C) replicates."""
    if rule not in RULES:
        raise unknown("rule of intervals", rule, RULES)
    count, percentiles = RULES[rule]
    lower, upper = np.percentile(replicates[:count], percentiles, axis=0)
    return lower, upper


def count_draws(ids: np.ndarray, n: int) -> np.ndarray:
    """(R, n): how often each of n records is in each resample. ids (R, n): the numbers of the records in each resample."""
    return np.stack([np.bincount(row, minlength=n) for row in ids])


def operating_points(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds, true positives, predicted positives) of one class at each of its scores, the highest first."""
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])  # the last record of each group of equal scores
    return p[order][last], np.cumsum(y[order])[last], last + 1


def average_precision(y: np.ndarray, p: np.ndarray) -> float:
    """Average precision of one class, y and p (n,): the mean over the positives of the precision at their scores."""
    _, true, predicted = operating_points(y, p)
    return float((np.diff(true, prepend=0) * true / predicted).sum() / true[-1])


def f1_threshold(y: np.ndarray, p: np.ndarray) -> float:
    """The threshold with the highest F1 of one class, y and p (n,); in a tie, the highest threshold."""
    thresholds, true, predicted = operating_points(y, p)
    return float(thresholds[np.argmax(2 * true / (predicted + true[-1]))])


def f1(y: np.ndarray, p: np.ndarray, threshold: float) -> float:
    """F1 of one class that has a positive, y and p (n,). Scores at or above the threshold are predicted positive."""
    predicted = p >= threshold
    return float(2 * (y * predicted).sum() / (y.sum() + predicted.sum()))


def f_record(y: np.ndarray, p: np.ndarray, threshold: float) -> float:
    """Record-centric F of all classes at one threshold, from the mean precision of the records with a prediction and the
    mean recall of the records with a label; 0 if no prediction is right. Its maximum over thresholds is F-max (Radivojac
    et al. 2013)."""
    predicted = p >= threshold
    right, named, labelled = (y * predicted).sum(1), predicted.sum(1), y.sum(1)
    if not right.any():
        return 0.0
    precision, recall = (right[named > 0] / named[named > 0]).mean(), (right[labelled > 0] / labelled[labelled > 0]).mean()
    return float(2 * precision * recall / (precision + recall))


def reliability(y: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Reliability curve and expected calibration error of probabilities, y and p of one shape.

    Each bin that is not empty (of BINS of equal width in [0, 1]) has its number, n, mean predicted probability and share of
    positives. ece is the mean over predictions of the distance between the last two.
    """
    which = np.minimum((p * BINS).astype(np.int64), BINS - 1).ravel()
    n = np.bincount(which, minlength=BINS)
    filled = np.flatnonzero(n)
    predicted, observed = (np.bincount(which, v.ravel(), BINS)[filled] / n[filled] for v in (p, y))
    return {"bins": BINS, "bin": filled.tolist(), "n": n[filled].tolist(), "predicted": predicted.tolist(),
            "observed": observed.tolist(), "ece": float(n[filled] @ np.abs(predicted - observed) / p.size)}


def summarise(classes: Sequence[str], y_validation: np.ndarray, p_validation: np.ndarray, y_test: np.ndarray,
            p_test: np.ndarray) -> dict[str, Any]:
    """The scores of a result from probabilities p. Thresholds are chosen on the validation records alone.

    A class without a positive or without a negative in test has no score. A class without a positive in validation has no
    threshold, hence no F1. `undefined` says why a score is missing, and no mean counts the class.
    """
    for part, p in (("validation", p_validation), ("test", p_test)):
        if not ((p >= 0) & (p <= 1)).all():
            raise UserError(f"predictions of the {part} records are not probabilities: a value is NaN or outside [0, 1]")
    positives, n = y_test.sum(0), len(y_test)
    undefined = {c: f"no score: {'no' if not k else 'only'} positives in test"
                 for c, k in zip(classes, positives, strict=True) if k in (0, n)}
    scored = [i for i, c in enumerate(classes) if c not in undefined]
    if not scored:
        raise UserError(f"no class has positives and negatives among the {n} test records: nothing can be scored")
    y_validation, p_validation, y, p = (np.asarray(a[:, scored], np.float64)
                                        for a in (y_validation, p_validation, y_test, p_test))
    scores = score(y, p)
    per_class: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(classes[j] for j in scored):
        per_class[name] = {
            "auroc": float(scores.per_class[i]), "lower": float(scores.per_class_lower[i]),
            "upper": float(scores.per_class_upper[i]), "positives": int(y[:, i].sum()),
            "average_precision": average_precision(y[:, i], p[:, i]),
            "brier": float(np.square(p[:, i] - y[:, i]).mean()), "ece": reliability(y[:, i], p[:, i])["ece"]}
        if y_validation[:, i].any():
            threshold = f1_threshold(y_validation[:, i], p_validation[:, i])
            per_class[name] |= {"f1": f1(y[:, i], p[:, i], threshold), "threshold": threshold}
        else:
            undefined[name] = "no F1: no positives in validation"
    macro = {f"macro_{key}": float(np.mean(values)) for key in ("average_precision", "f1", "brier", "ece")
             if (values := [each[key] for each in per_class.values() if key in each])}
    if y_validation.any():
        steps = (np.arange(1, STEPS + 1) / STEPS).tolist()
        best = max(steps, key=lambda threshold: f_record(y_validation, p_validation, threshold))
        macro |= {"f_max": f_record(y, p, best), "f_max_threshold": best}
    return {
        "macro_auroc": scores.macro, "interval": [scores.lower, scores.upper],
        "replicates": [round(float(v), 6) for v in scores.replicates],  # six digits are enough for differences
        "bootstrap": {"resamples": len(scores.replicates), "percentiles": list(RULES["default"][1]), "seed": SEED,
                      "kind": "class-complete"},
        **macro, "calibration": reliability(y, p), "n": n, "per_class": per_class, "undefined": undefined,
    }
