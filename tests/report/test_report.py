"""Tables and figures are a function of records."""

import copy
import csv
import hashlib
import itertools
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import reported

from bench import cli
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.core.yaml import read_yaml
from bench.report import aggregate as report
from bench.report.statistics import compare, holm
from paper import figures
from paper.columns import columns_of, rankings

Record = dict[str, Any]


class Runs:
    """Records in the making; each gets the next run_id."""

    def __init__(self) -> None:
        self.made: list[Record] = []
        self.ids = (f"{n:012x}" for n in itertools.count(1))

    def pretrain(self, method: str, seed: int = 0, steps: int = 4, size: str = "tiny", dirty: bool = False) -> Record:
        steps = 0 if method == "random" else steps
        curve = list(range(steps))
        data = {"mix": {"a": 0.75, "b": 0.25}, "fingerprints": {"a": "fa", "b": "fb"}, "rate_hz": 100}
        config = {
            "protocol": 2,
            "seed": seed,
            "data": data,
            "encoder": {"size": size, "patch": 10},
            "optim": {"steps": steps, "batch": 2},
            "method": {"name": method},
            "views": [{"seconds": 2.5}],
        }
        result = {
            "seconds": 2.0,
            "records_per_second": 4.0,
            "curves": {"step": curve, "loss": [1.0] * steps},
            "monitor": {"step": [0], "rankme": [3.0], "feature_sd": [None]},
        }
        return self.add("pretrain", {"config": config, "result": result, "provenance": {"dirty": dirty}})

    def evaluate(
        self,
        run: Record,
        values: list[float],
        seed: int = 0,
        protocol: str = "linear",
        auroc: float = 0.5,
        task: str = "superdiagnostic",
        **settings: Any,
    ) -> Record:
        """`values` are the replicates."""
        config = {
            "protocol": 2,
            "seed": seed,
            "pretrain": run["run_id"],
            "data": {"store": "a", "fingerprint": "fa"},
            "task": task,
            "folds": {"test": [10]},
            "evaluation": {"name": protocol, **settings},
        }
        result = {"macro_auroc": auroc, "replicates": values, "per_class": {"MI": {"auroc": auroc, "positives": 7}},
                  "records": {"test": 20}, "bootstrap": {"seed": 1}}
        return self.add(
            "evaluate",
            {"config": config, "pretrain_config": run["config"], "result": result, "provenance": {"dirty": False}},
        )

    def add(self, kind: str, parts: Record) -> Record:
        self.made.append({"schema": 1, "kind": kind, "run_id": next(self.ids), **copy.deepcopy(parts)})
        return self.made[-1]

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        for record in self.made:
            (folder / f"{record['run_id']}.json").write_text(json.dumps(record))
        return folder


@pytest.fixture
def runs() -> Runs:
    return Runs()


def ecgssl(*arguments: object) -> int:
    """The command's exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["ecgssl", *map(str, arguments)])
        cli.main()
    return int(stopped.value.code or 0)


def tables(runs: Runs, folder: Path) -> tuple[str, list[dict[str, str]]]:
    reported(runs.write(folder / "results"), folder / "out")
    with (folder / "out" / "table.csv").open() as f:
        return (folder / "out" / "table.md").read_text(), list(csv.DictReader(f))


def two_methods(runs: Runs) -> Runs:
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2, 0.3], auroc=0.2)
    for seed, values, auroc in ((0, [0.5, 0.6, 0.7], 0.6), (1, [0.7, 0.8, 0.9], 0.8)):
        runs.evaluate(runs.pretrain("jepa", seed), values, seed, auroc=auroc)
    return runs


def test_a_run_is_a_pretraining_however_many_evaluations_it_has(runs: Runs, tmp_path: Path, fast: None) -> None:
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2], auroc=0.2)
    first, second = runs.pretrain("jepa", 0), runs.pretrain("jepa", 1)
    for seed, auroc in enumerate((0.5, 0.6, 0.7)):
        runs.evaluate(first, [0.4, 0.6], seed, auroc=auroc)
    runs.evaluate(second, [0.8, 0.8], auroc=0.8)
    _, cells = tables(runs, tmp_path)
    jepa = next(c for c in cells if c["method"] == "jepa")
    assert (float(jepa["mean"]), jepa["n"]) == (pytest.approx(0.7), "2")
    assert float(jepa["vs_random"]) == pytest.approx(0.5)


def test_a_random_backbone_stands_beside_every_checkpoint(runs: Runs, tmp_path: Path, fast: None) -> None:
    runs.evaluate(runs.pretrain("random"), [0.1, 0.2], auroc=0.2)
    run = runs.pretrain("jepa")
    for at in (0.5, 1.0):
        made = runs.evaluate(run, [0.5, 0.6], auroc=0.5)
        made["config"]["at"] = at
    runs.made[1]["config"]["at"] = 1.0
    _, cells = tables(runs, tmp_path)
    assert len(cells) == 4
    assert [float(c["mean"]) for c in cells if c["method"] == "random"] == [0.2, 0.2]
    assert not any(c["command"] for c in cells)


def test_mean_sd_n_interval_and_difference_are_those_computed_by_hand(runs: Runs, tmp_path: Path, fast: None) -> None:
    markdown, cells = tables(two_methods(runs), tmp_path)
    jepa = next(c for c in cells if c["method"] == "jepa")
    # replicates of the mean of the two runs: .6, .7, .8; of their differences to random: .5, .5, .5
    expected = {
        "mean": 0.7,
        "sd": 0.2 / 2**0.5,
        "n": 2,
        "lower": 0.605,
        "upper": 0.795,
        "vs_random": 0.5,
        "vs_random_lower": 0.5,
        "vs_random_upper": 0.5,
    }
    assert {key: float(jepa[key]) for key in expected} == pytest.approx(expected)
    assert "| jepa | 0.700 (0.141), n=2 [0.605, 0.795] | +0.500 [+0.500, +0.500] |" in markdown
    assert "| random / from scratch | 0.200 (--), n=1 [0.105, 0.295] | reference |" in markdown


def test_same_records_give_the_same_bytes_in_whatever_order_their_files_were_made(runs: Runs, tmp_path: Path) -> None:
    two_methods(runs)
    written = []
    for name, order in (("first", 1), ("second", 2)):
        random.Random(order).shuffle(runs.made)
        (tmp_path / name).mkdir()
        written.append(reported(runs.write(tmp_path / name / "results"), tmp_path / name / "out"))
    names = [path.relative_to(tmp_path / "first" / "out").as_posix() for path in written[0]]
    tables = ("families", "training", "all-statements", "superdiagnostic-single", "diagnostic", "subdiagnostic",
              "superdiagnostic", "form", "rhythm", "reproduction", "sizes", "corpora")
    assert names == [
        "table.md",
        "per_class.md",
        "table.csv",
        "per_class.csv",
        "scores.csv",
        "pairs.csv",
        *(f"tables/{t}.{kind}" for t in tables for kind in ("md", "csv", "tex", "html")),
        "macros.tex",
        *(f"figures/{f}.{e}" for f in ("auroc", "cost", "classes-a-superdiagnostic", "pretraining")
          for e in ("png", "svg", "pdf")),
    ]
    first, second = ([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in written)
    assert first == second


def test_command_sets_what_differs_from_the_protocols_defaults_and_nothing_else(
    runs: Runs, tmp_path: Path, fast: None
) -> None:
    default = read_yaml(ROOT / "bench" / "evaluation" / "protocols.yaml")["shared"]["evaluation"]
    runs.evaluate(runs.pretrain("random"), [0.1], batch=default["batch"], steps=default["steps"] + 1)
    runs.pretrain("mae")
    _, cells = tables(runs, tmp_path)
    assert f"--set evaluation.steps={default['steps'] + 1} --seed 0" in cells[1]["command"]
    assert "batch" not in cells[1]["command"]


def test_no_table_lacks_the_random_row_and_its_command_repeats_data_and_encoder(
    runs: Runs, tmp_path: Path, fast: None
) -> None:
    runs.evaluate(runs.pretrain("jepa"), [0.1])
    markdown, cells = tables(runs, tmp_path)
    assert "| random / from scratch | -- | -- |\n| jepa |" in markdown
    assert [c["method"] for c in cells] == ["random", "jepa"]
    assert shlex.split(cells[0]["command"]) == [
        "ecgssl", "pretrain", "random", "--store", "a=0.75", "--store", "b=0.25", "--set", "data.rate_hz=100",
        "--set", "encoder.patch=10", "--set", "encoder.size=tiny"]  # fmt: skip


def test_controls_stand_apart_in_one_column_and_change_no_name_and_no_correction(runs: Runs) -> None:
    for method in ("random", "mae"):
        for seed in (0, 1):
            run = runs.pretrain(method, seed)
            runs.evaluate(run, [0.5, 0.6 + seed / 10], shuffle=0)
            for order, value in ((1, 0.4), (2, 0.8)):
                runs.evaluate(run, [value, value], auroc=value, shuffle=order)
    for record in runs.made:
        if "evaluation" in record["config"]:
            record["config"]["shuffle_labels"] = record["config"]["evaluation"].pop("shuffle")
    cells = report.cells_of(runs.made, report.rows_of(runs.made))
    assert {(c.store, c.protocol) for c in cells} == {("a", "linear"), ("a, labels shuffled", "linear")}
    own, control = (next(c for c in cells if c.store == store and c.row.method == "mae") for store in ("a", "a, labels shuffled"))
    assert control.values == pytest.approx([0.6, 0.6])  # of two pre-trainings, each the mean over the orders
    assert own.comparison is not None
    assert own.p_holm == own.comparison.p


def test_difference_is_to_the_random_backbone_of_the_same_encoder(runs: Runs, tmp_path: Path, fast: None) -> None:
    for size, auroc in (("tiny", 0.25), ("xs", 0.5)):
        for method, gain in (("random", 0.0), ("jepa", 0.125)):
            runs.evaluate(runs.pretrain(method, size=size), [auroc + gain], auroc=auroc + gain)
    runs.evaluate(runs.pretrain("jepa", size="s"), [0.9], auroc=0.9)
    markdown, cells = tables(runs, tmp_path)
    found = {c["row"]: c["vs_random"] for c in cells if c["method"] == "jepa"}
    assert found == {
        "jepa (encoder.size=s)": "--",
        "jepa (encoder.size=tiny)": "0.125",
        "jepa (encoder.size=xs)": "0.125",
    }
    assert "| random / from scratch (encoder.size=s) | -- | -- |" in markdown


def test_seeds_share_a_row_and_other_settings_part_it_with_a_label(runs: Runs, tmp_path: Path, fast: None) -> None:
    for steps, seed in itertools.product((1000, 900), (0, 1)):
        runs.evaluate(runs.pretrain("jepa", seed, steps=steps), [0.1, 0.2])
    _, cells = tables(runs, tmp_path)
    assert [(c["row"], c["n"]) for c in cells] == [
        ("random / from scratch", "0"), ("jepa (optim.steps=900)", "2"), ("jepa (optim.steps=1000)", "2")]  # fmt: skip


def test_evaluation_recipes_of_one_protocol_are_columns_with_a_label(runs: Runs, tmp_path: Path, fast: None) -> None:
    run = runs.pretrain("random")
    for protocol, steps in (("finetune", 1), ("linear", 20), ("linear", 3)):
        runs.evaluate(run, [0.1], protocol=protocol, steps=steps)
    _, cells = tables(runs, tmp_path)
    assert [c["protocol"] for c in cells] == ["linear (evaluation.steps=3)", "linear (evaluation.steps=20)", "finetune"]


def test_from_scratch_stands_in_the_column_of_finetune(runs: Runs, tmp_path: Path, fast: None) -> None:
    random, jepa = runs.pretrain("random"), runs.pretrain("jepa")
    runs.evaluate(random, [0.1], protocol="scratch", auroc=0.3)
    runs.evaluate(jepa, [0.2], protocol="finetune", auroc=0.5)
    _, cells = tables(runs, tmp_path)
    assert [(c["method"], c["protocol"], c["mean"]) for c in cells] == [
        ("random", "finetune", "0.3"), ("jepa", "finetune", "0.5")]
    assert cells[1]["vs_random"] == "0.2"


def test_what_fills_the_random_rows_of_fine_tuning_is_scratch_or_nothing(runs: Runs, tmp_path: Path, fast: None) -> None:
    runs.pretrain("random")
    for protocol in ("finetune", "finetune-after-linear"):
        runs.evaluate(runs.pretrain("jepa"), [0.2], protocol=protocol)
    _, cells = tables(runs, tmp_path)
    commands = {c["protocol"]: c["command"] for c in cells if c["method"] == "random"}
    assert commands["finetune"].startswith("ecgssl evaluate 000000000001 --protocol scratch --task superdiagnostic ")
    assert commands["finetune-after-linear"] == ""


def test_what_fills_a_row_has_the_seeds_of_the_rows_beside_it_and_not_those_of_from_scratch(
        runs: Runs, tmp_path: Path, fast: None) -> None:
    random, jepa, mae = (runs.pretrain(method) for method in ("random", "jepa", "mae"))
    for seed in (0, 1, 2):
        runs.evaluate(random, [0.1], seed, protocol="scratch")
    runs.evaluate(jepa, [0.2], protocol="finetune")
    _, cells = tables(runs, tmp_path)
    [command] = [c["command"] for c in cells if c["method"] == "mae"]
    assert re.findall(r"ecgssl evaluate (\w+) .*?--seed (\d)", command) == [(mae["run_id"], "0")]


def test_pretraining_without_any_evaluation_has_a_row_and_a_command(runs: Runs, tmp_path: Path, fast: None) -> None:
    run = runs.pretrain("random")
    _, [cell] = tables(runs, tmp_path)
    assert cell["mean"] == "--"
    assert cell["command"].startswith(f"ecgssl evaluate {run['run_id']} --protocol linear ")


def test_records_of_uncommitted_code_stand_in_a_footnote(runs: Runs, tmp_path: Path, fast: None) -> None:
    clean, dirty = runs.pretrain("jepa"), runs.pretrain("mae", dirty=True)
    footnote = tables(runs, tmp_path)[0].splitlines()[-1]
    assert f"`{dirty['run_id']}`" in footnote
    assert clean["run_id"] not in footnote


def test_folder_without_records_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no record.*ecgssl pretrain"):
        report.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2, "kind": "pretrain"}', "", "\udcff"])
def test_file_that_is_no_record_is_named_and_the_others_are_read(runs: Runs, tmp_path: Path, text: str) -> None:
    good = runs.pretrain("random")
    folder = runs.write(tmp_path / "results")
    (folder / "0123456789ab.json").write_text(text, errors="surrogateescape")
    records, [why] = report.read(folder)
    assert [r["run_id"] for r in records] == [good["run_id"]]
    assert "0123456789ab.json" in why


@pytest.mark.parametrize("name", ["notes.txt", "notes.json", "0123456789AB.json", ".0123456789ab.json.x7_f.tmp", ".probe"])
def test_file_that_has_not_the_name_of_a_record_is_named(runs: Runs, tmp_path: Path, name: str) -> None:
    runs.pretrain("random")
    folder = runs.write(tmp_path / "results")
    (folder / "README.md").write_text("what records are")
    (folder / name).write_text("{}")
    _, [why] = report.read(folder)
    assert name in why


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("config", "task", None), ("result", "macro_auroc", float("nan")), ("result", "macro_auroc", "0.5"),
     ("result", "replicates", []), ("result", "replicates", [None]), ("result", "per_class", {"MI": {}})],
)  # fmt: skip
def test_record_that_lacks_a_value_is_named(runs: Runs, tmp_path: Path, part: str, key: str, value: Any) -> None:
    broken = runs.evaluate(runs.pretrain("jepa"), [0.1])
    if value is None:
        del broken[part][key]
    else:
        broken[part][key] = value
    records, [why] = report.read(runs.write(tmp_path / "results"))
    assert broken["run_id"] in why
    assert len(records) == 1


def test_renamed_record_is_refused(runs: Runs, tmp_path: Path) -> None:
    record = runs.pretrain("jepa")
    runs.pretrain("mae")
    folder = runs.write(tmp_path / "results")
    (folder / f"{record['run_id']}.json").rename(folder / "ffffffffffff.json")
    _, [why] = report.read(folder)
    assert "ffffffffffff" in why


def test_the_command_reports_what_it_can_and_exits_with_1_where_it_skipped_a_file(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = two_methods(runs).write(tmp_path / "results")
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out") == 0
    before = (tmp_path / "out" / "table.md").read_bytes()
    (folder / "0123456789ab.json").write_text('{"schema": 1')
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out") == 1
    assert f"ecgssl: skipped: {folder / '0123456789ab.json'} is no record" in capsys.readouterr().err
    assert (tmp_path / "out" / "table.md").read_bytes() == before


@pytest.mark.parametrize("what", ["fingerprint", "protocol", "uncommitted"])
def test_records_of_other_data_or_rules_or_of_uncommitted_code_share_a_report_only_where_that_is_allowed(
    runs: Runs, tmp_path: Path, what: str, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.pretrain("jepa")
    one, other = runs.evaluate(run, [0.1]), runs.evaluate(run, [0.2], seed=1)
    if what == "protocol":
        other["config"]["protocol"] = 3
    elif what == "fingerprint":
        other["config"]["data"]["fingerprint"] = "another"
    else:
        one["provenance"]["dirty"] = other["provenance"]["dirty"] = True
    folder = runs.write(tmp_path / "results")
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert what in said
    assert {one["run_id"], other["run_id"]} <= set(re.findall(r"[0-9a-f]{12}", said))
    assert not (tmp_path / "out").exists()
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out", "--allow") == 0
    footnote = (tmp_path / "out" / "table.md").read_text().splitlines()[-1]
    assert what in footnote
    assert {one["run_id"], other["run_id"]} <= set(re.findall(r"[0-9a-f]{12}", footnote))


def test_pretraining_on_another_version_of_the_evaluated_store_is_a_footnote(runs: Runs) -> None:
    run = runs.pretrain("jepa")
    run["config"]["data"]["fingerprints"]["a"] = "another"
    runs.evaluate(run, [0.1])
    assert [note.partition(":")[0] for note in report.footnotes(runs.made)] == ["Records differ in the fingerprint of a"]


def test_stores_of_different_names_may_differ_in_everything(runs: Runs) -> None:
    run = runs.pretrain("jepa")
    runs.evaluate(run, [0.1])
    runs.evaluate(run, [0.1])["config"]["data"] = {"store": "c", "fingerprint": "fc"}
    assert report.footnotes(runs.made) == []


def test_replicates_of_other_lengths_are_not_paired(runs: Runs, tmp_path: Path, fast: None) -> None:
    run = runs.pretrain("jepa")
    runs.evaluate(run, [0.1, 0.2])
    runs.evaluate(run, [0.1], seed=1)
    with pytest.raises(UserError, match="replicates"):
        tables(runs, tmp_path)


def test_interval_of_paired_differences_is_narrower_than_of_the_means(runs: Runs, tmp_path: Path, fast: None) -> None:
    shared = np.linspace(0.4, 0.6, 101)
    runs.evaluate(runs.pretrain("random"), shared.tolist(), auroc=0.5)
    runs.evaluate(runs.pretrain("jepa"), (shared + 0.1).tolist(), auroc=0.6)
    _, cells = tables(runs, tmp_path)
    assert float(cells[1]["upper"]) - float(cells[1]["lower"]) == pytest.approx(0.19)
    assert float(cells[1]["vs_random_upper"]) - float(cells[1]["vs_random_lower"]) == pytest.approx(0, abs=1e-12)


def test_differences_of_two_or_more_runs_count_the_runs_and_are_corrected_for_their_table(
    runs: Runs, tmp_path: Path, fast: None
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 50)
    made: dict[str, list[Record]] = {}
    for method, auroc in (("random", 0.5), ("jepa", 0.52), ("mae", 0.6)):
        for seed, offset in enumerate((-0.01, 0.0, 0.01)):
            value = auroc + offset
            replicates = (value + noise + rng.normal(0, 0.005, 50)).tolist()
            made.setdefault(method, []).append(runs.evaluate(runs.pretrain(method, seed), replicates, seed, auroc=value))
    markdown, cells = tables(runs, tmp_path)
    found = {c["method"]: c for c in cells}
    expected = {method: compare(made[method], made["random"]) for method in ("jepa", "mae")}
    for method, comparison in expected.items():
        assert float(found[method]["p"]) == comparison.p
        assert float(found[method]["vs_random_lower"]) == comparison.lower
    assert [float(found[m]["p_holm"]) for m in expected] == holm([c.p for c in expected.values()])
    assert found["random"]["p"] == "--"
    assert f"], p={expected['jepa'].p:.2g} |" in markdown  # the larger of two
    with (tmp_path / "out" / "pairs.csv").open() as f:
        pairs = list(csv.DictReader(f))
    all_pairs = [compare(made[p["row"].split(" ")[0]], made[p["other"].split(" ")[0]]) for p in pairs]
    assert [(p["row"], p["other"]) for p in pairs] == [
        ("random / from scratch", "jepa"), ("random / from scratch", "mae"), ("jepa", "mae")]
    assert [float(p["p"]) for p in pairs] == [c.p for c in all_pairs]
    assert [float(p["p_holm"]) for p in pairs] == holm([c.p for c in all_pairs])


def test_records_whose_classes_differ_are_not_compared(runs: Runs, tmp_path: Path, fast: None) -> None:
    for method in ("random", "jepa"):
        for seed in range(2):
            runs.evaluate(runs.pretrain(method, seed), [0.1, 0.2], seed)
    runs.made[-1]["result"]["per_class"]["MI"]["positives"] = 8
    with pytest.raises(UserError, match="do not compare, classes differs"):
        tables(runs, tmp_path)


def test_strodthoffs_rule_gives_the_5_and_95_percentiles_of_100_resamples(runs: Runs, tmp_path: Path, fast: None) -> None:
    values = np.random.default_rng(0).random(1000)
    runs.evaluate(runs.pretrain("random"), values.tolist())
    reported(runs.write(tmp_path / "results"), tmp_path / "out", "strodthoff")
    with (tmp_path / "out" / "table.csv").open() as f:
        [cell] = csv.DictReader(f)
    assert [float(cell["lower"]), float(cell["upper"])] == np.percentile(values[:100], [5, 95]).tolist()
    assert "[5.0, 95.0] percentiles" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(UserError, match="unknown rule of intervals 'theirs'"):
        reported(tmp_path / "results", tmp_path / "out", "theirs")


def test_rows_with_runs_in_every_task_are_ranked(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda figure, path: [path.with_suffix(".png")])
    for i, method in enumerate(("random", "jepa", "mae", "simclr")):
        run = runs.pretrain(method)
        for task in ("form", "rhythm")[: 1 if method == "simclr" else 2]:
            runs.evaluate(run, [0.1], task=task, auroc=0.5 + 0.1 * i)
    written = [path.name for path in reported(runs.write(tmp_path / "results"), tmp_path / "out")]
    assert "ranks-1.png" in written
    assert "ranks-2.png" not in written
    assert "Mean ranks over tasks: linear on a" in (tmp_path / "out" / "table.md").read_text()
    cells = report.cells_of(runs.made, report.rows_of(runs.made))
    [found] = rankings(columns_of(cells)).values()
    assert (found.methods, found.ranks) == (("mae", "jepa", "random / from scratch"), (1, 2, 3))


def test_a_task_that_is_evaluated_in_more_ways_counts_in_the_ranks_once(runs: Runs) -> None:
    for i, method in enumerate(("random", "jepa", "mae")):
        run = runs.pretrain(method)
        for task in ("form", "rhythm"):
            runs.evaluate(run, [0.1], task=task, auroc=0.5 + 0.1 * i)["config"]["fraction"] = 1.0
        runs.evaluate(run, [0.1], task="form", auroc=0.9 - 0.1 * i)["config"]["fraction"] = 0.1
    [(name, found)] = rankings(columns_of(report.cells_of(runs.made, report.rows_of(runs.made)))).items()
    assert name == "linear on a"
    assert (found.methods, found.ranks) == (("mae", "jepa", "random / from scratch"), (1, 2, 3))


def test_load_gives_a_row_per_evaluation_as_the_issue_writes_it(runs: Runs, tmp_path: Path) -> None:
    folder = two_methods(runs).write(tmp_path / "results")
    code = ("from bench.report.aggregate import load; "
            "print(load('results/')[['method', 'row', 'pretrain_seed', 'score']].to_csv(index=False))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == [
        "method,row,pretrain_seed,score", "random,random / from scratch,0,0.2", "jepa,jepa,0,0.6", "jepa,jepa,1,0.8"]
    (folder / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"skipped: .*notes\.txt"):
        assert len(report.load(folder)) == 3


def test_the_table_for_other_programs_has_every_column_that_is_described(runs: Runs, tmp_path: Path, fast: None) -> None:
    folder, path = two_methods(runs).write(tmp_path / "results"), tmp_path / "evaluations.csv"
    assert ecgssl("report", "--results", folder, "--out", tmp_path / "out", "--csv", path) == 0
    with path.open() as f:
        lines = list(csv.DictReader(f))
    assert [line["score"] for line in lines] == ["0.2", "0.6", "0.8"]
    names = ", ".join(name for each in report.OTHER_SCORES.values() for name in each)
    described = str(report.frame_of.__doc__).replace("macro_average_precision ... pearson_r", names)
    assert [name for name in lines[0] if not re.search(rf"\b{name}\b", described)] == []


def test_recipes_that_differ_in_their_data_alone_are_told_apart(runs: Runs) -> None:
    for print_ in ("fa", "another"):
        run = runs.pretrain("jepa")
        run["config"]["data"]["fingerprints"]["a"] = print_
        runs.evaluate(run, [0.1])["config"]["data"]["fingerprint"] = print_
    labels = {row.label for row in report.rows_of(runs.made)}
    assert {f"jepa (fingerprint of a={p})" for p in ("fa", "another")} <= labels
    columns = {c.protocol for c in report.cells_of(runs.made, report.rows_of(runs.made))}
    assert columns == {f"linear (fingerprint of a={p})" for p in ("fa", "another")}
