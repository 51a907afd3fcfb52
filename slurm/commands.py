"""Slurm's own commands, and what they say. submitit does not serve here: its arrays are pickles, one per run, it takes a
NODE_FAIL or a SIGTERM for the end of a job that Slurm requeues, and what became of a run is in its result anyway."""

import os
import subprocess
from dataclasses import dataclass

from bench.core.errors import UserError

PREFIX = "ecg-"  # of the names of our jobs; the submission's token follows
WAIT_SECONDS = 120  # for a controller that is slow
DEFAULT_MAX_ARRAY_SIZE = 1001  # Slurm's


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
    """What the command prints; UserError of one line, with its own words, where it refuses or is not installed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}  # not of an outer job
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
    """Our tasks that wait or run, by one call of squeue."""
    return list_tasks()


def list_end_states() -> dict[str, str]:
    """Task -> how it ended, of those that the controller still remembers (MinJobAge); {} where it does not answer."""
    try:
        return {task.name: task.state for task in list_tasks("--states=all")}
    except UserError:
        return {}


def list_tasks(*options: str) -> list[QueuedTask]:
    """Our tasks that squeue shows with these options."""
    tasks = []
    for line in run_command("squeue", "--noheader", "--array", "--me", "--format=%F|%K|%T|%N|%j|%r", *options).splitlines():
        job, index, state, node, name, reason, *_ = [*line.split("|", 5), *[""] * 5]  # other jobs' names may hold a newline
        if name.startswith(PREFIX) and index.isdecimal():
            tasks.append(QueuedTask(job, int(index), state, node, reason, name.removeprefix(PREFIX)))
    return tasks


def max_array_size() -> int:
    """How many tasks an array may have on this cluster: their indices are smaller than MaxArraySize."""
    for line in run_command("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    raise UserError("scontrol show config names no MaxArraySize")
