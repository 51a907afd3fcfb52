"""The runs of a sweep and the state of each, derived from results, leases, failures and Slurm's queue."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.progress import Progress
from bench.runs.config import Config, PretrainConfig
from bench.sweeps import Pretraining
from bench.training.source import check_results
from slurm import commands, lease
from slurm.commands import QueuedTask
from slurm.lease import HolderInfo, Lease
from slurm.shared import SharedFolder, Unit, is_parked, last_line, last_words, list_stems, read_server_time

STATES = ("done", "running", "waiting", "failed", "parked", "blocked", "lost", "missing")
SUBMITTED = ("missing", "lost")  # `submit` submits runs in these states; `retry` adds failed runs
TURN = "its turn in its job"


@dataclass
class Run:
    """A run of the sweep and what is known about it."""

    name: str
    config: Config
    pretrain: str = ""  # the run that it needs; "" for a pre-training
    size: str = ""  # of the encoder
    method: str = ""
    state: str = "missing"
    reason: str = ""
    node: str = ""
    attempts: int = 0
    task: QueuedTask | None = None
    log: Path | None = None
    progress: Progress | None = None  # of the run's unit, while it runs

    @property
    def stage(self) -> str:
        """pretrain, or the protocol of the evaluation."""
        return "pretrain" if isinstance(self.config, PretrainConfig) else self.config.evaluation.name

    def __str__(self) -> str:
        """The run in words, which distinguish it from similar runs."""
        words = [self.method, self.size, self.stage]
        if not isinstance(self.config, PretrainConfig):
            words += [self.config.task, *([f"at {self.config.at:g}"] if self.config.at != 1 else [])]
        return " ".join([*words, f"seed {self.config.seed}"])


def list_runs(pretrainings: Iterable[Pretraining]) -> dict[str, Run]:
    """run_id -> run, every pre-training before its evaluations."""
    runs: dict[str, Run] = {}
    for each in pretrainings:
        size, method = each.config.encoder.size, each.config.method.name
        runs[each.run_id] = Run(each.run_id, each.config, size=size, method=method)
        for name, config in each.evaluations.items():
            runs[name] = Run(name, config, each.run_id, size, method)
    return runs


def count_states(runs: Iterable[Run]) -> dict[str, int]:
    """state -> number of runs, for all STATES in their order."""
    numbers = Counter(run.state for run in runs)
    return {state: numbers[state] for state in STATES}


def check_code(runs: dict[str, Run], shared: SharedFolder) -> None:
    """UserError if the code of a method has changed since it gave a result."""
    check_results({name: run.config for name, run in runs.items() if isinstance(run.config, PretrainConfig)},
               shared.work, shared.results)


def read_states(runs: dict[str, Run], shared: SharedFolder, queue: Sequence[QueuedTask] | None) -> None:
    """Fill in the state of every run. queue: Slurm's queue, or None if it is unknown."""
    reader = _Reader(shared, queue)
    for run in runs.values():
        reader.read_state(run)
    if any(run.state in SUBMITTED for run in runs.values()):
        reader.explain_ends(runs.values())
    for run in runs.values():  # the state of a pre-training is known by now
        first = runs.get(run.pretrain)
        if first and run.state in ("missing", "lost", "failed") and first.state in ("failed", "parked"):
            run.state, run.reason = "blocked", f"its pre-training {first.name} failed: {first.reason}"


class _Reader:
    """Reads the states of runs. It lists the shared folder and the queue once for all runs."""

    def __init__(self, shared: SharedFolder, queue: Sequence[QueuedTask] | None):
        self.shared, self.queue_is_known = shared, queue is not None
        self.done = list_stems(shared.results, ".json")
        self.failed = list_stems(shared.failures, ".jsonl")
        self.leases = lease.newest_leases(shared.leases)
        self.read_tasks = functools.cache(shared.read_tasks)
        self.tasks = {task.name: task for task in queue or ()}
        self.queued = {name: task for task in queue or ()
                       for name in itertools.chain(*self.read_tasks(task.token).get(task.index, ()))}
        self.units: dict[str, Unit] = {}  # holder -> the unit that it works on now
        self.vanished: dict[str, str] = {}  # run -> the vanished job of its holder

    @functools.cached_property
    def now(self) -> float:
        return read_server_time(self.shared.leases)

    def read_state(self, run: Run) -> None:
        """Fill in the state of a run, apart from the state of its pre-training."""
        newest = self.leases.get(run.name)
        task = self.queued.get(run.name)
        run.attempts, run.task = newest.number if newest else 0, task
        run.log = self.shared.log_path(task.token, task.index) if task else None
        run.reason, run.node, run.progress = "", "", None
        if run.name in self.done:
            run.state = "done"
            return
        content = newest.read() if newest else None
        holder = content[1] if content else None
        if holder and holder.log:
            run.log = run.log or self.shared.submissions / holder.log
        lost = ""
        if newest and holder and not lease.has_ended(self.shared.leases, holder.name):
            if self.is_alive(newest, holder):
                self.set_running(run, holder)
                return
            self.vanished[run.name] = holder.job or ""
            lost = f"its job vanished ({holder.job or f'pid {holder.pid}'} on {holder.node})"
        if task:
            run.state, run.reason, run.node = "waiting", task.reason if task.state == "PENDING" else TURN, task.node
        elif run.name in self.failed:
            failures = self.shared.failures_of(run.name)
            run.state = "parked" if is_parked(failures) else "failed"
            run.reason, run.node = failures[-1].reason, failures[-1].node or ""
        else:
            run.state, run.reason = ("lost", lost) if lost else ("missing", "")

    def is_alive(self, newest: Lease, holder: HolderInfo) -> bool:
        """Whether the process that holds the lease still works, judged from one look at the lease and the queue."""
        if holder.is_gone():
            return False
        if holder.job and self.queue_is_known:
            task = self.tasks.get(holder.job)
            return task is not None and task.state != "PENDING"
        return self.now - newest.path.stat().st_mtime < lease.MISSED * holder.beat_seconds

    def set_running(self, run: Run, holder: HolderInfo) -> None:
        """Fill in the state of a run whose job works, on this run or on another unit of the job."""
        run.task = run.task or self.tasks.get(holder.job or "")
        run.node = holder.node
        if holder.name not in self.units:
            token, _, log = Path(holder.log).parts
            units = self.read_tasks(token).get(int(log.removesuffix(".log")), [])
            self.units[holder.name] = next((unit for unit in units if run.name in unit), [run.name])
        if run.name in self.units[holder.name]:
            run.state, run.progress = "running", lease.holder_progress(self.shared.leases, holder.name)
        else:
            run.state, run.reason = "waiting", TURN

    def explain_ends(self, runs: Iterable[Run]) -> None:
        """Add the known reason to runs whose job ended without a result, or before its worker began."""
        logs = self.shared.newest_logs()
        end_states = commands.list_end_states() if self.queue_is_known else {}
        words = {path: last_words(path) for path in set(logs.values())}
        for run in runs:
            if run.state in SUBMITTED and run.name in logs:
                run.log = logs[run.name]
                end = words[run.log] or end_states.get(self.vanished.get(run.name, "")) or last_line(run.log)
                run.reason = f"{run.reason or 'its job ended'}: {end}"
