"""Which patients are used where only some of the labels are."""

import ast
import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from bench.evaluation import fractions

SHARES = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]


def drawn(n: int = 600, patients: int = 400, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(labels, patients) of n records; class i is half as frequent as the one before."""
    rng = np.random.default_rng(0)
    return ((rng.random((n, classes)) < 0.5 ** np.arange(1, classes + 1)).astype(np.float32),
            rng.integers(patients, size=n).astype(str))


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_a_smaller_set_lies_in_a_larger_and_no_patient_is_cut_in_two(kind: str) -> None:
    labels, patients = drawn()
    if kind == "regression":
        labels = np.random.default_rng(1).normal(60, 15, (len(labels), 1)).astype(np.float32)
    sets = [fractions.select_records(labels, patients, share, kind) for share in SHARES]
    for small, large in itertools.pairwise(sets):
        assert not (small & ~large).any() and small.sum() < large.sum()
    names = set(patients)
    for share, chosen in zip(SHARES, sets, strict=True):
        assert not set(patients[chosen]) & set(patients[~chosen])
        assert len(set(patients[chosen])) == round(share * len(names))
    assert sets[-1].all()


def test_a_fraction_of_a_regression_has_the_distribution_of_all() -> None:
    value = np.random.default_rng(1).gamma(2, 10, (1000, 1)).astype(np.float32)
    chosen = fractions.select_records(value, np.arange(1000).astype(str), 0.1, "regression")
    edges = np.quantile(value, np.linspace(0, 1, fractions.BINS + 1)[1:-1])
    assert np.bincount(np.searchsorted(edges, value[chosen, 0]), minlength=10).tolist() == [10] * 10


def test_the_order_is_the_same_whatever_the_order_of_the_records() -> None:
    labels, patients = drawn()
    shuffled = np.random.default_rng(3).permutation(len(labels))
    chosen = fractions.select_records(labels, patients, 0.1, "multi-label")
    assert set(patients[chosen]) == set(patients[shuffled][fractions.select_records(labels[shuffled], patients[shuffled], 0.1,
                                                                          "multi-label")])


def test_real_statements_are_kept_in_their_shares_and_the_frequent_ones_never_lost(shared: Path) -> None:
    with (shared / "golden" / "ptbxl_task_labels.csv").open() as f:
        codes = [set(ast.literal_eval(row["scp_codes"])) for row in csv.DictReader(f)]
    classes = sorted(set().union(*codes))
    has = np.array([[c in row for c in classes] for row in codes])
    order = fractions.order_patients(has)
    for share in SHARES[:-1]:
        count = round(share * len(has))
        got, wanted = has[order[:count]].sum(0), count / len(has) * has.sum(0)
        assert np.abs(got - wanted).max() < 2
        assert (got[wanted >= 1] > 0).all()
