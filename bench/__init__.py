"""ecgssl. `bench.load_backbone(folder)` opens what `ecgssl export` wrote, `bench.report.aggregate.load(folder)` reads records."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.backbones.exporting import Backbone
    from bench.report import aggregate as aggregate


def load_backbone(folder: str | Path) -> "Backbone":
    """(B, 12, T) ECG -> (B, N, D) tokens: the exported backbone in folder; UserError when it is none, or is damaged."""
    from bench.backbones.exporting import load  # torch takes a second: only who loads a backbone waits for it

    return load(Path(folder))


def __getattr__(name: str) -> Any:
    """bench.report.aggregate, which is imported when it is used."""
    if name == "report":
        return importlib.import_module("bench.report.aggregate")
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
