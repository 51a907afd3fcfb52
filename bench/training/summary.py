"""Computes the key `result` of a pre-training's result from the lines that the run logged."""

from typing import Any

import torch
from torch import nn

from bench.method import Method
from bench.runs.config import PretrainConfig
from bench.training.log import WATTS, Line, peak_memory_mb


def summarise(config: PretrainConfig, model: Method, lines: list[Line], device: torch.device) -> dict[str, Any]:
    """Records, seconds, speed, parameters, memory, energy and curves of a finished run, as JSON.

    lines: all lines of its MetricsLog.
    """
    logged, looks = [line for line in lines if "loss" in line], [line for line in lines if "rankme" in line]
    seconds, records = sum(line["seconds"] for line in logged), config.optim.steps * config.optim.batch
    energy = {part: sum(line[key] * line["seconds"] for line in logged) for part, key in WATTS.items()
              if all(key in line for line in logged)}
    return {
        "steps": config.optim.steps, "records": records, "seconds": seconds,
        "records_per_second": records / seconds if seconds else 0.0,
        "parameters": {"backbone": count_parameters(model.backbone()), "trained": count_parameters(model, trained=True)},
        "peak_memory_mb": peak_memory_mb(device), "curves": to_columns(logged), "monitor": to_columns(looks),
        **({"energy_joules": energy} if seconds and energy else {}),
    }


def to_columns(lines: list[Line]) -> dict[str, list[Any]]:
    """One list per key of the lines, with None where a line lacks the key. Times and watts are left out: they are summed."""
    keys = dict.fromkeys(key for line in lines for key in line)
    return {key: [line.get(key) for line in lines] for key in keys if not key.startswith("seconds") and key not in WATTS.values()}


def count_parameters(module: nn.Module, *, trained: bool = False) -> int:
    """The number of parameters. trained: count only parameters that receive a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
