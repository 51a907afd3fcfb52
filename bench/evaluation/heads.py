"""What turns a backbone's tokens into logits."""

import torch
from torch import Tensor, nn

from bench.errors import unknown
from bench.vit import Encoder, attend


class AttentiveHead(nn.Module):
    """(B, R + N, D) tokens -> (B, classes) logits: one learned query attends over all tokens (registers too) and its
    projection yields the logits. arXiv 2410.13867 calls this linear evaluation."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        width, self.heads = encoder.width, encoder.size.heads
        self.query = nn.Parameter(torch.empty(width))
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, classes, bias=False)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        q = self.q(self.query).view(1, self.heads, 1, -1).expand(len(tokens), -1, -1, -1)
        k, v = self.kv(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).flatten(1))


class RegisterHead(nn.Module):
    """(B, R + N, D) tokens -> (B, classes) logits, linear in the first register token."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.proj = nn.Linear(encoder.width, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(tokens[:, 0])


HEADS: dict[str, type[nn.Module]] = {"attentive": AttentiveHead, "register": RegisterHead}


def build(name: str, encoder: Encoder, classes: int) -> nn.Module:
    """The named head; linear weights truncated normal with sd 0.02, as published."""
    if name not in HEADS:
        raise unknown("evaluation.head", name, HEADS)
    head = HEADS[name](encoder, classes)
    for part in head.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
    return head


class Classifier(nn.Module):
    """(B, 12, T) -> (B, classes) logits; a frozen encoder gets no gradient."""

    def __init__(self, encoder: Encoder, head: nn.Module, frozen: bool):
        super().__init__()
        self.encoder, self.head, self.frozen = encoder.requires_grad_(not frozen), head, frozen

    def tokens(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(x, registers=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x))
