"""Schedules are those of the published implementation, and only weights of linear maps decay."""

from pathlib import Path

import configs
import numpy as np
import pytest
import torch
from torch import nn

from bench.encoders import vit
from bench.training import optim
from bench.training.optim import cosine

SETTINGS = configs.load("jepa", ["optim.steps=100", "optim.warmup_steps=10"]).optim


@pytest.fixture
def golden(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "golden" / "reference_a_io.npz"))


def test_schedules_are_those_of_the_published_implementation_past_the_end_too(golden: dict[str, np.ndarray]) -> None:
    steps = range(110)
    assert golden["lr"].shape == (110,)
    assert np.abs(golden["lr"] - [cosine(i, 100, 1e-3, 1e-6, warmup=10, warmup_start=1e-6) for i in steps]).max() < 1e-12
    assert np.abs(golden["wd"] - [cosine(i, 100, 0.01, 0.1) for i in steps]).max() < 1e-12


def test_the_loop_sets_these_schedules(golden: dict[str, np.ndarray]) -> None:
    optimiser = optim.adamw(vit.Encoder(vit.Size(16, 1, 2)), SETTINGS)
    for step in range(100):
        lr = optim.schedule_(optimiser, step, SETTINGS)
        decaying, rest = optimiser.param_groups
        assert (decaying["lr"], rest["lr"], rest["weight_decay"]) == (lr, lr, 0.0)
        assert max(abs(lr - golden["lr"][step]), abs(decaying["weight_decay"] - golden["wd"][step])) < 1e-12


def test_jepas_momentum_after_a_step_is_the_schedules_at_the_steps_taken(golden: dict[str, np.ndarray]) -> None:
    from bench.method import build_method, step_at

    settings = configs.load("jepa", ["method.predictor={width: 8, depth: 1, heads: 2}"]).method
    made = build_method(settings, vit.Encoder(vit.Size(16, 1, 2)))
    with torch.no_grad():
        for p, q in zip(made.target_encoder.parameters(), made.encoder.parameters(), strict=True):
            p.fill_(1.0)
            q.fill_(0.0)
    made.after_step(step_at(0, 57, 100, torch.device("cpu"), 1))
    assert made.target_encoder.norm.weight[0].item() == pytest.approx(golden["momentum"][57], abs=1e-7)


def test_only_weights_of_linear_and_convolution_layers_decay_with_the_constants_of_the_config() -> None:
    module = nn.ModuleDict({"encoder": vit.Encoder(vit.Size(16, 1, 2), layer_scale=0.1), "bn": nn.BatchNorm1d(4),
                            "conv": nn.Conv1d(2, 3, 5), "map": nn.Linear(4, 4)})
    module["frozen"] = nn.Linear(3, 3).requires_grad_(False)
    name_of = {id(p): n for n, p in module.named_parameters()}
    optimiser = optim.adamw(module, SETTINGS.replace(betas=(0.8, 0.7), eps=1e-3))
    groups = [{name_of[id(p)] for p in g["params"]} for g in optimiser.param_groups]
    assert {(g["betas"], g["eps"]) for g in optimiser.param_groups} == {((0.8, 0.7), 1e-3)}
    assert groups[0] == {"encoder.embed.weight", "conv.weight", "map.weight",
                         *(f"encoder.blocks.0.{k}.weight" for k in ("qkv", "proj", "fc1", "fc2"))}
    assert groups[1] == {"encoder.registers", "encoder.norm.weight", "bn.weight", "bn.bias", "conv.bias", "map.bias",
                         *(f"encoder.blocks.0.{k}.weight" for k in ("norm1", "norm2", "scale1", "scale2"))}


def test_bfloat16_is_warned_of_with_its_measured_cost_where_a_device_emulates_it(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    device = torch.device("cpu")
    monkeypatch.setattr(optim, "time_bfloat16", lambda _: 30.04)
    for native, precision, words in ((True, "bfloat16", ""), (False, "auto", ""), (False, "bfloat16", "takes 30.0 times as")):
        monkeypatch.setattr(optim, "has_bfloat16", lambda _, native=native: native)
        optim.warn_if_slow(device, precision)
        said = capsys.readouterr().err
        assert words in said and bool(said) == bool(words)
