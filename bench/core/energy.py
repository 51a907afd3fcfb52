"""Energy that a machine says it has used."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
PAUSE = 20.0  # seconds from one look at the counters to the next; ours
MOST_WATTS = 1000.0  # more than a CPU package draws: what could have come round between two looks counts no more; ours


class Counter:
    """Joules that only grow, or begin again at 0 after `top`; read gives None where they cannot be read."""

    def __init__(self, read: Callable[[], float | None], top: float = math.inf) -> None:
        self.read, self.top, self.last = read, top, read()

    def moved(self, seconds: float) -> float | None:
        """Joules since the last call, so many seconds ago; None where they are not known."""
        before, self.last = self.last, self.read()
        if before is None or self.last is None or seconds * MOST_WATTS > self.top:
            return None
        moved = self.last - before + (self.top if self.last < before else 0)
        return moved if moved < math.inf else None


class Meter:
    """Joules of the machine's CPU packages ("cpu") and of the device ("gpu"), whoever works there.

    What cannot be read, or could not once, is left out. packages: False where another process of this machine counts them.
    """

    def __init__(self, device: torch.device, packages: bool = True, powercap: Path = POWERCAP) -> None:
        found = {"cpu": package_counters(powercap) if packages else [], "gpu": device_counters(device)}
        self.counters = {part: counters for part, counters in found.items() if counters or (part == "cpu" and not packages)}
        self.joules, self.looked = dict.fromkeys(self.counters, 0.0), time.monotonic()

    def look(self, pause: float = PAUSE) -> None:
        """Count on, unless that was done within the pause; to be called more often than a counter comes round: in a minute."""
        seconds = time.monotonic() - self.looked
        if seconds < pause:
            return
        self.looked += seconds
        for part in list(self.joules):
            moved = [counter.moved(seconds) for counter in self.counters[part]]
            known = [each for each in moved if each is not None]
            if len(known) == len(moved):
                self.joules[part] += sum(known)
            else:
                del self.joules[part]

    def used(self) -> dict[str, float]:
        """Joules since the last call."""
        self.look(0)
        used, self.joules = self.joules, dict.fromkeys(self.joules, 0.0)
        return used


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
    """Of a file of microjoules; on many machines root alone may read it."""
    try:
        return int(path.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def device_counters(device: torch.device) -> list[Counter]:
    """What an NVIDIA device has used since its driver was loaded; nothing without nvidia-ml-py."""
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
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except pynvml.NVMLError:
            return None

    return [Counter(read)]
