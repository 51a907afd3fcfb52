"""The graph of a sweep's runs, the state that each is in, and the arrays that what is missing makes."""

import functools
import itertools
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.evaluation import runner as evaluation
from bench.evaluation.protocols import derive_linear
from bench.runs.config import Config, EvaluationConfig, run_id
from bench.sweeps import Pretraining
from slurm import commands, lease
from slurm.cluster import Cluster
from slurm.commands import Task
from slurm.shared import Shared, last_line, last_words, parked

STATES = ("done", "running", "waiting", "failed", "parked", "blocked", "lost", "missing")
TURN = "its turn in its job"
SUBMITTED = ("missing", "lost")  # what `submit` submits; `retry` adds what failed
ARRAYS = 8  # of a kind's evaluations behind one array of pre-trainings: beyond, more go into one job than `pack`; ours


@dataclass
class Run:
    """A run of the sweep and what is known about it."""

    name: str
    config: Config
    pretrain: str = ""  # the run that it needs; none for a pre-training
    size: str = ""  # of the encoder
    method: str = ""
    state: str = "missing"
    reason: str = ""
    node: str = ""
    attempts: int = 0
    task: Task | None = None  # in the queue
    log: Path | None = None


@dataclass(eq=False)
class Array:
    """The tasks of one sbatch: index -> units, each the configs of runs that run together."""

    kind: str
    tasks: dict[int, list[Sequence[Config]]]
    after: str = ""  # token of the array whose task of the same index comes first
    token: str = field(default_factory=lambda: secrets.token_hex(6))  # names it: in its job's name, and on disk

    def runs(self) -> int:
        return sum(len(unit) for units in self.tasks.values() for unit in units)


@dataclass
class Plan:
    """Arrays, those that others wait for first."""

    arrays: list[Array] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # evaluations whose pre-training runs outside the queue


def units(evaluations: Sequence[EvaluationConfig]) -> list[list[EvaluationConfig]]:
    """Evaluations of one backbone -> those that one call of `evaluate` runs together.

    A finetune-after-linear is with the linear evaluation that it starts from, so that no two jobs run that.
    """
    found = evaluation.group_configs(evaluations)
    home = {run_id(config): unit for unit in found for config in unit}
    for unit in [u for u in found if u[0]["after"]]:
        before = home.get(run_id(derive_linear(unit[0])))
        if before is not None:
            before += unit
            found.remove(unit)
    return found


def graph(pretrainings: Iterable[Pretraining]) -> dict[str, Run]:
    """run_id -> run, every pre-training before its evaluations."""
    out: dict[str, Run] = {}
    for each in pretrainings:
        size, method = each.config["encoder"]["size"], each.config["method"]["name"]
        out[each.run_id] = Run(each.run_id, each.config, size=size, method=method)
        for name, config in each.evaluations.items():
            out[name] = Run(name, config, each.run_id, size, method)
    return out


def look(runs: dict[str, Run], shared: Shared, queue: list[Task] | None) -> None:
    """Fill in the state of every run, from records, leases, failures and the queue (None: unknown)."""
    done = names(shared.results, ".json")
    failed = names(shared.failures, ".jsonl")
    leases = lease.newest(shared.leases)
    submitted = functools.cache(shared.tasks)
    queued = {name: (task, shared.log(task.token, task.index)) for task in queue or ()
              for name in itertools.chain(*submitted(task.token).get(task.index, ()))}
    tasks = {task.name: task for task in queue or []}
    now, lost_jobs = None, dict[str, str]()
    at_work: dict[str, list[str]] = {}  # holder -> the runs that it works on now
    for run in runs.values():
        held = leases.get(run.name)
        run.attempts = held.number if held else 0
        run.task, run.log = queued.get(run.name, (None, None))
        run.reason = run.node = ""
        if run.name in done:
            run.state = "done"
            continue
        _, who = held.read() if held else ("", {})
        if who and who["log"]:
            run.log = run.log or shared.submissions / who["log"]
        lost = ""
        if held and who and not lease.ended(shared.leases, who["name"]):
            task = tasks.get(who["job"] or "")
            if lease.gone(who):
                alive = False
            elif who["job"] and queue is not None:
                alive = task is not None and task.state != "PENDING"
            else:
                now = now or server_time(shared.leases)
                alive = now - held.path.stat().st_mtime < lease.MISSED * who["beat_seconds"]
            if alive:
                run.state, run.node, run.task = "running", who["node"], run.task or task
                if who["name"] not in at_work:  # units of a job are worked on one after the other
                    token, _, log = Path(who["log"]).parts
                    every = submitted(token).get(int(log.removesuffix(".log")), [])
                    at_work[who["name"]] = next((unit for unit in every if run.name in unit), [run.name])
                if run.name not in at_work[who["name"]]:
                    run.state, run.reason = "waiting", TURN
                continue
            lost_jobs[run.name] = who["job"] or ""
            lost = f"its job vanished ({who['job'] or 'pid ' + str(who['pid'])} on {who['node']})"
        if run.task:
            run.state, run.reason = "waiting", run.task.reason if run.task.state == "PENDING" else TURN
            run.node = run.task.node
            continue
        if run.name in failed:
            notes = shared.failed(run.name)
            run.reason, run.node = notes[-1]["reason"], notes[-1].get("node") or ""
            run.state = "parked" if parked(notes) else "failed"
        elif lost:
            run.state, run.reason = "lost", lost
        else:
            run.state = "missing"
    if any(run.state in SUBMITTED for run in runs.values()):
        logs, how = shared.logs(), commands.ended() if queue is not None else {}
        words = {path: last_words(path) for path in set(logs.values())}
        for run in runs.values():
            if run.state in SUBMITTED and run.name in logs:  # its job ended without a record, or before a worker began
                run.log = logs[run.name]
                said = words[run.log] or how.get(lost_jobs.get(run.name, "")) or last_line(run.log)
                run.reason = f"{run.reason or 'its job ended'}: {said}"
    for run in runs.values():  # a pre-training's state is known by now
        before = runs.get(run.pretrain)
        if before and run.state in ("missing", "lost", "failed") and before.state in ("failed", "parked"):
            run.state, run.reason = "blocked", f"its pre-training {before.name} failed: {before.reason}"


def names(folder: Path, suffix: str) -> set[str]:
    """The stems of the files in folder that end so: one listing for all runs."""
    return {name.removesuffix(suffix) for name in (os.listdir(folder) if folder.is_dir() else ()) if name.endswith(suffix)}


def server_time(folder: Path) -> float:
    """The time of the machine that stamps files in folder: no node's clock matters."""
    probe = folder / f".probe-{os.getpid()}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now


def arrays(runs: dict[str, Run], cluster: Cluster, largest: int, also: Sequence[str] = (), at_once: int = 1) -> Plan:
    """What `submit` submits: runs in a state of SUBMITTED or `also`; pre-trainings come before their evaluations.

    largest: how many tasks an array may have; at_once: how many tasks run at a time, as far as is known.
    """
    made, wanted = Plan(), {*SUBMITTED, *also}
    first: dict[str, list[Config]] = {}
    for run in runs.values():
        if not run.pretrain and run.state in wanted:
            first.setdefault(cluster.kind(run.config), []).append(run.config)
    place: dict[str, tuple[str, int]] = {}  # pre-training -> the array that it is in, and its index
    for kind, configs in sorted(first.items()):
        for few in chunks(configs, largest):
            array = Array(kind, {i: [[config]] for i, config in enumerate(few)})
            place |= {run_id(config): (array.token, i) for i, config in enumerate(few)}
            made.arrays.append(array)
    waiting: dict[str, list[EvaluationConfig]] = {}  # pre-training -> its evaluations
    for run in runs.values():
        if run.pretrain and (run.state in wanted or (run.state == "blocked" and run.pretrain in place)):
            before = runs[run.pretrain]
            if before.state in ("waiting", "running"):
                if not before.task:
                    made.later.append(run.name)
                    continue
                place[before.name] = before.task.token, before.task.index
            assert isinstance(run.config, EvaluationConfig)
            waiting.setdefault(before.name, []).append(run.config)
    free: dict[str, list[Sequence[Config]]] = {}
    bound: dict[tuple[str, str], dict[int, list[Sequence[Config]]]] = {}  # (kind, array that comes first) -> index -> units
    for name, evaluations in waiting.items():
        for unit in units(evaluations):
            kind = cluster.kind(unit[-1])  # with a finetune-after-linear its linear evaluation is of that kind, too
            if name in place:
                after, index = place[name]
                bound.setdefault((kind, after), {}).setdefault(index, []).append(unit)
            else:
                free.setdefault(kind, []).append(unit)
    for kind, every in sorted(free.items()):
        pack = share(len(every), cluster.asked[kind].pack, at_once)
        for packs in chunks(list(chunks(every, pack)), largest):
            made.arrays.append(Array(kind, dict(enumerate(packs))))
    for (kind, after), tasks in bound.items():
        most = max(map(len, tasks.values()))
        pack = max(share(most * len(tasks), cluster.asked[kind].pack, at_once), -(-most // ARRAYS))
        for start in range(0, most, pack):
            part = {index: every[start : start + pack] for index, every in tasks.items() if every[start:]}
            made.arrays.append(Array(kind, part, after))
    return made


def share(units: int, pack: int, at_once: int) -> int:
    """How many units make a task, pack or fewer, so that tasks that run at_once at a time end together."""
    rounds = -(-units // (pack * at_once))
    return -(-units // (rounds * at_once))


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def counts(runs: Iterable[Run]) -> dict[str, int]:
    """state -> number of runs, in the order of STATES, none left out."""
    found = Counter(run.state for run in runs)
    return {state: found[state] for state in STATES}
