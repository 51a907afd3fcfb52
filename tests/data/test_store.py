import json
from pathlib import Path

import corpora
import numpy as np
import pytest
from corpora import noise

from bench.core.errors import UserError
from bench.data import store
from bench.data.signal import LEADS
from bench.data.store import Store, open_by_name, open_store

LENGTHS, FOLDS = (300, 250, 1000, 40), (1, 8, 9, 10)
SIGNALS = [noise(12, n, seed=n) for n in LENGTHS]


@pytest.fixture
def prepared(tmp_path: Path) -> Store:
    """Four records of different lengths in folds 1, 8, 9 and 10."""
    return corpora.store(tmp_path, SIGNALS, FOLDS, labels=["a", "b", "a;b", ""])


def test_records_come_back_from_a_file_of_their_leads_one_after_the_other_in_little_endian_int16(prepared) -> None:
    assert list(prepared.records.length) == list(LENGTHS)
    assert list(prepared.records.offset) == [0, 300, 550, 1550]
    for i, signal in enumerate(SIGNALS):
        np.testing.assert_array_equal(prepared.signal(i), signal / 1000)
    want = b"".join(signal.astype("<i2").tobytes() for signal in SIGNALS)
    assert (prepared.folder / "signals.i16").read_bytes() == want


@pytest.mark.parametrize(("signals", "folds", "used"), [
    (SIGNALS, FOLDS, 2), (SIGNALS, (), 4), ([(32000 + noise(12, 5000) // 400).astype(np.int16)], (), 1)])  # far from zero, too
def test_statistics_are_those_of_the_training_folds_or_of_all_where_there_are_none(tmp_path, signals, folds, used) -> None:
    prepared = corpora.store(tmp_path, signals, folds)
    mv = np.concatenate(signals[:used], axis=1) / 1000
    np.testing.assert_allclose(prepared.mean, mv.mean(1), rtol=1e-12)
    np.testing.assert_allclose(prepared.sd, mv.std(1), rtol=1e-8)


def test_the_manifest_says_what_the_store_holds_and_labels_are_counted_by_class_and_fold(prepared) -> None:
    m = prepared.manifest
    assert (m["name"], m["version"], m["rate_hz"], m["units"], m["scale"]) == ("mine", "1", 100, "mV", 0.001)
    assert (m["leads"], m["records"], m["samples"]) == (list(LEADS), 4, sum(LENGTHS))
    assert m["tasks"] == {"kind": ["a", "b"]} and set(m["files"]) == {*store.FILES}
    counts = prepared.label_counts("kind")
    assert counts.columns.tolist() == list(FOLDS)
    assert counts.loc["a"].tolist() == [1, 0, 1, 0] and counts.loc["b"].tolist() == [0, 1, 1, 0]


def fingerprint(folder: Path, signals=SIGNALS, folds=FOLDS, **more) -> str:
    return corpora.store(folder, signals, folds, **more).fingerprint


def test_equal_content_has_equal_bytes_and_fingerprint(tmp_path) -> None:
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    for name in (*store.FILES, "manifest.json"):
        assert (tmp_path / "a/mine" / name).read_bytes() == (tmp_path / "b/mine" / name).read_bytes()


def test_whatever_decides_a_result_changes_the_fingerprint_and_what_was_noticed_does_not(prepared, tmp_path) -> None:
    one_bit = [s.copy() for s in SIGNALS]
    one_bit[2][5, 7] ^= 1
    changes = [{}, {"signals": one_bit}, {"folds": (1, 8, 10, 9)}, {"rate_hz": 500}, {"units": "sd"},
               {"labels": ["a", "b", "", ""]}, {"labels": ["a", "", "b", ""]}, {"at_hz": 50}]
    fingerprints = {fingerprint(tmp_path / str(i), **change) for i, change in enumerate(changes)}
    assert len(fingerprints) == len(changes)
    entry = {**prepared.manifest["files"], "prepare.json": {"bytes": 1, "sha256": "0"}}
    assert store.fingerprint({**prepared.manifest, "files": entry}) == prepared.fingerprint


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:-2])
    else:
        path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "one bit"])
@pytest.mark.parametrize("name", [*store.FILES, "manifest.json"])
def test_a_damaged_store_is_refused_by_file(prepared, name, how) -> None:
    damage(prepared.folder / name, how)
    corpora.refused(lambda: open_store(prepared.folder), name)


@pytest.mark.parametrize(("key", "value"), [
    *((None, text) for text in ("null", "{}", "{")), ("rate_hz", 500), ("mean", [float("nan")] * 12), ("files", {}),
    ("fingerprint", "0" * 16), ("format", 1), ("tasks", None)])
def test_an_edited_manifest_is_refused(prepared, key, value) -> None:
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps({**prepared.manifest, key: value}) if key else value)
    corpora.refused(lambda: open_store(prepared.folder), "manifest.json")


def test_signals_too_large_to_hash_at_every_opening_are_hashed_when_asked(prepared, monkeypatch) -> None:
    monkeypatch.setattr(store, "HASH_AT_OPEN", 10)
    damage(prepared.folder / "signals.i16", "one bit")
    assert open_store(prepared.folder).fingerprint == prepared.fingerprint
    with pytest.raises(UserError, match=r"signals\.i16 is damaged"):
        open_store(prepared.folder, verify=True)


def test_an_unknown_name_is_answered_with_the_known_ones_and_a_renamed_store_is_refused(prepared, tmp_path) -> None:
    assert open_by_name(tmp_path, "mine").fingerprint == prepared.fingerprint
    (tmp_path / ".other.partial").mkdir()
    for name in ("yours", "", "..", "mine/../mine", ".other.partial"):
        corpora.refused(lambda name=name: open_by_name(tmp_path, name), "Known: mine;")
    prepared.folder.rename(tmp_path / "other")
    corpora.refused(lambda: open_by_name(tmp_path, "other"), "other holds the store 'mine': rename the folder back")
