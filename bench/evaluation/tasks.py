"""What is predicted: the records of each fold and their labels, as a store holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bench.data.store import Store
from bench.errors import UserError, unknown
from bench.evaluation import metrics


@dataclass(frozen=True)
class Split:
    rows: np.ndarray  # (n,) rows of the store's records
    labels: np.ndarray  # (n, C) float32, 1 where the record has the class


@dataclass(frozen=True)
class Task:
    classes: list[str]
    train: Split
    validation: Split
    test: Split
    kind: str = "multi-label"


def loss(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over records and classes, both (B, C)."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """(..., C) logits -> what is scored."""
    return logits.sigmoid()


def selection(kind: str, y: np.ndarray, p: np.ndarray) -> float:
    """What the validation folds choose by, the more the better, of labels and probabilities (n, C)."""
    return float(metrics.auroc(y.astype(np.int64), p).mean())


def load(store: Store, task: str, folds: Mapping[str, Sequence[int]], *, empty_classes: str = "refuse",
         shortest: int = 0) -> Task:
    """The task's three splits; records without a label of the task, or of fewer than `shortest` samples, are left out.

    UserError when the store has no labels for the task, a split is empty, or a class has no positive (or no
    negative) in a split; empty_classes="drop" leaves such classes out instead.
    """
    known = store.manifest["tasks"]
    if task not in known:
        raise unknown("task", task, known) if known else UserError(f"store {store.name} is unlabelled: no task at all")
    if empty_classes not in ("refuse", "drop"):
        raise unknown("value of empty_classes", empty_classes, ("refuse", "drop"))
    classes = known[task]
    of = {c: i for i, c in enumerate(classes)}
    labels = np.zeros((len(store.records), len(classes)), np.float32)
    for row, text in enumerate(store.records[task]):
        for label in filter(None, text.split(";")):
            labels[row, of[label]] = 1
    used = labels.any(1) & (store.records.length.to_numpy() >= shortest)
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
        positives = labels[rows].sum(0)
        for i in np.flatnonzero((positives == 0) | (positives == len(rows))):
            lacking.setdefault(int(i), f"{classes[i]} has {'no' if not positives[i] else 'only'} positive in {part}")
    if lacking and empty_classes == "refuse":
        raise UserError(f"task {task!r} of store {store.name}: {'; '.join(lacking.values())}; AUROC is not defined "
                        f"there (--set empty_classes=drop leaves such classes out)")
    keep = [i for i in range(len(classes)) if i not in lacking]
    if not keep:
        raise UserError(f"task {task!r} of store {store.name}: no class has positives and negatives in every split")
    splits = {part: Split(s.rows, s.labels[:, keep]) for part, s in splits.items()}
    return Task([classes[i] for i in keep], splits["train"], splits["validation"], splits["test"])
