"""`ecgssl methods`, and how someone outside the repository adds a method."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import configs
import pytest

from bench import catalogue
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.method import build_model
from bench.runs import provenance
from bench.runs.config import METHODS, find_methods

TUTORIAL = ROOT / "docs" / "add-a-method.md"
SHARED_METHODS = sorted(path.stem for path in (ROOT / "methods").glob("*.yaml"))


@pytest.fixture
def ecgssl(monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run the command, which must succeed; gives what it prints."""
    monkeypatch.setenv(METHODS, "")  # undone afterwards, whatever --methods adds
    monkeypatch.setattr(provenance, "code", lambda: {"commit": "c", "dirty": False})  # else no report of an edited checkout

    def run(*arguments: object) -> str:
        code, output, error = command(*arguments)
        assert code == 0, error
        return output

    return run


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository with the method `mine`, which ECGSSL_METHODS names."""
    folder = tmp_path / "outside"
    folder.mkdir()
    catalogue.write_new("mine", folder)
    monkeypatch.setenv(METHODS, str(folder))
    return folder


@pytest.mark.parametrize("name", SHARED_METHODS)
def test_a_methods_yaml_says_what_it_is(name: str) -> None:
    header = catalogue.read_header(find_methods()[name])
    assert list(header) == list(catalogue.HEADER) and all(header.values())
    assert header["family"] in ("joint-embedding predictive", "invariance-based", "generative", "none")


def test_at_80_columns_every_column_of_the_list_and_every_setting_of_a_method_can_be_read(ecgssl, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(catalogue, "count_gflop", lambda config: 2.0 if config.method.name == "jepa" else 3.0)
    lines = ecgssl("methods").splitlines()
    assert lines[0].split() == ["method", "what", "it", "does", "source", "weights", "cost"]
    rows = {line.split()[0]: line for line in lines if re.search(r"\d M +\d\.\d\d$", line.rstrip())}
    assert sorted(rows) == SHARED_METHODS
    assert rows["jepa"].rstrip().endswith("4.5 M  1.00") and rows["mae"].rstrip().endswith("6.9 M  1.50")
    settings = ecgssl("methods", "show", "dino", "--set", "optim.lr=0.5").splitlines()
    values = {line.split()[0]: line.split()[1:] for line in settings if line[:1].strip()}
    assert values["optim.lr"] == ["0.5", "--set"]
    assert values["method.student_temperature"] == ["0.1", "methods/dino.yaml"]
    assert values["optim.clip"] == ["0.0", "bench/runs/base.yaml"]
    assert max(map(len, lines + settings)) <= 80 and not any("…" in line for line in lines + settings)


def test_the_operations_of_a_step_are_those_counted_by_hand() -> None:
    assert catalogue.count_gflop(configs.load("jepa", ["method.keep=[0.2, 0.2]"])) == pytest.approx(4.06, rel=0.02)
    assert catalogue.count_gflop(configs.load("random")) == 0.0


def test_a_default_of_the_constructor_is_a_setting(outside: Path) -> None:
    path = outside / "mine.py"
    path.write_text(path.read_text().replace("noise: float)", "noise: float, depth: int = 3)"))
    assert catalogue.Setting("method.depth", 3, str(path)) in list(catalogue.list_settings("mine", []))


@pytest.mark.parametrize(("name", "words"), [
    ("../x", "must be lower-case letters"), ("jepa", r"method 'jepa' exists already: .*jepa\.yaml")])
def test_a_new_method_needs_a_new_name(outside: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        catalogue.write_new(name, outside)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "mine.py").unlink(), r"mine\.yaml has no mine\.py beside it"),
    (lambda folder: (folder / "mine.py").write_text("x = 1"), "exactly one Method subclass, it defines 0"),
    (lambda folder: shutil.copy(ROOT / "methods" / "mae.yaml", folder),
     r"two methods are called 'mae': .*methods/mae\.yaml and .*outside/mae\.yaml"),
])
def test_what_is_wrong_with_an_outside_method_is_said(outside: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(outside)
    with pytest.raises(UserError, match=words):
        build_model(configs.load("mine"))


def code_blocks(text: str) -> dict[str, list[str]]:
    """The fenced blocks of a Markdown text, by language."""
    blocks: dict[str, list[str]] = {}
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        blocks.setdefault(language, []).append(body)
    return blocks


def test_the_tutorial_shows_the_files_that_the_command_writes_and_they_claim_no_source(tmp_path: Path) -> None:
    py, text = catalogue.write_new("denoise", tmp_path)
    blocks = code_blocks(TUTORIAL.read_text())
    assert blocks["python"][0] == py.read_text()
    assert blocks["yaml"][0] == text.read_text()
    assert not re.search(r"et al|arXiv|doi", py.read_text() + text.read_text())
    assert catalogue.read_header(text)["source"] == "name your paper here"


def test_the_tutorials_commands_lead_to_a_row_of_the_table(ecgssl, stores, fast, tmp_path, monkeypatch) -> None:
    """On a small store, with small settings; every command of the tutorial, in its order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "count_gflop", lambda config: 1.0)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "stores").symlink_to(stores)
    small = {"pretrain": ["data.rate_hz=100", "encoder.size=16x2x2", "encoder.patch=10", "optim.steps=4", "optim.batch=4",
                          "optim.warmup_steps=0"],
             "evaluate": ["evaluation.steps=4", "evaluation.validate_every=2", "evaluation.patience=4",
                          "evaluation.batch=8"]}
    output, commands = "", []
    for line in "".join(code_blocks(TUTORIAL.read_text())["console"]).splitlines():
        command = line.split("#")[0].split()
        if not command or command.pop(0) != "ecgssl":
            continue
        if run := re.search(r"run ([0-9a-f]{12})", output):
            command = [word.replace("RUN_ID", run[1]) for word in command]
        command = [{"ptb-xl": "tiny", "superdiagnostic": "pitch"}.get(word, word) for word in command]
        command += [part for item in small.get(command[0], []) for part in ("--set", item)]
        output = ecgssl(*command)
        commands.append(command[0])
    assert {"methods", "pretrain", "evaluate", "report"} <= set(commands)
    assert re.search(r"denoise.*\d\.\d\d\d", (tmp_path / "report" / "table.md").read_text())


@pytest.mark.slow
def test_the_tutorials_test_command_holds_for_an_outside_method_even_if_its_loss_lies_near_0(outside: Path) -> None:
    path = outside / "mine.py"
    path.write_text(path.read_text().replace(".square().mean()\n", ".square().mean() - 1\n"))
    [command] = re.findall(r"^ECGSSL_METHODS=my-methods python -m pytest (.*)$", TUTORIAL.read_text(), re.M)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *command.replace("denoise", "mine").split()], cwd=ROOT,
                          env={**os.environ, METHODS: str(outside)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 12
