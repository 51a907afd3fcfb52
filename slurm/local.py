"""Runs a sweep on this machine as the jobs of a cluster would: one worker per task, and a few tasks at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from bench.core.files import write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.runs.config import METHODS
from bench.runs.results import check_writable
from bench.runs.workspace import SAVE_MINUTES
from slurm import snapshot, states, status
from slurm.cluster import Cluster, Request
from slurm.plan import Array, Limits, Plan, plan_arrays
from slurm.shared import SharedFolder
from slurm.states import Run
from slurm.submit import Settings, prepare_submission

PACK = 20  # evaluations per task, which imports torch once
POLL_SECONDS = 0.1  # between two checks of the workers
SHOW_SECONDS, LOG_SECONDS = 1.0, 15.0  # between two updates of the live table, and between two lines in a log
SHOW_SHARE = 0.05  # the largest share of the time that the display may take


def local_cluster(cpus: int) -> Cluster:
    """This machine as a cluster, with one process per task and PACK evaluations per task."""
    return Cluster("local", requests={
        kind: Request(kind=kind, partition="local", time="00:01:00", memory="0", cpus=cpus, processes=1, pack=pack)
        for kind, pack in (("pretrain", 1), ("evaluate", PACK))})


def run_local(runs: dict[str, Run], shared: SharedFolder, sweep: str, *, jobs: int, cpus: int, save_minutes: float = SAVE_MINUTES,
              say: Callable[[str], None] | None = None) -> None:
    """Run the missing runs, `jobs` tasks at a time, and show them. At the end the runs have their new states.

    If a signal asks to stop, all workers save, and Interrupted says what was saved. say: if given, it receives lines of
    progress instead of the live table.
    UserError if the code of a method has changed since it gave a result.
    """
    check_writable(shared.results)
    states.check_code(runs, shared)
    states.read_states(runs, shared, None)
    done = states.count_states(runs.values())["done"]
    settings = Settings(sweep, local_cluster(cpus), save_minutes)
    plan = plan_arrays(runs, settings.cluster, Limits(max(1, len(runs)), jobs))
    with _Display(runs, shared, say) as display, watch_signals() as signal_number:
        workers = _Workers(plan, shared, settings, jobs, display.say)
        try:
            while workers.is_busy and not signal_number():
                workers.start()
                workers.collect()
                display.refresh()
                time.sleep(POLL_SECONDS)
            if workers.running:
                display.say(f"{signal.Signals(signal_number()).name}: the runs save and stop")
        finally:
            stopped = workers.stop()
    states.read_states(runs, shared, None)
    if signum := signal_number():
        now = states.count_states(runs.values())["done"]
        raise Interrupted(signum, f"{now - done} results ({now} of {len(runs)} runs are done) and the checkpoints of "
                                  f"{stopped} tasks")


@dataclass(eq=False)
class _Task:
    array: Array
    index: int
    folder: Path


class _Workers:
    """The tasks of a plan: the waiting ones, the running ones, and the exit codes of the others."""

    def __init__(self, plan: Plan, shared: SharedFolder, settings: Settings, jobs: int, say: Callable[[str], None]):
        self.jobs, self.say = jobs, say
        self.waiting: list[_Task] = []
        self.running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}  # (token, index) -> its worker
        self.codes: dict[tuple[str, int], int] = {}  # (token, index) -> exit code
        code = snapshot.copy_code(shared.folder / "code") if plan.arrays else shared.folder
        self.env = {key: value for key, value in os.environ.items() if key != METHODS and not key.startswith("SLURM_")}
        self.env["PYTHONPATH"] = str(code.absolute())
        for array in plan.arrays:
            folder = prepare_submission(array, shared, settings, code)
            write_text(folder / "job_id", "local")  # a later `submit` must not resolve it
            self.waiting += [_Task(array, index, folder) for index in array.tasks]

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting or self.running)

    def start(self) -> None:
        """Start waiting tasks whose pre-trainings have ended, until `jobs` tasks run."""
        ready = [task for task in self.waiting if not task.array.after or (task.array.after, task.index) in self.codes]
        for task in ready[: self.jobs - len(self.running)]:
            self.waiting.remove(task)
            if task.array.after and self.codes[task.array.after, task.index]:
                number = sum(map(len, task.array.tasks[task.index]))
                self.say(f"{number} evaluations left out: their pre-training has no result")
                continue
            command = [sys.executable, "-P", "-m", "slurm.worker", str(task.folder), str(task.index)]
            with (task.folder / "logs" / f"{task.index}.log").open("ab") as log:
                self.running[task.array.token, task.index] = subprocess.Popen(
                    command, env=self.env, cwd=task.folder, stdout=log, stderr=log,
                    start_new_session=True)  # Ctrl-C goes to this process, which tells the workers to save

    def collect(self) -> None:
        """Note which workers have ended."""
        for key, process in list(self.running.items()):
            if process.poll() is not None:
                self.codes[key] = self.running.pop(key).returncode

    def stop(self) -> int:
        """Tell the workers to save and end. Returns how many were running."""
        self.collect()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()
        return len(self.running)


class _Display:
    """The states of the runs: a live table on a terminal, lines elsewhere."""

    def __init__(self, runs: dict[str, Run], shared: SharedFolder, say: Callable[[str], None] | None):
        self.runs, self.shared, self.console = runs, shared, Console()
        self.live = Live(console=self.console, auto_refresh=False) if say is None and self.console.is_terminal else None
        self.say = say or self.console.print
        self.pace = SHOW_SECONDS if self.live else LOG_SECONDS
        self.began = time.monotonic()
        self.next = self.began + (0 if self.live else self.pace)
        self.done = states.count_states(runs.values())["done"]

    def __enter__(self) -> "_Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def refresh(self) -> None:
        """Show the current states if the last update is old enough."""
        now = time.monotonic()
        if now < self.next:
            return
        states.read_states(self.runs, self.shared, None)
        summary = status.summarise_local(self.runs.values(), self.done, now - self.began)
        if self.live:
            self.live.update(status.render_live(self.runs.values(), summary, self.console.height), refresh=True)
        else:
            self.say(status.list_at_work(self.runs.values(), summary))
        self.next = now + max(self.pace, (time.monotonic() - now) / SHOW_SHARE)
