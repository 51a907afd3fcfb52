"""Energy is what counters say, or nothing."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    package(tmp_path / "intel-rapl:0", "package-0", 10)
    package(tmp_path / "intel-rapl:0:0", "core", 10)
    package(tmp_path / "intel-rapl:1", "package-1", 20)
    package(tmp_path / "intel-rapl-mmio:0", "package-0", 10)
    meter = Meter(CPU, powercap=tmp_path)
    for name, of, joules in (("intel-rapl:0", "package-0", 13), ("intel-rapl:0:0", "core", 12),
                             ("intel-rapl:1", "package-1", 24.5), ("intel-rapl-mmio:0", "package-0", 13)):
        package(tmp_path / name, of, joules)
    assert meter.take() == {"cpu": pytest.approx(3 + 4.5)}
    assert meter.take() == {"cpu": 0.0}


def test_a_counter_that_came_round_goes_on(tmp_path: Path, clock: list[float]) -> None:
    package(tmp_path / "a", "package-0", TOP / 1e6 - 5)
    meter = Meter(CPU, powercap=tmp_path)
    package(tmp_path / "a", "package-0", 7)
    clock[0] = 30
    meter.update()
    package(tmp_path / "a", "package-0", 8)
    assert meter.take() == {"cpu": pytest.approx(13)}


def test_a_counter_that_may_have_come_round_unseen_counts_no_more(tmp_path: Path, clock: list[float]) -> None:
    package(tmp_path / "a", "package-0", 5)
    meter = Meter(CPU, powercap=tmp_path)
    package(tmp_path / "a", "package-0", 6)
    clock[0] = 201
    assert meter.take() == {}
    assert meter.take() == {}


def test_one_package_that_cannot_be_read_leaves_no_sum(tmp_path: Path) -> None:
    package(tmp_path / "a", "package-0", 5)
    (package(tmp_path / "b", "package-1", 5) / "energy_uj").unlink()
    assert Meter(CPU, powercap=tmp_path).take() == {}
    assert Meter(CPU, powercap=tmp_path / "nothing").take() == {}


def test_a_second_process_of_a_machine_does_not_count_it_again(tmp_path: Path) -> None:
    package(tmp_path / "a", "package-0", 5)
    meter = Meter(CPU, packages=False, powercap=tmp_path)
    package(tmp_path / "a", "package-0", 6)
    assert meter.take() == {"cpu": 0.0}


def test_a_gpu_is_asked_for_by_its_own_name_and_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    said: list[Any] = [5_000, 8_500, NVMLError()]

    def energy_of(handle: str) -> int:
        assert handle == "GPU-1-2-3"
        if isinstance(now := said.pop(0), Exception):
            raise now
        return now

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetTotalEnergyConsumption=energy_of))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2-3"))
    meter = Meter(torch.device("cuda"), powercap=tmp_path)
    assert meter.take() == {"gpu": 3.5}
    assert meter.take() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Meter(torch.device("cuda"), powercap=tmp_path).take() == {}
