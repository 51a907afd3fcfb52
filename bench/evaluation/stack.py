"""Heads that train as one: a Stack is heads of several seeds, a Feed the batches of one task for its stacks.

No head sees another: each ends as it would have ended alone, to rounding.
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
    """Heads (a stack of S) that predict from tokens."""

    head: nn.Module
    task: TrainingTask
    settings: HeadConfig

    def predict(self, tokens: CropTokens, rows: np.ndarray) -> np.ndarray:
        """(S, n, C) probabilities of the rows (n,), or values of a regression in their unit."""
        head = copy.deepcopy(self.head).to(tokens.dtype)  # as autocast would at every batch
        crops = tokens.crops_per_record(rows) if self.settings.average == "logits" else 1
        batches = ((x, owner[::crops]) for x, owner in tokens.batches(rows, crops))
        return heads.predict(functools.partial(head, crops=crops), batches, len(rows), self.task.probabilities, self.settings)


def list_points(settings: HeadConfig) -> list[dict[str, float]]:
    """The points of the grid of settings to try; one, the settings themselves, where the grid is empty."""
    grid = settings.grid
    return [{"lr": lr, "weight_decay": weight_decay} for lr, weight_decay in itertools.product(
        grid.lr or [settings.lr], grid.weight_decay or [settings.weight_decay])]


def apply_point(settings: HeadConfig, point: dict[str, float], precision: str) -> HeadConfig:
    """The settings at a point of the grid; the final values keep their ratio to the values where they start."""
    final = {f"final_{key}": getattr(settings, f"final_{key}") * (value / start) if (start := getattr(settings, key)) else value
             for key, value in point.items()}
    return settings.replace(**point, **final, precision=precision)


class Stack:
    """S heads that differ by their seed alone, at one point of the grid, trained as one."""

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
        """Whether a validation follows the step that was taken last."""
        return self.steps % self.settings.validate_every == 0 or self.steps == self.settings.steps

    def step(self, tokens: Tensor, labels: Tensor) -> None:
        """One optimiser step of all heads on tokens (B, R + N, D) and labels (B, C)."""
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
        """Take the pending losses from the device; a head whose loss is no number fails."""
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
        """Score all heads on the validation records, and keep the weights of those that are better than before."""
        self.collect_losses()
        p = HeadPredictor(self.head, self.task, self.settings).predict(tokens, self.task.validation.rows)
        better = []
        for s, validations in enumerate(self.validations):
            if self.steps > self.last_step(s):
                continue
            if not np.isfinite(p[s]).all():
                self._fail(s, f"its predictions after step {self.steps} are no numbers")
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
    """The batches of one task, the next records in the shared order that belong to it, and the stacks that they train."""

    def __init__(self, task: TrainingTask, rows: np.ndarray, batch: int, stacks: list[Stack], device: torch.device):
        self.stacks, self.batch = stacks, min(batch, len(task.train.rows))
        self.labels = torch.from_numpy(task.train.labels).to(device)
        self.record = np.full(len(rows), -1)  # for each of rows its index in the task's training records, or -1
        matches, index = match_rows(rows, task.train.rows)
        self.record[matches] = index
        assert len(matches) == len(task.train.rows)
        # of a batch that is not full yet
        self.tokens, self.records = torch.empty(0, device=device), torch.empty(0, dtype=torch.int64)

    @property
    def done(self) -> bool:
        return all(stack.done for stack in self.stacks)

    def select(self, order: np.ndarray) -> np.ndarray:
        """(n,) bool: which records of an epoch's order (n,) the task trains on: its own, as many as fill whole batches."""
        own = self.record[order] >= 0
        selected: np.ndarray = own & (own.cumsum() <= own.sum() // self.batch * self.batch)
        return selected

    def add(self, tokens: Tensor, indices: np.ndarray, validation: CropTokens) -> None:
        """Add the tokens of the records at these indices of rows; each batch that becomes full trains the stacks."""
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
