"""The folders and the device that runs use on this machine, and how often they save. None of this changes a run_id."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.core.files import lock_file

SAVE_MINUTES = 10.0  # a run saves at least this often


@dataclass(frozen=True)
class Workspace:
    """The folders and the device of runs, and how often they save."""

    work: Path  # stores, checkpoints, predictions, logs
    results: Path  # one file per finished run
    device: torch.device
    place: str = "auto"  # memory that holds the stores' signals, see Loader
    save_steps: int = 1000  # a run saves a checkpoint to resume from after so many steps
    save_minutes: float = SAVE_MINUTES  # or after so many minutes, whichever comes first
    keep: int = 3  # number of such checkpoints that are not removed


def run_folder(work: Path, run: str) -> Path:
    """The folder of the pre-training `run`."""
    return work / "runs" / run


def checkpoint_name(at: float = 1.0) -> str:
    """The file name of the backbone after the share `at` of a pre-training's steps."""
    return "final.pt" if at == 1 else f"at-{at:g}.pt"


def checkpoint_path(work: Path, run: str, at: float = 1.0) -> Path:
    """The file of the backbone of the pre-training `run` after the share `at` of its steps."""
    return run_folder(work, run) / checkpoint_name(at)


def evaluation_folder(work: Path, run: str, evaluation: str) -> Path:
    """The folder of an evaluation of the pre-training `run`; both are run_ids."""
    return run_folder(work, run) / "evaluations" / evaluation


def set_aside(workspace: Workspace, run: str) -> None:
    """Move what the pre-training `run` and its evaluations left to the folders `replaced/N` of work and results.

    UserError where a process works on the run. Nothing happens where the run has left nothing.
    """
    folder, results = run_folder(workspace.work, run), workspace.results
    names = [run, *sorted(path.name for path in folder.glob("evaluations/*") if path.is_dir())]
    files = [path for name in names if (path := results / f"{name}.json").is_file()]
    if not folder.exists() and not files:
        return
    with lock_file(folder / "lock", f"run {run}"):
        number = next(n for n in itertools.count(1)
                      if not any((place / "replaced" / str(n)).exists() for place in (workspace.work, results)))
        for path in (folder, *files):
            target = (workspace.work if path == folder else results) / "replaced" / str(number) / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
