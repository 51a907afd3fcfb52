"""MAE, the masked autoencoder (He et al. 2022, arXiv 2111.06377), on time patches."""

from torch import Tensor

from bench.method import Step
from bench.parts import MaskedAutoencoder, draw_random_mask


class MAE(MaskedAutoencoder):
    """Hide random patches of all leads and reconstruct them.

    keep: share of the patches that the encoder sees (published: 0.25).
    decoder: width, depth and heads of the decoder (published: 512, 8, 16; on ECG 256, 4, 4).
    """

    def draw_mask(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        return draw_random_mask(n, self.keep, step.rng)
