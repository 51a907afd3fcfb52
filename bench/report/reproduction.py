"""Compares two executions of the same sweep: the results of equal run_ids in two folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.core.errors import UserError
from bench.report.aggregate import spread
from bench.report.results import METRICS, Evaluation, Pretraining, PretrainRecipe, load_results

# Keys of a result, and of the curves in it, whose values depend on the machine and not only on the config.
MACHINE = ("seconds", "records_per_second", "peak_memory_mb", "energy_joules", "together")
MACHINE_CURVES = ("seconds", "records_per_second", "seconds_left", "memory_mb", "cpu_watts", "gpu_watts")

Result = Pretraining | Evaluation


@dataclass(frozen=True)
class Agreement:
    """How two folders agree in all results of one kind. Pre-trainings are compared by the last loss, evaluations by the score."""

    kind: str  # pretrain, or the evaluation's protocol
    both: int  # number of run_ids that both folders have
    equal: int  # number of these whose results are equal bit for bit, except for keys that depend on the machine
    mean: float | None  # mean of the absolute differences
    largest: float | None  # largest absolute difference
    sd: float | None  # in the first folder: sd over the pre-trainings of a recipe; the median over all recipes


@dataclass(frozen=True)
class Reproduction:
    """Two folders with the results of one sweep."""

    agreements: tuple[Agreement, ...]  # pre-trainings first
    first_alone: tuple[str, ...]  # run_ids that the second folder lacks
    second_alone: tuple[str, ...]
    skipped: tuple[str, ...]  # a line for each file that is no result, with the reason


def compare_studies(first: Path, second: Path) -> Reproduction:
    """Compare the results of two folders or Parquet files.

    UserError if one holds no result, or the two share no run_id.
    """
    ones, skipped = _by_run(first)
    others, more = _by_run(second)
    if not ones.keys() & others.keys():
        raise UserError(f"{first} and {second} share no run: give the results of one sweep that ran twice")
    kinds: dict[str, list[str]] = {}
    for name in sorted(ones.keys() & others.keys()):
        kinds.setdefault(_kind(ones[name]), []).append(name)
    agreements = [_agreement(kind, names, ones, others) for kind, names in kinds.items()]
    agreements.sort(key=lambda each: each.kind != "pretrain")
    return Reproduction(tuple(agreements), tuple(sorted(ones.keys() - others.keys())), tuple(sorted(others.keys() - ones.keys())),
                        (*skipped, *more))


def _by_run(path: Path) -> tuple[dict[str, Result], list[str]]:
    results, skipped = load_results(path, controls=True)
    return {each.run_id: each for each in results.all}, skipped


def _kind(result: Result) -> str:
    if isinstance(result, Pretraining):
        return "pretrain"
    protocol = result.config.evaluation.name
    return protocol if result.metric == "macro_auroc" else f"{protocol}, {METRICS[result.metric]}"


def _agreement(kind: str, names: Sequence[str], ones: Mapping[str, Result], others: Mapping[str, Result]) -> Agreement:
    equal, differences, recipes = 0, list[float](), dict[Any, dict[str, list[float]]]()
    for name in names:
        one, other = ones[name], others[name]
        equal += _without_machine(one) == _without_machine(other)
        a, b = _number(one), _number(other)
        if a is not None and b is not None:
            differences.append(abs(a - b))
            recipe, run = _recipe(one)
            recipes.setdefault(recipe, {}).setdefault(run, []).append(a)
    sds = [sd for runs in recipes.values() if (sd := spread([fmean(values) for values in runs.values()])[1]) is not None]
    return Agreement(kind, len(names), equal, sum(differences) / len(differences) if differences else None,
                     max(differences, default=None), median(sds) if sds else None)


def _recipe(result: Result) -> tuple[Any, str]:
    """(the recipe that all seeds of a result share, the run_id of its pre-training)."""
    if isinstance(result, Pretraining):
        return PretrainRecipe.of(result.config), result.run_id
    return (result.recipe, PretrainRecipe.of(result.pretrain_config)), result.config.pretrain


def _without_machine(result: Result) -> dict[str, Any]:
    """The content of a result, without the keys that depend on the machine."""
    values = {key: _plain(value) for key, value in result.result.items() if key not in MACHINE}
    if "curves" in values:
        values["curves"] = {key: value for key, value in values["curves"].items() if key not in MACHINE_CURVES}
    if isinstance(result, Pretraining):
        return {"config": result.config, "result": values}
    return {"config": result.config, "pretrain_config": result.pretrain_config, "saw": result.saw, "result": values}


def _plain(value: Any) -> Any:
    """The value in plain dicts and lists of numbers, as in JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _number(result: Result) -> float | None:
    """The last loss or the score; None for a pre-training of no steps."""
    if isinstance(result, Evaluation):
        return result.score
    losses = result.result["curves"].get("loss", ())
    return next((loss for loss in reversed(losses) if loss is not None), None)
