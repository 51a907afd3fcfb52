"""One file per corpus: where it lives, how a record is read, its labels, its licence.

A source is a module with NAME, TITLE, LICENCE, URL, ABOUT and open_source(folder, rate_hz) -> Source.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import UserError, unknown


@dataclass(frozen=True)
class Source:
    """A corpus on disk, opened and checked, ready to be prepared."""

    name: str  # becomes the store's name
    version: str
    rate_hz: int
    units: str  # of the physical signal: mV, or sd where a corpus holds no absolute values
    scale: float  # physical units per int16 step
    records: pd.DataFrame  # record_id, patient_id (may be empty), fold (0 = none), one column of labels per task
    tasks: dict[str, list[str]]  # task -> its classes, in order; labels are joined by ";"
    read: Callable[[Any], np.ndarray]  # row -> (12, samples) float64 in units, NaN where there is a gap
    gaps: str = "fill"  # NaN in a record: fill (interpolated per lead) or refuse
    constant: str = "keep"  # a lead that never changes: keep (and list) or refuse
    stats_folds: list[int] = field(default_factory=list)  # mean and sd come from these; empty = all records


def whole_numbers(column: pd.Series, path: Path) -> pd.Series:
    """The column as integers; UserError naming the first value that is none, or is negative."""
    value = pd.to_numeric(column, errors="coerce")
    wrong = ~((value >= 0) & (value % 1 == 0))
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(f"{path}: {column.name} {str(column.iloc[row])!r} in row {row + 1} is not a whole number "
                        f"of 0 or more")
    return value.astype(int)


def modules() -> dict[str, ModuleType]:
    """Source name -> its module."""
    found = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {m.NAME: m for m in found}


def open_source(name: str, folder: Path, rate_hz: int | None) -> Source:
    """The named corpus in folder; rate_hz None takes the source's own choice."""
    known = modules()
    if name not in known:
        raise unknown("source", name, known)
    return known[name].open_source(folder, rate_hz)
