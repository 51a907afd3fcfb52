"""Heads, which turn a backbone's tokens into logits. Heads of one kind can be stacked and computed at once.

In a stack every parameter has a leading dimension of S heads, and logits are (S, B, classes) instead of (B, classes).
Logits are linear in the vector that a head pools from the tokens. A head therefore averages this vector over the crops of a
record before it projects. B crops are `crops` adjacent ones for each of B / crops records.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import unknown
from bench.encoders.vit import Encoder
from bench.evaluation.crops import average_crops
from bench.runs.config import HeadConfig
from bench.training import optim


def split_axis(x: Tensor, axis: int, *sizes: int) -> Tensor:
    """The tensor with one axis split into several of these sizes; one size may be -1."""
    out: Tensor = x.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return out


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a layer without bias, or a stack of layers, with weights (..., C, D): (..., B, D) -> (..., B, C)."""
    out: Tensor = x @ layer.weight.mT
    return out


def attend(tokens: Tensor, query: Tensor, q: Tensor, kv: Tensor, *, heads: int, crops: int) -> Tensor:
    """Attend with the query of each of S stacked heads: (S x H, B / crops, D / H) pooled values, averaged over the crops.

    tokens (B, N, D). heads: the number H of attention heads. query (..., D). q (..., D, D) and kv (..., 2 D, D): weights of
    the projections. crops: see the top of this module.
    """
    kind = tokens.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype
    with torch.autocast(kind, enabled=False):
        tokens, queries = tokens.to(dtype), (query[..., None, :] @ q.mT).to(dtype)  # (..., 1, D)
        queries = split_axis(queries, -1, heads, -1).transpose(-3, -2)  # (..., H, 1, D / H)
        k, v = (split_axis(w.to(dtype), -2, heads, -1) for w in kv.chunk(2, dim=-2))  # (..., H, D / H, D)
        folded = queries @ k * k.shape[-2] ** -0.5  # (..., H, 1, D)
        scores = tokens @ folded.flatten(0, -2).mT  # (B, N, S x H)
        weights = scores.softmax(1, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
        if crops > 1:
            weights, tokens = (x.reshape(-1, crops * x.shape[1], x.shape[2]) for x in (weights / crops, tokens))
        pooled = (weights.mT @ tokens).transpose(0, 1).contiguous()  # (S x H, B, D)
        out: Tensor = pooled @ v.flatten(0, -3).mT
        return out


class AttentiveHead(nn.Module):
    """(B, R + N, D) tokens -> (..., B, classes) logits: one learned query attends over all tokens (registers too), and a
    projection of the pooled vector yields the logits. arXiv 2410.13867 calls this linear evaluation.

    There is one query and no bias, so q . (K t) = (K^T q) . t and sum w (V t) = V sum w t: no token needs a projection.
    """

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        width, self.heads = encoder.width, encoder.size.heads
        self.query = nn.Parameter(torch.empty(width))
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, classes, bias=False)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor, crops: int = 1) -> Tensor:
        values = attend(tokens, self.query, self.q.weight, self.kv.weight, heads=self.heads, crops=crops)
        values = split_axis(values, 0, *self.query.shape[:-1], self.heads).movedim(-3, -2)  # (..., B, H, D / H)
        return linear(values.flatten(-2), self.proj)


class MeanHead(nn.Module):
    """(B, R + N, D) tokens -> (..., B, classes) logits, linear in the mean of the N patch tokens."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.registers = len(encoder.registers)
        self.proj = nn.Linear(encoder.width, classes, bias=False)

    def forward(self, tokens: Tensor, crops: int = 1) -> Tensor:
        pooled = tokens[:, self.registers:].mean(1, dtype=torch.float32)
        return linear(split_axis(pooled, 0, -1, crops).mean(1), self.proj)


class RegisterHead(nn.Module):
    """(B, R + N, D) tokens -> (..., B, classes) logits, linear in the first register token."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.proj = nn.Linear(encoder.width, classes, bias=False)

    def forward(self, tokens: Tensor, crops: int = 1) -> Tensor:
        return linear(split_axis(tokens[:, 0], 0, -1, crops).mean(1), self.proj)


HEADS: dict[str, type[nn.Module]] = {"attentive": AttentiveHead, "mean": MeanHead, "register": RegisterHead}


def build(name: str, encoder: Encoder, classes: int) -> nn.Module:
    """A new head of this name. Linear weights come from a truncated normal distribution with sd 0.02, as published."""
    if name not in HEADS:
        raise unknown("evaluation.head", name, HEADS)
    head = HEADS[name](encoder, classes)
    for part in head.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
    return head


def stack(heads: Sequence[nn.Module]) -> nn.Module:
    """Stack S heads of one kind and shape: (B, R + N, D) tokens -> (S, B, classes) logits, each head's as if it were alone."""
    out = copy.deepcopy(heads[0])
    for name, _ in heads[0].named_parameters():
        *parents, leaf = name.split(".")
        owner = out.get_submodule(".".join(parents))
        setattr(owner, leaf, nn.Parameter(torch.stack([h.get_parameter(name).detach() for h in heads])))
    return out


def clip_(stacked: nn.Module, largest: float) -> None:
    """Clip the gradient norm of each head of a stack, in place, as torch.nn.utils.clip_grad_norm_ does for one head."""
    grads = [p.grad for p in stacked.parameters() if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    scale = (largest / (norms + 1e-6)).clamp(max=1)
    if scale.device.type == "cpu" and bool((scale == 1).all()):  # the usual case; on a GPU the step would wait for the answer
        return
    for g in grads:
        g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))


class Classifier(nn.Module):
    """(B, 12, T) -> (B, classes) logits; a frozen encoder gets no gradient."""

    def __init__(self, encoder: Encoder, head: nn.Module, frozen: bool):
        super().__init__()
        self.encoder, self.head, self.frozen = encoder.requires_grad_(not frozen), head, frozen

    def tokens(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens: Tensor = self.encoder(x, registers=True)
            return tokens

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.tokens(x))
        return logits


@torch.no_grad()
def predict(model: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], n: int,
            probabilities: Callable[[Tensor], Tensor], settings: HeadConfig) -> np.ndarray:
    """(..., n, C) probabilities of n records. settings.average says whether logits or probabilities of crops are averaged.

    batches: pairs (input of the model: b crops or their tokens, index (b,) of each crop's record).
    """
    by_logits = settings.average == "logits"

    def values() -> Iterator[tuple[Tensor, Tensor]]:
        for x, owner in batches:
            with optim.autocast(x.device, settings.precision):
                logits = model(x).float()
            yield (logits if by_logits else probabilities(logits)).movedim(-2, 0), owner

    mean = average_crops(values(), n).movedim(0, -2)
    predictions: np.ndarray = (probabilities(mean) if by_logits else mean).numpy()
    return predictions
