"""Configs for the tests, from overrides as texts ("optim.lr=1e-3") or pairs (("optim.lr", 1e-3))."""

from collections.abc import Iterable
from typing import Any

from bench.data.store import Store
from bench.evaluation.protocols import load_evaluation_config
from bench.runs.config import EvaluationConfig, PretrainConfig, load_pretrain_config
from bench.runs.layers import Override, parse_overrides


def overrides_of(items: Iterable[str | tuple[str, Any]]) -> list[Override]:
    return [parse_overrides([item])[0] if isinstance(item, str) else Override(*item) for item in items]


def load(method: str, overrides: Iterable[str | tuple[str, Any]] = ()) -> PretrainConfig:
    return load_pretrain_config(method, overrides_of(overrides))


def evaluation(protocol: str, task: str, pretrain: str, store: Store, seed: int = 0,
               overrides: Iterable[str | tuple[str, Any]] = (), external: Store | None = None) -> EvaluationConfig:
    """An evaluation in float32, so that no number depends on the machine."""
    sections = ["evaluation", "after"] if protocol == "finetune-after-linear" else ["evaluation"]
    exact = [Override(f"{section}.precision", "float32") for section in sections]
    return load_evaluation_config(protocol, task, pretrain, store, seed,
                                  overrides=[*exact, *overrides_of(overrides)], external=external)
