"""Energy that a machine has used, according to its own counters."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
PAUSE = 20.0  # seconds between two readings of the counters
MOST_WATTS = 1000.0  # more than a CPU package draws; readings are unknown if a counter could overflow at this power


class Counter:
    """A count of joules that grows and begins again at 0 after `top`. `read` returns it, or None if it cannot be read."""

    def __init__(self, read: Callable[[], float | None], top: float = math.inf) -> None:
        self.read, self.top, self.last = read, top, read()

    def advance(self, seconds: float) -> float | None:
        """Joules since the last call, which was `seconds` ago; None if they are not known."""
        before, self.last = self.last, self.read()
        if before is None or self.last is None or seconds * MOST_WATTS > self.top:
            return None
        joules = self.last - before + (self.top if self.last < before else 0)
        return joules if joules < math.inf else None


class Meter:
    """Joules of the machine's CPU packages ("cpu") and of the device ("gpu"), including other programs on them.

    A part is left out from the first time that it cannot be read. packages: False if another process of this machine counts
    the CPU packages.
    """

    def __init__(self, device: torch.device, packages: bool = True, powercap: Path = POWERCAP) -> None:
        parts = {"cpu": package_counters(powercap) if packages else [], "gpu": device_counters(device)}
        self.counters = {part: counters for part, counters in parts.items() if counters or (part == "cpu" and not packages)}
        self.joules, self.read_at = dict.fromkeys(self.counters, 0.0), time.monotonic()

    def update(self, pause: float = PAUSE) -> None:
        """Read the counters, unless they were read within `pause` seconds. Call it every minute, because counters overflow."""
        seconds = time.monotonic() - self.read_at
        if seconds < pause:
            return
        self.read_at += seconds
        for part in list(self.joules):
            joules = [counter.advance(seconds) for counter in self.counters[part]]
            known = [each for each in joules if each is not None]
            if len(known) == len(joules):
                self.joules[part] += sum(known)
            else:
                del self.joules[part]

    def take(self) -> dict[str, float]:
        """Part -> joules since the last call."""
        self.update(0)
        joules, self.joules = self.joules, dict.fromkeys(self.joules, 0.0)
        return joules


def package_counters(powercap: Path) -> list[Counter]:
    """A counter per CPU package (RAPL); some machines show one through two interfaces."""
    folders = {}
    for folder in sorted(powercap.glob("*")):
        with contextlib.suppress(OSError):
            name = (folder / "name").read_text().strip()
            if name.startswith("package"):
                folders[name] = folder
    return [Counter(lambda folder=folder: joules_in(folder / "energy_uj"),  # type: ignore[misc]
                    joules_in(folder / "max_energy_range_uj") or 0.0) for folder in folders.values()]


def joules_in(path: Path) -> float | None:
    """The joules in a file of microjoules; None if it cannot be read. On many machines only root may read it."""
    try:
        return int(path.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def device_counters(device: torch.device) -> list[Counter]:
    """The counter of an NVIDIA device; an empty list if it has none or nvidia-ml-py is missing."""
    if device.type != "cuda":
        return []
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return []

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    return [Counter(read)]
