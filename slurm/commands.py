"""Calls Slurm's own commands and reads their output. submitit does not fit here: it writes a pickle per run, it takes a
NODE_FAIL or a SIGTERM for the end of a job although Slurm requeues the job, and it reports what the results already say."""

import os
import subprocess
from dataclasses import dataclass

from bench.core.errors import UserError

PREFIX = "ecg-"  # begins the name of every job of a sweep; the submission's token follows
WAIT_SECONDS = 120  # how long a slow controller may take to answer
DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's default


@dataclass(frozen=True)
class QueuedTask:
    """A task of an array as squeue shows it."""

    job: str  # of the whole array
    index: int
    state: str
    node: str
    reason: str
    token: str

    @property
    def name(self) -> str:
        return f"{self.job}_{self.index}"


def run_command(*command: str) -> str:
    """The output of the command; UserError in one line, with the command's message, if it fails or is not installed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}  # no settings of an outer job
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, env=env)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here: is this a node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {WAIT_SECONDS} s") from None
    if done.returncode:
        words = " ".join(line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in done.stderr.splitlines())
        raise UserError(f"{command[0]} refuses: {words or f'exit code {done.returncode}'}")
    return done.stdout


def list_queue() -> list[QueuedTask]:
    """The user's sweep tasks that wait or run, from one call of squeue."""
    return list_tasks()


def list_end_states() -> dict[str, str]:
    """Task -> its end state, for tasks that the controller still remembers (MinJobAge); {} if it does not answer."""
    try:
        return {task.name: task.state for task in list_tasks("--states=all")}
    except UserError:
        return {}


def list_tasks(*options: str) -> list[QueuedTask]:
    """The user's sweep tasks that squeue shows with these options."""
    tasks = []
    for line in run_command("squeue", "--noheader", "--array", "--me", "--format=%F|%K|%T|%N|%j|%r", *options).splitlines():
        job, index, state, node, name, reason, *_ = [*line.split("|", 5), *[""] * 5]  # other jobs' names may hold a newline
        if name.startswith(PREFIX) and index.isdecimal():
            tasks.append(QueuedTask(job, int(index), state, node, reason, name.removeprefix(PREFIX)))
    return tasks


def max_array_size() -> int:
    """The cluster's MaxArraySize. The indices of an array's tasks must be smaller."""
    for line in run_command("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    raise UserError("scontrol show config names no MaxArraySize")
