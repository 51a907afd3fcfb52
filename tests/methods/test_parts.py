"""What methods share: masks by a rule, a decoder that cannot see what is hidden, a moving average."""

import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.rng import Rng, seeded
from bench.encoders.vit import Encoder, Size, sincos
from bench.parts import (
    MaskedDecoder,
    draw_block_mask,
    draw_random_mask,
    ema_,
    info_nce,
    true_columns,
    true_columns_by_rank,
)

MASKS = 3000
# patches, kept, shortest block; the last leaves short rests between two blocks
SETTINGS = [(40, 8, 10), (200, 40, 10), (60, 33, 5), (300, 271, 10)]


def rng(batch: int, seed: int = 0) -> Rng:
    return seeded(seed, batch)


def visible(n: int, keep: Tensor) -> np.ndarray:
    """(B, n) true where a patch is kept."""
    out = np.zeros((len(keep), n), bool)
    np.put_along_axis(out, keep.numpy(), True, 1)
    return out


def naive(n: int, kept: int, block: int, draw: random.Random) -> bytes:
    """n characters, 1 where a patch is kept: the rule, one block at a time."""
    seen = bytearray(b"1" * n)
    while (left := n - kept - seen.count(b"0")) > 0:
        intervals = [m.span() for m in re.finditer(b"1+", seen)]
        start, end = draw.choices(intervals, [e - s for s, e in intervals])[0]
        length = draw.randint(block, left) if left >= block else left
        if end - start <= length:
            at, length = start, end - start
        elif left >= block:
            at = draw.randint(start, end - length)
        else:
            at = draw.choice([start] * (start > 0) + [end - length] * (end < n))
        seen[at: at + length] = b"0" * length
    return bytes(seen)


def runs(masks: np.ndarray, value: bool) -> tuple[np.ndarray, np.ndarray]:
    """(mask, length) of every run of the value."""
    edges = np.diff(np.pad(masks == value, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, end) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    return row, end - start


def statistics(masks: np.ndarray) -> np.ndarray:
    """(masks, k): visibility by position, number of hidden and of visible runs of each length."""
    bins = np.unique(np.r_[1:16, 20, 25, 30, 40, 60, 80, 120, masks.shape[1] + 1])
    lengths = [np.histogram2d(*runs(masks, value), (np.arange(len(masks) + 1), bins))[0] for value in (False, True)]
    return np.concatenate([masks, *lengths], axis=1).astype(float)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two means, in standard errors."""
    x, y = statistics(a), statistics(b)
    error = np.sqrt(x.var(0) / len(x) + y.var(0) / len(y))
    rare = np.abs(x).sum(0) + np.abs(y).sum(0) < 40  # too few for a normal error
    return float((np.abs(x.mean(0) - y.mean(0))[~rare] / error[~rare].clip(1e-9)).max())


@pytest.mark.parametrize(("n", "kept", "block"), SETTINGS)
def test_blocks_have_the_statistics_of_the_rule(n: int, kept: int, block: int) -> None:
    masks, draw = visible(n, draw_block_mask(n, kept, block, rng(MASKS))[0]), random.Random(0)
    expected = np.frombuffer(b"".join(naive(n, kept, block, draw) for _ in range(MASKS)), np.uint8).reshape(MASKS, n) == ord("1")
    assert distance(masks, expected) < 4.5
    assert {block, n - kept} <= set(runs(masks, False)[1].tolist())


@pytest.mark.parametrize(("n", "kept", "block"), [*SETTINGS, (20, 19, 1), (20, 1, 3), (20, 18, 5), (12, 2, 10), (2, 1, 1)])
def test_every_mask_keeps_the_exact_number_and_hides_blocks_of_the_minimum_length(n: int, kept: int, block: int) -> None:
    keep, hidden = draw_block_mask(n, kept, block, rng(500))
    both = torch.cat([keep, hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(n).expand(500, -1))
    for part, columns in ((keep, kept), (hidden, n - kept)):
        assert part.shape == (500, columns)
        assert (part.diff(dim=1) > 0).all()  # sorted
    assert runs(visible(n, keep), False)[1].min() >= min(block, n - kept)


def test_columns_are_found_alike_with_and_without_a_search() -> None:
    mask = torch.rand(50, 30, generator=torch.Generator().manual_seed(0)).argsort(1) < 11
    assert torch.equal(true_columns(mask, 11), true_columns_by_rank(mask, 11))


@pytest.mark.parametrize(("draw", "words"), [
    (lambda: draw_block_mask(20, 20, 3, rng(2)), "20 of 20 patches would be visible"),
    (lambda: draw_block_mask(20, 5, 0, rng(2)), "method.block must be 1 patch or more, got 0"),
    (lambda: draw_random_mask(20, 0.01, rng(2)), r"method\.keep = 0.01 of 20 patches leaves")])
def test_a_mask_without_visible_or_hidden_patches_is_refused(draw: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw()


def test_random_masks_hide_every_patch_equally_often() -> None:
    keep, hidden = draw_random_mask(20, 0.25, rng(MASKS))
    assert keep.shape == (MASKS, 5)
    assert torch.equal(torch.cat([keep, hidden], 1).sort(1).values, torch.arange(20).expand(MASKS, -1))
    seen = visible(20, keep)
    share = seen.mean(0)
    assert np.abs(share - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / MASKS)
    pairs = (seen.astype(float).T @ seen.astype(float) / MASKS)[~np.eye(20, dtype=bool)]
    assert np.abs(pairs - 5 * 4 / (20 * 19)).max() < 5 * np.sqrt(0.05 / MASKS)  # no structure between patches


def test_ema_is_the_weighted_mean_and_copies_buffers() -> None:
    a, b = (torch.nn.BatchNorm1d(3) for _ in range(2))
    with torch.no_grad():
        a.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        b.weight.copy_(torch.tensor([3.0, 2.0, 7.0]))
    b.running_mean.fill_(5.0)
    ema_(a, b, 0.75)
    assert torch.equal(a.weight, torch.tensor([1.5, 2.0, 4.0]))
    assert torch.equal(a.running_mean, torch.full((3,), 5.0))
    assert torch.equal(b.weight, torch.tensor([3.0, 2.0, 7.0]))


def test_info_nce_is_not_rounded_to_bfloat16_under_autocast() -> None:
    q, k = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(q, k, 0.1)
    assert torch.equal(loss, info_nce(q, k, 0.1))


@pytest.mark.parametrize(("tokens", "leads"), [("time", 1), ("lead-time", 3)])
def test_a_decoder_knows_of_the_hidden_only_where_they_are(tokens: str, leads: int) -> None:
    """The prediction is what plain steps give: mask token + position beside the visible tokens, blocks, norm, map."""
    torch.manual_seed(0)
    net = MaskedDecoder(Encoder(Size(16, 2, 2), leads=3, tokens=tokens), 7, width=0, depth=0, heads=0)
    x, visible, hidden = torch.randn(1, 2, 16), torch.tensor([[5, 0]]), torch.tensor([[1, 2, 3, 4]])
    times = 6 // leads
    with torch.no_grad():
        h = torch.zeros(1, 6, 8)
        for i, place in enumerate([5, 0, 1, 2, 3, 4]):
            h[0, i] = (net.embed.weight @ x[0, i] if i < 2 else net.mask_token) + sincos(times, 8)[place % times]
            if leads > 1:
                h[0, i] += net.lead[place // times]
        for block in net.blocks:
            h = block(h)
        assert (net(x, visible, hidden) - net.norm(h)[:, 2:] @ net.proj.weight.T).abs().max() < 1e-6
