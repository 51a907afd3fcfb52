"""The shared encoder: a plain pre-norm ViT (vision transformer) over non-overlapping patches of a 12-lead ECG.

Shapes: B records, C leads, T samples, N tokens, K visible tokens, R registers, D width, H heads.
A token is one patch, embedded. With tokens "time" a patch holds the samples of all leads, so N = T / patch. With tokens
"lead-time" a patch holds the samples of one lead, so N = C * T / patch, lead after lead. No layer has a bias; only
imported backbones set bias=True.
Source: arXiv 2410.13867, section 3, and its published configurations; tokens of one lead: arXiv 2402.09450.
"""

import math
import re
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.encoders.config import EncoderConfig

NORM_EPS = 1e-6  # of every layer norm (published configurations)
MLP_RATIO = 4  # hidden width of a block's MLP / width
TOKENS = ("time", "lead-time")
INITIALISATIONS = ("trunc_normal", "xavier_uniform")


@dataclass(frozen=True)
class Size:
    """Width (features of a token), depth (blocks) and attention heads of a transformer."""

    width: int
    depth: int
    heads: int

    def __str__(self) -> str:
        """The name that parse_size reads, such as 192x8x4."""
        return f"{self.width}x{self.depth}x{self.heads}"


SIZES = {
    "tiny": Size(128, 4, 4),  # a size of this benchmark, small enough for CPUs
    "xs": Size(192, 8, 4),  # this one and the next two: arXiv 2410.13867, published configurations
    "s": Size(384, 8, 6),
    "b": Size(768, 12, 12),
}


def sincos(n: int, width: int, device: torch.device | None = None, first: int = 0) -> Tensor:
    """Fixed codes (n, width) of the positions first, first + 1, ...: sines on even, cosines on odd channels."""
    omega = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(first, first + n, device=device)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def positions(n: int, width: int, lead: Tensor | None, device: torch.device | None = None) -> Tensor:
    """Codes (n, width) of n tokens: their time and, if `lead` (C, width) is given, the embedding of their lead."""
    if lead is None:
        return sincos(n, width, device)
    return (sincos(n // len(lead), width, device) + lead[:, None]).flatten(0, 1)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Select the tokens (B, N, D) at index (B, K) -> (B, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Softmax attention: queries, keys and values (B, H, N, D / H) each -> (B, H, N, D / H).

    torch's fused kernel is used except in bfloat16 on a CPU. There the fused backward pass is slower than the three
    plain steps (measured in benchmarks/).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return F.dropout(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor that starts at `initial` (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Block(nn.Module):
    """A transformer block, (B, N, D) -> (B, N, D): x + attention(norm(x)), then x + MLP(norm(x)).

    width: features of a token. heads: attention heads. dropout: probability of dropping a feature of a branch. layer_scale:
    initial factor of each branch; 0 leaves the factors out. bias: whether the layers have biases. qkv_bias: whether queries, keys
    and values have biases. mlp_ratio: hidden width of the MLP / width. norm_eps: added to the variance in a layer norm.
    """

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
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(x)
        return x + self.mlp(x)

    def attention(self, x: Tensor) -> Tensor:
        """The output (B, N, D) of the attention branch, which is added to x (B, N, D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        added: Tensor = self.scale1(self._dropout(self.proj(attend(q, k, v).transpose(1, 2).flatten(2))))
        return added

    def mlp(self, x: Tensor) -> Tensor:
        """The output (B, N, D) of the MLP branch, which is added to x (B, N, D)."""
        h = self._dropout(F.gelu(self.fc1(self.norm2(x))))
        added: Tensor = self.scale2(self._dropout(self.fc2(h)))
        return added

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Encoder(nn.Module):
    """Turn normalised ECG (B, C, T) into tokens (B, N, D).

    With tokens "lead-time" all leads share one patch embedding, and a learned embedding per lead tells them apart. A
    learned separator stands before and after each lead; it is always visible and never returned.

    size: width, depth and heads.
    leads: C, the leads of a record.
    tokens: "time" or "lead-time", what a token holds (see the top of this file).
    patch: samples of a patch.
    registers: R, learned tokens without a position that come first; a head may read them.
    init: "trunc_normal" or "xavier_uniform", how the weights start (see initialise_).
    dropout, layer_scale, bias, qkv_bias, mlp_ratio, norm_eps: arguments of every block (see Block).
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
        if init == "xavier_uniform" and tokens == "time":  # the published layer is a convolution, whose fan-out differs
            bound = math.sqrt(6 / (leads * patch + size.width * patch))
            nn.init.uniform_(self.embed.weight, -bound, bound)

    def count_tokens(self, x: Tensor) -> int:
        """N, the number of tokens of a view (B, C, T)."""
        return x[0].numel() // self.patch_width

    def patchify(self, x: Tensor) -> Tensor:
        """Cut (B, C, T) into the samples of its patches, (B, N, patch_width). UserError if T is no multiple of patch."""
        if x.shape[-1] % self.patch:
            raise UserError(f"a view of {x.shape[-1]} samples does not divide into patches of {self.patch} samples; "
                            f"change encoder.patch or the view's seconds")
        x = torch.unflatten(x, 2, (-1, self.patch))  # (B, C, T / patch, patch)
        return x.flatten(1, 2) if self.tokens == "lead-time" else x.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, visible: Tensor | None = None, registers: bool = False) -> Tensor:
        """The tokens (B, K, D) of x (B, C, T) at the indices `visible` (B, K); all N tokens if it is None.

        Hidden tokens do not enter the network. With registers=True the R registers come first: (B, R + K, D).
        """
        h, prefix = self._embed(x, visible)
        for block in self.blocks:
            h = block(h)
        h = cast(Tensor, self.norm(h))
        if not registers:
            return h[:, prefix:]
        r = len(self.registers)
        return h if prefix == r else torch.cat([h[:, :r], h[:, prefix:]], dim=1)

    def mlp_outputs(self, x: Tensor, last: int) -> list[Tensor]:
        """The outputs of the MLPs of the last `last` blocks for x (B, C, T): a list of (B, N, D), in the order of the blocks."""
        h, prefix = self._embed(x, None)
        outputs = []
        for block in self.blocks:
            assert isinstance(block, Block)
            h = h + block.attention(h)
            added = block.mlp(h)
            h = h + added
            outputs.append(added[:, prefix:])
        return outputs[-last:]

    def _embed(self, x: Tensor, visible: Tensor | None) -> tuple[Tensor, int]:
        """The input of the first block, and how many registers and separators come before its tokens."""
        patches = self.patchify(x)
        position = positions(patches.shape[1], self.width, self.lead, x.device)
        if visible is None:
            h = self.embed(patches) + position
        else:
            h = self.embed(take(patches, visible)) + position[visible]
        prefix: Tensor = self.registers
        if self.lead is not None and self.separator is not None:
            n = patches.shape[1] // self.leads
            ends = sincos(n + 2, self.width, x.device, first=-1)[[0, -1]]  # before the first patch, after the last
            prefix = torch.cat([prefix, (self.separator + ends[:, None] + self.lead).flatten(0, 1)])
        return torch.cat([prefix.expand(len(h), -1, -1), h], dim=1), len(prefix)


@torch.no_grad()
def initialise_(module: nn.Module, init: str, depth: int) -> None:
    """Draw every linear weight of the module in place; biases become 0.

    init: "trunc_normal" draws with sd 0.02, but the last layer of each residual branch with sd 0.02 / sqrt(2 depth);
    "xavier_uniform" is torch's. UserError for another name.
    """
    if init not in INITIALISATIONS:
        raise unknown("initialisation", init, INITIALISATIONS)
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
    """The encoder that a config's `encoder` section describes; its weights are drawn from torch's global generator."""
    settings = config.to_json()
    return Encoder(parse_size(settings.pop("size")), **settings)


def parse_size(name: str) -> Size:
    """The size of that name: one of SIZES, or WIDTHxDEPTHxHEADS (imported and exported backbones use it).

    UserError if it is neither; the width must be even.
    """
    if name in SIZES:
        return SIZES[name]
    match = re.fullmatch(r"((?!0)\d{0,4}[02468])x(\d{1,3})x([1-9]\d{0,2})", str(name))
    if not match:
        raise unknown("encoder.size", name, [*SIZES, "WIDTHxDEPTHxHEADS"])
    return Size(*map(int, match.groups()))
