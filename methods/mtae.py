"""MTAE, the ablation of ST-MEM that has no lead tokens (Na et al. 2024, arXiv 2402.09450): MAE with the patches of ST-MEM."""

from torch import Tensor

from bench.method import Step
from bench.parts import MaskedAutoencoder, draw_random_mask


class MTAE(MaskedAutoencoder):
    """Hide random patches of all leads and reconstruct them. The code is that of mae; the yaml sets a longer patch.

    keep: share of the patches that the encoder sees (published: 0.25).
    decoder: width, depth and heads of the decoder (published: 256, 4, 4).
    """

    twin = "mae"

    def draw_mask(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        return draw_random_mask(n, self.keep, step.rng)
