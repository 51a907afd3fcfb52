"""Pieces that methods share. A piece that one method needs lives in its file."""

import abc
import copy
import itertools
import math
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.rng import Rng
from bench.encoders.vit import NORM_EPS, Block, Encoder, Size, initialise_, positions, take
from bench.method import Method, Step

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A deep copy without gradients: an EMA teacher before its first step."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * source, in place; buffers are copied."""
    torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in source.parameters()], 1 - momentum)
    for t, s in zip(target.buffers(), source.buffers(), strict=True):
        t.copy_(s)


def cosine(start: float, end: float, progress: float) -> float:
    """From start at progress 0 to end at progress 1, along half a cosine: the momentum of BYOL, MoCo v3 and DINO."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def mlp(*widths: int) -> nn.Sequential:
    """Linear, batch norm, ReLU for every hidden width, a bare linear last. It takes the whole batch (step.gather)."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which matrix products on x's device are not rounded to bfloat16: similarities and covariances."""
    return torch.autocast(x.device.type, enabled=False)


def info_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Mean of -log softmax(cos(q_i, k_j) / temperature) at j = i: q (B, D), k (B, D) (van den Oord et al. 2018,
    arXiv 1807.03748)."""
    with full_precision(q):
        logits = F.normalize(q.float(), dim=1) @ F.normalize(k.float(), dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device))


@torch.no_grad()
def agreement(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """alignment: mean cosine of the two views of a record; uniformity: log of the mean of exp(-2 |a_i - a_j|^2) over
    pairs of records, on the sphere (Wang and Isola 2020, arXiv 2005.10242). a, b (B, D)."""
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    squares = 2 - 2 * (a @ a.T)
    others = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    uniformity = torch.where(others, (-2 * squares).exp(), 0).sum().div(others.sum()).log()
    return {"alignment": (a * b).sum(1).mean(), "uniformity": uniformity}


def needs_tokens(encoder: Encoder, kind: str) -> None:
    """UserError unless the encoder's tokens are of this kind."""
    if encoder.tokens != kind:
        raise UserError(f"this method needs encoder.tokens {kind}, got {encoder.tokens}")


def random_split(n: int, keep: float, rng: Rng, *groups: int) -> tuple[Tensor, Tensor]:
    """Uniform mask without structure: kept (B, K) and hidden (B, N - K) patch indices, K = round(keep N).

    With groups, one mask each: (B, *groups, K) and (B, *groups, N - K).
    """
    kept = round(n * keep)
    if not 0 < kept < n:
        raise UserError(f"method.keep = {keep} of {n} patches keeps {kept}: some must be kept and some hidden")
    order = rng.rand(*groups, n).argsort(dim=-1)
    return order[..., :kept], order[..., kept:]


def block_split(n: int, kept: int, block: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Contiguous hidden blocks of at least `block` patches: kept (B, K) and hidden (B, N - K) indices, sorted.

    The rule of the published JEPA: until n - kept patches are hidden, pick one of the intervals still visible
    with probability proportional to its length, draw a block length uniformly between `block` and what is
    left to hide, and place it uniformly inside. An interval that is not longer than the block is hidden
    whole; a rest shorter than `block` is attached to a block that exists. Here all records of the whole batch
    take each turn together, on lists of intervals (turns + 1, batch), not on patches.
    """
    if not 0 < kept < n:
        raise UserError(f"{kept} of {n} patches would be kept: some must be kept and some hidden")
    if block < 1:
        raise UserError(f"method.block must be 1 patch or more, got {block}")
    device, batch, whole = rng.device, rng.batch, torch.int32
    left = torch.full((batch,), n - kept, dtype=whole, device=device)
    start = torch.zeros(1, batch, dtype=whole, device=device)
    end = torch.full((1, batch), n, dtype=whole, device=device)

    # A turn hides a block or more, or the last rest, or a whole interval, of which no turn leaves more than one behind.
    for turn in range(min(n - kept, 2 * ((n - kept) // block) + 3)):
        if left.is_cpu and not left.any():  # another device is not waited for: the turns that are left change nothing
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

    edges = torch.zeros(batch, n + 1, dtype=torch.int8, device=device)
    one = torch.ones(batch, len(start), dtype=torch.int8, device=device)
    edges.scatter_add_(1, start.T.long(), one).scatter_add_(1, end.T.long(), -one)
    visible = edges[:, :n].cumsum(1, dtype=torch.int8).bool()
    return columns(visible, kept)[rng.rows], columns(~visible, n - kept)[rng.rows]


def columns(mask: Tensor, count: int) -> Tensor:
    """(B, n) bool, `count` of each row true -> (B, count) where they are, ascending."""
    if not mask.is_cpu:
        return columns_by_rank(mask, count)
    found = torch.from_numpy(np.flatnonzero(mask.numpy()))  # many times as fast there
    rows = mask.shape[1] * torch.arange(len(mask))
    return found.view(len(mask), count).sub_(rows[:, None])


def columns_by_rank(mask: Tensor, count: int) -> Tensor:
    """As columns, without a wait for the device, which a search for what is true would be."""
    rank = torch.where(mask, mask.cumsum(1), 0)  # 1, 2, ... of those that are true
    column = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return torch.empty(len(mask), count + 1, dtype=column.dtype, device=mask.device).scatter_(1, rank, column)[:, 1:]


class MaskedDecoder(nn.Module):
    """Predict hidden positions from visible tokens: MAE's decoder, JEPA's predictor.

    `size` gives width, depth and heads; 0 means half the encoder's width, its depth, its heads, which is
    what the published JEPA configurations use.
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

    def forward(self, tokens: Tensor, keep: Tensor, hidden: Tensor) -> Tensor:
        """tokens (B, K, D) at keep (B, K) -> predictions (B, M, width_out) at hidden (B, M)."""
        position = positions(keep.shape[1] + hidden.shape[1], self.width, self.lead, tokens.device)
        x = torch.cat([self.embed(tokens) + position[keep], self.mask_token + position[hidden]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, keep.shape[1]:]))


class MaskedAutoencoder(Method):
    """Hide tokens, reconstruct them from the rest (He et al. 2022, arXiv 2111.06377). `split` says which are hidden."""

    Decoder: type[MaskedDecoder] = MaskedDecoder

    def __init__(self, encoder: Encoder, *, keep: float, decoder: dict):
        super().__init__(encoder)
        self.keep = keep
        self.decoder = self.Decoder(encoder, encoder.patch_width, **decoder)

    @abc.abstractmethod
    def split(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        """Kept (B, K) and hidden (B, n - K) of n tokens."""

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        patches = self.encoder.patchify(x)  # (B, N, patch_width)
        keep, hidden = self.split(patches.shape[1], step)
        predicted = self.decoder(self.encoder(x, keep), keep, hidden)
        target = take(patches, hidden)
        variance, mean = target.var(-1, keepdim=True), target.mean(-1, keepdim=True)
        return (predicted - (target - mean) / (variance + 1e-6).sqrt()).square().mean(), {}
