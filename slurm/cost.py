"""Estimates the cost of the remaining runs from the results of similar runs."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.models import canonical
from bench.runs.config import Config, EvaluationConfig, PretrainConfig, parse_config
from bench.runs.results import load_result, newest_results
from slurm.cluster import Cluster
from slurm.states import Run

LIKE = 3  # number of similar runs that an estimate averages
OTHERS = 300  # number of results outside the sweep that are read, newest first


@dataclass
class Cost:
    """The estimated cost of the runs of one kind."""

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    known: int = 0  # number of runs that the hours cover
    unknown: int = 0  # number of runs without a similar run that has a result

    def __str__(self) -> str:
        known = f"{self.gpu_hours:,.1f} GPU-hours and {self.cpu_hours:,.1f} CPU-hours for {count_runs(self.known)}"
        unknown = f"unknown for {count_runs(self.unknown)}, because no similar run has a result"
        return "; ".join([*([known] if self.known else []), *([unknown] if self.unknown else [])])


def count_runs(number: int) -> str:
    return f"{number:,} run" if number == 1 else f"{number:,} runs"


def recipe_of(config: Config, pretrain: PretrainConfig) -> str:
    """A text that is equal for runs of about the same speed: the config without seeds, lengths and data."""
    shared: list[Any] = [pretrain.encoder.to_json(), pretrain.data.crop_seconds, pretrain.data.rate_hz]
    if isinstance(config, EvaluationConfig):
        return canonical([*shared, config.evaluation.to_json(), config.task, config.data.store])
    return canonical([*shared, config.method.to_json(), config.views, config.optim.precision, config.optim.batch])


def predict_seconds(config: Config, like: list[dict[str, Any]]) -> float:
    """The seconds of a run at the mean speed of similar runs. like: the `result` of each."""
    if isinstance(config, EvaluationConfig):  # evaluations that ran at once share their seconds
        return float(sum(r["seconds"] / r.get("together", 1) for r in like) / len(like))
    records = config.optim.steps * config.optim.batch
    return float(records * sum(r["seconds"] / max(1, r["records"]) for r in like) / len(like))


def estimate_costs(runs: dict[str, Run], folder: Path, cluster: Cluster) -> dict[str, Cost]:
    """kind -> cost of the runs without a result, with the requests of the cluster."""
    recipes = {run.name: recipe_of(run.config, _pretrain_config(run, runs)) for run in runs.values()}
    left = [run for run in runs.values() if run.state != "done"]
    like = find_like(runs, recipes, {recipes[run.name] for run in left}, folder)
    costs: dict[str, Cost] = {}
    for run in left:
        kind = cluster.kind_of(run.config)
        request, cost, known = cluster.requests[kind], costs.setdefault(kind, Cost()), like.get(recipes[run.name])
        if known:
            hours = request.nodes * predict_seconds(run.config, known) / 3600
            cost.gpu_hours += hours * request.gpus
            cost.cpu_hours += hours * request.processes * request.cpus
        if known or (isinstance(run.config, PretrainConfig) and not run.config.optim.steps):  # no step, no time
            cost.known += 1
        else:
            cost.unknown += 1
    return costs


def find_like(runs: dict[str, Run], recipes: dict[str, str], wanted: set[str], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """recipe -> the `result` of at most LIKE runs, for the wanted recipes. Runs of the sweep come before others."""
    like: dict[str, list[dict[str, Any]]] = {}
    for run in runs.values():
        recipe = recipes[run.name]
        if run.state == "done" and recipe in wanted and len(like.get(recipe, ())) < LIKE:
            like.setdefault(recipe, []).append(load_result(folder, run.name)["result"])
    for recipe, result in read_others(folder, runs) if wanted - like.keys() else ():
        if recipe in wanted and len(like.get(recipe, ())) < LIKE:
            like.setdefault(recipe, []).append(result)
    return like


def _pretrain_config(run: Run, runs: dict[str, Run]) -> PretrainConfig:
    config = runs[run.pretrain].config if run.pretrain else run.config
    assert isinstance(config, PretrainConfig)
    return config


def read_others(folder: Path, runs: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (recipe, `result`) of the newest OTHERS runs outside the sweep. Damaged results are left out."""
    for each in newest_results(folder, OTHERS, frozenset(runs)):
        if each["result"].get("seconds") is not None:
            with contextlib.suppress(ValueError):  # a result of another version
                pretrain = PretrainConfig.model_validate(each.get("pretrain_config", each["config"]))
                yield recipe_of(parse_config(each["config"]), pretrain), each["result"]
