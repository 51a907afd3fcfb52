"""Plan -> sbatch, such that a submitting shell that dies anywhere neither doubles nor forgets a run.

A submission is a folder that is complete before sbatch is called; its token is the name of its jobs. After sbatch, its
`job_id` is written. The next `submit` looks for folders without one and asks the queue for their names. Where the queue
has the job, its number is written down. Where it has not, the folder is marked `abandoned`, and a job that comes in late
all the same reads that and does nothing.
"""

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import write_text
from bench.runs.config import METHODS, run_id
from bench.runs.results import check_writable
from slurm import commands, lease, snapshot, states
from slurm.cluster import Cluster, Request
from slurm.commands import QueuedTask
from slurm.plan import Array, Limits, Plan, plan_arrays, split_list
from slurm.shared import SharedFolder, Submission, write_submission
from slurm.states import Run

SUBMIT = "submit"  # the name of the lease that one `submit` at a time holds
CANCELLED_AT_ONCE = 500  # tasks in one call of scancel: a command line has an end


@dataclass(frozen=True)
class Settings:
    """What a submission is of, and how its jobs work."""

    sweep: str
    cluster: Cluster
    save_minutes: float = 10.0


def submit(runs: dict[str, Run], shared: SharedFolder, settings: Settings, also: Collection[str] = ()) -> Plan:
    """Submit the runs that are missing, and those in the states `also`; gives what was submitted.

    The runs' states become what they were before.
    """
    if set("%\\\n") & set(str(shared.submissions.absolute())):
        raise UserError(f"Slurm cannot write a log below {str(shared.work)!r}: choose a work folder without %, \\ and "
                        f"newline")
    check_writable(shared.results)
    check_writable(shared.folder)
    with lock_submissions(shared, settings.cluster.beat_seconds):
        queue = resolve_submissions(shared, commands.list_queue())
        states.read_states(runs, shared, queue)
        plan = plan_arrays(runs, settings.cluster, Limits(commands.max_array_size()), also)
        code = snapshot.copy_code(shared.folder / "code") if plan.arrays else shared.folder
        for array in plan.arrays:
            folder = prepare_submission(array, shared, settings, code)
            write_text(folder / "job_id", call_sbatch(array, folder, shared, settings.cluster.requests[array.kind]))
    return plan


@contextlib.contextmanager
def lock_submissions(shared: SharedFolder, beat_seconds: float) -> Iterator[None]:
    """The block runs in one process at a time; a dead one is taken over. UserError where another process is in it."""
    holder, over = lease.Holder(shared.leases, beat_seconds), threading.Event()

    def beat() -> None:
        while not over.wait(beat_seconds):
            holder.beat()

    thread = threading.Thread(target=beat, daemon=True)
    try:
        for _ in range(lease.MISSED + 2):
            busy = holder.take([SUBMIT])
            if not busy:
                break
            time.sleep(beat_seconds)
        else:
            raise UserError(f"another `submit` works on {shared.work} ({busy[SUBMIT]}): wait for it or stop it")
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident:
            thread.join()
        holder.forget([SUBMIT])
        holder.end()


def resolve_submissions(shared: SharedFolder, queue: Sequence[QueuedTask]) -> list[QueuedTask]:
    """Complete or abandon submissions that stopped half-way, cancel tasks that wait in vain; gives the queue after it."""
    jobs = {task.token: task.job for task in queue}
    for folder in shared.submissions.glob("*"):
        if (folder / "submission.json").is_file() and not any((folder / n).exists() for n in ("job_id", "abandoned")):
            if folder.name in jobs:
                write_text(folder / "job_id", jobs[folder.name])
            else:
                (folder / "abandoned").touch()
    in_vain = [task for task in queue if task.reason == "DependencyNeverSatisfied" and shared.read_tasks(task.token)]
    if in_vain:
        commands.run_command("scancel", *(task.name for task in in_vain))
    abandoned = {token for token in jobs if (shared.submissions / token / "abandoned").exists()}
    return [task for task in queue if task not in in_vain and task.token not in abandoned]


def prepare_submission(array: Array, shared: SharedFolder, settings: Settings, code: Path) -> Path:
    """The folder of a submission, complete."""
    cluster = settings.cluster
    request, folder = cluster.requests[array.kind], shared.submissions.absolute() / array.token
    (folder / "logs").mkdir(parents=True)
    write_text(folder / "job.sh", "\n".join([
        "#!/bin/bash", *cluster.setup, f"unset {METHODS}  # methods from outside are in the copy of the code",
        f"export PYTHONPATH={shlex.quote(str(code.absolute()))}", f"cd {shlex.quote(str(folder))} || exit",
        f"exec {shlex.quote(sys.executable)} -P -m slurm.worker {shlex.quote(str(folder))}\n"]))
    write_submission(folder, Submission(
        sweep=settings.sweep, cluster=cluster.name, kind=array.kind, after=array.after, work=str(shared.work.absolute()),
        results=str(shared.results.absolute()), code=code.name, nodes=request.nodes, processes=request.processes,
        cpus=request.cpus, beat_seconds=cluster.beat_seconds, save_minutes=settings.save_minutes,
        tasks={index: [[run_id(config) for config in unit] for unit in units] for index, units in array.tasks.items()},
    ), array.tasks)
    return folder


def call_sbatch(array: Array, folder: Path, shared: SharedFolder, request: Request) -> str:
    """Call sbatch; gives the job's id."""
    options = [f"--job-name={commands.PREFIX}{array.token}",
               f"--array={format_ranges(array.tasks)}%{request.throttle}".removesuffix("%0"), "--requeue",
               "--open-mode=append", f"--output={folder}/logs/%a.log", f"--chdir={folder}", *request.options()]
    if array.after:
        first = (shared.submissions / array.after / "job_id").read_text()
        options += [f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes"]
    return commands.run_command("sbatch", "--parsable", *options, str(folder / "job.sh")).strip().partition(";")[0]


def format_ranges(indices: Iterable[int]) -> str:
    """0-4,7 for 0, 1, 2, 3, 4, 7."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)


def cancel(runs: dict[str, Run], shared: SharedFolder, names: Collection[str]) -> list[QueuedTask]:
    """Cancel the queued tasks that carry these runs, or any run of the sweep; gives the tasks. Results stay."""
    with lock_submissions(shared, lease.BEAT_SECONDS):
        states.read_states(runs, shared, resolve_submissions(shared, commands.list_queue()))
        tasks = {run.task.name: run.task for name, run in runs.items() if run.task and (not names or name in names)}
        for part in split_list(list(tasks), CANCELLED_AT_ONCE):
            commands.run_command("scancel", *part)
    return list(tasks.values())
