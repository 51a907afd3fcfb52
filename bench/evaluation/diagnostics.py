"""Measures of a backbone's features that need no labels: RankMe, the spectrum, and CKA with another backbone."""

from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.training.monitor import rankme


def diagnose(features: Tensor) -> dict[str, Any]:
    """The diagnostics that a result holds of (n, D) features: n, rankme and sd, the spectrum.

    UserError if there are fewer than two records or a value is not finite.
    """
    if len(features) < 2 or not features.isfinite().all():
        raise UserError(f"features of {len(features)} records cannot be diagnosed: at least two records with finite values are "
                        f"needed")
    return {"n": len(features), "rankme": rankme(features), "sd": spectrum(features).tolist()}


def spectrum(features: Tensor) -> Tensor:
    """(min(n, D),) sd of (n, D) features along their principal axes, the largest first."""
    centred = features.double() - features.double().mean(0)
    sd: Tensor = torch.linalg.svdvals(centred) / (len(features) - 1) ** 0.5
    return sd


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) of (n, D1) and (n, D2) features of the same n records.

    CKA is 1 for features that are equal up to rotation and scale, and near 0 (above or below) for unrelated features. It
    is debiased (Nguyen et al. 2021, arXiv 2010.15327, with the HSIC of Song et al. 2012). Without debiasing, unrelated
    features look similar unless D is much smaller than n. UserError if there are fewer than 4 records, if x and y differ
    in their number of records, or if features do not vary.
    """
    if len(x) != len(y) or len(x) < 4:
        raise UserError(f"CKA needs features of the same records, 4 or more, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    centred = [f - f.mean(0) for f in (x, y)]
    own = [_hsic(f, f) for f in centred]
    if not all(h > 0 and c.norm() > 1e-12 * f.norm() for h, c, f in zip(own, centred, (x, y), strict=True)):
        raise UserError("CKA is not defined for features that are not finite or do not vary")
    return float(_hsic(*centred) / (own[0] * own[1]) ** 0.5)


def _hsic(x: Tensor, y: Tensor) -> float:
    """n (n - 3) times the unbiased HSIC of centred (n, D1) and (n, D2) features with linear kernels, in O(n D1 D2)."""
    n, k, m = len(x), x.square().sum(1), y.square().sum(1)  # the kernels' diagonals, which the estimate leaves out
    both = k @ m  # a row of a centred kernel sums to 0, so without its diagonal element it sums to minus that element
    return ((x.T @ y).square().sum() - both + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * both).item()
