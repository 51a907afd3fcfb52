"""Random numbers of a step: drawn for the whole batch, so that its records have the same wherever they are."""

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
    """Numbers for `rows` of a batch of `batch` records, on the generator's device.

    Every process and every micro-batch draws for the whole batch and keeps its own rows: who shares the work
    changes no number.
    """

    generator: torch.Generator
    batch: int
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (own records, *shape)."""
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, (own records, *shape)."""
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]


def seeded(seed: int, batch: int, device: torch.device | str = "cpu", rows: slice = slice(None)) -> Rng:
    """An Rng whose generator starts from seed."""
    return Rng(torch.Generator(device).manual_seed(seed), batch, rows)
