"""data2vec (Baevski et al. 2022, arXiv 2202.03555), in the form of data2vec 2.0 (2023, arXiv 2212.07525), in which the student
encodes the visible patches only."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError
from bench.encoders.vit import Encoder, take
from bench.method import Method, Step
from bench.parts import MaskedDecoder, draw_block_mask, ema_, frozen_copy


class Data2Vec(Method):
    """Predict, at hidden patches, the mean output of the top blocks of an EMA teacher that sees the whole record.

    keep: lowest and highest share of the patches that the student sees, drawn once per batch (as in jepa).
    block: shortest hidden block in patches (as in jepa).
    top: share of the teacher's blocks, counted from the last, that make the target (published: 8 of 12).
    momentum: the teacher's momentum at the start and after the ramp, linear in the step (published: 0.999 to 0.9999).
    ramp: share of the run after which the momentum stays constant (published: 30,000 steps).
    decoder: width, depth and heads of the decoder (see bench.parts.MaskedDecoder).
    """

    def __init__(self, encoder: Encoder, *, keep: list[float], block: int, top: float, momentum: list[float], ramp: float,
                 decoder: dict[str, Any]):
        super().__init__(encoder)
        if not 0 < top <= 1 or not 0 < ramp <= 1:
            raise UserError(f"method.top and method.ramp must be shares above 0 and up to 1, got {top} and {ramp}")
        self.keep, self.block, self.momentum, self.ramp = keep, block, momentum, ramp
        self.top = max(1, round(top * encoder.size.depth))  # blocks
        self.teacher = frozen_copy(encoder)
        self.decoder = MaskedDecoder(encoder, encoder.width, **decoder)

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        n = self.encoder.count_tokens(x)
        count = math.ceil(step.uniform(*self.keep) * n)  # one number of visible patches for the whole batch
        visible, hidden = draw_block_mask(n, count, self.block, step.rng)
        target = self.target(x)
        predicted = self.decoder(self.encoder(x, visible), visible, hidden)
        loss = (predicted - take(target, hidden)).square().mean()
        return loss, {"target_sd": target.std(1).mean(), "momentum": torch.tensor(self.momentum_at(step))}

    @torch.no_grad()
    def target(self, x: Tensor) -> Tensor:
        """The target (B, N, D) of x (B, C, T): the mean of the outputs of the MLPs of the teacher's top blocks, each feature
        normalised over the record's tokens. Without this, a target that is the same at every token could be learned without
        looking at the record."""
        outputs = self.teacher.mlp_outputs(x, self.top)
        return torch.stack([F.instance_norm(h.float().mT) for h in outputs]).mean(0).mT

    def momentum_at(self, step: Step) -> float:
        """The momentum of the teacher at this step."""
        start, end = self.momentum
        return start + (end - start) * min(1.0, step.progress / self.ramp)

    def after_step(self, step: Step) -> None:
        ema_(self.teacher, self.encoder, self.momentum_at(step))
