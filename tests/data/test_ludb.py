import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from test_wfdb_file import mutated

from bench.core.errors import UserError
from bench.data.corpora import Refused, ludb, open_source
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from bench.plot import pictures


@pytest.fixture
def few(shared, tmp_path) -> Path:
    """LUDB's first three records."""
    folder = tmp_path / "ludb"
    (folder / "data").mkdir(parents=True)
    for i in (1, 2, 3):
        for suffix in (".hea", ".dat"):
            shutil.copyfile(shared / "data" / "ludb" / "data" / f"{i}{suffix}", folder / "data" / f"{i}{suffix}")
    pd.read_csv(shared / "data" / "ludb" / "ludb.csv").head(3).to_csv(folder / "ludb.csv", index=False)
    return folder


def rows(source) -> list:
    return list(source.records.itertuples())


def test_the_integers_of_the_real_files_are_microvolts(shared) -> None:
    source = open_source("ludb", shared / "data" / "ludb", None)
    spans = []
    for row in rows(source)[::8]:
        mv = source.read(row).physical()
        theirs = wfdb.rdrecord(str(shared / "data" / "ludb" / "data" / row.record_id), physical=False)
        names = [name.casefold() for name in theirs.sig_name]
        np.testing.assert_array_equal(mv, theirs.d_signal.T[[names.index(lead.casefold()) for lead in LEADS]] / 1000)
        i, ii, iii, avr, avl, avf = mv[:6]
        for law in (i + iii - ii, avr + (i + ii) / 2, avl - (i - iii) / 2, avf - (ii + iii) / 2):
            assert np.abs(law).max() < 0.0011  # Einthoven, Goldberger: one step of rounding
        spans.append(np.ptp(mv, axis=1))
    assert 0.5 < np.median(spans) < 3  # mV: a heart's
    header = wfdb.rdrecord(str(shared / "data" / "ludb" / "data" / "1")).p_signal.T
    assert np.abs(header[0] + header[2] - header[1]).max() > 0.1  # what the header's gains would give


def test_the_200_real_records_are_prepared_with_their_rhythms(shared, tmp_path) -> None:
    source = open_source("ludb", shared / "data" / "ludb", 500)
    store = prepare(source, tmp_path)
    said = json.loads((store.folder / "prepare.json").read_text())
    assert (said["found"], said["accepted"], said["refused"], said["clipped"]) == (200, 200, {}, {})
    assert (store.records.patient_id == store.records.record_id).all()
    counts = store.records.rhythm.str.split(";").explode().value_counts().to_dict()
    assert counts == {
        "Sinus rhythm": 143, "Sinus bradycardia": 25, "Atrial fibrillation": 15, "Sinus arrhythmia": 8,
        "Sinus tachycardia": 4, "Atrial flutter, typical": 3, "Wandering atrial pacemaker": 3,
        "Irregular sinus rhythm": 2, "Aberrant conduction": 1}  # as the README of LUDB, and what the csv says besides
    assert source.tasks == {"rhythm": sorted(counts)}


@pytest.mark.parametrize(("cell", "names"), [
    ("Sinus rhythm", "Sinus rhythm"), ("Sinus  rhythm.\n", "Sinus rhythm"), ("", ""),
    ("Sinus rhythm\nAberrant conduction", "Aberrant conduction;Sinus rhythm"), ("a;b", "A;B"),
    ("Atrial flutter, typical", "Atrial flutter, typical")])
def test_a_cell_of_rhythms_holds_one_a_line(cell, names) -> None:
    assert ludb.rhythms(cell) == names


def test_integers_that_are_no_microvolts_are_refused(few) -> None:
    source = open_source("ludb", few, None)
    path = few / "data" / "2.dat"
    raw = np.fromfile(path, "<i2").reshape(5000, 12)
    raw[0, 0] += 2
    raw[1, 0] -= 2  # the checksum is the same
    raw.tofile(path)
    with pytest.raises(Refused, match="I \\+ III is not II"):
        source.read(rows(source)[1])


@pytest.mark.parametrize(("column", "value", "said"), [
    ("ID", "1", "ID 1 occurs twice"), ("ID", "../1", "ID '../1' in row 2"), ("ID", "", "ID '' in row 2")])
def test_a_bad_value_in_the_csv_is_named(few, column, value, said) -> None:
    table = pd.read_csv(few / "ludb.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(few / "ludb.csv", index=False)
    with pytest.raises(UserError) as raised:
        open_source("ludb", few, None)
    assert said in str(raised.value) and "ludb.csv" in str(raised.value)


@pytest.mark.parametrize("column", ["ID", "Rhythms"])
def test_a_missing_column_is_named(few, column) -> None:
    pd.read_csv(few / "ludb.csv").drop(columns=column).to_csv(few / "ludb.csv", index=False)
    with pytest.raises(UserError, match=f"ludb.csv has no column '{column}'"):
        open_source("ludb", few, None)


def test_a_damaged_csv_is_refused_or_read_never_an_error_of_ours(few) -> None:
    rng = np.random.default_rng(5)
    path = few / "ludb.csv"
    whole = path.read_bytes()
    opened, refusals = 0, set()
    for _ in range(400):
        path.write_bytes(mutated(rng, whole))
        try:
            source = open_source("ludb", few, None)
        except UserError:
            continue
        opened += 1
        for row in rows(source):
            try:
                assert source.read(row).samples.shape == (12, 5000)
            except Refused as refused:
                refusals.add(refused.reason)
    assert 100 < opened < 400 and refusals <= {"missing file"}


def test_a_record_file_is_not_drawn_with_its_wrong_gains(shared, tmp_path) -> None:
    with pytest.raises(UserError, match="the gains of its header are wrong"):
        pictures.file(shared / "data" / "ludb" / "data" / "1.hea", tmp_path / "x.png")
