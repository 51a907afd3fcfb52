"""BYOL (Grill et al. 2020, arXiv 2006.07733; on ECG Mehari & Strodthoff 2022, arXiv 2103.12676)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import agreement, cosine, ema_, frozen_copy, mlp


class BYOL(Method):
    """Predict, from one view, the projection of the other view by a target network that follows as an EMA.

    hidden: width of the hidden layer of projector and predictor (published: 4096; on ECG: 512).
    out: features of a projection (published: 256).
    momentum: the EMA's momentum in the first step; it rises to 1 along half a cosine (published: 0.996).
    """

    def __init__(self, encoder: Encoder, *, hidden: int, out: int, momentum: float):
        super().__init__(encoder)
        self.projector = mlp(encoder.width, hidden, out)
        self.predictor = mlp(out, hidden, out)
        self.target_encoder, self.target_projector = frozen_copy(encoder), frozen_copy(self.projector)
        self.momentum = momentum

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        q1, q2 = (self.predictor(self.projector(step.gather(self.encoder(view).mean(1)))).float() for view in views)
        with torch.no_grad():
            z1, z2 = (self.target_projector(step.gather(self.target_encoder(view).mean(1))).float() for view in views)
        similarity = F.cosine_similarity(q1, z2) + F.cosine_similarity(q2, z1)
        momentum = torch.tensor(cosine(self.momentum, 1.0, step.progress))
        return (4 - 2 * similarity).mean(), {**agreement(q1, z2), "momentum": momentum}

    def after_step(self, step: Step) -> None:
        momentum = cosine(self.momentum, 1.0, step.progress)
        ema_(self.target_encoder, self.encoder, momentum)
        ema_(self.target_projector, self.projector, momentum)
