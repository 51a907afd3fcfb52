"""What a job's worker does with signals; the rest of it is tested on a real Slurm (test_slurm.py)."""

import signal
import subprocess
import sys
import time

from bench.core.files import ROOT

CHILD = """
import signal, sys, types
from slurm import worker
signal.pthread_sigmask(signal.SIG_BLOCK, [*worker.STOPS, signal.SIGCHLD])
one = object.__new__(worker.Worker)
one.stop, one.holder = None, types.SimpleNamespace(beat=lambda: True)
print("ready", flush=True)
while not one.stop:
    one.wait(None, 0.05)
sys.exit(one.stop)
"""


def test_a_worker_goes_on_when_it_is_continued_and_notes_a_signal_to_stop() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        for _ in range(4):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.15)  # longer than it waits
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGUSR2)
        assert process.wait(20) == signal.SIGUSR2
