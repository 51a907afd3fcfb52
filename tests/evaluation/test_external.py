"""A test set from elsewhere: its labels in the task's terms, its classes named, nothing of it seen in training."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import array_corpus, noise

from bench.core.errors import UserError
from bench.data.corpora import challenge, open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.loader import Crops
from bench.data.store import Store
from bench.evaluation import external, tasks
from bench.evaluation.tasks import Task

FOLDS = {"train": [1, 2, 3, 4, 5, 6, 7, 8], "validation": [9], "test": [10]}
RHYTHMS = ["SR", "AFIB", "SBRAD", "SVARR"]


def store(folder: Path, name: str, labels: dict[str, list[str]], seed: int = 0, *, signals: np.ndarray | None = None,
          patients: list[str] | None = None, **spec: Any) -> Store:
    """A store of as many records of 3 s as there are labels."""
    n = len(next(iter(labels.values())))
    table = {**labels, **({"patient_id": patients} if patients else {}),
             "record_id": [f"{name}{i}" for i in range(n)]}
    if spec.pop("folds", True):
        table["fold"] = [str(i % 10 + 1) for i in range(n)]
    data = noise(n, 12, 300, seed=seed) if signals is None else signals
    return prepare(open_corpus("array", array_corpus(folder / f"{name}-data", data, table, name=name, tasks=list(labels),
                                                     **spec), None), folder)


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """80 records with the four rhythms in every fold."""
    return store(tmp_path, "home", {"rhythm": [RHYTHMS[i // 10 % 4] for i in range(80)]})


@pytest.fixture
def task(home: Store) -> Task:
    return tasks.load_task(home, "rhythm", FOLDS)


def away(folder: Path, codes: list[str], **more: Any) -> Store:
    return store(folder, "away", {"snomed": codes}, seed=1, folds=False, **more)


def test_labels_are_mapped_and_what_cannot_be_scored_is_named(task: Task, home: Store, tmp_path: Path) -> None:
    other = away(tmp_path, ["164889003", "426783006;164873001", "164873001", "", "426783006", "164889003;426783006"])
    made = external.replace_test_split(task, "rhythm", home, other)
    assert made.classes == ["AFIB", "SBRAD", "SR", "SVARR"] and made.scored == ["AFIB", "SR"]
    assert made.test.rows.tolist() == [0, 1, 4, 5]
    assert made.test.labels.tolist() == [[1, 0], [0, 1], [0, 1], [1, 1]]
    assert made.facts["external"] == {"unscored": {"SBRAD": "no positive", "SVARR": "no label stands for it"},
                                      "left_out": {"unlabelled": 2, "short": 0}}
    assert made.train is task.train and made.validation is task.validation


def test_all_records_are_tested_whatever_their_fold_and_normalised_as_at_home(task: Task, home: Store,
                                                                              tmp_path: Path) -> None:
    other = store(tmp_path, "away", {"rhythm": ["SR", "AFIB"] * 10}, signals=3 * noise(20, 12, 300, seed=1))
    made = external.replace_test_split(task, "rhythm", home, other)
    assert made.test.rows.tolist() == list(range(20)) and made.scored == ["AFIB", "SR"]
    assert made.tested_on is not None
    crops = Crops(made.tested_on, 300, torch.device("cpu"))
    x = crops.normalise(crops.raw(torch.tensor([7]), torch.tensor([0])))[0].numpy()
    assert x == pytest.approx(((other.signal(7) - home.mean[:, None]) / home.sd[:, None]).clip(-5, 5), abs=1e-5)
    assert home.sd[0] < 0.5 * other.sd[0]


def test_a_regression_is_tested_on_the_same_target_in_the_same_unit(tmp_path: Path) -> None:
    ages = [str(40 + i) for i in range(20)]
    home = store(tmp_path, "home", {"age": ages}, regression={"age": "years"})
    other = store(tmp_path, "away", {"age": ["", *ages[1:]]}, 1, regression={"age": "years"})
    made = external.replace_test_split(tasks.load_task(home, "age", FOLDS), "age", home, other)
    assert made.test.labels[:, 0].tolist() == list(range(41, 60)) and made.scored == ["years"]


@pytest.mark.parametrize(("labels", "message"), [
    ({"snomed": ["164873001"] * 3}, "no label that stands for a class of task 'rhythm'; its labels: 164873001"),
    ({"snomed": ["164889003"] * 3}, "no class of task 'rhythm' with positives and negatives among its 3 records"),
    ({"other": ["a", "b"]}, "external store away has neither task 'rhythm' nor labels that stand for its classes; its tasks"),
])
def test_a_store_that_cannot_test_is_refused(task: Task, home: Store, tmp_path: Path, labels: dict[str, list[str]],
                                             message: str) -> None:
    with pytest.raises(UserError, match=message):
        external.replace_test_split(task, "rhythm", home, store(tmp_path, "away", labels, 1))


def test_codes_of_statements_do_not_test_groups_of_them(tmp_path: Path) -> None:
    name = "superdiagnostic-single"
    grouped = store(tmp_path, "grouped", {"superdiagnostic": [["AMI", "IMI"][i // 10 % 2] for i in range(40)]})
    other = away(tmp_path, ["54329005", "164889003"])
    with pytest.raises(UserError, match="stand for single statements of PTB-XL"):
        external.replace_test_split(tasks.load_task(grouped, name, FOLDS), name, grouped, other)


def test_another_rate_and_the_store_at_home_are_refused(task: Task, home: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="external store away has rate_hz"):
        external.replace_test_split(task, "rhythm", home, away(tmp_path, ["164889003", "426783006"], rate_hz=200))
    with pytest.raises(UserError, match="is the training store"):
        external.replace_test_split(task, "rhythm", home, home)


@pytest.mark.parametrize("fold", [1, 9])
def test_a_record_of_the_training_or_validation_folds_is_refused(task: Task, home: Store, tmp_path: Path, fold: int) -> None:
    signals = noise(2, 12, 300, seed=1)
    signals[1] = noise(80, 12, 300)[fold - 1]
    with pytest.raises(UserError, match=r"1 records of external store away .* home \(the same samples\): away1"):
        external.replace_test_split(task, "rhythm", home, away(tmp_path, ["164889003", "426783006"], signals=signals))
    signals[1] = noise(80, 12, 300)[9]  # fold 10 is not used
    other = away(tmp_path / "b", ["164889003", "426783006"], signals=signals)
    assert external.replace_test_split(task, "rhythm", home, other).scored


def test_a_patient_of_the_training_folds_is_refused(tmp_path: Path) -> None:
    labels = {"rhythm": [["SR", "AFIB"][i // 10 % 2] for i in range(40)]}
    home = store(tmp_path, "clinic", labels, patients=[f"p{i}" for i in range(40)])
    later = store(tmp_path / "later", "clinic", labels, 1, patients=[f"p{i + 39}" for i in range(40)])
    later.__dict__["records"] = later.records.assign(record_id=[f"later{i}" for i in range(40)])
    folds = {"train": list(range(1, 9)), "validation": [9, 10], "test": [9]}  # p39 is in fold 10
    with pytest.raises(UserError, match=r"1 records of .*the same patient\): later0"):
        external.replace_test_split(tasks.load_task(home, "rhythm", folds), "rhythm", home, later)


def test_every_row_of_the_table_has_one_meaning_and_names_a_code_and_a_statement_that_exist(shared: Path) -> None:
    with Path(external.__file__).with_suffix(".csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len({(row["vocabulary"], row["label"]) for row in rows}) == len(rows)
    codes = {row["label"] for row in rows if row["vocabulary"] == "snomed" and row["label"].isdigit()}
    assert codes <= set(challenge.snomed_names())
    with (shared / "data" / "ptb-xl-500" / "scp_statements.csv").open() as f:
        assert {row["statement"] for row in rows} <= {row[""] for row in csv.DictReader(f)}


def test_codes_of_real_records_agree_with_the_statements_of_the_same_records(shared: Path) -> None:
    with (shared / "data" / "ptb-xl-mini" / "records.csv").open() as f:
        mini = {row["record_id"]: row for row in csv.DictReader(f)}
    statement, agreed = external.read_mapping("snomed"), set()
    for path in sorted((shared / "data" / "challenge-2021" / "ptb-xl").glob("HR*.hea")):
        row = mini[str(int(path.stem.removeprefix("HR")))]
        theirs = {x for task in ("subdiagnostic", "form", "rhythm", "statements") for x in row[task].split(";")}
        for code in (challenge.read_diagnoses(path) or "").split(";"):
            if code in statement:  # sinus rhythm is also how the Challenge writes NORM
                assert statement[code] in theirs or (statement[code] == "SR" and "NORM" in theirs), (path.stem, code)
                agreed.add(statement[code])
    assert agreed == {"SR", "SBRAD", "STACH", "IRBBB", "NST_"}


def test_the_real_rhythms_of_ludb_test_the_rhythms_of_ptb_xl(shared: Path, tmp_path: Path) -> None:
    table = open_corpus("ptb-xl", shared / "data" / "ptb-xl-500", 100)
    ludb = prepare(open_corpus("ludb", shared / "data" / "ludb", None), tmp_path, rate_hz=100)
    classes = table.tasks["rhythm"]
    home = store(tmp_path, "home", {"rhythm": [classes[i // 10 % 12] for i in range(240)]}, signals=noise(240, 12, 20))
    task = tasks.load_task(home, "rhythm", FOLDS)
    made = external.replace_test_split(task, "rhythm", home, ludb)
    expected = {"SR": 143, "SBRAD": 25, "AFIB": 15, "SARRH": 10, "STACH": 4, "AFLT": 3}
    assert len(made.test.rows) == 200
    assert dict(zip(made.scored, made.test.labels.sum(0).astype(int).tolist(), strict=True)) == expected
    assert set(made.facts["external"]["unscored"]) == set(task.classes) - set(expected)
