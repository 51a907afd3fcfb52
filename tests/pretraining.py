"""One pre-training of a test, and what it leaves."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import method
from bench.data.store import Store
from bench.runs.config import PretrainConfig, run_id
from bench.runs.results import load_result, result_exists
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint, monitor, optim, trainer

CLOCK = ("seconds", "seconds_left", "records_per_second", "memory_mb", "peak_memory_mb", "cpu_watts", "gpu_watts",
         "energy_joules")


def drop_clock(values: dict[str, Any]) -> dict[str, Any]:
    """Without what the clock and the machine decide."""
    return {key: value for key, value in values.items() if key not in CLOCK}


class Killed(Exception):
    """Stands for SIGKILL: nothing in the program catches it."""


@dataclass(frozen=True)
class Pretraining:
    """A config, a store and a workspace."""

    config: PretrainConfig
    store: Store
    workspace: Workspace

    def run(self, **more: Any) -> trainer.Outcome:
        return trainer.pretrain(self.config, [self.store], self.workspace, **more)

    def elsewhere(self, name: str = "elsewhere", **changes: Any) -> "Pretraining":
        """The same config in folders of its own."""
        folders = {"work": self.workspace.work / name, "results": self.workspace.results / name}
        return replace(self, workspace=replace(self.workspace, **folders, **changes))

    def kill_at(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run until the given step has begun, then die."""
        with monkeypatch.context() as patch, pytest.raises(Killed):
            self.call_at(step, self.die, patch)
            self.run()

    @staticmethod
    def die() -> None:
        raise Killed

    @staticmethod
    def call_at(step: int, action: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Have the action called where the given step begins; the list fills with the steps that begin."""
        schedule, began = optim.schedule_, list[int]()

        def watch(optimiser: Any, taken: int, settings: Any) -> float:
            began.append(taken)
            if taken == step:
                action()
            return schedule(optimiser, taken, settings)

        monkeypatch.setattr(optim, "schedule_", watch)
        return began

    @property
    def folder(self) -> Path:
        return run_folder(self.workspace.work, run_id(self.config))

    @property
    def states(self) -> list[str]:
        """The names of the checkpoints to continue from, the oldest first."""
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())

    @property
    def final(self) -> checkpoint.Checkpoint:
        return checkpoint.load(self.folder / "final.pt")

    @property
    def weights(self) -> dict[str, Tensor]:
        return {key: value for key, value in self.final.tensors.items() if key.startswith("model/")}

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [drop_clock(json.loads(line)) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines if "loss" in line]

    @property
    def written(self) -> dict[str, Any]:
        """The whole result."""
        return load_result(self.workspace.results, run_id(self.config))

    @property
    def is_done(self) -> bool:
        return result_exists(self.workspace.results, run_id(self.config))

    @property
    def left(self) -> dict[str, Any]:
        """All that a finished run leaves, without what the clock and the machine decide."""
        assert not [*self.folder.rglob("*.tmp"), *self.workspace.results.rglob("*.tmp")], "a partial file was left"
        assert not (self.folder / "error.txt").exists()
        result = drop_clock(self.written["result"])
        return {"final": (self.folder / "final.pt").read_bytes(), "lines": self.lines, "config": self.written["config"],
                "result": result | {"curves": drop_clock(result["curves"])}}


class Linear(method.Method):
    """A loss that is a mean over records and draws nothing."""

    def forward(self, views: list[Tensor], step: method.Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        return (self.encoder(x) - x.mean()).square().mean(), {"mean": x.mean()}


def as_method(monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], method.Method] = Linear) -> None:
    """Let every method be `make` of its encoder."""
    monkeypatch.setattr(method, "build_method", lambda config, encoder: make(encoder))


def fork(action: Callable[[], object]) -> int:
    """The process id of a child that performs the action and ends, with 1 where that fails."""
    if pid := os.fork():
        return pid
    try:
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run_driver(file: str, folder: Path) -> str:
    """Standard output of a test file that is run as a program on this folder, with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(map(str, Path(__file__).parents[:2]))
    done = subprocess.run([sys.executable, file, str(folder)], env={**os.environ, **threads, "PYTHONPATH": path},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def warm_up(config: PretrainConfig) -> None:
    """Have torch import what it puts off, so that no forked process pays for it. No backward: it does not survive a fork."""
    model = method.build_model(config)
    monitor.measure_collapse(model, torch.randn(4, 12, 250))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser = optim.adamw(model, config.optim)
    optimiser.step()
    optimiser.zero_grad()
