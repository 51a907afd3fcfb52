"""Short evaluations for the tests, and what they leave."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import configs
import numpy as np

from bench.data.store import Store
from bench.evaluation.runner import evaluate
from bench.runs.config import EvaluationConfig, run_id
from bench.runs.workspace import Workspace, evaluation_folder, run_folder

SHORT = ["evaluation.steps=9", "evaluation.batch=10", "evaluation.validate_every=3", "evaluation.patience=9",
         "evaluation.lr=1e-2", "evaluation.final_lr=1e-2", "evaluation.warmup_steps=0"]


def load(store: Store, run: str, protocol: str = "linear", *overrides: str, task: str = "pitch",
         seed: int = 0) -> EvaluationConfig:
    """The config of a short evaluation."""
    return configs.evaluation(protocol, task, run, store, seed, [*SHORT, *overrides])


class Finished:
    """What a finished evaluation left."""

    def __init__(self, config: EvaluationConfig, workspace: Workspace):
        self.config = config
        self.folder = evaluation_folder(workspace.work, config.pretrain, run_id(config))
        self.content: dict[str, Any] = json.loads((workspace.results / f"{run_id(config)}.json").read_text())
        self.result: dict[str, Any] = self.content["result"]
        self.raw = (self.folder / "predictions.npz").read_bytes()
        with np.load(self.folder / "predictions.npz") as arrays:
            self.predictions: dict[str, np.ndarray] = dict(arrays)

    def state(self) -> tuple[Any, ...]:
        """All of it, but for what the clock and the machine decide."""
        content = json.loads(json.dumps(self.content))
        del content["provenance"], content["result"]["seconds"], content["result"]["peak_memory_mb"]
        weights = self.folder / "weights.pt"
        return content, self.raw, weights.read_bytes() if weights.is_file() else b""


@dataclass(frozen=True)
class Evaluator:
    """Evaluations of one pre-training on one store."""

    run: str
    store: Store
    workspace: Workspace

    def load(self, protocol: str = "linear", *overrides: str, **settings: Any) -> EvaluationConfig:
        return load(self.store, self.run, protocol, *overrides, **settings)

    def load_group(self, *overrides: str, protocol: str = "linear", seeds: int = 2) -> list[EvaluationConfig]:
        """Configs of both tasks and of several seeds."""
        return [self.load(protocol, *overrides, task=task, seed=seed) for task in ("pitch", "form") for seed in range(seeds)]

    def evaluate(self, *group: EvaluationConfig) -> list[str]:
        return evaluate(group, self.store, self.workspace)

    def finish(self, *group: EvaluationConfig) -> list[Finished]:
        """Run the evaluations in one call: what they left."""
        assert self.evaluate(*group) == [run_id(config) for config in group]
        return [Finished(config, self.workspace) for config in group]

    def elsewhere(self, name: str = "again", **changes: Any) -> "Evaluator":
        """The same work folder with a folder of results of its own."""
        return replace(self, workspace=replace(self.workspace, results=self.workspace.results / name, **changes))

    def results(self) -> set[str]:
        """The run_ids of the results."""
        return {path.stem for path in self.workspace.results.glob("*.json")}

    def group_folders(self) -> list[Path]:
        """The folders of groups that have not ended."""
        return list((run_folder(self.workspace.work, self.run) / "evaluations").glob("group-*"))
