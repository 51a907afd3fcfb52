"""The input of a protocol, a Job, and its output for each evaluation, an Outcome."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.data.loader import Crops
from bench.encoders.vit import Encoder
from bench.evaluation.tasks import Split, TrainingTask
from bench.runs.config import EvaluationConfig, HeadConfig, run_id
from bench.runs.workspace import Workspace
from bench.training.checkpoint import Checkpoint

Weights = dict[str, Tensor]
STATE = "state.pt"  # in a job's folder: the state from which an interrupted job continues


@dataclass(frozen=True)
class Job:
    """Evaluations that run at once: any number on one frozen encoder, or a single one that trains its encoder.

    The tasks have no test folds, so that no code that trains or chooses can read them.
    """

    configs: Sequence[EvaluationConfig]
    tasks: Mapping[str, TrainingTask]  # by run_id
    encoder: Encoder
    crops: Crops  # of the store that is trained on
    stride: int  # samples between the starts of validation and test crops
    precision: str  # float32 or bfloat16
    train_rows: np.ndarray  # (n,) rows of the store: all records in the training folds, whatever the task
    folder: Path  # for the state, and for tokens that do not fit into memory
    state: Checkpoint | None  # the state that an interrupted run of the same evaluations saved
    workspace: Workspace
    read_signal: Callable[[], int]  # the number of the signal that asks to stop, or 0

    @property
    def settings(self) -> HeadConfig:
        """The evaluation settings of the first config."""
        return self.configs[0].evaluation

    def task_of(self, config: EvaluationConfig) -> TrainingTask:
        return self.tasks[run_id(config)]


@dataclass(frozen=True)
class HeldOut:
    """The test records of a job. A protocol reads them only after its choice is final."""

    rows: Mapping[str, np.ndarray]  # by run_id: rows of the store that `crops` reads
    crops: Crops


@dataclass(frozen=True)
class Outcome:
    """Predictions, choice and weights of one finished evaluation."""

    config: EvaluationConfig
    p_validation: np.ndarray  # (n, C) probabilities of the validation records, or values of a regression
    p_test: np.ndarray  # (n, C) the same for the test records
    choice: dict[str, Any]  # the result's part about training and choice
    weights: Weights  # "head.*", and "encoder.*" where the encoder trained; empty where nothing trained


@dataclass
class Validations:
    """The validations of one head in training, and which of them is the best so far."""

    metric: str
    best_step: int = 0
    best_value: float = -math.inf
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # mean training loss since the previous validation
    values: list[float] = field(default_factory=list)
    failure: str = ""  # why the head cannot be chosen

    def add(self, step: int, loss: float, value: float) -> bool:
        """Add a validation. Returns whether it is the best so far."""
        self.steps.append(step)
        self.losses.append(loss)
        self.values.append(value)
        if not value > self.best_value:
            return False
        self.best_step, self.best_value = step, value
        return True

    def fail(self, reason: str) -> None:
        self.best_step, self.best_value, self.failure = 0, -math.inf, reason

    def describe(self, steps: int) -> dict[str, Any]:
        """The result's part about a training that took this many steps."""
        return {self.metric: self.best_value, "best_step": self.best_step, "steps": steps,
                "curve": {"step": self.steps, "loss": self.losses, self.metric: self.values}}


def unite_rows(splits: Iterable[Split]) -> np.ndarray:
    """(n,) the rows of all splits, sorted, without duplicates."""
    return np.unique(np.concatenate([split.rows for split in splits]))
