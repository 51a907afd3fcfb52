"""MLAE, the ablation of ST-MEM that hides whole leads (Na et al. 2024, arXiv 2402.09450)."""

from typing import Any

import torch
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Step
from bench.parts import MaskedAutoencoder, draw_random_mask, require_tokens


class MLAE(MaskedAutoencoder):
    """Hide whole leads and reconstruct them from the others.

    keep: share of the leads that the encoder sees (published: 0.25).
    decoder: width, depth and heads of the decoder (published: 256, 4, 4).
    """

    def __init__(self, encoder: Encoder, *, keep: float, decoder: dict[str, Any]):
        require_tokens(encoder, "lead-time")
        super().__init__(encoder, keep=keep, decoder=decoder)

    def draw_mask(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        time = torch.arange(n // self.encoder.leads, device=step.rng.device)

        def tokens_of(leads: Tensor) -> Tensor:
            return (leads[:, :, None] * len(time) + time).flatten(1)

        visible, hidden = draw_random_mask(self.encoder.leads, self.keep, step.rng)  # of leads
        return tokens_of(visible), tokens_of(hidden)
