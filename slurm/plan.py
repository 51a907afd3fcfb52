"""Plans the arrays of a sweep's missing runs: few arrays, in which every evaluation comes after its pre-training."""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench.evaluation import runner as evaluation
from bench.evaluation.protocols import derive_linear
from bench.runs.config import Config, EvaluationConfig, run_id
from slurm.cluster import Cluster
from slurm.states import SUBMITTED, Run

ARRAYS = 8  # most arrays of one kind of evaluation after one array of pre-trainings; jobs then hold more than `pack` units

ConfigUnit = Sequence[Config]  # runs of one call: a pre-training, or evaluations that one call of `evaluate` takes
T = TypeVar("T")


@dataclass(eq=False)
class Array:
    """The tasks of one call of sbatch: index -> units."""

    kind: str
    tasks: dict[int, list[ConfigUnit]]
    after: str = ""  # token of another array; each task waits for that array's task of the same index
    token: str = field(default_factory=lambda: secrets.token_hex(6))  # the array's name in Slurm and on disk

    @property
    def size(self) -> int:
        """The number of runs in the array."""
        return sum(len(unit) for units in self.tasks.values() for unit in units)


@dataclass
class Plan:
    """Arrays in the order to submit them: an array comes after the array that it waits for."""

    arrays: list[Array] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # evaluations whose pre-training runs outside the queue


@dataclass(frozen=True)
class Limits:
    """The limits of a plan."""

    array_size: int  # most tasks in an array
    at_once: int = 1  # tasks that run at a time; 1 if unknown


Places = dict[str, tuple[str, int]]  # pre-training -> (token of its array, its index there)


def plan_arrays(runs: dict[str, Run], cluster: Cluster, limits: Limits, also: Collection[str] = ()) -> Plan:
    """The plan of a submission: the runs whose state is in SUBMITTED or `also`, pre-trainings before their evaluations."""
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
    """Add the arrays of pre-trainings. Returns the place of each pre-training."""
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
    """Add the arrays of evaluations: first those that need not wait, then those that follow an array of pre-trainings."""
    free: dict[str, list[ConfigUnit]] = {}
    bound: dict[tuple[str, str], dict[int, list[ConfigUnit]]] = {}  # (kind, array that comes first) -> index -> units
    for name, evaluations in followers.items():
        for unit in split_units(evaluations):
            kind = cluster.kind_of(unit[-1])  # a linear evaluation takes the kind of its finetune-after-linear
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
    """Split the evaluations of one backbone into units, each for one call of `evaluate`.

    A finetune-after-linear is in the unit of the linear evaluation that it starts from, so that only one job runs that.
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
    """The number of units per task, at most `pack`, for which `at_once` tasks at a time finish at about the same time."""
    rounds = -(-units // (pack * at_once))
    return -(-units // (rounds * at_once))


def split_list(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last list holds the rest."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
