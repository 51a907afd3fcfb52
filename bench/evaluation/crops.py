"""The crops that an evaluation sees: random crops in training, crops at a fixed stride in validation and test."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.data.loader import Crops

ORDER, STARTS = 101, 102  # streams of random numbers drawn from one seed


@dataclass(frozen=True)
class Epochs:
    """Training crops: every epoch holds each row once, in a new order, and each crop starts at a new place in its record.

    The order and the starts depend on `rows`, the seed and the epoch alone.
    """

    rows: np.ndarray  # (n,) rows of the store
    seed: int

    def order(self, epoch: int) -> np.ndarray:
        """(n,) indices into `rows`, in the order of this epoch."""
        return np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.rows))

    def starts(self, epoch: int, choices: np.ndarray) -> np.ndarray:
        """(n,) int64: for each of `rows` a random crop, a number from 0 to the row's entry in `choices` (n,) minus 1."""
        shares = np.random.default_rng((self.seed, STARTS, epoch)).random(len(self.rows))
        starts: np.ndarray = (shares * choices).astype(np.int64)
        return starts


@dataclass(frozen=True)
class Grid:
    """The n crops of some records at a fixed stride, record after record."""

    rows: np.ndarray  # (n,) each crop's row in the store
    starts: np.ndarray  # (n,) each crop's first sample

    def batches(self, crops: Crops, size: int) -> Iterator[Tensor]:
        """Yield the normalised crops, (size, 12, T) at a time."""
        for first in range(0, len(self.rows), size):
            part = slice(first, first + size)
            yield crops.normalise(crops.raw(torch.from_numpy(self.rows[part]), torch.from_numpy(self.starts[part])))


def lay_grid(crops: Crops, rows: np.ndarray, stride: int) -> Grid:
    """The Grid of these rows: a crop starts every `stride` samples, as long as it ends within its record."""
    starts = [np.arange(0, length - crops.samples + 1, stride) for length in crops.length[rows].tolist()]
    return Grid(np.repeat(rows, [len(s) for s in starts]), np.concatenate(starts))


def match_rows(candidates: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the indices of the candidates that are in `rows`, the index in `rows` of each of them)."""
    index = np.full(max(candidates.max(initial=-1), rows.max(initial=-1)) + 1, -1)
    index[rows] = np.arange(len(rows))
    matches = np.flatnonzero(index[candidates] >= 0)
    return matches, index[candidates[matches]]


def average_crops(batches: Iterable[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """(n, ...) float64: for each of n records the mean over its crops.

    batches: pairs (values (b, ...) of b crops, index (b,) of each crop's record).
    """
    total, count = torch.zeros(()), torch.zeros(n, dtype=torch.float64)
    for values, owner in batches:
        if not total.ndim:
            total = torch.zeros(n, *values.shape[1:], dtype=torch.float64)
        total.index_add_(0, owner, values.double().cpu())
        count.index_add_(0, owner, torch.ones(len(owner), dtype=torch.float64))
    return total / count.view(-1, *[1] * (total.ndim - 1))
