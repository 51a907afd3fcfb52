"""CMSC, contrastive multi-segment coding (Kiyasseh et al. 2021, CLOCS, arXiv 2005.13249)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, full_precision


class CMSC(Method):
    """Make the two halves of a record, and all records of a patient, more alike than those of different patients.

    temperature: what the cosines are divided by (published: 0.1).
    """

    def __init__(self, encoder: Encoder, *, temperature: float):
        super().__init__(encoder)
        self.temperature = temperature

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        assert step.patients is not None
        a, b = (step.gather(self.encoder(half).mean(1)).float() for half in x.chunk(2, dim=2))
        return contrast(a, b, step.gather(step.patients), self.temperature), agreement(a, b)


def contrast(a: Tensor, b: Tensor, patients: Tensor, temperature: float) -> Tensor:
    """The loss of segments a, b (B, D) of patients (B,), a scalar.

    Let t_ij = -log softmax_j(s_ij) / 2 - log softmax_i(s_ij) / 2 with s_ij = cos(a_i, b_j) / temperature. The first part is the
    mean of t over i = j. If two records are of one patient, the second part is the mean of t over all such i != j, and the loss
    is the mean of both parts; else the loss is the first part. These are the terms of equations 2 and 3 with equal weights, as
    in the published implementation. That one takes each i != j in one direction only, and so depends on the order of the
    records.
    """
    with full_precision(a):
        s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    terms = -(s.log_softmax(1) + s.log_softmax(0)) / 2
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    others = (patients[:, None] == patients) & ~own
    count = others.sum()
    same, other = terms.diagonal().mean(), torch.where(others, terms, 0).sum() / count.clamp(min=1)
    return torch.where(count > 0, (same + other) / 2, same)
