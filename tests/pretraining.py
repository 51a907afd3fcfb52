"""One pre-training of a test, and what it leaves."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bench import method
from bench.data.store import Store
from bench.runs.config import PretrainConfig, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint, optim, trainer

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
        return json.loads((self.workspace.results / f"{run_id(self.config)}.json").read_text())  # type: ignore[no-any-return]

    @property
    def is_done(self) -> bool:
        return (self.workspace.results / f"{run_id(self.config)}.json").is_file()

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

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.steps: list[int] = []

    def forward(self, views: list[Tensor], step: method.Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        self.steps.append(step.index)
        return (self.encoder(x) - x.mean()).square().mean(), {"mean": x.mean()}


@contextmanager
def as_method(monkeypatch: pytest.MonkeyPatch, make: Any = Linear) -> Iterator[list[Any]]:
    """Every method is `make` of its encoder meanwhile; the list fills with those that are built."""
    built: list[Any] = []

    def build(config: Any, encoder: Any) -> Any:
        built.append(make(encoder))
        return built[-1]

    with monkeypatch.context() as patch:
        patch.setattr(method, "build_method", build)
        yield built
