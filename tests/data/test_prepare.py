import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import pytest
from corpora import array_corpus, corpus_folder, noise, refused, report

from bench.core.errors import UserError
from bench.core.files import lock_file
from bench.data.corpora import Recording, Refusal, open_corpus
from bench.data.ingest import journal
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from bench.data.store import FILES, Store, open_store


def entries(folder: Path) -> list[str]:
    """What lies in a folder of stores, without the locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def stop_at(record: int, error: BaseException | type[BaseException] = KeyboardInterrupt) -> Callable[[int, int], None]:
    """A progress function that raises the error once so many records are done."""
    def progress(done: int, total: int) -> None:
        if done == record:
            raise error
    return progress


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More records than the workers hold at once, two of them with something to report."""
    signals = noise(450, 12, 20).astype(np.float32)
    signals[300, 3, 5:9] = np.nan
    signals[400, 11] = 4.0
    return array_corpus(tmp_path_factory.mktemp("many") / "corpus", signals)


@pytest.fixture(scope="module")
def straight(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `many` that nothing interrupted."""
    return prepare(open_corpus("array", many, None), tmp_path_factory.mktemp("straight"))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the journal after every few records."""
    monkeypatch.setattr(journal, "SAVE_BYTES", 4000)


def same(one: Store, two: Store) -> None:
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes(), path.name


def test_two_workers_write_the_bytes_that_one_writes(many, straight, tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    two = prepare(open_corpus("array", many, None), tmp_path, workers=2, progress=lambda *call: calls.append(call))
    same(straight, two)
    assert calls == [(i, 450) for i in range(451)]
    assert (report(two)["gaps_filled"], report(two)["constant_leads"]) == ({"r300": 1}, {"r400": ["V6"]})


def test_a_worker_that_is_killed_is_one_line(many, tmp_path) -> None:
    corpus = open_corpus("array", many, None)

    def read(row: Any) -> Recording:
        if row.record_id == "r200":
            os.kill(os.getpid(), signal.SIGKILL)
        return corpus.read(row)

    with pytest.raises(UserError, match="a worker was killed, perhaps because memory ran out"):
        prepare(replace(corpus, read=read), tmp_path, workers=2)


SCRIPT = """
import os, pathlib, random, shutil, signal, sys, time
from bench.core.interrupt import Interrupted
from bench.data.corpora import open_corpus
from bench.data.ingest import journal
from bench.data.ingest.prepare import prepare

journal.SAVE_BYTES = 4000
folder, stores = map(pathlib.Path, sys.argv[1:3])
corpus, draw = open_corpus("array", folder, None), random.Random(0)
"""

STOP_BY_SIGNALS = SCRIPT + """
for signum in (signal.SIGKILL, signal.SIGTERM):
    pid = os.fork()
    if not pid:
        try:
            prepare(corpus, stores / str(int(signum)), workers=2,
                    progress=lambda done, total: done == 300 and os.kill(os.getpid(), signum))
        except Interrupted as stopped:
            os._exit(stopped.exit_code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_a_prepare_stopped_by_a_signal_goes_on_and_ends_with_the_same_bytes(many, straight, tmp_path) -> None:
    process = run_script(STOP_BY_SIGNALS, many, tmp_path)
    assert process.stdout.split() == ["-9", str(128 + signal.SIGTERM)], process.stderr
    for stores in (tmp_path / "9", tmp_path / "15"):
        assert entries(stores) == [".mine.partial"]
        first: list[int] = []
        resumed = prepare(open_corpus("array", many, None), stores, progress=lambda done, total, to=first: to.append(done))
        assert 250 < first[0] <= 301  # what was done is not done again
        same(straight, resumed)
        assert entries(stores) == ["mine"]


KILL_20_TIMES = SCRIPT + """
def start():
    pid = os.fork()
    if not pid:
        try:
            prepare(corpus, stores, workers=2)
        finally:
            os._exit(0)
    return pid

def lines():
    journal = stores / ".mine.partial" / "journal.jsonl"
    return len(journal.read_text().splitlines()) if journal.exists() else -1

for kill in range(20):
    wanted = lines() + draw.randint(0, 8)
    pid = start()
    while lines() < wanted and not (stores / "mine").exists():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if (stores / "mine").exists():  # it was complete: from the start again
        shutil.rmtree(stores / "mine")
    print(lines())
os.waitpid(start(), 0)
"""


@pytest.mark.slow
def test_killed_at_20_random_moments_a_prepare_ends_with_the_same_bytes(many, straight, tmp_path) -> None:
    process = run_script(KILL_20_TIMES, many, tmp_path)
    assert not process.returncode, process.stderr
    lines = [int(n) for n in process.stdout.split()]
    assert len(lines) == 20 and len(set(lines)) > 5, lines  # at many places
    same(straight, open_store(tmp_path / "mine"))


@pytest.mark.parametrize("torn", ["a line of the journal", "the signals", "an index of a later stage", "null", '{"rows": 1}'])
def test_what_a_kill_tore_is_done_again(many, straight, tmp_path, torn) -> None:
    corpus = open_corpus("array", many, None)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path, progress=stop_at(200))
    partial = tmp_path / ".mine.partial"
    lines, signals = partial / "journal.jsonl", partial / "signals.i16"
    if torn == "a line of the journal":
        os.truncate(lines, lines.stat().st_size - 7)
    elif torn == "the signals":
        os.truncate(signals, signals.stat().st_size // 2)
    elif torn == "an index of a later stage":
        (partial / "index.npy").write_bytes(b"half")
    else:
        lines.write_text(f"{torn}\n")
    same(straight, prepare(corpus, tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), UserError("no")])
def test_a_prepare_that_fails_half_way_leaves_no_store_and_goes_on(tmp_path, error) -> None:
    corpus = corpus_folder(noise(4, 12, 50))
    with pytest.raises((KeyboardInterrupt, OSError, UserError)):
        prepare(corpus, tmp_path, progress=stop_at(2, error))
    assert entries(tmp_path) == [".mine.partial"]
    with pytest.raises(UserError, match=r"\.mine\.partial is the unfinished store of other records or options"):
        prepare(corpus, tmp_path, rate_hz=50)
    same(prepare(corpus, tmp_path), prepare(corpus, tmp_path / "straight"))


def test_a_journal_without_its_plan_is_not_used(tmp_path, monkeypatch) -> None:
    corpus, rename = corpus_folder(noise(4, 12, 400)), os.rename
    monkeypatch.setattr(os, "rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed when only the rename was missing
        prepare(corpus, tmp_path)
    (tmp_path / ".mine.partial" / "journal.jsonl").write_text("{}\n")
    monkeypatch.setattr(os, "rename", rename)
    prepared = prepare(corpus, tmp_path, rate_hz=50)
    assert prepared.index["length"].tolist() == [200] * 4
    assert sorted(p.name for p in prepared.folder.iterdir()) == sorted([*FILES, "manifest.json"])


def test_what_a_corpus_drops_by_rule_is_no_error_and_stays_reported_over_a_restart(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "SAVE_ROWS", 2)
    corpus = replace(corpus_folder([noise(12, n) for n in (100, 99, 150, 98, 100, 100)]), min_seconds=1.0)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path, progress=stop_at(5))
    first: list[int] = []
    store = prepare(corpus, tmp_path, progress=lambda done, total: first.append(done))
    assert first[0] == 4 and list(store.records.record_id) == ["r0", "r2", "r4", "r5"]
    assert report(store)["refused"] == {
        "shorter than 1 s": {"by_rule": True, "count": 2, "records": {"r1": "lasts 0.99 s", "r3": "lasts 0.98 s"}}}


def test_of_two_at_once_the_second_is_refused_and_a_store_is_never_overwritten(tmp_path) -> None:
    with lock_file(tmp_path / ".mine.lock", "store mine"):
        refused(lambda: corpora.store(tmp_path, noise(4, 12, 50)),
                f"store mine is being worked on by another process (pid {os.getpid()} on ")
    assert entries(tmp_path) == []
    first = corpora.store(tmp_path, noise(4, 12, 50))
    refused(lambda: corpora.store(tmp_path, noise(4, 12, 50, seed=1)), "exists already")
    np.testing.assert_array_equal(first.signal(0), noise(4, 12, 50)[0] / 1000)


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path) -> None:
    corpus = corpus_folder(noise(2, 12, 50))
    refused(lambda: prepare(corpus, tmp_path, name="../evil"), "lower-case letters, digits and dashes")
    refused(lambda: prepare(corpus, tmp_path, rate_hz=0), "rate 0 Hz must be positive")
    refused(lambda: prepare(corpus, tmp_path, resampling="furier"), "did you mean 'fourier'")
    assert list(tmp_path.iterdir()) == []


def with_faults() -> np.ndarray:
    """Five records: r1 has gaps in two leads, r3 two constant leads, r4 two samples that int16 does not hold."""
    signals = noise(5, 12, 60).astype(np.float32)
    signals[1, 2, 10:20] = signals[1, 5, :3] = np.nan
    signals[3, 0] = signals[3, 6] = 0
    signals[4, 2, 5:8] = 32768, -1e6, 32767
    return signals


def test_gaps_are_filled_and_constant_leads_kept_and_large_values_clipped_and_all_are_listed(tmp_path) -> None:
    store = prepare(open_corpus("array", array_corpus(tmp_path / "c", with_faults()), None), tmp_path)
    counts = report(store)
    assert (counts["gaps_filled"], counts["constant_leads"], counts["clipped"]) == ({"r1": 2}, {"r3": ["I", "V1"]}, {"r4": 2})
    assert (counts["records"], counts["accepted"], counts["refused"]) == (5, 5, {})
    first, last = with_faults()[1, 2, [9, 20]] / 1000
    np.testing.assert_allclose(store.signal(1)[2, 9:21], np.linspace(first, last, 12), atol=0.0005 + 1e-6)
    assert set(store.signal(1)[5, :3]) == {store.signal(1)[5, 3]}  # at an end: the nearest value
    np.testing.assert_allclose(store.signal(4)[2, 5:8], [32.767, -32.767, 32.767])


@pytest.mark.parametrize(("spec", "bad", "reason", "message"), [
    ({"gaps": "refuse"}, 1, "gaps", "has gaps (NaN)"),
    ({"constant_leads": "refuse"}, 3, "constant leads", "has constant leads (I, V1)"),
])
def test_a_data_set_may_refuse_them_and_leave_them_out(tmp_path, spec, bad, reason, message) -> None:
    corpus = open_corpus("array", array_corpus(tmp_path / "c", with_faults(), **spec), None)
    refused(lambda: prepare(corpus, tmp_path / "stores"), f"mine: 1 of 5 records cannot be used (1 {reason}): record r{bad}: "
            f"{message}. Mend them and run again, or --skip-bad")
    assert entries(tmp_path / "stores") == [".mine.partial"]
    store = prepare(corpus, tmp_path / "stores", skip_bad=True)
    assert report(store)["refused"] == {reason: {"by_rule": False, "count": 1, "records": {f"r{bad}": message}}}
    accepted = [i for i in range(5) if i != bad]
    assert list(store.records.record_id) == [f"r{i}" for i in accepted]
    for new, old in enumerate(accepted[:3]):  # offsets close the hole
        known = ~np.isnan(with_faults()[old])
        np.testing.assert_allclose(store.signal(new)[known], (with_faults()[old] / 1000)[known], atol=1e-6)


def test_what_no_setting_can_mend_is_refused_by_record(tmp_path) -> None:
    signals = [noise(12, n).astype(np.float32) for n in (100, 15, 100, 100)]
    signals[2][3] = np.nan
    signals[3][4, 7] = np.inf
    corpus = replace(corpus_folder(signals), highpass_hz=0.5)
    refused(lambda: prepare(corpus, tmp_path), "3 of 4 records cannot be used", "record r1: ")
    counts = report(prepare(corpus, tmp_path, skip_bad=True))["refused"]
    assert {reason: list(group["records"]) for reason, group in counts.items()} == {
        "too short": ["r1"], "empty lead": ["r2"], "infinite values": ["r3"]}


def test_a_record_that_was_mended_is_read_again(tmp_path) -> None:
    good, broken = corpus_folder(noise(5, 12, 50)), True

    def read(row: Any) -> Recording:
        if broken and row.record_id == "r2":
            raise Refusal("missing file", "r2.dat does not exist")
        return good.read(row)

    with pytest.raises(UserError, match="1 missing file"):
        prepare(replace(good, read=read), tmp_path)
    broken = False
    same(prepare(good, tmp_path / "straight"), prepare(replace(good, read=read), tmp_path))


def test_a_corpus_without_a_usable_record_or_with_a_flat_lead_makes_no_store(tmp_path) -> None:
    flat = noise(3, 12, 60)
    flat[:, 4] = 7
    short = replace(corpus_folder(noise(3, 12, 50)), min_seconds=1.0)
    refused(lambda: prepare(short, tmp_path / "one", skip_bad=True), "mine: no usable record")
    refused(lambda: corpora.store(tmp_path / "two", noise(2, 12, 60), folds=[9, 10]), "no usable record in folds")
    refused(lambda: corpora.store(tmp_path / "three", flat), f"lead {LEADS[4]} is constant in every record")
    assert all(entries(tmp_path / name) == [".mine.partial"] for name in ("one", "two", "three"))


def test_duplicates_are_reported_within_and_across_rates_and_dropped_on_request_and_flat_records_are_none(tmp_path) -> None:
    signals = noise(7, 12, 100)
    signals[3] = signals[1]
    signals[5] = signals[6] = 0
    first = corpora.store(tmp_path, signals[[4, 0, 5]], name="first", at_hz=50)
    unreadable = corpora.store(tmp_path, noise(2, 12, 50, seed=5), name="old")
    (unreadable.folder / "index.npy").unlink()
    assert report(corpora.store(tmp_path, signals, name="all"))["duplicates"] == {
        "within": [["r1", "r3"]], "across": {"first": ["r0", "r4"]}, "not_compared": ["old"]}
    dropped = prepare(corpus_folder(signals), tmp_path, name="dropped", drop_duplicates=True, not_in=[first])
    assert list(dropped.records.record_id) == ["r1", "r2", "r5", "r6"]
    reasons = {reason: group["records"].keys() for reason, group in report(dropped)["refused"].items()}
    assert reasons == {"duplicate": {"r3"}, "in first": {"r0", "r4"}}
