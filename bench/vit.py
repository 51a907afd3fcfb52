"""The shared backbone: a plain pre-norm ViT over non-overlapping time patches of a 12-lead ECG.

B records, C leads, T samples, N = T / patch tokens, R registers, D width. No biases anywhere.
Source: arXiv 2410.13867, section 3, and the published configurations.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError, unknown

NORM_EPS = 1e-6  # published configurations
MLP_RATIO = 4


@dataclass(frozen=True)
class Size:
    width: int
    depth: int
    heads: int


SIZES = {
    "tiny": Size(128, 4, 4),  # ours: small enough for CPUs
    "xs": Size(192, 8, 4),  # the other three: arXiv 2410.13867, published configurations
    "s": Size(384, 8, 6),
    "b": Size(768, 12, 12),
}


def sincos(n: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed 1-D positions, (n, width): sines on even, cosines on odd channels. Any n, no interpolation."""
    omega = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(n, device=device)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, D) at index (B, K) -> (B, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Softmax attention, (B, H, N, D / H) each -> (B, H, N, D / H).

    Fused everywhere but in bfloat16 on a CPU, where the fused backward is slower than the three plain steps
    (benchmarks/ measures it).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return F.dropout(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class LayerScale(nn.Module):
    """Learned factor per channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Block(nn.Module):
    """(B, N, D) -> (B, N, D): attention and MLP, each normalised before and added."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, layer_scale: float = 0.0):
        super().__init__()
        if width % heads:
            raise UserError(f"width {width} does not divide into {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS, bias=False)
        self.fc1 = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.fc2 = nn.Linear(MLP_RATIO * width, width, bias=False)
        self.scale1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = attend(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.scale1(self._drop(self.proj(a)))
        h = self._drop(F.gelu(self.fc1(self.norm2(x))))
        return x + self.scale2(self._drop(self.fc2(h)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Encoder(nn.Module):
    """(B, C, T) normalised ECG -> (B, N, D) tokens; with registers=True the R registers come first."""

    def __init__(self, size: Size, *, leads: int = 12, patch: int = 25, registers: int = 1,
                 init: str = "trunc_normal", dropout: float = 0.0, layer_scale: float = 0.0):
        super().__init__()
        self.size, self.patch, self.patch_width, self.init = size, patch, leads * patch, init
        self.width = size.width
        self.embed = nn.Linear(leads * patch, size.width, bias=False)
        self.registers = nn.Parameter(torch.empty(registers, size.width))
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, dropout, layer_scale) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPS, bias=False)
        initialise_(self, init, size.depth)
        nn.init.trunc_normal_(self.registers, std=0.02)
        if init == "xavier_uniform":  # published as a convolution: other fans than the same linear map
            bound = math.sqrt(6 / (leads * patch + size.width * patch))
            nn.init.uniform_(self.embed.weight, -bound, bound)

    def patchify(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, N, C * patch)."""
        if x.shape[-1] % self.patch:
            raise UserError(f"a view of {x.shape[-1]} samples does not divide into patches of {self.patch}; "
                            f"change encoder.patch or the view's seconds")
        return x.unflatten(2, (-1, self.patch)).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, keep: Tensor | None = None, registers: bool = False) -> Tensor:
        """Tokens at keep (B, K), all N when None -> (B, K, D), or (B, R + K, D) with registers."""
        patches = self.patchify(x)
        position = sincos(patches.shape[1], self.width, x.device)
        if keep is None:
            h = self.embed(patches) + position
        else:
            h = self.embed(take(patches, keep)) + position[keep]
        h = torch.cat([self.registers.expand(len(h), -1, -1), h], dim=1)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return h if registers else h[:, len(self.registers):]


@torch.no_grad()
def initialise_(module: nn.Module, init: str, depth: int) -> None:
    """Set every linear weight in place. trunc_normal: sd 0.02, residual projections 0.02 / sqrt(2 depth)."""
    if init not in ("trunc_normal", "xavier_uniform"):
        raise unknown("initialisation", init, ("trunc_normal", "xavier_uniform"))
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        if init == "xavier_uniform":
            nn.init.xavier_uniform_(part.weight)
        else:
            residual = name.endswith((".proj", ".fc2"))
            nn.init.trunc_normal_(part.weight, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)


def build(config: dict) -> Encoder:
    """The encoder that a config's `encoder` section describes; weights from torch's global generator."""
    settings = dict(config)
    size = settings.pop("size")
    if size not in SIZES:
        raise unknown("encoder.size", size, SIZES)
    return Encoder(SIZES[size], **settings)
