from pathlib import Path

import numpy as np
import pytest
from corpora import mutated, refused, report, rows, wfdb_mv
from examples import FIRST
from test_wfdb_file import challenge_record as record

from bench.data.corpora import Refusal, challenge, known_corpora, open_corpus
from bench.data.ingest.convert import convert
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS

REAL = {"chapman-shaoxing": 10, "cpsc": 10, "cpsc-extra": 10, "georgia": 20, "ningbo": 20, "ptb": 5}


@pytest.mark.parametrize("name", REAL)
def test_real_records_are_those_that_wfdb_reads_and_their_labels_those_of_the_headers(shared, name) -> None:
    corpus = open_corpus(name, shared / "data" / "challenge-2021", None)
    assert len(corpus.records) == REAL[name] == len(set(corpus.records.record_id))
    folder = shared / "data" / "challenge-2021" / Path(known_corpora()[name].download.under).name
    assert list(corpus.records.record_id) == sorted(path.stem for path in folder.glob("*.hea"))
    for row in rows(corpus):
        np.testing.assert_array_equal(corpus.read(row).physical(), wfdb_mv(folder / f"{row.record_id}.hea"))
        (line,) = [line for line in (folder / f"{row.record_id}.hea").read_text().splitlines() if "Dx:" in line]
        assert set(row.snomed.split(";")) == set(line.partition(":")[2].strip().split(","))
    codes, named = corpus.tasks["snomed"], challenge.snomed_names()
    assert codes == sorted(set(";".join(corpus.records.snomed).split(";")))
    assert {code for code in codes if code.isdigit()} <= set(named) and len(named) == 133
    assert (named["164889003"], named["426783006"]) == ("atrial fibrillation", "sinus rhythm")
    assert name == "cpsc" or all(code.isdigit() for code in codes)  # these ten are of a release that still wrote RBBB


@pytest.mark.parametrize("name", FIRST)
def test_a_corpus_is_found_in_the_challenges_root_and_in_its_own_folder_where_each_record_lies_once(tmp_path, name) -> None:
    under = known_corpora()[name].download.under
    record(tmp_path / under / "g1", FIRST[name])
    for folder in (tmp_path, tmp_path / "training", tmp_path / under):
        assert list(open_corpus(name, folder, None).records.record_id) == [FIRST[name]]
    record(tmp_path / under / "g2", FIRST[name])
    refused(lambda: open_corpus(name, tmp_path, None), f"holds {FIRST[name]} twice")


def test_strangers_among_the_records_are_refused_those_of_ptb_xl_and_short_ones_by_rule(tmp_path) -> None:
    for name, length in (("E00001", 5000), ("E00002", 4999), ("HR00001", 5000), ("JS00001", 5000)):
        record(tmp_path / "corpus", name, length=length)
    refused(lambda: prepare(open_corpus("georgia", tmp_path / "corpus", 500), tmp_path / "stores"),
            "1 of 4 records cannot be used (1 of another corpus): record JS00001")
    (tmp_path / "corpus" / "JS00001.hea").unlink()
    counts = report(prepare(open_corpus("georgia", tmp_path / "corpus", 500), tmp_path / "again"))
    assert (counts["records"], counts["accepted"]) == (3, 1)
    assert {reason: group["by_rule"] for reason, group in counts["refused"].items()} == {"of PTB-XL": True,
                                                                                       "shorter than 10 s": True}


def test_records_and_the_file_RECORDS_have_to_agree(tmp_path) -> None:
    for name in ("E00001", "E00002", "E00003"):
        record(tmp_path / "g1", name)
    (tmp_path / "RECORDS").write_text("g1/E00001\ng1/E00002\ng1/E00004\ng2/\n")
    corpus = open_corpus("georgia", tmp_path, None)
    reasons = {}
    for row in rows(corpus):
        try:
            corpus.read(row)
        except Refusal as refusal:
            reasons[row.record_id] = (refusal.reason, refusal.by_rule)
    assert reasons == {
        "E00003": ("not in RECORDS", False), "E00004": ("missing file", False), "g2/": ("missing part", False)}
    assert len(corpus.records) == 5


@pytest.mark.parametrize("content", [b"/etc/passwd\n", b"g1/../../E1\n", b"\xff\xfe"])
def test_a_damaged_file_RECORDS_is_named(tmp_path, content) -> None:
    record(tmp_path / "g1", "E00001")
    (tmp_path / "RECORDS").write_bytes(content)
    message = refused(lambda: open_corpus("georgia", tmp_path, None), "RECORDS")
    assert "is not a record's name" in message or "is not text" in message


def test_a_record_at_257_hz_loses_its_wander_and_comes_out_at_500_hz(tmp_path) -> None:
    record(tmp_path / "corpus", "I0001", fs=257, length=257 * 60, baseline=[-3000] * 12)  # 3 mV off
    corpus = open_corpus("st-petersburg", tmp_path / "corpus", 500)
    assert (corpus.rate_hz, corpus.highpass_hz, corpus.chunk) == (257, 0.5, 1)
    conversion = convert(corpus, rows(corpus)[0], 500, "fourier")
    assert conversion.signal is not None and conversion.signal.shape == (12, 30_000)
    assert np.abs(conversion.signal.mean(axis=1)).max() < 10  # µV


@pytest.mark.parametrize(("dx", "labels"), [
    ("2,1,2", "1;2"), ("", ""), ("Unknown", ""), (" 164889003 , 59118001,", "164889003;59118001"), ("RBBB", "RBBB"), ("1\r", "1"),
    *((damaged, None) for damaged in ("1;2", "1\n#Dx: 2", "9" * 41, "1,\xff", "1,<b>"))])
def test_labels_are_the_codes_each_once_in_order_or_the_record_is_refused(tmp_path, dx, labels) -> None:
    record(tmp_path, "E00001", dx)
    corpus = open_corpus("georgia", tmp_path, None)
    assert list(corpus.records.snomed) == [labels or ""]
    assert corpus.tasks == ({"snomed": labels.split(";")} if labels else {})
    if labels is None:
        with pytest.raises(Refusal, match="#Dx"):
            corpus.read(rows(corpus)[0])


def test_damaged_comments_are_refused_or_read_never_an_error_of_ours(tmp_path) -> None:
    rng = np.random.default_rng(3)
    path = record(tmp_path, "E00001", "164889003,59118001")
    signals, comments = path.read_bytes().split(b"# Age", 1)
    outcomes = set()
    for _ in range(150):
        path.write_bytes(signals + mutated(rng, b"# Age" + comments))
        corpus = open_corpus("georgia", tmp_path, None)
        (row,) = rows(corpus)
        assert all(challenge.CODE.fullmatch(code) for code in row.snomed.split(";") if code)
        try:
            assert corpus.read(row).samples.shape == (len(LEADS), 50)
            outcomes.add(row.snomed)
        except Refusal as refusal:
            outcomes.add(refusal.reason)
    assert {"164889003;59118001", "damaged labels"} <= outcomes
