"""At most one holder of a run at a time, whoever dies and whatever the clocks say."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.core import files
from bench.core.errors import UserError
from bench.core.files import ROOT
from slurm import lease
from slurm.lease import Holder


def test_a_lease_has_one_holder_until_it_ends(tmp_path: Path) -> None:
    a, b = Holder(tmp_path), Holder(tmp_path)
    assert a.take(["x", "y"]) == {}
    assert b.take(["x", "z"]) == {"x": f"pid {os.getpid()} on {os.uname().nodename}"}
    a.end()
    assert b.take(["x", "y"]) == {}
    assert b.runs == {"x", "y", "z"}
    b.forget(["x", "y", "z", "never held"])
    assert not list(tmp_path.glob("?.*"))


def test_of_many_that_want_a_lease_at_once_one_has_it(tmp_path: Path) -> None:
    start = threading.Barrier(16)

    def wins(holder: Holder) -> bool:
        start.wait()
        return "x" not in holder.take(["x"])

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(wins, [Holder(tmp_path) for _ in range(16)])) == 1


def elsewhere(holder: Holder) -> None:
    """Let the holder be a process of another machine, about which only its beats tell."""
    text = holder.path.read_text().replace(lease.machine_id(), "another machine")
    holder.path.write_text(text)


def test_a_holder_elsewhere_that_stands_still_is_taken_over_and_learns_it_at_its_next_beat(tmp_path: Path) -> None:
    dead, heir = Holder(tmp_path, 0.01), Holder(tmp_path, 0.01)
    dead.take(["x"])
    elsewhere(dead)
    since = time.monotonic()
    while heir.take(["x"]):
        time.sleep(0.01)
    assert time.monotonic() - since > lease.MISSED * 0.01
    assert lease.was_declared_dead(tmp_path, dead.info.name)
    assert not dead.beat()
    assert heir.beat()
    (tmp_path / "y.1").write_text("")
    with pytest.raises(UserError, match="y.1 is damaged; remove it"):
        heir.take(["y"])


def test_a_holder_that_beats_is_never_taken_over_whatever_its_clock_says(tmp_path: Path) -> None:
    alive, other = Holder(tmp_path, 0.01), Holder(tmp_path, 0.01)
    alive.take(["x"])
    elsewhere(alive)
    for _ in range(3 * lease.MISSED):
        assert alive.beat()
        os.utime(alive.path, (0, 0))  # decades ago
        assert other.take(["x"])
        time.sleep(0.01)


def test_a_process_of_this_machine_that_is_no_more_is_not_waited_for(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from slurm.lease import Holder; Holder(Path(sys.argv[1])).take(['x'])"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "x.1").exists()
    assert Holder(tmp_path).take(["x"]) == {}


def test_a_file_system_without_locks_leaves_the_guarding_to_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.lock_file(tmp_path / "lock", "run x"):
        pass
