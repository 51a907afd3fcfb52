"""Where a run's numbers come from: machine, libraries, commit, source. Nothing of this changes the run_id."""

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.files import ROOT, read_json
from bench.runs.source import hash_source

if TYPE_CHECKING:  # importing torch takes a second, and listing results does not need it
    import torch

SNAPSHOT = "snapshot.json"  # in a copy of the code: the value of code() when it was copied
# The files that a run executes, as git's pathspecs. Tables, figures, tests and docs are not among them, nor are the YAML files of
# sweeps and clusters: the config holds what these set.
CODE = (":(glob)bench/**/*.py", ":(glob)bench/**/*.yaml", ":(glob)bench/**/*.csv", ":(glob)methods/**/*.py",
        ":(glob)methods/**/*.yaml", ":(glob)slurm/**/*.py", ":(exclude)bench/report", ":(exclude)bench/plot")
BESIDE = (":(glob)*.py", ":(glob)*.yaml")  # the same in a folder of methods outside the repository


def provenance(device: "torch.device", method: Path | None = None) -> dict[str, Any]:
    """The code, libraries and machine of a run, as JSON: commit, dirty, python, torch, device, threads, slurm_job.

    method: the .py or .yaml file of the run's method. If it is given, `source` is its hash_source, and `dirty` also counts its
    folder. `dirty` is None if some of the code is in no git checkout; then only `source` tells which code ran.
    """
    import torch

    origin = code()
    if method:
        origin["source"] = hash_source(method)
        if not method.resolve().is_relative_to(ROOT):
            both = (origin["dirty"], is_dirty(method.resolve().parent, BESIDE))
            origin["dirty"] = True if any(both) else None if None in both else False
    return {
        **origin,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({cpu_name()})",
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def code() -> dict[str, Any]:
    """{commit, dirty} of the code that runs; both are None outside a git checkout.

    A copy of the code (slurm/snapshot.py) holds these two values in a file, because the copy may lie in another git checkout.
    """
    if (ROOT / SNAPSHOT).is_file():
        return read_json(ROOT / SNAPSHOT, "the copy of the code")
    return {"commit": _git(ROOT, "rev-parse", "HEAD"), "dirty": is_dirty(ROOT, CODE)}


def is_dirty(folder: Path, files: tuple[str, ...]) -> bool | None:
    """Whether any of the files (git's pathspecs) has changes that are not committed; None outside a git checkout."""
    lines = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *files)
    return None if lines is None else bool(lines)


def cpu_name() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints about the folder; None if the folder is not in a git checkout."""
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
