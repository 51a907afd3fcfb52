"""What is predicted: folds and labels, or one line that says why not."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from corpora import array_corpus, noise
from sklearn.metrics import r2_score, roc_auc_score

from bench.core.errors import UserError
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.store import Store
from bench.evaluation import tasks

FOLDS = {"train": [1, 2, 3, 4, 5, 6, 7, 8], "validation": [9], "test": [10]}


def relabelled(store: Store, *changes: tuple[int, str]) -> Store:
    store = replace(store)
    records = store.records.copy()
    for row, text in changes:
        records.loc[row, "pitch"] = text
    store.__dict__["records"] = records  # where functools.cached_property keeps it
    return store


def test_splits_are_the_folds_and_labels_are_the_stores(tiny: Store) -> None:
    task = tasks.load_task(tiny, "pitch", FOLDS)
    assert task.classes == ["high", "low", "odd"]
    parts = (task.train, task.validation, task.test)
    assert [part.rows.tolist() for part in parts] == [list(range(64)), list(range(64, 72)), list(range(72, 80))]
    assert task.test.labels.dtype == np.float32
    for split in parts:
        for row, labels in zip(split.rows, split.labels, strict=True):
            text = tiny.records["pitch"][row].split(";")
            assert labels.tolist() == [float(c in text) for c in task.classes]


def test_records_without_a_label_of_the_task_or_too_short_are_left_out(tiny: Store) -> None:
    store = relabelled(tiny, (3, ""), (70, ""))
    store.records.loc[5, "length"] = 249
    task = tasks.load_task(store, "pitch", FOLDS, shortest=250)
    assert set(range(72)) - {*task.train.rows, *task.validation.rows} == {3, 5, 70}
    with pytest.raises(UserError, match=r"all 64 records .* in folds.train .* shorter than evaluation.crop_seconds"):
        tasks.load_task(tiny, "pitch", FOLDS, shortest=1001)


def test_an_empty_fold_is_named_with_those_that_exist(tiny: Store) -> None:
    with pytest.raises(UserError, match=r"folds\.test is \[11, 12\].*its folds: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"):
        tasks.load_task(tiny, "pitch", {**FOLDS, "test": [11, 12]})


@pytest.mark.parametrize(("part", "rows"), [("validation", range(64, 72)), ("test", range(72, 80)), ("train", range(64))])
def test_a_class_without_a_positive_is_refused_or_dropped(tiny: Store, part: str, rows: range) -> None:
    store = relabelled(tiny, *((i, "low") for i in rows if tiny.records["pitch"][i] == "odd"))
    with pytest.raises(UserError, match=f"odd has no positive in {part}; AUROC is not defined there.*empty_classes=drop"):
        tasks.load_task(store, "pitch", FOLDS)
    task = tasks.load_task(store, "pitch", FOLDS, empty_classes="drop")
    assert task.classes == ["high", "low"] and len(task.test.rows) == 8
    assert all(s.labels.shape[1] == 2 for s in (task.train, task.validation, task.test))


# kinds


def targets(folder: Path, **columns: list[str]) -> Store:
    """A store of 20 records, two in each fold, one patient each, with a task per column."""
    spec = {"tasks": list(columns), "single_label": [c for c in columns if c == "sex"],
            "regression": {c: "years" for c in columns if c == "age"}}
    table = {"fold": [i // 2 + 1 for i in range(20)], **columns}
    return prepare(open_corpus("array", array_corpus(folder / "a", noise(20, 12, 300), table, **spec), None), folder)


def test_real_records_with_two_superclasses_are_not_in_the_single_label_task(shared: Path) -> None:
    with (shared / "golden" / "ptbxl_task_labels.csv").open() as f:
        rows = list(csv.DictReader(f))
    classes = ["CD", "HYP", "MI", "NORM", "STTC"]
    store = SimpleNamespace(
        name="golden", kind=lambda task: "multi-label", manifest={"tasks": {"superdiagnostic": classes}},
        records=pd.DataFrame({"superdiagnostic": [row["superdiagnostic"] for row in rows]}))
    labels = tasks.read_labels(store, "superdiagnostic-single")  # type: ignore[arg-type]
    used = labels.labelled
    assert labels.kind == "single-label"
    assert used.tolist() == [bool(row["superdiagnostic"]) and ";" not in row["superdiagnostic"] for row in rows]
    assert [classes[i] for i in labels.values[used].argmax(1)] == [rows[i]["superdiagnostic"] for i in np.flatnonzero(used)]


def test_values_that_are_missing_are_left_out_and_counted_and_the_training_rows_give_the_moments(tmp_path: Path) -> None:
    store = targets(tmp_path, age=["nan", "", *(str(50 + i) for i in range(18))])
    task = tasks.load_task(store, "age", FOLDS)
    assert (task.kind, task.classes) == ("regression", ["years"])
    assert task.facts["left_out"] == {"unlabelled": 2, "short": 0}
    values = np.arange(50, 64)
    assert task.train.labels.tolist() == [[v] for v in values]
    assert task.moments == pytest.approx((values.mean(), values.std()))
    assert task.test.labels.tolist() == [[66], [67]]
    with pytest.raises(UserError, match="every record in test has the same value"):
        tasks.load_task(targets(tmp_path / "b", age=[*(str(i) for i in range(18)), "50", "50"]), "age", FOLDS)


def test_a_dropped_class_of_a_single_label_task_takes_its_records_with_it(tmp_path: Path) -> None:
    three = targets(tmp_path, sex=[*["f", "m"] * 7, "x", "x", "f", "m", "m", "f"])
    task = tasks.load_task(three, "sex", FOLDS, empty_classes="drop")
    assert task.classes == ["f", "m"] and len(task.train.rows) == 14
    assert all((s.labels.sum(1) == 1).all() for s in (task.train, task.validation, task.test))


LOGITS, LABELS = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)[[0, 2, 1, 1, 3, 0]]


@pytest.mark.parametrize("kind", ["multi-label", "single-label", "regression"])
def test_the_loss_is_per_model_what_the_formula_says(kind: str) -> None:
    found = tasks.loss(kind, LOGITS, LABELS, (0.2, 0.5))
    assert found.shape == (3, 2)
    formula = {"multi-label": lambda x: F.binary_cross_entropy_with_logits(x, LABELS),
               "single-label": lambda x: F.cross_entropy(x, LABELS.argmax(1)),
               "regression": lambda x: F.mse_loss(x, (LABELS - 0.2) / 0.5)}[kind]
    expected = [formula(x).item() for x in LOGITS.flatten(0, 1)]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_probabilities_and_the_metric_of_the_choice_are_in_the_kind_s_own_terms() -> None:
    assert torch.equal(tasks.probabilities("multi-label", LOGITS), LOGITS.sigmoid())
    assert tasks.probabilities("single-label", LOGITS).sum(-1).flatten().tolist() == pytest.approx([1] * 36)
    values = torch.tensor([[40.0], [71.0]])
    standardised = (values - 60) / 15
    assert tasks.probabilities("regression", standardised, (60.0, 15.0)).flatten().tolist() == pytest.approx([40, 71])
    y, p = LABELS.numpy(), LOGITS[0, 0].sigmoid().numpy()
    assert tasks.selection("single-label", y, p) == pytest.approx(roc_auc_score(y, p, average="macro"))
    assert tasks.selection("regression", y[:, :1], p[:, :1]) == pytest.approx(r2_score(y[:, 0], p[:, 0]))


def test_a_fraction_cuts_the_training_folds_alone_by_patient(tiny: Store) -> None:
    store = replace(tiny)
    store.__dict__["records"] = tiny.records.assign(patient_id=[f"p{i // 3}" for i in range(80)])
    whole = tasks.load_task(store, "pitch", FOLDS)
    task = tasks.load_task(store, "pitch", FOLDS, fraction=0.25)
    assert whole.facts["train_patients"] == 22 and task.facts["train_patients"] == 6
    assert set(task.train.rows) < set(whole.train.rows)
    assert np.array_equal(task.train.labels, whole.train.labels[np.isin(whole.train.rows, task.train.rows)])
    chosen = {row // 3 for row in task.train.rows}
    assert task.train.rows.tolist() == [row for row in whole.train.rows if row // 3 in chosen]
    for part in ("validation", "test"):
        assert np.array_equal(getattr(task, part).rows, getattr(whole, part).rows)


def test_shuffled_labels_are_those_of_other_records_but_in_the_test_fold(tiny: Store) -> None:
    task = tasks.load_task(tiny, "pitch", FOLDS)
    made, other = tasks.shuffle_labels(task, 1), tasks.shuffle_labels(task, 2)
    for part in ("train", "validation"):
        before, after = getattr(task, part), getattr(made, part)
        assert np.array_equal(before.rows, after.rows)
        assert sorted(before.labels.tolist()) == sorted(after.labels.tolist())
    assert not any(np.array_equal(each.train.labels, made.train.labels) for each in (task, other))
    assert made.test is task.test


def test_a_class_without_positives_in_the_fraction_is_named_and_kept(tiny: Store) -> None:
    task = tasks.load_task(tiny, "pitch", FOLDS, fraction=2 / 64)
    assert task.facts["train_patients"] == len(task.train.rows) == 2  # a record without a patient is a patient of its own
    assert task.facts["untrained"] == [c for c, n in zip(task.classes, task.train.labels.sum(0), strict=True) if not n] != []
    assert task.classes == ["high", "low", "odd"] and (task.test.labels.sum(0) > 0).all()
