"""The contract between the training loop and a self-supervised method.

A method is one file methods/<name>.py with one subclass of Method, and one file methods/<name>.yaml with its settings. The
training loop owns the optimiser, the schedule, precision, checkpoints and random numbers; the method owns its loss.
"""

import abc
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

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
    """One step of training. All that changes with time, and all that is random, reaches a method through it.

    Several processes or micro-batches may share one batch. Each call of forward then sees its own records only: `rng`
    draws the numbers of those records, and a loss that compares records with one another needs `gather`.
    """

    index: int  # optimiser steps taken before this one
    total: int  # optimiser steps of the whole run
    rng: Rng  # numbers per record, on the training device, a function of (seed, index): masks, noise
    host: torch.Generator  # numbers on the CPU, a function of (seed, index): those that decide shapes (no device sync)
    patients: Tensor | None = None  # (B,) int64: two records of one patient have equal numbers
    gather: Callable[[Tensor], Tensor] = lambda x: x  # (B, ...) of this process -> (whole batch, ...), with gradient

    @property
    def progress(self) -> float:
        """0.0 before the first step, 1.0 after the last."""
        return self.index / self.total

    def uniform(self, low: float, high: float) -> float:
        """One number on the host, uniform in [low, high), the same on every process."""
        return low + (high - low) * torch.rand((), generator=self.host, dtype=torch.float64).item()


def step_at(seed: int, index: int, total: int, device: torch.device, batch: int, *, rows: slice = slice(None),
            patients: Tensor | None = None, gather: Callable[[Tensor], Tensor] = lambda x: x) -> Step:
    """The Step of a run with this seed after `index` of `total` optimiser steps.

    batch: number of records of the whole batch. rows: the records that this call of forward sees. patients, gather: see Step.
    """
    return Step(index, total, Rng(generator(device, seed, MASKS, index), batch, rows),
                generator(torch.device("cpu"), seed, HOST, index), patients, gather)


class Method(nn.Module, abc.ABC):
    """A self-supervised objective around an encoder.

    The keyword-only arguments of a subclass's __init__ are its hyperparameters: the keys of `method` in its yaml. The
    docstring of the subclass explains each.
    """

    twin: ClassVar[str | None] = None  # name of a method that computes the same from the same settings; see catalogue.twin_of

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder  # (B, C, T) -> (B, N, D), trained by gradient

    @abc.abstractmethod
    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar with gradient, and detached scalars to log.

        views: one tensor (B, C, samples) per entry of `views` in the yaml, normalised. forward may change buffers, but no
        parameter.
        """

    def after_step(self, step: Step) -> None:
        """Move the EMA copies. Called once after each optimiser step; step.index counts that step."""

    def backbone(self) -> Encoder:
        """The encoder to evaluate: the trained one, or an EMA copy if the method overrides this."""
        return self.encoder


class ImportedBackbone(Method):
    """The encoder of a checkpoint trained elsewhere (bench/backbones/import_published.py). It is evaluated, not trained."""

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """UserError: there is nothing to train."""
        raise UserError("an imported backbone cannot be pre-trained; evaluate it with `ecgssl evaluate`")


def build_model(config: PretrainConfig) -> Method:
    """The method that a pre-training config describes, around its encoder, with the initial weights of the config's seed."""
    torch.manual_seed(derive(config.seed, WEIGHTS))
    return build_method(config.method, vit.build(config.encoder))


def build_method(config: MethodConfig, encoder: Encoder) -> Method:
    """The method that a config's `method` section names, around the given encoder.

    UserError if the method is unknown, its file does not define exactly one Method, or a hyperparameter is unknown or
    missing.
    """
    name, settings = config.name, config.arguments
    if "imported" in settings:
        return ImportedBackbone(encoder)
    cls = find_class(name)
    parameters = hyperparameters(cls)
    for key in settings:
        if key not in parameters:
            raise unknown("key", f"method.{key}", (f"method.{each}" for each in parameters))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise UserError(f"method.{key} is missing in methods/{name}.yaml; {cls.__name__} needs it")
    return cls(encoder, **settings)


def hyperparameters(cls: type[Method]) -> dict[str, inspect.Parameter]:
    """Name -> parameter of a method's hyperparameters: the keyword-only arguments of its constructor."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: each for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


def find_class(name: str) -> type[Method]:
    """The Method subclass of methods/<name>.py; UserError if the file does not define exactly one."""
    module = load_module(name)
    classes = [each for each in vars(module).values()
               if isinstance(each, type) and issubclass(each, Method) and each.__module__ == module.__name__]
    if len(classes) != 1:
        raise UserError(f"methods/{name}.py must define exactly one Method subclass, it defines {len(classes)}")
    return classes[0]


def load_module(name: str) -> ModuleType:
    """The module of methods/<name>.py, or of the file of that name in a folder outside the repository."""
    files = find_methods()
    if name not in files:
        raise unknown("method.name", name, files)
    path: Path = files[name].with_suffix(".py")
    full_name = f"methods.{name}"
    if path.parent == ROOT / "methods":
        return importlib.import_module(full_name)
    if full_name not in sys.modules or sys.modules[full_name].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(full_name, path)
        assert spec and spec.loader
        sys.modules[full_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full_name])
    return sys.modules[full_name]
