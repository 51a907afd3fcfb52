"""Tests whether one method is better than another, counting the variance over test records and the variance over runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.core.errors import UserError
from bench.core.models import Model
from bench.report.results import Evaluation
from bench.runs.values import Classes

LEVEL = 0.05  # significance level of every test; intervals are of 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """The first method's mean score (macro AUROC, R2) minus the second's."""

    difference: float
    lower: float  # of its 95 % interval
    upper: float
    p: float  # two-sided p of the hypothesis that the difference is 0
    sd_records: float  # sd of the difference over test sets; it does not depend on the number of runs
    sd_runs: float  # sd of the difference of the means over runs; it shrinks with the number of runs
    runs: tuple[int, int]  # number of runs of each method


@dataclass(frozen=True)
class Ranking:
    """More than two methods over several tasks (Demsar 2006, JMLR 7:1-30).

    Both tests assume that tasks are independent. Where tasks share records, as PTB-XL's do, the tests find too many differences.
    """

    methods: tuple[str, ...]  # the best first
    ranks: tuple[float, ...]  # mean rank of each over the tasks; 1 is best, equal scores share the mean of their ranks
    tasks: int  # number of tasks
    p: float  # Friedman's test that all methods rank alike: chi squared, an approximation for few tasks
    critical_difference: float  # Nemenyi's, at LEVEL: mean ranks that are closer do not differ significantly

    @property
    def groups(self) -> list[tuple[int, int]]:
        """(first, last) place of every largest set of neighbours in rank, two or more, that do not differ significantly."""
        last = [max(j for j, rank in enumerate(self.ranks) if rank - first <= self.critical_difference)
                for first in self.ranks]
        return [(i, j) for i, j in enumerate(last) if j > i and (not i or j > last[i - 1])]


def compare(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> Comparison:
    """The comparison of two methods by their evaluations on one task; see `difference`.

    A method's runs are its pre-trainings; the score of a run is the mean over its evaluations. If all evaluations are of one
    backbone, each evaluation is a run, and the comparison says nothing about other backbones of the method. UserError if the
    evaluations differ in task, data, classes or resamples, or a method has only one run.
    """
    return compare_pairs([a, b], [(0, 1)])[0]


def compare_pairs(methods: Sequence[Sequence[Evaluation]], pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
    """The comparison of each pair of methods, given by their places in `methods`; see `compare`."""
    if not pairs:
        return []
    first = methods[0][0]
    terms = _terms(first)
    for other in (evaluation for evaluations in methods for evaluation in evaluations):
        for (what, value), expected in zip((own := _terms(other)).items(), terms.values(), strict=True):
            if value != expected:
                texts = (each.to_json() if isinstance(each, Model) else each for each in (expected, own[what]))
                raise UserError(f"{first.run_id} and {other.run_id} do not compare, {what} differs: "
                                + " and ".join(f"{text!s:.200}" for text in texts))
    return _differences([Runs.of(*runs_of(evaluations)) for evaluations in methods], pairs)


def _terms(evaluation: Evaluation) -> dict[str, Any]:
    """What two evaluations must share to be compared."""
    config, result = evaluation.config, evaluation.result
    return {"protocol": config.protocol, "task": config.task, "data": config.data, "folds.test": config.folds.test,
            "external": config.external, "metric": evaluation.metric, "the number of test records": result["records"]["test"],
            "classes": by_class(result.get("per_class", {}), "positives"), "bootstrap": result["bootstrap"]}


def by_class(per_class: Mapping[str, Any], score: str) -> dict[str, Any]:
    """{class: its score} of a result's per_class, sorted by class."""
    if isinstance(per_class, Classes):
        return per_class.positives if score == "positives" else dict(
            zip(per_class.positives, per_class.scores[score].tolist(), strict=True))
    return {name: each[score] for name, each in sorted(per_class.items())}


def runs_of(evaluations: Sequence[Evaluation]) -> tuple[np.ndarray, np.ndarray]:
    """The scores (k,) and the replicates (k, R) of a method's k runs."""
    return (by_run(evaluations, [each.result[each.metric] for each in evaluations]),
            by_run(evaluations, [each.result["replicates"] for each in evaluations]))


def by_run(evaluations: Sequence[Evaluation], values: Sequence[Any]) -> np.ndarray:
    """(n, ...) values of n evaluations -> (k, ...) means of their k runs; `compare` says what a run is."""
    names = [each.config.pretrain for each in evaluations]
    if len(set(names)) == 1:
        names = [each.run_id for each in evaluations]
    same = np.array(names) == np.array(list(dict.fromkeys(names)))[:, None]
    return np.asarray(same / same.sum(1, keepdims=True) @ np.array(values))


def welch(a: tuple[float, int], b: tuple[float, int]) -> float:
    """Half the width of Welch's interval of the difference of two means; each is (standard deviation, number of values)."""
    parts = [(sd**2 / n, n - 1) for sd, n in (a, b)]
    total = sum(v for v, _ in parts)
    return total**0.5 * float(stats.t.isf(LEVEL / 2, total**2 / sum(v**2 / df for v, df in parts))) if total else 0.0


@dataclass(frozen=True)
class Runs:
    """What a comparison needs to know of a method's runs."""

    count: int
    mean: float
    variance: float  # variance of the scores over runs
    replicates: np.ndarray  # (R,) mean of the runs on each resample, minus its mean over resamples
    shared: float  # covariance of two runs over resamples, mean over all pairs of runs

    @classmethod
    def of(cls, points: np.ndarray, replicates: np.ndarray) -> "Runs":
        """From scores (k,) and scores on each resample (k, R); UserError if there are fewer than two runs or resamples."""
        k, resamples = replicates.shape
        if k < 2 or resamples < 2:
            raise UserError(f"a method with {k} runs and {resamples} resamples: two of each are needed to know how they vary; "
                            f"add seeds")
        centred = replicates - replicates.mean(1, keepdims=True)
        mean = centred.mean(0)
        variances = np.square(centred).sum() / (resamples - 1)
        shared = (k**2 * (mean @ mean) / (resamples - 1) - variances) / (k * (k - 1))
        return cls(k, float(points.mean()), float(points.var(ddof=1)), mean, float(shared))


def difference(points_a: np.ndarray, replicates_a: np.ndarray, points_b: np.ndarray, replicates_b: np.ndarray) -> Comparison:
    """The comparison of two methods by the scores (k,) of their runs, and (k, R) the scores on R shared resamples.

    Both the runs and the test records are samples. The analysis is that of readers and cases in radiology: a run is a
    reader that belongs to one method, and all readers read the same cases (Obuchowski & Rockette 1995,
    doi 10.1080/03610919508813243; Hillis 2014, doi 10.1002/sim.5926). The variance of the difference is a sum of two
    parts. The first is the variance over runs, each method's divided by its number of runs. The second is what two runs
    share through the test records: the covariances of replicates of different runs of a method, minus those of runs of
    different methods. (A run's own variance over resamples is in the variance over runs already.) The degrees of freedom
    are Satterthwaite's with a variance for each method, which differs from the publications.

    Runs count as independent across methods though they share seeds; at worst this makes the test too careful. The test
    is not careful enough where a class has few positives: a single positive is in every resample, as if there could be
    no other.
    """
    return _differences([Runs.of(points_a, replicates_a), Runs.of(points_b, replicates_b)], [(0, 1)])[0]


def _differences(methods: Sequence[Runs], pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
    """The comparison of each pair of methods, given by their places."""
    a, b = np.array(pairs).T
    count, mean, variance, shared = (np.array([getattr(m, key) for m in methods], np.float64)
                                     for key in ("count", "mean", "variance", "shared"))
    # one dot product per pair: its last digit does not depend on which other pairs there are
    across = np.array([methods[i].replicates @ methods[j].replicates for i, j in pairs]) / (len(methods[0].replicates) - 1)
    records = np.maximum(shared[a] + shared[b] - 2 * across, 0)
    each = variance / count
    runs = each[a] + each[b]
    gap, se = mean[a] - mean[b], np.sqrt(records + runs)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (records + runs) ** 2 / (each[a] ** 2 / (count[a] - 1) + each[b] ** 2 / (count[b] - 1))
        freedom[runs == 0] = np.inf
        p = np.where(se > 0, 2 * stats.t.sf(abs(gap) / se, freedom), gap == 0)
    half = se * stats.t.isf(LEVEL / 2, freedom)
    columns = (c.tolist() for c in (gap, gap - half, gap + half, p, np.sqrt(records), np.sqrt(runs)))
    return [Comparison(difference, lower, upper, p, sd_records, sd_runs, (methods[i].count, methods[j].count))
            for difference, lower, upper, p, sd_records, sd_runs, (i, j) in zip(*columns, pairs, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """The p values, corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return out.tolist()


def ranking(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """The ranking of three or more methods by their scores on two or more tasks; all have the same tasks in the same order."""
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
