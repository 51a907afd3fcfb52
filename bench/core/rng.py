"""Random numbers of a step: drawn for the whole batch, so that its records have the same wherever they are."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
