"""The typed, frozen configs of runs. base.yaml, then methods/<name>.yaml, then overrides; the config's hash names the run."""

import hashlib
import math
import os
from collections.abc import Sequence
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
from bench.core.yaml import read_document
from bench.encoders.config import EncoderConfig
from bench.runs.layers import Layers, Override, floats

METHODS = "ECGSSL_METHODS"  # environment variable: folders of methods outside the repository
BASE = Path(__file__).with_name("base.yaml")

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


class AdamWConfig(Model):
    """AdamW and its schedules: what pre-trainings and evaluations share."""

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
    precision: Precision


class OptimConfig(AdamWConfig):
    """How a pre-training optimises."""

    steps: Natural
    accumulate: Positive
    compile: Bool

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch % self.accumulate:
            raise rule("accumulate", f"a divisor of optim.batch ({self.batch})")
        if self.steps and self.warmup_steps >= self.steps:
            raise rule("warmup_steps", f"less than optim.steps ({self.steps})")
        return self


class CheckpointConfig(Model):
    """Which backbones are saved during the pre-training, to be evaluated as well."""

    at: tuple[Inside, ...]


class MethodConfig(Model):
    """A method's name and the keyword arguments of its constructor. bench.method.build_method checks the arguments."""

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
    """A store and the fingerprint of its content; both are "" if there is no store."""

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
            raise rule("train", "disjoint from folds.validation: the records that choose must not be trained on")
        return self


class GridConfig(Model):
    """Values to try on a frozen backbone; the validation folds choose."""

    lr: tuple[PositiveFloat, ...]
    weight_decay: tuple[Amount, ...]


class NeighboursConfig(Model):
    """Settings of nearest neighbours."""

    k: Annotated[tuple[Positive, ...], Field(min_length=1)]
    temperature: PositiveFloat


class HeadConfig(AdamWConfig):
    """How a head is trained (with its encoder, unless that is frozen), and how its weights are chosen."""

    name: Text
    head: Literal["attentive", "mean", "register", "neighbours"]
    frozen: Bool
    features: Literal["exact", "cached"]
    steps: Positive
    dropout: Dropout
    validate_every: Positive
    patience: Positive
    crop_seconds: PositiveFloat
    stride_seconds: PositiveFloat
    average: Literal["logits", "probabilities"]
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
    imported: Text | None = None  # the SHA-256 of the weights of an imported head

    @model_validator(mode="after")
    def _same_head(self) -> Self:
        first, head = self.after, self.evaluation.head
        if first and not (first.frozen and first.head == head):
            raise rule("after", f"a linear evaluation with the same head: frozen true and head {head}")
        return self


Config = PretrainConfig | EvaluationConfig


def run_id(config: Config) -> str:
    """The run's name: 12 hex digits of the SHA-256 of the config's canonical JSON. Place and time of the run do not count."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:12]


def parse_config(value: Any) -> Config:
    """The typed config of plain JSON values; a result or a checkpoint holds a config in this form."""
    if isinstance(value, dict) and "evaluation" in value:
        return validate(EvaluationConfig, value)
    return validate(PretrainConfig, value)


def find_methods() -> dict[str, Path]:
    """Method -> its yaml, sorted. Methods are in methods/ and in the folders of ECGSSL_METHODS, a list with ":" like PATH."""
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
