import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import corpora
import numpy as np
import pytest
from corpora import array_corpus, noise

from bench.data.prepare import INLINE, prepare
from bench.data.signal import LEADS
from bench.data.sources import open_source
from bench.errors import UserError
from bench.files import locked


def left(folder: Path) -> list[str]:
    """What lies in a folder of stores but for the locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def report(store) -> dict:
    return json.loads((store.folder / "prepare.json").read_text())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough records for processes to be started, two of them with something to report."""
    signals = noise(INLINE + 50, 12, 20).astype(np.float32)
    signals[700, 3, 5:9] = np.nan
    signals[900, 11] = 4.0
    return array_corpus(tmp_path_factory.mktemp("many") / "corpus", signals)


def test_two_processes_write_the_bytes_that_one_writes(many, tmp_path) -> None:
    source, seen = open_source("array", many, None), []
    one = prepare(source, tmp_path / "one")
    two = prepare(source, tmp_path / "two", jobs=2, progress=lambda done, total: seen.append((done, total)))
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes(), path.name
    assert seen == [(i + 1, INLINE + 50) for i in range(INLINE + 50)]
    assert report(two) == {"refused": {}, "gaps_filled": {"r700": 1}, "constant_leads": {"r900": ["V6"]}}


KILLED = """
import multiprocessing, os, pathlib, signal, sys
from bench.data.prepare import prepare
from bench.data.sources import open_source

def stop(done, total):
    if done == 200:
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    folder, stores = map(pathlib.Path, sys.argv[1:])
    prepare(open_source("array", folder, None), stores, jobs=2, progress=stop)
"""


def alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty: dead, but not yet waited for
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_prepare_leaves_no_store_and_no_process_and_can_be_repeated(many, tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, many, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert left(tmp_path) == [".mine.partial"]
    assert not (tmp_path / ".mine.partial" / "manifest.json").exists()
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    until = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    orphans = [pid for pid in workers if alive(pid)]
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert not orphans
    assert len(prepare(open_source("array", many, None), tmp_path).records) == INLINE + 50
    assert left(tmp_path) == ["mine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), UserError("no")])
def test_a_prepare_that_stops_half_way_leaves_nothing(tmp_path, error) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            assert left(tmp_path) == [".mine.partial"]
            raise error

    with pytest.raises((KeyboardInterrupt, OSError, UserError)):
        prepare(corpora.source(noise(4, 12, 50)), tmp_path, progress=stop)
    assert left(tmp_path) == []


def test_of_two_at_once_the_second_is_told_so(tmp_path) -> None:
    with locked(tmp_path / ".mine.lock", "store mine"), pytest.raises(UserError, match="store mine is being worked on"):
        prepare(corpora.source(noise(4, 12, 50)), tmp_path)
    assert left(tmp_path) == []


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
    assert report(store) == {"refused": {}, "gaps_filled": {"r1": 2}, "constant_leads": {"r3": ["I", "V1"]}}
    first, last = with_faults()[1, 2, [9, 20]] / 1000
    np.testing.assert_allclose(store.signal(1)[2, 9:21], np.linspace(first, last, 12), atol=0.0005 + 1e-6)


@pytest.mark.parametrize(("spec", "bad", "message"), [
    ({"gaps": "refuse"}, "r1", "record r1: has gaps (NaN)"),
    ({"constant_leads": "refuse"}, "r3", "record r3: has constant leads (I, V1)"),
])
def test_a_data_set_may_refuse_them_and_leave_them_out(tmp_path, spec, bad, message) -> None:
    source = open_source("array", array_corpus(tmp_path / "c", with_faults(), **spec), None)
    with pytest.raises(UserError) as raised:
        prepare(source, tmp_path / "stores")
    assert str(raised.value) == f"{message} (--skip-bad leaves such records out)"
    assert left(tmp_path / "stores") == []
    store = prepare(source, tmp_path / "stores", skip_bad=True)
    assert report(store)["refused"] == {bad: message}
    kept = [i for i in range(5) if f"r{i}" != bad]
    assert list(store.records.record_id) == [f"r{i}" for i in kept]
    for new, old in enumerate(kept):  # offsets close the hole
        known = ~np.isnan(with_faults()[old])
        np.testing.assert_allclose(store.signal(new)[known], (with_faults()[old] / 1000)[known], atol=1e-6)


@pytest.mark.parametrize(("value", "message"), [
    (np.nan, "lead III holds no value"), (np.inf, "infinite"), (1e6, "more than int16 holds")])
def test_what_no_setting_can_keep_is_refused_by_record(tmp_path, value, message) -> None:
    signals = noise(3, 12, 60).astype(np.float32)
    signals[2, 2] = value
    source = open_source("array", array_corpus(tmp_path / "c", signals), None)
    with pytest.raises(UserError, match=f"record r2: .*{message}"):
        prepare(source, tmp_path / "stores")
    assert len(prepare(source, tmp_path / "stores", skip_bad=True).records) == 2


def test_a_corpus_without_a_usable_record_makes_no_store(tmp_path) -> None:
    broken = np.full((3, 12, 60), np.nan, np.float32)
    source = open_source("array", array_corpus(tmp_path / "c", broken), None)
    with pytest.raises(UserError, match="mine: no usable record"):
        prepare(source, tmp_path / "stores", skip_bad=True)
    with pytest.raises(UserError, match="no usable record in folds"):
        corpora.store(tmp_path / "stores", noise(2, 12, 60), folds=[9, 10])
    assert left(tmp_path / "stores") == []


def test_a_lead_that_never_changes_in_the_whole_corpus_is_refused_by_name(tmp_path) -> None:
    signals = noise(3, 12, 60)
    signals[:, 4] = 7
    with pytest.raises(UserError, match=f"lead {LEADS[4]} is constant in every record"):
        corpora.store(tmp_path, signals)
    assert left(tmp_path) == []


def test_a_ptb_xl_record_with_gaps_is_filled_and_listed(ptbxl, tmp_path) -> None:
    for name in ("ptbxl_database.csv", "scp_statements.csv", "records100"):
        os.symlink(ptbxl / name, tmp_path / name)
    source = open_source("ptb-xl", tmp_path, 100)
    read = source.read

    def torn(row) -> np.ndarray:
        signal_mv = read(row)
        if row.record_id == "7":
            signal_mv[2, :30] = np.nan
        return signal_mv

    object.__setattr__(source, "read", torn)
    assert report(prepare(source, tmp_path / "stores"))["gaps_filled"] == {"7": 1}
