"""Diagnostics of features are what their papers' formulas say, written naively."""

import math

import pytest
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.evaluation import diagnostics
from bench.training.monitor import rankme


def features(n: int = 40, width: int = 6, seed: int = 0) -> Tensor:
    made = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made @ torch.diag(torch.arange(1.0, width + 1, dtype=torch.float64)) + 3


def song(x: Tensor, y: Tensor) -> float:
    """The unbiased HSIC of Song et al. 2012 from the (n, n) kernels."""
    n, one = len(x), torch.ones(len(x), 1, dtype=torch.float64)
    k, m = (f @ f.T - torch.diag((f @ f.T).diagonal()) for f in (x, y))
    total = (k @ m).trace() + (one.T @ k @ one) * (one.T @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one.T @ k @ m @ one)
    return (total / (n * (n - 3))).item()


def test_cka_is_the_ratio_of_unbiased_hsics() -> None:
    x, y = features(), features(seed=1, width=9)
    y[:, :6] += x
    assert diagnostics.cka(x, y) == pytest.approx(song(x, y) / math.sqrt(song(x, x) * song(y, y)), rel=1e-9)


@pytest.mark.parametrize(("x", "y", "said"), [
    (features(), features(39), "got 40 and 39"), (features(3), features(3), "4 or more"),
    (features(), torch.full((40, 5), 0.1), "do not vary"), (features() * math.nan, features(), "not finite")])
def test_what_has_no_cka_is_refused(x: Tensor, y: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        diagnostics.cka(x, y)


def test_the_spectrum_is_the_root_of_the_covariances_eigenvalues() -> None:
    x = features()
    assert diagnostics.spectrum(x) == pytest.approx(torch.linalg.eigvalsh(torch.cov(x.T)).flip(0).sqrt())


def test_rankme_is_the_exponential_of_the_entropy() -> None:
    s = torch.linalg.svdvals(features())
    p = [(v / s.sum()).item() + 1e-7 for v in s]
    assert rankme(features()) == pytest.approx(math.exp(-sum(v * math.log(v) for v in p)))
    assert rankme(torch.eye(16)) == pytest.approx(16, rel=1e-3)
    assert rankme(torch.zeros(8, 4)) == pytest.approx(1, rel=1e-3)
