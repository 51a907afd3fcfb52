"""One file per corpus: where it lives, its licence and labels, how its records are found and read.

A source is a module with CORPUS (what is known before a byte of it is here) and
open_source(folder, rate_hz) -> Source (what lies in a folder). A new corpus is one such file.
"""

import csv
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError, unknown
from bench.data.signal import LEADS

GAP = -32768  # WFDB's mark of a missing sample in 16 bits


@dataclass(frozen=True)
class PhysioNet:
    """A published PhysioNet project: https://physionet.org/files/<project>/<version>/<under>."""

    project: str
    version: str
    under: str = ""  # only what lies in this folder of the project
    size_gb: float = 0.0  # of the whole download, as published


@dataclass(frozen=True)
class Zenodo:
    """A published Zenodo record: https://zenodo.org/records/<record>."""

    record: int
    size_gb: float = 0.0


@dataclass(frozen=True)
class Corpus:
    """What is known about a corpus before a byte of it is here; `ecgssl data list` prints it."""

    name: str  # becomes the store's name
    title: str
    version: str
    licence: str
    citation: str
    url: str
    layout: str  # the files, in one line
    rate_hz: tuple[int, ...]  # as published
    leads: tuple[str, ...] = LEADS  # in the order of the files
    units: str = "mV"
    scale: float = 0.001  # units per int16 step of a store
    records: int | None = None  # that the paper used (arXiv 2410.13867)
    seconds: int | None = None
    dropped: str = ""  # which records are left out by rule, and why
    highpass_hz: float = 0.0  # 4th-order Butterworth, forwards and backwards; 0 = none
    labels: str = ""  # tasks, in words
    patients: str = ""  # what patient_id is, in words; empty: unknown
    download: PhysioNet | Zenodo | None = None


@dataclass(frozen=True)
class Recording:
    """One record as its file holds it, the 12 leads in the suite's order."""

    rate_hz: int
    samples: np.ndarray  # (12, T): int16 steps with GAP where a sample is missing, or floats in units with NaN
    gain: np.ndarray | None = None  # (12,) steps per unit, of int16 samples
    baseline: np.ndarray | None = None  # (12,) the step that is 0 units, of int16 samples

    def physical(self) -> np.ndarray:
        """(12, T) float64 in units, NaN where there is a gap: to the last bit what wfdb or h5py reads."""
        if self.gain is None or self.baseline is None:
            return self.samples.astype(np.float64)
        signal = (self.samples.astype(np.float64) - self.baseline[:, None]) / self.gain[:, None]
        signal[self.samples == GAP] = np.nan
        return signal


class Refused(UserError):
    """A record that is not taken. `reason` groups it in the report; by_rule: the corpus leaves such records out
    by design, nothing is wrong with the folder."""

    def __init__(self, reason: str, text: str, by_rule: bool = False):
        super().__init__(reason, text, by_rule)  # all three: an exception is pickled by its arguments
        self.reason, self.text, self.by_rule = reason, text, by_rule

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Source:
    """A corpus on disk, opened and checked, ready to be prepared."""

    name: str  # becomes the store's name
    version: str
    rate_hz: int  # of the recordings; one may have a rate of its own
    units: str  # of the physical signal: mV, or sd where a corpus holds no absolute values
    scale: float  # physical units per int16 step of the store
    records: pd.DataFrame  # record_id, patient_id (may be empty), fold (0 = none), one column of labels per task
    tasks: dict[str, list[str]]  # task -> its classes, in order, labels joined by ";"; of a regression its unit alone
    read: Callable[[Any], Recording]  # a row of records -> its recording; Refused where it cannot be used
    kinds: dict[str, str] = field(default_factory=dict)  # task -> single-label or regression; others are multi-label
    gaps: str = "fill"  # a missing sample: fill (interpolated per lead) or refuse the record
    constant: str = "keep"  # a lead that never changes: keep (and list) or refuse the record
    min_seconds: float = 0.0  # shorter records are left out by rule
    highpass_hz: float = 0.0
    stats_folds: list[int] = field(default_factory=list)  # mean and sd come from these; empty = all records
    chunk: int = 32  # records that a worker takes at a time: 1 where they are long, so that memory stays flat
    origin: str = ""  # what tells this folder's files from others with the same table, where that is cheap to know


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A csv file, every value as its text; UserError where it is none, or is cut within a row.

    With columns, no other is kept but the first, for a table whose texts would fill the memory.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            rows = (row for row in csv.reader(f, strict=True) if row)
            names = next(rows, [])
            kept = [i for i, name in enumerate(names) if not columns or not i or name in columns]
            values: list[list[str]] = [[] for _ in kept]
            for number, row in enumerate(rows, 1):
                if len(row) != len(names):
                    raise UserError(f"{path}: row {number} has {len(row)} values, the header names {len(names)}")
                for i, column in zip(kept, values, strict=True):
                    column.append(row[i])
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} does not exist, or is no file") from None
    except (csv.Error, UnicodeDecodeError):
        names = []
    if not names or any("\0" in text for column in [names, *values] for text in column):
        raise UserError(f"{path} is not a readable csv file")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r:.80}")
    return pd.DataFrame({names[i]: column for i, column in zip(kept, values, strict=True)}, dtype=object)


def published_table(path: Path, columns: tuple[str, ...], corpus: str) -> pd.DataFrame:
    """The table of a corpus with at least these columns and one row; UserError where it is missing, or another's."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder")
    if not path.is_file():
        raise UserError(f"{path.parent} is not {corpus}: it holds no {path.name}")
    table = read_table(path, columns)
    for column in columns:
        if column not in table:
            raise UserError(f"{path} has no column {column!r}; that of {corpus} has {', '.join(columns)}")
    if table.empty:
        raise UserError(f"{path} lists no record")
    return table


def whole_numbers(column: pd.Series, path: Path) -> pd.Series:
    """The column as integers, 7.0 as 7; UserError naming the first value that is none, is negative or has ten digits."""
    text = column.astype(str)
    wrong = ~text.str.fullmatch(r"[0-9]{1,9}(\.0*)?").to_numpy(bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}: {column.name!s:.80} {text.iloc[row]!r:.80} in row {row + 1} is not a whole number "
                        f"from 0 to 999,999,999")
    return text.astype(float).astype(int)


def numbers(column: pd.Series, path: Path) -> pd.Series:
    """The column's values as the shortest text of each number, "" where it is empty or NaN.

    UserError naming the first value that is no number, or is too large for 32 bits.
    """
    value = pd.to_numeric(column.replace("", "nan"), errors="coerce").astype(float)
    missing = column.str.strip().str.lower().isin(("", "nan")).to_numpy(bool)
    wrong = ~missing & ~(value.abs() <= np.finfo(np.float32).max).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}: {column.name!s:.80} {column.iloc[row]!r:.80} in row {row + 1} is not a number")
    return value.map(repr).mask(missing, "")


def modules() -> dict[str, ModuleType]:
    """Source name -> its module."""
    found = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {m.CORPUS.name: m for m in found if hasattr(m, "CORPUS")}


def open_source(name: str, folder: Path, rate_hz: int | None) -> Source:
    """The named corpus in folder; rate_hz None takes the rate that the source prefers.

    A source published at several rates picks the files of rate_hz, or those it can be resampled from.
    """
    known = modules()
    if name not in known:
        raise unknown("source", name, known)
    return known[name].open_source(folder, rate_hz)
