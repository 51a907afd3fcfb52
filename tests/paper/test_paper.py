"""The paper's numbers, tables and figures are functions of records, and none is typed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import reported
from results_fixture import Runs, two_methods

from bench.core.errors import UserError
from bench.runs.config import ROOT
from paper import macros

TEX = macros.TEX.read_text()
BODY = TEX.partition(r"\begin{document}")[2]
LATEX = shutil.which("latexmk") and shutil.which("kpsewhich")
# Arguments that hold names and lengths instead of text.
NAMES = re.compile(r"\\(?:cite|ref|label|tableref|tablefromresults|bibliography\w*)\{[^}]*\}"
                   r"|\\figurefromresults(?:\[[^]]*\])?\{[^}]*\}")
TYPED = re.compile(r"\d*\.\d+|\d{3,}|\d{1,3}(?:,|\{,\})\d{3}")  # a decimal, or an integer of three digits or more


@pytest.fixture
def runs() -> Runs:
    return Runs()


def numbers(runs: Runs) -> dict[str, str]:
    return macros.numbers(runs.report() if runs.made else None)


def typed(tex: str) -> list[str]:
    """The numbers in a text that macros ought to stand for."""
    return TYPED.findall(NAMES.sub("", re.sub(r"(?<!\\)%.*", "", tex)))


def test_the_paper_types_no_number_that_a_macro_ought_to_hold() -> None:
    assert typed(BODY) == []
    for text in ("an AUROC of 0.945", "of .938", "1,011,849 records", "100000 steps", r"100{,}000"):
        assert typed(f"{text} \\cite{{he2022}}") != []


def test_citations_and_macros_of_the_paper_exist_and_no_macro_swallows_the_space_after_it(runs: Runs) -> None:
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", BODY) for key in keys.split(",")}
    assert cited == set(re.findall(r"^@\w+\{(\w+),", (ROOT / "paper" / "references.bib").read_text(), re.MULTILINE))
    assert set(macros.used(BODY)) <= numbers(runs).keys()
    assert re.findall(r"\\[A-Z][A-Za-z]*\s", BODY) == []


def test_macros_hold_what_the_records_say_and_a_number_without_a_record_is_missing(runs: Runs) -> None:
    found = numbers(two_methods(runs))
    expected = {"AucJepaLinearSuperdiagnostic": "0.700", "AucJepaLinearSuperdiagnosticSd": "0.141",
                "AucJepaLinearSuperdiagnosticLow": "0.605", "AucJepaLinearSuperdiagnosticHigh": "0.795",
                "AucJepaLinearSuperdiagnosticRuns": "2", "GainJepaLinearSuperdiagnostic": "$+0.500$",
                "AucRandomLinearSuperdiagnostic": "0.200", "BestLinearSuperdiagnostic": "jepa",
                "AucBestLinearSuperdiagnostic": "0.700", "RunsJepa": "2", "SecondsJepa": "2", "ResultsPretrain": "3",
                "AucMaeLinearAll": macros.MISSING, "AucRandomLinearSuperdiagnosticSd": macros.MISSING}
    assert {key: found[key] for key in expected} == expected


def test_settings_and_published_numbers_need_no_record(runs: Runs) -> None:
    found = numbers(runs)
    expected = {"SettingJepaMomentumOne": "0.9995", "SettingOptimFinalLr": "$10^{-6}$", "SettingOptimSteps": "100,000",
                "PublishedJepaSAllFinetuneAfterLinearAll": "0.945", "CorpusRecords": "1,011,849", "Methods": "15"}
    assert {key: found[key] for key in expected} == expected


def test_the_comparison_is_of_whole_runs_of_the_budget_that_most_methods_share(runs: Runs) -> None:
    for method, steps, auroc in (("random", 0, 0.5), ("jepa", 9, 0.9), ("jepa", 4, 0.6), ("mae", 4, 0.7)):
        run = runs.pretrain(method, steps=steps)
        runs.evaluate(run, [0.1, 0.2], auroc=auroc)
        for share in ({"at": 0.5}, {"fraction": 0.1}, {"shuffle_labels": 1}) if steps else ():
            runs.evaluate(run, [0.1, 0.2], auroc=0.1, **share)
    found = numbers(runs)
    assert (found["ComparisonSteps"], found["ComparisonMethods"]) == ("4", "2")
    assert (found["AucJepaLinearSuperdiagnostic"], found["AucRandomLinearSuperdiagnostic"]) == ("0.600", "0.500")
    runs.evaluate(run, [0.1, 0.2], auroc=0.9, steps=3)
    assert numbers(runs)["AucMaeLinearSuperdiagnostic"] == macros.MISSING  # two recipes of one name


def test_two_methods_whose_names_become_one_are_refused(runs: Runs) -> None:
    for method, auroc in (("data2vec", 0.6), ("data-two-vec", 0.7)):
        runs.evaluate(runs.pretrain(method), [0.1], auroc=auroc)
    with pytest.raises(UserError, match=r"two numbers are called \\\w*DataTwoVec"):
        numbers(runs)


def test_differences_that_can_be_tested_are_counted(runs: Runs) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 50)
    for method, auroc in (("random", 0.5), ("jepa", 0.6), ("mae", 0.4), ("simclr", 0.8)):
        for seed, offset in enumerate((-0.001, 0.0, 0.001)):
            replicates = (auroc + noise + rng.normal(0, 0.001, 50)).tolist()
            runs.evaluate(runs.pretrain(method, seed), replicates, seed, auroc=auroc + offset)
    found = numbers(runs)
    counts = {"Compared": "3", "Above": "2", "Below": "1", "AheadOfJepa": "1", "BehindJepa": "1"}
    assert {key: found[f"{key}LinearSuperdiagnostic"] for key in counts} == counts


def test_a_name_of_the_users_is_text_in_latex(runs: Runs) -> None:
    runs.evaluate(runs.pretrain("jepa"), [0.1], data={"store": "a_b&c%", "fingerprint": "f"})
    assert numbers(runs)["ComparisonStore"] == r"a\_\allowbreak{}b\&c\%"


def test_macros_tex_defines_each_macro_of_the_paper_once_and_missing(runs: Runs, tmp_path: Path) -> None:
    for report in (None, two_methods(runs).report()):
        [path] = macros.write(report, tmp_path)
        defined = re.findall(r"^\\newcommand\{\\([A-Za-z]+)\}", path.read_text(), re.MULTILINE)
        assert defined == ["missing", *macros.used(BODY)]


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """make with this Python's environment, which it must not install."""
    venv = Path(sys.prefix)
    command = [str(shutil.which("make")), f"VENV={venv}", "-o", f"{venv}/.installed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None if path is None else {"PATH": path})


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_without_latex_make_paper_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = make("-s", "paper", f"GENERATED={tmp_path}", f"RESULTS={tmp_path}", path=str(tmp_path))
    [said] = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert done.returncode == 2 and "apt-get install --no-install-recommends latexmk" in said


@pytest.mark.slow  # latexmk
@pytest.mark.skipif(not LATEX, reason="no LaTeX: latexmk is not installed")
@pytest.mark.parametrize("some", [False, True], ids=["no records", "some records"])
def test_the_paper_builds_and_nothing_runs_over_the_margin(runs: Runs, tmp_path: Path, some: bool) -> None:
    if some:
        reported(two_methods(runs).write(tmp_path / "results"), tmp_path / "generated")
    done = make("paper", f"RESULTS={tmp_path / 'results'}", f"GENERATED={tmp_path / 'generated'}", f"BUILD={tmp_path / 'build'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "paper.pdf").read_bytes().startswith(b"%PDF")
    log = (tmp_path / "build" / "paper.log").read_text(errors="replace")
    assert re.findall(r"Overfull \\hbox.*|LaTeX Warning.*|Package \w+ Warning.*", log) == []
