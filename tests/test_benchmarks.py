"""The benchmarks run, and what they time is what the product runs."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import configs
import pytest
import torch

from bench.encoders import vit
from bench.method import build_model, step_at
from bench.training.optim import adamw

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """load(name): the module benchmarks/<name>.py. Their names are short, so none is left behind."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in {path.stem for path in BENCHMARKS.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


def test_a_quick_run_prints_every_row_and_writes_every_number(load, capsys, tmp_path):
    load("run").main(["--quick", "--force-bf16", "--json", str(tmp_path / "numbers.json")])
    printed = capsys.readouterr().out
    for row in ("loader + masks, one thread", "loader + masks, gathering ahead", "masks, 8 x 20",
                "tiny 2 float32 predictor", "step tiny 2 float32", "step tiny 2 bfloat16", *load("jepa_step").PARTS[1:]):
        assert row in printed
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["records_per_second"]) == 5
    assert all(rate > 0 for row in numbers["records_per_second"] for rate in row["ours"])
    assert all(seconds >= 0 for parts in numbers["parts_seconds"].values() for (seconds,) in parts.values())


def test_a_training_step_of_any_method_is_measured(load):
    row = load("steps").one("mae", "tiny", 2, "float32", False, torch.device("cpu"), 1)
    assert len(row["seconds"]) == 1
    assert min(row["seconds"][0], row["warm_seconds"], row["gflop_per_record"], row["memory_mb"]) > 0


def test_a_record_costs_the_stated_arithmetic(load):
    for size, gflop in (("xs", 4.09), ("s", 14.94)):
        assert load("jepa_step").gflop(vit.SIZES[size]) == pytest.approx(gflop, rel=0.015)


def test_the_step_that_is_timed_is_the_methods_own(load):
    config = configs.load("jepa", ["encoder.size=tiny", "method.keep=[0.2, 0.2]", "optim.warmup_steps=0",
                                   "optim.precision=float32"])
    x = torch.randn(3, 12, 1000, generator=torch.Generator().manual_seed(0))
    timed, own = build_model(config), build_model(config)
    module = load("jepa_step")
    loss = module.step(timed, adamw(timed, config.optim), config, x, 0.2, 7, module.Clock(lambda: 0.0))
    expected, _ = own([x], step_at(config.seed, 7, config.optim.steps, x.device, len(x)))
    assert loss == expected
    assert not torch.equal(timed.encoder.embed.weight, own.encoder.embed.weight)
    assert not torch.equal(timed.target_encoder.embed.weight, own.target_encoder.embed.weight)


@pytest.mark.parametrize("code", [None, "import no_such_package\n"])
def test_published_code_that_is_absent_or_does_not_run_is_one_line(load, capsys, tmp_path, code):
    if code:
        (tmp_path / "pretrain.py").write_text(code)
    with pytest.raises(SystemExit) as stop:
        load("run").main(["--quick", "--published", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_quick_run_of_the_evaluations_prints_what_all_of_them_would_take(load, capsys, tmp_path):
    evaluation = load("evaluation")
    evaluation.main(["--quick", "--json", str(tmp_path / "numbers.json")])
    numbers = json.loads((tmp_path / "numbers.json").read_text())["rows"]["tiny float32"]
    assert {*numbers["seconds"]} == {*evaluation.PARTS}
    assert numbers["projected_seconds"]["cached"] < numbers["projected_seconds"]["exact"]
    assert "7 tasks x 10 seeds x 5,000 steps of 128" in capsys.readouterr().out


def test_the_crops_of_one_pass_are_at_most_those_of_the_tasks_that_still_train(load, monkeypatch):
    evaluation = load("evaluation")
    monkeypatch.setattr(evaluation, "TASKS", {"all": (1, 1280, 0), "few": (1, 640, 0)})
    monkeypatch.setattr(evaluation, "STEPS", 25)  # 2.5 epochs of the one, 5 of the other
    assert evaluation.crops_needed() == 2 * 1280 + 1280 + 2 * 640


def test_the_bootstrap_that_is_timed_agrees_with_sklearn(load, capsys):
    load("bootstrap").main(["--resamples", "4", "--sklearn", "1", "--rounds", "1"])
    assert float(capsys.readouterr().out.split()[-1]) < 1e-12


def test_the_benchmark_of_sweeps_submits_every_size_in_as_many_calls(load, capsys, tmp_path):
    calls = []
    for runs in (100, 300):
        load("sweeps").main(["--runs", str(runs), "--json", str(tmp_path / "n.json")])
        numbers = json.loads((tmp_path / "n.json").read_text())
        assert numbers["runs"] == runs
        assert min(numbers["plan"], numbers["submit"], numbers["status"]) > 0
        calls.append(numbers["sbatch"])
    assert calls == [2, 2]
    assert "status" in capsys.readouterr().out


def test_packing_reading_and_reporting_generated_results_are_measured(load, monkeypatch, capsys, tmp_path):
    report = load("report")
    monkeypatch.setattr(report, "SIZES", ("xs",))
    monkeypatch.setattr(report, "MIXES", ("ptb-xl",))
    monkeypatch.setattr(report, "RECIPES", [("linear", 1.0, 1.0)])
    monkeypatch.setattr(report, "CLASSES", {"form": 3})
    report.main(["--results", "60", "--folder", str(tmp_path), "--json", str(tmp_path / "numbers.json")])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["read folder"]["results"] == numbers["results"] > 10
    assert numbers["tables of Parquet"]["number of cells"] > 10
    assert 0 < numbers["packed_mb"] < numbers["megabytes"]
    assert "tables of Parquet seconds" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
