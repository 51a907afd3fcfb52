"""`ecgssl methods`, and the seam through which a stranger adds one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import configs
import pytest
import yaml

from bench import catalogue
from bench.cli import main
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.method import build_model
from bench.runs import results as record
from bench.runs.config import METHODS, find_methods

TUTORIAL = ROOT / "docs" / "add-a-method.md"


@pytest.fixture
def ecgssl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the command; gives what it prints."""
    monkeypatch.setenv(METHODS, "")  # undone afterwards, whatever --methods adds
    monkeypatch.setattr(record, "code", lambda: {"commit": "c", "dirty": False})  # else no report of a checkout being worked on

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["ecgssl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert stop.value.code == code, said.err
        return said.err if code else said.out

    return run


@pytest.mark.parametrize("name", find_methods())
def test_a_method_s_yaml_says_what_it_is(name: str) -> None:
    head = catalogue.header(find_methods()[name])
    assert set(head) == set(catalogue.HEAD)
    assert all(head.values())
    assert head["family"] in ("joint-embedding predictive", "invariance-based", "generative", "none")


def test_the_list_has_every_method_with_its_cost(ecgssl: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rows = {cells[2].strip(): cells for line in ecgssl("methods").splitlines() if len(cells := line.split("│")) > 5}
    assert set(rows) >= set(find_methods())
    assert float(rows["jepa"][6]) == 1.0
    assert float(rows["random"][6]) == 0.0


def test_a_step_s_operations_are_those_of_the_known_size() -> None:
    made = configs.load("jepa", ["method.keep=[0.2, 0.2]"])
    assert catalogue.gflop(made) == pytest.approx(4.06, rel=0.02)  # counted by hand in benchmarks/jepa_step.py


def test_every_value_names_the_file_that_it_comes_from() -> None:
    found = {key: (value, origin) for key, value, origin in catalogue.origins("mae", ["optim.lr=0.5"])}
    assert found["optim.lr"] == (0.5, "--set")
    assert found["optim.betas"] == ([0.9, 0.95], "methods/mae.yaml")
    assert found["optim.clip"] == (0.0, "bench/runs/base.yaml")
    assert found["method.decoder.depth"] == (4, "methods/mae.yaml")


def test_a_default_of_the_constructor_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = catalogue.new("mine", tmp_path)
    path.write_text(path.read_text().replace("noise: float)", "noise: float, depth: int = 3)"))
    monkeypatch.setenv(METHODS, str(tmp_path))
    assert ("method.depth", 3, str(path)) in list(catalogue.origins("mine", []))


@pytest.mark.parametrize(("name", "words"), [
    ("Mine", "must be lower-case letters"), ("../x", "must be lower-case letters"), ("class", "must be lower-case"),
    ("jepa", r"method 'jepa' exists already: .*jepa\.yaml"),
])
def test_a_new_method_needs_a_new_name(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        catalogue.new(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_method_is_never_written_over(tmp_path: Path) -> None:
    catalogue.new("mine", tmp_path)
    with pytest.raises(UserError, match=r"method 'mine' exists already: .*mine\.py"):
        catalogue.new("mine", tmp_path)


def test_two_methods_of_one_name_are_an_error_that_names_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".py", ".yaml"):
        (tmp_path / f"mae{suffix}").write_text((ROOT / "methods" / f"mae{suffix}").read_text())
    monkeypatch.setenv(METHODS, str(tmp_path))
    with pytest.raises(UserError, match=rf"two methods are called 'mae': .*methods/mae\.yaml and {tmp_path}/mae\.yaml"):
        find_methods()


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "mine.py").unlink(), r"mine\.yaml has no mine\.py beside it"),
    (lambda folder: (folder / "mine.yaml").write_text("method: {name: other}"), "method.name is 'other', it must be 'mine'"),
    (lambda folder: (folder / "mine.py").write_text("x = 1"), "exactly one Method subclass, it defines 0"),
])
def test_what_is_wrong_with_a_method_of_a_stranger_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          spoil: Callable[[Path], Any], words: str) -> None:
    catalogue.new("mine", tmp_path)
    monkeypatch.setenv(METHODS, str(tmp_path))
    spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        build_model(configs.load("mine"))


def test_a_folder_of_methods_that_is_none_is_said(ecgssl: Callable[..., str], tmp_path: Path) -> None:
    assert "which is not a folder" in ecgssl("methods", "--methods", tmp_path / "none", code=2)


def blocks(text: str) -> dict[str, list[str]]:
    """The fenced blocks of a Markdown text, by language."""
    found: dict[str, list[str]] = {}
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        found.setdefault(language, []).append(body)
    return found


def test_the_tutorial_shows_the_files_that_the_command_writes(tmp_path: Path) -> None:
    py, text = catalogue.new("denoise", tmp_path)
    shown = blocks(TUTORIAL.read_text())
    assert shown["python"][0] == py.read_text()
    assert shown["yaml"][0] == text.read_text()


def test_the_tutorial_s_commands_lead_to_a_row_of_the_table(ecgssl: Callable[..., str], stores: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small store, with small settings; every command of the tutorial, in its order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "stores").symlink_to(stores)
    small = {"pretrain": ["data.rate_hz=100", "encoder.size=tiny", "encoder.patch=10", "optim.steps=4", "optim.batch=4",
                          "optim.warmup_steps=0"],
             "evaluate": ["evaluation.steps=4", "evaluation.validate_every=2", "evaluation.patience=4",
                          "evaluation.batch=8"]}
    said, ran = "", []
    for line in "".join(blocks(TUTORIAL.read_text())["console"]).splitlines():
        command = line.split("#")[0].split()
        if not command:
            continue
        assert command.pop(0) == "ecgssl", line
        if run := re.search(r"run ([0-9a-f]{12})", said):
            command = [word.replace("RUN_ID", run[1]) for word in command]
        command = [{"ptb-xl": "tiny", "superdiagnostic": "pitch"}.get(word, word) for word in command]
        for key, value in small.items():
            if command[0] == key:
                command += [part for item in value for part in ("--set", item)]
        said = ecgssl(*command)
        ran.append(command[0])
    assert {"methods", "pretrain", "evaluate", "report"} <= set(ran)
    assert re.search(r"denoise.*\d\.\d\d\d", (tmp_path / "report" / "table.md").read_text())


def test_a_new_method_passes_the_contract_tests(tmp_path: Path) -> None:
    catalogue.new("mine", tmp_path)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-k", "mine", "-p", "no:cacheprovider", "tests/methods/test_methods.py"],
                          cwd=ROOT, env={**os.environ, METHODS: str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 10


def test_the_template_is_what_its_yaml_says() -> None:
    assert yaml.safe_load(catalogue.YAML.replace("$name", "x"))["method"] == {"name": "x", "noise": 0.5}


def test_the_table_of_runs_shows_where_each_began_and_where_it_is(ecgssl: Callable[..., str], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "aaaaaaaaaaaa"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"method": {"name": "jepa"}, "seed": 3, "optim": {"steps": 20, "batch": 8}}')
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "rankme": 5.5, "feature_sd": 0.25}\n'
        '{"step": 1, "loss": 2.0, "records_per_second": 16.0, "memory_mb": 700.0}\n'
        '{"step": 2, "loss": 1.5, "records_per_second": 32.0, "memory_mb": 900.0}\n')
    monkeypatch.setenv("COLUMNS", "140")
    said = ecgssl("runs", "table", "aaaaaaaaaaaa", "--work", tmp_path)
    row = next(line for line in said.splitlines() if "aaaaaaaaaaaa" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "jepa", "3", "aaaaaaaaaaaa", "2 of 20", "2.0000 -> 1.5000", "0.250 -> 0.250", "5.5 -> 5.5", "0.33", "900 MB"]
