"""Label fractions: which patients of the training folds are used where only some of the labels are."""

import numpy as np

from bench.core.errors import UserError

SEED = 20110905  # one for all methods and seeds, so that all train on the same records
BINS = 10  # of a regression's values, each with as many patients
WEIGHT = 10**6  # of a label, divided by how many patients have it


def select_records(labels: np.ndarray, patients: np.ndarray, fraction: float, kind: str) -> np.ndarray:
    """(n,) bool: the records of the first `fraction` of the patients, in an order that is the same for every fraction.

    A smaller fraction is therefore a subset of a larger one. labels (n, C) as a Split has them, patients (n,) ids.
    UserError where no patient is left.
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
    """(P, C) which patient has which label -> (P,) the patients in an order whose every prefix has the labels' shares.

    Greedy: the next patient is one whose labels bring the counts closest to the shares, in squares, each label weighted by
    1 / its count. Rare labels come first, as in iterative stratification (Sechidis et al. 2011,
    doi 10.1007/978-3-642-23808-6_10), which yields folds and no order. Among patients of the same labels the order is
    random. The arithmetic is in integers, so that the order is the same on every machine.
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
    taken = np.zeros(len(sets), np.int64)  # weight of each set's labels among the patients taken, with repetition
    out = []
    for k in range(1, n + 1):
        # n x the decrease of the sum over labels of weight x (k x total / n - how often taken)^2
        s = int(np.where(left > 0, 2 * (k * shares - n * taken) - n * own, np.iinfo(np.int64).min).argmax())
        out.append(waiting[s].pop())
        left[s] -= 1
        labels = np.flatnonzero(sets[s])
        taken += held[:, labels] @ weight[labels]
    return np.array(out)
