"""What a run is: typed, frozen configs. base.yaml <- methods/<name>.yaml <- overrides; its hash names the run."""

import copy
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from bench.core.errors import UserError, unknown
from bench.core.files import ROOT
from bench.core.models import (
    Amount,
    Bool,
    Dropout,
    Float,
    Int,
    Model,
    Natural,
    Positive,
    PositiveFloat,
    Share,
    Text,
    canonical,
    rule,
    validate,
)
from bench.core.yaml import Document, Keys, parse_numbers, parse_value, read_document, read_yaml
from bench.encoders.config import EncoderConfig

METHODS = "ECGSSL_METHODS"  # environment variable: folders of methods outside the repository
BASE = Path(__file__).with_name("base.yaml")
MIXTURES = ROOT / "bench" / "data" / "mixtures.yaml"
REPLACED = {("data", "mix"), ("data", "fingerprints"), ("views",), ("method",)}  # a later layer replaces them whole
FREE = ("data.mix", "data.fingerprints")  # their keys are the user's own names

Beta = Annotated[Float, Field(ge=0, lt=1)]
Inside = Annotated[Float, Field(gt=0, lt=1)]
Precision = Literal["auto", "float32", "bfloat16"]


class DataConfig(Model):
    """What a pre-training reads."""

    mix: dict[Text, PositiveFloat]
    fingerprints: dict[Text, Text]
    folds: tuple[Int, ...]
    rate_hz: Positive
    resampling: Literal["fourier", "periodic"]
    crop_seconds: PositiveFloat

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = math.fsum(self.mix.values())
        if self.mix and abs(total - 1) > 1e-9:
            shares = ", ".join(f"{name}: {weight / total:.6g}" for name, weight in self.mix.items())
            raise rule("mix", f"weights that sum to 1 (these sum to {total:.9g}; in the same proportions: {{{shares}}})")
        return self


class OptimConfig(Model):
    """AdamW and its schedules."""

    steps: Natural
    batch: Positive
    accumulate: Positive
    lr: Amount
    final_lr: Amount
    warmup_steps: Natural
    warmup_lr: Amount
    weight_decay: Amount
    final_weight_decay: Amount
    betas: tuple[Beta, Beta]
    eps: PositiveFloat
    clip: Amount
    precision: Precision
    compile: Bool

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch % self.accumulate:
            raise rule("accumulate", f"a divisor of optim.batch ({self.batch})")
        if self.steps and self.warmup_steps >= self.steps:
            raise rule("warmup_steps", f"less than optim.steps ({self.steps})")
        return self


class CheckpointConfig(Model):
    """Which backbones on the way are kept for evaluation."""

    at: tuple[Inside, ...]


class MethodConfig(Model):
    """A method's name and the keyword arguments of its constructor, which are checked by bench.method.build_method."""

    model_config = ConfigDict(extra="allow")

    name: Text

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return dict(self.model_extra or {})


class PretrainConfig(Model):
    """A pre-training."""

    protocol: Int
    seed: Natural
    data: DataConfig
    encoder: EncoderConfig
    optim: OptimConfig
    checkpoints: CheckpointConfig
    method: MethodConfig
    views: tuple[dict[str, Any], ...]

    @model_validator(mode="after")
    def _needs_steps_for_a_seed(self) -> Self:
        if self.seed and not self.optim.steps:
            raise rule("seed", "0 for a run of no steps, whose weights are drawn from the seed of the evaluation")
        return self


class StoreConfig(Model):
    """A store and the fingerprint of its content; empty where there is none."""

    store: Text
    fingerprint: Text


class FoldsConfig(Model):
    """Which folds train, choose and test."""

    train: tuple[Int, ...]
    validation: tuple[Int, ...]
    test: tuple[Int, ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if not set(self.test).isdisjoint([*self.train, *self.validation]):
            raise rule("test", "disjoint from folds.train and folds.validation: the test fold must be unseen")
        if not set(self.train).isdisjoint(self.validation):
            raise rule("train", "disjoint from folds.validation: what chooses must not have been trained on")
        return self


class GridConfig(Model):
    """Values to try on a frozen backbone; the validation folds choose."""

    lr: tuple[PositiveFloat, ...]
    weight_decay: tuple[Amount, ...]


class NeighboursConfig(Model):
    """Settings of nearest neighbours."""

    k: Annotated[tuple[Positive, ...], Field(min_length=1)]
    temperature: PositiveFloat


class HeadConfig(Model):
    """How a head, or a head and its encoder, are trained and chosen."""

    name: Text
    head: Literal["attentive", "mean", "register", "neighbours"]
    frozen: Bool
    features: Literal["exact", "cached"]
    steps: Positive
    batch: Positive
    lr: Amount
    final_lr: Amount
    warmup_steps: Natural
    warmup_lr: Amount
    weight_decay: Amount
    final_weight_decay: Amount
    betas: tuple[Beta, Beta]
    eps: PositiveFloat
    clip: Amount
    dropout: Dropout
    validate_every: Positive
    patience: Positive
    crop_seconds: PositiveFloat
    stride_seconds: PositiveFloat
    average: Literal["logits", "probabilities"]
    precision: Precision
    grid: GridConfig
    neighbours: NeighboursConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, holds, needed in (
                ("validate_every", self.validate_every <= self.steps, f"between 1 and the steps ({self.steps})"),
                ("patience", self.patience >= self.validate_every, f"validate_every ({self.validate_every}) or more"),
                ("final_lr", self.final_lr <= self.lr, f"at most lr ({self.lr}); set both"),
                ("warmup_steps", self.warmup_steps < self.steps, f"less than the steps ({self.steps})"),
                ("features", self.frozen or self.features == "exact", "exact where the encoder trains, too"),
                ("dropout", not self.frozen or not self.dropout, "0 where the backbone is frozen"),
                ("head", self.frozen or self.head != "neighbours", "one that trains where the encoder does"),
                ("grid", self.frozen or not (self.grid.lr or self.grid.weight_decay), "empty where the encoder trains, too")):
            if not holds:
                raise rule(key, needed)
        return self


class EvaluationConfig(Model):
    """An evaluation of one backbone on one task."""

    protocol: Int
    seed: Natural
    pretrain: Text
    at: Share
    data: StoreConfig
    task: Text
    folds: FoldsConfig
    fraction: Share
    shuffle_labels: Natural
    external: StoreConfig
    empty_classes: Literal["refuse", "drop"]
    after: HeadConfig | None = None
    evaluation: HeadConfig
    imported: Text | None = None  # of a head that was imported: the SHA-256 of its weights

    @model_validator(mode="after")
    def _same_head(self) -> Self:
        first, head = self.after, self.evaluation.head
        if first and not (first.frozen and first.head == head):
            raise rule("after", f"a linear evaluation with the same head: frozen true and head {head}")
        return self


Config = PretrainConfig | EvaluationConfig


def run_id(config: Config) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON. Nothing about where or when it ran is inside."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:12]


def parse_config(value: Any) -> Config:
    """The config in plain JSON values, as a result or a checkpoint holds it."""
    if isinstance(value, dict) and "evaluation" in value:
        return validate(EvaluationConfig, value)
    return validate(PretrainConfig, value)


@dataclass(frozen=True)
class Override:
    """One value that a user sets, and where: key is dotted, e.g. optim.lr."""

    key: str
    value: Any
    place: str = ""


def parse_overrides(texts: Iterable[str]) -> list[Override]:
    """Overrides of "KEY=VALUE" texts, as the option --set takes them; values are YAML."""
    out = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r} has no '='; write key=value, e.g. optim.lr=3e-4")
        out.append(Override(key.strip(), parse_value(value, key)))
    return out


def overrides_of(values: dict[str, Any]) -> list[Override]:
    """Overrides of {dotted key: value}."""
    return [Override(key, value) for key, value in values.items()]


@dataclass
class Layers:
    """Settings laid over each other, and for each value the place that it comes from."""

    value: dict[str, Any] = field(default_factory=dict)
    places: dict[Keys, str] = field(default_factory=dict)

    def add_document(self, document: Document) -> None:
        """Lay a YAML file over what is here."""
        self._overlay(self.value, document.value, (), document)

    def _overlay(self, under: dict[str, Any], over: dict[str, Any], keys: Keys, document: Document) -> None:
        for key, value in over.items():
            path = (*keys, key)
            if isinstance(value, dict) and isinstance(under.get(key), dict) and path not in REPLACED:
                self._overlay(under[key], value, path, document)
                continue
            under[key] = copy.deepcopy(value)
            self.places |= {inner: document.place(inner) for inner in document.lines if inner[: len(path)] == path}

    def set(self, override: Override) -> None:
        """Set one existing key; UserError where there is none of that name."""
        *parents, leaf = override.key.split(".")
        node, prefix, path = self.value, "", (*parents, leaf)
        end = f" ({override.place})" if override.place else ""
        for key in parents:
            if not isinstance(node.get(key), dict):
                raise UserError(f"{unknown('key', override.key, (f'{prefix}{k}' for k in node))}{end}")
            node, prefix = node[key], f"{prefix}{key}."
        if leaf not in node and prefix[:-1] not in FREE:
            raise UserError(f"{unknown('key', override.key, (f'{prefix}{k}' for k in node))}{end}")
        old, value = node.get(leaf), parse_numbers(override.value)
        if override.key == "data.mix" and isinstance(value, str):
            value = load_mixture(value)
        elif override.key == "views":
            value = floats(value)
        elif isinstance(old, dict) and isinstance(value, dict) and path not in REPLACED:
            value = _merge(old, value, override.key, end, strict=parents[:1] == ["method"])
        elif parents[:1] == ["method"]:
            value = _as_type_of(old, value, override.key, end)
        node[leaf] = value
        self.places = {keys: place for keys, place in self.places.items() if keys[: len(path)] != path}
        self.places[path] = override.place

    def locate(self, keys: Keys) -> str:
        """The place of the value that keys lead to, or of the nearest value around it."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, "")


def _merge(under: dict[str, Any], over: dict[str, Any], prefix: str, end: str, strict: bool) -> dict[str, Any]:
    """A copy of under with over laid on it; strict: keys and types must be those of under."""
    out = copy.deepcopy(under)
    for key, value in over.items():
        name = f"{prefix}.{key}"
        if strict and key not in under:
            raise UserError(f"{unknown('key', name, (f'{prefix}.{k}' for k in under))}{end}")
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            out[key] = _merge(under[key], value, name, end, strict)
        else:
            out[key] = _as_type_of(under[key], value, name, end) if strict else value
    return out


def _as_type_of(old: Any, value: Any, name: str, end: str) -> Any:
    """The value of a method's argument, of the type that its yaml gives it: 3 and 3.0 must name the same run."""
    if type(old) is float and type(value) is int:
        value = float(value)
    if type(old) is int and type(value) is float and value.is_integer():  # 1e5
        value = int(value)
    if type(value) is not type(old):
        raise UserError(f"{name} must be {type(old).__name__} (now {old!r}), got {value!r}{end}")
    if isinstance(value, list) and old and all(type(v) is not list for v in old):
        value = [_as_type_of(old[0], v, f"{name}[{i}]", end) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}{end}")
    return value


def floats(value: Any) -> Any:
    """The same value with every int as a float: views must name the same run as 3 and as 3.0."""
    if isinstance(value, dict):
        return {k: floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [floats(v) for v in value]
    return float(value) if type(value) is int else value


def find_methods() -> dict[str, Path]:
    """Method -> its yaml, sorted: of methods/, and of the folders that ECGSSL_METHODS names as PATH names some."""
    files: dict[str, Path] = {}
    outside = [Path(text).resolve() for text in os.environ.get(METHODS, "").split(os.pathsep) if text]
    for folder in dict.fromkeys([ROOT / "methods", *outside]):
        if not folder.is_dir():
            raise UserError(f"{METHODS} or --methods names {folder}, which is not a folder")
        for path in folder.glob("*.yaml"):
            if path.stem in files:
                raise UserError(f"two methods are called {path.stem!r}: {files[path.stem]} and {path}; rename one")
            if not path.with_suffix(".py").is_file():
                raise UserError(f"method {path.stem!r}: {path} has no {path.stem}.py beside it")
            files[path.stem] = path
    return dict(sorted(files.items()))


def load_pretrain_config(method: str, overrides: Sequence[Override] = ()) -> PretrainConfig:
    """The config of a pre-training: base.yaml, then the method's yaml, then the overrides."""
    files = find_methods()
    if method not in files:
        raise unknown("method", method, files)
    layers = Layers()
    layers.add_document(read_document(BASE))
    own = read_document(files[method])
    layers.add_document(own)
    layers.value["views"] = floats(layers.value["views"])
    for override in overrides:
        layers.set(override)
    config = validate(PretrainConfig, layers.value, layers.locate)
    if config.method.name != method:
        raise UserError(f"{own.place(('method', 'name'))}: method.name is {config.method.name!r}, it must be {method!r}")
    return config


def load_mixture(name: str) -> dict[str, float]:
    """A named mixture of corpora: store -> probability."""
    known = read_yaml(MIXTURES)
    if name not in known:
        raise unknown("mixture", name, known)
    return {store: float(weight) for store, weight in known[name].items()}


def name_mixture(weights: dict[str, float]) -> str | None:
    """What a mixture is called, if it has a name."""
    return next((name for name in _mixtures() if load_mixture(name) == weights), None)


@cache
def _mixtures() -> tuple[str, ...]:
    return tuple(read_yaml(MIXTURES))
