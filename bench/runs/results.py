"""One JSON file per finished run; written once, whole, never edited. results/README.md states the schema."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.files import ROOT, read_json, replace_file, write_text

if TYPE_CHECKING:  # whoever only asks which runs have a record need not wait for torch
    import torch

SCHEMA = 1
SNAPSHOT = "snapshot.json"  # in a copy of the code: its code()
CODE = ("bench", "methods", "slurm", "paper", "pyproject.toml")


def provenance(device: "torch.device") -> dict[str, Any]:
    """What a run ran on; no part of its identity."""
    import torch

    return {
        **code(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({cpu_name()})",
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def code() -> dict[str, Any]:
    """The commit of the code that runs, None where it is no git checkout, and whether it has uncommitted changes.

    A copy of the code (slurm/snapshot.py) says what it is a copy of: it may lie in a checkout of something else.
    """
    if (ROOT / SNAPSHOT).is_file():
        return read_json(ROOT / SNAPSHOT, "the copy of the code")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--", *CODE))}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _git(*arguments: str) -> str | None:
    """git's answer about the code, or None where the code is not a git checkout."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def path(results: Path, run_id: str) -> Path:
    return results / f"{run_id}.json"


def exists(results: Path, run_id: str) -> bool:
    return path(results, run_id).is_file()


def load(results: Path, run_id: str) -> dict[str, Any]:
    """The result of a run; UserError where there is none."""
    return read_json(path(results, run_id), "result")


def check_writable(results: Path) -> None:
    """UserError before hours of work when the record could not be written after them."""
    try:
        with replace_file(results / ".probe"):
            pass
        (results / ".probe").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {results} ({error.strerror}); choose another folder") from None


def write(results: Path, record: dict[str, Any]) -> Path:
    """Atomic: a reader sees the whole record or none. Refuses to overwrite."""
    target = path(results, record["run_id"])
    if target.exists():
        raise UserError(f"{target} already holds this run; delete it to run again")
    with replace_file(target) as f:
        f.write(dumps({"schema": SCHEMA, **record}).encode())
    return target


@contextlib.contextmanager
def reason_kept(folder: Path) -> Iterator[None]:
    """A failure of the block leaves its reason in folder/error.txt; a success removes it."""
    try:
        yield
    except (UserError, OSError) as error:
        with contextlib.suppress(OSError):  # a full disk
            write_text(folder / "error.txt", f"{error}\n")
        raise
    (folder / "error.txt").unlink(missing_ok=True)


def dumps(value: Any, indent: str = "") -> str:
    """JSON, keys sorted, one per line, lists of numbers on one line. No NaN, no rounding."""
    if not isinstance(value, dict):
        return json.dumps(value, sort_keys=True, allow_nan=False)
    inner = ",\n".join(f"{indent} {json.dumps(k)}: {dumps(v, indent + ' ')}" for k, v in sorted(value.items()))
    return f"{{\n{inner}\n{indent}}}" + ("" if indent else "\n") if value else "{}"
