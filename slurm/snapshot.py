"""A copy of the code: what was submitted runs, whatever becomes of the repository while it waits."""

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
    """The copy in folder/<hash of its content>, made unless it exists; methods from outside are in its methods/, too."""
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
    """12 hex digits that name the content of the files below folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
