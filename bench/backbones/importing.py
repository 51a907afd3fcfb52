"""Checkpoints of the published implementation (kweimann/ECG-JEPA, of arXiv 2410.13867) as ours: `ecgssl import`."""

import hashlib
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.backbones import apply
from bench.core.errors import UserError, unknown
from bench.core.files import lock_file, write_text
from bench.core.yaml import read_yaml
from bench.data import leak
from bench.data.signal import LEADS, lead_order
from bench.data.store import Store, eligible
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.evaluation.protocols import load_defaults
from bench.evaluation.runner import KEPT
from bench.runs.config import BASE, EvaluationConfig, PretrainConfig, find_methods, run_id
from bench.runs.workspace import checkpoint_name, run_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

UNKNOWN = "unknown"  # what a backbone saw, where its user cannot say
PARTS = ("encoder", "target_encoder", "predictor", "attn_pool", "fc")
RENAMED = (("patch_embed.proj", "embed"), ("attn.", ""), ("mlp.", ""), ("attn_ls", "scale1"), ("mlp_ls", "scale2"),
           ("query_token", "query"), ("cross_attention_block.", ""))
CONFIG = {"sampling_frequency": int, "channels": list, "channel_size": int, "patch_size": int, "dim": int, "depth": int,
          "num_heads": int, "num_registers": int, "mlp_ratio": float, "norm_eps": float, "layer_scale_eps": float,
          "dropout": float, "bias": bool, "qkv_bias": bool, "steps": int, "batch_size": int, "datasets": dict}
EVAL_CONFIG = {"num_classes": int, "use_register": bool, "attn_pooling": bool, "frozen": bool}


@dataclass(frozen=True)
class Published:
    """What a file holds: state dicts in our names (encoder, target_encoder, predictor, head), our order of leads."""

    config: dict[str, Any]  # of the pre-training
    weights: dict[str, dict[str, Tensor]]
    step: int
    classifier: dict[str, Any] | None  # its eval_config; None: a pre-training
    task: str
    mean: list[float]  # (12,) of a classifier's input in mV, and the sd, in PTB-XL's own order of leads whatever the
    # encoder's is; a pre-training's file does not say
    sd: list[float]


def read(path: Path) -> Published:
    """The checkpoint in path; UserError when it is none, or its config lacks what decides its shape."""
    try:
        if zipfile.is_zipfile(path):  # torch.load does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise ValueError(f"checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
        model, made, classifier = content["model"], content["config"], content.get("eval_config")
        strange = [k for k, v in model.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"checkpoint {path} does not exist, or is no file") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no checkpoint of the published implementation ({type(error).__name__})") from None
    if strange:
        raise UserError(f"{path}: {strange[0]!r:.80} in its model is no named tensor")
    what = f"{path}, config"
    made = check(made, CONFIG, what)
    positive = ("sampling_frequency", "channel_size", "patch_size", "dim", "depth", "num_heads", "mlp_ratio", "norm_eps")
    for key, lowest in {**dict.fromkeys(positive, 0), "num_registers": -1}.items():
        if made[key] <= lowest:
            raise UserError(f"{what}: {key} must be above {lowest}, got {made[key]!r}")
    try:
        order = lead_order(made["channels"])
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    step = content.get("step", made["steps"])
    if type(step) is not int or step < 1:
        raise UserError(f"{path} was saved after {step!r:.80} steps: it holds nothing learned")
    try:
        weights = renamed(path, model, order)
    except (RuntimeError, IndexError, KeyError) as error:
        raise UserError(f"{path}: its tensors do not fit each other ({type(error).__name__})") from None
    mean: list[float] = []
    sd: list[float] = []
    if classifier is not None:
        classifier = check(classifier, EVAL_CONFIG, f"{path}, eval_config")
        for key in ("num_classes", "crop_duration", "crop_stride"):  # seconds; None: the whole record
            if not (classifier.get(key) is None or (type(classifier[key]) in (int, float) and classifier[key] > 0)):
                raise UserError(f"{path}, eval_config: {key} must be above 0, got {classifier[key]!r:.80}")
        try:
            mean, sd = (content["preprocess"][k].double().view(len(LEADS)).tolist() for k in ("mean", "std"))
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError):
            raise UserError(f"{path} is a classifier without the mean and std of its 12 input leads (preprocess)") from None
        if not (min(sd) > 0 and np.isfinite([mean, sd]).all()):
            raise UserError(f"{path}: its preprocess mean and std are no finite numbers, or a std is not positive")
    blocks = {key.split(".")[1] for key in weights.get("target_encoder", weights.get("encoder", {})) if "blocks." in key}
    if made["depth"] != len(blocks):  # and it costs nothing to say so before that many are made
        raise UserError(f"{what}: depth is {made['depth']}, the encoder has {len(blocks)} blocks")
    return Published(made, weights, step, classifier, str(content.get("task", "")), mean, sd)


def check(given: Any, needed: dict[str, type], what: str) -> dict[str, Any]:
    """The mapping as plain JSON; UserError where it lacks a key or holds another type."""
    try:
        given = json.loads(json.dumps(given, allow_nan=False))  # tuples become lists
        kinds = {key: type(given[key]) for key in needed if key in given}
    except (TypeError, ValueError):
        raise UserError(f"{what} is no mapping of plain values") from None
    for key, kind in needed.items():
        if key not in kinds:
            raise UserError(f"{what} has no {key!r}; it needs {', '.join(needed)}")
        if kinds[key] is not kind and (kind, kinds[key]) != (float, int):
            raise UserError(f"{what}: {key} must be {kind.__name__}, got {given[key]!r:.80}")
    return given


def renamed(path: Path, model: dict[str, Tensor], order: list[int]) -> dict[str, dict[str, Tensor]]:
    """part -> our name -> tensor, biases of a head folded; UserError where a name belongs to no part."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in model.items():
        part, _, rest = name.partition(".")
        if part not in PARTS or not rest:
            raise UserError(f"{path} holds {name!r:.80}; the parts of the published model are {', '.join(PARTS)}")
        for theirs, ours in RENAMED:
            rest = rest.replace(theirs, ours)
        if rest == "embed.weight" and value.ndim == 3:
            if value.shape[1] != len(order):
                raise UserError(f"{path}: {name} takes {value.shape[1]} leads, its config names {len(order)}")
            value = value[:, order].flatten(1)
        if rest in ("registers", "mask_token", "query"):
            value = value.flatten(0, -2) if rest == "registers" else value.flatten()
        rest = f"proj.{rest}" if part == "fc" else rest
        parts.setdefault("head" if part in ("attn_pool", "fc") else part, {})[rest] = value
    for part in ("encoder", "target_encoder"):
        if part in parts:  # no register is no tensor there, and an empty one here
            parts[part].setdefault("registers", torch.empty(0, parts[part].get("norm.weight", torch.empty(0)).numel()))
    if {"q.bias", "kv.bias", "query"} <= parts.get("head", {}).keys():
        parts["head"] = folded(parts["head"])
    return parts


def folded(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """An attentive head's weights whose only bias is proj.bias, and which gives the same logits.

    The query's bias goes into the query; that of the keys adds the same to every token's score, which the softmax
    does not see; that of the values adds the same to every pooled token, so to the logits.
    """
    width = head["query"].numel()
    values = head["proj.weight"] @ head["kv.bias"][width:]
    return {"query": head["q.weight"] @ head["query"] + head["q.bias"], "q.weight": torch.eye(width),
            "kv.weight": head["kv.weight"], "proj.weight": head["proj.weight"],
            "proj.bias": values + head.get("proj.bias", torch.zeros(()))}


def encoder_settings(made: dict[str, Any]) -> dict[str, Any]:
    """The `encoder` section of ours that a published config describes; what ours does not have by default comes last."""
    size = vit.Size(made["dim"], made["depth"], made["num_heads"])
    named = next((name for name, known in vit.SIZES.items() if known == size), str(size))
    unlike = {"bias": (made["bias"], False), "qkv_bias": (made["qkv_bias"], False),
              "mlp_ratio": (made["mlp_ratio"], vit.MLP_RATIO), "norm_eps": (made["norm_eps"], vit.NORM_EPS)}
    return {"size": named, "tokens": "time", "patch": made["patch_size"], "registers": made["num_registers"],
            "init": "trunc_normal", "dropout": float(made["dropout"]), "layer_scale": float(made["layer_scale_eps"]),
            **{key: value for key, (value, default) in unlike.items() if value != default}}


def encoder(made: dict[str, Any], weights: dict[str, Tensor], what: str) -> vit.Encoder:
    """The encoder of a published config with these weights of read()."""
    with torch.device("meta"):
        empty = vit.build(EncoderConfig.model_validate(encoder_settings(made)))
    checkpoint.fill_(empty, weights, what)
    return empty


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values."""
    found = hashlib.sha256()
    for key in sorted(tensors):
        found.update(f"{key} {tuple(tensors[key].shape)} ".encode() + tensors[key].float().contiguous().numpy().tobytes())
    return found.hexdigest()


def import_(path: Path, work: Path, name: str, saw: Sequence[Store] | None) -> tuple[str, str]:
    """Write the file's backbone as a finished pre-training, and its head as an evaluation; gives their run_ids ("": none).

    name: what tables call it. saw: the stores whose training folds it was pre-trained on, for the leak guard, or
    None where that is unknown: the run's config and every record of its evaluations then say so. The run_id is a
    function of the weights, their config, the name and these statements. The file may hold the EMA target encoder
    (evaluated, as published) or a classifier's encoder.
    """
    if not re.fullmatch(r"[\w.-]{1,60}", name, re.ASCII) or name in find_methods():
        raise UserError(f"--as {name!r:.80} must be letters, digits, '_', '.' or '-', and no method of the suite")
    given = read(path)
    part = "encoder" if given.classifier else "target_encoder"
    if part not in given.weights:
        raise unknown(f"content of {path}: it lacks", part, given.weights)
    backbone = encoder(given.config, given.weights[part], f"{path}, {part}").state_dict()
    made = run_config(given, digest(backbone), name, saw)
    run = run_id(made)
    rate_hz, samples = given.config["sampling_frequency"], given.config["channel_size"]
    folds = made["data"]["folds"]
    stores = {s.name: {k: s.manifest[k] for k in ("mean", "sd", "units", "fingerprint")} for s in saw or ()}
    if not stores and given.classifier:
        stores = {"preprocess": {"mean": given.mean, "sd": given.sd, "units": "mV", "fingerprint": ""}}
    seen = {s.name: {"source": s.manifest["source"], "version": s.manifest["version"],
                     "records": len(eligible(s, folds, samples))} for s in saw or ()}
    if saw is None:  # the file names corpora, not which of their records
        seen = {corpus: {"source": corpus, "version": UNKNOWN, "records": None} for corpus in given.config["datasets"]}
        seen = seen or {UNKNOWN: {"source": UNKNOWN, "version": UNKNOWN, "records": None}}
    head = head_of(given, path, made) if given.classifier else None
    name = run_id(EvaluationConfig.model_validate(head.meta["config"])) if head else ""
    folder = run_folder(work, run)
    with lock_file(folder / "lock", f"run {run}"):
        checkpoint.forget_partial(folder)
        write_text(folder / "config.json", json.dumps(made.to_json(), indent=1, sort_keys=True))
        marks = leak.seen(saw or (), folds, samples)
        checkpoint.save(folder / checkpoint_name(1), Checkpoint(
            {f"model/encoder.{k}": v for k, v in backbone.items()} | {f"seen/{k}": v for k, v in marks.items()},
            {"config": made.to_json(), "run_id": run, "leads": list(LEADS), "rate_hz": rate_hz, "stores": stores, "saw": seen,
             "step": given.step, "window": []}))
        if head:
            checkpoint.save(folder / "evaluations" / name / KEPT, head)
    return run, name


def run_config(given: Published, weights: str, name: str, saw: Sequence[Store] | None) -> PretrainConfig:
    """The config of an imported backbone: what its own config says, in our words, and that config itself."""
    made, base = given.config, read_yaml(BASE)
    for store in saw or ():
        if store.rate_hz != made["sampling_frequency"]:
            raise UserError(f"store {store.name} has {store.rate_hz} Hz, the backbone {made['sampling_frequency']} Hz; "
                            f"prepare the store at that rate")
    shares = {s.name: made["datasets"].get(s.manifest["source"]) for s in saw or ()}
    if not all(type(share) in (int, float) and share > 0 for share in shares.values()):  # not all named there: alike
        shares = dict.fromkeys(shares, 1.0)
    return PretrainConfig.model_validate({
        **base,
        "data": {**base["data"], "mix": {k: v / sum(shares.values()) for k, v in shares.items()},
                 "fingerprints": {s.name: s.fingerprint for s in saw or ()}, "rate_hz": made["sampling_frequency"],
                 "crop_seconds": made["channel_size"] / made["sampling_frequency"], "resampling": "periodic"},
        "encoder": encoder_settings(made), "optim": {**base["optim"], "steps": made["steps"], "batch": made["batch_size"], "warmup_steps": 0},
        "method": {"name": name, "imported": weights, "saw": UNKNOWN if saw is None else "stated", "step": given.step,
                   "config": made, "eval_config": given.classifier, "task": given.task}})


def head_of(given: Published, path: Path, made: PretrainConfig) -> Checkpoint:
    """The classifier's head as an evaluation keeps it (KEPT). Its classes are numbered: the file has no names.

    UserError where the head is of a kind that ours are not.
    """
    classifier = given.classifier
    assert classifier is not None
    kind = "attentive" if classifier["attn_pooling"] else "register"
    if classifier["use_register"] != bool(given.config["num_registers"]) or not (
            classifier["use_register"] or classifier["attn_pooling"]):
        raise UserError(f"{path}: a head with use_register {str(classifier['use_register']).lower()} on an encoder with "
                        f"{given.config['num_registers']} registers: one here sees the registers, and pools by attention if "
                        f"there are none")
    tensors = given.weights.get("head", {})
    with torch.device("meta"):
        apply.head(kind, vit.build(made["encoder"]), classifier["num_classes"], tensors, f"{path}, head")
    seconds = classifier.get("crop_duration") or made["data"]["crop_seconds"]
    name = "linear" if classifier["frozen"] else "finetune"
    value = load_defaults(name).value
    value["evaluation"] |= {"head": kind, "dropout": 0.0, "crop_seconds": seconds,
                            "stride_seconds": classifier.get("crop_stride") or seconds, "precision": "float32"}
    value |= {"pretrain": run_id(made), "task": given.task, "after": None, "imported": digest(tensors)}
    evaluation = EvaluationConfig.model_validate(value)
    return Checkpoint({f"head.{k}": v for k, v in tensors.items()}, {
        "config": evaluation.to_json(), "pretrain_config": made.to_json(), "classes": [str(i) for i in range(classifier["num_classes"])],
        "rate_hz": made["data"]["rate_hz"], "leads": list(LEADS), "units": "mV", "mean": given.mean, "sd": given.sd})
