"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057), which has no queue: the keys are those of the batch."""

import torch
from torch import Tensor, nn

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, cosine, ema_, frozen_copy, info_nce, mlp


class MoCo(Method):
    """Find, for the query of one view, the key of the other view among the keys of the batch. An EMA encoder makes the keys.

    hidden: width of the hidden layers of projector and predictor (published: 4096).
    out: features of a query or key (published: 256).
    momentum: the EMA's momentum in the first step; it rises to 1 along half a cosine (published: 0.99).
    temperature: what the cosines are divided by (published: 0.2).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, momentum: float, temperature: float):
        super().__init__(encoder)
        self.projector = with_last_norm(mlp(encoder.width, hidden, hidden, out), out)
        self.predictor = with_last_norm(mlp(out, hidden, out), out)
        self.key_encoder, self.key_projector = frozen_copy(encoder), frozen_copy(self.projector)
        self.momentum, self.temperature = momentum, temperature

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        q1, q2 = (self.predictor(self.projector(step.gather(self.encoder(view).mean(1)))) for view in views)
        with torch.no_grad():
            k1, k2 = (self.key_projector(step.gather(self.key_encoder(view).mean(1))) for view in views)
        loss = info_nce(q1, k2, self.temperature) + info_nce(q2, k1, self.temperature)
        momentum = torch.tensor(cosine(self.momentum, 1.0, step.progress))
        return 2 * self.temperature * loss, {**agreement(q1, k2), "momentum": momentum}

    def after_step(self, step: Step) -> None:
        momentum = cosine(self.momentum, 1.0, step.progress)
        ema_(self.key_encoder, self.encoder, momentum)
        ema_(self.key_projector, self.projector, momentum)


def with_last_norm(layers: nn.Sequential, out: int) -> nn.Sequential:
    """The layers and, after the last, a batch norm without a scale of its own (published implementation)."""
    return nn.Sequential(*layers, nn.BatchNorm1d(out, affine=False))
