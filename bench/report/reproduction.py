"""How near a second run of the same sweep came to the first: records of the same run_id in two folders, side by side."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.core.errors import UserError
from bench.report.aggregate import recipe, spread
from bench.runs import reading
from bench.runs import results as record
from bench.runs.reading import METRICS, metric_of

CLOCK = ("seconds", "records_per_second", "peak_memory_mb", "energy_joules", "together")  # of a result: what the machine decides
ON_THE_WAY = ("seconds", "records_per_second", "seconds_left", "memory_mb", "cpu_watts", "gpu_watts")  # likewise of its curves


@dataclass(frozen=True)
class Agreement:
    """Of all records of one kind: a pre-training's number is its last loss, an evaluation's its score."""

    kind: str  # pretrain, or the evaluation's protocol
    both: int  # run_ids that have a record in either folder
    equal: int  # of these, to the last bit but for time and memory
    mean: float | None  # of the absolute differences
    largest: float | None
    sd: float | None  # over the pre-trainings of a recipe, a mean of evaluations each, in the first folder; the median of all


def settled(made: dict[str, Any]) -> dict[str, Any]:
    """A record without what the clock and the machine decide."""
    result = {key: value for key, value in made["result"].items() if key not in CLOCK}
    if "curves" in result:
        result["curves"] = {key: value for key, value in result["curves"].items() if key not in ON_THE_WAY}
    return {key: value for key, value in made.items() if key != "provenance"} | {"result": result}


def number_of(made: dict[str, Any]) -> float | None:
    """The record's last loss or its score; None of a pre-training of no steps."""
    if made["kind"] == "evaluate":
        return float(made["result"][metric_of(made)])
    losses = made["result"]["curves"].get("loss", ())
    return next((loss for loss in reversed(losses) if loss is not None), None)


def repeated(first: Path, second: Path, say: Callable[[str], None]) -> tuple[list[Agreement], list[str], list[str]]:
    """(what agrees, a line per kind; run_ids in the first folder alone; in the second alone); says what is no record.

    UserError where a folder holds no record, or the two have none of the same name.
    """
    found = []
    for folder in (first, second):
        records, skipped = reading.read(folder)
        found.append({r["run_id"]: r for r in records})
        for line in skipped:
            say(f"skipped: {line}")
    ones, others = found
    if not ones.keys() & others.keys():
        raise UserError(f"{first} and {second} share no run: give the results of one sweep that ran twice")
    kinds: dict[str, list[str]] = {}
    for name in sorted(ones.keys() & others.keys()):
        config = ones[name]["config"]
        kind = "pretrain"
        if ones[name]["kind"] == "evaluate":
            metric = metric_of(ones[name])
            kind = config["evaluation"]["name"] + ("" if metric == "macro_auroc" else f", {METRICS[metric]}")
        kinds.setdefault(kind, []).append(name)
    out = [agreement(kind, names, first, second) for kind, names in kinds.items()]
    out.sort(key=lambda each: each.kind != "pretrain")
    return out, sorted(ones.keys() - others.keys()), sorted(others.keys() - ones.keys())


def agreement(kind: str, names: Sequence[str], first: Path, second: Path) -> Agreement:
    equal, differences, recipes = 0, list[float](), dict[str, dict[str, list[float]]]()
    for name in names:
        one, other = (json.loads(record.path(folder, name).read_text()) for folder in (first, second))
        equal += settled(one) == settled(other)
        a, b = number_of(one), number_of(other)
        if a is not None and b is not None:
            differences.append(abs(a - b))
            of = one.get("pretrain_config", {})
            runs = recipes.setdefault(recipe(one["config"]) + (recipe(of) if of else ""), {})
            runs.setdefault(one["config"].get("pretrain", name), []).append(a)
    sds = [sd for runs in recipes.values() if (sd := spread([fmean(values) for values in runs.values()])[1]) is not None]
    return Agreement(kind, len(names), equal, sum(differences) / len(differences) if differences else None,
                     max(differences, default=None), median(sds) if sds else None)
