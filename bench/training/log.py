"""metrics.jsonl: what a run logs, a line of numbers by step; and the speed and power that it logs."""

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
        """All lines; none where there is no file."""
        out = []
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:  # torn by a kill: what follows was never written
                break
        return out

    def drop_after(self, step: int) -> None:
        """Remove the lines of later steps, which a resumed run writes again; step 0 removes all."""
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.read() if line["step"] <= step and step))


def load_metrics(work: Path, run: str) -> tuple[PretrainConfig, list[Line]]:
    """A pre-training's config and the lines of its metrics, finished or not; UserError where there are none."""
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
        """To be called after every step: counters of energy come round."""
        self.meter.update()

    def measure(self, step: int, steps: int) -> tuple[float, dict[str, float]]:
        """(seconds of `steps` steps at the mean speed since the last call, watts by their keys in a line).

        steps: those of the line, which may hold some that were taken before a kill.
        """
        seconds = (time.monotonic() - self.began) / (step - self.step) * steps
        watts = measure_watts(self.meter, time.monotonic() - self.began, self.world)
        self.began, self.step = time.monotonic(), step
        return seconds, watts


def measure_watts(meter: Meter, seconds: float, world: World) -> dict[str, float]:
    """Power of the machines and devices of all processes since the meter was last read; without what one cannot read."""
    used = meter.take()
    joules = torch.tensor([used.get(part, math.nan) for part in WATTS], dtype=torch.float64)
    world.mean_([joules])
    watts = zip(WATTS.values(), (joules * world.size / max(seconds, 1e-9)).tolist(), strict=True)
    return {key: value for key, value in watts if math.isfinite(value)}


def peak_memory_mb(device: torch.device) -> float:
    """The most memory used at once, in MiB: of the GPU, or of this process where it works on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
