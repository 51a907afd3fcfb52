"""Protocols that train all weights end to end, one evaluation at a time: fine-tuning and training from scratch."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.core.rng import derive
from bench.data.loader import Crops
from bench.evaluation import artifacts, heads
from bench.evaluation.crops import Epochs, lay_grid, match_rows
from bench.evaluation.job import STATE, HeldOut, Job, Outcome, Validations
from bench.evaluation.protocols import derive_linear
from bench.evaluation.reader import chunk_size
from bench.evaluation.stack import HEAD_STREAM
from bench.evaluation.tasks import TrainingTask
from bench.runs.config import HeadConfig, run_id
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint

DROPOUT = 103  # stream of random numbers drawn from an evaluation's seed


def evaluate(job: Job, held_out: HeldOut) -> Iterator[Outcome]:
    """The outcome of the job's one evaluation."""
    (config,), (task,), (test_rows,) = job.configs, job.tasks.values(), held_out.rows.values()
    model = build_classifier(job)
    choice = fit(job, model)
    settings = config.evaluation.replace(precision=job.precision)
    p_validation = predict(model, task, (task.validation.rows, job.crops), job.stride, settings)
    p_test = predict(model, task, (test_rows, held_out.crops), job.stride, settings)
    yield Outcome(config, p_validation, p_test, choice, model.state_dict())


def build_classifier(job: Job) -> heads.Classifier:
    """The encoder with a new head from the evaluation's seed, or with the head that the linear evaluation chose."""
    (config,), (task,) = job.configs, job.tasks.values()
    torch.manual_seed(derive(config.seed, *HEAD_STREAM))
    head = heads.build(config.evaluation.head, job.encoder, len(task.classes))
    model = heads.Classifier(job.encoder, head, frozen=False).to(job.crops.device)
    if config.after:
        model.head.load_state_dict(artifacts.read_linear_head(derive_linear(config), job.workspace))
    return model


def fit(job: Job, model: heads.Classifier) -> dict[str, Any]:
    """Train the classifier, which ends with the weights of the best validation. Returns the result's part about that."""
    return FineTuning(job, model).train()


class FineTuning:
    """The training of one classifier: its optimiser, its validations and the best weights so far."""

    def __init__(self, job: Job, model: heads.Classifier):
        (self.config,), (self.task,) = job.configs, job.tasks.values()
        self.job, self.model = job, model
        self.settings = self.config.evaluation.replace(precision=job.precision)
        self.optimiser = optim.adamw(model, self.settings)
        self.steps, self.validations = 0, Validations(self.task.metric)
        self.pending, self.losses = list[Tensor](), list[float]()  # since the last validation: unread, read
        self.best_weights = copy.deepcopy(model.state_dict())
        if job.state:
            self._restore(job.state)
        rows = self.task.train.rows
        self.batch, self.epochs = min(self.settings.batch, len(rows)), Epochs(rows, self.config.seed)
        self.choices = job.crops.length[rows].numpy() - job.crops.samples + 1
        self.labels = torch.from_numpy(self.task.train.labels).to(job.crops.device)
        self.saved_at = time.monotonic()

    def train(self) -> dict[str, Any]:
        """Train to the last step or until patience is over; save every workspace.save_minutes, at a signal, at the end."""
        title, total = f"{self.settings.name} {self.config.task} {run_id(self.config)}", self.settings.steps
        with progress.bar(title, total, self.steps) as bar:
            while self.steps < total and self.steps - self.validations.best_step < self.settings.patience:
                x, labels = self._read_batch()
                optim.schedule_(self.optimiser, self.steps, self.settings)
                torch.manual_seed(derive(self.config.seed, DROPOUT, self.steps))
                self.pending.append(step(self.model, self.optimiser, self.task, (x, labels), self.settings))
                self.steps += 1
                if self.steps % self.settings.validate_every == 0 or self.steps == total:
                    value = self._validate()
                    bar(self.steps, f"validation {value:.4f}, best {self.validations.best_value:.4f}")
                self._save_if_due()
        self._save()
        self.model.load_state_dict(self.best_weights)
        return self.validations.describe(self.steps)

    def _read_batch(self) -> tuple[Tensor, Tensor]:
        """The crops (B, 12, T) of the next batch, normalised, and their labels (B, C)."""
        crops, rows = self.job.crops, self.task.train.rows
        epoch, position = divmod(self.steps, len(rows) // self.batch)
        indices = self.epochs.order(epoch)[position * self.batch: (position + 1) * self.batch]
        starts = self.epochs.starts(epoch, self.choices)[indices]
        x = crops.normalise(crops.raw(torch.from_numpy(rows[indices]), torch.from_numpy(starts)))
        return x, self.labels[torch.from_numpy(indices).to(self.labels.device)]

    def _validate(self) -> float:
        self._collect_losses()
        p = predict(self.model, self.task, (self.task.validation.rows, self.job.crops), self.job.stride, self.settings)
        value = self.task.score(p)
        if self.validations.add(self.steps, sum(self.losses) / len(self.losses), value):
            self.best_weights = copy.deepcopy(self.model.state_dict())
        self.losses.clear()
        return value

    def _collect_losses(self) -> None:
        """Read the pending losses from the device; UserError if one is not finite."""
        self.losses.extend(torch.stack(self.pending).tolist() if self.pending else ())
        self.pending.clear()
        first = self.steps - len(self.losses)
        for i, value in enumerate(self.losses):
            if not math.isfinite(value):
                raise UserError(f"the loss of step {first + i} is {value}: evaluation stopped; lower evaluation.lr")

    def _save_if_due(self) -> None:
        signum = self.job.read_signal()
        if signum or time.monotonic() - self.saved_at > 60 * self.job.workspace.save_minutes:
            self._save()
            self.saved_at = time.monotonic()
        if signum:
            raise Interrupted(signum, f"evaluation {run_id(self.config)} at step {self.steps} of {self.settings.steps}")

    def _save(self) -> None:
        self._collect_losses()
        tensors = checkpoint.flatten(self.model, self.optimiser) | {f"best/{k}": v for k, v in self.best_weights.items()}
        checkpoint.save(self.job.folder / STATE, Checkpoint(tensors, {
            "members": [run_id(self.config)], "steps": self.steps, "losses": self.losses,
            "validations": asdict(self.validations)}))

    def _restore(self, state: Checkpoint) -> None:
        checkpoint.restore_(self.model, self.optimiser, state.tensors)
        self.best_weights = {k.removeprefix("best/"): v for k, v in state.tensors.items() if k.startswith("best/")}
        self.steps, self.losses = state.meta["steps"], state.meta["losses"]
        self.validations = Validations(**state.meta["validations"])


def step(model: heads.Classifier, optimiser: torch.optim.Optimizer, task: TrainingTask, batch: tuple[Tensor, Tensor],
         settings: HeadConfig) -> Tensor:
    """Take an optimiser step on a batch, crops (B, 12, T) and their labels (B, C). Returns the loss."""
    x, labels = batch
    model.train()
    with optim.autocast(x.device, settings.precision):
        logits = model(x)
    loss = task.loss(logits, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if settings.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()
    return loss.detach()


def predict(model: heads.Classifier, task: TrainingTask, source: tuple[np.ndarray, Crops], stride: int,
            settings: HeadConfig) -> np.ndarray:
    """(n, C) probabilities, or values of a regression, of n records, averaged over crops that start every `stride` samples.

    source: the records' rows (n,) in a store, and the Crops that reads them.
    """
    rows, crops = source
    grid = lay_grid(crops, rows, stride)
    owner = torch.from_numpy(match_rows(grid.rows, rows)[1])
    size = chunk_size(crops.device)
    model.eval()
    batches = zip(grid.batches(crops, size), torch.split(owner, size), strict=True)
    return heads.predict(model, batches, len(rows), task.probabilities, settings)
