"""The test split of a task in another store than the one that is trained on.

external.csv says which of PTB-XL's statements a label of another corpus stands for, and on whose word:
    challenge    the Challenge of 2021 writes this statement of PTB-XL with this code: its tables of codes count it among its
                 PTB-XL records (dx_mapping_scored.csv, dx_mapping_unscored.csv of
                 github.com/physionetchallenges/evaluation-2021)
    scored-same  the Challenge scores this code and one with `challenge` as one diagnosis (the same tables)
    name         the names say the same, as we read them. AF, RBBB, ... are what the CPSC of 2018 called its classes
Codes are left out that stand for several statements (t wave abnormal: NDT, NT_, LOWT, ...), statements whose name says
less or more than the code (SVARR, ABQRS), and NORM: the Challenge writes it, too, as sinus rhythm.
A store that has the task itself is tested by its own labels, except LUDB, whose rhythms are not PTB-XL's.

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

GROUPED = ("subdiagnostic", "superdiagnostic")  # classes are groups of statements, even where called as one of them (AMI)
LISTED = 5  # records that an error names


@functools.cache
def read_mapping(vocabulary: str) -> dict[str, str]:
    """Label of the vocabulary (snomed, ludb) -> PTB-XL's statement."""
    table = pd.read_csv(Path(__file__).with_suffix(".csv"), dtype=str, keep_default_na=False)
    table = table[table.vocabulary == vocabulary]
    return dict(zip(table.label, table.statement, strict=True))


def replace_test_split(task: Task, name: str, home: Store, store: Store, *, shortest: int = 0) -> Task:
    """The task `name` of home with all records of store, whatever their fold, as its test split.

    Scored are the classes that have a positive and a negative there; facts["external"] says why the others are not. The
    signals are normalised with home's statistics: nothing of the test set is used before it is predicted.

    UserError where the stores have other rates, leads or units, share records or patients with what is trained on, or no
    class can be scored.
    """
    if store.fingerprint == home.fingerprint:
        raise UserError(f"store {store.name} is the one that is trained on; name another as the external test set")
    for what in ("rate_hz", "leads", "units"):
        if store.manifest[what] != home.manifest[what]:
            raise UserError(f"external store {store.name} has {what} {store.manifest[what]!r}, {home.name} that is trained on "
                            f"{home.manifest[what]!r}; they must be the same")
    external = read_external_labels(store, task, name)
    used = external.labelled & (store.records.length.to_numpy() >= shortest)
    rows = np.flatnonzero(used)
    check_disjoint(home, np.concatenate([task.train.rows, task.validation.rows]), store, rows)
    labels = external.values[rows]
    unscored = {}
    if task.kind == "regression":
        if not len(rows) or (labels == labels[0]).all():
            raise UserError(f"external store {store.name} has no two values of task {name!r}")
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
    """UserError where the rows of the store share a record or a patient with the rows of home that are trained on."""
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
    """The labels of a store that has the task itself, with some of its classes."""
    own = tasks.read_labels(store, name)
    kind, classes = own.kind, own.classes
    if kind != task.kind or (kind == "regression" and classes != task.classes):
        raise UserError(f"task {name!r} of external store {store.name} is {kind} ({', '.join(classes)!s:.80}), it is trained as "
                        f"{task.kind} ({', '.join(task.classes)!s:.80})")
    if kind == "regression":
        return ExternalLabels(own.values, own.labelled, set())
    labels = np.zeros((len(own.values), len(task.classes)), np.float32)
    for i, c in enumerate(task.classes):
        if c in classes:
            labels[:, i] = own.values[:, classes.index(c)]
    return ExternalLabels(labels, own.labelled & labels.any(1), set(classes))
