"""Random numbers of a step. They are drawn for the whole batch, so that a record's numbers do not depend on its process."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

WEIGHTS, DROPOUT, DATA, MASKS, HOST, VIEWS, MONITOR = range(7)  # streams of random numbers of one pre-training's seed


def derive(*numbers: int) -> int:
    """A seed for torch, a pure function of the numbers given, such as (seed, stream, step)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def generator(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator on the device, seeded by derive(*numbers)."""
    return torch.Generator(device).manual_seed(derive(*numbers))


@dataclass(frozen=True)
class Rng:
    """Random numbers for `rows` of a batch of `batch` records, on the generator's device.

    Every process and every micro-batch draws for the whole batch and takes its own rows. The split of the batch
    therefore changes no number.
    """

    generator: torch.Generator
    batch: int
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (rows, *shape)."""
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers, (rows, *shape)."""
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]


def seeded(seed: int, batch: int, device: torch.device | str = "cpu", rows: slice = slice(None)) -> Rng:
    """An Rng whose generator has this seed."""
    return Rng(torch.Generator(device).manual_seed(seed), batch, rows)
