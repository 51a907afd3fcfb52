import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from corpora import array_corpus
from pretraining import Pretraining

from bench import cli
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.store import Store, open_by_name
from bench.encoders import vit
from bench.report.results import load_results
from bench.runs.config import PretrainConfig, load_pretrain_config
from bench.runs.layers import overrides_of, parse_overrides
from bench.runs.workspace import Workspace
from bench.training import monitor
from bench.training.inputs import fill_fingerprints
from bench.training.trainer import pretrain
from paper import figures, report

torch.set_num_threads(1)

SHARED = Path(os.environ.get("ECGSSL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
NANO = vit.Size(16, 2, 2)  # small enough for thousands of steps in a test


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real ECG and golden values; tests that need it are skipped where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no real data: {SHARED} does not exist (set ECGSSL_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the store `tiny`: 80 records of 10 s at 100 Hz in ten folds, task `pitch` of three classes."""
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    labels = [["low", "high", "low;high", "odd"][i % 4] for i in range(80)]
    time_s = np.arange(1000) / 100
    mv = rng.normal(0, 0.2, (80, 12, 1000))
    for i, text in enumerate(labels):
        for label in text.split(";"):
            mv[i] += 0.5 * np.sin(2 * np.pi * {"low": 2, "high": 11, "odd": 23}[label] * time_s + rng.uniform(0, 6))
    columns = {"record_id": [f"r{i:02d}" for i in range(80)], "fold": [i // 8 + 1 for i in range(80)], "pitch": labels}
    array_corpus(folder / "corpus", np.rint(mv * 1000).astype(np.int16), columns, name="tiny", tasks=["pitch"])
    prepare(open_corpus("array", folder / "corpus", None), folder / "stores")
    return folder / "stores"


@pytest.fixture
def tiny(stores: Path) -> Store:
    return open_by_name(stores, "tiny")


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> vit.Size:
    """encoder.size nano exists while the test runs, and looking for collapse costs little."""
    monkeypatch.setattr(monitor, "BATCH", 16)
    monkeypatch.setitem(vit.SIZES, "nano", NANO)
    return NANO


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work", tmp_path / "results", torch.device("cpu"), save_steps=2)


def load_nano(method: str, *overrides: str) -> PretrainConfig:
    """A pre-training of a small method around a nano encoder on the store `tiny`."""
    nano = ["encoder.size=nano", "data.rate_hz=100", "data.mix={tiny: 1.0}"]
    return load_pretrain_config(method, [*parse_overrides(nano), *overrides_of(heads(method)), *parse_overrides(overrides)])


@pytest.fixture
def configure(nano: vit.Size, tiny: Store) -> Callable[..., PretrainConfig]:
    """configure(method, *overrides): a pre-training of a nano encoder on `tiny`, 8 steps of 4 records."""

    def configure(method: str, *overrides: str) -> PretrainConfig:
        steps = [] if method == "random" else ["optim.steps=8", "optim.batch=4", "optim.warmup_steps=2"]
        return fill_fingerprints(load_nano(method, "optim.precision=float32", *steps, *overrides), {"tiny": tiny})

    return configure


@pytest.fixture
def start(configure: Callable[..., PretrainConfig], tiny: Store, workspace: Workspace) -> Callable[..., Pretraining]:
    """start(method, *overrides): a pre-training of `configure` in the workspace, not yet run."""
    return lambda method, *overrides: Pretraining(configure(method, *overrides), tiny, workspace)


def small(settings: dict[str, Any]) -> dict[str, Any]:
    """A method's settings with heads for nano encoders: what is wider than 64 becomes 32, decoders a single block."""
    narrow = {key: 32 for key, value in settings.items() if type(value) is int and value > 64}
    return narrow | {key: {"width": 8, "depth": 1, "heads": 2} for key in ("decoder", "predictor") if key in settings}


def heads(method: str) -> dict[str, Any]:
    """The overrides that make a method small."""
    return {f"method.{key}": value for key, value in small(load_pretrain_config(method).method.arguments).items()}


@pytest.fixture(scope="session")
def two_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the store `two`: 80 records of 5 s at 100 Hz; every one has a `pitch`, every second one a `form`."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("two")
    pitch = rng.integers(3, size=80)
    pitch[[64, 65, 66, 72, 73, 74]] = [0, 1, 2, 0, 1, 2]
    time_s = np.arange(500) / 100
    mv = rng.normal(0, 0.2, (80, 12, 500)) + np.sin(2 * np.pi * np.array([2, 11, 23])[pitch, None, None] * time_s)
    columns = {"fold": [i // 8 + 1 for i in range(80)], "pitch": [("low", "high", "odd")[p] for p in pitch],
               "form": ["", "flat", "", "steep"] * 20}
    array_corpus(folder / "corpus", np.rint(mv * 1000).astype(np.int16), columns, name="two", tasks=["pitch", "form"])
    prepare(open_corpus("array", folder / "corpus", None), folder / "stores")
    return folder / "stores"


@pytest.fixture
def two(two_folder: Path) -> Store:
    return open_by_name(two_folder, "two")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> tuple[Path, dict[str, str]]:
    """(a work folder, run_ids in it): `jepa` of two steps on `tiny`, and `random`; both of a nano encoder."""
    folder, names = tmp_path_factory.mktemp("pretrained"), {}
    with pytest.MonkeyPatch.context() as m:
        m.setattr(monitor, "BATCH", 16)
        m.setitem(vit.SIZES, "nano", NANO)
        for method, steps in (("jepa", ["optim.steps=2", "optim.batch=4", "optim.warmup_steps=0"]), ("random", [])):
            workspace = Workspace(folder / "work", folder / "results", torch.device("cpu"))
            names[method] = pretrain(load_nano(method, *steps), [open_by_name(stores, "tiny")], workspace).run_id
    return folder / "work", names


@pytest.fixture
def run(pretrained: tuple[Path, dict[str, str]], workspace: Workspace, nano: vit.Size) -> str:
    """run_id of `jepa` in the workspace, where `random` is, too."""
    work, names = pretrained
    shutil.copytree(work, workspace.work)
    return names["jepa"]


@pytest.fixture
def random(run: str, pretrained: tuple[Path, dict[str, str]]) -> str:
    """run_id of `random` in the workspace."""
    return pretrained[1]["random"]


@pytest.fixture(scope="session")
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 synthetic records in PTB-XL's layout; not to be changed (copy what a test changes)."""
    from bench.data.synthetic.ptbxl_layout import write_ptbxl

    folder = tmp_path_factory.mktemp("corpus") / "ptb-xl"
    write_ptbxl(folder, records=40, seed=0)
    return folder


def reported(results: Path, out: Path, rule: str = "default") -> list[Path]:
    """The files of `ecgssl report --allow --controls`."""
    loaded, skipped = load_results(results, controls=True)
    assert not skipped
    return report.write(loaded, out, rule=rule)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """command(argument, ...) -> (exit code, standard output, standard error) of `ecgssl argument ...`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without figures, which are slow."""
    monkeypatch.setattr(figures, "save", lambda *_: [])
