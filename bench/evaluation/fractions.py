"""Label fractions: chooses the patients of the training folds when a config uses only a share of their labels."""

import numpy as np

from bench.core.errors import UserError

SEED = 20110905  # fixed, so that all methods and seeds train on the same records
BINS = 10  # bins of a regression's values, each with equally many patients
WEIGHT = 10**6  # a label's weight is this divided by its number of patients


def select_records(labels: np.ndarray, patients: np.ndarray, fraction: float, kind: str) -> np.ndarray:
    """(n,) bool: whether a record belongs to the first `fraction` of the patients.

    The patients' order is the same for every fraction, so a smaller fraction is a subset of a larger one. labels (n, C):
    see Split. patients (n,): the patient id of each record. UserError if no patient is left.
    """
    names, owner = np.unique(patients, return_inverse=True)
    count = round(fraction * len(names))
    if not count:
        raise UserError(f"fraction {fraction:g} of {len(names):,} patients leaves none; write {1 / len(names):.2g} or more")
    if kind == "regression":
        value = np.bincount(owner, labels[:, 0]) / np.bincount(owner)
        rank = np.argsort(np.argsort(value, kind="stable"))
        has = np.eye(BINS, dtype=bool)[rank * BINS // len(names)]
    else:
        has = np.zeros((len(names), labels.shape[1]), bool)
        np.logical_or.at(has, owner, labels > 0)
    selected = np.zeros(len(names), bool)
    selected[order_patients(has)[:count]] = True
    return selected[owner]


def order_patients(has: np.ndarray) -> np.ndarray:
    """(P,) an order of P patients in which every prefix has about the same share of each label. has (P, C): their labels.

    The order is greedy. Each step adds the patient that brings the label counts closest to their shares, by squared
    distance with a weight of 1 / its count for each label. Rare labels come first, as in iterative stratification
    (Sechidis et al. 2011, doi 10.1007/978-3-642-23808-6_10), which yields folds but no order. Patients with the same labels
    come in random order. The arithmetic uses integers, so the order is the same on every machine.
    """
    n = len(has)
    sets, owner, left = np.unique(has, axis=0, return_inverse=True, return_counts=True)
    owner = owner.ravel()
    rng = np.random.default_rng(SEED)
    waiting = [rng.permutation(np.flatnonzero(owner == s)).tolist() for s in range(len(sets))]
    total = has.sum(0)
    weight = WEIGHT // np.maximum(total, 1)
    held = np.asfortranarray(sets.astype(np.int64))
    shares, own = held @ (weight * total), held @ weight
    taken = np.zeros(len(sets), np.int64)  # per label set: weighted count of its labels in the patients so far
    out = []
    for k in range(1, n + 1):
        # n x the decrease of the sum over labels of weight x (k x total / n - how often taken)^2
        s = int(np.where(left > 0, 2 * (k * shares - n * taken) - n * own, np.iinfo(np.int64).min).argmax())
        out.append(waiting[s].pop())
        left[s] -= 1
        labels = np.flatnonzero(sets[s])
        taken += held[:, labels] @ weight[labels]
    return np.array(out)
