"""Which crops an evaluation sees: random ones to train on, fixed ones to validate and test on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.data.loader import Crops

ORDER, STARTS = 101, 102  # streams of random numbers drawn from one seed


@dataclass(frozen=True)
class Epochs:
    """Training crops: in every epoch each of the rows once, in a new order, from a new place in its record.

    A pure function of (seed, epoch, row); which rows a task uses of them changes nothing for the others.
    """

    rows: np.ndarray  # (n,) rows of the store
    seed: int

    def order(self, epoch: int) -> np.ndarray:
        """(n,) places in rows."""
        return np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.rows))

    def starts(self, epoch: int, choices: np.ndarray) -> np.ndarray:
        """(n,) below choices (n,), by place in rows: which of a record's crops it is."""
        return (np.random.default_rng((self.seed, STARTS, epoch)).random(len(self.rows)) * choices).astype(np.int64)


@dataclass(frozen=True)
class Grid:
    """The crops at every stride of some rows: n of them, record after record."""

    rows: np.ndarray  # (n,) rows of the store
    starts: np.ndarray  # (n,) samples

    def batches(self, crops: Crops, size: int) -> Iterator[Tensor]:
        """The crops, normalised, (size, 12, T) at a time."""
        for first in range(0, len(self.rows), size):
            part = slice(first, first + size)
            yield crops.normalise(crops.raw(torch.from_numpy(self.rows[part]), torch.from_numpy(self.starts[part])))


def grid(crops: Crops, rows: np.ndarray, stride: int) -> Grid:
    """The Grid of the rows; a record's last crop ends within it."""
    starts = [np.arange(0, length - crops.samples + 1, stride) for length in crops.length[rows].tolist()]
    return Grid(np.repeat(rows, [len(s) for s in starts]), np.concatenate(starts))


def places(of: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of `of` are among the rows, the place in rows of each of these)."""
    place = np.full(max(of.max(initial=-1), rows.max(initial=-1)) + 1, -1)
    place[rows] = np.arange(len(rows))
    found = np.flatnonzero(place[of] >= 0)
    return found, place[of[found]]


def average(batches: Iterable[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """((b, ...) values of crops, (b,) which of n records each is of), ... -> (n, ...) float64, the mean of each record."""
    total, count = torch.zeros(()), torch.zeros(n, dtype=torch.float64)
    for values, owner in batches:
        if not total.ndim:
            total = torch.zeros(n, *values.shape[1:], dtype=torch.float64)
        total.index_add_(0, owner, values.double().cpu())
        count.index_add_(0, owner, torch.ones(len(owner), dtype=torch.float64))
    return total / count.view(-1, *[1] * (total.ndim - 1))
