import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpora import change, refused, rows, wfdb_mv

from bench.data.corpora import Refusal, open_corpus, ptb_xl
from bench.data.ingest.prepare import prepare


@pytest.fixture
def tables(ptbxl: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic corpus without its signals, for its csv files to be changed."""
    shutil.copytree(ptbxl, tmp_path / "corpus", ignore=shutil.ignore_patterns("records*"))
    return tmp_path / "corpus"


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_a_store_of_real_records_holds_exactly_what_wfdb_reads(shared, tmp_path, rate_hz) -> None:
    corpus = open_corpus("ptb-xl", shared / "data" / "ptb-xl-500", rate_hz)
    assert len(corpus.records) == 500 and corpus.version == "1.0.1, 500 records of it"
    few = dataclasses.replace(corpus, records=corpus.records.iloc[::25])
    store = prepare(few, tmp_path)
    for i, row in enumerate(rows(few)):
        np.testing.assert_array_equal(store.signal(i), wfdb_mv(shared / "data" / "ptb-xl-500" / row.file))


@pytest.mark.parametrize(("rate_hz", "files_hz"), [(100, 100), (500, 500), (None, 500), (250, 500)])
def test_files_of_500_hz_are_read_unless_100_hz_are_wanted(ptbxl, tmp_path, rate_hz, files_hz) -> None:
    corpus = open_corpus("ptb-xl", ptbxl, rate_hz)
    assert corpus.rate_hz == files_hz and corpus.read(rows(corpus)[0]).rate_hz == files_hz
    store = prepare(dataclasses.replace(corpus, records=corpus.records.iloc[:3]), tmp_path, rate_hz=rate_hz)
    assert store.rate_hz == (rate_hz or 500) and store.signal(2).shape == (12, 10 * store.rate_hz)


def test_labels_of_five_tasks_are_the_golden_ones(shared) -> None:
    golden = pd.read_csv(shared / "golden" / "ptbxl_task_labels.csv", keep_default_na=False)
    classes, labels = ptb_xl.label_tasks(golden, shared / "data" / "ptb-xl-500")
    assert len(golden) == 3507
    for task in ("superdiagnostic", "subdiagnostic", "diagnostic", "form", "rhythm"):
        theirs = [set(text.replace(",", ";").split(";")) - {""} for text in golden[task]]
        ours = [set(text.split(";")) - {""} for text in labels[task]]
        assert ours == theirs, task
        assert set().union(*ours) <= set(classes[task])
    counts = {task: len(names) for task, names in classes.items()}  # Strodthoff et al. 2021, table I
    assert counts == {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12}


def test_rows_of_one_release_beside_checksums_of_another_are_refused(tables) -> None:
    path = tables / "ptbxl_database.csv"
    many = pd.concat([pd.read_csv(path)] * 545, ignore_index=True)[:21799]
    many.assign(ecg_id=range(1, 21800)).to_csv(path, index=False)
    assert ptb_xl.detect_version(tables, 21799) == "1.0.3"
    digest = next(iter(ptb_xl.CSV_SHA256))
    (tables / "SHA256SUMS.txt").write_text(f"{'0' * 64} LICENSE.txt\n{digest} ptbxl_database.csv\n")
    refused(lambda: open_corpus("ptb-xl", tables, 100), "21,799 rows of 1.0.3, SHA256SUMS.txt belongs to 1.0.1")


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "records100/00000/00003_lr"])
def test_no_other_file_is_read_than_the_records_own(tables, name) -> None:
    change(tables / "ptbxl_database.csv", filename_lr=name)
    corpus = open_corpus("ptb-xl", tables, 100)
    with pytest.raises(Refusal, match=re.escape(f"names its file {name!r}; PTB-XL's is 'records100/00000/00002_lr'")):
        corpus.read(rows(corpus)[1])


@pytest.mark.parametrize(("age", "target"), [("89.0", "89.0"), ("300.0", ""), ("91.0", ""), ("", ""), ("0.0", "0.0")])
def test_an_age_above_89_is_left_out_in_every_version(tables, age, target) -> None:
    change(tables / "ptbxl_database.csv", age=age)
    corpus = open_corpus("ptb-xl", tables, 100)
    assert corpus.records.age[1] == target and corpus.kinds == {"age": "regression"} and corpus.tasks["age"] == ["years"]


def test_folds_patients_and_ages_of_real_records_are_those_of_the_csv(shared) -> None:
    folder = shared / "data" / "ptb-xl-500"
    records, table = open_corpus("ptb-xl", folder, 100).records, pd.read_csv(folder / "ptbxl_database.csv")
    assert list(records.fold) == list(table.strat_fold)
    assert list(records.record_id) == [str(i) for i in table.ecg_id]
    assert list(records.patient_id) == [str(int(i)) for i in table.patient_id]  # the csv writes 15709.0
    assert (records.age == "").sum() == 7 == (table.age.isna() | (table.age > 89)).sum()
    assert [float(x) for x in records.age if x] == table.age[table.age <= 89].tolist()
