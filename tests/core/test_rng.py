"""Whoever shares a batch draws the numbers of its own records."""

import torch

from bench.core.rng import derive, seeded


def test_parts_draw_what_the_whole_draws() -> None:
    whole, parts = seeded(3, 8), [seeded(3, 8, rows=slice(first, first + 2)) for first in range(0, 8, 2)]
    for draw in ("rand", "randn"):
        whole_draw = getattr(whole, draw)(5, 2)
        assert whole_draw.shape == (8, 5, 2)
        assert torch.equal(torch.cat([getattr(part, draw)(5, 2) for part in parts]), whole_draw)
    assert not torch.equal(seeded(3, 8).rand(), seeded(4, 8).rand())


def test_derived_seeds_are_a_pure_function_and_all_different() -> None:
    numbers = [(seed, stream, step) for seed in range(3) for stream in range(7) for step in range(50)]
    seeds = [derive(*n) for n in numbers]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derive(*n) for n in numbers]
    assert all(0 <= s < 2**63 for s in seeds)
