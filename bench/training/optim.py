"""The optimiser, its schedules and its precision, which pre-training and evaluation share."""

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.core.rng import derive as derive
from bench.runs.config import HeadConfig, OptimConfig

SIDE = 128  # of the square matrices whose product is timed


def cosine(step: int, total: int, start: float, final: float, *, warmup: int = 0, warmup_start: float = 0.0) -> float:
    """Linear warm-up from warmup_start, then a half cosine from start that reaches final at step total - 1.

    Like the published implementation, it also computes the cosine at step = total, one step past the end.
    """
    if step < warmup:
        return warmup_start + (start - warmup_start) * step / warmup
    if step > total:
        return final
    ratio = (step - warmup) / max(1, total - warmup - 1)
    return final + 0.5 * (1 + math.cos(math.pi * ratio)) * (start - final)


def adamw(module: nn.Module, settings: OptimConfig | HeadConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters. Weight decay acts on group 0, the weights of linear and convolution layers."""
    decay = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear | nn.Conv1d)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if id(p) in decay]},
        {"params": [p for p in trainable if id(p) not in decay], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def schedule_(optimiser: torch.optim.Optimizer, step: int, settings: OptimConfig | HeadConfig) -> float:
    """Set this step's learning rate and weight decay in the optimiser. Returns the learning rate."""
    lr = cosine(step, settings.steps, settings.lr, settings.final_lr, warmup=settings.warmup_steps,
                warmup_start=settings.warmup_lr)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.param_groups[0]["weight_decay"] = cosine(
        step, settings.steps, settings.weight_decay, settings.final_weight_decay)
    return lr


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions that compute in bfloat16; others store it and emulate the arithmetic."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    info = Path("/proc/cpuinfo")
    return info.is_file() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(info.read_text().split())


def resolve_precision(device: torch.device, precision: str) -> str:
    """The precision, float32 or bfloat16, that a setting means on the device. auto: bfloat16 if the device computes in it."""
    if precision == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass: matrix products in bfloat16 or float32; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")


def warn_if_slow(device: torch.device, precision: str) -> None:
    """If a run uses bfloat16 on a device that only emulates it, print on stderr how much slower it is."""
    if resolve_precision(device, precision) != "bfloat16" or has_bfloat16(device):
        return
    if (ratio := time_bfloat16(device)) > 1:
        print(f"this {device.type} has no bfloat16 arithmetic and emulates it: a matrix product takes {ratio:.1f} times as long "
              f"as in float32; set precision to auto or float32", file=sys.stderr)


@functools.cache
def time_bfloat16(device: torch.device) -> float:
    """The time of a bfloat16 matrix product divided by the time of a float32 one. It is measured once per device."""
    return _time_product(device, torch.bfloat16) / _time_product(device, torch.float32)


def _time_product(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the fastest of three products of two matrices."""
    matrix = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):  # the first warms up
        began = time.perf_counter()
        (matrix @ matrix).sum().item()  # .item() waits for a device that works in the background
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
