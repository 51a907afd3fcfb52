
import numpy as np
import pytest
from corpora import refused, report, rows
from examples import build_ludb, microvolts_of

from bench.data.corpora import Refusal, open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.ingest.records import open_records
from bench.plot.ecg import draw_file


def test_the_integers_of_the_real_files_are_microvolts(shared) -> None:
    folder = shared / "data" / "ludb"
    corpus = open_corpus("ludb", folder, None)
    spans = []
    for row in rows(corpus)[::8]:
        mv = corpus.read(row).physical()
        np.testing.assert_array_equal(mv, microvolts_of(folder, row.record_id))
        i, ii, iii, avr, avl, avf = mv[:6]
        for law in (i + iii - ii, avr + (i + ii) / 2, avl - (i - iii) / 2, avf - (ii + iii) / 2):
            assert np.abs(law).max() < 0.0011  # Einthoven, Goldberger: one step of rounding
        spans.append(np.ptp(mv, axis=1))
    assert 0.5 < np.median(spans) < 3  # mV: a heart's


def test_the_200_real_records_are_prepared_with_their_rhythms(shared, tmp_path) -> None:
    corpus = open_corpus("ludb", shared / "data" / "ludb", 500)
    store = prepare(corpus, tmp_path)
    counts = report(store)
    assert (counts["records"], counts["accepted"], counts["refused"], counts["clipped"]) == (200, 200, {}, {})
    assert (store.records.patient_id == store.records.record_id).all()
    rhythms = store.records.rhythm.str.split(";").explode().value_counts().to_dict()
    assert rhythms == {
        "Sinus rhythm": 143, "Sinus bradycardia": 25, "Atrial fibrillation": 15, "Sinus arrhythmia": 8,
        "Sinus tachycardia": 4, "Atrial flutter, typical": 3, "Wandering atrial pacemaker": 3,
        "Irregular sinus rhythm": 2, "Aberrant conduction": 1}  # as the README of LUDB, and what the csv says besides
    assert corpus.tasks == {"rhythm": sorted(rhythms)}


def test_its_files_without_their_corpus_and_integers_that_are_no_microvolts_are_refused(tmp_path) -> None:
    build_ludb(tmp_path)
    records = open_records(str(tmp_path / "data"), tmp_path)
    refused(lambda: records.read(rows(records)[0]), "LUDB", "`ecgssl data prepare ludb`", "lead I + lead III is not lead II")
    refused(lambda: draw_file(tmp_path / "data" / "1.hea", tmp_path / "x.png"), "LUDB", "`ecgssl data prepare ludb`")
    corpus, path = open_corpus("ludb", tmp_path, None), tmp_path / "data" / "2.dat"
    raw = np.fromfile(path, "<i2").reshape(5000, 12)
    raw[:2, 0] += (2, -2)  # the checksum is the same
    raw.tofile(path)
    with pytest.raises(Refusal, match="I \\+ III is not II"):
        corpus.read(rows(corpus)[1])
