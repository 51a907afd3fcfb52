from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import corpora
import numpy as np
import pytest
from corpora import noise

from bench.core.errors import UserError
from bench.data import leak
from bench.data.ingest.prepare import prepare
from bench.data.store import Store

SIGNALS = noise(10, 12, 100)
FOLDS = list(range(1, 11))
HELD_OUT = np.array([8, 9])


def store_of(folder: Path, signals: np.ndarray, *, folds: list[int] | None = None, patients: list[str] | None = None,
             ids: list[str] | None = None, name: str = "other", corpus: str = "mine") -> Store:
    opened = corpora.corpus_folder(signals, folds or [], name=corpus)
    if patients:
        opened.records["patient_id"] = patients
    if ids:
        opened.records["record_id"] = ids
    return prepare(replace(opened, name=corpus), folder, name=name)


@pytest.fixture
def evaluated(tmp_path: Path) -> Store:
    """Ten records of ten patients in ten folds; 9 and 10 are held out."""
    return store_of(tmp_path, SIGNALS, folds=FOLDS, patients=[f"p{i}" for i in range(10)], name="evaluated")


def check(pretrained: list[Store], evaluated: Store, folds: range = range(1, 9)) -> None:
    leak.check(leak.training_marks(pretrained, folds, 100), evaluated, HELD_OUT, "validation and test")


def test_a_pretraining_on_the_held_out_folds_is_refused_with_the_ids(evaluated) -> None:
    with pytest.raises(UserError) as raised:
        check([evaluated], evaluated, range(1, 11))
    assert str(raised.value).startswith("2 of the 2 validation and test records of store evaluated were in the pre-training "
                                        "data (the same samples): r8, r9.")


@pytest.mark.parametrize(("other", "kind"), [
    (lambda folder: store_of(folder, SIGNALS[[3, 9]], corpus="copy"), "the same samples"),
    (lambda folder: store_of(folder, noise(2, 12, 100, seed=1), ids=["r2", "r9"]), "the same record_id of the same corpus"),
    (lambda folder: store_of(folder, noise(2, 12, 100, seed=1), ids=["a", "b"], patients=["p3", "p9"]), "the same patient"),
])
def test_a_held_out_record_or_patient_in_another_store_is_found(evaluated, tmp_path, other: Callable, kind: str) -> None:
    with pytest.raises(UserError, match=rf"1 of the 2 .* \({kind}\): r9\. "):
        check([other(tmp_path)], evaluated)


@pytest.mark.parametrize("other", [
    lambda folder: store_of(folder, noise(2, 12, 100, seed=1), ids=["r9", "r8"], patients=["p9", "p8"], corpus="elsewhere"),
    lambda folder: store_of(folder, noise(2, 12, 100, seed=1), ids=["a", "b"], patients=["", ""]),
    lambda folder: store_of(folder, np.concatenate([SIGNALS[:8], noise(2, 12, 100, seed=1)]), corpus="elsewhere"),
])
def test_training_folds_equal_names_in_another_corpus_and_unknown_patients_are_no_leak(evaluated, tmp_path, other) -> None:
    check([other(tmp_path), evaluated], evaluated)
    check([], evaluated)
    unknown = store_of(tmp_path, SIGNALS, folds=FOLDS, name="unknown")  # no patient of it is known
    check([store_of(tmp_path, noise(2, 12, 100, seed=2), ids=["a", "b"], name="third")], unknown)
