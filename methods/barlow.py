"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230)."""

from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, full_precision, mlp


class BarlowTwins(Method):
    """Make the cross-correlation of the features of two views the identity matrix.

    hidden: width of the two hidden layers of the projector (published: 8192).
    out: features of its output (published: 8192).
    redundancy: weight of the correlations between different features, the paper's lambda (published: 0.0051).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, redundancy: float):
        super().__init__(encoder)
        self.projector = mlp(encoder.width, hidden, hidden, out)
        self.redundancy = redundancy

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        a, b = (standardise(self.projector(step.gather(self.encoder(view).mean(1))).float()) for view in views)
        with full_precision(a):
            c = a.T @ b / len(a)  # (out, out), the cross-correlation
        same = c.diagonal()
        others = c.square().sum() - same.square().sum()
        scalars = {"correlation": same.mean(), "redundancy": others / (c.numel() - len(c))}
        return (1 - same).square().sum() + self.redundancy * others, {
            **agreement(a, b), **{name: value.detach() for name, value in scalars.items()}}


def standardise(z: Tensor) -> Tensor:
    """Shift and scale each feature of z (B, D) to mean 0 and sd 1 over the records."""
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
