"""What a pre-training optimises, logs and leaves."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import corpora
import pytest
import torch
from pretraining import Linear, Pretraining, as_method
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    assert json.loads((run.folder / "config.json").read_text()) == run.config.to_json() == run.written["config"]
    result = run.written["result"]
    assert (result["steps"], result["records"], result["precision"]) == (8, 32, "float32")
    assert (result["curves"]["step"], result["monitor"]["step"]) == (list(range(1, 9)), list(range(9)))
    assert {"loss", "gradient_norm", "records_per_second", "memory_mb", "alignment", "uniformity"} <= set(result["curves"])
    assert result["curves"]["lr"] == [optim.cosine(i, 8, 1e-3, 1e-6, warmup=2, warmup_start=1e-6) for i in range(8)]
    assert result["parameters"]["backbone"] == sum(p.numel() for p in build_model(run.config).backbone().parameters())
    meta = run.final.meta
    assert (meta["step"], meta["rate_hz"], len(meta["leads"])) == (8, 100, 12)
    assert meta["stores"]["tiny"]["fingerprint"] == tiny.fingerprint
    assert meta["stores"]["tiny"]["mean"] == tiny.mean.tolist()


def test_metrics_have_a_line_for_each_point_with_the_mean_since_the_last(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, run = start("mae", "optim.steps=7"), start("mae", "optim.steps=7").elsewhere(save_steps=3)
    fine.run()
    monkeypatch.setattr(trainer, "LOG_POINTS", 3)
    monkeypatch.setattr(monitor, "POINTS", 2)
    run.run()
    assert [line["step"] for line in run.lines if "loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in run.lines if "rankme" in line] == [0, 3, 6, 7]
    means = [sum(fine.losses[first : first + 2]) / 2 for first in (0, 2, 4)]
    assert run.losses == pytest.approx([*means, fine.losses[6]])


def test_the_gradient_is_clipped_to_the_configs_norm(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def watch(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())

    as_method(monkeypatch)
    hook = register_optimizer_step_pre_hook(watch)
    for clip in ("0.0", "1.0e-3"):
        start("mae", f"optim.clip={clip}").run()
    hook.remove()
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


class FakeMeter:
    """A meter in whose every second so many joules are used."""

    def __init__(self, **watts: float) -> None:
        self.watts, self.began = watts, log.time.monotonic()

    def update(self) -> None:
        pass

    def take(self) -> dict[str, float]:
        began, self.began = self.began, log.time.monotonic()
        return {part: each * (self.began - began) for part, each in self.watts.items()}


def test_time_and_energy_add_up_over_attempts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    watts: list[dict[str, float]] = [{"cpu": 50.0, "gpu": 100.0}, {"cpu": 50.0}]  # of each attempt: no gpu in the second
    monkeypatch.setattr(log, "Meter", lambda *_, **__: FakeMeter(**watts.pop(0)))
    run, clock = start("mae"), count()
    monkeypatch.setattr(log.time, "monotonic", lambda: float(next(clock)))
    run.kill_at(7, monkeypatch)
    run.run()
    result = run.written["result"]
    assert result["seconds"] >= 8.0  # one tick at least for each of the eight steps, though two ran after the kill
    assert result["records_per_second"] == pytest.approx(32 / result["seconds"])
    assert result["energy_joules"] == {"cpu": pytest.approx(50 * result["seconds"], rel=0.5)}
    assert not [key for key in result["curves"] if "watts" in key]
