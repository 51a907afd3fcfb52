"""What the tests of slurm/ share: a small sweep, a queue that takes everything, and what a sweep leaves."""

import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import sweeps
from bench.core.errors import UserError
from bench.runs import results
from slurm import commands, states
from slurm.commands import QueuedTask
from slurm.shared import SharedFolder
from slurm.states import Run

HOSTILE = "wörk 'of' \"$HOME\" & ; é"
SMALL = {"width": 16, "depth": 1, "heads": 2}
SPEC: dict[str, Any] = {  # one pre-training of seconds and two evaluations
    "pretrain": {
        "methods": ["jepa"], "seeds": [0], "mix": {"tiny": 1},
        "set": {"data.rate_hz": 100, "data.crop_seconds": 2.5, "encoder.size": "tiny", "encoder.patch": 25,
                "optim.steps": 200, "optim.batch": 4, "optim.warmup_steps": 2, "optim.precision": "float32",
                "views": [{"seconds": 2.5}]},
        "per_method": {"jepa": {"method.predictor": SMALL}},
    },
    "evaluate": {
        "store": "tiny", "tasks": ["pitch"], "protocols": ["linear"], "seeds": [0, 1],
        "set": {"evaluation.steps": 4, "evaluation.batch": 16, "evaluation.validate_every": 2},
    },
}


@pytest.fixture
def shared(tmp_path: Path, stores: Path, nano: object, monkeypatch: pytest.MonkeyPatch) -> SharedFolder:
    """A work folder with the store `tiny`, and no results yet; Slurm's commands, which wait for a controller, are not there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(shutil.which("git") or "git")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "stores").symlink_to(stores)
    (tmp_path / "results").mkdir()
    return SharedFolder(tmp_path, tmp_path / "results")


def with_pretrain(steps: int | None = None, **section: Any) -> dict[str, Any]:
    """SPEC with other keys in its section `pretrain`, and other steps."""
    spec: dict[str, Any] = json.loads(json.dumps(SPEC))
    spec["pretrain"] |= section
    if steps is not None:
        spec["pretrain"]["set"]["optim.steps"] = steps
    return spec


def load_runs(shared: SharedFolder, spec: dict[str, Any]) -> dict[str, Run]:
    (shared.work / "s.yaml").write_text(yaml.safe_dump(spec))
    return states.list_runs(sweeps.load_sweep(shared.work / "s.yaml", shared.work)[0])


def write_result(shared: SharedFolder, run: Run, **result: float) -> None:
    results.write_result(shared.results, {
        "kind": "pretrain", "run_id": run.name, "config": run.config.to_json(), "provenance": {},
        "result": {"seconds": 1.0, "records": 1, "curves": {}, "monitor": {}, **result}})


def until(holds: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until it holds; gives what it gave."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        try:
            value = holds()
        except UserError:  # the controller is being restarted
            value = None
        if value:
            return value
        time.sleep(0.1)
    raise TimeoutError(f"{holds} did not hold within {seconds} s")


def processes(word: str) -> list[int]:
    """The processes whose command line holds this word; of workers, those of these tests."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace").replace("\0", " ")
            if word in line and ("slurm." not in word or tempfile.gettempdir() in line):
                pids.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pids


class Queue:
    """A cluster that takes everything: what sbatch was given, and its queue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, array_size: int = 1001):
        self.calls: list[list[str]] = []
        self.tasks: list[QueuedTask] = []
        self.array_size = array_size
        monkeypatch.setattr(commands, "run_command", self.run_command)
        monkeypatch.setattr(commands, "list_queue", lambda: list(self.tasks))
        monkeypatch.setattr(commands, "list_end_states", dict)

    def run_command(self, *command: str) -> str:
        if command[0] == "scontrol":
            return f"MaxArraySize            = {self.array_size}\n"
        assert command[0] == "sbatch"
        self.calls.append(list(command))
        options = dict(option.removeprefix("--").partition("=")[::2] for option in command[1:-1])
        for part in options["array"].partition("%")[0].split(","):
            first, _, last = part.partition("-")
            for i in range(int(first), int(last or first) + 1):
                self.tasks.append(QueuedTask(str(len(self.calls)), i, "PENDING", "", "Priority", options["job-name"][4:]))
        return f"{len(self.calls)}\n"

    def refuse_second(self, *command: str) -> str:
        """As run_command, but the second sbatch is refused."""
        if command[0] == "sbatch" and len(self.calls) == 1:
            raise UserError("sbatch refuses: no")
        return self.run_command(*command)


def runs_of(shared: SharedFolder, task: QueuedTask) -> list[str]:
    return list(itertools.chain(*shared.read_tasks(task.token)[task.index]))


def count_submitted(shared: SharedFolder, queue: Queue) -> Counter[str]:
    return Counter(run for task in queue.tasks for run in runs_of(shared, task))
