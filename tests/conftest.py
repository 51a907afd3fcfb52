import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import yaml
from pretraining import Pretraining

from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.encoders import vit
from bench.report.results import load_results
from bench.runs.config import PretrainConfig, load_pretrain_config, overrides_of, parse_overrides
from bench.runs.workspace import Workspace
from bench.training import monitor
from bench.training.inputs import fill_fingerprints
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
    np.save(folder / "signals.npy", np.rint(mv * 1000).astype(np.int16))
    rows = [f"r{i:02d},{i // 8 + 1},{text}" for i, text in enumerate(labels)]
    (folder / "records.csv").write_text("\n".join(["record_id,fold,pitch", *rows, ""]))
    (folder / "dataset.yaml").write_text(yaml.safe_dump({
        "name": "tiny", "rate_hz": 100, "leads": list(LEADS), "units": "mV", "scale": 0.001, "tasks": ["pitch"]}))
    prepare(open_corpus("array", folder, None), folder / "stores")
    return folder / "stores"


@pytest.fixture
def tiny(stores: Path) -> Store:
    from bench.data.store import open_by_name

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


@pytest.fixture
def where(workspace: Workspace) -> Workspace:
    """The same as `workspace`, until all tests use that name."""
    return workspace


@pytest.fixture
def configure(nano: vit.Size, tiny: Store) -> Callable[..., PretrainConfig]:
    """configure(method, *overrides): a pre-training of a nano encoder on `tiny`, 8 steps of 4 records."""

    def make(method: str, *overrides: str) -> PretrainConfig:
        steps = [] if method == "random" else ["optim.steps=8", "optim.batch=4", "optim.warmup_steps=2"]
        nano = ["encoder.size=nano", "data.rate_hz=100", "data.mix={tiny: 1.0}", "optim.precision=float32", *steps]
        given = [*parse_overrides(nano), *overrides_of(heads(method)), *parse_overrides(overrides)]
        return fill_fingerprints(load_pretrain_config(method, given), {"tiny": tiny})

    return make


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
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 synthetic records in PTB-XL's layout; not to be changed (copy what a test changes)."""
    from bench.data.synthetic.ptbxl_layout import write_ptbxl

    folder = tmp_path_factory.mktemp("corpus") / "ptb-xl"
    write_ptbxl(folder, records=40, seed=0)
    return folder


def reported(results: Path, out: Path, rule: str = "ours") -> list[Path]:
    """The files of `ecgssl report --allow --controls`."""
    loaded, skipped = load_results(results, controls=True)
    assert not skipped
    return report.write(loaded, out, rule=rule)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without figures, which are slow."""
    monkeypatch.setattr(figures, "save", lambda *_: [])
