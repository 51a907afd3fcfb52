"""The contract between the training loop and a self-supervised method."""

import abc
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.core.files import ROOT
from bench.core.rng import HOST, MASKS, WEIGHTS, Rng, derive, generator
from bench.encoders import vit
from bench.encoders.vit import Encoder
from bench.runs.config import MethodConfig, PretrainConfig, find_methods


@dataclass(frozen=True)
class Step:
    """Where training stands; everything time-dependent or random in a method is a function of this.

    Several processes, or micro-batches, may share a batch: then each forward sees its own records. What is drawn
    from `rng` fits them already; a loss that compares records with one another needs `gather`.
    """

    index: int  # optimiser steps already taken
    total: int  # optimiser steps in the whole run
    rng: Rng  # on the training device, seeded from (seed, index): masks, noise
    host: torch.Generator  # on the CPU, seeded likewise: numbers that decide shapes (no device sync)
    patients: Tensor | None = None  # (B,) int64: equal where two records are of one patient
    gather: Callable[[Tensor], Tensor] = lambda x: x  # (B, ...) of the own records -> (whole batch, ...), with gradient

    @property
    def progress(self) -> float:
        """0.0 before the first step, 1.0 after the last."""
        return self.index / self.total

    def uniform(self, low: float, high: float) -> float:
        """One host number, uniform in [low, high)."""
        return low + (high - low) * torch.rand((), generator=self.host, dtype=torch.float64).item()


def step_at(seed: int, index: int, total: int, device: torch.device, batch: int, *, rows: slice = slice(None),
            patients: Tensor | None = None, gather: Callable[[Tensor], Tensor] = lambda x: x) -> Step:
    """The Step of a run with this seed after `index` of `total` optimiser steps.

    batch: records of the whole batch. rows: those that this call of forward sees. patients, gather: see Step.
    """
    return Step(index, total, Rng(generator(device, seed, MASKS, index), batch, rows),
                generator(torch.device("cpu"), seed, HOST, index), patients, gather)


class Method(nn.Module, abc.ABC):
    """One file in methods/, one subclass, hyperparameters as keyword-only arguments."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder  # (B, 12, T) -> (B, N, D); trained by gradient

    @abc.abstractmethod
    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and detached scalars to log. May update buffers, never parameters."""

    def after_step(self, step: Step) -> None:
        """Move EMA copies: called once per optimiser step, with the number of steps then taken."""

    def backbone(self) -> Encoder:
        """The encoder to evaluate: the trained one, unless the method evaluates its EMA copy."""
        return self.encoder


class Imported(Method):
    """A backbone that was trained elsewhere (bench/backbones/importing.py): it is evaluated, never trained here."""

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        raise UserError("an imported backbone is not pre-trained; `ecgssl evaluate` takes it as it is")


def _module(name: str | None) -> ModuleType:
    """The module of methods/<name>.py, or of a file outside the repository."""
    files = find_methods()
    if name not in files:
        raise unknown("method.name", str(name), files)
    path, full = files[name].with_suffix(".py"), f"methods.{name}"
    if path.parent == ROOT / "methods":
        return importlib.import_module(full)
    if full not in sys.modules or sys.modules[full].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(full, path)
        assert spec and spec.loader
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def build_model(config: PretrainConfig) -> Method:
    """The method that a pre-training config describes, around its encoder, with the initial weights of the config's seed."""
    torch.manual_seed(derive(config.seed, WEIGHTS))
    return build(config.method, vit.build(config.encoder))


def build(config: MethodConfig, encoder: Encoder) -> Method:
    """The method that a config's `method` section names, around the given encoder.

    Its file must define exactly one Method; the keyword-only arguments of that are the section's schema.
    """
    settings, name = config.arguments, config.name
    if "imported" in settings:
        return Imported(encoder)
    module = _module(name)
    found = [c for c in vars(module).values()
             if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__]
    if len(found) != 1:
        raise UserError(f"methods/{name}.py must define exactly one Method subclass, it defines {len(found)}")
    signature = inspect.signature(found[0].__init__).parameters.values()
    known = [p.name for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in settings:
        if key not in known:
            raise unknown("key", f"method.{key}", (f"method.{k}" for k in known))
    missing = [p.name for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY
               and p.default is p.empty and p.name not in settings]
    if missing:
        raise UserError(f"method.{missing[0]} is missing in methods/{name}.yaml; {found[0].__name__} needs it")
    return found[0](encoder, **settings)
