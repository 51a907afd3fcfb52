"""A study of settings is shown by its validation scores, each recipe by what it sets otherwise."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_report import Runs

from bench.config import ROOT
from bench.errors import UserError
from paper import tuning

PAGE = ROOT / "results" / "mini-tuning" / "README.md"


def tried(runs: Runs, method: str, validation: list[float], **settings: object) -> None:
    """A pre-training with settings of its own, and a head for each of the validation scores."""
    run = runs.pretrain(method)
    for key, value in settings.items():
        section, _, name = key.partition("_")
        if name:
            run["config"][section][name] = value
        else:
            run["config"][section] = value
    for seed, score in enumerate(validation):
        runs.evaluate(run, [0.1, 0.2], seed=seed, auroc=1 - score)["result"]["validation_macro_auroc"] = score


def lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_each_recipe_stands_with_what_it_sets_otherwise_and_the_best_on_validation_is_bold(tmp_path: Path) -> None:
    runs = Runs()
    tried(runs, "random", [0.5])
    tried(runs, "mae", [0.6, 0.8], optim_lr=1)
    tried(runs, "mae", [0.9], optim_lr=2)
    tried(runs, "mae", [0.65], optim_lr=1, optim_batch=8)
    tried(runs, "mae", [0.61], optim_lr=1, views=[{"seconds": 1.0}, {"seconds": 1.0}])
    assert [line[:4] for line in lines(tuning.section(runs.write(tmp_path / "results")))[1:]] == [
        ["*random / from scratch*", "", "", ""],
        ["", "0.500", "--", "1 heads"],
        ["*mae*", "", "", ""],
        ["**optim.batch=2, optim.lr=1, views.seconds=2.5**", "0.700", "0.141", "2 heads"],
        ["optim.batch=8", "0.650", "--", "1 heads"],
        ["optim.lr=2", "**0.900**", "--", "1 heads"],
        ["views.seconds=1.0", "0.610", "--", "1 heads"]]


def test_the_sd_is_that_over_pretrainings_where_there_are_several(tmp_path: Path) -> None:
    runs = Runs()
    for seed, scores in enumerate(([0.5, 0.7], [0.6, 0.8])):
        tried(runs, "mae", scores, seed=seed)
    assert lines(tuning.section(runs.write(tmp_path / "results")))[-1][1:4] == ["0.650", "0.071", "2 runs"]


def test_where_every_recipe_varies_the_one_setting_none_is_the_one_that_others_vary(tmp_path: Path) -> None:
    runs = Runs()
    for rate in (3, 1, 2):
        tried(runs, "mae", [0.5 + rate / 10], optim_lr=rate)
    assert [line[:2] for line in lines(tuning.section(runs.write(tmp_path / "results")))[-3:]] == [
        ["optim.lr=1", "0.600"], ["optim.lr=2", "0.700"], ["optim.lr=3", "**0.800**"]]


def test_the_recipe_that_others_vary_is_one_that_ran() -> None:
    made = [{"lr": "1", "batch": "8"}, {"lr": "2", "batch": "4"}, {"lr": "1", "batch": "4"}]
    assert tuning.usual(made) == made[2]


@pytest.mark.parametrize("other", [{"task": "rhythm"}, {"seed": 5, "features": "cached"}])
def test_records_that_were_evaluated_in_several_ways_are_refused(other: dict[str, Any], tmp_path: Path) -> None:
    runs = Runs()
    tried(runs, "mae", [0.6])
    runs.evaluate(runs.made[0], [0.1, 0.2], **other)["result"]["validation_macro_auroc"] = 0.1
    with pytest.raises(UserError, match="evaluates in one way, these records in 2"):
        tuning.section(runs.write(tmp_path / "results"))


@pytest.mark.parametrize("arguments", [[], ["no", "such"]])
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "paper.tuning", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), done.stderr.startswith("paper.tuning: ")) == (2, 1, True)


def test_the_page_of_settings_says_what_the_committed_records_say() -> None:
    assert tuning.section(PAGE.parent) in PAGE.read_text(), "make readme"
