"""Submits a plan by sbatch. If the submitting process dies at any point, no run is submitted twice and none is forgotten.

A submission is a folder that is complete before sbatch is called. Its token is part of the name of its jobs. After sbatch, the
file `job_id` is written into the folder. The next `submit` looks for folders without `job_id` and searches the queue for their
tokens. If the queue has the job, `job_id` is written. If it does not, the folder is marked `abandoned`. Should the job start
later all the same, it sees that mark and does nothing.
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
from bench.runs.workspace import SAVE_MINUTES
from slurm import commands, lease, snapshot, states
from slurm.cluster import Cluster, Request
from slurm.commands import QueuedTask
from slurm.plan import Array, Limits, Plan, plan_arrays, split_list
from slurm.shared import SharedFolder, Submission, write_submission
from slurm.states import Run

SUBMIT = "submit"  # the name of a lease that only one `submit` at a time can hold
CANCELLED_AT_ONCE = 500  # tasks per call of scancel, because the length of a command line is limited


@dataclass(frozen=True)
class Settings:
    """The sweep and the cluster of a submission, and how often its jobs save."""

    sweep: str
    cluster: Cluster
    save_minutes: float = SAVE_MINUTES


def submit(runs: dict[str, Run], shared: SharedFolder, settings: Settings, also: Collection[str] = ()) -> Plan:
    """Submit the runs that are missing or lost, and those in the states `also`. Returns what was submitted.

    It fills in the states that the runs had before the submission.
    UserError if the code of a method has changed since it gave a result.
    """
    if set("%\\\n") & set(str(shared.submissions.absolute())):
        raise UserError(f"Slurm cannot write a log below {str(shared.work)!r}: choose a work folder without %, \\ and "
                        f"newline")
    check_writable(shared.results)
    check_writable(shared.folder)
    states.check_code(runs, shared)
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
    """Hold the lease SUBMIT during the block, taking it over from a dead process. UserError if a live process holds it."""
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
    """Complete or abandon interrupted submissions, and cancel tasks that wait in vain. Returns the remaining queue."""
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
    """Write the folder of a submission. Returns its path."""
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
    """Call sbatch. Returns the id of the job."""
    options = [f"--job-name={commands.PREFIX}{array.token}",
               f"--array={format_ranges(array.tasks)}%{request.throttle}".removesuffix("%0"), "--requeue",
               "--open-mode=append", f"--output={folder}/logs/%a.log", f"--chdir={folder}", *request.options()]
    if array.after:
        first = (shared.submissions / array.after / "job_id").read_text()
        options += [f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes"]
    return commands.run_command("sbatch", "--parsable", *options, str(folder / "job.sh")).strip().partition(";")[0]


def format_ranges(indices: Iterable[int]) -> str:
    """The indices as Slurm writes them: 0-4,7 for 0, 1, 2, 3, 4, 7."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)


def cancel(runs: dict[str, Run], shared: SharedFolder, names: Collection[str]) -> list[QueuedTask]:
    """Cancel the queued tasks that contain these runs, or all tasks of the sweep if `names` is empty. Returns the tasks."""
    with lock_submissions(shared, lease.BEAT_SECONDS):
        states.read_states(runs, shared, resolve_submissions(shared, commands.list_queue()))
        tasks = {run.task.name: run.task for name, run in runs.items() if run.task and (not names or name in names)}
        for part in split_list(list(tasks), CANCELLED_AT_ONCE):
            commands.run_command("scancel", *part)
    return list(tasks.values())
