"""Detects collapse: a backbone has collapsed if it maps all records to nearly the same features."""

import torch
from torch import Tensor

from bench.method import Method

POINTS = 20  # how often a run looks for collapse, whatever its length
BATCH = 256  # records in the fixed batch that it looks at
PART = 64  # records per forward pass


def rankme(features: Tensor) -> float:
    """Effective rank of (n, D) features: exp of the entropy of their singular values.

    Source, also of the epsilon: Garrido et al. 2023, arXiv 2210.02885. Features that are all 0 have rank 1.
    """
    s = torch.linalg.svdvals(features.double())
    p = s / s.sum().clamp(min=torch.finfo(s.dtype).tiny) + 1e-7
    return torch.exp(-(p * p.log()).sum()).item()


@torch.no_grad()
def measure_collapse(model: Method, batch: Tensor) -> dict[str, float]:
    """{rankme, feature_sd} of the mean tokens (B, D) of a batch (B, leads, samples); {} where a token is not finite.

    feature_sd is the sd over the records, averaged over the features. Both numbers fall early if training collapses.
    """
    backbone = model.backbone()
    training = backbone.training
    backbone.eval()
    features = torch.cat([backbone.forward(x).mean(1).double() for x in torch.split(batch, PART)])
    backbone.train(training)
    if not features.isfinite().all():
        return {}  # the loss of the next step stops the run and names the step
    return {"rankme": rankme(features), "feature_sd": features.std(0).mean().item()}
