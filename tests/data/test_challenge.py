import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora import mutated, refused, report, rows, wfdb_mv
from examples import FIRST
from examples import challenge_record as record

from bench.core.errors import UserError
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
    codes = corpus.tasks["snomed"]
    assert codes == sorted(set(";".join(corpus.records.snomed).split(";")))
    assert {code for code in codes if code.isdigit()} <= set(challenge.snomed_names())
    assert name == "cpsc" or all(code.isdigit() for code in codes)  # these ten are of a release that still wrote RBBB


def test_the_table_of_names_has_the_challenges_133_diagnoses() -> None:
    named = challenge.snomed_names()
    assert len(named) == 133 and all(code.isdigit() and name for code, name in named.items())
    assert (named["164889003"], named["426783006"]) == ("atrial fibrillation", "sinus rhythm")


@pytest.mark.parametrize("name", ["georgia", "ningbo"])
def test_what_prepare_says_of_the_real_records(shared, tmp_path, name) -> None:
    corpus = open_corpus(name, shared / "data" / "challenge-2021", 500)
    store = prepare(corpus, tmp_path)
    counts = report(store)
    assert (counts["records"], counts["accepted"], counts["refused"], counts["clipped"]) == (20, 20, {}, {})
    leads = ["V2", "V4", "V6"]
    assert counts["constant_leads"] == ({"JS20004": leads, "JS20008": leads} if name == "ningbo" else {})
    assert counts["duplicates"]["within"] == ([["E07509", "E07510"]] if name == "georgia" else [])
    for i, row in enumerate(rows(corpus)):
        np.testing.assert_array_equal(store.signal(i), corpus.read(row).physical())  # 1 µV: the files' own step


@pytest.mark.parametrize(("wanted", "given", "message"), [
    ("georgia", "ningbo", "does not hold georgia: its records (JS20000, ...) seem to be ningbo's; write ningbo"),
    ("ningbo", "chapman_shaoxing", "seem to be chapman-shaoxing's; write chapman-shaoxing"),
    ("chapman-shaoxing", "ningbo", "seem to be ningbo's; write ningbo"),
    ("cpsc", "cpsc_2018_extra", "seem to be cpsc-extra's"),
    ("ptb", "ptb-xl", "HRnnnnn is the record with ecg_id nnnnn of PTB-XL"),
    ("georgia", "ptb-xl", "prepare ptb-xl"),
])
def test_another_corpus_of_the_challenge_is_recognised(shared, wanted, given, message) -> None:
    refused(lambda: open_corpus(wanted, shared / "data" / "challenge-2021" / given, None), message)


@pytest.mark.parametrize("name", FIRST)
def test_a_corpus_is_found_in_the_challenges_root_and_in_its_own_folder(tmp_path, name) -> None:
    under = known_corpora()[name].download.under
    record(tmp_path / under / "g1", FIRST[name])
    for folder in (tmp_path, tmp_path / "training", tmp_path / under):
        corpus = open_corpus(name, folder, None)
        assert (list(corpus.records.record_id), corpus.name) == ([FIRST[name]], name)
        corpus.read(rows(corpus)[0])


@pytest.mark.parametrize(("name", "corpus"), [
    *((name, corpus) for corpus, name in FIRST.items()), ("JS10646", "chapman-shaoxing"), ("HR00001", "ptb-xl"),
    ("X0001", ""), ("js00001", ""), ("A1x", "")])
def test_a_records_name_tells_its_corpus(name, corpus) -> None:
    assert challenge.find_corpus(name) == corpus


def test_records_are_ordered_by_name_whatever_part_they_lie_in_and_lie_in_one(tmp_path) -> None:
    names = ["E00003", "E00001", "E00010", "E00002"]
    for part, name in zip(("g1", "g10", "g2", "."), names, strict=True):
        record(tmp_path / part, name)
    assert list(open_corpus("georgia", tmp_path, None).records.record_id) == sorted(names)
    record(tmp_path / "g2", "E00001")
    refused(lambda: open_corpus("georgia", tmp_path, None), "holds E00001 twice")


def test_strangers_among_the_records_are_refused_those_of_ptb_xl_by_rule(tmp_path) -> None:
    for name in ("E00001", "HR00001", "JS00001"):
        record(tmp_path / "corpus", name, length=5000)
    with pytest.raises(UserError, match="1 of 3 records cannot be used .1 of another corpus.: record JS00001"):
        prepare(open_corpus("georgia", tmp_path / "corpus", 500), tmp_path / "stores")
    (tmp_path / "corpus" / "JS00001.hea").unlink()
    counts = report(prepare(open_corpus("georgia", tmp_path / "corpus", 500), tmp_path / "again"))
    assert (counts["records"], counts["accepted"], list(counts["refused"])) == (2, 1, ["of PTB-XL"])
    assert counts["refused"]["of PTB-XL"]["by_rule"]


@pytest.mark.parametrize("at", ["", "g1"])
def test_records_and_the_file_RECORDS_have_to_agree(tmp_path, at) -> None:
    for name in ("E00001", "E00002", "E00003"):
        record(tmp_path / "g1", name)
    listed = ["E00001", "E00002", "E00004"]
    (tmp_path / at / "RECORDS").write_text("".join(f"{name if at else 'g1/' + name}\n" for name in listed))
    corpus = open_corpus("georgia", tmp_path, None)
    reasons = {}
    for row in rows(corpus):
        try:
            corpus.read(row)
        except Refusal as refusal:
            reasons[row.record_id] = (refusal.reason, refusal.by_rule)
    assert reasons == {"E00003": ("not in RECORDS", False), "E00004": ("missing file", False)}
    assert len(corpus.records) == 4


@pytest.mark.parametrize(("content", "message"), [
    ("../E00001\n", "is not a record's name"), ("/etc/passwd\n", "is not a record's name"),
    ("g1/../../E1\n", "is not a record's name"),
    (b"\xff\xfe", "is not text"),
])
def test_a_damaged_file_RECORDS_is_named(tmp_path, content, message) -> None:
    record(tmp_path / "g1", "E00001")
    (tmp_path / "RECORDS").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"RECORDS.*{re.escape(message)}"):
        open_corpus("georgia", tmp_path, None)


def test_a_part_that_is_listed_and_not_there_is_a_bad_record(tmp_path) -> None:
    record(tmp_path / "corpus" / "g1", "E00001", length=5000)
    (tmp_path / "corpus" / "RECORDS").write_text("g1/\ng2/\n")
    corpus = open_corpus("georgia", tmp_path / "corpus", None)
    with pytest.raises(UserError, match=r"1 of 2 records cannot be used \(1 missing part\): record g2/"):
        prepare(corpus, tmp_path / "stores")
    assert len(prepare(corpus, tmp_path / "stores", skip_bad=True).index) == 1


@pytest.mark.parametrize(("name", "first"), [("georgia", "E"), ("cpsc", "A"), ("cpsc-extra", "Q")])
def test_a_record_shorter_than_10_s_is_left_out_by_rule(tmp_path, name, first) -> None:
    for i, length in enumerate((5000, 4999)):
        record(tmp_path / "corpus", f"{first}0000{i}", length=length)
    counts = report(prepare(open_corpus(name, tmp_path / "corpus", 500), tmp_path))
    assert (counts["records"], counts["accepted"]) == (2, 1)
    assert counts["refused"]["shorter than 10 s"] == {
        "by_rule": True, "count": 1, "records": {f"{first}00001": "lasts 9.998 s"}}


def test_half_an_hour_at_257_hz_loses_its_wander_and_comes_out_at_500_hz(tmp_path) -> None:
    path = record(tmp_path / "corpus", "I0001", fs=257, length=257 * 1800, baseline=[-3000] * 12)  # 3 mV off
    corpus = open_corpus("st-petersburg", tmp_path / "corpus", 500)
    assert (corpus.rate_hz, corpus.highpass_hz, corpus.chunk) == (257, 0.5, 1)
    recording = corpus.read(rows(corpus)[0])
    np.testing.assert_array_equal(recording.physical(), wfdb_mv(path))
    conversion = convert(corpus, rows(corpus)[0], 500, "fourier")
    assert conversion.signal is not None and conversion.signal.shape == (12, 900_000)
    assert np.abs(conversion.signal.mean(axis=1)).max() < 0.5


@pytest.mark.parametrize(("dx", "labels"), [
    ("2,1,2", "1;2"), ("", ""), ("Unknown", ""), (" 164889003 , 59118001,", "164889003;59118001"),
    ("999999999", "999999999"), ("RBBB", "RBBB"), ("1\r", "1")])
def test_labels_are_the_codes_each_once_in_order(tmp_path, dx, labels) -> None:
    record(tmp_path, "E00001", dx)
    corpus = open_corpus("georgia", tmp_path, None)
    assert list(corpus.records.snomed) == [labels]
    assert corpus.tasks == ({"snomed": labels.split(";")} if labels else {})


@pytest.mark.parametrize("dx", ["1;2", "1\n#Dx: 2", "9" * 41, "1,\xff", "1,<b>"])
def test_labels_that_cannot_be_read_refuse_the_record(tmp_path, dx) -> None:
    record(tmp_path, "E00001", dx)
    corpus = open_corpus("georgia", tmp_path, None)
    assert corpus.tasks == {} and list(corpus.records.snomed) == [""]
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


def test_a_header_that_is_gone_is_a_record_that_cannot_be_used(shared, tmp_path) -> None:
    folder = tmp_path / "georgia"
    shutil.copytree(shared / "data" / "challenge-2021" / "georgia", folder)
    folder.chmod(0o755)
    (folder / "RECORDS").write_text("".join(f"{p.stem}\n" for p in sorted(folder.glob("*.hea"))))
    (folder / "E07503.hea").unlink()
    (folder / "E07504.mat").unlink()
    store = prepare(open_corpus("georgia", folder, 500), tmp_path / "stores", skip_bad=True)
    counts = report(store)
    assert (counts["records"], counts["accepted"]) == (20, 18)
    assert sorted(counts["refused"]["missing file"]["records"]) == ["E07503", "E07504"]
