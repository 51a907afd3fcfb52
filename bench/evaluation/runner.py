"""Evaluations: a backbone, a protocol, a task and a seed each -> predictions and a record; many of them at once."""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import lock_file, read_json, replace_file, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.models import canonical
from bench.data import leak
from bench.data.loader import Crops
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation import external as external_set
from bench.evaluation import finetune, frozen, heads, metrics, regression, tasks
from bench.evaluation.frozen import WEIGHTS, Visible
from bench.evaluation.tasks import Task
from bench.method import build_model
from bench.runs import results as record
from bench.runs.config import EvaluationConfig, PretrainConfig, run_id
from bench.runs.workspace import Workspace, checkpoint_name, run_folder
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint
from bench.training.metrics import peak_memory_mb

Weights = dict[str, Tensor]
KEPT = "weights.pt"  # in an evaluation's folder: its selected head, and its encoder where that was trained
TOGETHER = ("features", "precision", "crop_seconds", "stride_seconds")  # of `evaluation`: what the crops and tokens depend on


def seeds_of(protocol: str, learned: bool, seeds: Sequence[int]) -> Sequence[int]:
    """Those of the seeds that differ in anything: the neighbours of a backbone that has learned are always the same."""
    return seeds[:1] if protocol == "knn" and learned else seeds


def linear_of(config: EvaluationConfig) -> EvaluationConfig:
    """The config of the linear evaluation that a finetune-after-linear starts from: its name is a part of the other's."""
    assert config.after is not None
    return config.replace(evaluation=config.after, after=None)


def groups(configs: Sequence[EvaluationConfig]) -> list[list[EvaluationConfig]]:
    """What evaluate runs together: all heads on one frozen backbone that read the same crops; what fine-tunes is alone.

    In the order to run them: a finetune-after-linear comes after its linear evaluation.
    """
    found: dict[str, dict[str, EvaluationConfig]] = {}
    for config in configs:
        settings, name = config["evaluation"], run_id(config)
        shared = [config.pretrain, config.at, config.data.to_json(), config.external.to_json(), config.folds.train,
                  [getattr(settings, key) for key in TOGETHER]]
        found.setdefault(canonical(shared) if settings["frozen"] else name, {})[name] = config
    return sorted((list(group.values()) for group in found.values()), key=lambda group: not group[0]["evaluation"]["frozen"])


def evaluate(configs: Sequence[EvaluationConfig], store: Store, where: Workspace, external: Store | None = None) -> list[str]:
    """Run what the configs say, all on these stores, but for what has a record; gives their run_ids.

    Killed, the same call continues where it stood, and ends with the same weights, predictions and scores.
    """
    first = [linear_of(c) for c in configs if c["after"] and not record.exists(where.results, run_id(c))]
    for group in groups([*first, *configs]):
        if all(record.exists(where.results, run_id(c)) for c in group):
            continue
        record.check_writable(where.results)
        source = run_folder(where.work, group[0]["pretrain"]) / checkpoint_name(group[0]["at"])
        trained = load(source, group[0])
        seeds = sorted({c["seed"] for c in group})
        # nothing learned: the weights are drawn from the evaluation's seed, so that seeds are backbones
        for part in [[c for c in group if c["seed"] == s] for s in seeds] if trained.meta["step"] == 0 else [group]:
            together(part, trained, source.parent / "evaluations", store, external, where)
    return [run_id(c) for c in configs]


def has_learned(work: Path, run: str) -> bool:
    """Whether the pre-training takes steps; True where it is not known."""
    path = run_folder(work, run) / "config.json"
    return not path.is_file() or bool(read_json(path, f"run {run}")["optim"]["steps"])


def load(source: Path, config: EvaluationConfig) -> Checkpoint:
    """The backbone's checkpoint; UserError where there is none, or where the protocol does not go with it."""
    if not source.is_file():
        raise UserError(f"no finished pre-training {config['pretrain']!r}: {source} does not exist; "
                        f"`ecgssl pretrain` makes it" + ("" if config["at"] == 1 else ", with its share among the "
                                                           "checkpoints.at of its config"))
    trained = checkpoint.load(source)
    if not {"config", "step", "rate_hz"} <= set(trained.meta):
        raise UserError(f"{source} is no checkpoint of a pre-training; remove it and run the pre-training again")
    check_protocol(config, trained.meta["step"] > 0)
    return trained


def check_protocol(config: EvaluationConfig, learned: bool) -> None:
    """UserError where the protocol asks for a backbone that has learned something, or for one that has not."""
    name, run = config["evaluation"]["name"], config["pretrain"]
    if name == "scratch" and learned:
        raise UserError(f"scratch draws all weights anew: it goes with the pre-training `random`, {run} is none; write finetune")
    if not config["evaluation"]["frozen"] and name != "scratch" and not learned:
        raise UserError(f"{name} needs a backbone that has learned something, {run} is a `random` one; write scratch")


def together(configs: Sequence[EvaluationConfig], trained: Checkpoint, evaluations: Path, store: Store, external: Store | None,
             where: Workspace) -> None:
    """Run one group; records are written at its end, and what it keeps on the way is removed after the last of them."""
    names = {run_id(c): c for c in configs}
    key = "group-" + hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:12]
    folder = evaluations / (key if len(names) > 1 else next(iter(names)))
    with contextlib.ExitStack() as held:
        for name in sorted(names):
            held.enter_context(lock_file(evaluations / name / "lock", f"evaluation {name}"))
        wanted = [name for name in names if not record.exists(where.results, name)]
        for name in wanted:
            held.enter_context(record.reason_kept(evaluations / name))
        if not wanted:
            return
        checkpoint.remove_partial(folder, *(evaluations / name for name in wanted))
        state = saved_state(folder / "state.pt")
        if state and not set(wanted) <= set(state.meta["members"]):
            state = None
        members = [names[name] for name in (state.meta["members"] if state else wanted)]
        origin, about = record.provenance(where.device), trained.meta
        pretrained = PretrainConfig.model_validate(about["config"])
        read: dict[str, Task] = {}  # seeds and heads of one task share it
        opened = {}
        for c in members:
            about_data = canonical({k: v for k, v in c.to_json().items() if k not in ("seed", "after", "evaluation")})
            if about_data not in read:
                read[about_data] = open_task(c, pretrained, store, external)
                check_unseen({kind: trained.tensors[f"seen/{kind}"] for kind in leak.KINDS}, read[about_data], store)
            opened[run_id(c)] = read[about_data]
        for name in wanted:
            write_text(evaluations / name / "config.json", json.dumps(names[name].to_json(), indent=1, sort_keys=True))
        folder.mkdir(parents=True, exist_ok=True)
        if len(names) > 1:
            write_text(folder / "members.json", json.dumps(sorted(names)))
        began = time.monotonic()
        with watch_signals() as asked:
            for config, p_validation, p_test, result, weights in run(
                    members, opened, trained, store, state, folder, where, asked):
                name = run_id(config)
                if name not in wanted:
                    continue
                task = opened[name]
                keep(evaluations / name, task, store, p_validation, p_test, Checkpoint(weights, {
                    "config": config.to_json(), "pretrain_config": about["config"], "classes": task.classes,
                    "kind": task.kind, "moments": task.moments, "rate_hz": store.rate_hz, "mean": store.mean.tolist(),
                    "sd": store.sd.tolist(), **{key: store.manifest[key] for key in ("leads", "units")}}))
                record.write(where.results, {
                    "kind": "evaluate", "run_id": name, "config": config.to_json(), "pretrain_config": about["config"],
                    "saw": about["saw"], "provenance": origin, "result": {
                        **scores(task, p_validation, p_test), "task": task.facts,
                        "records": {part: len(getattr(task, part).rows) for part in ("train", "validation", "test")},
                        **result, "seconds": time.monotonic() - began, "together": len(members),
                        "peak_memory_mb": peak_memory_mb(where.device),
                        "normalisation": {"mean": store.mean.tolist(), "sd": store.sd.tolist(),
                                          "units": store.manifest["units"]}}})
                wanted.remove(name)
                if wanted and (signum := asked()):
                    raise Interrupted(signum, f"all but {len(wanted)} of {len(members)} evaluations")
        (folder / "state.pt").unlink(missing_ok=True)  # of knn there is none
        forget(evaluations, where)
        if signum := asked():
            raise Interrupted(signum, f"{len(members)} evaluations, which are complete")


def forget(evaluations: Path, where: Workspace) -> None:
    """Remove what groups kept on their way once all of their members have a record, also in groups that have changed."""
    for path in evaluations.glob("group-*/members.json"):
        with contextlib.suppress(OSError, ValueError):  # another process is there
            if all(record.exists(where.results, name) for name in json.loads(path.read_text())):
                shutil.rmtree(path.parent)


def backbone(trained: Checkpoint, seed: int, dropout: float) -> vit.Encoder:
    """The encoder that a finished pre-training yields.

    One of zero steps holds nothing learned: its weights are drawn from the evaluation's seed, so that the sd over
    seeds of a random backbone is over backbones.
    """
    config = PretrainConfig.model_validate(trained.meta["config"])
    encoder = vit.build(config.encoder.replace(dropout=dropout))
    if trained.meta["step"] == 0:
        return encoder
    model = build_model(config)  # the method knows which of its encoders is evaluated
    model.load_state_dict({k.removeprefix("model/"): v for k, v in trained.tensors.items() if k.startswith("model/")})
    encoder.load_state_dict(model.backbone().state_dict())
    return encoder


def open_task(config: EvaluationConfig, pretrained: PretrainConfig, store: Store, external: Store | None = None) -> Task:
    """The evaluation's task; UserError where it does not go with the store or with the pre-training's config."""
    settings, patch, rate_hz = config["evaluation"], pretrained["encoder"]["patch"], pretrained["data"]["rate_hz"]
    if rate_hz != store.rate_hz:
        raise UserError(f"store {store.name} has {store.rate_hz} Hz, the backbone was pre-trained at {rate_hz} Hz; "
                        f"prepare the store at that rate")
    if (config.data.store, config.data.fingerprint) != (store.name, store.fingerprint):
        raise UserError(f"the config is of store {config['data']['store']!r}, not of the {store.name} that was opened")
    samples = round(settings["crop_seconds"] * store.rate_hz)
    for key in ("crop_seconds", "stride_seconds"):
        if round(settings[key] * store.rate_hz) < 1:
            raise UserError(f"evaluation.{key} of {settings[key]} s is less than one sample at {store.rate_hz} Hz")
    if settings["head"] == "register" and not pretrained["encoder"]["registers"]:
        raise UserError(f"evaluation.head register needs a register token, the backbone has none "
                        f"({config['evaluation']['name']}); --set evaluation.head=attentive or mean")
    if samples % patch:
        raise UserError(f"evaluation.crop_seconds of {settings['crop_seconds']} s at {store.rate_hz} Hz does not "
                        f"divide into the backbone's patches of {patch} samples")
    if (config["external"]["fingerprint"], config["external"]["store"]) != (
            (external.fingerprint, external.name) if external else ("", "")):
        raise UserError(f"external.store is {config['external']['store']!r} in the config but not opened; write "
                        f"`ecgssl evaluate --external STORE`, it fills in the key")
    folds = config.folds.to_json() | ({"test": config.folds.validation} if external else {})  # its own stays unread
    task = tasks.load(store, config["task"], folds, empty_classes=config["empty_classes"], shortest=samples,
                      fraction=config["fraction"])
    if config["shuffle_labels"]:
        task = tasks.shuffled(task, config["shuffle_labels"])
    return external_set.load(task, config["task"], store, external, shortest=samples) if external else task


def check_unseen(seen: dict[str, Tensor], task: Task, store: Store) -> None:
    """UserError when pre-training saw a record, or a patient, of the validation or test folds, or of the external store."""
    if task.tested_on:
        leak.check(seen, store, task.validation.rows, "validation")
        leak.check(seen, task.tested_on, task.test.rows, "external test")
    else:
        leak.check(seen, store, np.concatenate([task.validation.rows, task.test.rows]), "validation and test")


def run(configs: Sequence[EvaluationConfig], opened: Mapping[str, Task], trained: Checkpoint, store: Store, state: Checkpoint | None,
        folder: Path, where: Workspace, asked: Callable[[], int]) -> Iterator[tuple[EvaluationConfig, np.ndarray, np.ndarray, dict[str, Any], Weights]]:
    """(config, validation and test probabilities (n, C), what the record says of the choice, chosen weights) of each.

    What trains and chooses is given each task without its test fold, whose records are read only after it has ended.
    """
    settings, seed, device = configs[0]["evaluation"], configs[0]["seed"], where.device
    samples, stride = (round(settings[k] * store.rate_hz) for k in ("crop_seconds", "stride_seconds"))
    optim.warn_if_slow(device, settings["precision"])
    torch.manual_seed(optim.derive(seed, WEIGHTS))
    encoder, crops = backbone(trained, seed, settings["dropout"]).to(device), Crops(store, samples, device)
    tested_on = next(iter(opened.values())).tested_on
    test_crops = Crops(tested_on, samples, device) if tested_on else crops
    visible = {name: Visible(task.kind, task.classes, task.train, task.validation, task.moments)
               for name, task in opened.items()}
    if not settings["frozen"]:
        (config,), (task,), (seen,) = configs, opened.values(), visible.values()
        torch.manual_seed(optim.derive(seed, WEIGHTS, 1))
        model = heads.Classifier(encoder, heads.build(settings["head"], encoder, len(task.classes)), False).to(device)
        if config["after"]:
            model.head.load_state_dict(linear_weights(linear_of(config), folder.parent, where))
        result = finetune.fit(config, seen, model, crops, stride, state, folder, where, asked)
        p_validation, p_test = (finetune.predict(model, seen, split.rows, of, stride, settings)
                                for split, of in ((task.validation, crops), (task.test, test_crops)))
        yield config, p_validation, p_test, result, model.state_dict()
        return
    rows = np.flatnonzero(np.isin(store.index["fold"], configs[0]["folds"]["train"]) & (store.index["length"] >= samples))
    reader = frozen.Reader(encoder, crops, stride, settings, folder, asked)
    lost: list[str] = []
    outcomes = frozen.fit(configs, visible, reader, rows, state, folder, where)
    reader.crops = test_crops
    test = reader.keep(frozen.union(task.test for task in opened.values()), "test crops")
    for outcome in outcomes:
        p_tests = outcome.predict(test, opened[run_id(outcome.configs[0])].test.rows)
        for s, config in enumerate(outcome.configs):
            if outcome.lost[s]:
                lost.append(outcome.lost[s])
                continue
            weights = {f"head.{k}": v for k, v in outcome.weights[s].items()}
            yield config, outcome.p_validation[s], p_tests[s], outcome.results[s], weights
    if lost:  # the others have their records
        raise UserError("; ".join(lost))


def linear_weights(config: EvaluationConfig, evaluations: Path, where: Workspace) -> Weights:
    """The head that a linear evaluation chose."""
    name = run_id(config)
    path = evaluations / name / KEPT
    if not path.is_file():
        raise UserError(f"{path} is missing, though the linear evaluation {name} has a record; remove "
                        f"{record.path(where.results, name)} to run it again")
    return {k.removeprefix("head."): v for k, v in checkpoint.load(path).tensors.items()}


def keep(folder: Path, task: Task, store: Store, p_validation: np.ndarray, p_test: np.ndarray, weights: Checkpoint) -> None:
    """Write predictions.npz and, where something has trained, weights.pt: the chosen head, the encoder if that trained, and
    what makes crops of a signal."""
    arrays: dict[str, Any] = {"classes": np.array(task.classes), "scored": np.array(task.scored)}
    for part, split, p, of in (("validation", task.validation, p_validation, store),
                               ("test", task.test, p_test[:, task.columns], task.tested_on or store)):
        arrays |= {f"y_{part}": split.labels if task.kind == "regression" else split.labels.astype(np.uint8),
                   f"p_{part}": p, f"record_id_{part}": of.records.record_id.to_numpy(str)[split.rows]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    if weights.tensors:
        checkpoint.save(folder / KEPT, weights)
    with replace_file(folder / "predictions.npz") as f:
        f.write(buffer.getvalue())


def scores(task: Task, p_validation: np.ndarray, p_test: np.ndarray) -> dict[str, Any]:
    """The score fields of a record's result, from predictions (n, C) of all classes."""
    if task.kind == "regression":
        return regression.summary(task.test.labels, p_test)
    y_validation, p_validation, p_test = (a[:, task.columns] for a in (task.validation.labels, p_validation, p_test))
    return {"metric": "macro_auroc", **metrics.summary(task.scored, y_validation, p_validation, task.test.labels, p_test)}


def saved_state(path: Path) -> Checkpoint | None:
    """Where an interrupted evaluation stood; None when there is nothing that can be read."""
    if not path.is_file():
        return None
    try:
        return checkpoint.load(path)
    except UserError as error:
        print(f"{error}; starting again", file=sys.stderr)
        path.unlink()
        return None
