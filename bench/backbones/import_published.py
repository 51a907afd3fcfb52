"""Turn a checkpoint of the published implementation (kweimann/ECG-JEPA, arXiv 2410.13867) into a backbone: `ecgssl import`."""

import hashlib
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor

from bench.backbones.predict import build_head
from bench.core.errors import UserError, unknown
from bench.core.files import lock_file, write_text
from bench.core.models import Amount, Bool, Int, Model, Natural, Positive, PositiveFloat, Text, validate
from bench.core.yaml import read_yaml
from bench.data import leak
from bench.data.signal import LEADS, lead_order
from bench.data.store import Store, eligible
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.evaluation import artifacts
from bench.evaluation.artifacts import EvaluationWeights
from bench.evaluation.protocols import load_defaults
from bench.runs.config import BASE, EvaluationConfig, PretrainConfig, find_methods, run_id
from bench.runs.workspace import checkpoint_name, evaluation_folder, run_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

M = TypeVar("M", bound=Model)

UNKNOWN = "unknown"  # what a backbone saw, if its user does not know
PARTS = ("encoder", "target_encoder", "predictor", "attn_pool", "fc")
NAMES = (("patch_embed.proj", "embed"), ("attn.", ""), ("mlp.", ""), ("attn_ls", "scale1"), ("mlp_ls", "scale2"),
         ("query_token", "query"), ("cross_attention_block.", ""))  # published part of a name -> ours; in this order


class PublishedConfig(Model):
    """The config in a published checkpoint: the keys that decide the form of the encoder."""

    model_config = ConfigDict(extra="allow")

    sampling_frequency: Positive
    channels: tuple[Any, ...]
    channel_size: Positive  # samples of a crop
    patch_size: Positive
    dim: Positive
    depth: Positive
    num_heads: Positive
    num_registers: Natural
    mlp_ratio: PositiveFloat
    norm_eps: PositiveFloat
    layer_scale_eps: Amount
    dropout: Amount
    bias: Bool
    qkv_bias: Bool
    steps: Int
    batch_size: Positive
    datasets: dict[Text, Any]

    def encoder(self) -> EncoderConfig:
        """The settings of the same encoder in this benchmark."""
        size = vit.Size(self.dim, self.depth, self.num_heads)
        name = next((name for name, known in vit.SIZES.items() if known == size), str(size))
        return EncoderConfig(
            size=name, tokens="time", patch=self.patch_size, registers=self.num_registers, init="trunc_normal",
            dropout=self.dropout, layer_scale=self.layer_scale_eps, bias=self.bias or None, qkv_bias=self.qkv_bias or None,
            mlp_ratio=None if self.mlp_ratio == vit.MLP_RATIO else self.mlp_ratio,
            norm_eps=None if self.norm_eps == vit.NORM_EPS else self.norm_eps)


class PublishedHead(Model):
    """The eval_config in the checkpoint of a published classifier: the keys that decide the form of the head."""

    model_config = ConfigDict(extra="allow")

    num_classes: Positive
    use_register: Bool
    attn_pooling: Bool
    frozen: Bool
    crop_duration: PositiveFloat | None = None  # seconds; None: the whole record
    crop_stride: PositiveFloat | None = None


@dataclass(frozen=True)
class Published:
    """The content of a checkpoint, with the names of this benchmark and its order of leads."""

    config: PublishedConfig  # of the pre-training
    weights: dict[str, dict[str, Tensor]]  # encoder, target_encoder, predictor, head -> its state dict
    step: int
    head: PublishedHead | None  # None: the checkpoint is that of a pre-training, not of a classifier
    task: str
    mean: list[float]  # (12,) in mV, normalises a classifier's input, leads in PTB-XL's order; [] for a pre-training
    sd: list[float]  # likewise


def read_published(path: Path) -> Published:
    """The content of a published checkpoint. UserError if it is not one, or if its config lacks what decides its form."""
    content, model = _load(path)
    config = _validate(PublishedConfig, content["config"], f"{path}, config")
    try:
        order = lead_order(list(config.channels))
    except UserError as error:
        raise UserError(f"{path}, config {error}") from None
    step = content.get("step", config.steps)
    if type(step) is not int or step < 1:
        raise UserError(f"{path} was saved after {step!r:.80} steps: it holds nothing learned")
    try:
        weights = rename_weights(path, model, order)
    except (RuntimeError, IndexError, KeyError) as error:
        raise UserError(f"{path}: its tensors do not fit each other ({type(error).__name__})") from None
    blocks = {key.split(".")[1] for key in weights.get("target_encoder", weights.get("encoder", {})) if "blocks." in key}
    if config.depth != len(blocks):  # checked here, before so many blocks are built
        raise UserError(f"{path}, config: depth is {config.depth}, the encoder has {len(blocks)} blocks")
    head, mean, sd = None, list[float](), list[float]()
    if content.get("eval_config") is not None:
        head = _validate(PublishedHead, content["eval_config"], f"{path}, eval_config")
        mean, sd = _normalisation(path, content)
    return Published(config, weights, step, head, str(content.get("task", "")), mean, sd)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the checkpoint's content, its named tensors)."""
    try:
        if zipfile.is_zipfile(path):  # torch.load does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise ValueError(f"checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
        model = content["model"]
        strange = [k for k, v in model.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
        _ = content["config"], content.get("eval_config")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"checkpoint {path} does not exist, or is no file") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no checkpoint of the published implementation ({type(error).__name__})") from None
    if strange:
        raise UserError(f"{path}: {strange[0]!r:.80} in its model is no named tensor")
    return content, model


def _validate(model: type[M], value: Any, what: str) -> M:
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))  # tuples become lists
    except (TypeError, ValueError):
        plain = None
    if not isinstance(plain, dict):
        raise UserError(f"{what} is no mapping of plain values")
    try:
        return validate(model, plain)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _normalisation(path: Path, content: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(12,) mean and sd of a classifier's input."""
    try:
        mean, sd = (content["preprocess"][k].double().view(len(LEADS)).tolist() for k in ("mean", "std"))
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError):
        raise UserError(f"{path} is a classifier without the mean and std of its 12 input leads (preprocess)") from None
    if not (min(sd) > 0 and np.isfinite([mean, sd]).all()):
        raise UserError(f"{path}: its preprocess mean and std are no finite numbers, or a std is not positive")
    return mean, sd


def rename_weights(path: Path, model: dict[str, Tensor], order: list[int]) -> dict[str, dict[str, Tensor]]:
    """part -> our name -> tensor; a head's biases become one. UserError if a name belongs to no part."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in model.items():
        part, _, rest = name.partition(".")
        if part not in PARTS or not rest:
            raise UserError(f"{path} holds {name!r:.80}; the parts of the published model are {', '.join(PARTS)}")
        for published_part, own_part in NAMES:
            rest = rest.replace(published_part, own_part)
        if rest == "embed.weight" and value.ndim == 3:
            if value.shape[1] != len(order):
                raise UserError(f"{path}: {name} takes {value.shape[1]} leads, its config names {len(order)}")
            value = value[:, order].flatten(1)
        if rest in ("registers", "mask_token", "query"):
            value = value.flatten(0, -2) if rest == "registers" else value.flatten()
        rest = f"proj.{rest}" if part == "fc" else rest
        parts.setdefault("head" if part in ("attn_pool", "fc") else part, {})[rest] = value
    for part in ("encoder", "target_encoder"):
        if part in parts:  # without registers, the published encoder has no such tensor, and the encoder here an empty one
            parts[part].setdefault("registers", torch.empty(0, parts[part].get("norm.weight", torch.empty(0)).numel()))
    if {"q.bias", "kv.bias", "query"} <= parts.get("head", {}).keys():
        parts["head"] = fold_biases(parts["head"])
    return parts


def fold_biases(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an attentive head that has one bias, proj.bias, and computes the same logits.

    The bias of the query is added to the query. The bias of the keys adds the same number to the score of every token, which
    the softmax cancels. The bias of the values adds the same vector to every pooled token, and so to the logits.
    """
    width = head["query"].numel()
    values = head["proj.weight"] @ head["kv.bias"][width:]
    return {"query": head["q.weight"] @ head["query"] + head["q.bias"], "q.weight": torch.eye(width),
            "kv.weight": head["kv.weight"], "proj.weight": head["proj.weight"],
            "proj.bias": values + head.get("proj.bias", torch.zeros(()))}


def build_encoder(config: PublishedConfig, weights: dict[str, Tensor], what: str) -> vit.Encoder:
    """The encoder that a published config describes, with weights of read_published."""
    with torch.device("meta"):
        encoder = vit.build(config.encoder())
    checkpoint.fill_(encoder, weights, what)
    return encoder


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values."""
    state = hashlib.sha256()
    for key in sorted(tensors):
        state.update(f"{key} {tuple(tensors[key].shape)} ".encode() + tensors[key].float().contiguous().numpy().tobytes())
    return state.hexdigest()


def import_published(path: Path, work: Path, name: str, saw: Sequence[Store] | None) -> tuple[str, str]:
    """Write the checkpoint's backbone as a finished pre-training, and its head as an evaluation: (their run_ids; "": no head).

    name: of the method, for tables. saw: the stores whose training folds the backbone was pre-trained on, for the leak guard;
    None if that is unknown, which the config of the run and the results of its evaluations then say. The run_id is a function
    of the weights, their config, `name` and `saw`. Of a pre-training, the EMA target encoder is imported, as the published
    implementation evaluates it; of a classifier, its encoder.
    """
    if not re.fullmatch(r"[\w.-]{1,60}", name, re.ASCII) or name in find_methods():
        raise UserError(f"--as {name!r:.80} must be letters, digits, '_', '.' or '-', and no method of the suite")
    published = read_published(path)
    part = "encoder" if published.head else "target_encoder"
    if part not in published.weights:
        raise unknown(f"content of {path}: it lacks", part, published.weights)
    encoder = build_encoder(published.config, published.weights[part], f"{path}, {part}").state_dict()
    config = describe_run(published, hash_tensors(encoder), name, saw)
    head = take_head(published, path, config) if published.head else None
    run, evaluation = run_id(config), run_id(head.config) if head else ""
    folder = run_folder(work, run)
    with lock_file(folder / "lock", f"run {run}"):
        checkpoint.remove_partial(folder)
        write_text(folder / "config.json", json.dumps(config.to_json(), indent=1, sort_keys=True))
        marks = leak.training_marks(saw or (), config.data.folds, published.config.channel_size)
        checkpoint.save(folder / checkpoint_name(1), Checkpoint(
            {f"model/encoder.{k}": v for k, v in encoder.items()} | {f"seen/{k}": v for k, v in marks.items()},
            {"config": config.to_json(), "run_id": run, "leads": list(LEADS), "rate_hz": config.data.rate_hz,
             "stores": describe_stores(published, saw), "saw": describe_seen(published, config, saw),
             "step": published.step, "window": []}))
        if head:
            artifacts.write_weights(evaluation_folder(work, run, evaluation) / artifacts.WEIGHTS, head)
    return run, evaluation


def describe_stores(published: Published, saw: Sequence[Store] | None) -> dict[str, Any]:
    """How the input was normalised: store -> mean, sd, units. The checkpoint of a classifier holds these numbers itself."""
    stores = {s.name: {k: s.manifest[k] for k in ("mean", "sd", "units", "fingerprint")} for s in saw or ()}
    if not stores and published.head:
        stores = {"preprocess": {"mean": published.mean, "sd": published.sd, "units": "mV", "fingerprint": ""}}
    return stores


def describe_seen(published: Published, config: PretrainConfig, saw: Sequence[Store] | None) -> dict[str, Any]:
    """Which corpora the backbone saw. records is None if their number is unknown."""
    if saw is None:  # the checkpoint names corpora, not which of their records
        names = list(published.config.datasets) or [UNKNOWN]
        return {corpus: {"source": corpus, "version": UNKNOWN, "records": None} for corpus in names}
    samples = published.config.channel_size
    return {s.name: {"source": s.corpus, "version": s.version,
                     "records": len(eligible(s, config.data.folds, samples))} for s in saw}


def describe_run(published: Published, weights: str, name: str, saw: Sequence[Store] | None) -> PretrainConfig:
    """The config of an imported backbone: the published config in our keys, and the published config as it is."""
    theirs, base = published.config, read_yaml(BASE)
    for store in saw or ():
        if store.rate_hz != theirs.sampling_frequency:
            raise UserError(f"store {store.name} has {store.rate_hz} Hz, the backbone {theirs.sampling_frequency} Hz; "
                            f"prepare the store at that rate")
    stated = {s.name: theirs.datasets.get(s.corpus) for s in saw or ()}
    shares = {name: float(share) for name, share in stated.items() if isinstance(share, int | float) and share > 0}
    if shares.keys() != stated.keys():  # the published config does not name all of them, so the shares are taken as equal
        shares = dict.fromkeys(stated, 1.0)
    data = base["data"] | {
        "mix": {k: v / sum(shares.values()) for k, v in shares.items()},
        "fingerprints": {s.name: s.fingerprint for s in saw or ()}, "rate_hz": theirs.sampling_frequency,
        "crop_seconds": theirs.channel_size / theirs.sampling_frequency, "resampling": "periodic"}
    return PretrainConfig.model_validate({
        **base, "data": data, "encoder": theirs.encoder().to_json(),
        "optim": {**base["optim"], "steps": theirs.steps, "batch": theirs.batch_size, "warmup_steps": 0},
        "method": {"name": name, "imported": weights, "saw": UNKNOWN if saw is None else "stated", "step": published.step,
                   "config": theirs.to_json(), "eval_config": published.head.to_json() if published.head else None,
                   "task": published.task}})


def take_head(published: Published, path: Path, config: PretrainConfig) -> EvaluationWeights:
    """The classifier's head in the form in which an evaluation saves it. Its classes are numbers: the checkpoint has no names.

    UserError if the product has no head of this kind.
    """
    head, registers = published.head, published.config.num_registers
    assert head is not None
    kind = "attentive" if head.attn_pooling else "register"
    if head.use_register != bool(registers) or not (head.use_register or head.attn_pooling):
        raise UserError(f"{path}: a head with use_register {str(head.use_register).lower()} on an encoder with {registers} "
                        f"registers: one here sees the registers, and pools by attention if there are none")
    tensors = published.weights.get("head", {})
    with torch.device("meta"):
        build_head(kind, vit.build(config.encoder), head.num_classes, tensors, f"{path}, head")
    seconds = head.crop_duration or config.data.crop_seconds
    value = load_defaults("linear" if head.frozen else "finetune").value
    value["evaluation"] |= {"head": kind, "dropout": 0.0, "crop_seconds": seconds,
                            "stride_seconds": head.crop_stride or seconds, "precision": "float32"}
    value |= {"pretrain": run_id(config), "task": published.task, "after": None, "imported": hash_tensors(tensors)}
    return EvaluationWeights(
        EvaluationConfig.model_validate(value), config, head=tensors, encoder={}, kind="multi-label",
        classes=[str(i) for i in range(head.num_classes)], moments=(0.0, 1.0), rate_hz=config.data.rate_hz, leads=list(LEADS),
        units="mV", mean=published.mean, sd=published.sd)
