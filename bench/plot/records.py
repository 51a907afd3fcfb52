"""Finds a record of a store to draw, and reads its signal as a pre-training does."""

import numpy as np
import torch

from bench.core.errors import UserError
from bench.data.loader import Crops
from bench.data.store import Store


def find_row(store: Store, record_id: str | None) -> int:
    """The row of a record in the store; the first row if record_id is None. UserError if the store has no such record."""
    ids = store.records.record_id
    rows = np.flatnonzero(ids == record_id) if record_id is not None else [0]
    if not len(rows):
        raise UserError(f"store {store.name} has no record {record_id!r}; its ids look like {', '.join(ids[:3])}")
    return int(rows[0])


def read_normalised(store: Store, row: int, seconds: float) -> torch.Tensor:
    """The first seconds of a record, (1, 12, T) in sd, as a pre-training reads them. UserError if the record is shorter."""
    samples, length = round(seconds * store.rate_hz), int(store.index["length"][row])
    if length < samples:
        raise UserError(f"record {store.records.record_id[row]} lasts {length / store.rate_hz:g} s; {seconds:g} s are needed")
    crops = Crops(store, samples, torch.device("cpu"))
    return crops.normalise(crops.raw(torch.tensor([row]), torch.tensor([0])))
