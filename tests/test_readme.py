"""The README's section of results is what the records say, and nothing else of the README changes."""

from pathlib import Path

import pytest
from test_report import Runs

from bench.config import ROOT
from bench.errors import UserError
from paper import readme


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods, two tasks, two protocols, a checkpoint on the way."""
    runs = Runs()
    for method, auroc in (("random", 0.5), ("jepa", 0.7), ("mae", 0.6)):
        for seed in (0, 1):
            run = runs.pretrain(method, seed)
            for task, plus in (("superdiagnostic", 0.0), ("rhythm", 0.1)):
                for protocol in ("linear", "scratch" if method == "random" else "finetune"):
                    value = auroc + plus + 0.01 * seed
                    runs.evaluate(run, [value, value + 0.02], protocol=protocol, auroc=value, task=task)
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
    page.write_text(f"# Title\n\n{readme.BEGIN}\nwas here\n{readme.END}\n\nThe rest.\n")
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
    with pytest.raises(UserError, match="must hold the lines"):
        readme.write(study, tmp_path / "figure.svg", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.slow  # compares all methods with all
@pytest.mark.skipif(not list((ROOT / "results" / "mini").glob("*.json")), reason="results/mini holds no record")
def test_the_readme_says_what_the_committed_records_say() -> None:
    figure = "paper/generated/mini/figures/auroc.svg"
    assert (ROOT / figure).is_file()
    assert readme.section(ROOT / "results" / "mini", figure) in (ROOT / "README.md").read_text(), "make readme"
