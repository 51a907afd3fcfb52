"""Heads on a frozen backbone: of all seeds, tasks and grid points at once, in one pass over the crops.

Each ends as it would have alone, to rounding: which crop of a record an epoch shows is a function of (epoch, record), a
task's batches are the next records of the shared order that it has, and no head sees another. The test fold is not here.
"""

import copy
import functools
import itertools
import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import progress
from bench.core.files import name_in_errors
from bench.core.interrupt import Interrupted
from bench.core.models import canonical
from bench.data.loader import Crops
from bench.encoders.vit import Encoder
from bench.evaluation import heads, tasks
from bench.evaluation.crops import Epochs, average, grid, places
from bench.evaluation.diagnostics import diagnose
from bench.evaluation.tasks import Split
from bench.runs.config import EvaluationConfig, HeadConfig, run_id
from bench.runs.workspace import Workspace
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint

SEQUENCE = 0  # the seed of the crops that all heads train on; ours
WEIGHTS = 100  # stream of random numbers drawn from an evaluation's seed
CHUNK, CHUNK_OF_CPU = 1024, 32  # crops that go through the encoder together: on a CPU what its cache holds; ours
BLOCK = 512  # crops whose logits are computed together; ours
IN_MEMORY = 2 << 30  # bytes; tokens of more lie in a file; ours


def chunk(device: torch.device) -> int:
    return CHUNK_OF_CPU if device.type == "cpu" else CHUNK


@dataclass(frozen=True)
class Visible:
    """What of a task may be seen before the choice is final: all but its test fold."""

    kind: str
    classes: list[str]
    train: Split
    validation: Split
    moments: tuple[float, float] = (0.0, 1.0)

    @property
    def metric(self) -> str:
        """What the record calls the validation score."""
        return f"validation_{tasks.METRIC[self.kind]}"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(..., B, C) logits, (B, C) labels -> (...) of each model."""
        return tasks.loss(self.kind, logits.float(), labels, self.moments)

    def chances(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> probabilities, or values in their unit."""
        return tasks.probabilities(self.kind, logits, self.moments)

    def score(self, p: np.ndarray) -> float:
        """What decides, of predictions (n, C) for the validation records."""
        return tasks.selection(self.kind, self.validation.labels, p)


@dataclass
class Outcome:
    """What the validation folds chose, for evaluations that differ by their seed alone."""

    configs: list[EvaluationConfig]  # S
    predict: Callable[["Kept", np.ndarray], np.ndarray]  # tokens of records, their rows (n,) -> (S, n, C) probabilities
    p_validation: np.ndarray  # (S, n, C)
    results: list[dict[str, Any]]  # of the record, one per config
    weights: list[dict[str, Tensor]]  # of the head
    lost: list[str]  # why a config has no outcome after all; "": it has one


@dataclass(frozen=True)
class Kept:
    """Tokens of fixed crops, (n, R + N, D), and the row of the store that each is of."""

    rows: np.ndarray
    tokens: Tensor
    device: torch.device  # where they are used
    dtype: torch.dtype  # in which

    def take(self, crops: np.ndarray) -> Tensor:
        if len(crops) and crops[-1] - crops[0] == len(crops) - 1 and (np.diff(crops) == 1).all():  # in a row: no copy
            return self.tokens[crops[0]: crops[-1] + 1].to(self.device, self.dtype)
        return self.tokens[torch.from_numpy(crops).to(self.tokens.device)].to(self.device, self.dtype)

    def together(self, rows: np.ndarray) -> int:
        """How many crops each of the rows has, if all have as many; else 1."""
        each = np.bincount(places(self.rows, rows)[1], minlength=len(rows))
        return int(each[0]) if len(each) and (each == each[0]).all() else 1

    def batches(self, rows: np.ndarray, crops: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """(tokens of the rows' crops, place in rows of each), about BLOCK at a time: a multiple of crops."""
        found, owner = places(self.rows, rows)
        block = max(1, BLOCK // crops) * crops
        for first in range(0, len(found), block):
            part = slice(first, first + block)
            yield self.take(found[part]), torch.from_numpy(owner[part])


class Reader:
    """A frozen backbone and what it reads: crops in, tokens (B, R + N, D) out."""

    def __init__(self, encoder: Encoder, crops: Crops, stride: int, settings: HeadConfig, folder: Path,
                 asked: Callable[[], int]):
        self.encoder, self.crops, self.stride = copy.deepcopy(encoder).eval().requires_grad_(False), crops, stride
        self.folder, self.asked = folder, asked
        self.precision, self.device = settings["precision"], crops.device
        self.dtype, self.cached = getattr(torch, self.precision), settings["features"] == "cached"
        self.chunk = chunk(crops.device)
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear):
                part.to(self.dtype)  # as autocast would at each chunk

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        with optim.autocast(self.device, self.precision):
            return self.encoder(x, registers=True).to(self.dtype)

    def read(self, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        """Tokens of one crop of each of the rows (B,)."""
        return self.encode(self.crops.normalise(self.crops.raw(torch.from_numpy(rows), torch.from_numpy(starts))))

    def grid(self, rows: np.ndarray, what: str) -> Iterator[tuple[int, Tensor]]:
        """(crops before these, their tokens), ... of the crops at every stride of the rows."""
        fixed, done = grid(self.crops, rows, self.stride), 0
        with progress.bar(f"encode {what}", len(fixed.rows)) as bar:
            for x in fixed.batches(self.crops, self.chunk):
                if signum := self.asked():
                    raise Interrupted(signum, f"what has been trained; it was encoding {what}")
                yield done, self.encode(x)
                done += len(x)
                bar(done, "")

    def keep(self, rows: np.ndarray, what: str) -> Kept:
        """Tokens of the rows' crops at every stride.

        In half precision (float16, or bfloat16 where that is the arithmetic), but exact features in float32 in float32;
        beyond IN_MEMORY in a file without a name, which a kill removes.
        """
        half = torch.float16 if self.cached and self.precision == "float32" else self.dtype
        crops, out = grid(self.crops, rows, self.stride).rows, torch.empty(0)
        for done, tokens in self.grid(rows, what):
            if not done:
                out = self.room((len(crops), *tokens.shape[1:]), half)
            out[done: done + len(tokens)] = tokens.to(out.device, half)
        return Kept(crops, out, self.device, self.dtype)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the device, or in a file where it is larger than IN_MEMORY."""
        size = math.prod(shape) * dtype.itemsize
        if size <= IN_MEMORY:
            return torch.empty(shape, dtype=dtype, device=self.device)
        with name_in_errors(self.folder), tempfile.TemporaryFile(dir=self.folder) as f:
            os.posix_fallocate(f.fileno(), 0, size)  # a full disk is an error here, and a crash once mapped
            return torch.frombuffer(mmap.mmap(f.fileno(), size), dtype=dtype).view(shape)

    def features(self, batches: Iterable[tuple[Tensor, Tensor]], n: int) -> Tensor:
        """(n, D) of n records: the mean token, registers left out, averaged over the crops."""
        return average(((tokens[:, len(self.encoder.registers):].float().mean(1), own) for tokens, own in batches), n)

    def features_of(self, rows: np.ndarray) -> Tensor:
        """(n, D) features of the rows, from their crops at every stride; no token is kept."""
        owner = torch.from_numpy(places(grid(self.crops, rows, self.stride).rows, rows)[1])
        return self.features(((tokens, owner[done: done + len(tokens)]) for done, tokens in self.grid(
            rows, "the neighbours")), len(rows))


class Stack:
    """Heads of one recipe and one point of its grid, a seed each: S of them, trained as one."""

    def __init__(self, configs: Sequence[EvaluationConfig], point: dict[str, float], task: Visible, encoder: Encoder, device: torch.device):
        settings = configs[0]["evaluation"]
        self.configs, self.point, self.task, self.device = configs, point, task, device
        self.settings = settings.replace(**point, **{
            f"final_{key}": settings[f"final_{key}"] * (value / settings[key]) if settings[key] else value
            for key, value in point.items()})
        made = []
        for config in configs:
            torch.manual_seed(optim.derive(config["seed"], WEIGHTS, 1))
            made.append(heads.build(settings["head"], encoder, len(task.classes)))
        self.head = heads.stack(made).to(device)
        self.optimiser = optim.adamw(self.head, self.settings)
        self.taken, self.pending = 0, list[Tensor]()  # losses (S,) that are still on the device
        self.window: list[list[float]] = []  # losses since the last validation
        self.best = [{"step": 0, "value": -math.inf} for _ in configs]
        self.curves: list[dict[str, list]] = [{"step": [], "loss": [], task.metric: []} for _ in configs]
        self.kept = {k: v.clone() for k, v in self.head.state_dict().items()}
        self.lost = [""] * len(configs)  # why a head cannot be chosen: its loss was no number; the others go on

    def end(self, s: int) -> int:
        """The step after which head s stops, as far as its best validation so far says; the stack goes on for the others."""
        return 0 if self.lost[s] else min(self.settings["steps"], self.best[s]["step"] + self.settings["patience"])

    @property
    def done(self) -> bool:
        return self.taken >= max(map(self.end, range(len(self.configs))))

    def step(self, tokens: Tensor, labels: Tensor) -> None:
        optim.schedule_(self.optimiser, self.taken, self.settings)
        with optim.autocast(self.device, self.settings["precision"]):
            logits = self.head(tokens)
        losses = self.task.loss(logits, labels)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.settings["clip"]:
            heads.clip_(self.head, self.settings["clip"])
        self.optimiser.step()
        self.taken += 1
        self.pending.append(losses.detach())

    def settle(self) -> None:
        """Take the pending losses from the device; a head is lost where one is no number."""
        first = self.taken - len(self.pending)
        for step, losses in enumerate(torch.stack(self.pending).tolist() if self.pending else (), first):
            for s, value in enumerate(losses):
                if not math.isfinite(value) and step < self.end(s):
                    self.lose(s, f"the loss of step {step} is {value}")
            self.window.append(losses)
        self.pending.clear()

    def lose(self, s: int, why: str) -> None:
        self.best[s] = {"step": 0, "value": -math.inf}
        self.lost[s] = f"{why}: evaluation stopped; lower evaluation.lr (evaluation {run_id(self.configs[s])})"

    def validate(self, kept: Kept) -> None:
        self.settle()
        rows = self.task.validation.rows
        p = predict(self.head, kept, rows, self.task, self.settings)
        better = []
        for s, (best, curve) in enumerate(zip(self.best, self.curves, strict=True)):
            if self.taken > self.end(s):
                continue
            if not np.isfinite(p[s]).all():
                self.lose(s, f"its predictions after step {self.taken} are no numbers")
                continue
            value = self.task.score(p[s])
            curve["step"].append(self.taken)
            curve["loss"].append(sum(row[s] for row in self.window) / len(self.window))
            curve[self.task.metric].append(value)
            if value > best["value"]:
                best.update(step=self.taken, value=value)
                better.append(s)
        for key, value in self.head.state_dict().items():
            self.kept[key][better] = value[better]
        self.window.clear()

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self.settle()
        tensors = checkpoint.flatten(self.head, self.optimiser) | {f"kept/{k}": v for k, v in self.kept.items()}
        return tensors, {key: getattr(self, key) for key in ("taken", "window", "best", "curves", "lost")}

    def restore_(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        checkpoint.restore_(self.head, self.optimiser, tensors)
        for key, value in self.kept.items():
            value.copy_(tensors[f"kept/{key}"])
        self.taken, self.window, self.best, self.curves, self.lost = (
            meta[k] for k in ("taken", "window", "best", "curves", "lost"))


def predict(stacked: nn.Module, kept: Kept, rows: np.ndarray, task: Visible, settings: HeadConfig) -> np.ndarray:
    """(S, n, C) probabilities of the rows (n,), or values in their unit."""
    head = copy.deepcopy(stacked).to(kept.dtype)  # as autocast would at every batch
    crops = kept.together(rows) if settings["average"] == "logits" else 1
    batches = ((tokens, owner[::crops]) for tokens, owner in kept.batches(rows, crops))
    return heads.predict(functools.partial(head, crops=crops), batches, len(rows), task.chances, settings)


class Feed:
    """The batches of one task: the next records of the shared order that it has, and the stacks that they train."""

    def __init__(self, task: Visible, rows: np.ndarray, batch: int, stacks: list[Stack], device: torch.device):
        self.stacks, self.batch = stacks, min(batch, len(task.train.rows))
        self.labels = torch.from_numpy(task.train.labels).to(device)
        self.record = np.full(len(rows), -1)  # by place in rows: its place in the task's training records
        found, place = places(rows, task.train.rows)
        self.record[found] = place
        assert len(found) == len(task.train.rows)
        self.tokens, self.records = torch.empty(0, device=device), torch.empty(0, dtype=torch.int64)  # of no whole batch yet

    @property
    def done(self) -> bool:
        return all(stack.done for stack in self.stacks)

    def wanted(self, order: np.ndarray) -> np.ndarray:
        """(n,) which of an epoch's places the task uses: its own, as many as make whole batches."""
        own = self.record[order] >= 0
        return own & (own.cumsum() <= own.sum() // self.batch * self.batch)

    def add(self, tokens: Tensor, places_: np.ndarray, validation: Kept) -> None:
        """Take these records; train the stacks on every batch that becomes full, and validate where it is time."""
        self.tokens = torch.cat([self.tokens, tokens]) if len(self.tokens) else tokens
        self.records = torch.cat([self.records, torch.from_numpy(self.record[places_])])
        while len(self.records) >= self.batch:
            labels = self.labels[self.records[: self.batch].to(self.labels.device)]
            for stack in self.stacks:
                if not stack.done:
                    stack.step(self.tokens[: self.batch], labels)
                    if stack.taken % stack.settings["validate_every"] == 0 or stack.taken == stack.settings["steps"]:
                        stack.validate(validation)
            self.tokens, self.records = self.tokens[self.batch:], self.records[self.batch:]


def points(settings: HeadConfig) -> list[dict[str, float]]:
    """The grid, a setting each; the recipe's own values where it names none."""
    grid = settings.grid
    return [{"lr": lr, "weight_decay": weight_decay} for lr, weight_decay in itertools.product(
        grid.lr or [settings.lr], grid.weight_decay or [settings.weight_decay])]


def fit(configs: Sequence[EvaluationConfig], visible: Mapping[str, Visible], reader: Reader, rows: np.ndarray,
        state: Checkpoint | None, folder: Path, where: Workspace) -> list[Outcome]:
    """Train the heads of all configs, and choose on the validation folds.

    visible: by run_id; rows: all that the training folds hold, whatever the task; state: where a killed one stood.
    """
    recipes: dict[str, list[EvaluationConfig]] = {}
    for config in sorted(configs, key=run_id):
        recipes.setdefault(canonical(config.replace(seed=0)), []).append(config)
    task_of = {key: visible[run_id(same[0])] for key, same in recipes.items()}
    validation = reader.keep(union(task.validation for task in task_of.values()), "validation crops")
    nearest = {key for key, same in recipes.items() if same[0]["evaluation"]["head"] == "neighbours"}
    stacks = {key: [Stack(same, point, task_of[key], reader.encoder, where.device) for point in points(same[0]["evaluation"])]
              for key, same in recipes.items() if key not in nearest}
    if stacks:
        train(stacks, sorted(map(run_id, configs)), rows, reader, validation, state, folder, where)
    bank_rows = union(task_of[key].train for key in nearest) if nearest else np.empty(0, np.int64)
    bank = reader.features_of(bank_rows) if nearest else torch.empty(0)
    outcomes, looks = [], dict[bytes, dict[str, Any]]()  # of the validation records, by which they are
    for key, same in recipes.items():
        task = task_of[key]
        made = chosen(stacks[key], validation) if key in stacks else neighbours(
            same, task, reader, validation, bank_rows, bank)
        seen, where_ = task.validation.rows, task.validation.rows.tobytes()
        looks[where_] = looks.get(where_) or diagnose(reader.features(validation.batches(seen), len(seen)))
        made.results = [{**each, "diagnostics": looks[where_]} for each in made.results]
        outcomes.append(made)
    return outcomes


def union(splits: Iterable[Split]) -> np.ndarray:
    return np.unique(np.concatenate([split.rows for split in splits]))


def train(stacks: dict[str, list[Stack]], members: list[str], rows: np.ndarray, reader: Reader, validation: Kept,
          state: Checkpoint | None, folder: Path, where: Workspace) -> None:
    """Train all stacks to their ends, in place; saved every where.save_minutes, on a signal and at the end."""
    together: dict[str, list[Stack]] = {}  # by task and batch
    for each in stacks.values():
        config = each[0].configs[0]
        task = {k: v for k, v in config.to_json().items() if k not in ("seed", "after", "evaluation")}
        together.setdefault(canonical({**task, "batch": config["evaluation"]["batch"]}), []).extend(each)
    feeds = [Feed(each[0].task, rows, each[0].settings["batch"], each, where.device) for each in together.values()]
    epoch, at = 0, 0
    if state:
        epoch, at = state.meta["epoch"], state.meta["at"]
        for i, feed in enumerate(feeds):
            feed.tokens, feed.records = state.tensors[f"{i}/tokens"].to(where.device), state.tensors[f"{i}/records"]
            for j, stack in enumerate(feed.stacks):
                prefix = f"{i}/{j}/"
                stack.restore_({k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)},
                               state.meta["stacks"][i][j])
    every = [stack for feed in feeds for stack in feed.stacks]

    def save() -> None:
        tensors: dict[str, Tensor] = {}
        about = []
        for i, feed in enumerate(feeds):
            saved = [stack.saved() for stack in feed.stacks]
            tensors |= {f"{i}/tokens": feed.tokens, f"{i}/records": feed.records}
            tensors |= {f"{i}/{j}/{k}": v for j, (parts, _) in enumerate(saved) for k, v in parts.items()}
            about.append([meta for _, meta in saved])
        checkpoint.save(folder / "state.pt", Checkpoint(tensors, {
            "members": members, "epoch": epoch, "at": at, "stacks": about}))

    read, choices = training_crops(feeds, rows, reader)
    epochs, saved_at = Epochs(rows, SEQUENCE), time.monotonic()
    total = sum(stack.settings["steps"] for stack in every)
    title = f"evaluate {every[0].configs[0]['pretrain']} ({len(members)} at once)"
    with progress.bar(title, total, sum(stack.taken for stack in every)) as bar:
        while not all(feed.done for feed in feeds):
            order, starts = epochs.order(epoch), epochs.starts(epoch, choices)
            wanted = [feed.wanted(order) for feed in feeds]
            while active := [(feed, mask) for feed, mask in zip(feeds, wanted, strict=True) if not feed.done]:
                following = at + np.flatnonzero(np.logical_or.reduce([mask[at:] for _, mask in active]))[: reader.chunk]
                if not len(following):
                    break
                here = order[following]
                tokens = read(here, starts[here])
                at = int(following[-1]) + 1
                for feed, mask in active:
                    own = mask[following]
                    feed.add(tokens[torch.from_numpy(own).to(tokens.device)], here[own], validation)
                bar(sum(stack.taken for stack in every), "")
                signum = reader.asked()
                if signum or time.monotonic() - saved_at > 60 * where.save_minutes:
                    save()
                    saved_at = time.monotonic()
                    if signum:
                        least = min(stack.taken for stack in every)
                        raise Interrupted(signum, f"{title} at step {least} of {total // len(every)}")
            epoch, at = epoch + 1, 0
    save()


def training_crops(feeds: Sequence[Feed], rows: np.ndarray, reader: Reader) -> tuple[
        Callable[[np.ndarray, np.ndarray], Tensor], np.ndarray]:
    """How (places in rows, starts) become tokens, and among how many starts each of the rows (n,) may choose."""
    if not reader.cached:
        return lambda here, starts: reader.read(rows[here], starts), reader.crops.length[rows].numpy() - reader.crops.samples + 1
    used = np.logical_or.reduce([feed.record >= 0 for feed in feeds])
    kept = reader.keep(rows[used], "training crops")
    first, end = np.searchsorted(kept.rows, rows), np.searchsorted(kept.rows, rows, "right")

    def read(here: np.ndarray, starts: np.ndarray) -> Tensor:
        return kept.take(first[here] + starts)

    return read, end - first


def chosen(stacks: list[Stack], validation: Kept) -> Outcome:
    """Of a recipe's grid points, for each seed the one with the best validation; the first of equal ones."""
    configs, task, settings = list(stacks[0].configs), stacks[0].task, stacks[0].settings
    results, weights, lost = [], [], []
    for s in range(len(configs)):
        lost.append(stacks[0].lost[s] if all(stack.lost[s] for stack in stacks) else "")
        best = stacks[int(np.argmax([stack.best[s]["value"] for stack in stacks]))]
        tried = [{**stack.point, "lost": stack.lost[s]} if stack.lost[s] else
                 {**stack.point, "best_step": stack.best[s]["step"], task.metric: stack.best[s]["value"]} for stack in stacks]
        results.append({task.metric: best.best[s]["value"], "best_step": best.best[s]["step"],
                        "steps": best.end(s), "curve": best.curves[s], "chosen": best.point, "grid": tried})
        weights.append({k: v[s] for k, v in best.kept.items()})
    head = stacks[0].head
    head.load_state_dict({k: torch.stack([each[k] for each in weights]) for k in weights[0]})

    def of(kept: Kept, rows: np.ndarray) -> np.ndarray:
        return predict(head, kept, rows, task, settings)

    return Outcome(configs, of, of(validation, task.validation.rows), results, weights, lost)


def neighbours(configs: list[EvaluationConfig], task: Visible, reader: Reader, validation: Kept, bank_rows: np.ndarray,
               bank: Tensor) -> Outcome:
    """k nearest training records by the cosine of their features; their labels are averaged with weights
    exp(cosine / temperature) (Wu et al. 2018, arXiv 1805.01978; k and temperature as in arXiv 2104.14294)."""
    settings, labels = configs[0]["evaluation"]["neighbours"], torch.from_numpy(task.train.labels)
    known = F.normalize(bank[places(task.train.rows, bank_rows)[1]]).float()

    def of(kept: Kept, rows: np.ndarray, k: int) -> np.ndarray:
        x = F.normalize(reader.features(kept.batches(rows), len(rows))).float()
        cosine, nearest = (x @ known.T).topk(k)
        weights = (cosine / settings["temperature"]).softmax(1)
        mean = torch.einsum("nk,nkc->nc", weights.double(), labels[nearest].double())
        return mean.clamp(float(labels.min()), float(labels.max())).numpy()  # where rounding would leave that

    ks = dict.fromkeys(min(k, len(known)) for k in settings["k"])
    tried = [{"k": k, task.metric: task.score(of(validation, task.validation.rows, k))} for k in ks]
    best = max(tried, key=lambda each: each[task.metric])
    result = {task.metric: best[task.metric], "best_step": 0, "steps": 0,
              "curve": {"step": [], "loss": [], task.metric: []}, "chosen": {"k": best["k"]}, "grid": tried}

    def every(kept: Kept, rows: np.ndarray) -> np.ndarray:
        return np.repeat(of(kept, rows, best["k"])[None], len(configs), axis=0)

    return Outcome(configs, every, every(validation, task.validation.rows), [result] * len(configs), [{}] * len(configs),
                   [""] * len(configs))
