"""Pieces that at least two methods share. A piece that only one method needs stands in that method's file.

Shapes: B records of a batch, C leads, N tokens, K visible and M hidden tokens, D features.
"""

import abc
import copy
import itertools
import math
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.rng import Rng
from bench.encoders.vit import NORM_EPS, Block, Encoder, Size, initialise_, positions, take
from bench.method import Method, Step

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """A deep copy whose parameters take no gradient: an EMA teacher before its first step."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move target towards source in place: target <- momentum * target + (1 - momentum) * source. Buffers are copied."""
    torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in source.parameters()], 1 - momentum)
    for t, s in zip(target.buffers(), source.buffers(), strict=True):
        t.copy_(s)


def cosine(start: float, end: float, progress: float) -> float:
    """The value at `progress` of half a cosine from start (progress 0) to end (progress 1): the momentum of BYOL, MoCo v3
    and DINO."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def mlp(*widths: int) -> nn.Sequential:
    """Layers from widths[0] to widths[-1] features, (B, widths[0]) -> (B, widths[-1]).

    Each hidden layer is a linear map, a batch norm and a ReLU; the last is a linear map. No linear map has a bias. The batch
    norm needs the whole batch: call it on step.gather(...).
    """
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which matrix products on x's device are not rounded to bfloat16: for similarities and covariances."""
    return torch.autocast(x.device.type, enabled=False)


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """The InfoNCE loss of queries (B, D) against keys (B, D), a scalar (van den Oord et al. 2018, arXiv 1807.03748).

    Mean over i of -log softmax_j(cos(query_i, key_j) / temperature) at j = i.
    """
    with full_precision(queries):
        logits = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(queries), device=queries.device))


@torch.no_grad()
def agreement(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Alignment and uniformity of the embeddings a, b (B, D) of two views (Wang and Isola 2020, arXiv 2005.10242).

    alignment: mean cosine of the two views of a record. uniformity: log of the mean of exp(-2 |a_i - a_j|^2) over pairs of
    different records, after normalising each embedding to length 1.
    """
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    squares = 2 - 2 * (a @ a.T)
    others = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    uniformity = torch.where(others, (-2 * squares).exp(), 0).sum().div(others.sum()).log()
    return {"alignment": (a * b).sum(1).mean(), "uniformity": uniformity}


def require_tokens(encoder: Encoder, kind: str) -> None:
    """UserError unless encoder.tokens is this kind, "time" or "lead-time"."""
    if encoder.tokens != kind:
        raise UserError(f"this method needs encoder.tokens {kind}, got {encoder.tokens}; write encoder.tokens={kind}")


def draw_random_mask(n: int, keep: float, rng: Rng, *groups: int) -> tuple[Tensor, Tensor]:
    """Visible (B, K) and hidden (B, N - K) indices of n tokens, K = round(keep * n), every subset equally likely.

    groups: further dimensions that each get a mask of their own: (B, *groups, K) and (B, *groups, N - K). UserError if all or no
    tokens would be visible.
    """
    count = round(n * keep)
    if not 0 < count < n:
        raise UserError(f"method.keep = {keep} of {n} patches leaves {count} visible; some must be visible and some hidden")
    order = rng.rand(*groups, n).argsort(dim=-1)
    return order[..., :count], order[..., count:]


def draw_block_mask(n: int, visible: int, block: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Visible (B, K) and hidden (B, N - K) indices of n tokens, sorted; the hidden ones form blocks of at least `block` tokens.

    The rule of the published JEPA: until n - visible tokens are hidden, choose one of the intervals that are still
    visible, with probability proportional to its length. Draw the length of a block uniformly between `block` and the number
    of tokens left to hide, and place the block uniformly inside the interval. An interval that is not longer than the
    block is hidden whole. A rest shorter than `block` is attached to a block that exists.
    Here all records of the whole batch take each turn at once, on lists of intervals (turns + 1, batch).
    UserError if all or no tokens would be visible, or if `block` is less than 1.
    """
    if not 0 < visible < n:
        raise UserError(f"{visible} of {n} patches would be visible; some must be visible and some hidden")
    if block < 1:
        raise UserError(f"method.block must be 1 patch or more, got {block}")
    start, end = _draw_intervals(n, visible, block, rng)
    edges = torch.zeros(rng.batch, n + 1, dtype=torch.int8, device=rng.device)
    one = torch.ones(rng.batch, len(start), dtype=torch.int8, device=rng.device)
    edges.scatter_add_(1, start.T.long(), one).scatter_add_(1, end.T.long(), -one)
    mask = edges[:, :n].cumsum(1, dtype=torch.int8).bool()
    return true_columns(mask, visible)[rng.rows], true_columns(~mask, n - visible)[rng.rows]


def _draw_intervals(n: int, visible: int, block: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Starts and ends (turns + 1, batch) of the visible intervals that draw_block_mask leaves."""
    device, batch, whole = rng.device, rng.batch, torch.int32
    left = torch.full((batch,), n - visible, dtype=whole, device=device)
    start = torch.zeros(1, batch, dtype=whole, device=device)
    end = torch.full((1, batch), n, dtype=whole, device=device)

    # A turn hides at least a block, or the last rest, or a whole interval. This bounds the number of turns.
    for turn in range(min(n - visible, 2 * ((n - visible) // block) + 3)):
        if left.is_cpu and not left.any():  # on a GPU the test would wait for the device; there, further turns change nothing
            break
        u = torch.rand(3, batch, generator=rng.generator, device=device)
        ends = (end - start).cumsum(0, dtype=whole)
        pick = (ends <= (u[0] * ends[-1]).to(whole)).sum(0, keepdim=True).clamp_(max=turn)
        s, e = start.gather(0, pick)[0], end.gather(0, pick)[0]
        free = left >= block
        length = torch.where(free, block + (u[1] * (left - block + 1)).to(whole), left)
        length = torch.minimum(length, e - s)
        room = e - s - length
        touching = room * ((s == 0) | (e < n) & (u[2] < 0.5))
        s = s + torch.where(free | (room == n - length), (u[2] * (room + 1)).to(whole), touching)
        start = torch.cat([start, (s + length)[None]])
        end = torch.cat([end.scatter(0, pick, s[None]), e[None]])
        left = left - length
    return start, end


def true_columns(mask: Tensor, count: int) -> Tensor:
    """The columns (B, count), ascending, at which mask (B, n) is true. Each row must hold `count` true values."""
    if not mask.is_cpu:
        return true_columns_by_rank(mask, count)
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # many times faster on a CPU
    rows = mask.shape[1] * torch.arange(len(mask))
    return flat.view(len(mask), count).sub_(rows[:, None])


def true_columns_by_rank(mask: Tensor, count: int) -> Tensor:
    """The same as true_columns, but without a search, because a search would wait for the GPU."""
    rank = torch.where(mask, mask.cumsum(1), 0)  # 1, 2, ... of the true values
    column = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return torch.empty(len(mask), count + 1, dtype=column.dtype, device=mask.device).scatter_(1, rank, column)[:, 1:]


class MaskedDecoder(nn.Module):
    """A transformer that predicts hidden tokens from visible ones: the decoder of MAE, the predictor of JEPA.

    width_out: features of a prediction.
    width, depth, heads: size of the transformer; 0 means half the encoder's width, its depth, its heads, which is what
    the published JEPA configurations use.
    """

    def __init__(self, encoder: Encoder, width_out: int, *, width: int, depth: int, heads: int):
        super().__init__()
        size = Size(width or encoder.width // 2, depth or encoder.size.depth, heads or encoder.size.heads)
        self.width = size.width
        self.embed = nn.Linear(encoder.width, size.width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(size.width))
        self.lead = None if encoder.lead is None else nn.Parameter(torch.empty(encoder.leads, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPS, bias=False)
        self.proj = nn.Linear(size.width, width_out, bias=False)
        initialise_(self, encoder.init, size.depth)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if self.lead is not None:
            nn.init.trunc_normal_(self.lead, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions (B, M, width_out) at the indices `hidden` (B, M), from tokens (B, K, D) at `visible` (B, K)."""
        position = positions(visible.shape[1] + hidden.shape[1], self.width, self.lead, tokens.device)
        x = torch.cat([self.embed(tokens) + position[visible], self.mask_token + position[hidden]], dim=1)
        for block in self.blocks:
            x = block(x)
        predictions: Tensor = self.proj(self.norm(x[:, visible.shape[1]:]))
        return predictions


class MaskedAutoencoder(Method):
    """Hide patches and reconstruct their samples from the visible ones (He et al. 2022, arXiv 2111.06377).

    A subclass chooses the hidden patches (draw_mask). The target is the hidden patch, normalised by its own mean and sd; the loss
    is the mean squared error.

    keep: share of the patches that the encoder sees.
    decoder: width, depth and heads of the decoder (see MaskedDecoder).
    """

    Decoder: type[MaskedDecoder] = MaskedDecoder

    def __init__(self, encoder: Encoder, *, keep: float, decoder: dict[str, Any]):
        super().__init__(encoder)
        self.keep = keep
        self.decoder = self.Decoder(encoder, encoder.patch_width, **decoder)

    @abc.abstractmethod
    def draw_mask(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        """Visible (B, K) and hidden (B, n - K) indices of n tokens."""

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """See Method.forward."""
        (x,) = views
        patches = self.encoder.patchify(x)  # (B, N, patch_width)
        visible, hidden = self.draw_mask(patches.shape[1], step)
        predicted = self.decoder(self.encoder(x, visible), visible, hidden)
        target = take(patches, hidden)
        variance, mean = target.var(-1, keepdim=True), target.mean(-1, keepdim=True)
        return (predicted - (target - mean) / (variance + 1e-6).sqrt()).square().mean(), {}
