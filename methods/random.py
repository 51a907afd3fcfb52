"""No pre-training: the row that every table needs (a random backbone is a strong baseline, arXiv 2602.17531)."""

from bench.core.errors import UserError
from bench.method import Method


class Random(Method):
    def forward(self, views, step):
        raise UserError("method random has no pre-training: optim.steps must be 0")
