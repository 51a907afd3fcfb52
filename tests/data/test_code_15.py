import json
import shutil
import threading
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from test_wfdb_file import mutated

from bench.core.errors import UserError
from bench.data.corpora import Refused, code_15, open_source
from bench.data.ingest.prepare import prepare

SHAPE = (code_15.SAMPLES, 12)


def part(folder: Path, number: int, ids: list[int], tracings: np.ndarray, **columns) -> None:
    """exams_part<number>.hdf5, and its rows in exams.csv but for exam_id 0."""
    folder.mkdir(exist_ok=True)
    name = f"exams_part{number}.hdf5"
    with h5py.File(folder / name, "w") as f:
        f["exam_id"], f["tracings"] = np.array(ids), tracings
    listed = [i for i in ids if i]
    table = pd.DataFrame({"exam_id": listed, "age": 50, "patient_id": [7 * i for i in listed], "trace_file": name,
                          **dict.fromkeys(code_15.LABELS, False), **columns})
    path = folder / "exams.csv"
    pd.concat([*([pd.read_csv(path)] if path.exists() else []), table]).to_csv(path, index=False)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, *SHAPE)).astype(np.float32)


def rows(source) -> list:
    return list(source.records.itertuples())


def report(store) -> dict:
    return json.loads((store.folder / "prepare.json").read_text())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Four exams in two parts, and a row that fills a part up."""
    part(tmp_path / "code", 11, [44, 22, 0], np.concatenate([noise(2), np.zeros((1, *SHAPE), np.float32)]), AF=[True, False])
    part(tmp_path / "code", 2, [33, 11], noise(2, 1), **{"1dAVb": [False, True], "AF": [False, True]})
    return tmp_path / "code"


def test_a_part_that_is_not_there_is_named_by_each_of_its_exams(small, tmp_path) -> None:
    (small / "exams_part2.hdf5").unlink()
    source = open_source("code-15", small, None)
    made = prepare(source, tmp_path, skip_bad=True)
    assert set(report(made)["refused"]["missing file"]["records"]) == {"33", "11"}
    (small / "exams_part11.hdf5").unlink()
    with pytest.raises(UserError, match="holds none of the HDF5 files"):
        open_source("code-15", small, None)


def test_real_exams_are_those_that_h5py_reads_and_short_ones_are_left_out(shared, tmp_path) -> None:
    folder = shared / "data" / "code-15"
    source = open_source("code-15", folder, None)
    with h5py.File(folder / "exams_part11.hdf5") as f:
        of = dict(zip(f["exam_id"][:].tolist(), f["tracings"][:], strict=True))
    short = {}
    for row in rows(source):
        tracing = of[int(row.record_id)]
        try:
            np.testing.assert_array_equal(source.read(row).physical(), tracing.T)
        except Refused as refused:
            short[row.record_id] = (str(refused), refused.by_rule, tracing[:581].any(), tracing[3515:].any())
    assert set(short.values()) == {("lasts 7.335 s, zeros fill it up", True, False, False)}  # 2,934 samples
    said = report(prepare(source, tmp_path, rate_hz=500))
    assert (said["found"], said["accepted"], said["clipped"]) == (10, 4, {})
    assert set(said["refused"]["shorter than 10.24 s"]["records"]) == set(short) and len(short) == 6


def test_real_labels_are_those_of_the_csv(shared) -> None:
    source = open_source("code-15", shared / "data" / "code-15", None)
    table = pd.read_csv(shared / "data" / "code-15" / "exams.csv").set_index("exam_id")
    assert source.tasks == {"abnormalities": ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]}
    for row in rows(source):
        theirs = table.loc[int(row.record_id)]
        assert set(row.abnormalities.split(";")) - {""} == {label for label in code_15.LABELS if theirs[label]}
        assert row.patient_id == str(theirs.patient_id)


def test_leads_of_real_exams_obey_einthoven_and_goldberger(shared) -> None:
    source = open_source("code-15", shared / "data" / "code-15", None)
    for row in rows(source):
        if row.record_id in ("1594286", "975093", "2969044", "270272"):  # of full length
            i, ii, iii, avr, avl, avf = source.read(row).physical()[:6]
            for law in (i + iii - ii, avr + (i + ii) / 2, avl - (i - iii) / 2, avf - (ii + iii) / 2):
                assert np.abs(law).max() < 0.01


def test_exams_are_in_the_order_of_the_files_rows_and_a_row_that_fills_up_is_none(small) -> None:
    source = open_source("code-15", small, None)
    assert list(source.records.record_id) == ["33", "11", "44", "22"]
    assert list(source.records.patient_id) == ["231", "77", "308", "154"]
    assert list(source.records.abnormalities) == ["", "1dAVb;AF", "AF", ""]
    for row, tracing in zip(rows(source), [*noise(2, 1), *noise(2)], strict=True):
        np.testing.assert_array_equal(source.read(row).samples, tracing.T)


def test_exams_that_do_not_fill_10_24_s_in_every_lead_are_left_out_by_rule(tmp_path) -> None:
    x = noise(6)
    x[1, :48] = x[1, -48:] = 0  # 10 s
    x[2, -1] = 0
    x[3] = 0
    x[4, 0, 5] = 0  # the paper's rule asks every lead
    x[5, 100:200] = 0
    part(tmp_path / "code", 0, [1, 2, 3, 4, 5, 6], x)
    said = report(prepare(open_source("code-15", tmp_path / "code", 500), tmp_path / "stores"))
    assert (said["found"], said["accepted"]) == (6, 2)
    assert said["refused"] == {
        "shorter than 10.24 s": {"by_rule": True, "count": 3, "records": {
            "2": "lasts 10 s, zeros fill it up", "3": "lasts 10.2375 s, zeros fill it up",
            "4": "lasts 0 s, zeros fill it up"}},
        "a lead at 0 at an end": {"by_rule": True, "count": 1, "records": {"5": "lead aVF begins or ends at 0"}}}


def test_an_exam_that_its_file_does_not_hold_is_refused(small) -> None:
    table = pd.read_csv(small / "exams.csv")
    table.loc[table.exam_id == 44, "trace_file"] = "exams_part2.hdf5"
    table.to_csv(small / "exams.csv", index=False)
    source = open_source("code-15", small, None)
    (row,) = [row for row in rows(source) if row.record_id == "44"]
    with pytest.raises(Refused, match=r"exams_part2.hdf5 does not hold it"):
        source.read(row)


def test_threads_read_what_one_thread_reads(small) -> None:
    source = open_source("code-15", small, None)
    got: list[list[np.ndarray]] = []
    threads = [threading.Thread(target=lambda: got.append([source.read(r).samples for r in rows(source)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    for samples in got:
        np.testing.assert_array_equal(samples, [source.read(row).samples for row in rows(source)])


@pytest.mark.parametrize(("column", "value", "said"), [
    ("exam_id", "11", "exam_id 11 occurs twice"), ("exam_id", "x", "exam_id 'x' in row 2"),
    ("exam_id", "", "exam_id '' in row 2"), ("patient_id", "", "patient_id '' in row 2"),
    ("AF", "maybe", "AF 'maybe' is neither True nor False"), ("RBBB", "", "RBBB '' is neither"),
    ("trace_file", "../x.hdf5", "trace_file '../x.hdf5'"), ("trace_file", "/etc/passwd", "trace_file '/etc/passwd'"),
])
def test_a_bad_value_in_the_csv_is_named(small, column, value, said) -> None:
    table = pd.read_csv(small / "exams.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(small / "exams.csv", index=False)
    with pytest.raises(UserError) as raised:
        open_source("code-15", small, None)
    assert said in str(raised.value) and "exams.csv" in str(raised.value)


@pytest.mark.parametrize("column", ["exam_id", "patient_id", "trace_file", "SB"])
def test_a_missing_column_is_named(small, column) -> None:
    pd.read_csv(small / "exams.csv").drop(columns=column).to_csv(small / "exams.csv", index=False)
    with pytest.raises(UserError, match=f"exams.csv has no column '{column}'"):
        open_source("code-15", small, None)


@pytest.mark.parametrize(("datasets", "said"), [
    ({"exam_id": np.arange(2)}, "holds no data set 'tracings'"),
    ({"tracings": noise(2)}, "holds no data set 'exam_id'"),
    ({"exam_id": np.arange(2), "tracings": noise(2)[:, :4000]}, "tracings (2, 4000, 12) float32"),
    ({"exam_id": np.arange(2), "tracings": noise(2).transpose(0, 2, 1)}, "tracings (2, 12, 4096) float32"),
    ({"exam_id": np.arange(3), "tracings": noise(2)}, "exam_id (3,) int64"),
    ({"exam_id": np.arange(2.0), "tracings": noise(2)}, "exam_id (2,) float64"),
    ({"exam_id": 5, "tracings": noise(2)}, "exam_id () int64"),
    ({"exam_id": np.arange(2), "tracings": noise(2).astype(int)}, "int64; (n,) integers"),
    ({"exam_id": np.arange(2), "tracings": h5py.ExternalLink("/etc/passwd", "tracings")}, "no data set 'tracings' of its own"),
    ({"exam_id": np.arange(2), "tracings": h5py.SoftLink("/exam_id")}, "no data set 'tracings' of its own"),
    ({}, "holds no data set 'exam_id'"),
])
def test_an_hdf5_file_of_another_form_is_refused_by_what_it_holds(small, datasets, said) -> None:
    with h5py.File(small / "exams_part2.hdf5", "w") as f:
        for name, value in datasets.items():
            f[name] = value
    with pytest.raises(UserError) as raised:
        open_source("code-15", small, None)
    assert said in str(raised.value) and "exams_part2.hdf5" in str(raised.value)


def test_one_exam_in_two_files_is_refused(small) -> None:
    shutil.copyfile(small / "exams_part2.hdf5", small / "exams_part11.hdf5")
    with pytest.raises(UserError, match="exam_id 33 occurs twice in the HDF5 files"):
        open_source("code-15", small, None)


@pytest.mark.parametrize("keep", [0, 100, 100_000, -1])
def test_a_truncated_hdf5_file_is_refused(small, keep) -> None:
    path = small / "exams_part2.hdf5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"exams_part2.hdf5 is damaged, truncated, or no HDF5 file"):
        open_source("code-15", small, None)


def test_a_damaged_chunk_refuses_its_exam_alone(tmp_path) -> None:
    part(tmp_path / "code", 0, [1, 2], noise(2))
    path = tmp_path / "code" / "exams_part0.hdf5"
    with h5py.File(path, "w") as f:
        f["exam_id"] = [1, 2]
        data = f.create_dataset("tracings", data=noise(2), chunks=(1, *SHAPE), compression="gzip")
        at = data.id.get_chunk_info(1).byte_offset
    raw = bytearray(path.read_bytes())
    raw[at + 50: at + 90] = bytes(40)
    path.write_bytes(raw)
    source = open_source("code-15", tmp_path / "code", None)
    first, second = rows(source)
    np.testing.assert_array_equal(source.read(first).samples, noise(2)[0].T)
    with pytest.raises(Refused, match=r"row 1 of exams_part0.hdf5 cannot be read"):
        source.read(second)


def test_a_folder_without_the_corpus_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="is not CODE-15%: it holds no exams.csv"):
        open_source("code-15", tmp_path, None)


def test_a_damaged_csv_is_refused_or_read_never_an_error_of_ours(small) -> None:
    rng = np.random.default_rng(6)
    path = small / "exams.csv"
    whole = path.read_bytes()
    opened, refusals = 0, set()
    for _ in range(400):
        path.write_bytes(mutated(rng, whole))
        try:
            source = open_source("code-15", small, None)
        except UserError:
            continue
        opened += 1
        for row in rows(source):
            try:
                assert source.read(row).samples.shape == (12, code_15.SAMPLES)
            except Refused as refused:
                refusals.add(refused.reason)
    assert 50 < opened < 400 and refusals == {"missing exam", "missing file"}
