"""data2vec (Baevski et al. 2022, arXiv 2202.03555), in the form of 2.0 (2023, arXiv 2212.07525): the student encodes
visible patches alone."""

import math

import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from bench.encoders.vit import take
from bench.method import Method
from bench.parts import MaskedDecoder, block_split, ema_, frozen_copy


class Data2Vec(Method):
    def __init__(self, encoder, *, keep: list[float], block: int, top: float, momentum: list[float], ramp: float,
                 decoder: dict):
        super().__init__(encoder)
        if not 0 < top <= 1 or not 0 < ramp <= 1:
            raise UserError(f"method.top and method.ramp are shares in (0, 1], got {top} and {ramp}")
        self.keep, self.block, self.momentum, self.ramp = keep, block, momentum, ramp
        self.top = max(1, round(top * encoder.size.depth))  # blocks
        self.teacher = frozen_copy(encoder)
        self.decoder = MaskedDecoder(encoder, encoder.width, **decoder)

    def forward(self, views, step):
        (x,) = views
        n = self.encoder.count(x)
        kept = math.ceil(step.uniform(*self.keep) * n)  # one number for the whole batch
        keep, hidden = block_split(n, kept, self.block, step.rng)
        target = self.target(x)
        predicted = self.decoder(self.encoder(x, keep), keep, hidden)
        loss = (predicted - take(target, hidden)).square().mean()
        return loss, {"target_sd": target.std(1).mean(), "momentum": torch.tensor(self.momentum_at(step))}

    @torch.no_grad()
    def target(self, x):
        """(B, 12, T) -> (B, N, D): mean of what the MLPs of the teacher's top blocks add, each feature normalised over the
        record's tokens: a target that is the same everywhere cannot be learned."""
        layers = self.teacher.layers(x, self.top)
        return torch.stack([F.instance_norm(h.float().mT) for h in layers]).mean(0).mT

    def momentum_at(self, step):
        start, end = self.momentum
        return start + (end - start) * min(1.0, step.progress / self.ramp)

    def after_step(self, step):
        ema_(self.teacher, self.encoder, self.momentum_at(step))
