"""What the runs that are left will cost, from what like runs cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.models import canonical
from bench.runs.config import Config, EvaluationConfig, PretrainConfig, parse_config
from bench.runs.results import load_result, newest_results
from slurm.cluster import Cluster
from slurm.plan import Run

LIKE = 3  # records of a recipe that are averaged; ours
OTHERS = 300  # records of no run of this sweep that are looked at, newest first; ours


@dataclass
class Cost:
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    unknown: int = 0  # runs of which no like one has a record

    def __str__(self) -> str:
        known = f"{self.gpu_hours:,.1f} GPU-hours, {self.cpu_hours:,.1f} CPU-hours"
        return known + (f", and {self.unknown} runs that no record is like: unknown" if self.unknown else "")


def like(config: Config, pretrain: Config) -> str:
    """What runs share whose speed is about the same: all but seeds, lengths and data."""
    assert isinstance(pretrain, PretrainConfig)
    shared: list[Any] = [pretrain.encoder.to_json(), pretrain.data.crop_seconds, pretrain.data.rate_hz]
    if isinstance(config, EvaluationConfig):
        return canonical([*shared, config.evaluation.to_json(), config.task, config.data.store])
    return canonical([*shared, config.method.to_json(), config.views, config.optim.precision, config.optim.batch])


def seconds(config: Config, records: list[dict[str, Any]]) -> float:
    """How long a run takes if it is as fast as the mean of those recorded."""
    results = [each["result"] for each in records]
    if isinstance(config, EvaluationConfig):
        return sum(r["seconds"] / r.get("together", 1) for r in results) / len(results)  # those that ran together share them
    work = config["optim"]["steps"] * config["optim"]["batch"]
    return work * sum(r["seconds"] / max(1, r["records"]) for r in results) / len(results)


def estimate(runs: dict[str, Run], results: Path, cluster: Cluster) -> dict[str, Cost]:
    """kind -> cost of the runs without a record, on what the cluster's file asks for."""
    def pretrain(run: Run) -> Config:
        return runs[run.pretrain].config if run.pretrain else run.config

    left = [run for run in runs.values() if run.state != "done"]
    wanted = {like(run.config, pretrain(run)) for run in left}
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs.values():
        if run.state == "done":
            key = like(run.config, pretrain(run))
            if key in wanted and len(found.get(key, ())) < LIKE:
                found.setdefault(key, []).append(load_result(results, run.name))
    for made in others(results, runs) if wanted - found.keys() else ():
        key = like(parse_config(made["config"]), parse_config(made.get("pretrain_config", made["config"])))
        if key in wanted and len(found.get(key, ())) < LIKE:
            found.setdefault(key, []).append(made)
    costs: dict[str, Cost] = {}
    for run in left:
        kind, key = cluster.kind(run.config), like(run.config, pretrain(run))
        asked, cost = cluster.asked[kind], costs.setdefault(kind, Cost())
        if key in found:
            hours = asked.nodes * seconds(run.config, found[key]) / 3600
            cost.gpu_hours += hours * asked.gpus
            cost.cpu_hours += hours * asked.processes * asked.cpus
        elif isinstance(run.config, PretrainConfig) and not run.config.optim.steps:
            pass  # no step, no time
        else:
            cost.unknown += 1
    return costs


def others(results: Path, runs: dict[str, Run]) -> Iterable[dict[str, Any]]:
    """Results of runs outside the sweep, the newest; what is no result is left to `ecgssl report`."""
    for result in newest_results(results, OTHERS, frozenset(runs)):
        if result["result"].get("seconds") is not None:
            yield result
