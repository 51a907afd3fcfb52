"""A trained backbone: ECG in physical units goes in, tokens come out. The code and data of its training are not needed."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.core.models import Float, Model, Natural, Positive, PositiveFloat, Text, validate
from bench.data.loader import CLIP
from bench.data.signal import LEADS
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.evaluation.inputs import build_encoder
from bench.runs.config import PretrainConfig
from bench.runs.workspace import checkpoint_name, run_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class SeenCorpus(Model):
    """What a backbone saw of one corpus. records: how many; None if that is unknown."""

    source: Text
    version: Text
    records: Natural | None = None


class BackboneConfig(Model):
    """config.json of an exported backbone: what is needed to use the weights, and where they come from."""

    format: Literal[1] = 1
    run_id: Text
    method: Text
    encoder: EncoderConfig
    rate_hz: Positive
    units: Text
    leads: tuple[Text, ...]
    mean: tuple[Float, ...]  # (12,) in units
    sd: tuple[PositiveFloat, ...]  # (12,) in units
    clip_sd: PositiveFloat
    statistics: Text  # in words: which stores mean and sd were computed from
    saw: dict[Text, SeenCorpus]
    step: Natural
    stores: dict[Text, dict[str, Any]]
    pretrain_config: PretrainConfig
    sha256: Text = ""  # of the file of the weights


class Backbone(nn.Module):
    """(B, 12, T) ECG in `units` at `rate_hz`, leads in the order LEADS -> (B, N, D) tokens.

    The backbone z-scores each lead by `mean` and `sd`, (12, 1), and clips it to +-clip_sd. With registers=True the R register
    tokens come first. `config` is None in the backbone of a classifier.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, encoder: vit.Encoder, *, rate_hz: int, units: str, mean: Sequence[float], sd: Sequence[float],
                 clip_sd: float = CLIP, config: BackboneConfig | None = None):
        super().__init__()
        self.encoder, self.rate_hz, self.units, self.clip_sd, self.config = encoder, rate_hz, units, clip_sd, config
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(len(LEADS), 1), persistent=False)
        self.register_buffer("sd", torch.tensor(sd, dtype=torch.float32).view(len(LEADS), 1), persistent=False)

    def forward(self, ecg: Tensor, registers: bool = False) -> Tensor:
        if ecg.ndim != 3 or ecg.shape[1] != len(LEADS):
            raise UserError(f"ECG of shape {tuple(ecg.shape)}; (records, 12 leads, samples) is needed: {', '.join(LEADS)}, "
                            f"in {self.units} at {self.rate_hz} Hz")
        x = ((ecg.float() - self.mean) / self.sd).clamp(-self.clip_sd, self.clip_sd)
        tokens: Tensor = self.encoder(x, registers=registers)
        return tokens

    def embed(self, ecg: Tensor) -> Tensor:
        """(B, 12, T) ECG -> (B, D): the mean of the tokens, without registers."""
        mean: Tensor = self(ecg).mean(1)
        return mean


def open_backbone(work: Path, name: str) -> Backbone:
    """The backbone of that name: an exported folder, or the run_id of a pre-training in the work folder."""
    return load_backbone(Path(name)) if Path(name).is_dir() else load_run(work, name)


def load_backbone(folder: Path) -> Backbone:
    """The exported backbone in folder, in evaluation mode. UserError if there is none or it is damaged."""
    path = folder / CONFIG
    content = read_json(path, "exported backbone")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {content.get('format')!r:.80}, this version reads {FORMAT}; export it again")
    config = validate(BackboneConfig, content, lambda keys: f"{path} is damaged")
    if config.leads != LEADS:
        raise UserError(f"{path}: its leads are {', '.join(config.leads)!r:.200}, not {', '.join(LEADS)}")
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing; export the backbone again") from None
    if hashlib.sha256(weights).hexdigest() != config.sha256:
        raise UserError(f"{folder / WEIGHTS} is damaged (its SHA-256 is not that of config.json); export the backbone again")
    try:
        tensors = safetensors.torch.load(weights)
        with torch.device("meta"):
            encoder = vit.build(config.encoder)
        backbone = _backbone(encoder, config)
    except (safetensors.SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} is no exported backbone, or is damaged ({type(error).__name__}: {error!s:.99})") from None
    checkpoint.fill_(backbone.encoder, tensors, str(folder / WEIGHTS))
    return backbone.eval().requires_grad_(False)


def load_run(work: Path, run: str) -> Backbone:
    """The backbone of a finished pre-training in the work folder."""
    path = run_folder(work, run) / checkpoint_name(1)
    if not re.fullmatch(r"[0-9a-f]{12}", run) or not path.is_file():
        known = sorted(p.parent.name for p in (work / "runs").glob(f"*/{checkpoint_name(1)}"))
        raise UserError(f"no finished pre-training {run!r:.80} in {work}, and no folder of `ecgssl export`. Known: "
                        f"{', '.join(known) or 'none'}")
    trained = checkpoint.load(path)
    if not {"config", "run_id", "step", "rate_hz", "leads", "stores", "saw"} <= trained.meta.keys():
        raise UserError(f"{path} is no checkpoint of a pre-training; remove it and run the pre-training again")
    return take_backbone(trained)


def take_backbone(trained: Checkpoint) -> Backbone:
    """The backbone in a pre-training's checkpoint, in evaluation mode.

    UserError if it has learned nothing, or if the checkpoint does not say how the input was normalised.
    """
    meta, config = trained.meta, PretrainConfig.model_validate(trained.meta["config"])
    if not meta["step"]:
        raise UserError(f"run {meta['run_id']} ({config.method.name}) has learned nothing: each evaluation draws its own "
                        f"weights; name the run of another method")
    mean, sd, units, words = _statistics(meta, config)
    encoder = build_encoder(trained).eval().requires_grad_(False)
    about = BackboneConfig(
        run_id=meta["run_id"], method=config.method.name, rate_hz=meta["rate_hz"], units=units, leads=meta["leads"],
        encoder=config.encoder.replace(size=str(encoder.size), dropout=0.0), mean=tuple(mean), sd=tuple(sd), clip_sd=CLIP,
        statistics=words, saw=meta["saw"], step=meta["step"], stores=meta["stores"], pretrain_config=config)
    return _backbone(encoder, about)


def _backbone(encoder: vit.Encoder, config: BackboneConfig) -> Backbone:
    return Backbone(encoder, rate_hz=config.rate_hz, units=config.units, mean=config.mean, sd=config.sd,
                    clip_sd=config.clip_sd, config=config)


def _statistics(meta: dict[str, Any], config: PretrainConfig) -> tuple[list[float], list[float], str, str]:
    """(12,) mean and sd that normalise new records, their units, and in words which stores they were computed from.

    In pre-training a record is normalised by the statistics of its own store. A new record belongs to no store. After
    pre-training on several stores it is normalised by the statistics of their mixture, in which each store has the weight
    that it was drawn with.
    """
    stores, weights = meta["stores"], config.data.mix
    if not stores:
        raise UserError(f"run {meta['run_id']} does not say how its input was normalised: import it again, with --saw STORE "
                        f"for the stores that it was pre-trained on")
    units = sorted({s["units"] for s in stores.values()})
    if len(units) > 1:
        raise UserError(f"run {meta['run_id']} was pre-trained on records in {' and '.join(units)}; a new record has one unit")
    if len(stores) == 1:
        (name, only), = stores.items()
        return only["mean"], only["sd"], units[0], f"of {name}"
    share = np.array([weights[name] for name in stores])
    means, sds = (np.array([s[key] for s in stores.values()]) for key in ("mean", "sd"))
    mean = share @ means
    sd = np.sqrt(share @ (sds**2 + (means - mean) ** 2))
    words = ", ".join(f"{name} ({weight:g})" for name, weight in sorted(weights.items()))
    return mean.tolist(), sd.tolist(), units[0], f"of the mixture of {words}"
