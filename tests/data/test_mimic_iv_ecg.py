from pathlib import Path

import numpy as np
import pytest
from corpora import report, rows
from examples import build_mimic
from test_wfdb_file import edited

from bench.data.corpora import Refusal, open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    build_mimic(tmp_path / "mimic")
    return tmp_path / "mimic"


def test_leads_end_up_in_the_order_of_a_store_though_aVF_stands_before_aVL(mimic, tmp_path) -> None:
    corpus = open_corpus("mimic-iv-ecg", mimic, 500)
    assert list(corpus.records.patient_id) == ["10000032", "10000032", "10000117"]
    path = mimic / f"{rows(corpus)[0].path}.hea"
    assert [line.split()[-1] for line in path.read_text().splitlines()[4:7]] == ["aVR", "aVF", "aVL"] != list(LEADS[3:6])
    raw = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(5000, 12).T
    store = prepare(corpus, tmp_path / "stores")
    assert store.manifest["scale"] == 0.005  # the files' own integers
    np.testing.assert_array_equal(store.signals[:60_000].reshape(12, 5000), raw[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]])


def test_a_gap_is_filled_and_listed(mimic, tmp_path) -> None:
    corpus = open_corpus("mimic-iv-ecg", mimic, 500)
    path = mimic / f"{rows(corpus)[1].path}.dat"
    raw = np.fromfile(path, "<i2").reshape(5000, 12)
    raw[100:300, 4] = -32768
    raw.tofile(path)
    edited(path.with_suffix(".hea"), r" 0 (-?\d+) (-?\d+) 0 aVF$", rf" 0 \1 {raw[:, 4].sum(dtype=np.int16)} 0 aVF")
    assert report(prepare(corpus, tmp_path / "stores"))["gaps_filled"] == {rows(corpus)[1].record_id: 1}


def test_a_path_of_another_study_is_refused_and_no_header_is_read_before_its_record_is(mimic) -> None:
    path = mimic / "record_list.csv"
    header, first, second, *rest = path.read_text().splitlines()
    swapped = [",".join([*a.split(",")[:-1], b.split(",")[-1]]) for a, b in ((first, second), (second, first))]
    path.write_text("\n".join([header, *swapped, *rest, ""]))
    for file in mimic.rglob("*.hea"):
        file.unlink()
    corpus = open_corpus("mimic-iv-ecg", mimic, None)
    for row, message in zip(rows(corpus), ("'s ends in", "'s ends in", "49036311.hea does not exist"), strict=True):
        with pytest.raises(Refusal, match=message):
            corpus.read(row)
