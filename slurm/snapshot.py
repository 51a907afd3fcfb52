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


def take(folder: Path) -> Path:
    """The copy in folder/<hash of what is in it>, made unless it is there; methods from outside are in methods/, too."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        for part in PARTS:
            for path in sorted((ROOT / part).rglob("*")):
                if path.suffix in SUFFIXES:
                    copy(path, made / path.relative_to(ROOT))
        for path in find_methods().values():
            for each in (path, path.with_suffix(".py")):
                copy(each, made / "methods" / each.name)
        write_text(made / provenance.SNAPSHOT, json.dumps(provenance.code()))
        os.chmod(made, 0o755)
        target = folder / digest(made)
        with contextlib.suppress(OSError):  # another was faster, or it is there: the same content
            made.rename(target)
        return target
    finally:
        shutil.rmtree(made, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def digest(folder: Path) -> str:
    """12 hex digits that name the content of the files below folder."""
    sums = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sums.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        sums.update(path.read_bytes())
    return sums.hexdigest()[:12]
