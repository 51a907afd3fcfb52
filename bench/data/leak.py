"""The leak guard: no record of an evaluation's validation or test folds, and no patient of them, in pre-training."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data.store import Store, eligible

KINDS = {"samples": "the same samples", "records": "the same record_id of the same corpus", "patients": "the same patient"}
NAMED = 5  # ids that an error names; ours


def marks(store: Store, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What tells the store's rows from others', int64 (n,) each, by KINDS; 0 where it is not known."""
    source = store.manifest["source"]
    table = store.records.iloc[rows]
    return {
        "samples": store.index["digest"][rows].view(np.int64),
        "records": _hashed(f"{source}/record/", table["record_id"]),
        "patients": _hashed(f"{source}/patient/", table["patient_id"]),
    }


def _hashed(prefix: str, texts: Iterable[str]) -> np.ndarray:
    digests = b"".join(hashlib.sha256((prefix + text).encode()).digest()[:8] if text else bytes(8) for text in texts)
    return np.frombuffer(digests, "<i8")


def seen(stores: Sequence[Store], folds: Sequence[int], samples: int) -> dict[str, Tensor]:
    """All that a pre-training on these stores may draw from, sorted int64 by KINDS: a checkpoint carries it."""
    found = [marks(store, eligible(store, folds, samples)) for store in stores]
    return {kind: torch.from_numpy(np.unique(np.concatenate([np.empty(0, np.int64), *(m[kind] for m in found)])))
            for kind in KINDS}


def check(seen: dict[str, Tensor], store: Store, rows: np.ndarray, what: str) -> None:
    """UserError with the ids when one of the store's rows was seen in pre-training."""
    for kind, mark in marks(store, rows).items():
        leaked = rows[np.isin(mark, seen[kind].numpy()) & (mark != 0)]
        if len(leaked):
            ids = store.records.record_id.iloc[leaked[:NAMED]].tolist()
            raise UserError(
                f"{len(leaked):,} of the {len(rows):,} {what} records of store {store.name} were in the pre-training data "
                f"({KINDS[kind]}): {', '.join(ids)}{', ...' if len(leaked) > NAMED else ''}. Pre-train without them: "
                + (f"`ecgssl data prepare --not-in {store.name}` leaves them out" if kind == "samples" else "by data.folds"))
