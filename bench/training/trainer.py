"""The one training loop: from a config and stores to a checkpoint and a record."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import method
from bench.core import memory, progress
from bench.core.energy import Meter
from bench.core.errors import UserError, unknown
from bench.core.files import lock_file, read_json, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.processes import ALONE, World
from bench.core.rng import Rng
from bench.data import leak, views
from bench.data.loader import Loader
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation.diagnostics import rankme
from bench.runs import results as record
from bench.runs.config import PretrainConfig, run_id
from bench.runs.workspace import Workspace, checkpoint_name, run_folder
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint

LOG_POINTS = 200  # lines of metrics in a run, whatever its length; ours
MONITOR_POINTS = 20  # how often collapse is looked for; ours
MONITOR_BATCH = 256  # records of the fixed batch that it is looked for on; ours
WATTS = {"cpu": "cpu_watts", "gpu": "gpu_watts"}  # part of a Meter -> its key in the metrics
WEIGHTS, DROPOUT, DATA, MASKS, HOST, VIEWS, MONITOR = range(7)  # streams of random numbers drawn from one seed


def pretrain(config: PretrainConfig, stores: Sequence[Store], where: Workspace, world: World = ALONE) -> str:
    """Run what config says unless it has a record; gives its run_id. A killed run continues where it stood.

    Several processes that call this with their World train one model together; the first of them writes.
    """
    config = fill_fingerprints(config, {store.name: store for store in stores})
    name = run_id(config)
    folder = run_folder(where.work, name)
    if not world.first:
        if world.broadcast():
            train(config, stores, folder, where, world)
        return name
    if record.exists(where.results, name):
        world.broadcast(False)
        return name
    record.check_writable(where.results)
    try:
        with lock_file(folder / "lock", f"run {name}"), record.reason_kept(folder):
            if world.broadcast(not record.exists(where.results, name)):
                checkpoint.forget_partial(folder, folder / "checkpoints")
                origin = record.provenance(where.device)
                write_text(folder / "config.json", json.dumps(config.to_json(), indent=1, sort_keys=True))
                result = train(config, stores, folder, where, world)
                record.write(where.results, {"kind": "pretrain", "run_id": name, "config": config.to_json(), "result": result,
                                             "provenance": {**origin, "processes": world.size}})
    except PermissionError as error:
        raise UserError(f"cannot write into {where.work} ({error.strerror}: {error.filename})") from None
    return name


def fill_fingerprints(config: PretrainConfig, stores: Mapping[str, Store]) -> PretrainConfig:
    """The config with the fingerprints of its stores; UserError where a store is not the one that the config speaks of."""
    data = config.data
    for name in data.mix:
        store, manifest = stores[name], stores[name].manifest
        if store.rate_hz != data.rate_hz:
            raise UserError(f"store {name} has {store.rate_hz} Hz, data.rate_hz is {data.rate_hz}; "
                            f"set data.rate_hz or prepare the store at that rate")
        if manifest["resampled"] and manifest["resampling"] != data.resampling:
            raise UserError(f"store {name} was resampled by {manifest['resampling']}, data.resampling is "
                            f"{data.resampling}; set it, or prepare the store with --resampling {data.resampling}")
        if data.fingerprints.get(name, store.fingerprint) != store.fingerprint:
            raise UserError(f"store {name} has changed: its fingerprint is {store.fingerprint}, the config says "
                            f"{data.fingerprints[name]}; load the config anew, or bring the store back")
    fingerprints = {name: stores[name].fingerprint for name in sorted(data.mix)}
    return config.replace(data=data.replace(fingerprints=fingerprints))


def build(config: PretrainConfig) -> method.Method:
    """The method around its encoder, with the initial weights that the config's seed gives."""
    torch.manual_seed(optim.derive(config["seed"], WEIGHTS))
    return method.build(config["method"], vit.build(config["encoder"]))


def train(config: PretrainConfig, stores: Sequence[Store], folder: Path, where: Workspace, world: World) -> dict[str, Any]:
    """Train to the last step and save final.pt; gives the record's result."""
    seed, settings, data, device = config["seed"], config["optim"], config["data"], where.device
    stores = sorted(stores, key=lambda store: store.name)  # the config's name does not know their order
    total, batch_size, patch = settings["steps"], settings["batch"], config["encoder"]["patch"]
    rate_hz = data["rate_hz"]
    rows = micro_batches(config, world)
    optim.warn_if_slow(device, settings["precision"])
    if device.type == "cpu":
        memory.keep()
    views.check(config["views"], rate_hz, data["crop_seconds"], patch)
    loader = Loader(stores, [data["mix"][s.name] for s in stores], folds=data["folds"],
                    seconds=data["crop_seconds"], batch=batch_size, device=device, place=where.place,
                    seed=optim.derive(seed, DATA), rank=world.rank, world=world.size)
    model = build(config).to(device).train()
    optimiser = optim.adamw(model, settings)
    window: list[float] = []  # losses since the last line of metrics
    taken = resume_(folder, model, optimiser, window, world)
    if settings["compile"]:
        for part in model.children():
            part.compile()

    parameters = [p for p in model.parameters() if p.requires_grad]
    gather = world.gather if len(rows) == 1 else refuse
    keep_at = {math.ceil(share * total): share for share in config["checkpoints"]["at"]}

    metrics = Metrics(folder / "metrics.jsonl").cut(taken) if world.first else None
    log_every, look_every = max(1, total // LOG_POINTS), max(1, total // MONITOR_POINTS)
    fixed = None
    if total and metrics:
        fixed = Loader(stores, loader.weights.tolist(), folds=data["folds"], seconds=data["crop_seconds"], seed=seed,
                       batch=MONITOR_BATCH, device=device, place="host").batch_at(MONITOR)
        if not taken:
            metrics.write(step=0, **collapse(model, fixed))
    meta = {"config": config.to_json(), "run_id": run_id(config), "leads": list(LEADS), "rate_hz": rate_hz,
            "stores": {s.name: {k: s.manifest[k] for k in ("mean", "sd", "units", "fingerprint")} for s in stores},
            "saw": saw(stores, loader, total)}

    def save(path: Path, resumable: bool = True, evaluated: bool = False) -> None:
        tensors = checkpoint.flatten(model, optimiser if resumable else None)
        if evaluated:
            marks = leak.seen(stores if total else [], data["folds"], loader.samples)
            tensors |= {f"seen/{kind}": mark for kind, mark in marks.items()}
        if not all(bool(t.isfinite().all()) for t in tensors.values()):  # a loss would say so one step too late
            raise diverged(f"step {taken - 1} left weights that are not finite", folder)
        if world.first:
            checkpoint.save(path, Checkpoint(tensors, {**meta, "step": taken, "window": window}))

    pending: list[Tensor] = []  # losses not yet read from the device
    meter = Meter(device, packages=world.local == 0)
    saved_at = began = time.monotonic()
    signum, since = 0, taken  # the step at `began`; the window may hold steps of before a kill
    title = f"pretrain {config['method']['name']} {run_id(config)}"
    with watch_signals() as asked, progress.bar(title, total, taken) if world.first else nullcontext(silent) as bar:
        for batch in loader.batches(taken, total):
            lr = optim.schedule_(optimiser, taken, settings)
            torch.manual_seed(optim.derive(seed, DROPOUT, taken))
            patients = loader.patients(taken).to(device, non_blocking=True)
            seen = views.make(batch, config["views"], rate_hz,
                              Rng(generator(device, seed, VIEWS, taken), batch_size, loader.part))
            optimiser.zero_grad(set_to_none=True)
            losses = []
            for own in rows:  # of the whole batch
                here = slice(own.start - loader.part.start, own.stop - loader.part.start)  # of this process's part
                now = step_at(seed, taken, total, device, batch_size, own, patients[here], gather)
                with optim.autocast(device, settings["precision"]):
                    loss, scalars = model([v[here] for v in seen], now)
                (loss / len(rows)).backward()
                losses.append(loss.detach())
            world.mean_([p.grad for p in parameters if p.grad is not None])
            taken += 1
            log, look = taken % log_every == 0 or taken == total, taken % look_every == 0 or taken == total
            if log or settings["clip"]:
                norm = torch.nn.utils.clip_grad_norm_(parameters, settings["clip"] or math.inf)
            optimiser.step()
            model.after_step(step_at(seed, taken, total, device, batch_size))
            pending.append(torch.stack(losses).mean())
            meter.look()

            time_to_save = taken % where.save_steps == 0 or time.monotonic() - saved_at > 60 * where.save_minutes
            signum, due = divmod(world.largest(2 * asked() + time_to_save), 2)  # of any process
            if not (log or look or due or signum or taken in keep_at):
                continue
            window += finite(pending, taken, folder, world)
            if log:
                spent = (time.monotonic() - began) / (taken - since) * len(window)
                drawn = watts(meter, time.monotonic() - began, world)
                began, since = time.monotonic(), taken
                told = {k: v.float().to(device) for k, v in scalars.items()}
                world.mean_(list(told.values()))
                if metrics:
                    metrics.write(step=taken, loss=sum(window) / len(window), lr=lr, gradient_norm=norm.item(),
                                  seconds=spent, records_per_second=len(window) * batch_size / spent,
                                  seconds_left=spent / len(window) * (total - taken), memory_mb=peak_memory_mb(device),
                                  **drawn, **{k: v.item() for k, v in told.items()})
                bar(taken, f"loss {sum(window) / len(window):.4f}")
                window.clear()
            if look and metrics:
                metrics.write(step=taken, **collapse(model, fixed))
            if taken == total:
                save(folder / "final.pt", evaluated=True)
            else:
                if taken in keep_at:
                    save(folder / checkpoint_name(keep_at[taken]), resumable=False, evaluated=True)
                if due or signum:
                    save(folder / "checkpoints" / f"step-{taken:08d}.pt")
                    if world.first:
                        prune(folder / "checkpoints", where.keep)
                    saved_at = time.monotonic()
            if signum:
                break
        if signum:
            raise Interrupted(signum, f"run {run_id(config)} at step {taken} of {total}")
    if not total and not (folder / "final.pt").is_file():
        save(folder / "final.pt", evaluated=True)
    if not metrics:
        return {}
    lines = metrics.read()
    trained, looks = [m for m in lines if "loss" in m], [m for m in lines if "rankme" in m]
    seconds = sum(m["seconds"] for m in trained)
    energy = {part: sum(m[key] * m["seconds"] for m in trained) for part, key in WATTS.items() if all(key in m for m in trained)}
    return {
        "steps": total, "records": total * settings["batch"], "seconds": seconds,
        "records_per_second": total * settings["batch"] / seconds if seconds else 0.0,
        "parameters": {"backbone": count(model.backbone()), "trained": count(model, trained=True)},
        "peak_memory_mb": peak_memory_mb(device),
        "curves": columns(trained), "monitor": columns(looks), "saw": meta["saw"],
        **({"energy_joules": energy} if seconds and energy else {}),
    }


def watts(meter: Meter, seconds: float, world: World) -> dict[str, float]:
    """Power drawn by all processes' machines and devices since the meter was last asked; without what one of them cannot read."""
    used = meter.used()
    joules = torch.tensor([used.get(part, math.nan) for part in WATTS], dtype=torch.float64)
    world.mean_([joules])
    drawn = zip(WATTS.values(), (joules * world.size / max(seconds, 1e-9)).tolist(), strict=True)
    return {key: value for key, value in drawn if math.isfinite(value)}


def saw(stores: Sequence[Store], loader: Loader, steps: int) -> dict[str, Any]:
    """Which corpora a backbone has seen: store -> its source, version and number of records drawn from."""
    return {s.name: {"source": s.manifest["source"], "version": s.manifest["version"], "records": len(rows)}
            for s, rows in zip(stores, loader.eligible, strict=True) if steps}


def generator(device: torch.device, *numbers: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(optim.derive(*numbers))


def step_at(seed: int, taken: int, total: int, device: torch.device, batch: int, rows: slice = slice(None),
            patients: Tensor | None = None, gather: Callable[[Tensor], Tensor] = lambda x: x) -> method.Step:
    """The Step after `taken` optimiser steps, for these rows of the batch: a method's random numbers are its."""
    return method.Step(taken, total, Rng(generator(device, seed, MASKS, taken), batch, rows),
                       generator(torch.device("cpu"), seed, HOST, taken), patients, gather)


def micro_batches(config: PretrainConfig, world: World) -> list[slice]:
    """The rows of the whole batch that each forward of this process sees."""
    batch, accumulate = config["optim"]["batch"], config["optim"]["accumulate"]
    if batch % (world.size * accumulate):
        raise UserError(f"optim.batch {batch} does not divide into optim.accumulate {accumulate} parts on each of "
                        f"{world.size} processes")
    if config["encoder"]["dropout"] and accumulate * world.size > 1:
        raise UserError("encoder.dropout is drawn for a whole batch: it needs one process and optim.accumulate 1")
    size = batch // (world.size * accumulate)
    first = world.rank * accumulate
    return [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]


def refuse(x: Tensor) -> Tensor:
    raise UserError("this method's loss compares the records of a whole batch: optim.accumulate must be 1; use a "
                    "smaller optim.batch, or more processes")


def silent(*_: Any) -> None:
    pass


def resume_(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, window: list[float],
            world: World) -> int:
    """Load the newest checkpoint that can be read, in place; gives the steps it had taken (0: none)."""
    path = world.broadcast(newest(folder) if world.first else None)
    if path is None:
        return 0
    state = checkpoint.load(path)
    checkpoint.restore_(model, optimiser, state.tensors)
    window += state.meta["window"]
    return state.meta["step"]


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; those that cannot are removed."""
    for path in [folder / "final.pt", *sorted((folder / "checkpoints").glob("step-*.pt"), reverse=True)]:
        if not path.is_file():
            continue
        try:
            checkpoint.load(path)
        except UserError as error:
            print(f"{error}; going back to the one before", file=sys.stderr)
            path.unlink()
            continue
        return path
    return None


def prune(folder: Path, keep: int) -> None:
    for path in sorted(folder.glob("step-*.pt"))[:-keep]:
        path.unlink()


def finite(pending: list[Tensor], taken: int, folder: Path, world: World) -> list[float]:
    """The pending losses as numbers; a UserError names the first step whose loss is none."""
    together = torch.stack(pending)
    world.mean_([together])
    values = together.tolist()
    first = taken - len(values)
    pending.clear()
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise diverged(f"the loss of step {first + i} is {value}", folder)
    return values


def diverged(what: str, folder: Path) -> UserError:
    kept = max((p.name for p in (folder / "checkpoints").glob("step-*.pt")), default="none yet")
    return UserError(f"{what}: training stopped; lower optim.lr or set optim.clip. Last good checkpoint: {kept} in "
                     f"{folder}")


@torch.no_grad()
def collapse(model: method.Method, batch: Tensor | None) -> dict[str, float]:
    """What shows collapse early, from the mean tokens (B, D) of a fixed batch.

    rankme: effective rank; feature_sd: sd over the records, mean over the features.
    """
    assert batch is not None
    backbone = model.backbone()
    training = backbone.training
    backbone.eval()
    features = torch.cat([backbone.forward(x).mean(1).double() for x in batch.split(64)])
    backbone.train(training)
    if not features.isfinite().all():
        return {}  # the loss of the next step says so, with its number
    return {"rankme": rankme(features), "feature_sd": features.std(0).mean().item()}


class Metrics:
    """metrics.jsonl: lines of numbers by step; those of steps after the one that a run continues from are dropped."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, taken: int) -> "Metrics":
        """Without the lines of later steps."""
        write_text(self.path, "".join(json.dumps(m) + "\n" for m in self.read() if m["step"] <= taken and taken))
        return self

    def write(self, **values: float) -> None:
        with self.path.open("a") as f:
            f.write(json.dumps(values) + "\n")

    def read(self) -> list[dict[str, Any]]:
        out = []
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:  # torn by a kill: what follows was never written
                break
        return out


def logged(work: Path, name: str) -> tuple[PretrainConfig, list[dict[str, Any]]]:
    """A pre-training's config and the lines of its metrics, finished or not; UserError where there are none."""
    folder = run_folder(work, name)
    lines = Metrics(folder / "metrics.jsonl").read()
    if not lines:
        known = sorted(p.parent.name for p in (work / "runs").glob("*/metrics.jsonl"))
        raise unknown("run", name, known) if name not in known else UserError(f"run {name} has logged nothing yet")
    return PretrainConfig.model_validate(read_json(folder / "config.json", f"run {name}")), lines


def columns(lines: list[dict[str, Any]]) -> dict[str, list]:
    """Lines -> one list per key, for the record."""
    keys = dict.fromkeys(k for line in lines for k in line)
    return {k: [line.get(k) for line in lines] for k in keys if not k.startswith("seconds") and k not in WATTS.values()}


def count(module: torch.nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
