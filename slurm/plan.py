"""The arrays that a sweep's missing runs make: few, and every evaluation after its pre-training."""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench.evaluation import runner as evaluation
from bench.evaluation.protocols import derive_linear
from bench.runs.config import Config, EvaluationConfig, run_id
from slurm.cluster import Cluster
from slurm.states import SUBMITTED, Run

ARRAYS = 8  # of a kind's evaluations that follow one array of pre-trainings; beyond, more go into one job than `pack`

ConfigUnit = Sequence[Config]  # what runs together: a pre-training, or evaluations that one call of `evaluate` takes
T = TypeVar("T")


@dataclass(eq=False)
class Array:
    """The tasks of one call of sbatch: index -> units."""

    kind: str
    tasks: dict[int, list[ConfigUnit]]
    after: str = ""  # token of the array whose task of the same index comes first
    token: str = field(default_factory=lambda: secrets.token_hex(6))  # names it: in its jobs' name, and on disk

    @property
    def size(self) -> int:
        """How many runs it has."""
        return sum(len(unit) for units in self.tasks.values() for unit in units)


@dataclass
class Plan:
    """Arrays, those that others wait for first."""

    arrays: list[Array] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # evaluations whose pre-training runs outside the queue


@dataclass(frozen=True)
class Limits:
    """What bounds a plan."""

    array_size: int  # tasks that an array may have
    at_once: int = 1  # tasks that run at a time, as far as is known


Places = dict[str, tuple[str, int]]  # pre-training -> token of the array that it is in, and its index there


def plan_arrays(runs: dict[str, Run], cluster: Cluster, limits: Limits, also: Collection[str] = ()) -> Plan:
    """What `submit` submits: runs in a state of SUBMITTED or `also`; pre-trainings come before their evaluations."""
    plan, states = Plan(), {*SUBMITTED, *also}
    places = _plan_pretrainings(plan, runs, cluster, limits, states)
    followers: dict[str, list[EvaluationConfig]] = {}  # pre-training -> its evaluations
    for run in runs.values():
        if run.pretrain and (run.state in states or (run.state == "blocked" and run.pretrain in places)):
            assert isinstance(run.config, EvaluationConfig)
            first = runs[run.pretrain]
            if first.state in ("waiting", "running"):
                if not first.task:
                    plan.later.append(run.name)
                    continue
                places[first.name] = first.task.token, first.task.index
            followers.setdefault(first.name, []).append(run.config)
    _plan_evaluations(plan, followers, places, cluster, limits)
    return plan


def _plan_pretrainings(plan: Plan, runs: dict[str, Run], cluster: Cluster, limits: Limits, states: set[str]) -> Places:
    """Add the arrays of pre-trainings; gives where each is."""
    places: Places = {}
    by_kind: dict[str, list[Config]] = {}
    for run in runs.values():
        if not run.pretrain and run.state in states:
            by_kind.setdefault(cluster.kind_of(run.config), []).append(run.config)
    for kind, configs in sorted(by_kind.items()):
        for part in split_list(configs, limits.array_size):
            array = Array(kind, {i: [[config]] for i, config in enumerate(part)})
            places |= {run_id(config): (array.token, i) for i, config in enumerate(part)}
            plan.arrays.append(array)
    return places


def _plan_evaluations(plan: Plan, followers: dict[str, list[EvaluationConfig]], places: Places, cluster: Cluster,
                      limits: Limits) -> None:
    """Add the arrays of evaluations: those that need not wait, and those that follow an array of pre-trainings."""
    free: dict[str, list[ConfigUnit]] = {}
    bound: dict[tuple[str, str], dict[int, list[ConfigUnit]]] = {}  # (kind, array that comes first) -> index -> units
    for name, evaluations in followers.items():
        for unit in split_units(evaluations):
            kind = cluster.kind_of(unit[-1])  # a linear evaluation is of the kind of the finetune-after-linear that it is with
            if name in places:
                after, index = places[name]
                bound.setdefault((kind, after), {}).setdefault(index, []).append(unit)
            else:
                free.setdefault(kind, []).append(unit)
    for kind, units in sorted(free.items()):
        pack = choose_pack(len(units), cluster.requests[kind].pack, limits.at_once)
        for packs in split_list(list(split_list(units, pack)), limits.array_size):
            plan.arrays.append(Array(kind, dict(enumerate(packs))))
    for (kind, after), tasks in bound.items():
        most = max(map(len, tasks.values()))
        pack = max(choose_pack(most * len(tasks), cluster.requests[kind].pack, limits.at_once), -(-most // ARRAYS))
        for start in range(0, most, pack):
            part = {index: units[start : start + pack] for index, units in tasks.items() if units[start:]}
            plan.arrays.append(Array(kind, part, after))


def split_units(evaluations: Sequence[EvaluationConfig]) -> list[list[EvaluationConfig]]:
    """Evaluations of one backbone -> those that one call of `evaluate` runs together.

    A finetune-after-linear is with the linear evaluation that it starts from, so that no two jobs run that.
    """
    units = evaluation.group_configs(evaluations)
    unit_of = {run_id(config): unit for unit in units for config in unit}
    for unit in [unit for unit in units if unit[0].after]:
        first = unit_of.get(run_id(derive_linear(unit[0])))
        if first is not None:
            first += unit
            units.remove(unit)
    return units


def choose_pack(units: int, pack: int, at_once: int) -> int:
    """How many units make a task, pack or fewer, so that tasks that run at_once at a time end at the same time."""
    rounds = -(-units // (pack * at_once))
    return -(-units // (rounds * at_once))


def split_list(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of the rest."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
