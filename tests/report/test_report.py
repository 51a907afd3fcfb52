"""Rows, columns and cells are a function of results."""

import csv
import hashlib
import itertools
import json
import random
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import reported
from results_fixture import Record, Runs, two_methods

from bench import cli
from bench.core.errors import UserError
from bench.evaluation.protocols import load_defaults
from bench.report.aggregate import Cell, Report
from bench.report.checks import footnotes
from bench.report.frame import frame_of, load_results_frame
from bench.report.results import OTHER_SCORES, load_results
from bench.report.statistics import compare, holm
from paper import tables
from paper.columns import rankings
from paper.commands import commands_of
from paper.families import families
from paper.labels import label, row_label, store_label


@pytest.fixture
def runs() -> Runs:
    return Runs()


def ecgssl(*arguments: object) -> int:
    """The command's exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["ecgssl", *map(str, arguments)])
        cli.main()
    return int(stopped.value.code or 0)


def table_lines(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(tables.table(report).splitlines()))


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
    jepa = next(line for line in table_lines(report) if line["method"] == "jepa")
    # replicates of the mean of the two runs: .6, .7, .8; of their differences to random: .5, .5, .5
    expected = {"mean": 0.7, "sd": 0.2 / 2**0.5, "n": 2, "lower": 0.605, "upper": 0.795, "vs_random": 0.5,
                "vs_random_lower": 0.5, "vs_random_upper": 0.5}
    assert {key: float(jepa[key]) for key in expected} == pytest.approx(expected)
    assert [tables.cell_texts(cell) for cell in report.columns[0].cells] == [
        ("0.200 (--), n=1 [0.105, 0.295]", "reference"),
        ("0.700 (0.141), n=2 [0.605, 0.795]", "+0.500 [+0.500, +0.500]")]


def test_same_results_give_the_same_bytes_in_whatever_order_their_files_were_written(runs: Runs, tmp_path: Path) -> None:
    two_methods(runs)
    written = []
    for name, order in (("first", 1), ("second", 2)):
        random.Random(order).shuffle(runs.made)
        (tmp_path / name).mkdir()
        written.append(reported(runs.write(tmp_path / name / "results"), tmp_path / name / "out"))
    names = {path.relative_to(tmp_path / "first" / "out").as_posix() for path in written[0]}
    assert names >= {"table.md", "per_class.md", "table.csv", "per_class.csv", "scores.csv", "pairs.csv", "macros.tex",
                     "figures/auroc.svg", *(f"tables/families.{kind}" for kind in ("md", "csv", "tex", "html"))}
    first, second = ([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in written)
    assert first == second


# Rows


def test_seeds_share_a_row_and_other_settings_part_it_with_a_label(runs: Runs) -> None:
    for steps, seed in itertools.product((1000, 900), (0, 1)):
        runs.evaluate(runs.pretrain("jepa", seed, steps=steps), [0.1, 0.2])
    [column] = runs.report().columns
    assert [(row_label(c.row), len(c.values)) for c in column.cells] == [
        ("random / from scratch", 0), ("jepa (optim.steps=900)", 2), ("jepa (optim.steps=1000)", 2)]


def test_recipes_that_differ_in_their_data_alone_are_told_apart(runs: Runs) -> None:
    for seed, content in enumerate(("fa", "another")):
        run = runs.pretrain("jepa", seed)
        run["config"]["data"]["fingerprints"]["a"] = content
        runs.evaluate(run, [0.1], data={"store": "a", "fingerprint": content})
    report = runs.report()
    assert {f"jepa (fingerprint of a={p})" for p in ("fa", "another")} <= set(map(row_label, report.rows))
    assert {label(column.name) for column in report.columns} == {f"linear (fingerprint of a={p})" for p in ("fa", "another")}


def test_difference_is_to_the_random_backbone_of_the_same_encoder(runs: Runs) -> None:
    for size, auroc in (("tiny", 0.25), ("xs", 0.5)):
        for method, gain in (("random", 0.0), ("jepa", 0.125)):
            runs.evaluate(runs.pretrain(method, size=size), [auroc + gain], auroc=auroc + gain)
    runs.evaluate(runs.pretrain("jepa", size="s"), [0.9], auroc=0.9)
    lines = {line["row"]: line["vs_random"] for line in table_lines(runs.report())}
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


# Columns


def test_evaluation_recipes_of_one_protocol_are_columns_with_a_label(runs: Runs) -> None:
    run = runs.pretrain("random")
    for protocol, steps in (("finetune", 1), ("linear", 20), ("linear", 3)):
        runs.evaluate(run, [0.1], protocol=protocol, steps=steps)
    assert [label(column.name) for column in runs.report().columns] == [
        "linear (evaluation.steps=3)", "linear (evaluation.steps=20)", "finetune"]


def test_from_scratch_stands_in_the_column_of_finetune(runs: Runs) -> None:
    runs.evaluate(runs.pretrain("random"), [0.1], protocol="scratch", auroc=0.3)
    runs.evaluate(runs.pretrain("jepa"), [0.2], protocol="finetune", auroc=0.5)
    [column] = runs.report().columns
    assert (label(column.name), [cell.values for cell in column.cells]) == ("finetune", [[0.3], [0.5]])
    assert column.cells[1].difference is not None and column.cells[1].difference[0] == pytest.approx(0.2)


def test_a_random_backbone_stands_beside_every_checkpoint(runs: Runs) -> None:
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2], auroc=0.2)
    for at in (0.5, 1.0):
        runs.evaluate(runs.pretrain("jepa"), [0.5, 0.6], at=at)
    report = runs.report()
    assert [column.key.at for column in report.columns] == [0.5, 1.0]
    assert [cell.values for cell in cells_of(report, "random")] == [[0.2], [0.2]]
    assert not any(cell.to_run for cell in report.cells.values())


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


# What has not run


def test_a_command_sets_what_differs_from_the_protocols_defaults_and_nothing_else(runs: Runs) -> None:
    default = load_defaults("linear").value["evaluation"]
    runs.evaluate(runs.pretrain("random"), [0.1], batch=default["batch"], clip=default["clip"] + 1)
    runs.pretrain("mae")
    [command] = commands_of(cells_of(runs.report(), "mae")[0])
    assert re.findall(r"--set (\S+)", command) == [f"evaluation.clip={default['clip'] + 1}"]
    assert command.endswith(" --seed 0")


def test_the_command_of_a_missing_random_row_repeats_data_and_encoder(runs: Runs) -> None:
    runs.evaluate(runs.pretrain("jepa"), [0.1])
    [cell] = cells_of(runs.report(), "random")
    assert not cell.runs
    words = shlex.split(commands_of(cell)[0])
    assert words[:7] == ["ecgssl", "pretrain", "random", "--store", "a=0.75", "--store", "b=0.25"]
    assert {"data.rate_hz=100", "encoder.patch=10", "encoder.size=tiny"} <= set(words) and "optim.batch=2" not in words


def test_what_fills_the_random_rows_of_fine_tuning_is_scratch_or_nothing(runs: Runs) -> None:
    untrained = runs.pretrain("random")
    for protocol in ("finetune", "finetune-after-linear"):
        runs.evaluate(runs.pretrain("jepa"), [0.2], protocol=protocol, at=0.5)
    commands = {cell.column.protocol: commands_of(cell) for cell in cells_of(runs.report(), "random")}
    assert commands == {"finetune": [f"ecgssl evaluate {untrained['run_id']} --protocol scratch --task superdiagnostic "
                                     f"--store a --seed 0"], "finetune-after-linear": []}


def test_what_fills_a_row_has_the_seeds_of_the_rows_beside_it_and_not_those_of_from_scratch(runs: Runs) -> None:
    untrained, jepa, mae = (runs.pretrain(method) for method in ("random", "jepa", "mae"))
    for seed in (0, 1, 2):
        runs.evaluate(untrained, [0.1], seed, protocol="scratch")
    runs.evaluate(jepa, [0.2], protocol="finetune")
    [command] = commands_of(cells_of(runs.report(), "mae")[0])
    assert re.findall(r"ecgssl evaluate (\w+) .*?--seed (\d)", command) == [(mae["run_id"], "0")]


def test_a_pretraining_without_any_evaluation_has_a_row_and_a_command(runs: Runs) -> None:
    run = runs.pretrain("random")
    [cell] = runs.report().cells.values()
    assert cell.interval is None
    assert commands_of(cell) == [f"ecgssl evaluate {run['run_id']} --protocol linear --task superdiagnostic --store a --seed 0"]


# What is read, and what must not meet


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 2, "kind": "pretrain"}', "", "\udcff"])
@pytest.mark.parametrize("name", ["0123456789ab.json", "notes.txt"])
def test_a_file_that_is_no_result_is_named_and_the_others_are_read(runs: Runs, tmp_path: Path, name: str, content: str) -> None:
    good = runs.pretrain("random")
    folder = runs.write(tmp_path / "results")
    (folder / "README.md").write_text("what results are")
    (folder / name).write_text(content, errors="surrogateescape")
    results, [why] = load_results(folder)
    assert [each.run_id for each in results.pretrainings] == [good["run_id"]]
    assert name in why


@pytest.mark.parametrize(("part", "key", "value"), [
    ("config", "task", None), ("config", "fraction", 7), ("result", "macro_auroc", float("nan")),
    ("result", "macro_auroc", "0.5"),
    ("result", "replicates", []), ("result", "replicates", [None]), ("result", "per_class", {"MI": {}})])
def test_a_result_that_lacks_a_value_or_holds_a_wrong_one_is_named(
        runs: Runs, tmp_path: Path, part: str, key: str, value: Any) -> None:
    broken = runs.evaluate(runs.pretrain("jepa"), [0.1])
    broken[part][key] = value
    if value is None:
        del broken[part][key]
    results, [why] = load_results(runs.write(tmp_path / "results"))
    assert broken["run_id"] in why and not results.evaluations


def test_a_folder_of_other_versions_alone_is_said_to_hold_no_result_of_this_one(runs: Runs, tmp_path: Path) -> None:
    runs.pretrain("mae")["config"]["optim"]["unknown"] = 1
    with pytest.raises(UserError, match=r"holds no result of this version; .*unknown key 'optim\.unknown'"):
        load_results(runs.write(tmp_path / "results"))


def test_the_command_reports_what_it_can_and_exits_with_1_where_it_skipped_a_file(
        runs: Runs, tmp_path: Path, fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = two_methods(runs).write(tmp_path / "results")
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out", "--csv", tmp_path / "frame.csv") == 0
    lines = list(csv.DictReader((tmp_path / "frame.csv").read_text().splitlines()))
    assert sorted(line["score"] for line in lines) == ["0.2", "0.6", "0.8"]
    before = (tmp_path / "out" / "table.md").read_bytes()
    (folder / "0123456789ab.json").write_text('{"schema": 1')
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out") == 1
    assert f"ecgssl: skipped: {folder / '0123456789ab.json'} is no " in capsys.readouterr().err
    assert (tmp_path / "out" / "table.md").read_bytes() == before
    with pytest.raises(UserError, match="holds no .*ecgssl pretrain"):
        load_results(tmp_path / "out")


def change(one: Record, other: Record, what: str) -> None:
    if what == "protocol":
        other["config"]["protocol"] = 3
    elif what == "fingerprint":
        other["config"]["data"] = {"store": "a", "fingerprint": "another"}
    elif what == "different code":
        one["provenance"]["source"], other["provenance"]["source"] = "hash1", "hash2"
    else:
        one["provenance"]["dirty"] = other["provenance"]["dirty"] = True


@pytest.mark.parametrize("what", ["fingerprint", "protocol", "uncommitted", "different code"])
def test_results_of_other_data_rules_or_code_share_a_report_only_where_that_is_allowed(
        runs: Runs, tmp_path: Path, what: str, fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.pretrain("jepa")
    one, other = runs.evaluate(run, [0.1]), runs.evaluate(run, [0.2], seed=1)
    change(one, other, what)
    folder = runs.write(tmp_path / "results")
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out", "--allow") == 0
    for text in (printed, (tmp_path / "out" / "table.md").read_text().splitlines()[-1]):
        assert what in text and {one["run_id"], other["run_id"]} <= set(re.findall(r"[0-9a-f]{12}", text))


def test_stores_of_different_names_and_methods_of_different_code_may_meet(runs: Runs) -> None:
    run = runs.pretrain("jepa", source="one")
    runs.pretrain("mae", source="another")
    runs.evaluate(run, [0.1])
    runs.evaluate(run, [0.1], data={"store": "c", "fingerprint": "fc"})
    assert footnotes(runs.results()) == []
    runs.evaluate(run, [0.1], task="form", data={"store": "b", "fingerprint": "not what the pre-training read"})
    assert [note.partition(":")[0] for note in footnotes(runs.results())] == ["Results differ in the fingerprint of b"]


def test_results_whose_replicates_or_classes_differ_are_not_compared(runs: Runs) -> None:
    for method in ("random", "jepa"):
        for seed in range(2):
            runs.evaluate(runs.pretrain(method, seed), [0.1, 0.2], seed)
    runs.made[-1]["result"]["per_class"]["MI"]["positives"] = 8
    with pytest.raises(UserError, match="do not compare, classes differs"):
        runs.report()
    runs.made[-1]["result"]["replicates"] = [0.1]
    with pytest.raises(UserError, match="replicates"):
        runs.report()


# Intervals and comparisons


def test_interval_of_paired_differences_is_narrower_than_of_the_means(runs: Runs) -> None:
    shared = np.linspace(0.4, 0.6, 101)
    runs.evaluate(runs.pretrain("random"), shared.tolist(), auroc=0.5)
    runs.evaluate(runs.pretrain("jepa"), (shared + 0.1).tolist(), auroc=0.6)
    [cell] = cells_of(runs.report(), "jepa")
    assert cell.interval is not None and cell.difference is not None
    assert cell.interval[1] - cell.interval[0] == pytest.approx(0.19)
    assert cell.difference[2] - cell.difference[1] == pytest.approx(0, abs=1e-12)


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
    all_pairs = [compare(names[p["row"]].runs, names[p["other"]].runs) for p in pairs]
    assert [(p["row"], p["other"]) for p in pairs] == [
        ("random / from scratch", "jepa"), ("random / from scratch", "mae"), ("jepa", "mae")]
    assert [float(p["p"]) for p in pairs] == [c.p for c in all_pairs]
    assert [float(p["p_holm"]) for p in pairs] == holm([c.p for c in all_pairs])


def test_strodthoffs_rule_gives_the_5_and_95_percentiles_of_100_resamples(runs: Runs) -> None:
    values = np.random.default_rng(0).random(1000)
    runs.evaluate(runs.pretrain("random"), values.tolist())
    report = runs.report("strodthoff")
    [cell] = report.cells.values()
    assert cell.interval == tuple(np.percentile(values[:100], [5, 95]))
    assert "[5.0, 95.0] percentiles" in tables.markdown(report, [])
    with pytest.raises(UserError, match="unknown rule of intervals 'theirs'"):
        runs.report("theirs")


# The data frame


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


def test_every_column_of_the_frame_is_described(runs: Runs) -> None:
    names = ", ".join(name for each in OTHER_SCORES.values() for name in each)
    described = str(frame_of.__doc__).replace("macro_average_precision ... pearson_r", names)
    columns = frame_of(two_methods(runs).results()).columns
    assert [name for name in columns if "." not in name and not re.search(rf"\b{name}\b", described)] == []
    json.dumps(frame_of(runs.results()).to_dict("records"))  # plain values alone
