"""One evaluation: a backbone, a protocol, a task, a seed -> predictions and a record."""

import copy
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import checkpoint, optim, progress, record, vit
from bench.checkpoint import Checkpoint
from bench.config import Config, merge, override, read_yaml, run_id
from bench.data import leak
from bench.data.loader import Crops
from bench.data.store import Store
from bench.errors import UserError, unknown
from bench.evaluation import heads, metrics, tasks
from bench.evaluation.tasks import Split, Task
from bench.files import locked, replacing, write_text
from bench.interrupt import Interrupted, watched
from bench.pretrain import Where, build, folder_of, kept_name, peak_memory_mb

WEIGHTS, ORDER, CROPS, DROPOUT = range(100, 104)  # streams of random numbers drawn from one seed


def protocols() -> list[str]:
    return [k for k in read_yaml(Path(__file__).parent / "protocols.yaml") if k != "shared"]


def config_for(protocol: str, task: str, pretrain: str, store: Store, seed: int = 0,
               overrides: Iterable[str | tuple[str, Any]] = ()) -> Config:
    """The config of an evaluation; overrides as in bench.config."""
    known = read_yaml(Path(__file__).parent / "protocols.yaml")
    if protocol not in protocols():
        raise unknown("protocol", protocol, protocols())
    config = merge(merge(known["shared"], known[protocol]), {
        "seed": seed, "pretrain": pretrain, "task": task,
        "data": {"store": store.name, "fingerprint": store.fingerprint}})
    config = override(config, overrides)
    settings = config["evaluation"]
    folds = config["folds"]
    if not set(folds["test"]).isdisjoint([*folds["train"], *folds["validation"]]):
        raise UserError("folds.test overlaps folds.train or folds.validation: the test fold must be unseen")
    if not 0 < config["at"] <= 1:
        raise UserError(f"at must be a share of the pre-training's steps, above 0 and up to 1, got {config['at']}")
    if config["seed"] < 0:
        raise UserError(f"seed must be 0 or more, got {config['seed']}")
    for key, holds, needed in (
            ("steps", settings["steps"] >= 1, "1 or more"), ("batch", settings["batch"] >= 1, "1 or more"),
            ("betas", len(settings["betas"]) == 2 and all(0 <= b < 1 for b in settings["betas"]),
             "two numbers in [0, 1)"),
            ("clip", settings["clip"] >= 0, "0 (no clipping) or more"),
            ("dropout", 0 <= settings["dropout"] < 1, "in [0, 1)"),
            ("validate_every", 1 <= settings["validate_every"] <= settings["steps"],
             f"between 1 and evaluation.steps ({settings['steps']})"),
            ("patience", settings["patience"] >= settings["validate_every"],
             f"evaluation.validate_every ({settings['validate_every']}) or more"),
            ("warmup_steps", 0 <= settings["warmup_steps"] < settings["steps"],
             f"less than evaluation.steps ({settings['steps']})"),
            ("stride_seconds", settings["stride_seconds"] > 0, "positive"),
            ("crop_seconds", settings["crop_seconds"] > 0, "positive"),
            ("average", settings["average"] in ("logits", "probabilities"), "logits or probabilities"),
            ("precision", settings["precision"] in ("float32", "bfloat16"), "float32 or bfloat16")):
        if not holds:
            raise UserError(f"evaluation.{key} must be {needed}, got {settings[key]!r}")
    return config


def evaluate(config: Config, store: Store, where: Where) -> str:
    """Run what config says unless it has a record; gives its run_id. A killed evaluation continues where it stood."""
    name = run_id(config)
    if record.exists(where.results, name):
        return name
    record.check_writable(where.results)
    source = folder_of(where.work, config["pretrain"]) / kept_name(config["at"])
    if not source.is_file():
        raise UserError(f"no finished pre-training {config['pretrain']!r}: {source} does not exist; "
                        f"`ecgbench pretrain` makes it" + ("" if config["at"] == 1 else ", with its share among the "
                                                           "checkpoints.at of its config"))
    folder = source.parent / "evaluations" / name
    with locked(folder / "lock", f"evaluation {name}"), record.reason_kept(folder):
        if record.exists(where.results, name):
            return name
        checkpoint.forget_partial(folder)
        origin = record.provenance(where.device)
        trained = checkpoint.load(source)
        if not {"config", "step", "rate_hz"} <= set(trained.meta):
            raise UserError(f"{source} is no checkpoint of a pre-training; remove it and run the pre-training again")
        write_text(folder / "config.json", json.dumps(config, indent=1, sort_keys=True))
        result = run(config, trained, store, folder, where)
        record.write(where.results, {
            "kind": "evaluate", "run_id": name, "config": config, "pretrain_config": trained.meta["config"],
            "saw": trained.meta["saw"], "result": result, "provenance": origin})
        (folder / "state.pt").unlink(missing_ok=True)
    return name


def backbone(trained: Checkpoint, seed: int, dropout: float) -> vit.Encoder:
    """The encoder that a finished pre-training yields.

    One of zero steps holds nothing learned: its weights are drawn from the evaluation's seed, so that the sd over
    seeds of a random backbone is over backbones.
    """
    config = trained.meta["config"]
    encoder = vit.build({**config["encoder"], "dropout": dropout})
    if trained.meta["step"] == 0:
        return encoder
    model = build(config)  # the method knows which of its encoders is evaluated
    model.load_state_dict({k.removeprefix("model/"): v for k, v in trained.tensors.items() if k.startswith("model/")})
    encoder.load_state_dict(model.backbone().state_dict())
    return encoder


def open_task(config: Config, pretrained: Config, store: Store) -> Task:
    """The evaluation's task; UserError where it does not go with the store or with the pre-training's config."""
    settings, patch, rate_hz = config["evaluation"], pretrained["encoder"]["patch"], pretrained["data"]["rate_hz"]
    if rate_hz != store.rate_hz:
        raise UserError(f"store {store.name} has {store.rate_hz} Hz, the backbone was pre-trained at {rate_hz} Hz; "
                        f"prepare the store at that rate")
    samples = round(settings["crop_seconds"] * store.rate_hz)
    if samples % patch:
        raise UserError(f"evaluation.crop_seconds of {settings['crop_seconds']} s at {store.rate_hz} Hz does not "
                        f"divide into the backbone's patches of {patch} samples")
    if settings["head"] not in heads.HEADS:
        raise unknown("evaluation.head", settings["head"], heads.HEADS)
    return tasks.load(store, config["task"], config["folds"], empty_classes=config["empty_classes"], shortest=samples)


def check_unseen(seen: dict[str, Tensor], task: Task, store: Store) -> None:
    """UserError when pre-training saw a record, or a patient, of the validation or test folds."""
    leak.check(seen, store, np.concatenate([task.validation.rows, task.test.rows]), "validation and test")


def run(config: Config, trained: Checkpoint, store: Store, folder: Path, where: Where) -> dict[str, Any]:
    """Train, select on the validation folds, test once; keeps predictions.npz and gives the record's result."""
    settings, device, seed = config["evaluation"], where.device, config["seed"]
    task = open_task(config, trained.meta["config"], store)
    check_unseen({kind: trained.tensors[f"seen/{kind}"] for kind in leak.KINDS}, task, store)
    samples, stride = (round(settings[k] * store.rate_hz) for k in ("crop_seconds", "stride_seconds"))
    optim.warn_if_slow(device, settings["precision"])
    torch.manual_seed(optim.derive(seed, WEIGHTS))
    encoder = backbone(trained, seed, settings["dropout"])
    torch.manual_seed(optim.derive(seed, WEIGHTS, 1))
    head = heads.build(settings["head"], encoder, len(task.classes))
    model = heads.Classifier(encoder, head, settings["frozen"]).to(device)
    crops = Crops(store, samples, device)

    began = time.monotonic()
    best = fit(model, task, crops, stride, config, folder, where)
    seconds = time.monotonic() - began
    predictions: dict[str, Any] = {}
    for part, split in (("validation", task.validation), ("test", task.test)):
        predictions[f"y_{part}"] = split.labels.astype(np.uint8)
        predictions[f"p_{part}"] = predict(model, fixed_crops(crops, split, stride), settings, len(split.rows))
        predictions[f"record_id_{part}"] = store.records.record_id.to_numpy(str)[split.rows]
    buffer = io.BytesIO()
    np.savez(buffer, classes=np.array(task.classes), **predictions)
    with replacing(folder / "predictions.npz") as f:
        f.write(buffer.getvalue())
    keep_weights(folder / "weights.pt", model, config, trained, task, store)
    return {
        **metrics.summary(task.classes, *(predictions[f"{k}_{part}"] for part in ("validation", "test") for k in "yp")),
        "records": {part: len(getattr(task, part).rows) for part in ("train", "validation", "test")},
        "validation_macro_auroc": best["validation_macro_auroc"], "best_step": best["step"], "steps": best["taken"],
        "curve": best["curve"], "seconds": seconds, "peak_memory_mb": peak_memory_mb(device),
        "normalisation": {"mean": store.mean.tolist(), "sd": store.sd.tolist(), "units": store.manifest["units"]},
    }


def keep_weights(path: Path, model: heads.Classifier, config: Config, trained: Checkpoint, task: Task, store: Store) -> None:
    """Write what `ecgbench predict` needs of a classifier: the selected head, and its encoder where that was trained."""
    tensors = {k: v for k, v in model.state_dict().items() if k.startswith("head.") or not model.frozen}
    checkpoint.save(path, Checkpoint(tensors, {
        "config": config, "pretrain_config": trained.meta["config"], "classes": task.classes, "rate_hz": store.rate_hz,
        "leads": store.manifest["leads"], "units": store.manifest["units"], "mean": store.mean.tolist(),
        "sd": store.sd.tolist()}))


def fit(model: heads.Classifier, task: Task, crops: Crops, stride: int, config: Config, folder: Path,
        where: Where) -> dict[str, Any]:
    """Train the classifier and leave the weights with the best validation macro AUROC in it.

    The test split is not touched here.
    """
    settings, seed = config["evaluation"], config["seed"]
    module: torch.nn.Module = model.head if model.frozen else model  # what trains, and what is saved
    optimiser = optim.adamw(module, settings)
    taken, best = 0, {"step": 0, "validation_macro_auroc": -1.0}
    curve: dict[str, list] = {"step": [], "loss": [], "validation_macro_auroc": []}
    window: list[float] = []
    kept = copy.deepcopy(module.state_dict())
    state = saved_state(folder / "state.pt")
    if state:
        checkpoint.restore_(module, optimiser, state.tensors)
        kept = {k.removeprefix("best/"): v for k, v in state.tensors.items() if k.startswith("best/")}
        taken, best, curve, window = (state.meta[k] for k in ("taken", "best", "curve", "window"))

    def save() -> None:
        tensors = checkpoint.flatten(module, optimiser) | {f"best/{k}": v for k, v in kept.items()}
        checkpoint.save(folder / "state.pt", Checkpoint(
            tensors, {"taken": taken, "best": best, "curve": curve, "window": window}))

    batch = min(settings["batch"], len(task.train.rows))
    labels = torch.from_numpy(task.train.labels)
    validation = list(fixed_crops(crops, task.validation, stride))
    if model.frozen:  # a frozen encoder gives the same tokens every time: encode the validation crops once
        with torch.no_grad(), optim.autocast(where.device, settings["precision"]):
            model.eval()
            validation = [(model.tokens(x), owner) for x, owner in validation]
    title = f"{config['evaluation']['name']} {config['task']} {run_id(config)}"
    saved_at = time.monotonic()
    with watched() as asked, progress.bar(title, settings["steps"], taken) as bar:
        while taken < settings["steps"] and taken - best["step"] < settings["patience"]:
            optim.schedule_(optimiser, taken, settings)
            torch.manual_seed(optim.derive(seed, DROPOUT, taken))
            model.train()
            rows, start = draw(task.train, crops, seed, taken, batch)
            x = crops.normalise(crops.raw(torch.from_numpy(task.train.rows[rows]), torch.from_numpy(start)))
            y = labels[rows].to(where.device)
            with optim.autocast(where.device, settings["precision"]):
                loss = F.binary_cross_entropy_with_logits(model(x).float(), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if settings["clip"]:
                torch.nn.utils.clip_grad_norm_(module.parameters(), settings["clip"])
            optimiser.step()
            taken += 1
            window.append(loss.item())
            if not np.isfinite(window[-1]):
                raise UserError(f"the loss of step {taken - 1} is {window[-1]}: evaluation stopped; lower "
                                f"evaluation.lr")
            if taken % settings["validate_every"] == 0 or taken == settings["steps"]:
                p = predict(model, validation, settings, len(task.validation.rows), encoded=model.frozen)
                value = float(metrics.auroc(task.validation.labels.astype(np.int64), p).mean())
                curve["step"].append(taken)
                curve["loss"].append(sum(window) / len(window))
                curve["validation_macro_auroc"].append(value)
                window.clear()
                if value > best["validation_macro_auroc"]:
                    best = {"step": taken, "validation_macro_auroc": value}
                    kept = copy.deepcopy(module.state_dict())
                bar(taken, f"validation {value:.4f}, best {best['validation_macro_auroc']:.4f}")
            signum = asked()
            if signum or time.monotonic() - saved_at > 60 * where.save_minutes:
                save()
                saved_at = time.monotonic()
                if signum:
                    raise Interrupted(signum, f"evaluation {run_id(config)} at step {taken} of {settings['steps']}")
    module.load_state_dict(kept)
    return {**best, "taken": taken, "curve": curve}


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


def draw(split: Split, crops: Crops, seed: int, step: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the split and starts of their crops, (B,) each: shuffled epochs, a pure function of (seed, step)."""
    epoch, position = divmod(step, len(split.rows) // batch)
    order = np.random.default_rng((seed, ORDER, epoch)).permutation(len(split.rows))
    rows = order[position * batch: (position + 1) * batch]
    room = crops.length[split.rows[rows]].numpy() - crops.samples + 1
    u = np.random.default_rng((seed, CROPS, step)).random(batch)
    return rows, (u * room).astype(np.int64)


def fixed_crops(crops: Crops, split: Split, stride: int, records: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """(crops, which record of the split each belongs to), `records` records at a time, crops at every stride."""
    samples = crops.samples
    for first in range(0, len(split.rows), records):
        rows = split.rows[first: first + records]
        starts = [np.arange(0, length - samples + 1, stride) for length in crops.length[rows].tolist()]
        owner = np.repeat(np.arange(len(rows)), [len(s) for s in starts])
        raw = crops.raw(torch.from_numpy(rows[owner]), torch.from_numpy(np.concatenate(starts)))
        yield crops.normalise(raw), torch.from_numpy(owner + first)


@torch.no_grad()
def predict(model: heads.Classifier, batches: Iterable[tuple[Tensor, Tensor]], settings: dict[str, Any], n: int,
            encoded: bool = False) -> np.ndarray:
    """(n, C) probabilities of a split's records, the mean over their crops of what settings["average"] says."""
    model.eval()
    total, count = None, torch.zeros(n, 1, dtype=torch.float64)
    for x, owner in batches:
        with optim.autocast(x.device, settings["precision"]):
            logits = (model.head(x) if encoded else model(x)).double().cpu()
        values = logits if settings["average"] == "logits" else logits.sigmoid()
        total = torch.zeros(n, values.shape[1], dtype=torch.float64) if total is None else total
        total.index_add_(0, owner, values)
        count.index_add_(0, owner, torch.ones(len(owner), 1, dtype=torch.float64))
    assert total is not None
    mean = total / count
    return (mean.sigmoid() if settings["average"] == "logits" else mean).numpy()
