"""Comparisons count test records and runs, and are wrong as often as they say."""

import itertools
from typing import Any

import numpy as np
import pytest
from results_fixture import evaluation_config
from scipy import stats

from bench.core.errors import UserError
from bench.report import statistics as compare
from bench.report.results import Evaluation, EvaluationRecipe
from bench.runs.config import EvaluationConfig, load_pretrain_config


def drawn(rng: np.random.Generator, runs: tuple[int, int], sd_shared: float, sd_method: float, sd_run: float,
          sd_own: float, resamples: int = 100) -> list[np.ndarray]:
    """points and replicates of two equal methods: errors of a test set, some shared by all, and differences of runs."""

    def errors(size: int) -> np.ndarray:
        shared = rng.normal(0, sd_shared, size)
        return np.concatenate([shared + rng.normal(0, sd_method, size) + rng.normal(0, sd_own, (k, size)) for k in runs])

    points = errors(1)[:, 0] + rng.normal(0, sd_run, sum(runs))
    replicates = points[:, None] + errors(resamples)
    return [points[: runs[0]], replicates[: runs[0]], points[runs[0]:], replicates[runs[0]:]]


@pytest.mark.parametrize(("runs", "sds"), [
    ((3, 3), (1.0, 1.0, 1.0, 0.5)),
    ((5, 5), (1.0, 0.0, 1.0, 0.5)),  # runs alone differ
    ((5, 5), (1.0, 1.0, 0.0, 0.5))])  # test records alone
def test_equal_methods_are_told_apart_one_time_in_twenty(runs: tuple[int, int], sds: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    found = [compare.difference(*drawn(rng, runs, *sds)) for _ in range(1500)]
    assert np.mean([c.p < 0.05 for c in found]) == pytest.approx(0.05, abs=0.018)
    assert np.mean([c.lower < 0 < c.upper for c in found]) == np.mean([c.p > 0.05 for c in found])


def test_either_source_of_variance_left_out_would_find_differences_that_are_none() -> None:
    rng = np.random.default_rng(0)
    found = [compare.difference(*drawn(rng, (10, 10), 1.0, 1.0, 3.0, 0.5)) for _ in range(400)]
    assert np.mean([abs(c.difference) > 1.96 * c.sd_records for c in found]) > 0.1
    assert np.mean([abs(c.difference) > 1.96 * c.sd_runs for c in found]) > 0.1


def test_the_variance_is_that_of_runs_and_what_runs_share_through_the_records() -> None:
    a, ra, b, rb = drawn(np.random.default_rng(3), (4, 3), 1.0, 1.0, 1.0, 0.5)
    found = compare.difference(a, ra, b, rb)

    def mean_covariance(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([np.cov(x, y)[0, 1] for x, y in pairs]))

    shared = (mean_covariance(list(itertools.permutations(ra, 2))) + mean_covariance(list(itertools.permutations(rb, 2)))
              - 2 * mean_covariance(list(itertools.product(ra, rb))))
    runs = np.var(a, ddof=1) / 4 + np.var(b, ddof=1) / 3
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.sd_records**2, found.sd_runs**2) == pytest.approx((shared, runs))
    assert found.upper - found.difference == pytest.approx(found.difference - found.lower)
    turned = compare.difference(b, rb, a, ra)
    assert (turned.difference, turned.lower, turned.p) == pytest.approx((-found.difference, -found.upper, found.p))


def test_without_variance_over_records_it_is_welchs_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=4), rng.normal(1, 3, size=7)
    found = compare.difference(a, a[:, None] + np.zeros(9), b, b[:, None] + np.zeros(9))
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.sd_records == 0


def test_a_method_does_not_differ_from_itself_and_one_run_is_refused() -> None:
    a, ra, _, _ = drawn(np.random.default_rng(0), (3, 3), 1.0, 1.0, 1.0, 0.5)
    found = compare.difference(a, ra, a, ra)
    assert (found.difference, found.p) == (0, 1)
    assert compare.difference(np.ones(2), np.ones((2, 5)), np.ones(2), np.ones((2, 5))).p == 1
    with pytest.raises(UserError, match="two of each are needed"):
        compare.difference(a[:1], ra[:1], a, ra)


def evaluation(auroc: float, pretrain: str = "b", **changed: Any) -> Evaluation:
    terms = {"task": "t", "positives": 3, "seed": 1, "fingerprint": "f", **changed}
    rng = np.random.default_rng(round(1e6 * auroc))
    config = EvaluationConfig.model_validate(evaluation_config("linear") | {
        "seed": 0, "pretrain": pretrain, "task": terms["task"], "data": {"store": "s", "fingerprint": terms["fingerprint"]}})
    result = {"macro_auroc": auroc, "replicates": (auroc + rng.normal(0, 0.01, 50)).tolist(), "records": {"test": 9},
              "per_class": {"c": {"positives": terms["positives"]}}, "bootstrap": {"seed": terms["seed"]}}
    return Evaluation(f"{pretrain}-{auroc}", config, EvaluationRecipe.of(config), load_pretrain_config("mae"), result, {}, {})


def test_runs_are_pretrainings_or_of_one_backbone_its_evaluations() -> None:
    a = [evaluation(x, name) for x, name in ((0.70, "p"), (0.72, "p"), (0.80, "q"), (0.82, "q"), (0.75, "r"))]
    b = [evaluation(x) for x in (0.5, 0.6)]
    found = compare.compare(a, b)
    assert found.runs == (3, 2)
    assert found.difference == pytest.approx(np.mean([0.71, 0.81, 0.75]) - 0.55)


@pytest.mark.parametrize(("changed", "said"), [
    ({"task": "u"}, "task"), ({"positives": 4}, "classes"), ({"seed": 2}, "bootstrap"), ({"fingerprint": "g"}, "data")])
def test_evaluations_of_other_terms_are_not_compared(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"{said} differs"):
        compare.compare([evaluation(0.7), evaluation(0.8)], [evaluation(0.6), evaluation(0.5, **changed)])


def test_holm_corrects_for_the_tests_that_are_left() -> None:
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.9, 0.8]) == [1, 1]
    assert compare.holm([]) == []


@pytest.mark.parametrize("ties", [False, True])
def test_the_ranking_is_friedmans(ties: bool) -> None:
    table = np.random.default_rng(0).normal(size=(6, 4)).round(0 if ties else 9)
    found = compare.ranking({name: table[:, i].tolist() for i, name in enumerate("abcd")})
    ranks = dict(zip("abcd", stats.rankdata(-table, axis=1).mean(0), strict=True))
    assert dict(zip(found.methods, found.ranks, strict=True)) == pytest.approx(ranks)
    assert found.p == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    assert compare.ranking({name: [0.5, 0.6] for name in "abc"}).p == 1


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (4, 2.569), (10, 3.164)])  # Demsar 2006, table 5 (a)
def test_the_critical_difference_is_nemenyis(methods: int, q: float) -> None:
    found = compare.ranking({str(i): [-i] * 14 for i in range(methods)})
    assert found.critical_difference == pytest.approx(q * np.sqrt(methods * (methods + 1) / (6 * 14)), rel=3e-4)


def test_groups_are_the_largest_that_are_not_told_apart() -> None:
    def groups(distance: float) -> list[tuple[int, int]]:
        return compare.Ranking(tuple("abcde"), (1.0, 1.5, 2.0, 4.0, 5.0), 9, 0.0, distance).groups

    assert groups(1.0) == [(0, 2), (3, 4)]
    assert groups(2.0) == [(0, 2), (2, 3), (3, 4)]
    assert groups(0.1) == []
    assert groups(9.0) == [(0, 4)]


@pytest.mark.parametrize("scores", [{"a": [1, 2], "b": [1, 2]}, {"a": [1, np.nan], "b": [2, 1], "c": [3, 1]},
                                    {"a": [1, 2], "b": [1, 2], "c": [1, 2, 3]}])
def test_what_cannot_be_ranked_is_refused(scores: dict[str, list[float]]) -> None:
    with pytest.raises(UserError, match="a ranking needs 3 or more methods"):
        compare.ranking(scores)
