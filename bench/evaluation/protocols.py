"""The protocols of evaluation: their settings, from protocols.yaml, and the config of an evaluation."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError, unknown
from bench.core.models import validate
from bench.core.yaml import Document, read_document
from bench.data.store import Store
from bench.runs.config import EvaluationConfig
from bench.runs.layers import Layers, Override

FILLED = ("seed", "pretrain", "task", "protocol", "data", "evaluation.name", "after.name", "imported")  # users cannot set these
FOLLOWS = ("lr", "weight_decay")  # setting X also sets final_X if both have the same default


@functools.cache
def _document() -> Document:
    return read_document(Path(__file__).with_name("protocols.yaml"))


def list_protocols() -> list[str]:
    """The names of the protocols."""
    return [name for name in _document().value if name != "shared"]


def load_defaults(protocol: str) -> Layers:
    """The settings of a protocol before anything is filled in or set."""
    if protocol not in list_protocols():
        raise unknown("protocol", protocol, list_protocols())
    content, layers = _document().value, Layers()
    for part in ("shared", protocol):
        layers.add_document(Document(_document().path, content[part], {}))
    if protocol == "finetune-after-linear":
        layers.value["after"] = copy.deepcopy(load_defaults("linear").value["evaluation"])
    return layers


def load_evaluation_config(protocol: str, task: str, pretrain: str, store: Store, seed: int = 0, *,
                           overrides: Sequence[Override] = (), external: Store | None = None) -> EvaluationConfig:
    """The config of an evaluation; UserError if an override names a key that is filled in, or a value is not allowed."""
    given = {override.key for override in overrides}
    for key in sorted(given):
        if any(key == filled or key.startswith(f"{filled}.") for filled in FILLED):
            raise UserError(f"{key} is filled in and cannot be set; name the protocol, task, store and seed that you want")
    layers = load_defaults(protocol)
    default = copy.deepcopy(layers.value)
    layers.value |= {"seed": seed, "pretrain": pretrain, "task": task,
                     "data": {"store": store.name, "fingerprint": store.fingerprint}}
    for override in overrides:
        layers.set(override)
    if external:
        layers.value["external"] = {"store": external.name, "fingerprint": external.fingerprint}
    for section in ("evaluation", "after"):
        settings = layers.value[section]
        for key in FOLLOWS if settings else ():
            if default[section][key] == default[section][f"final_{key}"] and f"{section}.final_{key}" not in given:
                settings[f"final_{key}"] = settings[key]
    layers.value["after"] = layers.value["after"] or None
    return validate(EvaluationConfig, layers.value, layers.locate)


def start_from_linear(overrides: Sequence[Override]) -> list[Override]:
    """Overrides of a linear evaluation, evaluation.*, as overrides after.* of a finetune-after-linear that starts from it."""
    return [Override(f"after.{override.key.removeprefix('evaluation.')}", override.value, override.place)
            for override in overrides if override.key.startswith("evaluation.")]


def derive_linear(config: EvaluationConfig) -> EvaluationConfig:
    """The config of the linear evaluation that a finetune-after-linear starts from."""
    assert config.after is not None
    return config.replace(evaluation=config.after, after=None)


def select_seeds(protocol: str, learned: bool, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds to evaluate. The neighbours of a trained backbone do not depend on the seed, so knn needs the first alone."""
    return seeds[:1] if protocol == "knn" and learned else seeds


def check_protocol(config: EvaluationConfig, learned: bool) -> None:
    """UserError if the protocol needs a trained backbone and this one is random, or the reverse."""
    name, run = config.evaluation.name, config.pretrain
    if name == "scratch" and learned:
        raise UserError(f"scratch needs a random backbone (pre-training `random`), but {run} is trained; write finetune")
    if not config.evaluation.frozen and name != "scratch" and not learned:
        raise UserError(f"{name} needs a trained backbone, but {run} is a `random` one; write scratch")
