"""The contract of a corpus: every file in bench/data/corpora meets it."""

import re
import shutil
from pathlib import Path

import corpora
import numpy as np
import pandas as pd
import pytest
from corpora import change, count_survivors, report, rows
from examples import EXAMPLES

from bench.data.corpora import CorpusFolder, Refusal, known_corpora, open_corpus
from bench.data.corpora.tables import read_table
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS

WITH_TABLE = [name for name, example in EXAMPLES.items() if example.table]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(request: pytest.FixtureRequest, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory,
           tmp_path: Path) -> Path:
    """A copy of the example of the corpus that the test is parametrized with."""
    name = request.node.callspec.params["name"]
    if name not in built:
        built[name] = tmp_path_factory.mktemp("built") / name
        EXAMPLES[name].build(built[name])
    shutil.copytree(built[name], tmp_path / "corpus")
    return tmp_path / "corpus"


def check(corpus: CorpusFolder) -> None:
    """What holds of the tables of every opened folder."""
    records = corpus.records
    assert records.record_id.is_unique and records.notna().all(axis=None) and records.fold.isin(range(11)).all()
    assert {"record_id", "patient_id", "fold", *corpus.tasks} <= set(records.columns)
    for task, classes in corpus.tasks.items():
        if corpus.kinds.get(task) == "regression":
            assert len(classes) == 1 and all(np.isfinite(float(text)) for text in records[task] if text)
        else:
            assert {label for text in records[task] for label in text.split(";") if label} <= set(classes)


def test_every_corpus_has_an_example_and_says_where_its_data_come_from() -> None:
    assert set(EXAMPLES) == set(known_corpora())
    for name, corpus in known_corpora().items():
        assert name == corpus.name == name.lower() and set(corpus.leads) == set(LEADS)
        assert corpus.title and corpus.licence and corpus.layout and corpus.labels
        assert name == "array" or (corpus.version and corpus.citation and re.match("https://", corpus.url)
                                   and corpus.rate_hz and corpus.download and corpus.download.size_gb > 0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_records_are_those_that_another_reader_reads_and_a_store_holds(name, folder, tmp_path) -> None:
    corpus = open_corpus(name, folder, 500)
    check(corpus)
    few = corpus.records.iloc[:4]
    store = prepare(CorpusFolder(**{**vars(corpus), "records": few}), tmp_path / "stores", rate_hz=corpus.rate_hz)
    assert (store.corpus, store.version, store.rate_hz) == (corpus.name, corpus.version, corpus.rate_hz)
    assert list(store.records.record_id) == list(few.record_id) and report(store)["refused"] == {}
    for i, row in enumerate(list(few.itertuples())):
        recording, expected = corpus.read(row), EXAMPLES[name].samples_of(folder, row.record_id)
        np.testing.assert_allclose(recording.physical(), expected, rtol=1e-15, strict=True)
        if not corpus.highpass_hz:
            np.testing.assert_allclose(store.signal(i), recording.physical(), rtol=1e-14)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_folder_without_the_corpus_is_named_and_so_is_the_nearest_corpus(name, tmp_path) -> None:
    corpora.refused(lambda: open_corpus(name, tmp_path / "missing", None), "is not a folder")
    corpora.refused(lambda: open_corpus(name, tmp_path, None), str(tmp_path), EXAMPLES[name].name)
    corpora.refused(lambda: open_corpus(f"{name}x", tmp_path, None), f"unknown corpus '{name}x'; did you mean '{name}'")


@pytest.mark.parametrize(("name", "column"), [(name, column) for name in WITH_TABLE for column in EXAMPLES[name].columns])
def test_a_missing_column_is_named(name, folder, column) -> None:
    path = folder / EXAMPLES[name].table
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    corpora.refused(lambda: open_corpus(name, folder, None), f"{path.name} has no column '{column}'")


@pytest.mark.parametrize(("name", "column", "value", "message"),
                         [(name, *bad) for name in WITH_TABLE for bad in EXAMPLES[name].bad])
def test_a_bad_value_is_named(name, folder, column, value, message) -> None:
    change(folder / EXAMPLES[name].table, **{column: value})
    corpora.refused(lambda: open_corpus(name, folder, None), message, EXAMPLES[name].table)


@pytest.mark.parametrize("name", WITH_TABLE)
@pytest.mark.filterwarnings("ignore:Reading .*npy:UserWarning")  # a damaged header looks like one of Python 2
def test_damaged_tables_give_one_line_or_open_with_what_holds_of_every_table(name, folder) -> None:
    files = [folder / EXAMPLES[name].table, *(path for path in map(folder.joinpath, (
        "scp_statements.csv", "dataset.yaml", "signals.npy")) if path.exists())]

    def use() -> None:
        corpus = open_corpus(name, folder, None)
        check(corpus)
        for row in rows(corpus)[:2]:
            try:
                assert len(corpus.read(row).samples) == len(LEADS)
            except Refusal as refusal:
                reasons.add(refusal.reason)

    cases, reasons = 80 * len(files), set[str]()
    assert cases / 10 < count_survivors(files, cases, use) < cases
    assert reasons <= {"missing file", "missing exam", "other file name"}


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not a readable csv file"), ('a,b\n1,"2', "is not a readable csv"), ("a,b\n1,2\n1\n", "row 2 has 1 values"),
    ("a,b\n1," + "2" * 200_000 + "\n", "is not a readable csv file"), ("a,b,a\n1,2,3\n", "has two columns 'a'")])
def test_a_csv_that_is_none_is_refused_by_what_is_wrong(tmp_path, text, message) -> None:
    (tmp_path / "x.csv").write_text(text)
    corpora.refused(lambda: read_table(tmp_path / "x.csv"), message)


def test_a_csv_is_read_as_its_texts(tmp_path) -> None:
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfid,b\r\n007,NA\r\n\r\n"a ""b""\n, c",\r\n')
    assert read_table(tmp_path / "x.csv").to_dict("list") == {"id": ["007", 'a "b"\n, c'], "b": ["NA", ""]}
