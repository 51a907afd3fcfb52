"""The backbone and the task of an evaluation, and the checks that they fit each other."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.core.rng import derive
from bench.data import leak
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation import tasks
from bench.evaluation.external import replace_test_split
from bench.evaluation.protocols import check_protocol
from bench.evaluation.tasks import Task
from bench.method import build_model
from bench.runs.config import EvaluationConfig, PretrainConfig
from bench.runs.workspace import checkpoint_path, run_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

ENCODER_STREAM = 100  # stream of random numbers drawn from an evaluation's seed


def has_learned(work: Path, run: str) -> bool:
    """Whether the pre-training takes any steps; True if the work folder does not hold its config."""
    path = run_folder(work, run) / "config.json"
    return not path.is_file() or bool(read_json(path, f"run {run}")["optim"]["steps"])


def load_pretrained(work: Path, config: EvaluationConfig) -> Checkpoint:
    """The checkpoint of the backbone; UserError if there is none, or if the protocol does not fit it."""
    source = checkpoint_path(work, config.pretrain, config.at)
    if not source.is_file():
        raise UserError(f"no finished pre-training {config.pretrain!r}: {source} does not exist; "
                        f"`ecgssl pretrain` makes it" + ("" if config.at == 1 else ", with its share among the "
                                                         "checkpoints.at of its config"))
    pretrained = checkpoint.load(source)
    if not {"config", "step", "rate_hz"} <= set(pretrained.meta):
        raise UserError(f"{source} is no checkpoint of a pre-training; remove it and run the pre-training again")
    check_protocol(config, pretrained.meta["step"] > 0)
    return pretrained


def build_encoder(pretrained: Checkpoint, seed: int = 0, dropout: float = 0.0) -> vit.Encoder:
    """The encoder that a finished pre-training yields.

    A pre-training of no steps yields a random backbone. Its weights are drawn from the evaluation's seed, so that the sd
    over seeds is a sd over random backbones.
    """
    torch.manual_seed(derive(seed, ENCODER_STREAM))
    config = PretrainConfig.model_validate(pretrained.meta["config"])
    encoder = vit.build(config.encoder.replace(dropout=dropout))
    if pretrained.meta["step"] == 0:
        return encoder
    model = build_model(config)  # the method knows which of its encoders is evaluated
    model.load_state_dict({k.removeprefix("model/"): v for k, v in pretrained.tensors.items() if k.startswith("model/")})
    encoder.load_state_dict(model.backbone().state_dict())
    return encoder


def open_task(config: EvaluationConfig, pretrained: PretrainConfig, store: Store, external: Store | None = None) -> Task:
    """The evaluation's task; UserError if the store or the pre-training's config does not fit it."""
    samples = check_settings(config, pretrained, store)
    if (config.data.store, config.data.fingerprint) != (store.name, store.fingerprint):
        raise UserError(f"the config names store {config.data.store!r} (fingerprint {config.data.fingerprint!r}), but store "
                        f"{store.name!r} (fingerprint {store.fingerprint!r}) was opened")
    if (config.external.store, config.external.fingerprint) != ((external.name, external.fingerprint) if external else ("", "")):
        raise UserError(f"external.store is {config.external.store!r} in the config but not opened; write "
                        f"`ecgssl evaluate --external STORE`, which opens the store and fills in the key")
    folds = config.folds.to_json() | ({"test": config.folds.validation} if external else {})  # its own test fold stays unread
    task = tasks.load_task(store, config.task, folds, empty_classes=config.empty_classes, shortest=samples,
                           fraction=config.fraction)
    if config.shuffle_labels:
        task = tasks.shuffle_labels(task, config.shuffle_labels)
    return replace_test_split(task, config.task, store, external, shortest=samples) if external else task


def check_settings(config: EvaluationConfig, pretrained: PretrainConfig, store: Store) -> int:
    """The length of a crop in samples; UserError if the settings do not fit the store or the backbone."""
    settings, encoder, rate_hz = config.evaluation, pretrained.encoder, pretrained.data.rate_hz
    if rate_hz != store.rate_hz:
        raise UserError(f"store {store.name} has {store.rate_hz} Hz, the backbone was pre-trained at {rate_hz} Hz; "
                        f"prepare the store at that rate")
    samples = round(settings.crop_seconds * rate_hz)
    for key in ("crop_seconds", "stride_seconds"):
        seconds = getattr(settings, key)
        if round(seconds * rate_hz) < 1:
            raise UserError(f"evaluation.{key} of {seconds} s is less than one sample at {rate_hz} Hz")
    if settings.head == "register" and not encoder.registers:
        raise UserError(f"evaluation.head register needs a register token, the backbone has none "
                        f"({settings.name}); --set evaluation.head=attentive or mean")
    if samples % encoder.patch:
        raise UserError(f"evaluation.crop_seconds of {settings.crop_seconds} s at {rate_hz} Hz does not "
                        f"divide into the backbone's patches of {encoder.patch} samples")
    return samples


def check_unseen(seen: dict[str, Tensor], task: Task, store: Store) -> None:
    """UserError if pre-training saw a record or a patient of the validation or test folds, or of the external store."""
    if task.tested_on:
        leak.check(seen, store, task.validation.rows, "validation")
        leak.check(seen, task.tested_on, task.test.rows, "external test")
    else:
        leak.check(seen, store, np.concatenate([task.validation.rows, task.test.rows]), "validation and test")
