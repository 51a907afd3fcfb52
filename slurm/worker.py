"""What a task of an array executes: its runs, one after the other, each under a lease, in a process that may die.

    python -m slurm.worker SUBMISSION [INDEX]

This process does no work itself. It shows that it lives (slurm/lease.py), passes signals on, and notes why a run failed.
The work is done by a child, or by several that srun starts (slurm/perform.py).
"""

import ctypes
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bench.core.progress import FILE as PROGRESS
from bench.runs.config import EvaluationConfig
from bench.runs.results import result_exists, result_path
from slurm import commands, lease
from slurm.shared import Failure, SharedFolder, is_parked, last_words, read_submission, read_units

STOPS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
SAVE_SECONDS = 90  # that a child may take to save when a signal asks it to stop
TRIES = 3  # in one job, of a run whose process died
REQUEUES, REQUEUE_SECONDS = 20, 3  # how often, and after what pause, a controller that does not answer is asked
PRCTL, PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1  # prctl(2): a signal when the parent ends


def main() -> int:
    """0 when every run of the task has its result."""
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:  # started by `sweep run --local`: when that ends, this process saves and ends, too
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    index = int(sys.argv[2] if len(sys.argv) > 2 else os.environ["SLURM_ARRAY_TASK_ID"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOPS, signal.SIGCHLD])  # `wait` receives them
    return Worker(folder, index).work()


def say(text: str) -> None:
    print(f"worker: {text}", file=sys.stderr, flush=True)


class Task:
    """The runs of a task, and what the shared folder knows about them."""

    def __init__(self, folder: Path, index: int):
        self.folder, self.index = folder, index
        self.submission = read_submission(folder)
        self.shared = SharedFolder(Path(self.submission.work), Path(self.submission.results))
        self.units = read_units(folder, index)
        self.runs = {name: config for unit in self.units for name, config in unit.items()}

    def done(self, runs: Iterable[str]) -> set[str]:
        """Those of the runs that have a result."""
        return {run for run in runs if result_exists(self.shared.results, run)}

    def early(self) -> set[str]:
        """Evaluations whose pre-training has no result: Slurm takes a job that it has forgotten for one that went well."""
        first_of = {run: config.pretrain for run, config in self.runs.items() if isinstance(config, EvaluationConfig)}
        done = self.done(set(first_of.values()))
        return {run for run, first in first_of.items() if first not in done}

    def note_failure(self, run: str, reason: str, job: str | None = None, node: str | None = None) -> None:
        """Note why the run failed; here unless job and node say another place."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        here = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self.shared.note_failure(run, Failure(reason, job or lease.current_job(), node or here, when))


class Worker:
    """Sees to it that the runs of a task end with a result, or with a reason why not."""

    def __init__(self, folder: Path, index: int):
        self.task = Task(folder, index)
        self.stop: int | None = None  # the signal that came
        self.failed: dict[str, int] = {}  # run -> how often here

    def work(self) -> int:
        """Do what is left of the task; gives the exit code."""
        task = self.task
        if (task.folder / "abandoned").exists():
            say("a later `submit` did not find this job and submitted its runs anew: nothing to do")
            return 0
        for run in sorted(task.done(task.runs)):
            say(f"already done: {result_path(task.shared.results, run)}")
        self.holder = self.new_holder()
        try:
            while not self.stop:
                runs, busy = self.take_leases()
                if runs:
                    self.run_child(runs)
                    self.holder.forget(task.done(self.holder.runs))
                elif not busy:
                    break
                else:
                    say(f"{len(busy)} runs are held by {sorted(set(busy.values()))}: waiting")
                    self.wait(None, task.submission.beat_seconds)
        finally:
            self.holder.end()
        return self.report()

    def report(self) -> int:
        """Have the job queued again where a signal stopped it, and say why runs have no result; gives the exit code."""
        task, job = self.task, lease.current_job()
        left = task.runs.keys() - task.done(task.runs)
        if self.stop and left and job:
            requeue(job)
        early = task.early()
        for run in left:
            failures = task.shared.failures_of(run)
            say(f"{run}: " + ("its pre-training has no result" if run in early
                              else f"failed: {failures[-1].reason}" if failures else "stopped"))
        return 128 + self.stop if self.stop and left else int(bool(left))

    def new_holder(self) -> lease.Holder:
        task = self.task
        return lease.Holder(task.shared.leases, task.submission.beat_seconds, f"{task.folder.name}/logs/{task.index}.log")

    def take_leases(self) -> tuple[list[str], dict[str, str]]:
        """(the runs that are left and that we hold, run -> its holder of those that others hold), in the order of the task."""
        task, shared = self.task, self.task.shared
        skipped = task.done(task.runs) | task.early()
        left = [run for run in task.runs if run not in skipped and not self.is_hopeless(run)]
        before, own = lease.newest_leases(shared.leases, left), set(self.holder.runs)
        busy = self.holder.take(left)
        for run in before.keys() - busy.keys() - own:
            content = before[run].read()
            last = content[1] if content else None
            # killed without a word; but a job that Slurm itself started again may have been the victim of its node
            if last and last.job != lease.current_job() and lease.was_declared_dead(shared.leases, last.name):
                words = last_words(shared.submissions / last.log) or commands.list_end_states().get(last.job or "")
                task.note_failure(run, f"its job vanished: {words or 'nothing says why'}", last.job, last.node)
        done = task.done(left)  # again: the last holder may have finished just before we took it
        self.holder.forget(done)
        return ([run for run in left if run not in busy and run not in done],
                {run: holder for run, holder in busy.items() if run not in done})

    def is_hopeless(self, run: str) -> bool:
        """Whether the run failed here for a reason that stays, or is parked."""
        return self.failed.get(run, 0) >= TRIES or is_parked(self.task.shared.failures_of(run))

    def run_child(self, runs: list[str]) -> None:
        """Work on the runs until the process that does it ends; note what made it fail."""
        known = {run: len(self.task.shared.failures_of(run)) for run in runs}
        code = self.watch_child(runs)
        if code is None:
            return
        explained = {run for run in runs if len(self.task.shared.failures_of(run)) > known[run]}
        self.failed |= dict.fromkeys(explained, TRIES)  # the child said why: it would fail again
        left = (set(unit) & set(runs) - explained - self.task.done(unit) for unit in self.task.units)
        unit = next((names for names in left if names), set[str]())  # the child was at the first unit that is not done
        if unit and code in [128 + s for s in STOPS]:
            self.stop = self.stop or code - 128
        elif unit and not self.stop:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            for run in sorted(unit):
                self.task.note_failure(run, f"its process {how}")
                self.failed[run] = self.failed.get(run, 0) + 1

    def watch_child(self, runs: list[str]) -> int | None:
        """Start a child on the runs and wait for its end, beating; gives its exit code, or None where the leases were lost."""
        beat_seconds, worker = self.task.submission.beat_seconds, os.getpid()

        def prepare() -> None:
            PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)  # no run goes on without the process that holds its lease
            if os.getppid() != worker:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])

        env = {**os.environ, PROGRESS: str(self.holder.progress)}
        with subprocess.Popen(self.command(runs), stdin=subprocess.DEVNULL, preexec_fn=prepare, env=env) as process:
            stop_at = None
            while process.poll() is None:
                if self.wait(process, beat_seconds) and stop_at is None:
                    stop_at = time.monotonic() + SAVE_SECONDS
                if stop_at is not None and time.monotonic() > stop_at:
                    say(f"the run did not save within {SAVE_SECONDS} s: killed")
                    process.kill()
                if not self.holder.beat():
                    say("another process took this worker for dead and took over its runs: stopped")
                    process.kill()
                    process.wait()
                    self.holder = self.new_holder()
                    return None
        return process.returncode

    def command(self, runs: list[str]) -> list[str]:
        """The command line that works on the runs."""
        task, submission = self.task, self.task.submission
        command = [sys.executable, "-P", "-m", "slurm.perform", str(task.folder), str(task.index), *runs]
        if submission.nodes * submission.processes == 1:
            return command
        return ["srun", f"--nodes={submission.nodes}", f"--ntasks={submission.nodes * submission.processes}",
                f"--ntasks-per-node={submission.processes}", f"--cpus-per-task={submission.cpus}", "--kill-on-bad-exit=1",
                *command]

    def wait(self, process: "subprocess.Popen[bytes] | None", seconds: float) -> bool:
        """Wait for a signal, at most so long; beat. True when one came that stops us; it is passed on to the child."""
        received = signal.sigtimedwait([*STOPS, signal.SIGCHLD], seconds)
        if process is None:
            self.holder.beat()
        if received is None or received.si_signo not in STOPS:  # a child's end; or, after SIGSTOP and SIGCONT, no signal at
            return False                                        # all: CPython then gives what was never filled in
        self.stop = self.stop or received.si_signo
        say(signal.Signals(received.si_signo).name)
        if process is not None:
            process.send_signal(received.si_signo)
        return True


def requeue(job: str) -> None:
    """Have Slurm start this job again, unless it has been cancelled, has run out of time or is requeued already."""
    for _ in range(REQUEUES):
        state = subprocess.run(["squeue", "--noheader", "--jobs", job, "--format=%T"], capture_output=True, text=True)
        if state.returncode == 0 and state.stdout.strip() != "RUNNING":
            say(f"not requeued: the job is {state.stdout.strip() or 'not in the queue'}")
            return
        if state.returncode == 0 and subprocess.run(["scontrol", "requeue", job]).returncode == 0:
            say("requeued")
            return
        time.sleep(REQUEUE_SECONDS)
    say("not requeued: the controller does not answer; `ecgssl sweep submit` will submit what is missing")


if __name__ == "__main__":
    sys.exit(main())
