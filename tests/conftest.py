import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(os.environ.get("ECGBENCH_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real ECG and golden values; tests that need it are skipped where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no real data: {SHARED} does not exist (set ECGBENCH_SHARED)")
    return SHARED
