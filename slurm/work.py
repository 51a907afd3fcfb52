"""What a task of an array executes: its runs, one after the other, each under a lease, in a process that may die.

    python -m slurm.work SUBMISSION [INDEX]

This process does no work itself: it shows that it lives (slurm/lease.py), passes signals on, and notes why a run
failed. The work is done by a child, or by several that srun starts, in `perform`.
"""

import ctypes
import datetime
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.runs import results as record
from bench.runs.config import Config, EvaluationConfig, PretrainConfig, parse_config, run_id
from slurm import commands, lease
from slurm.shared import Shared, last_words, parked

if TYPE_CHECKING:  # torch takes seconds to import, and the worker itself needs none of it
    from bench.core.processes import World
    from bench.runs.workspace import Workspace

STOPS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
SAVE_SECONDS = 90  # that a child may take to save when it is asked to stop; ours
TRIES = 3  # of a run in one job whose process died; ours
REQUEUES, REQUEUE_SECONDS = 20, 3  # how often, and after what pause, a controller that does not answer is asked; ours
PRCTL, PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1  # prctl(2): a signal when the parent ends


def main() -> int:
    """0 when every run of the task has its record."""
    if sys.argv[1] == "perform":
        return perform(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:  # started by `sweep run --local`: its end is ours, which saves
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    index = int(sys.argv[2] if len(sys.argv) > 2 else os.environ["SLURM_ARRAY_TASK_ID"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOPS, signal.SIGCHLD])  # they are waited for
    return Worker(folder, index).work()


def read_task(folder: Path, index: int) -> list[list[dict[str, Any]]]:
    """The units of a task: {"run_id", "config"} of each run."""
    with (folder / "tasks.jsonl").open() as f:
        for line in f:
            task = json.loads(line)
            if task["index"] == index:
                return [[{**run, "config": parse_config(run["config"])} for run in unit] for unit in task["units"]]
    raise LookupError(f"{folder} has no task {index}")


class Worker:
    """Sees to it that the runs of a task end with a record, or with a reason why not."""

    def __init__(self, folder: Path, index: int):
        self.folder, self.index = folder, index
        self.about = read_json(folder / "submission.json", "submission")
        self.shared = Shared(Path(self.about["work"]), Path(self.about["results"]))
        task = read_task(folder, index)
        self.runs = {run["run_id"]: run["config"] for unit in task for run in unit}
        self.units = [[run["run_id"] for run in unit] for unit in task]
        self.stop: int | None = None  # the signal that came
        self.failed: dict[str, int] = {}  # run -> how often here

    def work(self) -> int:
        if (self.folder / "abandoned").exists():
            say("a later `submit` did not find this job and submitted its runs anew: nothing to do")
            return 0
        self.holder = self.new_holder()
        try:
            while not self.stop:
                ours, busy = self.take()
                if ours:
                    self.child(ours)
                    self.holder.forget(self.done(self.holder.held))
                elif not busy:
                    break
                else:
                    say(f"{len(busy)} runs are held by {sorted(set(busy.values()))}: waiting")
                    self.wait(None, self.about["beat_seconds"])
        finally:
            self.holder.end()
        left = self.runs.keys() - self.done(self.runs)
        job = lease.job()
        if self.stop and left and job:
            requeue(job)
        early = self.early()
        for run in left:
            failed = self.shared.failed(run)
            why = "its pre-training has no record" if run in early else f"failed: {failed[-1]['reason']}" if failed else "stopped"
            say(f"{run}: {why}")
        return 128 + self.stop if self.stop and left else int(bool(left))

    def new_holder(self) -> lease.Holder:
        return lease.Holder(self.shared.leases, self.about["beat_seconds"], f"{self.folder.name}/logs/{self.index}.log")

    def done(self, runs: Iterable[str]) -> set[str]:
        return {run for run in runs if record.exists(self.shared.results, run)}

    def take(self) -> tuple[list[str], dict[str, str]]:
        """(what is left to do and ours, what others have and by whom), in the order of the task."""
        done = self.done(self.runs)
        early = self.early()
        left = [run for run in self.runs if run not in done and run not in early and not self.hopeless(run)]
        before = lease.newest(self.shared.leases, left)
        held = set(self.holder.held)
        busy = self.holder.take(left)
        for run in before.keys() - busy.keys() - held:
            _, who = before[run].read()
            # killed without a word; a job that Slurm itself started again may have been the victim of its node
            if who and who["job"] != lease.job() and lease.died(self.shared.leases, who["name"]):
                words = last_words(self.shared.submissions / who["log"]) or commands.ended().get(who["job"] or "")
                self.note(run, f"its job vanished: {words or 'it left no word'}", node=who["node"], job=who["job"])
        done = self.done(left)  # again: the last holder may have finished just before we took it
        self.holder.forget(done)
        return [r for r in left if r not in busy and r not in done], {r: w for r, w in busy.items() if r not in done}

    def early(self) -> set[str]:
        """Evaluations whose pre-training has no record: Slurm takes a job that it has forgotten for one that went well."""
        needed = {run: config.pretrain for run, config in self.runs.items() if isinstance(config, EvaluationConfig)}
        there = self.done(set(needed.values()))
        return {run for run, pretrain in needed.items() if pretrain not in there}

    def hopeless(self, run: str) -> bool:
        """Whether it failed here for what will not pass, or is parked."""
        if self.failed.get(run, 0) >= TRIES:
            return True
        notes = self.shared.failed(run)
        return parked(notes)

    def note(self, run: str, reason: str, **about: str | None) -> None:
        about = {"job": lease.job(), "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename, **about}
        self.shared.note(run, reason, when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **about)

    def child(self, runs: list[str]) -> None:
        """Work on the runs until a process that does it ends; note what made it fail."""
        command = [sys.executable, "-P", "-m", "slurm.work", "perform", str(self.folder), str(self.index), *runs]
        nodes, processes = self.about["nodes"], self.about["processes"]
        if nodes * processes > 1:
            command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * processes}", f"--ntasks-per-node={processes}",
                       f"--cpus-per-task={self.about['cpus']}", "--kill-on-bad-exit=1", *command]
        noted = {run: len(self.shared.failed(run)) for run in runs}
        worker = os.getpid()

        def prepare() -> None:
            PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)  # no run goes on without the one who holds its lease
            if os.getppid() != worker:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])

        with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=prepare) as process:
            asked_at = 0.0
            while process.poll() is None:
                if self.wait(process, self.about["beat_seconds"]):
                    asked_at = asked_at or time.monotonic()
                if asked_at and time.monotonic() - asked_at > SAVE_SECONDS:
                    say(f"the run did not save within {SAVE_SECONDS} s: killed")
                    process.kill()
                if not self.holder.beat():
                    say("another took this worker for dead and took over its runs: stopped")
                    process.kill()
                    process.wait()
                    self.holder = self.new_holder()
                    return
        code = process.returncode
        told = {run for run in runs if len(self.shared.failed(run)) > noted[run]}
        self.failed |= dict.fromkeys(told, TRIES)  # the child said why: it would fail again
        stood = (set(unit) & set(runs) - told - self.done(unit) for unit in self.units)
        at = next((left for left in stood if left), set[str]())  # the first unit that is not done
        if at and code in [128 + s for s in STOPS]:
            self.stop = self.stop or code - 128
        elif at and not self.stop:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            for run in sorted(at):
                self.note(run, f"its process {how}")
                self.failed[run] = self.failed.get(run, 0) + 1

    def wait(self, process: "subprocess.Popen[bytes] | None", seconds: float) -> bool:
        """Wait for a signal, at most so long; beat. True when one came that stops us, passed on to the child."""
        came = signal.sigtimedwait([*STOPS, signal.SIGCHLD], seconds)
        if process is None:
            self.holder.beat()
        if came is None or came.si_signo not in STOPS:  # a child's end; or, after SIGSTOP and SIGCONT, no signal at all:
            return False                                # CPython then gives what was never filled in
        self.stop = self.stop or came.si_signo
        say(f"{signal.Signals(came.si_signo).name}")
        if process is not None:
            process.send_signal(came.si_signo)
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


def say(text: str) -> None:
    print(f"worker: {text}", file=sys.stderr, flush=True)


def perform(folder: Path, index: int, names: list[str]) -> int:
    """Run these runs of a task, in this process; what fails leaves its reason, and the next one follows."""
    import torch

    from bench.core import processes as distributed
    from bench.core.interrupt import Interrupted
    from bench.runs.workspace import Workspace

    about = read_json(folder / "submission.json", "submission")
    worker = Worker(folder, index)
    torch.set_num_threads(about["cpus"])
    world = distributed.join_processes()
    device = torch.device(f"cuda:{world.local}" if torch.cuda.is_available() and world.size > 1 else
                          "cuda" if torch.cuda.is_available() else "cpu")
    where = Workspace(worker.shared.work, worker.shared.results, device, save_minutes=about["save_minutes"])
    for unit in read_task(folder, index):
        ours = {run["run_id"] for run in unit} & {*names}
        # with what has a record already: a group of evaluations is known by its members, and goes on where it stood
        done = worker.done(run["run_id"] for run in unit)
        configs = [run["config"] for run in unit if run["run_id"] in ours | done]
        try:
            if ours:
                perform_unit(configs, where, world)
        except Interrupted as stop:
            say(str(stop))
            return stop.exit_code
        except Exception as error:  # of whatever kind: it is this unit's, and the others go on
            if not isinstance(error, UserError):
                traceback.print_exc()
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            say(f"failed: {reason}")
            failed = {run_id(config) for config in configs}
            for name in sorted(failed - worker.done(failed)) if world.first else ():
                worker.note(name, reason)
            if world.size > 1:
                return 1
    distributed.leave_processes()
    return 0


def perform_unit(configs: list[Config], where: "Workspace", world: "World") -> None:
    """Run a pre-training, or evaluations together, on the stores submitted with; UserError where one has changed since."""
    from bench.data.store import open_by_name
    from bench.evaluation import runner as evaluation
    from bench.training import trainer as pretrain

    first = configs[0]
    fingerprints = first.data.fingerprints if isinstance(first, PretrainConfig) else {first.data.store: first.data.fingerprint}
    stores = [open_by_name(where.work / "stores", name) for name in fingerprints]
    for store in stores:
        if store.fingerprint != fingerprints[store.name]:
            raise UserError(f"store {store.name} has changed since this was submitted: its fingerprint is "
                            f"{store.fingerprint}, not {fingerprints[store.name]}; submit again")
    if isinstance(first, PretrainConfig):
        pretrain.pretrain(first, stores, where, world)
    else:
        evaluation.evaluate([config for config in configs if isinstance(config, EvaluationConfig)], stores[0], where)


if __name__ == "__main__":
    sys.exit(main())
