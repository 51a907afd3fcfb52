import json
import sys
from pathlib import Path

import configs
import pytest
import torch

from bench.encoders import vit
from bench.method import build_model, step_at
from bench.training.optim import adamw

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    """The benchmarks' main, which gives exit code and output in `capsys`."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run

    return run.main


@pytest.fixture
def jepa_step(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import jepa_step

    return jepa_step


def test_a_quick_run_prints_every_row_and_writes_every_number(run, capsys, tmp_path):
    run(["--quick", "--force-bf16", "--json", str(tmp_path / "numbers.json")])
    printed = capsys.readouterr().out
    for row in ("loader + masks, one thread", "loader + masks, gathering ahead", "masks, 8 x 20",
                "tiny 2 float32 predictor", "step tiny 2 float32", "step tiny 2 bfloat16", "target encoder",
                "encoder", "predictor", "backward", "optimiser", "EMA"):
        assert row in printed
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["records_per_second"]) == 5
    assert all(rate > 0 for row in numbers["records_per_second"] for rate in row["ours"])
    assert all(seconds >= 0 for parts in numbers["parts_seconds"].values() for (seconds,) in parts.values())


def test_a_record_costs_the_stated_arithmetic(jepa_step):
    assert jepa_step.gflop(vit.SIZES["xs"]) == pytest.approx(4.09, rel=0.015)
    assert jepa_step.gflop(vit.SIZES["s"]) == pytest.approx(14.94, rel=0.015)


def test_the_step_that_is_timed_is_the_methods_own(jepa_step):
    settings = configs.load("jepa", ["encoder.size=tiny", "method.keep=[0.2, 0.2]", "optim.warmup_steps=0"])
    x = torch.randn(3, 12, 1000, generator=torch.Generator().manual_seed(0))
    timed, own = build_model(settings), build_model(settings)
    loss = jepa_step.step(timed, adamw(timed, settings["optim"]), settings, x, 0.2, 7, jepa_step.Clock(lambda: 0.0))
    expected, _ = own([x], step_at(settings["seed"], 7, settings["optim"]["steps"], x.device, len(x)))
    assert loss == expected
    assert not torch.equal(timed.encoder.embed.weight, own.encoder.embed.weight)
    assert not torch.equal(timed.target_encoder.embed.weight, own.target_encoder.embed.weight)


def test_a_folder_without_the_published_code_is_one_line(run, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(["--quick", "--published", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_package_that_the_published_code_lacks_is_one_line(run, capsys, tmp_path):
    (tmp_path / "pretrain.py").write_text("import no_such_package\n")
    with pytest.raises(SystemExit) as stop:
        run(["--quick", "--published", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_quick_run_of_the_evaluations_prints_what_all_of_them_would_take(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import evaluation

    evaluation.main(["--quick", "--json", str(tmp_path / "numbers.json")])
    numbers = json.loads((tmp_path / "numbers.json").read_text())["rows"]["tiny float32"]
    assert {*numbers["seconds"]} == {*evaluation.PARTS}
    assert numbers["projected_seconds"]["cached"] < numbers["projected_seconds"]["exact"]
    assert "7 tasks x 10 seeds x 5,000 steps of 128" in capsys.readouterr().out


def test_the_crops_of_one_pass_are_at_most_those_of_the_tasks_that_still_train(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import evaluation

    monkeypatch.setattr(evaluation, "TASKS", {"all": (1, 1280, 0), "few": (1, 640, 0)})
    monkeypatch.setattr(evaluation, "STEPS", 25)  # 2.5 epochs of the one, 5 of the other
    assert evaluation.crops_needed() == 2 * 1280 + 1280 + 2 * 640


def test_the_bootstrap_that_is_timed_agrees_with_sklearn(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bootstrap

    bootstrap.main(["--resamples", "4", "--sklearn", "1", "--rounds", "1"])
    assert float(capsys.readouterr().out.split()[-1]) < 1e-12


@pytest.fixture(autouse=True)
def forget():
    """Leave no module of the benchmarks behind: their names are short."""
    yield
    for name in ("run", "jepa_step", "published", "evaluation", "bootstrap"):
        sys.modules.pop(name, None)


def test_the_benchmark_of_sweeps_submits_every_size_in_as_many_calls(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import sweeps

    calls = []
    for runs in (100, 300):
        sweeps.main(["--runs", str(runs), "--json", str(tmp_path / "n.json")])
        found = json.loads((tmp_path / "n.json").read_text())
        assert found["runs"] == runs
        assert min(found["plan"], found["submit"], found["status"]) > 0
        calls.append(found["sbatch"])
    assert calls == [2, 2]
    assert "status" in capsys.readouterr().out


def test_packing_reading_and_reporting_generated_results_are_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report

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
