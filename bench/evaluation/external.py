"""External tests: a task is tested on another store than the one that it is trained on.

external.csv maps the labels of other corpora to statements of PTB-XL. Its column `source` says why they match:
    challenge    the Challenge of 2021 uses this code for this statement: its tables of codes count the code among its
                 PTB-XL records (dx_mapping_scored.csv, dx_mapping_unscored.csv of
                 github.com/physionetchallenges/evaluation-2021)
    scored-same  the Challenge scores this code and a code with `challenge` as one diagnosis (the same tables)
    name         the two names mean the same. AF, RBBB, ... are the class names of the CPSC of 2018
The table leaves out codes that stand for several statements (t wave abnormal: NDT, NT_, LOWT, ...), and statements whose
name means less or more than the code (SVARR, ABQRS). It also leaves out NORM, which the Challenge writes as sinus rhythm.
If the external store has the task itself, its own labels count. LUDB is the exception: its rhythms are not PTB-XL's.

The labels of a corpus are what its readers wrote down. As in PTB-XL, a record without a label of the task is left out, and
a record with any label is negative for all classes that it is not labelled with.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.data import leak
from bench.data.store import Store
from bench.evaluation import tasks
from bench.evaluation.tasks import SINGLE, Split, Task

GROUPED = ("subdiagnostic", "superdiagnostic")  # a class is a group of statements, even if it bears a statement's name (AMI)
LISTED = 5  # number of records that an error lists


@functools.cache
def read_mapping(vocabulary: str) -> dict[str, str]:
    """Label of the vocabulary (snomed, ludb) -> PTB-XL's statement."""
    table = pd.read_csv(Path(__file__).with_suffix(".csv"), dtype=str, keep_default_na=False)
    table = table[table.vocabulary == vocabulary]
    return dict(zip(table.label, table.statement, strict=True))


def replace_test_split(task: Task, name: str, home: Store, store: Store, *, shortest: int = 0) -> Task:
    """A copy of the task whose test split is all labelled records of `store`, from all folds. home: the training store.

    The classes that have a positive and a negative there are scored; facts["external"] says why the others are not. The
    test signals are normalised with home's mean and sd, so nothing of the test set is used before it is predicted.

    UserError if the stores differ in rate, leads or units, if `store` shares a record or a patient with the training or
    validation folds, or if no class can be scored.
    """
    if store.fingerprint == home.fingerprint:
        raise UserError(f"store {store.name} is the training store; name another store as the external test set")
    for what in ("rate_hz", "leads", "units"):
        if store.manifest[what] != home.manifest[what]:
            raise UserError(f"external store {store.name} has {what} {store.manifest[what]!r}, the training store {home.name} "
                            f"has {home.manifest[what]!r}; both must have the same")
    external = read_external_labels(store, task, name)
    used = external.labelled & (store.records.length.to_numpy() >= shortest)
    rows = np.flatnonzero(used)
    check_disjoint(home, np.concatenate([task.train.rows, task.validation.rows]), store, rows)
    labels = external.values[rows]
    unscored = {}
    if task.kind == "regression":
        if not len(rows) or (labels == labels[0]).all():
            raise UserError(f"external store {store.name} has no two different values of task {name!r}")
    else:
        positives = labels.sum(0)
        for c, n in zip(task.classes, positives, strict=True):
            if n in (0, len(rows)):
                unscored[c] = "only positives" if n else "no positive" if c in external.possible else "no label stands for it"
    scored = [c for c in task.classes if c not in unscored]
    if not scored:
        raise UserError(f"external store {store.name} has no class of task {name!r} with positives and negatives among its "
                        f"{len(rows):,} records with a label of the task")
    columns = [task.classes.index(c) for c in scored]
    facts = {"unscored": unscored, "left_out": {
        "unlabelled": int((~external.labelled).sum()), "short": int((external.labelled & ~used).sum())}}
    return replace(
        task, test=Split(rows, labels[:, columns]), scored=scored, facts=task.facts | {"external": facts},
        tested_on=replace(store, manifest=store.manifest | {key: home.manifest[key] for key in ("mean", "sd")}))


def check_disjoint(home: Store, trained: np.ndarray, store: Store, rows: np.ndarray) -> None:
    """UserError if the rows of the store share a record or a patient with the `trained` rows of home."""
    marks = leak.marks(home, trained)
    for kind, mark in leak.marks(store, rows).items():
        shared = rows[np.isin(mark, marks[kind]) & (mark != 0)]
        if len(shared):
            ids = ", ".join(store.records.record_id.iloc[shared[:LISTED]])
            raise UserError(f"{len(shared):,} records of external store {store.name} are in the training or validation folds of "
                            f"{home.name} ({leak.KINDS[kind]}): {ids}{', ...' if len(shared) > LISTED else ''}")


@dataclass(frozen=True)
class ExternalLabels:
    """The labels that an external store has of a task's classes."""

    values: np.ndarray  # (records, C) float32
    labelled: np.ndarray  # (records,) bool: which records have a label of the task
    possible: set[str]  # the classes that a label of the store can stand for


def read_external_labels(store: Store, task: Task, name: str) -> ExternalLabels:
    """The store's labels of the task's classes; UserError where no label stands for any of them."""
    own = tasks.list_tasks(store)
    if store.corpus == "ludb" and "rhythm" in own:
        vocabulary, column = "ludb", "rhythm"
    elif name in own:
        return read_own_labels(store, task, name)
    elif "snomed" in own:
        vocabulary = column = "snomed"
    else:
        raise UserError(f"external store {store.name} has neither task {name!r} nor labels that stand for its classes; its "
                        f"tasks: {', '.join(sorted(own)) or 'none'}")
    if task.kind == "regression" or name.removesuffix(SINGLE) in GROUPED:
        raise UserError(f"the labels of external store {store.name} stand for single statements of PTB-XL, which task {name!r} "
                        f"does not have; all, diagnostic, form and rhythm do")
    statement = read_mapping(vocabulary)
    index = {c: i for i, c in enumerate(task.classes)}
    labels = np.zeros((len(store.records), len(index)), np.float32)
    for row, text in enumerate(store.records[column]):
        for label in text.split(";"):
            if (i := index.get(statement.get(label, ""))) is not None:
                labels[row, i] = 1
    if not labels.any():
        raise UserError(f"external store {store.name} has no label that stands for a class of task {name!r}; its labels: "
                        f"{', '.join(store.manifest['tasks'][column])!s:.200}")
    labelled = np.asarray(labels.sum(1) == 1 if task.kind == "single-label" else labels.any(1))
    return ExternalLabels(labels, labelled, set(statement.values()))


def read_own_labels(store: Store, task: Task, name: str) -> ExternalLabels:
    """The labels of a store that has the task itself. Classes that the store does not have get no positives."""
    own = tasks.read_labels(store, name)
    kind, classes = own.kind, own.classes
    if kind != task.kind or (kind == "regression" and classes != task.classes):
        raise UserError(f"task {name!r} of external store {store.name} is {kind} ({', '.join(classes)!s:.80}), but trained as "
                        f"{task.kind} ({', '.join(task.classes)!s:.80})")
    if kind == "regression":
        return ExternalLabels(own.values, own.labelled, set())
    labels = np.zeros((len(own.values), len(task.classes)), np.float32)
    for i, c in enumerate(task.classes):
        if c in classes:
            labels[:, i] = own.values[:, classes.index(c)]
    return ExternalLabels(labels, own.labelled & labels.any(1), set(classes))
