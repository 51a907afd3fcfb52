"""The worker that a task of an array executes: it holds leases of the task's runs, and runs them in a child process.

    python -m slurm.worker SUBMISSION [INDEX]

The worker shows that it lives (slurm/lease.py), passes signals on, and notes why a run failed. The child does the work and
may die (slurm/perform.py). For a run of several processes, srun starts several children.
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
SAVE_SECONDS = 90  # how long a child may take to save after a signal to stop
TRIES = 3  # how often one job starts a run whose process dies
REQUEUES, REQUEUE_SECONDS = 20, 3  # number of requests to a controller that does not answer, and the pause between them
PRCTL, PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1  # prctl(2): a signal when the parent ends


def main() -> int:
    """Run the worker. Returns 0 if every run of the task has its result."""
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:  # started by `sweep run --local`: if that process ends, this one saves and ends, too
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    index = int(sys.argv[2] if len(sys.argv) > 2 else os.environ["SLURM_ARRAY_TASK_ID"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOPS, signal.SIGCHLD])  # `wait` receives them
    return Worker(folder, index).work()


def say(text: str) -> None:
    print(f"worker: {text}", file=sys.stderr, flush=True)


class Task:
    """The runs of a task, and what the shared folder holds about them."""

    def __init__(self, folder: Path, index: int):
        self.folder, self.index = folder, index
        self.submission = read_submission(folder)
        self.shared = SharedFolder(Path(self.submission.work), Path(self.submission.results))
        self.units = read_units(folder, index)
        self.runs = {name: config for unit in self.units for name, config in unit.items()}

    def done(self, runs: Iterable[str]) -> set[str]:
        """The runs that have a result, among these."""
        return {run for run in runs if result_exists(self.shared.results, run)}

    def early(self) -> set[str]:
        """Evaluations whose pre-training has no result yet. Slurm may start them, because it takes a forgotten job for done."""
        first_of = {run: config.pretrain for run, config in self.runs.items() if isinstance(config, EvaluationConfig)}
        done = self.done(set(first_of.values()))
        return {run for run, first in first_of.items() if first not in done}

    def note_failure(self, run: str, reason: str, job: str | None = None, node: str | None = None) -> None:
        """Note why the run failed. job, node: where; by default this job and this node."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        here = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self.shared.note_failure(run, Failure(reason, job or lease.current_job(), node or here, when))


class Worker:
    """Works on a task until each of its runs has a result or a noted failure."""

    def __init__(self, folder: Path, index: int):
        self.task = Task(folder, index)
        self.stop: int | None = None  # the signal that came
        self.failed: dict[str, int] = {}  # run -> number of failures in this job

    def work(self) -> int:
        """Work on the remaining runs of the task. Returns the exit code."""
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
        """Requeue the job if a signal stopped it, and print why runs have no result. Returns the exit code."""
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
        """(the remaining runs whose lease this worker holds, run -> holder for the others), in the order of the task."""
        task, shared = self.task, self.task.shared
        skipped = task.done(task.runs) | task.early()
        left = [run for run in task.runs if run not in skipped and not self.is_hopeless(run)]
        before, own = lease.newest_leases(shared.leases, left), set(self.holder.runs)
        busy = self.holder.take(left)
        for run in before.keys() - busy.keys() - own:
            content = before[run].read()
            last = content[1] if content else None
            # its process was killed without a reason; but if Slurm itself restarted this job, its node may have failed
            if last and last.job != lease.current_job() and lease.was_declared_dead(shared.leases, last.name):
                words = last_words(shared.submissions / last.log) or commands.list_end_states().get(last.job or "")
                task.note_failure(run, f"its job vanished: {words or 'the reason is unknown'}", last.job, last.node)
        done = task.done(left)  # read again, because the last holder may have finished just before
        self.holder.forget(done)
        return ([run for run in left if run not in busy and run not in done],
                {run: holder for run, holder in busy.items() if run not in done})

    def is_hopeless(self, run: str) -> bool:
        """Whether the run need not be tried again in this job: it failed for good, or it is parked."""
        return self.failed.get(run, 0) >= TRIES or is_parked(self.task.shared.failures_of(run))

    def run_child(self, runs: list[str]) -> None:
        """Run a child on the runs until it ends. If its process failed, note the reason."""
        known = {run: len(self.task.shared.failures_of(run)) for run in runs}
        code = self.watch_child(runs)
        if code is None:
            return
        explained = {run for run in runs if len(self.task.shared.failures_of(run)) > known[run]}
        self.failed |= dict.fromkeys(explained, TRIES)  # the child noted a reason: the run would fail again
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
        """Start a child on the runs, and beat until it ends. Returns its exit code, or None if the leases were lost."""
        beat_seconds, worker = self.task.submission.beat_seconds, os.getpid()

        def prepare() -> None:
            PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)  # a run must not outlive the process that holds its lease
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
                    say("another process declared this worker dead and took over its runs: stopped")
                    process.kill()
                    process.wait()
                    self.holder = self.new_holder()
                    return None
        return process.returncode

    def command(self, runs: list[str]) -> list[str]:
        """The command line of the child."""
        task, submission = self.task, self.task.submission
        command = [sys.executable, "-P", "-m", "slurm.perform", str(task.folder), str(task.index), *runs]
        if submission.nodes * submission.processes == 1:
            return command
        return ["srun", f"--nodes={submission.nodes}", f"--ntasks={submission.nodes * submission.processes}",
                f"--ntasks-per-node={submission.processes}", f"--cpus-per-task={submission.cpus}", "--kill-on-bad-exit=1",
                *command]

    def wait(self, process: "subprocess.Popen[bytes] | None", seconds: float) -> bool:
        """Wait for a signal, at most `seconds`; beat if there is no child. Returns True after a signal to stop, which the
        child receives, too."""
        received = signal.sigtimedwait([*STOPS, signal.SIGCHLD], seconds)
        if process is None:
            self.holder.beat()
        if received is None or received.si_signo not in STOPS:  # the child's end; or no signal at all: after SIGSTOP and
            return False                                        # SIGCONT, CPython returns uninitialised values
        self.stop = self.stop or received.si_signo
        say(signal.Signals(received.si_signo).name)
        if process is not None:
            process.send_signal(received.si_signo)
        return True


def requeue(job: str) -> None:
    """Ask Slurm to requeue this job, unless it was cancelled, ran out of time or is already requeued."""
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
