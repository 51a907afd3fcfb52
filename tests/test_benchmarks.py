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
    assert all(row in printed for row in ("gathering ahead", "step tiny 2 bfloat16", *load("jepa_step").PARTS[1:]))
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["records_per_second"]) == 5
    assert all(rate > 0 for row in numbers["records_per_second"] for rate in row["ours"])
    assert all(seconds >= 0 for parts in numbers["parts_seconds"].values() for (seconds,) in parts.values())


def test_a_training_step_of_any_method_is_measured_and_a_record_costs_the_stated_arithmetic(load):
    row = load("steps").one("mae", "tiny", 2, "float32", False, torch.device("cpu"), 1)
    assert min(*row["seconds"], row["warm_seconds"], row["gflop_per_record"], row["memory_mb"]) > 0
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


def test_the_bootstrap_that_is_timed_agrees_with_sklearn(load, capsys):
    load("bootstrap").main(["--resamples", "4", "--sklearn", "1", "--rounds", "1"])
    assert float(capsys.readouterr().out.split()[-1]) < 1e-12


def test_the_benchmark_of_sweeps_submits_every_size_in_as_many_calls(load, tmp_path):
    for runs in (100, 300):
        load("sweeps").main(["--runs", str(runs), "--json", str(tmp_path / "n.json")])
        numbers = json.loads((tmp_path / "n.json").read_text())
        assert (numbers["runs"], numbers["sbatch"]) == (runs, 2)
        assert min(numbers["plan"], numbers["submit"], numbers["status"]) > 0
