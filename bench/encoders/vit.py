"""The shared backbone: a plain pre-norm ViT over non-overlapping patches of a 12-lead ECG.

B records, C leads, T samples, N tokens, R registers, D width. No biases, but in imported backbones that have them. A
token is a time patch of all leads, N = T / patch, or of one lead, N = C * T / patch, lead after lead.
Source: arXiv 2410.13867, section 3, and the published configurations; tokens of one lead: arXiv 2402.09450.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.encoders.config import EncoderConfig

NORM_EPS = 1e-6  # published configurations
MLP_RATIO = 4
TOKENS = ("time", "lead-time")


@dataclass(frozen=True)
class Size:
    width: int
    depth: int
    heads: int

    def __str__(self) -> str:
        return f"{self.width}x{self.depth}x{self.heads}"


SIZES = {
    "tiny": Size(128, 4, 4),  # ours: small enough for CPUs
    "xs": Size(192, 8, 4),  # the other three: arXiv 2410.13867, published configurations
    "s": Size(384, 8, 6),
    "b": Size(768, 12, 12),
}


def sincos(n: int, width: int, device: torch.device | None = None, first: int = 0) -> Tensor:
    """Fixed 1-D positions first, first + 1, ..., (n, width): sines on even, cosines on odd channels."""
    omega = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(first, first + n, device=device)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def positions(n: int, width: int, lead: Tensor | None, device: torch.device | None = None) -> Tensor:
    """(n, width): where n tokens lie in time and, given the embedding of each lead (C, width), which lead they are."""
    if lead is None:
        return sincos(n, width, device)
    return (sincos(n // len(lead), width, device) + lead[:, None]).flatten(0, 1)


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

    def __init__(self, width: int, heads: int, dropout: float = 0.0, layer_scale: float = 0.0, *, bias: bool = False,
                 qkv_bias: bool = False, mlp_ratio: float = MLP_RATIO, norm_eps: float = NORM_EPS):
        super().__init__()
        if width % heads:
            raise UserError(f"width {width} does not divide into {heads} heads")
        self.heads, self.dropout = heads, dropout
        hidden = int(mlp_ratio * width)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps, bias=bias)
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)
        self.scale1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.scale1(self._drop(self.proj(attend(q, k, v).transpose(1, 2).flatten(2))))

    def mlp(self, x: Tensor) -> Tensor:
        h = self._drop(F.gelu(self.fc1(self.norm2(x))))
        return self.scale2(self._drop(self.fc2(h)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Encoder(nn.Module):
    """(B, C, T) normalised ECG -> (B, N, D) tokens; with registers=True the R registers come first.

    Tokens of one lead share one patch embedding; a learned embedding tells the leads apart, and a separator, always
    seen and never returned, stands before and after each lead.
    """

    def __init__(self, size: Size, *, leads: int = 12, tokens: str = "time", patch: int = 25, registers: int = 1,
                 init: str = "trunc_normal", dropout: float = 0.0, layer_scale: float = 0.0, bias: bool = False,
                 qkv_bias: bool = False, mlp_ratio: float = MLP_RATIO, norm_eps: float = NORM_EPS):
        super().__init__()
        if tokens not in TOKENS:
            raise unknown("encoder.tokens", tokens, TOKENS)
        self.size, self.tokens, self.patch, self.init = size, tokens, patch, init
        self.width, self.leads, self.patch_width = size.width, leads, patch * (leads if tokens == "time" else 1)
        self.embed = nn.Linear(self.patch_width, size.width, bias=bias)
        self.registers = nn.Parameter(torch.empty(registers, size.width))
        self.lead = nn.Parameter(torch.empty(leads, size.width)) if tokens == "lead-time" else None
        self.separator = nn.Parameter(torch.empty(size.width)) if tokens == "lead-time" else None
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, dropout, layer_scale, bias=bias, qkv_bias=qkv_bias, mlp_ratio=mlp_ratio,
                  norm_eps=norm_eps) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=norm_eps, bias=bias)
        initialise_(self, init, size.depth)
        for learned in (self.registers, self.lead, self.separator):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        if init == "xavier_uniform" and tokens == "time":  # published as a convolution: other fans than a linear map's
            bound = math.sqrt(6 / (leads * patch + size.width * patch))
            nn.init.uniform_(self.embed.weight, -bound, bound)

    def count(self, x: Tensor) -> int:
        """N for views (B, C, T)."""
        return x[0].numel() // self.patch_width

    def patchify(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, N, patch_width)."""
        if x.shape[-1] % self.patch:
            raise UserError(f"a view of {x.shape[-1]} samples does not divide into patches of {self.patch}; "
                            f"change encoder.patch or the view's seconds")
        x = x.unflatten(2, (-1, self.patch))  # (B, C, T / patch, patch)
        return x.flatten(1, 2) if self.tokens == "lead-time" else x.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, keep: Tensor | None = None, registers: bool = False) -> Tensor:
        """Tokens at keep (B, K), all N when None -> (B, K, D), or (B, R + K, D) with registers."""
        h, first = self._embedded(x, keep)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if not registers:
            return h[:, first:]
        r = len(self.registers)
        return h if first == r else torch.cat([h[:, :r], h[:, first:]], dim=1)

    def layers(self, x: Tensor, last: int) -> list[Tensor]:
        """What the MLP of each of the last blocks adds to all tokens: (B, N, D) each."""
        h, first = self._embedded(x, None)
        out = []
        for block in self.blocks:
            assert isinstance(block, Block)
            h = h + block.attention(h)
            added = block.mlp(h)
            h = h + added
            out.append(added[:, first:])
        return out[-last:]

    def _embedded(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, int]:
        """What enters the first block, and how many registers and separators come before the tokens."""
        patches = self.patchify(x)
        position = positions(patches.shape[1], self.width, self.lead, x.device)
        if keep is None:
            h = self.embed(patches) + position
        else:
            h = self.embed(take(patches, keep)) + position[keep]
        always: Tensor = self.registers
        if self.lead is not None and self.separator is not None:
            n = patches.shape[1] // self.leads
            ends = sincos(n + 2, self.width, x.device, first=-1)[[0, -1]]  # before the first patch, after the last
            always = torch.cat([always, (self.separator + ends[:, None] + self.lead).flatten(0, 1)])
        return torch.cat([always.expand(len(h), -1, -1), h], dim=1), len(always)


@torch.no_grad()
def initialise_(module: nn.Module, init: str, depth: int) -> None:
    """Set every linear weight in place, biases to 0. trunc_normal: sd 0.02, residual projections 0.02 / sqrt(2 depth)."""
    if init not in ("trunc_normal", "xavier_uniform"):
        raise unknown("initialisation", init, ("trunc_normal", "xavier_uniform"))
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        if part.bias is not None:
            part.bias.zero_()
        if init == "xavier_uniform":
            nn.init.xavier_uniform_(part.weight)
        else:
            residual = name.endswith((".proj", ".fc2"))
            nn.init.trunc_normal_(part.weight, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)


def build(config: EncoderConfig) -> Encoder:
    """The encoder that a config's `encoder` section describes; weights from torch's global generator."""
    settings = config.to_json()
    return Encoder(size_of(settings.pop("size")), **settings)


def size_of(name: str) -> Size:
    """The size of a name: one of SIZES, or WIDTHxDEPTHxHEADS, as an imported or exported backbone may have."""
    if name in SIZES:
        return SIZES[name]
    match = re.fullmatch(r"((?!0)\d{0,4}[02468])x(\d{1,3})x([1-9]\d{0,2})", str(name))  # sines and cosines: an even width
    if not match:
        raise unknown("encoder.size", name, [*SIZES, "WIDTHxDEPTHxHEADS"])
    return Size(*map(int, match.groups()))
