"""The README's section of results is what the records say, and nothing else of the README changes."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_report import Runs

from bench.config import ROOT
from bench.errors import UserError
from paper import readme


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods beside random, two tasks, two protocols; of one a checkpoint on the way, a share of the labels, a control."""
    runs = Runs()
    for method, auroc in (("random", 0.5), ("jepa", 0.7), ("mae", 0.6)):
        for seed in (0, 1):
            run = runs.pretrain(method, seed)
            for task, plus in (("superdiagnostic", 0.0), ("rhythm", 0.1)):
                for protocol in ("linear", "scratch" if method == "random" else "finetune"):
                    value = auroc + plus + 0.01 * seed
                    runs.evaluate(run, [value, value + 0.02], protocol=protocol, auroc=value, task=task)
            if method == "jepa":
                for key, other in (("at", 0.5), ("fraction", 0.1), ("shuffle_labels", 1)):
                    runs.evaluate(run, [0.1, 0.2], auroc=0.1)["config"][key] = other
    return runs.write(tmp_path / "results")


def lines(text: str, method: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {method}")]


def test_the_section_holds_all_frozen_tasks_and_one_of_finetuning(study: Path) -> None:
    text = readme.section(study, "figure.svg")
    head = ["pre-training", "rhythm", "superdiagnostic", "superdiagnostic, finetune", "rank, linear"]
    assert lines(text, "pre-training") == [head]
    assert lines(text, "jepa")[0][1:] == [
        "**0.805 (0.007)**<sup>*</sup>", "**0.705 (0.007)**<sup>*</sup>", "**0.705 (0.007)**<sup>*</sup>", "1.0"]
    assert lines(text, "random / from scratch")[0][3].startswith("0.505")
    assert "](figure.svg)" in text


def test_the_rest_of_the_readme_stays(study: Path, tmp_path: Path) -> None:
    page, figure = tmp_path / "README.md", tmp_path / "drawn" / "figure.svg"
    figure.parent.mkdir()
    page.write_text(f"# Title\n\n{readme.BEGIN}\nwas here\n{readme.END}\n\nThe rest.\n")
    with pytest.raises(UserError, match=r"figure\.svg is missing"):
        readme.write(study, figure, page)
    figure.touch()
    with pytest.raises(UserError, match="must hold the lines"):
        readme.write(study, figure, ROOT / "CITATION.cff")
    readme.write(study, figure, page)
    once = page.read_text()
    assert once.startswith(f"# Title\n\n{readme.BEGIN}\n\n")
    assert once.endswith(f"](drawn/figure.svg)\n\n{readme.END}\n\nThe rest.\n")
    assert "was here" not in once
    readme.write(study, figure, page)
    assert page.read_text() == once


@pytest.mark.parametrize("text", ["none", f"{readme.END} {readme.BEGIN}", f"{readme.BEGIN} {readme.BEGIN} {readme.END}"])
def test_a_readme_without_its_marks_is_left_alone(study: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "figure.svg").touch()
    with pytest.raises(UserError, match="must hold the lines"):
        readme.write(study, tmp_path / "figure.svg", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == text


def test_without_a_trained_backbone_there_is_nothing_to_show(tmp_path: Path) -> None:
    runs = Runs()
    runs.evaluate(runs.pretrain("random"), [0.5, 0.6])
    with pytest.raises(UserError, match="nothing to show"):
        readme.section(runs.write(tmp_path / "results"), "figure.svg")


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["no", "such", "files"]])
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "paper.readme", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), done.stderr.startswith("paper.readme: ")) == (2, 1, True)


@pytest.mark.slow  # compares all methods with all
@pytest.mark.skipif("| random" not in (ROOT / "README.md").read_text(), reason="README shows no results")
def test_the_readme_says_what_the_committed_records_say() -> None:
    figure = "paper/generated/mini/figures/auroc.svg"
    assert (ROOT / figure).is_file()
    assert readme.section(ROOT / "results" / "mini", figure) in (ROOT / "README.md").read_text(), "make readme"
