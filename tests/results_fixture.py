"""Small results of runs that never ran, for tests of what reads results."""

import copy
import json
from pathlib import Path
from typing import Any

from bench.evaluation.protocols import load_defaults
from bench.report.aggregate import Report, make_report
from bench.report.results import Results, parse_results
from bench.runs.config import load_pretrain_config, run_id
from bench.runs.layers import overrides_of

Record = dict[str, Any]  # a result as JSON has it; a test may change it until it is read


class Runs:
    """Results in the making. `results`, `report` and `write` give each the run_id of its config."""

    def __init__(self) -> None:
        self.made: list[Record] = []

    def pretrain(self, method: str, seed: int = 0, steps: int = 4, size: str = "tiny", **provenance: Any) -> Record:
        """A pre-training on the stores a and b; a random one has no steps, so no seed, and is the same each time."""
        steps, seed = (0, 0) if method == "random" else (steps, seed)
        config = load_pretrain_config("random", overrides_of({
            "seed": seed, "encoder.size": size, "encoder.patch": 10, "data.mix": {"a": 0.75, "b": 0.25}, "data.rate_hz": 100,
            "optim.steps": steps, "optim.batch": 2, "optim.warmup_steps": 0})).to_json()
        config["data"]["fingerprints"] = {"a": "fa", "b": "fb"}
        config |= {"method": {"name": method}, "views": [{"seconds": 2.5}]}
        result = {"seconds": 2.0, "records_per_second": 4.0, "curves": {"step": list(range(steps)), "loss": [1.0] * steps},
                  "monitor": {"step": [0], "rankme": [3.0], "feature_sd": [None]}}
        return self.add("pretrain", {"config": config, "result": result, "provenance": {"dirty": False} | provenance})

    def evaluate(self, run: Record, values: list[float], seed: int = 0, protocol: str = "linear", auroc: float = 0.5,
                 task: str = "superdiagnostic", **settings: Any) -> Record:
        """An evaluation on the store a. values: the replicates. settings: of the config, or else of its `evaluation`."""
        config = evaluation_config(protocol) | {"seed": seed, "pretrain": run["run_id"], "task": task,
                                                "data": {"store": "a", "fingerprint": "fa"}}
        if "steps" in settings:
            settings = {"validate_every": 1, "patience": 1, "warmup_steps": 0} | settings
        for key, value in settings.items():
            (config if key in config else config["evaluation"])[key] = value
        result = {"macro_auroc": auroc, "replicates": values, "per_class": {"MI": {"auroc": auroc, "positives": 7}},
                  "records": {"test": 20}, "bootstrap": {"seed": 1}}
        return self.add("evaluate", {"config": config, "pretrain_config": run["config"], "result": result,
                                     "provenance": {"dirty": False}})

    def add(self, kind: str, parts: Record) -> Record:
        """A result of these parts; of a pre-training that is there already, that one."""
        for other in self.made:
            if kind == other["kind"] == "pretrain" and other["config"] == parts["config"]:
                return other
        name = f"{len(self.made) + 1:012x}"
        # The pre-training's config stays the same object: a test that changes one changes both.
        self.made.append({"schema": 1, "kind": kind, "run_id": name, **copy.copy(parts)})
        return self.made[-1]

    def _name(self) -> None:
        names: dict[str, str] = {}
        for each in sorted(self.made, key=lambda each: each["kind"] == "evaluate"):
            if each["kind"] == "evaluate":
                each["config"]["pretrain"] = names.get(each["config"]["pretrain"], each["config"]["pretrain"])
            names[each["run_id"]] = each["run_id"] = run_id(each["config"])
        assert len({each["run_id"] for each in self.made}) == len(self.made), "two results have one config"

    def results(self) -> Results:
        """All of them as the report reads them, controls among them."""
        self._name()
        results, bad = parse_results(copy.deepcopy(self.made))
        assert not bad, bad
        return results

    def report(self, rule: str = "default") -> Report:
        """The report of all of them."""
        return make_report(self.results(), rule)

    def write(self, folder: Path) -> Path:
        """The folder with a file each."""
        self._name()
        folder.mkdir()
        for each in self.made:
            (folder / f"{each['run_id']}.json").write_text(json.dumps(each))
        return folder


def evaluation_config(protocol: str) -> dict[str, Any]:
    """A protocol's settings as a config has them."""
    config = copy.deepcopy(load_defaults(protocol).value)
    config["after"] = config["after"] or None
    return {key: value for key, value in config.items() if value is not None}


def two_methods(runs: Runs) -> Runs:
    """A random backbone with AUROC .2, and two seeds of jepa with .6 and .8."""
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2, 0.3], auroc=0.2)
    for seed, values, auroc in ((0, [0.5, 0.6, 0.7], 0.6), (1, [0.7, 0.8, 0.9], 0.8)):
        runs.evaluate(runs.pretrain("jepa", seed), values, seed, auroc=auroc)
    return runs
