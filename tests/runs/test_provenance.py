"""A result says which code computed it, and a change of that code shows."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from bench.core.files import ROOT
from bench.runs import provenance
from bench.runs.config import find_methods
from bench.runs.source import hash_source, source_files

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def commit_all(folder: Path) -> None:
    git(folder, "init")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "all")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the same layout, everything committed."""
    root = tmp_path / "checkout"
    for name in ("bench/training/trainer.py", "bench/runs/base.yaml", "bench/report/aggregate.py", "methods/mae.py",
                 "slurm/work.py", "slurm/sweeps/mini.yaml", "paper/tables.py", "docs/method.md"):
        write(root / name, "a = 1\n")
    commit_all(root)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


@pytest.mark.parametrize(("names", "dirty"), [
    (["bench/training/trainer.py", "bench/runs/base.yaml", "methods/mae.py", "methods/new.py", "bench/new/part.py",
      "slurm/work.py"], True),
    (["bench/report/aggregate.py", "slurm/sweeps/mini.yaml", "paper/tables.py", "docs/method.md", "bench/notes.md"], False)])
def test_only_changes_of_code_that_a_run_executes_are_uncommitted_code(checkout: Path, names: list[str], dirty: bool) -> None:
    assert provenance.code()["dirty"] is False
    for name in names:
        write(checkout / name, "a = 2\n")
        assert provenance.code()["dirty"] is dirty, name
        git(checkout, "stash", "--include-untracked")


def test_a_method_outside_the_repository_is_told_by_its_source_or_its_own_checkout(
        checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    path = write(tmp_path / "outside" / "mine.py", "a = 1\n")
    origin = provenance.provenance(CPU, path)
    assert json.loads(json.dumps(origin)) == origin
    assert (origin["source"], origin["dirty"]) == (hash_source(path), None)
    commit_all(path.parent)
    assert provenance.provenance(CPU, path)["dirty"] is False
    path.write_text("a = 2\n")
    assert provenance.provenance(CPU, path)["dirty"] is True
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert provenance.code() == {"commit": None, "dirty": None}


@pytest.fixture
def method(tmp_path: Path) -> Path:
    """A method that imports one file beside it, which imports another."""
    folder = tmp_path / "outside"
    write(folder / "near.py", "from .far import loss\n")
    write(folder / "far.py", '"""Far."""\n\n\ndef loss(x):\n    """Of x."""\n    return x + 1  # one\n')
    write(folder / "unrelated.py", "a = 1\n")
    write(folder / "mine.yaml", "method: {name: mine, k: 3}\n")
    return write(folder / "mine.py", "from torch import nn\n\nfrom bench.method import Method\nimport near\n")


@pytest.mark.parametrize(("name", "text", "changes"), [
    ("far.py", "def loss(x):\n    return x + 2\n", True), ("far.py", "def loss(x:\n", True),
    ("near.py", "from .far import loss as l\n", True), ("mine.yaml", "method: {name: mine, k: 4}\n", True),
    ("mine.yaml", "method: {", True), ("mine.py", "import near\n", True), ("unrelated.py", "a = 2\n", False),
    ("mine.yaml", "# about   mine\nmethod:\n  k: 3\n  name: mine\n", False),
    ("far.py", "# A comment.\ndef loss(x):\n    '''Another\n    docstring.'''\n\n    return x + 1\n", False)])
def test_code_that_a_method_computes_with_changes_its_source_and_nothing_else_does(
        method: Path, name: str, text: str, changes: bool) -> None:
    before = hash_source(method)
    (method.parent / name).write_text(text)
    assert (hash_source(method) != before) is changes


def test_the_source_does_not_depend_on_the_place_and_runs_nothing(method: Path, tmp_path: Path) -> None:
    before = hash_source(method)
    method.parent.rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "mine.py"
    assert hash_source(moved) == hash_source(moved.with_suffix(".yaml")) == before
    write(moved.with_name("far.py"), f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    hash_source(moved)
    assert not (tmp_path / "executed").exists()


def test_every_method_counts_the_parts_and_the_encoder_that_it_uses_and_no_two_are_alike() -> None:
    methods = find_methods()
    assert len({hash_source(path) for path in methods.values()}) == len(methods)
    names = {name for name, _ in source_files(methods["mae"])}
    assert {"mae.py", "mae.yaml", "bench/parts.py", "bench/method.py", "bench/encoders/vit.py"} <= names
    encoder = ROOT / "bench" / "encoders" / "vit.py"
    assert hash_source(methods["mae"], encoder) == hash_source(encoder, methods["mae"])
