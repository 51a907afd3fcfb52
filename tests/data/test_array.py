import io
import re

import numpy as np
import pytest
from corpora import array_corpus, noise, refused, rows

from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint16", "float32"])
def test_a_value_is_number_times_scale_whatever_order_the_leads_have(tmp_path, dtype) -> None:
    order = np.random.default_rng(0).permutation(12)
    signals = np.abs(noise(4, 12, 300) % 100).astype(dtype)
    folder = array_corpus(tmp_path / "a", signals, leads=[LEADS[i].lower() for i in order], scale=0.002)
    store = prepare(open_corpus("array", folder, None), tmp_path)
    for i in range(4):
        want = np.empty((12, 300))
        want[order] = signals[i].astype(float) * 0.002
        np.testing.assert_allclose(store.signal(i), want, rtol=1e-14)


def test_your_own_data_keep_their_names_folds_and_labels_if_they_have_some(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(4, 12, 300), {
        "who": ["p1", "p1", "007", ""], "strat_fold": ["1", "2.0", "9", ""], "fold": [3, 3, 3, 3],
        "rhythm": ["SR", "b; a;a", "", ";SR;"]}, name="my-hospital", tasks=["rhythm"], version="7",
        columns={"fold": "strat_fold", "patient_id": "who"})
    corpus = open_corpus("array", folder, 100)
    assert (corpus.name, corpus.version, corpus.stats_folds) == ("my-hospital", "7", list(range(1, 9)))
    assert list(corpus.records.fold) == [1, 2, 9, 0] and list(corpus.records.patient_id) == ["p1", "p1", "007", ""]
    assert corpus.tasks == {"rhythm": ["SR", "a", "b"]} and list(corpus.records.rhythm) == ["SR", "a;b", "", "SR"]
    bare = open_corpus("array", array_corpus(tmp_path / "b", noise(2, 12, 300)), None)
    assert list(bare.records.fold) == [0, 0] and bare.stats_folds == [] and bare.tasks == {}


@pytest.mark.parametrize(("spec", "message"), [
    ({"rate_hz": None}, "rate_hz is missing"), ({"rate_hz": True}, "rate_hz must be a whole number, got True"),
    ({"scale": 10**400}, "scale must be "), ({"scale": float("nan")}, "scale must be "),
    ({"leads": list(LEADS[:8])}, "leads must be the 12 leads"), ({"tasks": ["sex", "sex"]}, "tasks must be columns of"),
    ({"columns": {"folds": "x"}}, "did you mean 'columns.fold'"), ({"single_label": ["sxe"]}, "did you mean 'sex'"),
    ({"regression": {"age": "years"}, "single_label": ["age"]}, "regression.age must be a unit"),
    ({"tasks": ["rhythm"]}, "has no column 'rhythm'"),
    ({"regression": {"sex": "years"}}, "sex 'f' in row 1 is not a number"),
    ({"single_label": ["sex"]}, "sex is single-label, row 2 has 'f;m'"),
])
def test_a_wrong_dataset_yaml_is_named_with_line_and_key_and_so_is_a_column_that_does_not_fit(tmp_path, spec, message) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), {"sex": ["f", "m;f"], "age": ["56", "57"]},
                          **{"tasks": ["sex", "age"], **spec})
    error = refused(lambda: open_corpus("array", folder, None), message)
    assert "records.csv" in error or re.search(r"dataset\.yaml.* line \d|is missing.*dataset\.yaml", error)


def test_signals_of_another_form_or_that_are_no_npy_array_are_refused_by_file(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300))
    path, original = folder / "signals.npy", (folder / "signals.npy").read_bytes()
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    for content in (b"", b"hello", b"PK\x03\x04", original[:50], original[:-1], pickled.getvalue()):
        path.write_bytes(content)
        refused(lambda: open_corpus("array", folder, None), "signals.npy is not a .npy array, or is truncated")
    for signals in (noise(3, 12, 300), noise(2, 11, 300), noise(2, 12, 0), noise(24, 300), noise(2, 12, 300).astype(complex)):
        np.save(path, signals)
        refused(lambda: open_corpus("array", folder, None), "signals.npy")


def test_signals_are_mapped_and_not_read(tmp_path) -> None:
    """A sparse file of 6 GB opens at once."""
    folder = array_corpus(tmp_path / "a", noise(250, 12, 10))
    large = np.lib.format.open_memmap(folder / "signals.npy", mode="w+", dtype=np.int16, shape=(250, 12, 1_000_000))
    large[7, 3, 5] = 9
    del large
    corpus = open_corpus("array", folder, None)
    assert corpus.read(rows(corpus)[7]).samples[3, :7].tolist() == [0, 0, 0, 0, 0, 9, 0]
