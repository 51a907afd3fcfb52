"""The page is a function of results: its files, its data, its commands."""

import contextlib
import itertools
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import configs
import numpy as np
import pytest
from page_folder import comparison, data, one_run, run_of, some_runs, write_pages, written
from results_fixture import Runs

from bench.core.errors import UserError
from bench.plot.style import save
from bench.report.aggregate import make_report
from bench.report.results import parse_results
from bench.report.statistics import compare
from bench.runs.config import run_id
from bench.runs.mixtures import load_mixture
from paper import figures, page, page_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of some_runs."""
    return write_pages(tmp_path_factory.mktemp("page"))


def test_same_results_give_the_same_page(tmp_path: Path, folder: Path) -> None:
    runs = some_runs()
    random.Random(1).shuffle(runs.made)
    first, second = ({p.relative_to(f / "data"): p.read_bytes() for p in f.glob("data/**/*.js")}
                     for f in (folder, written(runs, tmp_path / "html")))
    assert first == second


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../../x"])
def test_no_name_in_a_result_leads_a_file_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="would be a file outside"):
        page.path_in(tmp_path, f"{name}.js")
    runs, html = one_run(), tmp_path / "a" / "b" / "html"
    runs.made.pop(0)
    runs.made[0]["config"]["pretrain"] = name
    with contextlib.suppress(UserError):
        page.write(make_report(parse_results(runs.made)[0]), html)
    assert [path for path in tmp_path.rglob("*.*") if not path.is_relative_to(html)] == []
    assert not list(html.glob("data/board.js")) or data(html, "board")


def test_names_of_pictures_are_escaped_and_others_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name, problem in (("ecg.pdf", "must end in"), ("ecg.svg", "does not exist")):
        with pytest.raises(UserError, match=problem):
            written(one_run(), tmp_path / "html", pictures=[tmp_path / name])
    assert not (tmp_path / "html").exists()
    picture = tmp_path / '"><img src=x onerror=alert(1)>.svg'
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text = (written(one_run(), tmp_path / "html", pictures=[picture]) / "figures.html").read_text()
    assert "<img src=x" not in text and 'src="figures/picture-1.svg"' in text
    assert (tmp_path / "html" / "figures" / "picture-1.svg").is_file()


def test_nothing_is_asked_of_a_network_and_the_one_library_is_that_of_the_notice(folder: Path) -> None:
    texts = {p.name: p.read_text().replace("http://www.w3.org/2000/svg", "") for p in folder.rglob("*")  # a name, no address
             if p.suffix in (".html", ".js", ".css") and p.name != "chart.js"}
    assert [n for n, text in texts.items() if re.search(r"https?:|//[a-z]+\.[a-z]|\bfetch\(|XMLHttpRequest|@import", text)] == []
    library, notice = page.STATIC / "chart.js", (page.STATIC / "NOTICE.txt").read_text()
    version = re.search(r"Chart\.js v([\d.]+)", library.read_text()[:200])
    assert version and f"Chart.js {version[1]}" in notice and notice.count("MIT License (MIT)") == 2
    assert library.stat().st_size < 1_000_000


def test_board_holds_the_numbers_of_the_cells_and_each_column_a_row_that_learned_nothing(folder: Path) -> None:
    board, report = data(folder, "board"), some_runs().report()
    cells = [(i, cell) for i, column in enumerate(report.columns) for cell in column.cells]
    assert len(board["cells"]) == len(cells)
    for (i, cell), shown in zip(cells, board["cells"], strict=True):
        assert (shown["column"], board["rows"][shown["row"]]["method"]) == (i, cell.row.method)
        assert bool(cell.runs) == ("score" in shown) == (not shown["todo"])
        if cell.runs:
            assert shown["score"][0] == pytest.approx(np.mean(cell.values), rel=1e-5)
            assert shown["score"][2:] == pytest.approx(cell.interval, rel=1e-5)
            assert {run[0] for run in shown["runs"]} == {run.run_id for run in cell.runs}
    untrained = {i for i, row in enumerate(board["rows"]) if row["random"]}
    assert {cell["column"] for cell in board["cells"] if cell["row"] in untrained} == set(range(len(board["columns"])))


def test_comparison_is_that_of_the_statistics(folder: Path) -> None:
    [column] = [column for column in some_runs().report().columns
                if (column.key.task, column.key.protocol, column.key.control) == ("superdiagnostic", "linear", False)]
    runs = {cell.row.method: cell.runs for cell in column.cells}
    expected, (*numbers, p_holm) = compare(runs["jepa"], runs["mae"]), comparison(folder, "jepa", "mae")
    assert numbers == pytest.approx([expected.difference, expected.lower, expected.upper, expected.p], rel=1e-3)
    assert p_holm >= expected.p


@pytest.mark.parametrize(("method", "overrides"), [
    ("simclr", ["optim.lr=3e-4", "views=[{seconds: 5.0}, {seconds: 5.0}]"]), ("random", ["data.rate_hz=100"])])
def test_command_of_a_pretraining_makes_the_same_config(method: str, overrides: list[str]) -> None:
    config = configs.load(method, [*overrides, ("seed", 0 if method == "random" else 3), ("data.mix", {"a b": 0.75, "c": 0.25})])
    words = shlex.split(page_data.pretrain_command(config))
    given = {name: [after for word, after in itertools.pairwise(words) if word == name]
             for name in ("--store", "--seed", "--set")}
    assert words[:3] == ["ecgssl", "pretrain", method]
    mix = {store: float(weight) for store, _, weight in (each.rpartition("=") for each in given["--store"])}
    again = configs.load(method, [*given["--set"], ("seed", int(given["--seed"][0])), ("data.mix", mix)])
    assert run_id(again) == run_id(config)
    assert page_data.corpora(config) == ("none" if method == "random" else "0.75 a b + 0.25 c")
    known = configs.load(method, [("data.mix", load_mixture("all"))])
    assert "--mix all" in page_data.pretrain_command(known)


def test_data_of_one_name_that_differ_stand_apart_and_the_page_says_what_should_not_meet(tmp_path: Path) -> None:
    runs = Runs()
    for fingerprint, seed in itertools.product(("fx", "fa"), (0, 1)):
        trained = runs.pretrain("jepa", seed, dirty=True)
        trained["config"]["data"]["fingerprints"]["a"] = fingerprint
        runs.evaluate(trained, [0.5, 0.6], seed)["config"]["data"]["fingerprint"] = fingerprint
    board = data(written(runs, tmp_path), "board")
    for key, shown in (("name", board["columns"]), ("label", [row for row in board["rows"] if not row["random"]])):
        assert len({each[key] for each in shown}) == 2
    notes = " ".join(board["notes"])
    assert "fingerprint" in notes and run_of(board, "jepa") in notes


def test_evaluation_of_a_backbone_without_a_result_has_a_page(tmp_path: Path) -> None:
    runs = one_run()
    runs.results()  # the run_ids
    name, other = runs.made.pop(0)["run_id"], runs.made[0]["run_id"]
    run = data(written(runs, tmp_path), f"runs/{name}")
    assert "provenance" not in run and [each["id"] for each in run["evaluations"]] == [other]


def test_an_evaluation_costs_the_page_a_few_kilobytes(tmp_path: Path) -> None:
    """Replicates stay in the results: 10,000 evaluations must not make a page of gigabytes."""
    sizes = []
    for n in (2, 12):
        runs = Runs()
        trained = runs.pretrain("jepa")
        for seed in range(n):
            one = runs.evaluate(trained, np.random.default_rng(seed).random(1000).tolist(), seed)
            one["result"]["per_class"] = {f"class {i}": dict.fromkeys(page_data.PER_CLASS, 1 / (3 + i + seed)) for i in range(71)}
        sizes.append(sum(p.stat().st_size for p in written(runs, tmp_path / str(n)).rglob("*.js")))
    assert (sizes[1] - sizes[0]) / 10 < 5000


def test_runs_that_are_gone_leave_the_page(tmp_path: Path) -> None:
    runs = some_runs()
    before = set(written(runs, tmp_path).glob("data/runs/*.js"))
    gone = {each["run_id"] for each in runs.made if each["kind"] == "pretrain" and each["config"]["method"]["name"] == "jepa"}
    runs.made = [each for each in runs.made if not gone & {each["run_id"], each["config"].get("pretrain")}]
    after = set(written(runs, tmp_path).glob("data/runs/*.js"))
    assert {path.stem for path in before - after} == gone and after < before


def test_command_line_writes_the_page_with_the_figures(
        tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda figure, path: save(figure, path, ("svg",)))
    results, html = one_run().write(tmp_path / "results"), tmp_path / "html"
    code, printed, _ = command("report", "--results", results, "--out", tmp_path / "out", "--html", html)
    assert code == 0 and str(html / "index.html") in printed
    assert (html / "figures" / "auroc.svg").is_file()
