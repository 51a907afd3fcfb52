"""Heads that train at once: a Stack holds the heads of several seeds, a Feed gives the batches of one task to its stacks.

Heads do not affect one another. Each ends as it would have ended alone, up to rounding.
"""

import copy
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.rng import derive
from bench.evaluation import heads
from bench.evaluation.crops import match_rows
from bench.evaluation.job import Job, Validations, Weights
from bench.evaluation.reader import CropTokens
from bench.evaluation.tasks import TrainingTask
from bench.runs.config import EvaluationConfig, HeadConfig, run_id
from bench.training import checkpoint, optim

HEAD_STREAM = (100, 1)  # numbers that derive the seed of a head's weights from an evaluation's seed


@dataclass(frozen=True)
class HeadPredictor:
    """Predicts from tokens with a stack of S heads."""

    head: nn.Module
    task: TrainingTask
    settings: HeadConfig

    def predict(self, tokens: CropTokens, rows: np.ndarray) -> np.ndarray:
        """(S, n, C) probabilities of the rows (n,), or values of a regression in their unit."""
        head = copy.deepcopy(self.head).to(tokens.dtype)  # once, because autocast would do it at every batch
        crops = tokens.crops_per_record(rows) if self.settings.average == "logits" else 1
        batches = ((x, owner[::crops]) for x, owner in tokens.batches(rows, crops))
        return heads.predict(functools.partial(head, crops=crops), batches, len(rows), self.task.probabilities, self.settings)


def list_points(settings: HeadConfig) -> list[dict[str, float]]:
    """The grid points to try. If the grid is empty, the settings themselves are the only point."""
    grid = settings.grid
    return [{"lr": lr, "weight_decay": weight_decay} for lr, weight_decay in itertools.product(
        grid.lr or [settings.lr], grid.weight_decay or [settings.weight_decay])]


def apply_point(settings: HeadConfig, point: dict[str, float], precision: str) -> HeadConfig:
    """The settings at a grid point. final_lr and final_weight_decay keep their ratio to lr and weight_decay."""
    final = {f"final_{key}": getattr(settings, f"final_{key}") * (value / start) if (start := getattr(settings, key)) else value
             for key, value in point.items()}
    return settings.replace(**point, **final, precision=precision)


class Stack:
    """S heads at one grid point that differ only in their seed and train at once."""

    def __init__(self, job: Job, configs: Sequence[EvaluationConfig], point: dict[str, float]):
        settings, task = configs[0].evaluation, job.task_of(configs[0])
        self.configs, self.point, self.task, self.device = configs, point, task, job.crops.device
        self.settings = apply_point(settings, point, job.precision)
        single = []
        for config in configs:
            torch.manual_seed(derive(config.seed, *HEAD_STREAM))
            single.append(heads.build(settings.head, job.encoder, len(task.classes)))
        self.head = heads.stack(single).to(self.device)
        self.optimiser = optim.adamw(self.head, self.settings)
        self.steps, self.pending = 0, list[Tensor]()  # pending: losses (S,) that are still on the device
        self.losses: list[list[float]] = []  # since the last validation
        self.validations = [Validations(task.metric) for _ in configs]
        self.best_weights = {k: v.clone() for k, v in self.head.state_dict().items()}

    def last_step(self, s: int) -> int:
        """The step after which head s stops, by its validations so far; the stack goes on for the other heads."""
        head = self.validations[s]
        return 0 if head.failure else min(self.settings.steps, head.best_step + self.settings.patience)

    @property
    def done(self) -> bool:
        return self.steps >= max(map(self.last_step, range(len(self.configs))))

    @property
    def validates(self) -> bool:
        """Whether a validation follows the last step."""
        return self.steps % self.settings.validate_every == 0 or self.steps == self.settings.steps

    def step(self, tokens: Tensor, labels: Tensor) -> None:
        """Take one optimiser step with all heads on tokens (B, R + N, D) and labels (B, C)."""
        optim.schedule_(self.optimiser, self.steps, self.settings)
        with optim.autocast(self.device, self.settings.precision):
            logits = self.head(tokens)
        losses = self.task.loss(logits, labels)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if self.settings.clip:
            heads.clip_(self.head, self.settings.clip)
        self.optimiser.step()
        self.steps += 1
        self.pending.append(losses.detach())

    def collect_losses(self) -> None:
        """Read the pending losses from the device; a head whose loss is not finite fails."""
        first = self.steps - len(self.pending)
        for step, losses in enumerate(torch.stack(self.pending).tolist() if self.pending else (), first):
            for s, value in enumerate(losses):
                if not math.isfinite(value) and step < self.last_step(s):
                    self._fail(s, f"the loss of step {step} is {value}")
            self.losses.append(losses)
        self.pending.clear()

    def _fail(self, s: int, reason: str) -> None:
        name = run_id(self.configs[s])
        self.validations[s].fail(f"{reason}: evaluation stopped; lower evaluation.lr (evaluation {name})")

    def validate(self, tokens: CropTokens) -> None:
        """Score all heads on the validation records; copy the weights of each head with a new best score."""
        self.collect_losses()
        p = HeadPredictor(self.head, self.task, self.settings).predict(tokens, self.task.validation.rows)
        better = []
        for s, validations in enumerate(self.validations):
            if self.steps > self.last_step(s):
                continue
            if not np.isfinite(p[s]).all():
                self._fail(s, f"its predictions after step {self.steps} are not finite")
                continue
            loss = sum(losses[s] for losses in self.losses) / len(self.losses)
            if validations.add(self.steps, loss, self.task.score(p[s])):
                better.append(s)
        for key, value in self.head.state_dict().items():
            self.best_weights[key][better] = value[better]
        self.losses.clear()

    def weights_of(self, s: int) -> Weights:
        """The best weights of head s."""
        return {k: v[s] for k, v in self.best_weights.items()}

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors and JSON values."""
        self.collect_losses()
        tensors = checkpoint.flatten(self.head, self.optimiser) | {f"best/{k}": v for k, v in self.best_weights.items()}
        return tensors, {"steps": self.steps, "losses": self.losses, "validations": [asdict(v) for v in self.validations]}

    def restore_(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """The inverse of save, in place."""
        checkpoint.restore_(self.head, self.optimiser, tensors)
        for key, value in self.best_weights.items():
            value.copy_(tensors[f"best/{key}"])
        self.steps, self.losses = meta["steps"], meta["losses"]
        self.validations = [Validations(**each) for each in meta["validations"]]


class Feed:
    """Forms the batches of one task, and trains its stacks on them. All feeds share one order of records, and each takes
    the records of its own task from it."""

    def __init__(self, task: TrainingTask, rows: np.ndarray, batch: int, stacks: list[Stack], device: torch.device):
        self.stacks, self.batch = stacks, min(batch, len(task.train.rows))
        self.labels = torch.from_numpy(task.train.labels).to(device)
        self.record = np.full(len(rows), -1)  # for each of rows: its index in the task's training records, or -1
        matches, index = match_rows(rows, task.train.rows)
        self.record[matches] = index
        assert len(matches) == len(task.train.rows)
        # the batch that is not full yet: its tokens, and its records' indices
        self.tokens, self.records = torch.empty(0, device=device), torch.empty(0, dtype=torch.int64)

    @property
    def done(self) -> bool:
        return all(stack.done for stack in self.stacks)

    def select(self, order: np.ndarray) -> np.ndarray:
        """(n,) bool: the records of an epoch's order (n,) that the task trains on: its own, until no whole batch is left."""
        own = self.record[order] >= 0
        selected: np.ndarray = own & (own.cumsum() <= own.sum() // self.batch * self.batch)
        return selected

    def add(self, tokens: Tensor, indices: np.ndarray, validation: CropTokens) -> None:
        """Add the tokens of the records at these indices of rows, and train the stacks on each batch that becomes full."""
        self.tokens = torch.cat([self.tokens, tokens]) if len(self.tokens) else tokens
        self.records = torch.cat([self.records, torch.from_numpy(self.record[indices])])
        while len(self.records) >= self.batch:
            labels = self.labels[self.records[: self.batch].to(self.labels.device)]
            for stack in self.stacks:
                if not stack.done:
                    stack.step(self.tokens[: self.batch], labels)
                    if stack.validates:
                        stack.validate(validation)
            self.tokens, self.records = self.tokens[self.batch:], self.records[self.batch:]
