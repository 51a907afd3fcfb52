"""VICReg (Bardes et al. 2022, arXiv 2105.04906)."""

import torch.nn.functional as F
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, full_precision, mlp


class VICReg(Method):
    """Make the embeddings of two views equal, each feature vary over the records, and different features uncorrelated.

    hidden: width of the two hidden layers of the projector (published: 8192).
    out: features of its output (published: 8192).
    invariance: weight of the squared distance of the two views (published: 25).
    variance: weight of max(0, 1 - sd) of a feature (published: 25).
    covariance: weight of the squared covariances of different features (published: 1).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, invariance: float, variance: float, covariance: float):
        super().__init__(encoder)
        self.projector = mlp(encoder.width, hidden, hidden, out)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        a, b = (self.projector(step.gather(self.encoder(view).mean(1))).float() for view in views)  # (B, out) each
        terms = {"invariance": F.mse_loss(a, b), "variance": variance(a) + variance(b),
                 "covariance": covariance(a) + covariance(b)}
        loss = sum((self.weights[name] * term for name, term in terms.items()), start=a.new_zeros(()))
        return loss, {**agreement(a, b), **{name: term.detach() for name, term in terms.items()}}


def variance(z: Tensor) -> Tensor:
    """The mean over the features of z (B, D) of max(0, 1 - sd); sd is over the records."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """The sum of the squared covariances of different features of z (B, D), divided by D."""
    z = z - z.mean(0)
    with full_precision(z):
        c = z.T @ z / (len(z) - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
