"""What is predicted: the records of each fold and their labels, as a store holds them; losses and scores by kind.

A task is a column of the store, and `<task>-single` the records of a multi-label one that have exactly one label: so
superdiagnostic-single is ST-MEM's task of PTB-XL (arXiv 2402.09450).
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
    rows: np.ndarray  # (n,) rows of the store's records
    labels: np.ndarray  # (n, C) float32: 1 where the record has the class; of a regression (n, 1) values


@dataclass(frozen=True)
class Task:
    kind: str  # multi-label, single-label or regression
    classes: list[str]  # what the head predicts; of a regression its unit
    train: Split
    validation: Split
    test: Split  # labels (n, len(scored))
    scored: list[str]  # the classes that the test is about: all of them, but of an external store
    moments: tuple[float, float] = (0.0, 1.0)  # mean and sd of a regression's training values
    tested_on: Store | None = None  # an external store; None: test.rows are of the store that is trained on
    facts: dict[str, Any] = field(default_factory=dict)  # for the record

    @property
    def columns(self) -> list[int]:
        """Where the scored classes stand among all."""
        return [self.classes.index(c) for c in self.scored]


def loss(kind: str, logits: Tensor, labels: Tensor, moments: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """(..., B, C) logits, (B, C) labels -> (...) the mean loss of each model.

    Binary cross-entropy, mean over records and classes; softmax cross-entropy, mean over records; squared error of the
    standardised values (moments: a Task's).
    """
    if kind == "single-label":
        return -(labels * logits.log_softmax(-1)).sum(-1).mean(-1)
    if kind == "regression":
        mean, sd = moments
        return (logits - (labels - mean) / sd).square().mean((-2, -1))
    return F.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none").mean((-2, -1))


def probabilities(kind: str, logits: Tensor, moments: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """(..., C) logits -> (..., C) probabilities; of a regression the values in their unit."""
    if kind == "regression":
        mean, sd = moments
        return logits * sd + mean
    return logits.softmax(-1) if kind == "single-label" else logits.sigmoid()


def selection(kind: str, labels: np.ndarray, p: np.ndarray) -> float:
    """What decides which weights are tested: macro AUROC, or R2, of (n, C) labels and probabilities."""
    return regression.r2(labels, p) if kind == "regression" else float(metrics.auroc(labels.astype(np.int64), p).mean())


def kinds(store: Store) -> dict[str, str]:
    """Task -> kind, of all that the store's columns yield."""
    own = {task: store.kind(task) for task in store.manifest["tasks"]}
    return {f"{task}{SINGLE}": "single-label" for task, kind in own.items() if kind == "multi-label"} | own


def read(store: Store, task: str) -> tuple[str, list[str], np.ndarray, np.ndarray]:
    """(kind, classes, (records, C) float32 labels, (records,) bool: those that have one of the task)."""
    known = kinds(store)
    if task not in known:
        raise unknown("task", task, known) if known else UserError(f"store {store.name} is unlabelled: no task at all")
    kind, column = known[task], task if task in store.manifest["tasks"] else task.removesuffix(SINGLE)
    classes, texts = store.manifest["tasks"][column], store.records[column]
    labels = np.zeros((len(texts), len(classes)), np.float32)
    if kind == "regression":
        used = texts.to_numpy() != ""
        labels[used, 0] = texts[used].astype(np.float32)
        return kind, classes, labels, used
    of = {c: i for i, c in enumerate(classes)}
    for row, text in enumerate(texts):
        for label in filter(None, text.split(";")):
            labels[row, of[label]] = 1
    return kind, classes, labels, np.asarray(labels.sum(1) == 1 if kind == "single-label" else labels.any(1))


def load(store: Store, task: str, folds: Mapping[str, Sequence[int]], *, empty_classes: str = "refuse",
         shortest: int = 0, fraction: float = 1.0) -> Task:
    """The task's three splits; records without a label of the task, or of fewer than `shortest` samples, are left out.

    Of the training folds a fraction of the patients, see fractions.py. A class that loses its positives there is trained
    and tested as any other, and named in facts["untrained"].

    UserError when the store has no labels for the task, a split is empty, or a class has no positive (or no
    negative) in a split; empty_classes="drop" leaves such classes out instead.
    """
    if empty_classes not in ("refuse", "drop"):
        raise unknown("value of empty_classes", empty_classes, ("refuse", "drop"))
    kind, classes, labels, labelled = read(store, task)
    used = labelled & (store.records.length.to_numpy() >= shortest)
    if not used.any():
        raise UserError(f"store {store.name} has no record with a label of task {task!r}")

    splits: dict[str, Split] = {}
    lacking: dict[int, str] = {}
    for part in ("train", "validation", "test"):
        rows = np.flatnonzero(used & store.records.fold.isin(folds[part]).to_numpy())
        if not len(rows):
            have = sorted(set(store.records.fold[used]))
            raise UserError(f"folds.{part} is {list(folds[part])}, but store {store.name} has no record of task "
                            f"{task!r} there; its folds: {', '.join(map(str, have))}")
        splits[part] = Split(rows, labels[rows])
        if kind == "regression":
            if (labels[rows] == labels[rows[0]]).all():
                raise UserError(f"task {task!r} of store {store.name}: every record in {part} has the same value")
            continue
        positives = labels[rows].sum(0)
        for i in np.flatnonzero((positives == 0) | (positives == len(rows))):
            lacking.setdefault(int(i), f"{classes[i]} has {'no' if not positives[i] else 'only'} positive in {part}")
    if lacking and empty_classes == "refuse":
        raise UserError(f"task {task!r} of store {store.name}: {'; '.join(lacking.values())}; AUROC is not defined "
                        f"there (--set empty_classes=drop leaves such classes out)")
    keep = [i for i in range(len(classes)) if i not in lacking]
    if len(keep) < (2 if kind == "single-label" else 1):
        raise UserError(f"task {task!r} of store {store.name}: {'one' if keep else 'no'} class has positives and negatives "
                        f"in every split")
    for part, split in splits.items():  # a record of no class but a dropped one tells a softmax nothing
        some = split.labels[:, keep].any(1) if kind == "single-label" else np.ones(len(split.rows), bool)
        splits[part] = Split(split.rows[some], split.labels[some][:, keep])
    classes = [classes[i] for i in keep]
    train = splits["train"]
    patients = patients_of(store, train.rows)
    if fraction < 1:
        chosen = fractions.keep(train.labels, patients, fraction, kind)
        train, patients = Split(train.rows[chosen], train.labels[chosen]), patients[chosen]
    moments = (0.0, 1.0)
    if kind == "regression":
        moments = float(train.labels.mean(dtype=np.float64)), float(train.labels.std(dtype=np.float64))
        if not moments[1]:
            raise UserError(f"task {task!r} of store {store.name}: the {len(train.rows)} training records have one value")
    inside = store.records.fold.isin([fold for part in folds.values() for fold in part]).to_numpy()
    left_out = {"unlabelled": int((inside & ~labelled).sum()), "short": int((inside & labelled & ~used).sum())}
    return Task(kind, classes, train, splits["validation"], splits["test"], classes, moments, facts={
        "kind": kind, "train_patients": len(set(patients)), "left_out": left_out, "dropped": list(lacking.values()),
        "untrained": [c for c, n in zip(classes, train.labels.sum(0), strict=True) if kind != "regression" and not n]})


def shuffled(task: Task, order: int) -> Task:
    """The task with the labels of its training and of its validation records permuted, in an order of this number."""
    rng = np.random.default_rng(order)
    train, validation = (Split(s.rows, s.labels[rng.permutation(len(s.rows))]) for s in (task.train, task.validation))
    return replace(task, train=train, validation=validation)


def patients_of(store: Store, rows: np.ndarray) -> np.ndarray:
    """(n,) text: whose record each is; one without a patient_id is a patient of its own."""
    table = store.records.iloc[rows]
    return np.where(table.patient_id == "", "record " + table.record_id, "patient " + table.patient_id).astype(str)
