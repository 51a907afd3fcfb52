"""Is one method better than another: over other test records, and over other runs of both?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.errors import UserError

Record = dict[str, Any]

LEVEL = 0.05  # of every test and interval


@dataclass(frozen=True)
class Comparison:
    """The first method's mean score (macro AUROC, R2) minus the second's."""

    difference: float
    lower: float  # of its 95 % interval
    upper: float
    p: float  # two-sided, that it is 0
    sd_records: float  # of the difference, over test sets; the same for every number of runs
    sd_runs: float  # over runs, each method's divided by the root of how many it has
    runs: tuple[int, int]


@dataclass(frozen=True)
class Ranking:
    """More than two methods over several tasks (Demsar 2006, JMLR 7:1-30).

    Both tests take tasks for independent; where they share records, as PTB-XL's do, they find too much.
    """

    methods: tuple[str, ...]  # the best first
    ranks: tuple[float, ...]  # of each, mean over tasks; 1 is best, equal ones share the mean of their ranks
    tasks: int
    p: float  # Friedman's test that all methods rank alike: chi squared, an approximation for few tasks
    critical_difference: float  # Nemenyi's, at LEVEL: mean ranks closer than this are not told apart

    @property
    def groups(self) -> list[tuple[int, int]]:
        """(first, last) of every largest set of two or more methods, neighbours in rank, that are not told apart."""
        last = [max(j for j, rank in enumerate(self.ranks) if rank - first <= self.critical_difference)
                for first in self.ranks]
        return [(i, j) for i, j in enumerate(last) if j > i and (not i or j > last[i - 1])]


def compare(a: Sequence[Record], b: Sequence[Record]) -> Comparison:
    """What `difference` says of the runs of two methods, records of evaluations of one task.

    A method's runs are its pre-trainings, each the mean of its evaluations; where all its evaluations are of one
    backbone, its runs are these, and the comparison says nothing of other backbones of the method.
    UserError where records differ in task, data, classes or resamples, or a method has one run alone.
    """
    first, *others = [*a, *b]
    for other in others:
        for what, value in _terms(other).items():
            if value != _terms(first)[what]:
                raise UserError(f"{first['run_id']} and {other['run_id']} do not compare, {what} differs: "
                                f"{_terms(first)[what]!s:.200} and {value!s:.200}")
    return difference(*runs_of(a), *runs_of(b))


def _terms(record: Record) -> dict[str, Any]:
    """What two records must share to be compared."""
    config, result = record["config"], record["result"]
    classes = sorted((c, each["positives"]) for c, each in result.get("per_class", {}).items())
    return {**{key: config[key] for key in ("protocol", "task", "data")}, "folds.test": config["folds"]["test"],
            "external": config.get("external"), "metric": result.get("metric"),
            "the number of test records": result["records"]["test"], "classes": classes,
            "bootstrap": result["bootstrap"]}


def runs_of(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """(k,) scores and (k, R) replicates of a method's k runs."""
    names = [r["config"]["pretrain"] for r in records]
    if len(set(names)) == 1:
        names = [r["run_id"] for r in records]
    same = np.array(names) == np.array(list(dict.fromkeys(names)))[:, None]
    mean = same / same.sum(1, keepdims=True)
    return (mean @ np.array([r["result"][r["result"].get("metric", "macro_auroc")] for r in records]),
            mean @ np.array([r["result"]["replicates"] for r in records]))


def difference(points_a: np.ndarray, replicates_a: np.ndarray, points_b: np.ndarray, replicates_b: np.ndarray) -> Comparison:
    """The comparison of two methods by the scores (k,) of their runs and (k, R) the same on R shared resamples.

    Runs and test records are both a sample: the analysis of readers and cases in radiology, with runs as readers
    that belong to one method and read the same cases (Obuchowski & Rockette 1995, doi 10.1080/03610919508813243;
    Hillis 2014, doi 10.1002/sim.5926). The variance of the difference is the variance over runs, each method's
    divided by its number of runs, plus what two runs share through the test records: covariances of the replicates
    of different runs, of each method minus those across methods. (A run's own variance over resamples is in the
    variance over runs already.) Degrees of freedom by Satterthwaite, each method with a variance of its own: ours.
    Runs count as independent across methods though they share seeds, which at worst makes the test careful.
    """
    k_a, k_b = len(points_a), len(points_b)
    if min(k_a, k_b) < 2 or replicates_a.shape[1] < 2:
        raise UserError(f"methods with {k_a} and {k_b} runs and {replicates_a.shape[1]} resamples: two of each are needed "
                        f"to know how they vary; add seeds")
    covariance = np.cov(np.concatenate([replicates_a, replicates_b]))
    within_a, within_b, across = covariance[:k_a, :k_a], covariance[k_a:, k_a:], covariance[:k_a, k_a:]
    shared = sum((c.sum() - c.trace()) / (len(c) * (len(c) - 1)) for c in (within_a, within_b)) - 2 * across.mean()
    records = max(float(shared), 0.0)
    each = [(np.var(points, ddof=1) / len(points), len(points) - 1) for points in (points_a, points_b)]
    runs = float(sum(v for v, _ in each))
    found, se = float(np.mean(points_a) - np.mean(points_b)), (records + runs) ** 0.5
    freedom = (records + runs) ** 2 / sum(v**2 / df for v, df in each) if runs else np.inf
    p = 2 * stats.t.sf(abs(found) / se, freedom) if se else float(found == 0)
    half = se * stats.t.isf(LEVEL / 2, freedom)
    return Comparison(found, float(found - half), float(found + half), float(p), records**0.5, runs**0.5, (k_a, k_b))


def holm(p: Sequence[float]) -> list[float]:
    """p values -> p values corrected for how many there are (Holm 1979), in the same order."""
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return out.tolist()


def ranking(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """The ranking of three or more methods by their scores on two or more tasks, the same tasks in the same order."""
    lengths = {len(values) for values in scores.values()}
    if len(scores) < 3 or len(lengths) > 1 or min(lengths) < 2 or not np.isfinite(list(scores.values())).all():
        raise UserError(f"a ranking needs 3 or more methods with finite scores on the same 2 or more tasks, got methods "
                        f"{', '.join(scores) or 'none'} with {' or '.join(map(str, sorted(lengths)))} scores")
    each = stats.rankdata(-np.array(list(scores.values()), np.float64), axis=0).T
    n, k = each.shape
    ranks = each.mean(0)
    spread = np.square(each - (k + 1) / 2).sum()
    chi2 = n**2 * (k - 1) * np.square(ranks - (k + 1) / 2).sum() / spread if spread else 0.0
    q = stats.studentized_range.isf(LEVEL, k, np.inf) / 2**0.5
    order = np.argsort(ranks, kind="stable")
    return Ranking(tuple(list(scores)[i] for i in order), tuple(ranks[order].tolist()), n, float(stats.chi2.sf(chi2, k - 1)),
                   float(q * (k * (k + 1) / (6 * n)) ** 0.5))
