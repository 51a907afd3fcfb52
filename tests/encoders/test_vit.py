"""The backbone computes what the published implementation computes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.backbones import import_published as published
from bench.core.errors import UserError
from bench.encoders import vit
from bench.encoders.vit import SIZES, Encoder, Size, sincos

NANO = Size(16, 2, 2)


def encoder(**settings: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(NANO, **settings)


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Tensor], dict, dict]:
    """(what it computes, its weights in our names, its config)."""
    content = np.load(shared / "golden" / "reference_a_io.npz")
    given = published.read_published(shared / "golden" / "reference_a_pretrain.pt")
    return {k: torch.from_numpy(np.asarray(content[k])) for k in content.files}, given.weights, given.config


def test_tokens_are_those_of_the_published_implementation(golden: tuple) -> None:
    io, weights, config = golden
    with torch.no_grad():
        net = published.build_encoder(config, weights["target_encoder"], "target_encoder")
        assert (net(io["x"]) - io["target_tokens"]).abs().max() < 1e-5
        net = published.build_encoder(config, weights["encoder"], "encoder")
        assert (net(io["x"], io["keep"]) - io["kept_tokens"]).abs().max() < 1e-5
    assert io["target_tokens"].std() > 0.5


@pytest.mark.parametrize(("size", "parameters"), [("xs", 3_600_000), ("s", 14_277_888), ("b", 85_185_024)])
def test_sizes_have_the_published_number_of_parameters_and_may_be_written_as_numbers(size: str, parameters: int) -> None:
    assert vit.parse_size(str(SIZES[size])) == SIZES[size]
    with torch.device("meta"):
        net = Encoder(SIZES[size], leads=12, patch=25, registers=1)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == parameters
    assert not [name for name, _ in net.named_parameters() if "bias" in name]


def test_trunc_normal_has_sd_0_02_and_residual_projections_are_scaled_down_by_depth() -> None:
    net = Encoder(Size(128, 8, 4))
    for name, part in net.named_modules():
        if isinstance(part, nn.Linear):
            sd = 0.02 / math.sqrt(16) if name.endswith((".proj", ".fc2")) else 0.02
            assert part.weight.std().item() == pytest.approx(sd, rel=0.03), name
            assert abs(part.weight.mean().item()) < 0.05 * sd, name


@pytest.mark.parametrize("tokens", ["time", "lead-time"])
def test_xavier_uniform_fills_its_bounds_and_time_patches_are_those_of_a_convolution(tokens: str) -> None:
    net = Encoder(Size(128, 2, 4), tokens=tokens, patch=25, init="xavier_uniform")
    for name, part in net.named_modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / sum(part.weight.shape))
            if name == "embed" and tokens == "time":
                bound = math.sqrt(6 / sum(nn.init._calculate_fan_in_and_fan_out(torch.empty(128, 12, 25))))
            assert 0.99 * bound < part.weight.abs().max().item() <= bound, name


def test_kept_tokens_keep_their_positions_and_do_not_see_the_rest() -> None:
    net, x = encoder(patch=25), torch.randn(3, 12, 250)
    keep = torch.tensor([[9, 2, 5], [0, 1, 2], [7, 8, 4]])
    changed = x.clone()
    changed[0, :, 75:125] += 1.0  # patches 3 and 4: hidden in record 0
    with torch.no_grad():
        assert torch.equal(net(x, keep)[0], net(changed, keep)[0])
        assert (net(x, keep) - net(x, keep.flip(1)).flip(1)).abs().max() < 1e-5
        assert (net(x, torch.arange(10).expand(3, -1)) - net(x)).abs().max() < 1e-6
        assert (net(x.roll(25, 2), keep) - net(x, keep)).abs().max() > 1e-3


def test_dropout_is_drawn_in_training_alone() -> None:
    net, x = encoder(dropout=0.3), torch.randn(2, 12, 100)
    with torch.no_grad():
        assert not torch.equal(net.train()(x), net(x))
        assert torch.equal(net.eval()(x), encoder(dropout=0.0)(x))


LEAD_TIME = {"tokens": "lead-time", "patch": 25}


def naive_lead_time(net: Encoder, x: Tensor, keep: list[int] | None = None) -> Tensor:
    """(R + K, D) of one record (12, T): the sequence put together token by token."""
    n = x.shape[1] // 25
    times = sincos(n + 2, 16, first=-1)
    assert torch.equal(times[1:-1], sincos(n, 16))
    tokens = [net.registers[i] for i in range(len(net.registers))]
    for end in (times[0], times[-1]):
        tokens += [net.separator + end + net.lead[lead] for lead in range(12)]
    first = len(tokens)
    for token in range(12 * n) if keep is None else keep:
        lead, t = divmod(token, n)
        tokens.append(net.embed.weight @ x[lead, 25 * t: 25 * (t + 1)] + sincos(n, 16)[t] + net.lead[lead])
    h = torch.stack(tokens)[None]
    for block in net.blocks:
        h = block(h)
    h = net.norm(h)[0]
    return torch.cat([h[: len(net.registers)], h[first:]])


@pytest.mark.parametrize("registers", [0, 1, 2])
def test_a_token_of_one_lead_knows_its_time_and_lead_and_each_lead_has_two_separators(registers: int) -> None:
    net, x = encoder(registers=registers, **LEAD_TIME), torch.randn(2, 12, 100)
    keep = torch.tensor([[40, 3, 9], [0, 47, 11]])
    with torch.no_grad():
        every, some = net(x, registers=True), net(x, keep)
        assert every.shape == (2, registers + 48, 16)
        assert torch.equal(every[:, registers:], net(x))
        for b in range(2):
            assert (every[b] - naive_lead_time(net, x[b])).abs().max() < 1e-5
            assert (some[b] - naive_lead_time(net, x[b], keep[b].tolist())[registers:]).abs().max() < 1e-5


@pytest.mark.parametrize(("build", "words"), [
    (lambda: encoder()(torch.randn(1, 12, 260)),
     "a view of 260 samples does not divide into patches of 25 samples; change encoder.patch"),
    (lambda: Encoder(Size(16, 1, 3)), "width 16 does not divide into 3 heads"),
    (lambda: encoder(init="xavier"), "unknown initialisation 'xavier'; did you mean 'xavier_uniform'"),
    *((lambda size=size: vit.parse_size(size), rf"unknown encoder\.size '{size}'.* Known: WIDTHxDEPTHxHEADS, b, s, tiny, xs")
      for size in ("0x2x2", "16x2"))])
def test_impossible_shapes_say_what_to_change(build: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()
