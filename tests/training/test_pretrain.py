"""What a pre-training optimises, logs and leaves."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import corpora
import pytest
import torch
from pretraining import Linear, Pretraining, as_method

from bench.core.errors import UserError
from bench.core.processes import World
from bench.data import leak
from bench.data.store import Store
from bench.method import build_model
from bench.training import checkpoint, log, monitor, optim, trainer

Start = Callable[..., Pretraining]


@pytest.mark.parametrize("name", ["jepa", "simclr", "mae"])
def test_the_same_config_gives_the_same_bytes_and_another_seed_others(start: Start, name: str) -> None:
    run, again, other = start(name), start(name).elsewhere(save_steps=3), start(name, "seed=1")
    for each in (run, again, other):
        each.run()
    assert run.left == again.left
    key = "model/encoder.embed.weight"
    assert not torch.equal(run.weights[key], other.weights[key])


def test_a_run_leaves_a_result_a_checkpoint_its_config_and_metrics(start: Start, tiny: Store) -> None:
    run = start("simclr")
    outcome = run.run()
    assert outcome.ran and outcome.result == run.workspace.results / f"{outcome.run_id}.json"
    assert {path.name for path in run.folder.iterdir()} == {"final.pt", "config.json", "metrics.jsonl", "checkpoints", "lock",
                                                            "source.txt"}
    assert json.loads((run.folder / "config.json").read_text()) == run.config.to_json() == run.written["config"]
    result = run.written["result"]
    assert (result["steps"], result["records"], result["precision"]) == (8, 32, "float32")
    assert result["curves"]["step"] == list(range(1, 9))
    assert result["monitor"]["step"] == list(range(9))
    assert set(result["curves"]) == {"step", "loss", "lr", "gradient_norm", "records_per_second", "memory_mb",
                                     "alignment", "uniformity"}
    assert result["curves"]["lr"] == [optim.cosine(i, 8, 1e-3, 1e-6, warmup=2, warmup_start=1e-6)
                                      for i in range(8)]
    assert result["parameters"]["backbone"] == sum(p.numel() for p in build_model(run.config).backbone().parameters())
    assert result["parameters"]["trained"] > result["parameters"]["backbone"]
    meta = run.final.meta
    assert (meta["step"], meta["rate_hz"], len(meta["leads"])) == (8, 100, 12)
    assert meta["stores"]["tiny"]["fingerprint"] == tiny.fingerprint
    assert meta["stores"]["tiny"]["mean"] == tiny.mean.tolist()


def test_metrics_have_a_line_for_each_point_whatever_the_length(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_POINTS", 3)
    monkeypatch.setattr(monitor, "POINTS", 2)
    run = start("mae", "optim.steps=7")
    with as_method(monkeypatch) as built:
        run.run()
    assert [line["step"] for line in run.lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in run.lines if "rankme" in line] == [0, 3, 6, 7]
    assert built[0].steps == list(range(7))


def test_a_logged_loss_is_the_mean_since_the_last_line(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run, coarse = start("mae"), start("mae").elsewhere(save_steps=3)
    run.run()
    monkeypatch.setattr(trainer, "LOG_POINTS", 2)
    coarse.run()
    assert coarse.losses == pytest.approx([sum(run.losses[:4]) / 4, sum(run.losses[4:]) / 4])


def test_gradient_accumulation_equals_the_full_batch(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [start("mae", f"optim.accumulate={n}", "optim.batch=8", "optim.eps=1e-3", "optim.lr=0.1") for n in (1, 4)]
    with as_method(monkeypatch) as built:
        for run in runs:
            run.run()
        first = build_model(runs[0].config).state_dict()
    assert len(built[1].steps) == 4 * len(built[0].steps)
    for key, value in first.items():
        whole, parts = (run.weights[f"model/{key}"] for run in runs)
        assert (whole - value).abs().max() > 1e-5, key
        assert (whole - parts).abs().max() < 0.01 * (whole - value).abs().max(), key


def test_the_gradient_is_clipped_to_the_configs_norm(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *args: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    with as_method(monkeypatch):
        start("mae", "optim.clip=0.0").run()
        start("mae", "optim.clip=1.0e-3").run()
    assert min(norms[:8]) > 2e-3
    assert norms[8:] == pytest.approx([1e-3] * 8, rel=1e-3)


def test_precision_is_the_configs_and_auto_is_what_the_device_computes_in(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, half, auto = (start("mae", f"optim.precision={precision}") for precision in ("float32", "bfloat16", "auto"))
    for native, same in ((True, half), (False, whole)):
        monkeypatch.setattr(optim, "has_bfloat16", lambda device, native=native: native)
        run = auto.elsewhere(f"{native}")
        for each in (same, run):
            each.run()
        assert run.losses == same.losses
        assert run.written["result"]["precision"] == same.written["result"]["precision"] == same.config.optim.precision
    assert whole.losses != half.losses
    assert whole.losses == pytest.approx(half.losses, rel=0.02)
    assert {value.dtype for value in half.weights.values()} == {torch.float32}


def test_a_method_of_no_steps_gives_a_checkpoint_and_a_result_at_once(start: Start) -> None:
    run = start("random")
    run.run()
    assert run.final.meta["step"] == 0
    first = build_model(run.config).state_dict()
    assert all(torch.equal(run.weights[f"model/{key}"], value) for key, value in first.items())
    assert run.written["result"]["curves"] == {}


def test_a_run_saves_by_the_clock_too_and_keeps_the_newest_states(start: Start) -> None:
    run, often = start("mae", "optim.steps=9"), start("mae").elsewhere(save_steps=1000, save_minutes=0.0, keep=100)
    run = replace(run, workspace=replace(run.workspace, save_steps=2, keep=2))
    run.run()
    often.run()
    assert run.states == ["step-00000006.pt", "step-00000008.pt"]
    assert len(often.states) == 7


def test_backbones_along_the_run_are_those_of_its_states(start: Start) -> None:
    run = start("mae", "optim.steps=8", "checkpoints.at=[0.25, 0.5]").elsewhere(save_steps=1, keep=8)
    run.run()
    for name, step in (("at-0.25.pt", 2), ("at-0.5.pt", 4)):
        share, state = (checkpoint.load(run.folder / path) for path in (name, f"checkpoints/step-{step:08d}.pt"))
        assert share.meta["step"] == step
        model = {key for key in state.tensors if key.startswith("model/")}
        assert share.tensors.keys() - model == {f"seen/{kind}" for kind in leak.KINDS}  # no optimiser; the leak guard needs these
        assert all(torch.equal(share.tensors[key], state.tensors[key]) for key in model)


def test_the_order_in_which_stores_are_given_changes_nothing(start: Start, tiny: Store, tmp_path: Any) -> None:
    other = corpora.store(tmp_path / "stores", corpora.noise(20, 12, 1000), name="other")
    run = start("mae")
    run = replace(run, config=run.config.replace(data=run.config.data.replace(mix={"tiny": 0.5, "other": 0.5}, fingerprints={})))
    results = []
    for each, stores in ((run, [tiny, other]), (run.elsewhere(), [other, tiny])):
        outcome = trainer.pretrain(each.config, stores, each.workspace)
        results.append((each.workspace.work / "runs" / outcome.run_id / "final.pt").read_bytes())
    assert results[0] == results[1]


def test_dropout_is_on_in_training_and_looking_for_collapse_draws_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    without, run = start("jepa"), start("jepa", "encoder.dropout=0.2")
    for each in (without, run):
        each.run()
    monkeypatch.setattr(monitor, "POINTS", 1)
    seldom = run.elsewhere()
    seldom.run()
    key = "model/encoder.blocks.0.fc2.weight"
    assert not torch.equal(without.weights[key], run.weights[key])
    assert run.left["final"] == seldom.left["final"]


def test_a_results_folder_that_is_a_file_is_named_before_the_work(start: Start) -> None:
    run = start("mae")
    run.workspace.results.write_text("x")
    with pytest.raises(UserError, match="cannot write into"):
        run.run()
    assert not run.workspace.work.exists()


def test_rankme_is_the_number_of_directions_that_tokens_use(start: Start) -> None:
    class Fixed(Linear):
        def backbone(self) -> Any:
            return self

    model = Fixed(build_model(start("mae").config).encoder)
    q, _ = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    for rank in (1, 4, 16):
        tokens = (q[:, :rank] @ torch.eye(rank, 16))[:, None].expand(-1, 3, -1)
        model.forward = lambda x, tokens=tokens: tokens  # type: ignore[method-assign]
        assert monitor.measure_collapse(model, torch.zeros(64, 1))["rankme"] == pytest.approx(rank, rel=1e-3)
    model.forward = lambda x: torch.ones(64, 3, 16)  # type: ignore[method-assign]
    assert monitor.measure_collapse(model, torch.zeros(64, 1))["feature_sd"] == 0.0


# speed and energy


def test_throughput_after_a_kill_counts_what_was_done_since(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_POINTS", 1)
    run, clock = start("mae"), count()
    run.kill_at(7, monkeypatch)
    monkeypatch.setattr(log.time, "monotonic", lambda: float(next(clock)))
    run.run()
    result = run.written["result"]
    assert result["seconds"] >= 8.0  # one tick at least for each of the eight steps, though two ran after the kill
    assert result["records_per_second"] == pytest.approx(32 / result["seconds"])


class FakeMeter:
    """A meter in whose every second so many joules are used."""

    def __init__(self, **watts: float) -> None:
        self.watts, self.began = watts, log.time.monotonic()

    def update(self) -> None:
        pass

    def take(self) -> dict[str, float]:
        began, self.began = self.began, log.time.monotonic()
        return {part: each * (self.began - began) for part, each in self.watts.items()}


def test_energy_adds_up_over_attempts_as_seconds_do(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    watts: list[dict[str, float]] = [{"cpu": 50.0, "gpu": 100.0}, {"cpu": 50.0}, {}, {"cpu": 7.0}]  # of each attempt
    monkeypatch.setattr(log, "Meter", lambda *_, **__: FakeMeter(**watts.pop(0)))
    run, other = start("mae"), start("mae", "seed=1")
    for each in (run, other):
        each.kill_at(5, monkeypatch)
        each.run()
    result = run.written["result"]
    assert result["energy_joules"] == {"cpu": pytest.approx(50 * result["seconds"], rel=0.2)}  # no gpu in the second
    assert not [key for key in result["curves"] if "watts" in key]
    assert "energy_joules" not in other.written["result"]


def test_power_of_all_processes_lacks_what_one_of_them_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_with_another(world: World, tensors: list[torch.Tensor]) -> None:
        tensors[0].copy_((tensors[0] + torch.tensor([0.0, math.nan])) / 2)  # of the other: no package of its own, no GPU

    class Fixed(FakeMeter):
        def take(self) -> dict[str, float]:
            return {"cpu": 30.0, "gpu": 20.0}

    monkeypatch.setattr(World, "mean_", mean_with_another)
    assert log.measure_watts(Fixed(), 2.0, World(size=2)) == {"cpu_watts": 15.0}  # type: ignore[arg-type]
