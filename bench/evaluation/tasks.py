"""Tasks: what is predicted. A task has the records of three splits and their labels; its kind decides loss and score.

A task is a column of labels in the store. Each multi-label task has a variant `<task>-single`, the records with exactly one
label. For example, superdiagnostic-single is the task of ST-MEM on PTB-XL (arXiv 2402.09450).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.data.store import Store
from bench.evaluation import fractions, metrics, regression

METRIC = {"multi-label": "macro_auroc", "single-label": "macro_auroc", "regression": "r2"}  # by kind
SINGLE = "-single"


@dataclass(frozen=True)
class Split:
    """The records that train, choose or test, and their labels."""

    rows: np.ndarray  # (n,) rows of the store
    labels: np.ndarray  # (n, C) float32: 1 if the record has the class; for a regression (n, 1) values


@dataclass(frozen=True)
class Task:
    """A task of a store, in three splits."""

    kind: str  # multi-label, single-label or regression
    classes: list[str]  # what the head predicts; for a regression its unit
    train: Split
    validation: Split
    test: Split  # labels (n, len(scored))
    scored: list[str]  # the classes that are tested: all, or fewer on an external store
    moments: tuple[float, float] = (0.0, 1.0)  # mean and sd of a regression's training values
    tested_on: Store | None = None  # an external store; None: test.rows are of the store that is trained on
    facts: dict[str, Any] = field(default_factory=dict)  # for the result

    @property
    def columns(self) -> list[int]:
        """The indices of the scored classes among all classes."""
        return [self.classes.index(c) for c in self.scored]

    def without_test(self) -> "TrainingTask":
        """The task without its test fold, for the code that trains and chooses."""
        return TrainingTask(self.kind, self.classes, self.train, self.validation, self.moments)


@dataclass(frozen=True)
class TrainingTask:
    """A task without its test fold."""

    kind: str
    classes: list[str]
    train: Split
    validation: Split
    moments: tuple[float, float] = (0.0, 1.0)

    @property
    def metric(self) -> str:
        """The key of the validation score in results."""
        return f"validation_{METRIC[self.kind]}"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(..., B, C) logits, (B, C) labels -> (...) the loss of each head."""
        return loss(self.kind, logits.float(), labels, self.moments)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> probabilities, or values in the unit of a regression."""
        return probabilities(self.kind, logits, self.moments)

    def score(self, p: np.ndarray) -> float:
        """The score by which weights are chosen. p (n, C): predictions for the validation records."""
        return selection(self.kind, self.validation.labels, p)


def loss(kind: str, logits: Tensor, labels: Tensor, moments: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """(..., B, C) logits, (B, C) labels -> (...) the mean loss of each head.

    multi-label: binary cross-entropy, mean over records and classes. single-label: softmax cross-entropy, mean over
    records. regression: squared error of the values, standardised by the task's moments.
    """
    if kind == "single-label":
        return -(labels * logits.log_softmax(-1)).sum(-1).mean(-1)
    if kind == "regression":
        mean, sd = moments
        return (logits - (labels - mean) / sd).square().mean((-2, -1))
    return F.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none").mean((-2, -1))


def probabilities(kind: str, logits: Tensor, moments: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """(..., C) logits -> (..., C) probabilities; for a regression the values in their unit."""
    if kind == "regression":
        mean, sd = moments
        return logits * sd + mean
    return logits.softmax(-1) if kind == "single-label" else logits.sigmoid()


def selection(kind: str, labels: np.ndarray, p: np.ndarray) -> float:
    """The score by which weights are chosen: macro AUROC, or R2 for a regression, of (n, C) labels and predictions p."""
    return regression.r2(labels, p) if kind == "regression" else float(metrics.auroc(labels.astype(np.int64), p).mean())


def list_tasks(store: Store) -> dict[str, str]:
    """Task -> kind, for all tasks of the store."""
    own = {task: store.kind(task) for task in store.manifest["tasks"]}
    return {f"{task}{SINGLE}": "single-label" for task, kind in own.items() if kind == "multi-label"} | own


@dataclass(frozen=True)
class Labels:
    """The labels of one task for all records of a store."""

    kind: str
    classes: list[str]
    values: np.ndarray  # (records, C) float32
    labelled: np.ndarray  # (records,) bool: which records have a label of the task


def read_labels(store: Store, task: str) -> Labels:
    """The task's labels in the store; UserError where the store does not have the task."""
    known = list_tasks(store)
    if task not in known:
        raise unknown("task", task, known) if known else UserError(f"store {store.name} has no labels and so no task")
    kind, column = known[task], task if task in store.manifest["tasks"] else task.removesuffix(SINGLE)
    classes, texts = store.manifest["tasks"][column], store.records[column]
    values = np.zeros((len(texts), len(classes)), np.float32)
    if kind == "regression":
        labelled = texts.to_numpy() != ""
        values[labelled, 0] = texts[labelled].astype(np.float32)
        return Labels(kind, classes, values, labelled)
    index = {c: i for i, c in enumerate(classes)}
    for row, text in enumerate(texts):
        for label in filter(None, text.split(";")):
            values[row, index[label]] = 1
    return Labels(kind, classes, values, np.asarray(values.sum(1) == 1 if kind == "single-label" else values.any(1)))


def load_task(store: Store, task: str, folds: Mapping[str, Sequence[int]], *, empty_classes: str = "refuse",
              shortest: int = 0, fraction: float = 1.0) -> Task:
    """The task's three splits; records without a label of the task, or of fewer than `shortest` samples, are left out.

    fraction: the share of the training folds' patients that is used, see fractions.py. A class that has no positive among
    them is still trained and tested; facts["untrained"] names it.

    UserError if the store has no labels for the task, a split is empty, or a class has no positive (or no
    negative) in a split; empty_classes="drop" leaves such classes out instead.
    """
    labels = read_labels(store, task)
    kind, long_enough = labels.kind, store.records.length.to_numpy() >= shortest
    splits = {part: take_split(store, task, labels, (part, folds[part]), shortest) for part in ("train", "validation", "test")}
    lacking = find_lacking(labels, splits)
    if lacking and empty_classes == "refuse":
        raise UserError(f"task {task!r} of store {store.name}: {'; '.join(lacking.values())}; AUROC is not defined "
                        f"there (--set empty_classes=drop leaves such classes out)")
    remaining = [i for i in range(len(labels.classes)) if i not in lacking]
    if len(remaining) < (2 if kind == "single-label" else 1):
        raise UserError(f"task {task!r} of store {store.name}: {'one' if remaining else 'no'} class has positives and negatives "
                        f"in every split")
    for part, split in splits.items():  # a record whose only class was dropped cannot train a softmax
        some = split.labels[:, remaining].any(1) if kind == "single-label" else np.ones(len(split.rows), bool)
        splits[part] = Split(split.rows[some], split.labels[some][:, remaining])
    classes, train = [labels.classes[i] for i in remaining], splits["train"]
    patients = name_patients(store, train.rows)
    if fraction < 1:
        selected = fractions.select_records(train.labels, patients, fraction, kind)
        train, patients = Split(train.rows[selected], train.labels[selected]), patients[selected]
    inside = store.records.fold.isin([fold for part in folds.values() for fold in part]).to_numpy()
    left_out = {"unlabelled": int((inside & ~labels.labelled).sum()),
                "short": int((inside & labels.labelled & ~long_enough).sum())}
    untrained = [c for c, n in zip(classes, train.labels.sum(0), strict=True) if kind != "regression" and not n]
    return Task(
        kind, classes, train, splits["validation"], splits["test"], classes, measure_moments(store, task, kind, train), facts={
            "kind": kind, "train_patients": len(set(patients)), "left_out": left_out, "dropped": list(lacking.values()),
            "untrained": untrained})


def take_split(store: Store, task: str, labels: Labels, folds: tuple[str, Sequence[int]], shortest: int) -> Split:
    """The split with this (name, folds); UserError if it has no usable record, or all values of a regression are equal."""
    part, numbers = folds
    inside, length = store.records.fold.isin(numbers).to_numpy(), store.records.length
    rows = np.flatnonzero(labels.labelled & inside & (length.to_numpy() >= shortest))
    if not labels.labelled.any():
        raise UserError(f"store {store.name} has no record with a label of task {task!r}")
    if not len(rows) and (labels.labelled & inside).any():
        short = length[labels.labelled & inside]
        raise UserError(f"all {len(short):,} records of task {task!r} in folds.{part} of store {store.name} are shorter than "
                        f"evaluation.crop_seconds ({shortest / store.rate_hz:g} s): the longest lasts "
                        f"{short.max() / store.rate_hz:g} s; --set evaluation.crop_seconds to that or less")
    if not len(rows):
        have = sorted(set(store.records.fold[labels.labelled]))
        raise UserError(f"folds.{part} is {list(numbers)}, but store {store.name} has no record of task "
                        f"{task!r} there; its folds: {', '.join(map(str, have))}")
    if labels.kind == "regression" and (labels.values[rows] == labels.values[rows[0]]).all():
        raise UserError(f"task {task!r} of store {store.name}: every record in {part} has the same value")
    return Split(rows, labels.values[rows])


def find_lacking(labels: Labels, splits: Mapping[str, Split]) -> dict[int, str]:
    """Index of a class -> why AUROC is not defined for it in some split."""
    lacking: dict[int, str] = {}
    for part, split in splits.items() if labels.kind != "regression" else ():
        positives = split.labels.sum(0)
        for i in np.flatnonzero((positives == 0) | (positives == len(split.rows))):
            lacking.setdefault(int(i), f"{labels.classes[i]} has no {'positive' if not positives[i] else 'negative'} in {part}")
    return lacking


def measure_moments(store: Store, task: str, kind: str, train: Split) -> tuple[float, float]:
    """(mean, sd) of a regression's training values, (0, 1) for other kinds; UserError if the sd is 0."""
    if kind != "regression":
        return 0.0, 1.0
    mean, sd = float(train.labels.mean(dtype=np.float64)), float(train.labels.std(dtype=np.float64))
    if not sd:
        raise UserError(f"task {task!r} of store {store.name}: the {len(train.rows)} training records all have the same value")
    return mean, sd


def shuffle_labels(task: Task, order: int) -> Task:
    """The task with permuted labels, within training and within validation. order: the seed of the permutation."""
    rng = np.random.default_rng(order)
    train, validation = (Split(s.rows, s.labels[rng.permutation(len(s.rows))]) for s in (task.train, task.validation))
    return replace(task, train=train, validation=validation)


def name_patients(store: Store, rows: np.ndarray) -> np.ndarray:
    """(n,) text: the patient of each row; a record without a patient_id is a patient of its own."""
    table = store.records.iloc[rows]
    return np.where(table.patient_id == "", "record " + table.record_id, "patient " + table.patient_id).astype(str)
