"""ST-MEM (Na et al. 2024, arXiv 2402.09450)."""

from typing import Any

import torch
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Step
from bench.parts import MaskedAutoencoder, MaskedDecoder, draw_random_mask, require_tokens


class LeadWiseDecoder(MaskedDecoder):
    """Decode every lead from its own tokens only, with shared weights.

    Tokens are in the order of the leads, and every lead has the same number of visible tokens.
    """

    def __init__(self, encoder: Encoder, width_out: int, *, width: int, depth: int, heads: int):
        super().__init__(encoder, width_out, width=width, depth=depth, heads=heads)
        self.leads, self.lead = encoder.leads, None  # no lead embedding: the encoder's tokens say which lead it is

    def forward(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        n = (visible.shape[1] + hidden.shape[1]) // self.leads
        tokens, visible, hidden = (torch.unflatten(a, 1, (self.leads, -1)).flatten(0, 1) for a in (tokens, visible, hidden))
        predictions = super().forward(tokens, visible % n, hidden % n)  # (B * C, M, width_out)
        return torch.unflatten(predictions, 0, (-1, self.leads)).flatten(1, 2)


class STMEM(MaskedAutoencoder):
    """Hide patches of single leads and reconstruct them, each lead from its own tokens.

    keep: share of the patches of every lead that the encoder sees (published: 0.25).
    decoder: width, depth and heads of the decoder (published: 256, 4, 4).
    """

    Decoder = LeadWiseDecoder

    def __init__(self, encoder: Encoder, *, keep: float, decoder: dict[str, Any]):
        require_tokens(encoder, "lead-time")
        super().__init__(encoder, keep=keep, decoder=decoder)

    def draw_mask(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        leads = self.encoder.leads
        first = torch.arange(0, n, n // leads, device=step.rng.device)[:, None]  # the first token of each lead
        visible, hidden = draw_random_mask(n // leads, self.keep, step.rng, leads)  # (B, C, K) and (B, C, M) within a lead
        return (visible + first).flatten(1), (hidden + first).flatten(1)
