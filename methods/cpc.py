"""CPC (van den Oord et al. 2018, arXiv 1807.03748; on ECG Mehari & Strodthoff 2022, arXiv 2103.12676)."""

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import require_tokens


class CPC(Method):
    """Given the patches before a random cut, tell each of the next patches from other patches of the record.

    ahead: patches after the cut that are predicted, each by its own linear map (on ECG: 12 steps of 10 ms).
    negatives: other patches that each prediction is compared with (on ECG: 128).
    """

    def __init__(self, encoder: Encoder, *, ahead: int, negatives: int):
        require_tokens(encoder, "time")
        super().__init__(encoder)
        self.ahead, self.negatives = ahead, negatives
        self.predictor = nn.Linear(encoder.width, ahead * encoder.width, bias=False)  # one map W_k per step ahead
        # This benchmark's choice: scores start small for every width. If they start large, the loss shrinks all features first,
        # and they do not recover.
        nn.init.normal_(self.predictor.weight, std=1 / encoder.width)

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views
        n = self.encoder.count_tokens(x)
        if n <= self.ahead + 1:
            raise UserError(f"a view of {n} patches has fewer than 2 to see and {self.ahead} to predict; lower method.ahead or "
                            f"encoder.patch, or lengthen the view")
        # The number of patches before the cut is one for the batch. It is 2 or more, as torch.compile treats a length of 1 apart.
        past = 2 + int(step.uniform(0, n - self.ahead - 1))
        context = self.encoder(x, torch.arange(past, device=x.device).expand(len(x), -1))[:, -1]  # (B, D)
        predicted = self.predictor(context).unflatten(1, (self.ahead, -1))  # (B, ahead, D)
        local = self.encoder.embed(self.encoder.patchify(x))  # (B, N, D)
        scores = (predicted @ local.mT).float()  # (B, ahead, N)

        future = torch.arange(past, past + self.ahead, device=x.device)[:, None]  # the patch that each map predicts
        other = (step.rng.rand(self.ahead, self.negatives) * (n - 1)).long()
        other += other >= future  # any patch of the record except the predicted one
        logits = scores.gather(2, torch.cat([future.expand(len(x), -1, -1), other], dim=2))  # the predicted patch first
        right = (logits.argmax(2) == 0).float().mean()
        return -logits.log_softmax(2)[..., 0].mean(), {"accuracy": right}
