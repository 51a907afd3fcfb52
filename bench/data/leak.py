"""The leak guard: a pre-training must not have seen a record or a patient of an evaluation's validation or test folds.

bench.evaluation.inputs.check_unseen calls `check` before every evaluation, and bench.sweeps before any run of a sweep.
bench.evaluation.external compares the marks of an external store with those of the training folds.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.store import Store, eligible

KINDS = {"samples": "the same samples", "records": "the same record_id of the same corpus", "patients": "the same patient"}
IDS_IN_ERROR = 5


def marks(store: Store, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Hashes by which two rows are recognised as the same ECG or patient: kind -> (n,) int64; 0 if it is not known."""
    table = store.records.iloc[rows]
    return {
        "samples": store.index["digest"][rows].view(np.int64),
        "records": _hash(f"{store.corpus}/record/", table["record_id"]),
        "patients": _hash(f"{store.corpus}/patient/", table["patient_id"]),
    }


def _hash(prefix: str, texts: Iterable[str]) -> np.ndarray:
    """The hashes of the texts, (n,) int64; 0 for an empty text."""
    digests = b"".join(hashlib.sha256((prefix + text).encode()).digest()[:8] if text else bytes(8) for text in texts)
    return np.frombuffer(digests, "<i8")


def training_marks(stores: Sequence[Store], folds: Sequence[int], samples: int) -> dict[str, Tensor]:
    """The marks of all rows that a pre-training on these stores may draw: kind -> sorted int64. A checkpoint holds them."""
    of_stores = [marks(store, eligible(store, folds, samples)) for store in stores]
    return {kind: torch.from_numpy(np.unique(np.concatenate([np.empty(0, np.int64), *(each[kind] for each in of_stores)])))
            for kind in KINDS}


def check(training: dict[str, Tensor], store: Store, rows: np.ndarray, what: str) -> None:
    """UserError that names the records, if a row of the store has a mark of the pre-training. what: the rows' name in it."""
    for kind, mark in marks(store, rows).items():
        leaked = rows[np.isin(mark, training[kind].numpy()) & (mark != 0)]
        if len(leaked):
            ids = store.records.record_id.iloc[leaked[:IDS_IN_ERROR]].tolist()
            raise UserError(
                f"{len(leaked):,} of the {len(rows):,} {what} records of store {store.name} were in the pre-training data "
                f"({KINDS[kind]}): {', '.join(ids)}{', ...' if len(leaked) > IDS_IN_ERROR else ''}. Pre-train without them: "
                + (f"`ecgssl data prepare --not-in {store.name}` leaves them out" if kind == "samples" else "by data.folds"))
