"""A study of settings is shown by its validation scores, each recipe by what it sets otherwise."""

from pathlib import Path

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
        ["as most", "0.500", "--", "1"],
        ["*mae*", "", "", ""],
        ["as most", "0.700", "0.141", "2"],
        ["optim.batch=8", "0.650", "--", "1"],
        ["optim.lr=2", "**0.900**", "--", "1"],
        ["views.seconds=1.0", "0.610", "--", "1"]]


def test_what_is_no_study_of_settings_is_refused(tmp_path: Path) -> None:
    runs = Runs()
    tried(runs, "mae", [0.6])
    runs.evaluate(runs.pretrain("mae", seed=1), [0.1, 0.2], task="rhythm")
    with pytest.raises(UserError, match="one protocol, task and metric, these records have .*rhythm"):
        tuning.section(runs.write(tmp_path / "results"))


@pytest.mark.parametrize("arguments", [[], ["no", "such"], [str(ROOT / "results" / "mini-tuning"), str(ROOT / "README.md")]])
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    with pytest.raises((UserError, OSError)) as caught:
        tuning.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not PAGE.is_file(), reason="no study of settings is here")
def test_the_page_of_settings_says_what_the_committed_records_say() -> None:
    assert tuning.section(PAGE.parent) in PAGE.read_text(), "make readme"
