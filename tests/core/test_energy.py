"""Energy is what counters say, or nothing."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.core import energy
from bench.core.energy import Meter
from bench.core.processes import World
from bench.data.store import Store
from bench.runs import results as record
from bench.runs.config import Config
from bench.runs.workspace import Workspace
from bench.training import metrics
from bench.training import trainer as pretrain

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


class Draws:
    """A meter in whose every second so many joules are used."""

    def __init__(self, **watts: float) -> None:
        self.watts, self.began = watts, energy.time.monotonic()

    def update(self) -> None:
        pass

    def take(self) -> dict[str, float]:
        began, self.began = self.began, energy.time.monotonic()
        return {part: each * (self.began - began) for part, each in self.watts.items()}


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, float]]]:
    """What the meters of the next attempts of a run can read, in watts."""
    watts: list[dict[str, float]] = []
    monkeypatch.setattr(metrics, "Meter", lambda *_, **__: Draws(**watts.pop(0)))
    yield watts
    assert not watts


def trained(made: Config, store: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> Any:
    """The result of a run, after an attempt that is stopped at a step."""
    if stop_at is not None:
        schedule = pretrain.optim.schedule_
        with monkeypatch.context() as patch:
            def until(optimiser: Any, taken: int, settings: Any) -> float:
                if taken == stop_at:
                    raise RuntimeError
                return schedule(optimiser, taken, settings)

            patch.setattr(pretrain.optim, "schedule_", until)
            with pytest.raises(RuntimeError):
                pretrain.pretrain(made, [store], where)
    return json.loads(record.path(where.results, pretrain.pretrain(made, [store], where).run_id).read_text())["result"]


def test_energy_adds_up_over_attempts_as_seconds_do(configure: Callable[..., Config], tiny: Store, where: Workspace,
                                                    attempts: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    attempts += [{"cpu": 50.0, "gpu": 100.0}, {"cpu": 50.0}, {}, {"cpu": 7.0}]
    result = trained(configure("mae"), tiny, where, monkeypatch, stop_at=5)
    assert result["energy_joules"] == {"cpu": pytest.approx(50 * result["seconds"], rel=0.2)}  # no gpu in the second
    assert not [key for key in result["curves"] if "watts" in key]
    other = replace(where, work=where.work / "other", results=where.results / "other")
    assert "energy_joules" not in trained(configure("mae", "seed=1"), tiny, other, monkeypatch, stop_at=5)


def test_power_of_all_processes_lacks_what_one_of_them_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_alike(world: World, tensors: list[torch.Tensor]) -> None:
        tensors[0].copy_((tensors[0] + torch.tensor([0.0, math.nan])) / 2)  # of the other: no package of its own, no GPU

    monkeypatch.setattr(World, "mean_", two_alike)
    meter = SimpleNamespace(take=lambda: {"cpu": 30.0, "gpu": 20.0})
    assert metrics.measure_watts(meter, 2.0, World(size=2)) == {"cpu_watts": 15.0}  # type: ignore[arg-type]
