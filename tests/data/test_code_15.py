import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from corpora import refused, report, rows
from examples import build_code_15, code_15_part, tracings

from bench.data.corpora import Refusal, code_15, open_corpus
from bench.data.ingest.prepare import prepare


@pytest.fixture
def small(tmp_path: Path) -> Path:
    build_code_15(tmp_path / "code")
    return tmp_path / "code"


def test_an_exam_that_its_part_does_not_hold_is_refused_and_one_in_two_parts_is_an_error(small, tmp_path) -> None:
    table = pd.read_csv(small / "exams.csv")
    table.loc[table.exam_id == 44, "trace_file"] = "exams_part12.hdf5"
    table.to_csv(small / "exams.csv", index=False)
    shutil.copyfile(small / "exams_part2.hdf5", small / "exams_part12.hdf5")
    refused(lambda: open_corpus("code-15", small, None), "exam_id 33 occurs twice in the HDF5 files")
    (small / "exams_part2.hdf5").unlink()
    counts = report(prepare(open_corpus("code-15", small, None), tmp_path, skip_bad=True))
    assert {reason: set(group["records"]) for reason, group in counts["refused"].items()} == {
        "missing file": {"33", "11"}, "missing exam": {"44"}}


def test_real_exams_are_those_that_h5py_reads_with_the_labels_of_the_csv_and_short_ones_are_left_out(shared, tmp_path) -> None:
    folder = shared / "data" / "code-15"
    corpus = open_corpus("code-15", folder, None)
    table = pd.read_csv(folder / "exams.csv").set_index("exam_id")
    with h5py.File(folder / "exams_part11.hdf5") as f:
        of = dict(zip(f["exam_id"][:].tolist(), f["tracings"][:], strict=True))
    short = {}
    for row in rows(corpus):
        tracing, theirs = of[int(row.record_id)], table.loc[int(row.record_id)]
        assert set(row.abnormalities.split(";")) - {""} == {label for label in code_15.LABELS if theirs[label]}
        assert row.patient_id == str(theirs.patient_id)
        try:
            np.testing.assert_array_equal(corpus.read(row).physical(), tracing.T)
        except Refusal as refusal:
            short[row.record_id] = (str(refusal), refusal.by_rule, tracing[:581].any(), tracing[3515:].any())
        else:
            i, ii, iii, avr, avl, avf = tracing.T[:6]
            for law in (i + iii - ii, avr + (i + ii) / 2, avl - (i - iii) / 2, avf - (ii + iii) / 2):
                assert np.abs(law).max() < 0.01  # Einthoven, Goldberger
    assert corpus.tasks == {"abnormalities": ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]}
    assert set(short.values()) == {("lasts 7.335 s, the rest is padding", True, False, False)}  # 2,934 samples
    counts = report(prepare(corpus, tmp_path, rate_hz=500))
    assert (counts["records"], counts["accepted"], counts["clipped"]) == (10, 4, {})
    assert set(counts["refused"]["shorter than 10.24 s"]["records"]) == set(short) and len(short) == 6


def test_exams_that_do_not_fill_10_24_s_in_every_lead_are_left_out_by_rule(tmp_path) -> None:
    x = tracings(5)
    x[1, :48] = x[1, -48:] = 0  # 10 s
    x[2] = 0
    x[3, 0, 5] = 0  # the paper's rule asks every lead
    x[4, 100:200] = 0
    code_15_part(tmp_path / "code", 0, [1, 2, 3, 4, 5], x)
    counts = report(prepare(open_corpus("code-15", tmp_path / "code", 500), tmp_path / "stores"))
    assert (counts["records"], counts["accepted"]) == (5, 2)
    assert counts["refused"] == {
        "shorter than 10.24 s": {"by_rule": True, "count": 2, "records": {
            "2": "lasts 10 s, the rest is padding", "3": "lasts 0 s, the rest is padding"}},
        "a lead at 0 at an end": {"by_rule": True, "count": 1, "records": {"4": "lead aVF begins or ends at 0"}}}


@pytest.mark.parametrize(("datasets", "message"), [
    ({}, "holds no data set 'exam_id'"), ({"exam_id": np.arange(3), "tracings": tracings(2)}, "exam_id (3,) int64"),
    ({"exam_id": np.arange(2), "tracings": tracings(2).transpose(0, 2, 1)}, "tracings (2, 12, 4096) float32"),
    ({"exam_id": np.arange(2), "tracings": h5py.ExternalLink("/etc/passwd", "tracings")}, "no data set 'tracings' of its own"),
])
def test_an_hdf5_file_of_another_form_or_a_truncated_one_is_refused_by_what_it_holds(small, datasets, message) -> None:
    path = small / "exams_part2.hdf5"
    path.write_bytes(path.read_bytes()[:100_000])
    refused(lambda: open_corpus("code-15", small, None), "exams_part2.hdf5 is damaged, truncated, or no HDF5 file")
    with h5py.File(path, "w") as f:
        for name, value in datasets.items():
            f[name] = value
    refused(lambda: open_corpus("code-15", small, None), message, path.name)


def test_a_damaged_chunk_refuses_its_exam_alone(tmp_path) -> None:
    code_15_part(tmp_path / "code", 0, [1, 2], tracings(2))
    path = tmp_path / "code" / "exams_part0.hdf5"
    with h5py.File(path, "w") as f:
        f["exam_id"] = [1, 2]
        data = f.create_dataset("tracings", data=tracings(2), chunks=(1, code_15.SAMPLES, 12), compression="gzip")
        at = data.id.get_chunk_info(1).byte_offset
    raw = bytearray(path.read_bytes())
    raw[at + 50: at + 90] = bytes(40)
    path.write_bytes(raw)
    corpus = open_corpus("code-15", tmp_path / "code", None)
    first, second = rows(corpus)
    np.testing.assert_array_equal(corpus.read(first).samples, tracings(2)[0].T)
    with pytest.raises(Refusal, match=r"row 1 of exams_part0.hdf5 cannot be read"):
        corpus.read(second)
