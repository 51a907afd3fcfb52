"""The optimiser and the schedules that pre-training and evaluation share."""

import functools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.runs.config import HeadConfig, OptimConfig


def cosine(step: int, total: int, start: float, final: float, warmup: int = 0, warmup_start: float = 0.0) -> float:
    """Linear warm-up from warmup_start, then a half cosine from start that reaches final at step total - 1.

    As the published implementation computes it, one step past the end included.
    """
    if step < warmup:
        return warmup_start + (start - warmup_start) * step / warmup
    if step > total:
        return final
    ratio = (step - warmup) / max(1, total - warmup - 1)
    return final + 0.5 * (1 + math.cos(math.pi * ratio)) * (start - final)


def linear(step: int, total: int, start: float, final: float) -> float:
    return start + (final - start) * step / total if step < total else final


def adamw(module: nn.Module, settings: OptimConfig | HeadConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: group 0 (weights of linear and convolution layers) decays, 1 does not."""
    decay = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear | nn.Conv1d)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if id(p) in decay]},
        {"params": [p for p in trainable if id(p) not in decay], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)


def schedule_(optimiser: torch.optim.Optimizer, step: int, settings: OptimConfig | HeadConfig) -> float:
    """Set this step's lr and weight decay in place; gives the lr."""
    warmup, total = settings["warmup_steps"], settings["steps"]
    lr = cosine(step, total, settings["lr"], settings["final_lr"], warmup, settings["warmup_lr"])
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.param_groups[0]["weight_decay"] = cosine(
        step, total, settings["weight_decay"], settings["final_weight_decay"])
    return lr


@functools.cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than only storing it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    return info.is_file() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(info.read_text().split())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass: matrix products in bfloat16 or float32; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def warn_if_slow(device: torch.device, precision: str) -> None:
    """A line on stderr where bfloat16 is only emulated (a matrix product took 50 times as long on such a CPU)."""
    if precision == "bfloat16" and not has_bfloat16(device):
        print(f"this {device.type} has no bfloat16 arithmetic and emulates it very slowly; float32 is faster",
              file=sys.stderr)


def derive(*numbers: int) -> int:
    """A seed for torch, a pure function of the numbers given."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
