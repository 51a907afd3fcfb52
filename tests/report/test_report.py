"""Rows, columns and cells are a function of results."""

import csv
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import reported
from results_fixture import Record, Runs, two_methods

from bench.core.errors import UserError
from bench.evaluation.protocols import load_defaults
from bench.plot.style import save
from bench.report.aggregate import Cell, Report
from bench.report.checks import footnotes
from bench.report.frame import load_results_frame
from bench.report.results import load_results
from bench.report.statistics import compare, holm
from paper import figures, tables
from paper.columns import rankings
from paper.commands import commands_of
from paper.families import families
from paper.labels import label, row_label, store_label


@pytest.fixture
def runs() -> Runs:
    return Runs()


def cells_of(report: Report, method: str) -> list[Cell]:
    return [cell for cell in report.cells.values() if cell.row.method == method]


def test_a_run_is_a_pretraining_however_many_evaluations_it_has(runs: Runs) -> None:
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2], auroc=0.2)
    first, second = runs.pretrain("jepa", 0), runs.pretrain("jepa", 1)
    for seed, auroc in enumerate((0.5, 0.6, 0.7)):
        runs.evaluate(first, [0.4, 0.6], seed, auroc=auroc)
    runs.evaluate(second, [0.8, 0.8], auroc=0.8)
    [jepa] = cells_of(runs.report(), "jepa")
    assert sorted(jepa.values) == pytest.approx([0.6, 0.8])
    assert jepa.difference is not None and jepa.difference[0] == pytest.approx(0.5)


def test_mean_sd_n_interval_and_difference_are_those_computed_by_hand(runs: Runs) -> None:
    report = two_methods(runs).report()
    # replicates of the mean of the two runs: .6, .7, .8; of their differences to random: .5, .5, .5
    assert [tables.cell_texts(cell) for cell in report.columns[0].cells] == [
        ("0.200 (--), n=1 [0.105, 0.295]", "reference"),
        ("0.700 (0.141), n=2 [0.605, 0.795]", "+0.500 [+0.500, +0.500]")]
    jepa = list(csv.DictReader(tables.table(report).splitlines()))[1]
    expected = {"mean": 0.7, "sd": 0.2 / 2**0.5, "n": 2, "lower": 0.605, "upper": 0.795, "vs_random_lower": 0.5}
    assert {key: float(jepa[key]) for key in expected} == pytest.approx(expected)


def test_same_results_give_the_same_bytes_in_whatever_order_their_files_were_written(
        runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda figure, path: save(figure, path, ("svg",)))
    for share in ({"at": 0.5}, {"fraction": 0.5}):
        runs.evaluate(runs.pretrain("jepa"), [0.3, 0.4, 0.5], **share)
    two_methods(runs)
    written = []
    for name, order in (("first", 1), ("second", 2)):
        random.Random(order).shuffle(runs.made)
        (tmp_path / name).mkdir()
        paths = reported(runs.write(tmp_path / name / "results"), tmp_path / name / "out")
        written.append({path.relative_to(tmp_path / name / "out").as_posix(): path.read_bytes() for path in paths})
    assert written[0] == written[1]
    assert written[0].keys() >= {
        "table.md", "per_class.md", "table.csv", "per_class.csv", "scores.csv", "pairs.csv", "macros.tex",
        *(f"tables/families.{kind}" for kind in ("md", "csv", "tex", "html")),
        *(f"figures/{kind}.svg" for kind in ("auroc", "labels", "along", "cost", "classes-a-superdiagnostic", "pretraining"))}


def test_seeds_share_a_row_and_other_settings_part_rows_and_columns_with_a_label(runs: Runs) -> None:
    for steps, seed in itertools.product((1000, 900), (0, 1)):
        run = runs.pretrain("jepa", seed, steps=steps)
        for protocol, settings in (("finetune", {}), ("linear", {"steps": 20}), ("linear", {"steps": 3})):
            runs.evaluate(run, [0.1, 0.2], protocol=protocol, **settings)
    columns = runs.report().columns
    names = [label(column.name) for column in columns]
    assert names == ["linear (evaluation.steps=3)", "linear (evaluation.steps=20)", "finetune"]
    assert [(row_label(c.row), len(c.values)) for c in columns[0].cells] == [
        ("random / from scratch", 0), ("jepa (optim.steps=900)", 2), ("jepa (optim.steps=1000)", 2)]


def test_difference_is_to_the_random_backbone_of_the_same_encoder(runs: Runs) -> None:
    for size, auroc in (("tiny", 0.25), ("xs", 0.5)):
        for method, gain in (("random", 0.0), ("jepa", 0.125)):
            runs.evaluate(runs.pretrain(method, size=size), [auroc + gain], auroc=auroc + gain)
    runs.evaluate(runs.pretrain("jepa", size="s"), [0.9], auroc=0.9)
    lines = {line["row"]: line["vs_random"] for line in csv.DictReader(tables.table(runs.report()).splitlines())}
    assert {row: lines[row] for row in lines if row.startswith("jepa")} == {
        "jepa (encoder.size=s)": "--", "jepa (encoder.size=tiny)": "0.125", "jepa (encoder.size=xs)": "0.125"}
    assert "random / from scratch (encoder.size=s)" in lines


def test_a_method_and_its_twin_are_one_row_in_which_no_run_counts_twice(runs: Runs) -> None:
    for method, seeds in (("mae", (0, 1)), ("mtae", (1, 2))):
        for seed in seeds:
            run = runs.pretrain(method, seed)
            runs.evaluate(run, [0.5, 0.6], auroc=0.5 + seed / 10)
            if method == "mtae":
                runs.evaluate(run, [0.5, 0.6], auroc=0.9, task="form")
    alone = runs.pretrain("mtae", steps=9)  # other settings: mae has no such run
    report = runs.report()
    assert [row_label(row) for row in report.rows] == ["random / from scratch", "mae", "mtae"]
    form, main = sorted(cells_of(report, "mae"), key=lambda cell: cell.column.task)
    assert sorted(main.values) == pytest.approx([0.5, 0.6, 0.7])
    assert form.values == pytest.approx([0.9, 0.9])  # seed 1 stands in for mae's, which was not evaluated on it
    assert [run for _, run in report.rows[2].pretrained] == [alone["run_id"]]
    assert any("mtae computes the same as mae" in note for note in tables.notes_of(report))
    [table, *_] = [table for table in families(report).tables if "4 steps" in table.title]
    assert "mtae computes the same as mae" in table.notes["="]


def test_controls_are_left_out_unless_asked_for_and_then_stand_apart_after_all_others(runs: Runs, tmp_path: Path) -> None:
    for method in ("random", "mae"):
        for seed in (0, 1):
            run = runs.pretrain(method, seed)
            for order, value in ((0, 0.5 + seed / 10), (1, 0.4), (2, 0.8)):
                runs.evaluate(run, [value, value + seed / 50], seed, auroc=value, shuffle_labels=order, task="z")
    runs.evaluate(runs.pretrain("mae"), [0.5, 0.6], data={"store": "z", "fingerprint": "z"})
    report = runs.report()
    assert [store_label(column.key) for column in report.columns] == ["a", "z", "a, labels shuffled"]
    own, control = cells_of(report, "mae")[0], cells_of(report, "mae")[-1]
    assert control.values == pytest.approx([0.6, 0.6])  # of two pre-trainings, each the mean over the orders
    assert own.comparison is not None and own.p_holm == own.comparison.p  # corrected for its own table alone
    folder = runs.write(tmp_path / "results")
    assert len(load_results_frame(folder)) == 5 and set(load_results_frame(folder).shuffle_labels) == {0}
    assert sorted(set(load_results_frame(folder, controls=True).shuffle_labels)) == [0, 1, 2]


def test_rows_with_runs_in_every_task_are_ranked_and_a_share_of_the_labels_is_no_task_more(runs: Runs) -> None:
    for i, method in enumerate(("random", "jepa", "mae", "simclr")):
        run = runs.pretrain(method)
        for task in ("form", "rhythm")[: 1 if method == "simclr" else 2]:
            runs.evaluate(run, [0.1], task=task, auroc=0.5 + 0.1 * i)
        runs.evaluate(run, [0.1], task="form", auroc=0.9 - 0.1 * i, fraction=0.1)
    [(name, ranking)] = rankings(runs.report()).items()
    assert name == "linear on a"
    assert (ranking.methods, ranking.ranks) == (("mae", "jepa", "random / from scratch"), (1, 2, 3))


def test_what_fills_the_random_rows_of_fine_tuning_is_scratch_or_nothing(runs: Runs) -> None:
    untrained = runs.pretrain("random")
    for protocol in ("finetune", "finetune-after-linear"):
        runs.evaluate(runs.pretrain("jepa"), [0.2], protocol=protocol, at=0.5)
    commands = {cell.column.protocol: commands_of(cell) for cell in cells_of(runs.report(), "random")}
    assert commands["finetune-after-linear"] == [] and len(commands["finetune"]) == 1
    assert f"ecgssl evaluate {untrained['run_id']} --protocol scratch " in commands["finetune"][0]


def test_a_command_has_the_seeds_of_the_rows_beside_it_but_from_scratch_and_sets_what_is_no_default_alone(runs: Runs) -> None:
    default = load_defaults("finetune").value["evaluation"]
    settings = {"batch": default["batch"], "clip": default["clip"] + 1}
    untrained, jepa, mae = (runs.pretrain(method) for method in ("random", "jepa", "mae"))
    for seed in (0, 1, 2):
        runs.evaluate(untrained, [0.1], seed, protocol="scratch", **settings)
    runs.evaluate(jepa, [0.2], protocol="finetune", **settings)
    [command] = commands_of(cells_of(runs.report(), "mae")[0])
    assert re.findall(r"ecgssl evaluate (\w+) .*?--seed (\d)", command) == [(mae["run_id"], "0")]
    assert re.findall(r"--set (\S+)", command) == [f"evaluation.clip={default['clip'] + 1}"]


def test_a_folder_of_other_versions_alone_is_said_to_hold_no_result_of_this_one(runs: Runs, tmp_path: Path) -> None:
    runs.pretrain("mae")["config"]["optim"]["unknown"] = 1
    with pytest.raises(UserError, match=r"holds no result of this version; .*unknown key 'optim\.unknown'"):
        load_results(runs.write(tmp_path / "results"))


def test_the_command_reports_what_it_can_and_exits_with_1_where_it_skipped_a_file(
        runs: Runs, tmp_path: Path, fast: None, command: Callable[..., tuple[int, str, str]]) -> None:
    folder, out = two_methods(runs).write(tmp_path / "results"), tmp_path / "out"
    assert command("report", "--results", folder, "--out", out, "--csv", tmp_path / "frame.csv")[0] == 0
    lines = list(csv.DictReader((tmp_path / "frame.csv").read_text().splitlines()))
    assert sorted(line["score"] for line in lines) == ["0.2", "0.6", "0.8"]
    before = (out / "table.md").read_bytes()
    (folder / "0123456789ab.json").write_text('{"schema": 1')
    code, _, said = command("report", "--results", folder, "--out", out)
    assert code == 1 and str(folder / "0123456789ab.json") in said
    assert (out / "table.md").read_bytes() == before
    with pytest.raises(UserError, match="holds no .*ecgssl pretrain"):
        load_results(out)


@pytest.mark.parametrize(("what", "part", "values"), [
    ("fingerprint", "config", [{}, {"data": {"store": "a", "fingerprint": "another"}}]),
    ("protocol", "config", [{}, {"protocol": 3}]), ("uncommitted", "provenance", [{"dirty": True}] * 2),
    ("different code", "provenance", [{"source": "hash1"}, {"source": "hash2"}])])
def test_results_of_other_data_rules_or_code_share_a_report_only_where_that_is_allowed(
        runs: Runs, tmp_path: Path, what: str, part: str, values: list[Record], fast: None,
        command: Callable[..., tuple[int, str, str]]) -> None:
    run = runs.pretrain("jepa")
    both = [runs.evaluate(run, [0.1], seed=seed) for seed in (0, 1)]
    for each, changed in zip(both, values, strict=True):
        each[part] |= changed
    folder, out = runs.write(tmp_path / "results"), tmp_path / "out"
    code, _, said = command("report", "--results", folder, "--out", out)
    assert code == 2 and not out.exists()
    assert command("report", "--results", folder, "--out", out, "--allow")[0] == 0
    for text in (said, (out / "table.md").read_text().splitlines()[-1]):
        assert what in text and {each["run_id"] for each in both} <= set(re.findall(r"[0-9a-f]{12}", text))


def test_stores_of_different_names_and_methods_of_different_code_may_meet(runs: Runs) -> None:
    run = runs.pretrain("jepa", source="one")
    runs.pretrain("mae", source="another")
    runs.evaluate(run, [0.1])
    runs.evaluate(run, [0.1], data={"store": "c", "fingerprint": "fc"})
    assert footnotes(runs.results()) == []
    runs.evaluate(run, [0.1], task="form", data={"store": "b", "fingerprint": "not what the pre-training read"})
    [note] = footnotes(runs.results())
    assert note.startswith("Results differ in the fingerprint of b:")


def test_differences_of_two_or_more_runs_count_the_runs_and_are_corrected_for_their_table(runs: Runs) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 50)
    for method, auroc in (("random", 0.5), ("jepa", 0.52), ("mae", 0.6)):
        for seed, offset in enumerate((-0.01, 0.0, 0.01)):
            replicates = (auroc + offset + noise + rng.normal(0, 0.005, 50)).tolist()
            runs.evaluate(runs.pretrain(method, seed), replicates, seed, auroc=auroc + offset)
    report = runs.report()
    cells = {cell.row.method: cell for cell in report.cells.values()}
    expected = {method: compare(cells[method].runs, cells["random"].runs) for method in ("jepa", "mae")}
    assert {method: cells[method].comparison for method in expected} == expected
    assert [cells[m].p_holm for m in expected] == holm([c.p for c in expected.values()])
    assert cells["random"].comparison is None
    assert tables.cell_texts(cells["jepa"])[1].endswith(f"], p={expected['jepa'].p:.2g}")  # the larger of two
    pairs = list(csv.DictReader(b"".join(tables.pairs(report)).decode().splitlines()))
    names = {row_label(cell.row): cell for cell in cells.values()}
    all_p = [compare(names[p["row"]].runs, names[p["other"]].runs).p for p in pairs]
    assert len(pairs) == 3 and [float(p["p"]) for p in pairs] == all_p
    assert [float(p["p_holm"]) for p in pairs] == holm(all_p)


def test_strodthoffs_rule_gives_the_5_and_95_percentiles_of_100_resamples(runs: Runs) -> None:
    values = np.random.default_rng(0).random(1000)
    runs.evaluate(runs.pretrain("random"), values.tolist())
    report = runs.report("strodthoff")
    [cell] = report.cells.values()
    assert cell.interval == tuple(np.percentile(values[:100], [5, 95]))
    assert "[5.0, 95.0] percentiles" in tables.markdown(report, [])
    with pytest.raises(UserError, match="unknown rule of intervals 'theirs'"):
        runs.report("theirs")


def test_the_frame_has_every_setting_that_varies_as_a_column_of_its_own(runs: Runs, tmp_path: Path) -> None:
    for lr, seconds in ((1e-3, 2.5), (1e-4, 5.0)):
        run = runs.pretrain("jepa")
        run["config"]["optim"]["lr"], run["config"]["views"][0]["seconds"] = lr, seconds
        run["config"]["method"]["block"] = 7
        runs.evaluate(run, [0.1], clip=lr, auroc=seconds / 10)
    two_methods(runs)
    folder = runs.write(tmp_path / "results")
    (folder / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"skipped: .*notes\.txt"):
        frame = load_results_frame(folder).sort_values("score")
    assert frame["pretrain.optim.lr"].tolist()[1:3] == [1e-3, 1e-4]
    assert frame["pretrain.views.0.seconds"].tolist()[1:3] == [2.5, 5.0]
    assert frame["evaluation.clip"].tolist()[1:3] == [1e-3, 1e-4]
    assert {"pretrain.method.block"} <= set(frame.columns) and "pretrain.optim.eps" not in frame.columns
    assert frame.groupby("recipe").method.nunique().max() == 1 and frame.recipe.nunique() == 4
