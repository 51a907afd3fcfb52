"""JEPA on time patches (Weimann & Conrad 2024, arXiv 2410.13867)."""

import math
from typing import Any

import torch
from torch import Tensor

from bench.encoders.vit import Encoder, take
from bench.method import Method, Step
from bench.parts import MaskedDecoder, draw_block_mask, ema_, frozen_copy


class JEPA(Method):
    """Predict, at hidden patches, the tokens of a target encoder that sees the whole record and follows as an EMA.

    keep: lowest and highest share of the patches that the encoder sees, drawn once per batch (published: 0.15 to 0.25).
    block: shortest hidden block in patches (published: 10).
    momentum: the target encoder's momentum in the first and after the last step, linear in between (published: 0.998 to 0.9995).
    predictor: width, depth and heads of the predictor (see bench.parts.MaskedDecoder; published: 0, 0, 0).
    """

    def __init__(self, encoder: Encoder, *, keep: list[float], block: int, momentum: list[float], predictor: dict[str, Any]):
        super().__init__(encoder)
        self.keep, self.block, self.momentum = keep, block, momentum
        self.target_encoder = frozen_copy(encoder)
        self.predictor = MaskedDecoder(encoder, encoder.width, **predictor)

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        n = self.encoder.count_tokens(x)
        count = math.ceil(step.uniform(*self.keep) * n)  # one number of visible patches for the whole batch
        visible, hidden = draw_block_mask(n, count, self.block, step.rng)
        return self.loss(x, visible, hidden), {}

    def loss(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Mean absolute error of the prediction for x (B, C, T), given visible (B, K) and hidden (B, M) patches."""
        with torch.no_grad():
            target = take(self.target_encoder(x), hidden)  # (B, M, D), after the last norm
        predicted: Tensor = self.predictor(self.encoder(x, visible), visible, hidden)
        return (predicted - target).abs().mean()

    def after_step(self, step: Step) -> None:
        start, end = self.momentum
        ema_(self.target_encoder, self.encoder, start + (end - start) * step.progress)

    def backbone(self) -> Encoder:
        return self.target_encoder
