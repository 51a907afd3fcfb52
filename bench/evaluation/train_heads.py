"""Trains the heads of all seeds, tasks and grid points at once on a frozen encoder, so that they share its forward passes.

The crop that an epoch shows of a record depends on (epoch, record) alone. A batch of a task consists of the next records of
the shared order that belong to the task. Each head therefore sees what it would have seen alone.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.core.interrupt import Interrupted
from bench.core.models import canonical
from bench.evaluation.crops import Epochs
from bench.evaluation.job import STATE, Job
from bench.evaluation.reader import CropTokens, Reader
from bench.evaluation.stack import Feed, Stack
from bench.runs.config import EvaluationConfig, run_id
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

EPOCHS_SEED = 0  # the crops that heads train on are the same whatever their seeds


def describe_task(config: EvaluationConfig) -> str:
    """A text that is equal for configs that train and test on the same records and labels."""
    return canonical({k: v for k, v in config.to_json().items() if k not in ("seed", "after", "evaluation")})


class HeadTrainer:
    """Trains the stacks of a job, epoch by epoch."""

    def __init__(self, job: Job, stacks: Sequence[Stack], reader: Reader, validation: CropTokens):
        self.job, self.stacks, self.reader, self.validation = job, stacks, reader, validation
        groups: dict[tuple[str, int], list[Stack]] = {}
        for stack in stacks:
            groups.setdefault((describe_task(stack.configs[0]), stack.settings.batch), []).append(stack)
        self.feeds = [Feed(group[0].task, job.train_rows, batch, group, reader.device) for (_, batch), group in groups.items()]
        self.epochs = Epochs(job.train_rows, EPOCHS_SEED)
        self.epoch, self.position = 0, 0  # position: in the epoch's order
        self.saved_at = time.monotonic()

    def train(self) -> None:
        """Train every stack until it is done; save every workspace.save_minutes, at a signal and at the end."""
        if self.job.state:
            self._restore(self.job.state)
        self._open_crops()
        total = sum(stack.settings.steps for stack in self.stacks)
        title = f"evaluate {self.job.configs[0].pretrain} ({len(self.job.configs)} at once)"
        with progress.bar(title, total, self._count_steps()) as bar:
            while not all(feed.done for feed in self.feeds):
                order, starts = self.epochs.order(self.epoch), self.epochs.starts(self.epoch, self.choices)
                selections = [feed.select(order) for feed in self.feeds]
                while self._train_chunk(order, starts, selections):
                    bar(self._count_steps(), "")
                    self._save_if_due(title, total)
                self.epoch, self.position = self.epoch + 1, 0
        self._save()

    def _count_steps(self) -> int:
        return sum(stack.steps for stack in self.stacks)

    def _open_crops(self) -> None:
        """Set `choices`, the number of possible crops per row. If features are cached, encode all training crops first."""
        rows, reader = self.job.train_rows, self.reader
        self.cache: CropTokens | None = None
        if not reader.cached:
            self.choices = reader.crops.length[rows].numpy() - reader.crops.samples + 1
            return
        needed = np.logical_or.reduce([feed.record >= 0 for feed in self.feeds])
        self.cache = reader.collect_tokens(rows[needed], "training crops")
        self.first = np.searchsorted(self.cache.rows, rows)
        self.choices = np.searchsorted(self.cache.rows, rows, "right") - self.first

    def _read(self, indices: np.ndarray, starts: np.ndarray) -> Tensor:
        """(B, R + N, D) tokens of one crop per row. indices (B,): of the rows. starts (B,): the number of each row's crop."""
        if self.cache:
            return self.cache.take(self.first[indices] + starts)
        return self.reader.encode_crops(self.job.train_rows[indices], starts)

    def _train_chunk(self, order: np.ndarray, starts: np.ndarray, selections: list[np.ndarray]) -> bool:
        """Read the next crops of the epoch and train on them; False if no feed needs any of the remaining crops."""
        active = [(feed, selected) for feed, selected in zip(self.feeds, selections, strict=True) if not feed.done]
        if not active:
            return False
        needed = np.logical_or.reduce([selected[self.position:] for _, selected in active])
        positions = self.position + np.flatnonzero(needed)[: self.reader.chunk]
        if not len(positions):
            return False
        indices = order[positions]
        tokens = self._read(indices, starts[indices])
        self.position = int(positions[-1]) + 1
        for feed, selected in active:
            own = selected[positions]
            feed.add(tokens[torch.from_numpy(own).to(tokens.device)], indices[own], self.validation)
        return True

    def _save_if_due(self, title: str, total: int) -> None:
        signum = self.job.read_signal()
        if signum or time.monotonic() - self.saved_at > 60 * self.job.workspace.save_minutes:
            self._save()
            self.saved_at = time.monotonic()
        if signum:
            least = min(stack.steps for stack in self.stacks)
            raise Interrupted(signum, f"{title} at step {least} of {total // len(self.stacks)}")

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        stacks = []
        for i, feed in enumerate(self.feeds):
            saved = [stack.save() for stack in feed.stacks]
            tensors |= {f"{i}/tokens": feed.tokens, f"{i}/records": feed.records}
            tensors |= {f"{i}/{j}/{k}": v for j, (parts, _) in enumerate(saved) for k, v in parts.items()}
            stacks.append([meta for _, meta in saved])
        checkpoint.save(self.job.folder / STATE, Checkpoint(tensors, {
            "members": sorted(map(run_id, self.job.configs)), "epoch": self.epoch, "position": self.position,
            "stacks": stacks}))

    def _restore(self, state: Checkpoint) -> None:
        self.epoch, self.position = state.meta["epoch"], state.meta["position"]
        for i, feed in enumerate(self.feeds):
            feed.tokens, feed.records = state.tensors[f"{i}/tokens"].to(self.reader.device), state.tensors[f"{i}/records"]
            for j, stack in enumerate(feed.stacks):
                prefix = f"{i}/{j}/"
                tensors = {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
                stack.restore_(tensors, state.meta["stacks"][i][j])
