"""LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, mlp


class LeJEPA(Method):
    """Make the embeddings of the views of a record equal, and those of all records an isotropic Gaussian.

    hidden: width of the two hidden layers of the projector (published: 2048).
    out: features of an embedding (published: 16).
    slices: random directions, drawn anew in each step, along which the embeddings are tested (published: 1,024).
    knots: points of the integral in the test (published: 17).
    weight: weight of the Gaussian term; the term for equal views has 1 - weight (published: 0.02).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, slices: int, knots: int, weight: float):
        super().__init__(encoder)
        self.projector = mlp(encoder.width, hidden, hidden, out)
        self.slices, self.knots, self.weight = slices, knots, weight

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.cat([step.gather(self.encoder(view).mean(1)) for view in views])
        z = self.projector(h).float().unflatten(0, (len(views), -1))  # (V, B, out)
        invariance = (z - z.mean(0)).square().mean()
        directions = torch.randn(z.shape[2], self.slices, generator=step.rng.generator, device=step.rng.device)
        sigreg = epps_pulley(z @ F.normalize(directions, dim=0), self.knots).mean()  # over views and slices
        loss = (1 - self.weight) * invariance + self.weight * sigreg
        return loss, {"invariance": invariance.detach(), "sigreg": sigreg.detach(), **agreement(z[0], z[1])}


def epps_pulley(x: Tensor, knots: int) -> Tensor:
    """The statistic of Epps and Pulley (1983) of samples x (..., B, S) against N(0, 1), (..., S).

    B times the integral over t in [-3, 3] of |mean of exp(itx) - exp(-t^2 / 2)|^2 exp(-t^2 / 2). The trapezoidal rule with
    `knots` points is applied to t >= 0; the other half is equal.
    """
    t = torch.linspace(0, 3, knots, device=x.device)
    normal = (-t.square() / 2).exp()
    phase = x.float().unsqueeze(-1) * t  # (..., B, S, knots)
    error = (phase.cos().mean(-3) - normal).square() + phase.sin().mean(-3).square()
    return 2 * x.shape[-2] * torch.trapezoid(error * normal, t)
