"""Slurm's own commands, and what they say. submitit does not serve here: its arrays are pickles, one per run, it takes a
NODE_FAIL or a SIGTERM for the end of a job that Slurm requeues, and what a run became is in its record anyway."""

import os
import subprocess
from dataclasses import dataclass

from bench.core.errors import UserError

PREFIX = "ecg-"  # of the names of our jobs; what follows is the submission's token
WAIT_SECONDS = 120  # for a controller that is slow; ours


@dataclass(frozen=True)
class Task:
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


def call(*command: str) -> str:
    """What the command prints; UserError of one line, with its own words, where it refuses or is not there."""
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


def queue() -> list[Task]:
    """Our tasks that wait or run, one squeue for all."""
    return tasks()


def ended() -> dict[str, str]:
    """Task -> how it ended, of those that the controller has not forgotten yet (MinJobAge); {} where nobody knows."""
    try:
        return {task.name: task.state for task in tasks("--states=all")}
    except UserError:
        return {}


def tasks(*options: str) -> list[Task]:
    """Our tasks that squeue shows with these options."""
    found = []
    for line in call("squeue", "--noheader", "--array", "--me", "--format=%F|%K|%T|%N|%j|%r", *options).splitlines():
        job, index, state, node, name, reason, *_ = [*line.split("|", 5), *[""] * 5]  # other jobs' names may hold a newline
        if name.startswith(PREFIX) and index.isdecimal():
            found.append(Task(job, int(index), state, node, reason, name.removeprefix(PREFIX)))
    return found


def largest_array() -> int:
    """How many tasks an array may have here: their indices are smaller than MaxArraySize."""
    for line in call("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    raise UserError("scontrol show config names no MaxArraySize")
