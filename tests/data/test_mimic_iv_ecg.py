from pathlib import Path

import numpy as np
import pytest
from corpora import rows
from examples import build_mimic

from bench.data.corpora import Refusal, open_corpus
from bench.data.ingest.prepare import prepare


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    build_mimic(tmp_path / "mimic")
    return tmp_path / "mimic"


def test_a_store_holds_the_files_own_integers_in_its_order_of_leads(mimic, tmp_path) -> None:
    corpus = open_corpus("mimic-iv-ecg", mimic, 500)
    assert list(corpus.records.patient_id) == ["10000032", "10000032", "10000117"]
    raw = np.fromfile(mimic / f"{rows(corpus)[0].path}.dat", "<i2").reshape(5000, 12).T
    store = prepare(corpus, tmp_path / "stores")
    assert store.manifest["scale"] == 0.005
    swapped = [0, 1, 2, 3, 5, 4, *range(6, 12)]  # aVL and aVF
    np.testing.assert_array_equal(store.signals[:60_000].reshape(12, 5000), raw[swapped])


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
