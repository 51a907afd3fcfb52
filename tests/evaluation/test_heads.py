"""Crops, and the heads that read their tokens: each is what its formula says, alone or stacked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.loader import Crops
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation import heads
from bench.evaluation.crops import Epochs, average_crops, lay_grid

CPU = torch.device("cpu")


class Sum(nn.Module):
    """(B, 12, T) -> (B, 2): lead sums, so that a logit says which crop it saw."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sum(1), x[:, 5].square().sum(1)], 1) / 50


def build_stack(name: str = "attentive", count: int = 3, width: int = 16, classes: int = 3) -> tuple[list[nn.Module], nn.Module]:
    """(heads, the same as a stack)."""
    encoder = vit.Encoder(vit.Size(width, 1, 2))
    single = [heads.build(name, encoder, classes) for _ in range(count)]
    return single, heads.stack(single)


def project_all(head: nn.Module, tokens: Tensor) -> Tensor:
    """The attentive head as it is published: every token is projected."""
    assert isinstance(head, heads.AttentiveHead)
    q = head.q(head.query).view(1, head.heads, 1, -1).expand(len(tokens), -1, -1, -1)
    k, v = head.kv(tokens).unflatten(2, (2, head.heads, -1)).permute(2, 0, 3, 1, 4)
    return head.proj(F.scaled_dot_product_attention(q, k, v).flatten(1))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_record_is_the_mean_over_its_crops(tiny: Store, average: str) -> None:
    crops, rows = Crops(tiny, 250, CPU), np.arange(64, 80)
    owner = torch.arange(16).repeat_interleave(7).split(21)
    batches = zip(lay_grid(crops, rows, 125).batches(crops, 21), owner, strict=True)
    settings = SimpleNamespace(average=average, precision="float32")
    p = heads.predict(Sum(), batches, 16, torch.sigmoid, settings)  # type: ignore[arg-type]
    assert p.shape == (16, 2)
    for i, row in enumerate(rows):
        x = torch.tensor((tiny.signal(row) - tiny.mean[:, None]) / tiny.sd[:, None]).clamp(-5, 5)
        logits = torch.cat([Sum()(x[None, :, 125 * k: 125 * k + 250]) for k in range(7)])
        expected = logits.mean(0).sigmoid() if average == "logits" else logits.sigmoid().mean(0)
        assert p[i] == pytest.approx(expected.numpy(), abs=1e-5)


def test_records_of_different_numbers_of_crops_weigh_the_same() -> None:
    values, owner = torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([1, 1, 0])
    assert average_crops([(values[:2], owner[:2]), (values[2:], owner[2:])], 2).tolist() == [[7.0], [2.0]]


def test_an_epoch_has_every_record_once_and_its_crops_begin_anywhere() -> None:
    epochs, room = Epochs(np.arange(100, 164), 0), np.full(64, 751)
    orders = [epochs.order(e).tolist() for e in range(12)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len(set(map(tuple, orders))) == 12
    starts = np.concatenate([epochs.starts(e, room) for e in range(12)])
    assert (starts.min() < 15, starts.max() > 735, starts.max() <= 750) == (True, True, True)
    assert len(set(starts.tolist())) > 400
    assert epochs.order(5).tolist() == orders[5] != Epochs(epochs.rows, 1).order(5).tolist()


def test_folding_the_query_changes_neither_logits_nor_gradients() -> None:
    torch.manual_seed(0)
    single, _ = build_stack(width=48, classes=5)
    single = [head.double() for head in single]
    stacked, tokens = heads.stack(single), torch.randn(6, 11, 48, dtype=torch.float64, requires_grad=True)
    logits = stacked(tokens)
    assert logits.shape == (3, 6, 5)
    logits.sin().sum().backward()
    folded, tokens.grad = tokens.grad, None
    for s, head in enumerate(single):
        expected = project_all(head, tokens)
        assert (logits[s] - expected).abs().max() < 1e-14
        assert (head(tokens) - expected).abs().max() < 1e-14
        expected.sin().sum().backward()
        for key, parameter in head.named_parameters():
            assert torch.allclose(stacked.get_parameter(key).grad[s], parameter.grad, rtol=0, atol=1e-13), key
    assert torch.allclose(folded, tokens.grad, rtol=0, atol=1e-13)


def test_each_head_of_a_stack_is_clipped_by_its_own_norm() -> None:
    (single, stacked), sizes = build_stack(), (0.01, 1.0, 100.0)
    for key, parameter in stacked.named_parameters():
        parameter.grad = torch.stack([torch.full_like(h.get_parameter(key), g) for h, g in zip(single, sizes, strict=True)])
    heads.clip_(stacked, 1.0)
    for s, (head, g) in enumerate(zip(single, sizes, strict=True)):
        for parameter in head.parameters():
            parameter.grad = torch.full_like(parameter, g)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for key, parameter in head.named_parameters():
            assert torch.allclose(stacked.get_parameter(key).grad[s], parameter.grad, rtol=1e-6), key


def test_the_linear_heads_are_linear_in_the_mean_token_and_in_the_first_register() -> None:
    encoder, tokens = vit.Encoder(vit.Size(16, 1, 2), registers=2), torch.randn(4, 12, 16)
    mean, register = (heads.build(name, encoder, 3) for name in ("mean", "register"))
    assert torch.allclose(mean(tokens), tokens[:, 2:].mean(1) @ mean.get_parameter("proj.weight").T)
    assert torch.allclose(register(tokens), tokens[:, 0] @ register.get_parameter("proj.weight").T)
    torch.manual_seed(0)
    weights = heads.build("attentive", vit.Encoder(vit.Size(128, 1, 2)), 3).get_parameter("kv.weight")
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("name", ["attentive", "mean", "register"])
def test_logits_of_a_record_are_the_mean_over_its_crops_however_it_is_taken(name: str) -> None:
    _, stacked = build_stack(name, count=2)
    tokens = torch.randn(6 * 7, 11, 16, generator=torch.Generator().manual_seed(0))
    each = stacked(tokens).unflatten(-2, (6, 7)).mean(-2)
    torch.testing.assert_close(stacked(tokens, crops=7), each, rtol=0, atol=1e-6)
    assert each.std() > 1e-4
