"""CPC (van den Oord et al. 2018, arXiv 1807.03748; on ECG Mehari & Strodthoff 2022, arXiv 2103.12676)."""

import torch
from torch import nn

from bench.core.errors import UserError
from bench.method import Method
from bench.parts import needs_tokens


class CPC(Method):
    def __init__(self, encoder, *, ahead: int, negatives: int):
        needs_tokens(encoder, "time")
        super().__init__(encoder)
        self.ahead, self.negatives = ahead, negatives
        self.predictor = nn.Linear(encoder.width, ahead * encoder.width, bias=False)  # one map W_k per step ahead
        # Ours: scores start small whatever the width. From larger ones the loss first shrinks all features, for good.
        nn.init.normal_(self.predictor.weight, std=1 / encoder.width)

    def forward(self, views, step):
        (x,) = views
        n = self.encoder.count(x)
        if n <= self.ahead + 1:
            raise UserError(f"a view of {n} patches has no {self.ahead} after a first two; lower method.ahead or "
                            f"encoder.patch, or lengthen the view")
        # Patches that the context sees, one number for the batch; of one alone a compiled encoder would be another program.
        past = 2 + int(step.uniform(0, n - self.ahead - 1))
        context = self.encoder(x, torch.arange(past, device=x.device).expand(len(x), -1))[:, -1]  # (B, D)
        predicted = self.predictor(context).unflatten(1, (self.ahead, -1))  # (B, ahead, D)
        local = self.encoder.embed(self.encoder.patchify(x))  # (B, N, D)
        scores = (predicted @ local.mT).float()  # (B, ahead, N)

        future = torch.arange(past, past + self.ahead, device=x.device)[:, None]  # the patch that each map predicts
        other = (step.rng.rand(self.ahead, self.negatives) * (n - 1)).long()
        other += other >= future  # any patch of the record but that one
        logits = scores.gather(2, torch.cat([future.expand(len(x), -1, -1), other], dim=2))  # the right one first
        right = (logits.argmax(2) == 0).float().mean()
        return -logits.log_softmax(2)[..., 0].mean(), {"accuracy": right}
