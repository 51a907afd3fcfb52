"""Energy is what counters say, or nothing."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.core import energy
from bench.core.energy import Meter

CPU, TOP = torch.device("cpu"), 200_000_000_000  # microjoules


def package(folder: Path, name: str, joules: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{TOP}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that energy.time tells."""
    now = [0.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    return now


def test_packages_add_up_parts_of_them_and_their_second_interface_do_not(tmp_path: Path) -> None:
    before = {("intel-rapl:0", "package-0"): 10, ("intel-rapl:0:0", "core"): 10, ("intel-rapl:1", "package-1"): 20,
              ("intel-rapl-mmio:0", "package-0"): 10}
    for (folder, name), joules in before.items():
        package(tmp_path / folder, name, joules)
    meter = Meter(CPU, powercap=tmp_path)
    for (folder, name), joules in before.items():
        package(tmp_path / folder, name, joules + (4.5 if name == "package-1" else 3))
    assert meter.take() == {"cpu": pytest.approx(3 + 4.5)}


def test_a_counter_that_came_round_goes_on_unless_that_may_have_gone_unseen(tmp_path: Path, clock: list[float]) -> None:
    package(tmp_path / "a", "package-0", TOP / 1e6 - 5)
    meter = Meter(CPU, powercap=tmp_path)
    package(tmp_path / "a", "package-0", 7)
    clock[0] = 30
    meter.update()
    package(tmp_path / "a", "package-0", 8)
    assert meter.take() == {"cpu": pytest.approx(13)}
    clock[0] += 201
    assert meter.take() == meter.take() == {}


def test_one_package_that_cannot_be_read_leaves_no_sum_and_no_second_process_counts(tmp_path: Path) -> None:
    package(tmp_path / "a", "package-0", 5)
    second = Meter(CPU, packages=False, powercap=tmp_path)
    package(tmp_path / "a", "package-0", 6)
    assert second.take() == {"cpu": 0.0}
    (package(tmp_path / "b", "package-1", 5) / "energy_uj").unlink()
    assert Meter(CPU, powercap=tmp_path).take() == {}


def test_a_gpu_is_asked_for_by_its_own_name_and_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    counter = iter([5_000, 8_500])

    def energy_of(handle: str) -> int:
        assert handle == "GPU-1-2-3"
        for energy_mj in counter:
            return energy_mj
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetTotalEnergyConsumption=energy_of))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2-3"))
    meter = Meter(torch.device("cuda"), powercap=tmp_path)
    assert meter.take() == {"gpu": 3.5}
    assert meter.take() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Meter(torch.device("cuda"), powercap=tmp_path).take() == {}
