"""ecgbench. `bench.load_backbone(folder)` opens what `ecgbench export` wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.backbone import Backbone


def load_backbone(folder: str | Path) -> "Backbone":
    """(B, 12, T) ECG -> (B, N, D) tokens: the exported backbone in folder; UserError when it is none, or is damaged."""
    from bench.backbone import load  # torch takes a second: only who loads a backbone waits for it

    return load(Path(folder))
