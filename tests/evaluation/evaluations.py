"""Short evaluations for the tests, and what they leave."""

import json
from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest

from bench.data.store import Store
from bench.evaluation.runner import evaluate
from bench.runs.config import EvaluationConfig, run_id
from bench.runs.workspace import Workspace, evaluation_folder
from bench.training import optim

SHORT = ["evaluation.steps=9", "evaluation.batch=10", "evaluation.validate_every=3", "evaluation.patience=9",
         "evaluation.lr=1e-2", "evaluation.final_lr=1e-2", "evaluation.warmup_steps=0"]


def load(store: Store, run: str, protocol: str = "linear", *overrides: str, task: str = "pitch",
         seed: int = 0) -> EvaluationConfig:
    """The config of a short evaluation."""
    return configs.evaluation(protocol, task, run, store, seed, [*SHORT, *overrides])


def load_group(store: Store, run: str, *overrides: str, protocols: tuple[str, ...] = ("linear",),
               seeds: int = 2) -> list[EvaluationConfig]:
    """Configs of both tasks and of several seeds."""
    return [load(store, run, protocol, *overrides, task=task, seed=seed)
            for protocol in protocols for task in ("pitch", "form") for seed in range(seeds)]


class Finished:
    """What a finished evaluation left."""

    def __init__(self, config: EvaluationConfig, workspace: Workspace):
        self.config, self.run_id = config, run_id(config)
        self.folder = evaluation_folder(workspace.work, config.pretrain, self.run_id)
        self.content: dict[str, Any] = json.loads((workspace.results / f"{self.run_id}.json").read_text())
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


def finish(store: Store, workspace: Workspace, *group: EvaluationConfig) -> list[Finished]:
    """Run the evaluations in one call: what they left."""
    assert evaluate(group, store, workspace) == [run_id(config) for config in group]
    return [Finished(config, workspace) for config in group]


def call_at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Let action() run when the optimiser's schedule is set for the step-th time, counted from 1."""
    schedule, calls = optim.schedule_, []

    def watched(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == step:
            action()
        return schedule(*arguments)

    monkeypatch.setattr(optim, "schedule_", watched)


def list_states(folder: Path) -> list[Path]:
    return list(folder.glob("group-*/state.pt"))
