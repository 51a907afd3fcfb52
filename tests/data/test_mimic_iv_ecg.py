from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_wfdb_file import edited, mutated, wfdb_mv, write

from bench.core.errors import UserError
from bench.data.corpora import Refused, mimic_iv_ecg, open_source
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS

STUDIES = {40689238: 10000032, 44458630: 10000032, 49036311: 10000117}  # study_id -> subject_id


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Three records of noise, laid out as MIMIC-IV-ECG is published."""
    table = []
    for study, subject in STUDIES.items():
        path = f"files/p{subject // 10000}/p{subject}/s{study}/{study}"
        (tmp_path / path).parent.mkdir(parents=True)
        write((tmp_path / path).parent, str(study), mimic_iv_ecg.CORPUS.leads, 5000, adc_gain=[200.0] * 12,
              baseline=[0] * 12)
        table.append((subject, study, study, "2180-07-23 08:44:00", path))
    pd.DataFrame(table, columns=["subject_id", "study_id", "file_name", "ecg_time", "path"]).to_csv(
        tmp_path / "record_list.csv", index=False)
    return tmp_path


def rows(source) -> list:
    return list(source.records.itertuples())


def test_records_are_those_that_wfdb_reads_and_patients_the_subjects(mimic) -> None:
    source = open_source("mimic-iv-ecg", mimic, None)
    assert list(source.records.record_id) == [str(study) for study in STUDIES]
    assert list(source.records.patient_id) == [str(subject) for subject in STUDIES.values()]
    for row in rows(source):
        np.testing.assert_array_equal(source.read(row).physical(), wfdb_mv(mimic / f"{row.path}.hea"))


def test_leads_end_up_in_the_suites_order_though_aVF_stands_before_aVL(mimic) -> None:
    source = open_source("mimic-iv-ecg", mimic, None)
    row = rows(source)[0]
    raw = np.fromfile(mimic / f"{row.path}.dat", "<i2").reshape(5000, 12).T
    header = (mimic / f"{row.path}.hea").read_text().splitlines()
    assert [line.split()[-1] for line in header[4:7]] == ["aVR", "aVF", "aVL"] and LEADS[3:6] == ("aVR", "aVL", "aVF")
    np.testing.assert_array_equal(source.read(row).samples, raw[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]])


def test_the_store_holds_the_files_own_integers(mimic, tmp_path) -> None:
    source = open_source("mimic-iv-ecg", mimic, 500)
    store = prepare(source, tmp_path / "stores")
    assert store.manifest["scale"] == 0.005
    np.testing.assert_array_equal(store.signals[:60_000].reshape(12, 5000), source.read(rows(source)[0]).samples)


def test_a_gap_is_filled_and_listed(mimic, tmp_path) -> None:
    source = open_source("mimic-iv-ecg", mimic, 500)
    path = mimic / f"{rows(source)[1].path}.dat"
    raw = np.fromfile(path, "<i2").reshape(5000, 12)
    raw[100:300, 4] = -32768
    raw.tofile(path)
    edited(path.with_suffix(".hea"), r" 0 (-?\d+) (-?\d+) 0 aVF$", r" 0 \1 " + str(int(raw[:, 4].sum(dtype=np.int16)))
           + " 0 aVF")
    said = pd.read_json(prepare(source, tmp_path / "stores").folder / "prepare.json", typ="series")
    assert said["gaps_filled"] == {rows(source)[1].record_id: 1}


def test_no_header_is_read_before_its_record_is(mimic) -> None:
    for path in mimic.rglob("*.hea"):
        path.unlink()
    source = open_source("mimic-iv-ecg", mimic, None)
    with pytest.raises(Refused, match=r"40689238.hea does not exist"):
        source.read(rows(source)[0])


@pytest.mark.parametrize(("column", "value", "said"), [
    ("path", "../../etc/passwd", "path '../../etc/passwd' in row 2"),
    ("path", "/etc/passwd", "path '/etc/passwd' in row 2"),
    ("path", "files/../../x", "path 'files/../../x' in row 2"),
    ("path", "", "path '' in row 2"),
    ("study_id", "40689238", "study_id 40689238 occurs twice"),
    ("study_id", "x", "study_id 'x' in row 2"),
    ("subject_id", "1.5", "subject_id '1.5' in row 2"),
    ("subject_id", "1e300", "subject_id '1e300' in row 2"),
])
def test_a_bad_value_in_the_csv_is_named(mimic, column, value, said) -> None:
    table = pd.read_csv(mimic / "record_list.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(mimic / "record_list.csv", index=False)
    with pytest.raises(UserError) as raised:
        open_source("mimic-iv-ecg", mimic, None)
    assert said in str(raised.value) and "record_list.csv" in str(raised.value)


@pytest.mark.parametrize("column", ["subject_id", "study_id", "path"])
def test_a_missing_column_is_named(mimic, column) -> None:
    pd.read_csv(mimic / "record_list.csv").drop(columns=column).to_csv(mimic / "record_list.csv", index=False)
    with pytest.raises(UserError, match=f"record_list.csv has no column '{column}'"):
        open_source("mimic-iv-ecg", mimic, None)


def test_a_folder_without_the_corpus_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="is not MIMIC-IV-ECG: it holds no record_list.csv"):
        open_source("mimic-iv-ecg", tmp_path, None)


def test_a_path_of_another_study_is_refused(mimic) -> None:
    path = mimic / "record_list.csv"
    header, first, second, *rest = path.read_text().splitlines()
    swapped = [",".join([*a.split(",")[:-1], b.split(",")[-1]]) for a, b in ((first, second), (second, first))]
    path.write_text("\n".join([header, *swapped, *rest, ""]))
    source = open_source("mimic-iv-ecg", mimic, None)
    for row in rows(source)[:2]:
        with pytest.raises(Refused, match="MIMIC-IV-ECG's ends in"):
            source.read(row)


def test_a_damaged_list_is_refused_or_read_never_an_error_of_ours(mimic) -> None:
    rng = np.random.default_rng(4)
    path = mimic / "record_list.csv"
    whole = path.read_bytes()
    opened, refusals = 0, set()
    for _ in range(400):
        path.write_bytes(mutated(rng, whole))
        try:
            source = open_source("mimic-iv-ecg", mimic, None)
        except UserError:
            continue
        opened += 1
        for row in rows(source):
            try:
                samples = source.read(row).samples
                assert row.path.endswith(f"p{row.patient_id}/s{row.record_id}/{row.record_id}") and samples.shape == (12, 5000)
            except Refused as refused:
                refusals.add(refused.reason)
    assert 100 < opened < 400 and refusals == {"other file name", "missing file"}
