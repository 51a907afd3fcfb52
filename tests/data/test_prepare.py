import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import corpora
import numpy as np
import pytest
from corpora import array_corpus, noise

from bench.core.errors import UserError
from bench.core.files import lock_file
from bench.data.corpora import Recording, Refused, open_source
from bench.data.ingest import prepare as prepare_module
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from bench.data.store import FILES, Store, open_store


def left(folder: Path) -> list[str]:
    """What lies in a folder of stores but for the locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def report(store) -> dict:
    return json.loads((store.folder / "prepare.json").read_text())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More records than the workers hold at once, two of them with something to report."""
    signals = noise(1050, 12, 20).astype(np.float32)
    signals[700, 3, 5:9] = np.nan
    signals[900, 11] = 4.0
    return array_corpus(tmp_path_factory.mktemp("many") / "corpus", signals)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the journal after every few records of a test."""
    monkeypatch.setattr(prepare_module, "SAVE", 4000)


def same(one: Store, two: Store) -> None:
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes(), path.name


def test_two_workers_write_the_bytes_that_one_writes(many, tmp_path) -> None:
    source, seen = open_source("array", many, None), []
    one = prepare(source, tmp_path / "one")
    two = prepare(source, tmp_path / "two", workers=2, progress=lambda done, total: seen.append((done, total)))
    same(one, two)
    assert seen == [(i, 1050) for i in range(1051)]
    found = report(two)
    assert (found["gaps_filled"], found["constant_leads"]) == ({"r700": 1}, {"r900": ["V6"]})


KILLED = """
import os, pathlib, signal, sys
from bench.data.ingest import prepare
from bench.data.corpora import open_source

def stop(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), int(sys.argv[4]))

prepare.SAVE = 4000
folder, stores = map(pathlib.Path, sys.argv[1:3])
try:
    prepare.prepare(open_source("array", folder, None), stores, workers=2, progress=stop)
except prepare.Interrupted as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_prepare_goes_on_and_ends_with_the_same_bytes(many, tmp_path, signum) -> None:
    arguments = [sys.executable, "-c", KILLED, many, tmp_path, "600", str(int(signum))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), done.stderr
    assert left(tmp_path) == [".mine.partial"]
    first = []
    resumed = prepare(open_source("array", many, None), tmp_path, progress=lambda done, total: first.append(done))
    assert 500 < first[0] <= 601  # what was done is not done again
    same(prepare(open_source("array", many, None), tmp_path / "straight"), resumed)
    assert left(tmp_path) == ["mine", "straight"]


DRIVER = """
import os, pathlib, random, shutil, signal, sys, time
from bench.data.ingest import prepare
from bench.data.corpora import open_source

prepare.SAVE = 4000
folder, stores = map(pathlib.Path, sys.argv[1:3])
source, draw = open_source("array", folder, None), random.Random(0)

def start(where):
    pid = os.fork()
    if not pid:
        try:
            prepare.prepare(source, where, workers=2)
        finally:
            os._exit(0)
    return pid

def lines():
    journal = stores / ".mine.partial" / "journal.jsonl"
    return len(journal.read_text().splitlines()) if journal.exists() else -1

os.waitpid(start(stores / "straight"), 0)
for kill in range(20):
    wanted = lines() + draw.randint(0, 12)
    pid = start(stores)
    while lines() < wanted and not (stores / "mine").exists():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if (stores / "mine").exists():  # it was done: from the start again
        shutil.rmtree(stores / "mine")
    print(lines())
os.waitpid(start(stores), 0)
"""


@pytest.mark.slow
def test_killed_at_20_random_moments_a_prepare_ends_with_the_same_bytes(many, tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, many, tmp_path], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    lines = [int(n) for n in done.stdout.split()]
    assert len(lines) == 20 and len(set(lines)) > 5, lines  # at many places
    same(open_store(tmp_path / "straight" / "mine"), open_store(tmp_path / "mine"))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("torn", ["a line of the journal", "the signals", "both", "an index of a later stage"])
def test_what_a_kill_tore_is_done_again(many, tmp_path, torn) -> None:
    source = open_source("array", many, None)

    def stop(done: int, total: int) -> None:
        if done == 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, progress=stop)
    partial = tmp_path / ".mine.partial"
    journal, signals = partial / "journal.jsonl", partial / "signals.i16"
    if torn in ("a line of the journal", "both"):
        cut(journal, journal.stat().st_size - 7)
    if torn in ("the signals", "both"):
        cut(signals, signals.stat().st_size // 2)
    if torn == "an index of a later stage":
        (partial / "index.npy").write_bytes(b"half")
    same(prepare(source, tmp_path / "straight"), prepare(source, tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), UserError("no")])
def test_a_prepare_that_fails_half_way_leaves_no_store_and_goes_on(tmp_path, error) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            assert left(tmp_path) == [".mine.partial"]
            raise error

    source = corpora.source(noise(4, 12, 50))
    with pytest.raises((KeyboardInterrupt, OSError, UserError)):
        prepare(source, tmp_path, progress=stop)
    assert left(tmp_path) == [".mine.partial"]
    same(prepare(source, tmp_path), prepare(source, tmp_path / "straight"))


def test_an_unfinished_store_of_other_options_is_not_thrown_away(tmp_path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = corpora.source(noise(4, 12, 50))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, progress=stop)
    with pytest.raises(UserError, match=r"\.mine\.partial is the unfinished store of other records or options"):
        prepare(source, tmp_path, rate_hz=50)
    assert left(tmp_path) == [".mine.partial"]


def test_of_two_at_once_the_second_is_told_so(tmp_path) -> None:
    with lock_file(tmp_path / ".mine.lock", "store mine"), pytest.raises(
            UserError, match=rf"store mine is being worked on by another process \(pid {os.getpid()} on "):
        prepare(corpora.source(noise(4, 12, 50)), tmp_path)
    assert left(tmp_path) == []


def test_flat_records_are_no_duplicates(tmp_path) -> None:
    signals = noise(4, 12, 50)
    signals[1] = signals[3] = 0
    made = prepare(corpora.source(signals), tmp_path, drop_duplicates=True)
    assert len(made.index) == 4 and report(made)["duplicates"]["within"] == []


def test_a_store_that_cannot_be_read_is_not_compared_and_named(tmp_path) -> None:
    corpora.store(tmp_path, noise(4, 12, 50), name="old")
    (tmp_path / "old" / "index.npy").unlink()
    assert report(corpora.store(tmp_path, noise(4, 12, 50)))["duplicates"]["not_compared"] == ["old"]


def test_a_journal_without_its_plan_is_not_gone_on_with(tmp_path, monkeypatch) -> None:
    source = corpora.source(noise(4, 12, 400))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed when all but the rename was done
        prepare(source, tmp_path)
    (tmp_path / ".mine.partial" / "journal.jsonl").write_text("{}\n")
    monkeypatch.setattr(os, "rename", rename)
    made = prepare(source, tmp_path, rate_hz=50)
    assert made.index["length"].tolist() == [200] * 4
    assert sorted(p.name for p in made.folder.iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize("line", ["{}", "null", "[1]", '{"rows": 1}'])
def test_a_line_of_the_journal_that_is_not_ours_ends_it(tmp_path, line) -> None:
    source = corpora.source(noise(4, 12, 50))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt) if done else None)
    (tmp_path / ".mine.partial" / "journal.jsonl").write_text(f"{line}\n")
    assert len(prepare(source, tmp_path).index) == 4


@pytest.mark.parametrize(("length", "more", "rate_hz"), [(15, {"highpass_hz": 0.5}, 100), (1, {}, 20)])
def test_a_record_too_short_to_filter_or_resample_is_refused(tmp_path, length, more, rate_hz) -> None:
    source = replace(corpora.source([noise(12, 100), noise(12, length)]), **more)
    made = prepare(source, tmp_path, rate_hz=rate_hz, skip_bad=True)
    assert list(report(made)["refused"]["too short"]["records"]) == ["r1"]


def test_an_id_that_cannot_be_printed_is_refused_before_anything_is_read(tmp_path) -> None:
    source = corpora.source(noise(2, 12, 50))
    source.records["record_id"] = ["r0", "r\r1"]
    with pytest.raises(UserError, match=r"record_id 'r\\r1' holds a line break"):
        prepare(source, tmp_path)
    assert left(tmp_path) == []


def test_a_rate_of_zero_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="rate 0 Hz must be positive"):
        prepare(corpora.source(noise(2, 12, 50)), tmp_path, rate_hz=0)


def test_refused_records_are_journalled_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("bench.data.ingest.prepare.SAVE_ROWS", 2)
    source = replace(corpora.source(noise(6, 12, 50)), min_seconds=1.0)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt) if done == 5 else None)
    journal = (tmp_path / ".mine.partial" / "journal.jsonl").read_text()
    assert sum(json.loads(line)["rows"] for line in journal.splitlines()) == 4


def test_a_store_is_never_overwritten(tmp_path) -> None:
    first = corpora.store(tmp_path, noise(4, 12, 50))
    with pytest.raises(UserError, match="exists already"):
        corpora.store(tmp_path, noise(4, 12, 50, seed=1))
    assert left(tmp_path) == ["mine"]
    np.testing.assert_array_equal(first.signal(0), noise(4, 12, 50)[0] / 1000)


def test_one_corpus_makes_several_stores_by_name(tmp_path) -> None:
    source = corpora.source(noise(4, 12, 50))
    assert prepare(source, tmp_path, name="again").name == "again"
    for name in ("../evil", "a b", "", ".hidden", "A"):
        if name:
            with pytest.raises(UserError, match="lower-case letters, digits and dashes"):
                prepare(source, tmp_path, name=name)
    assert left(tmp_path) == ["again"]


def with_faults() -> np.ndarray:
    """Five records: r1 has gaps in two leads, r3 two constant leads."""
    signals = noise(5, 12, 60).astype(np.float32)
    signals[1, 2, 10:20] = signals[1, 5, :3] = np.nan
    signals[3, 0] = signals[3, 6] = 0
    return signals


def test_gaps_are_filled_and_constant_leads_kept_and_both_are_listed(tmp_path) -> None:
    folder = array_corpus(tmp_path / "c", with_faults())
    store = prepare(open_source("array", folder, None), tmp_path)
    found = report(store)
    assert (found["gaps_filled"], found["constant_leads"]) == ({"r1": 2}, {"r3": ["I", "V1"]})
    assert (found["found"], found["accepted"], found["refused"]) == (5, 5, {})
    first, last = with_faults()[1, 2, [9, 20]] / 1000
    np.testing.assert_allclose(store.signal(1)[2, 9:21], np.linspace(first, last, 12), atol=0.0005 + 1e-6)


@pytest.mark.parametrize(("spec", "bad", "reason", "message"), [
    ({"gaps": "refuse"}, "r1", "gaps", "has gaps (NaN)"),
    ({"constant_leads": "refuse"}, "r3", "constant leads", "has constant leads (I, V1)"),
])
def test_a_data_set_may_refuse_them_and_leave_them_out(tmp_path, spec, bad, reason, message) -> None:
    source = open_source("array", array_corpus(tmp_path / "c", with_faults(), **spec), None)
    with pytest.raises(UserError) as raised:
        prepare(source, tmp_path / "stores")
    assert str(raised.value) == (f"mine: 1 of 5 records cannot be used (1 {reason}): record {bad}: {message}. Put them "
                                 f"right and run again, or --skip-bad leaves them out and lists them")
    assert left(tmp_path / "stores") == [".mine.partial"]
    store = prepare(source, tmp_path / "stores", skip_bad=True)
    found = report(store)
    assert found["refused"] == {reason: {"by_rule": False, "count": 1, "records": {bad: message}}}
    assert (found["found"], found["accepted"]) == (5, 4)
    kept = [i for i in range(5) if f"r{i}" != bad]
    assert list(store.records.record_id) == [f"r{i}" for i in kept]
    for new, old in enumerate(kept):  # offsets close the hole
        known = ~np.isnan(with_faults()[old])
        np.testing.assert_allclose(store.signal(new)[known], (with_faults()[old] / 1000)[known], atol=1e-6)


def test_a_record_that_was_put_right_is_read_again(tmp_path) -> None:
    broken = True

    def read(row) -> Recording:
        if broken and row.record_id == "r2":
            raise Refused("missing file", "r2.dat does not exist")
        return good.read(row)

    good = corpora.source(noise(5, 12, 50))
    source = replace(good, read=read)
    with pytest.raises(UserError, match="1 missing file"):
        prepare(source, tmp_path)
    broken = False
    same(prepare(good, tmp_path / "straight"), prepare(source, tmp_path))


def test_what_a_source_drops_by_rule_is_reported_and_no_error(tmp_path) -> None:
    source = replace(corpora.source([noise(12, 100), noise(12, 99), noise(12, 150)]), min_seconds=1.0)
    store = prepare(source, tmp_path)
    assert list(store.records.record_id) == ["r0", "r2"]
    assert report(store)["refused"] == {
        "shorter than 1 s": {"by_rule": True, "count": 1, "records": {"r1": "lasts 0.99 s"}}}


@pytest.mark.parametrize(("value", "message"), [(np.nan, "lead III holds no value"), (np.inf, "infinite")])
def test_what_no_setting_can_keep_is_refused_by_record(tmp_path, value, message) -> None:
    signals = noise(3, 12, 60).astype(np.float32)
    signals[2, 2] = value
    source = open_source("array", array_corpus(tmp_path / "c", signals), None)
    with pytest.raises(UserError, match=f"record r2: .*{message}"):
        prepare(source, tmp_path / "stores")
    assert len(prepare(source, tmp_path / "stores", skip_bad=True).records) == 2


def test_samples_that_int16_does_not_hold_are_clipped_and_counted(tmp_path) -> None:
    signals = noise(3, 12, 60).astype(np.float32)
    signals[1, 2, 5:8] = 1e6, -1e6, 32767
    store = prepare(open_source("array", array_corpus(tmp_path / "c", signals), None), tmp_path / "stores")
    assert report(store)["clipped"] == {"r1": 2}
    np.testing.assert_allclose(store.signal(1)[2, 5:8], [32.767, -32.767, 32.767])


def test_a_corpus_without_a_usable_record_makes_no_store(tmp_path) -> None:
    broken = np.full((3, 12, 60), np.nan, np.float32)
    source = open_source("array", array_corpus(tmp_path / "c", broken), None)
    with pytest.raises(UserError, match="mine: no usable record"):
        prepare(source, tmp_path / "one", skip_bad=True)
    with pytest.raises(UserError, match="no usable record in folds"):
        corpora.store(tmp_path / "two", noise(2, 12, 60), folds=[9, 10])
    assert left(tmp_path / "one") == left(tmp_path / "two") == [".mine.partial"]


def test_a_lead_that_never_changes_in_the_whole_corpus_is_refused_by_name(tmp_path) -> None:
    signals = noise(3, 12, 60)
    signals[:, 4] = 7
    with pytest.raises(UserError, match=f"lead {LEADS[4]} is constant in every record"):
        corpora.store(tmp_path, signals)


def test_a_store_of_another_rate_holds_the_resampled_signal(tmp_path) -> None:
    time_s = np.arange(800) / 400
    sine = np.rint(1000 * np.sin(2 * np.pi * 5 * time_s) * np.arange(1, 13)[:, None]).astype(np.int16)
    source = corpora.source([sine, sine[:, :601]], rate_hz=400)
    for resampling in ("fourier", "periodic"):
        store = prepare(source, tmp_path, name=resampling, rate_hz=500, resampling=resampling)
        assert (store.rate_hz, store.manifest["published_rate_hz"]) == (500, 400)
        assert list(store.index["length"]) == [1000, 751]
        want = np.sin(2 * np.pi * 5 * np.arange(1000) / 500) * np.arange(1, 13)[:, None]
        np.testing.assert_allclose(store.signal(0)[:, 50:-50], want[:, 50:-50], atol=0.005 * 12)
    assert open_store(tmp_path / "fourier").fingerprint != open_store(tmp_path / "periodic").fingerprint


def test_a_high_pass_takes_the_drift_and_leaves_the_beat(tmp_path) -> None:
    time_s = np.arange(3000) / 100
    beat = np.sin(2 * np.pi * 5 * time_s)
    drift = 3 * np.sin(2 * np.pi * 0.1 * time_s) + 2
    signal = np.rint(1000 * np.tile(beat + drift, (12, 1))).astype(np.int16)
    store = prepare(replace(corpora.source([signal]), highpass_hz=0.5), tmp_path)
    np.testing.assert_allclose(store.signal(0)[0, 300:-300], beat[300:-300], atol=0.03)


def test_duplicates_are_reported_within_and_across_and_dropped_on_request(tmp_path) -> None:
    signals = noise(5, 12, 50)
    signals[3] = signals[1]
    first = corpora.store(tmp_path, signals[[4, 0]], name="first")
    told = report(corpora.store(tmp_path, signals, name="kept"))["duplicates"]
    assert told == {"within": [["r1", "r3"]], "across": {"first": ["r0", "r4"]}, "not_compared": []}
    source = corpora.source(signals)
    dropped = prepare(source, tmp_path, name="dropped", drop_duplicates=True, not_in=[first])
    assert list(dropped.records.record_id) == ["r1", "r2"]
    reasons = {reason: group["records"].keys() for reason, group in report(dropped)["refused"].items()}
    assert reasons == {"duplicate": {"r3"}, "in first": {"r0", "r4"}}


def test_a_duplicate_is_known_by_its_published_samples_whatever_the_rate_of_the_store(tmp_path) -> None:
    source = corpora.source(noise(3, 12, 100))
    prepare(source, tmp_path, name="slow", rate_hz=50)
    assert report(prepare(source, tmp_path, name="fast"))["duplicates"]["across"] == {"slow": ["r0", "r1", "r2"]}


def test_a_ptb_xl_record_with_gaps_is_filled_and_listed(ptbxl, tmp_path) -> None:
    source = open_source("ptb-xl", ptbxl, 100)

    def torn(row) -> Recording:
        recording = source.read(row)
        if row.record_id == "7":
            recording = Recording(100, recording.physical())
            recording.samples[2, :30] = np.nan
        return recording

    assert report(prepare(replace(source, read=torn), tmp_path / "stores"))["gaps_filled"] == {"7": 1}
