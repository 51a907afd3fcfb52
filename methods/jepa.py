"""JEPA on time patches (Weimann & Conrad 2024, arXiv 2410.13867)."""

import math

import torch

from bench.encoders.vit import take
from bench.method import Method
from bench.parts import MaskedDecoder, block_split, ema_, frozen_copy


class JEPA(Method):
    def __init__(self, encoder, *, keep: list[float], block: int, momentum: list[float], predictor: dict):
        super().__init__(encoder)
        self.keep, self.block, self.momentum = keep, block, momentum
        self.target_encoder = frozen_copy(encoder)
        self.predictor = MaskedDecoder(encoder, encoder.width, **predictor)

    def forward(self, views, step):
        (x,) = views
        n = self.encoder.count(x)
        kept = math.ceil(step.uniform(*self.keep) * n)  # one number for the whole batch
        keep, hidden = block_split(n, kept, self.block, step.rng)
        return self.loss(x, keep, hidden), {}

    def loss(self, x, keep, hidden):
        """(B, 12, T) with kept (B, K) and hidden (B, M) patches -> mean absolute error of the prediction."""
        with torch.no_grad():
            target = take(self.target_encoder(x), hidden)  # (B, M, D), after the last norm
        predicted = self.predictor(self.encoder(x, keep), keep, hidden)
        return (predicted - target).abs().mean()

    def after_step(self, step):
        start, end = self.momentum
        ema_(self.target_encoder, self.encoder, start + (end - start) * step.progress)

    def backbone(self):
        return self.target_encoder
