"""Methods around a tiny encoder, for tests: `make` builds one, `step` gives a Step, `train` takes steps."""

from collections.abc import Callable, Iterable
from typing import Any

import configs
import pytest
import torch
from conftest import small
from torch import Tensor

from bench import method
from bench.core.rng import seeded
from bench.data import views
from bench.encoders import vit
from bench.method import Method, Step, step_at
from bench.runs.config import MethodConfig, find_methods
from bench.training import optim

RATE_HZ, TOTAL, BATCH = 100, 4, 6
TRAINED = [name for name in find_methods() if configs.load(name).optim.steps]


def encoder(**settings: Any) -> vit.Encoder:
    """Two blocks of width 16, always with the same weights."""
    torch.manual_seed(0)
    return vit.Encoder(vit.Size(16, 2, 2), **settings)


def make(name: str, **settings: Any) -> tuple[Method, list[Tensor]]:
    """The method as its yaml says, with these settings and small heads, and the views of a batch."""
    config = configs.load(name)
    section = {**config.method.to_json(), **small(config.method.arguments), **settings}
    built = method.build_method(MethodConfig.model_validate(section), encoder(tokens=config.encoder.tokens))
    batch = torch.randn(BATCH, 12, 1000, generator=torch.Generator().manual_seed(1))
    return built.train(), views.make(batch, config.views, RATE_HZ, seeded(2, BATCH))


def step(index: int, total: int = TOTAL) -> Step:
    """The step of that number; every patient has two records."""
    return step_at(0, index, total, torch.device("cpu"), BATCH, patients=torch.arange(BATCH) // 2)


def adamw(built: Method) -> torch.optim.Optimizer:
    """The optimiser of a pre-training, without warm-up."""
    settings = configs.load("jepa").optim.replace(warmup_steps=0)
    optimiser = optim.adamw(built, settings)
    optim.schedule_(optimiser, 0, settings)
    return optimiser


def train(built: Method, batch: list[Tensor], optimiser: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Take these steps on one batch."""
    for index in steps:
        optimiser.zero_grad()
        built(batch, step(index))[0].backward()
        optimiser.step()
        built.after_step(step(index + 1))


def record_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Let owner.<name> work as before; the list that comes back is filled with what it returns."""
    results: list[Any] = []
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(original(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(owner, name, call)
    return results
