"""SimCLR (Chen et al. 2020, arXiv 2002.05709; on ECG Mehari & Strodthoff 2022, arXiv 2103.12676)."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.method import Method


class SimCLR(Method):
    def __init__(self, encoder, *, hidden: int, out: int, temperature: float):
        super().__init__(encoder)
        self.projector = nn.Sequential(
            nn.Linear(encoder.width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, out, bias=False))
        self.temperature = temperature

    def forward(self, views, step):
        a, b = views
        h = self.encoder(torch.cat([a, b])).mean(1)  # (2B, D)
        z = F.normalize(self.projector(h).float(), dim=1)  # (2B, out)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        positive = torch.arange(len(z), device=z.device).roll(len(a))
        alignment = (z[: len(a)] * z[len(a):]).sum(1).mean()
        return F.cross_entropy(logits, positive), {"alignment": alignment.detach()}
