"""SimCLR (Chen et al. 2020, arXiv 2002.05709; on ECG Mehari & Strodthoff 2022, arXiv 2103.12676)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, mlp


class SimCLR(Method):
    """Find, for each view, the other view of its record among all views of the batch.

    hidden: width of the hidden layer of the projector (on ECG: 512).
    out: features of a projection (published: 128; on ECG: 16).
    temperature: what the cosines are divided by (published: 0.1; on ECG: 0.5).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, temperature: float):
        super().__init__(encoder)
        self.projector = mlp(encoder.width, hidden, out)
        self.temperature = temperature

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.cat([step.gather(self.encoder(view).mean(1)) for view in views])  # (2B, D)
        z = F.normalize(self.projector(h).float(), dim=1)  # (2B, out)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return F.cross_entropy(logits, positive), agreement(*z.chunk(2))
