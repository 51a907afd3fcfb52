"""metrics.jsonl, the log of a run with a line of numbers per logged step; and the measurement of speed and power."""

import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import torch

from bench.core.energy import Meter
from bench.core.errors import UserError, unknown
from bench.core.files import read_json, write_text
from bench.core.processes import World
from bench.runs.config import PretrainConfig
from bench.runs.workspace import run_folder

FILE = "metrics.jsonl"
WATTS = {"cpu": "cpu_watts", "gpu": "gpu_watts"}  # part of a Meter -> its key in a line

Line = dict[str, Any]  # name -> number; `step` counts the optimiser steps taken


class MetricsLog:
    """The file of lines of one run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def write(self, **values: float) -> None:
        """Append a line."""
        with self.path.open("a") as f:
            f.write(json.dumps(values) + "\n")

    def read(self) -> list[Line]:
        """All lines; an empty list if there is no file."""
        out = []
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:  # torn by a kill, so it is the last line
                break
        return out

    def drop_after(self, step: int) -> None:
        """Remove the lines of later steps, because a resumed run writes them again; step 0 removes all lines."""
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.read() if line["step"] <= step and step))


def load_metrics(work: Path, run: str) -> tuple[PretrainConfig, list[Line]]:
    """(config, metrics lines) of a pre-training, finished or not; UserError if it has logged nothing."""
    folder = run_folder(work, run)
    lines = MetricsLog(folder).read()
    if not lines:
        known = sorted(p.parent.name for p in (work / "runs").glob(f"*/{FILE}"))
        raise unknown("run", run, known) if run not in known else UserError(f"run {run} has logged nothing yet")
    return PretrainConfig.model_validate(read_json(folder / "config.json", f"run {run}")), lines


class SpeedMeter:
    """Seconds and watts of the steps since the last line."""

    def __init__(self, device: torch.device, world: World, step: int) -> None:
        self.meter, self.world = Meter(device, packages=world.local == 0), world
        self.began, self.step = time.monotonic(), step

    def update(self) -> None:
        """Read the energy counters. Call it after every step, because the counters overflow."""
        self.meter.update()

    def measure(self, step: int, steps: int) -> tuple[float, dict[str, float]]:
        """(seconds for `steps` steps at the mean speed since the last call, {key in a line: watts}).

        steps: the number of steps that the line covers. Some of them may have been taken before a kill.
        """
        seconds = (time.monotonic() - self.began) / (step - self.step) * steps
        watts = measure_watts(self.meter, time.monotonic() - self.began, self.world)
        self.began, self.step = time.monotonic(), step
        return seconds, watts


def measure_watts(meter: Meter, seconds: float, world: World) -> dict[str, float]:
    """Key -> mean watts of all processes' machines or devices since the last call. Parts that one cannot read are left out."""
    used = meter.take()
    joules = torch.tensor([used.get(part, math.nan) for part in WATTS], dtype=torch.float64)
    world.mean_([joules])
    watts = zip(WATTS.values(), (joules * world.size / max(seconds, 1e-9)).tolist(), strict=True)
    return {key: value for key, value in watts if math.isfinite(value)}


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU, or of this process if it works on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
