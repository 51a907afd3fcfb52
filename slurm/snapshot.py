"""Copies the code, so that a job runs the code that was submitted even if the repository changes while it waits."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from bench.core.files import ROOT, write_text
from bench.runs import provenance
from bench.runs.config import find_methods

PARTS = ("bench", "methods", "slurm")
SUFFIXES = (".py", ".yaml", ".csv")


def copy_code(folder: Path) -> Path:
    """Copy the code to folder/<hash of its content>, unless that exists. Outside methods go into its methods/."""
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        for part in PARTS:
            for path in sorted((ROOT / part).rglob("*")):
                if path.suffix in SUFFIXES:
                    copy_file(path, new / path.relative_to(ROOT))
        for path in find_methods().values():
            for each in (path, path.with_suffix(".py")):
                copy_file(each, new / "methods" / each.name)
        write_text(new / provenance.SNAPSHOT, json.dumps(provenance.code()))
        os.chmod(new, 0o755)
        target = folder / hash_files(new)
        with contextlib.suppress(OSError):  # it exists, with the same content
            new.rename(target)
        return target
    finally:
        shutil.rmtree(new, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def hash_files(folder: Path) -> str:
    """12 hex digits of the SHA-256 of all files below folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
