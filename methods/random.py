"""No pre-training. Every table needs this row, because a random backbone is a strong baseline (arXiv 2602.17531)."""

from torch import Tensor

from bench.core.errors import UserError
from bench.method import Method, Step


class Random(Method):
    """Leave the encoder as it is initialised. It has no hyperparameters."""

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        raise UserError("method random has no pre-training: optim.steps must be 0")
