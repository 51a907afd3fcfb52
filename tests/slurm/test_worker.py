"""What a job's worker does with signals; the rest of it is tested on a real Slurm (test_slurm.py)."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from slurm import worker

CHILD = """
import signal, sys, types
from slurm import worker
signal.pthread_sigmask(signal.SIG_BLOCK, [*worker.STOPS, signal.SIGCHLD])
one = object.__new__(worker.Worker)
one.stop, one.holder = None, types.SimpleNamespace(beat=lambda: True)
print("ready", flush=True)
for _ in range(40):
    one.wait(None, 0.05)
sys.exit(one.stop or 0)
"""


@contextlib.contextmanager
def child() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True,
                          cwd=Path(worker.__file__).parents[1]) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process


def test_a_worker_that_is_suspended_and_continued_goes_on() -> None:
    with child() as process:
        for _ in range(4):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.15)  # longer than it waits
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        assert process.wait(20) == 0


def test_a_worker_that_is_asked_to_stop_notes_the_signal() -> None:
    with child() as process:
        process.send_signal(signal.SIGUSR2)
        assert process.wait(20) == signal.SIGUSR2


def test_a_signal_that_is_none_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: SimpleNamespace(si_signo=-779747040))
    one = object.__new__(worker.Worker)
    one.stop = None
    process = SimpleNamespace(send_signal=lambda _: 1 / 0)
    assert not one.wait(process, 0.1) and one.stop is None  # type: ignore[arg-type]
