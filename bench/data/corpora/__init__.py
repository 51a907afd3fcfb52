"""Published corpora, one file each. The file says what is known about a corpus, and how its folder is opened.

In: the name of a corpus and a folder with its files, as they were published.
Out: a `CorpusFolder`: the table of its records, their labels, patients and folds, and a function that reads one record.

The file of a corpus defines two names. `CORPUS` is a `Corpus` with all that is known before the download.
`open_folder(folder, rate_hz)` opens a folder of the corpus as a `CorpusFolder`. `known_corpora` and `open_corpus` find the files
by themselves, so a new corpus is one new file.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pandas as pd

from bench.core.errors import UserError, unknown
from bench.data.signal import LEADS

GAP = -32768  # WFDB's mark of a missing sample in 16 bits
TRAINING_FOLDS = list(range(1, 9))  # of ten folds, as PTB-XL has them: fold 9 validates, fold 10 tests


@dataclass(frozen=True)
class PhysioNet:
    """A published PhysioNet project: https://physionet.org/files/<project>/<version>/<under>."""

    project: str
    version: str
    under: str = ""  # only the files in this folder of the project
    size_gb: float = 0.0  # of the whole download, as published


@dataclass(frozen=True)
class Zenodo:
    """A published Zenodo record: https://zenodo.org/records/<record>."""

    record: int
    size_gb: float = 0.0


@dataclass(frozen=True)
class Corpus:
    """What is known about a corpus before it is downloaded; `ecgssl data list` prints it."""

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
    records: int | None = None  # number of records that the paper used (arXiv 2410.13867)
    seconds: int | None = None  # total duration of these records
    dropped: str = ""  # which records are left out by rule, and why
    highpass_hz: float = 0.0  # cut-off of a 4th-order Butterworth filter, forwards and backwards; 0: no filter
    labels: str = ""  # tasks, in words
    patients: str = ""  # what patient_id is, in words; empty: unknown
    download: PhysioNet | Zenodo | None = None


@dataclass(frozen=True)
class Recording:
    """One record as its file holds it, with the 12 leads in the order of LEADS."""

    rate_hz: int
    samples: np.ndarray  # (12, T): int16 steps with GAP where a sample is missing, or floats in units with NaN
    gain: np.ndarray | None = None  # (12,) steps per unit, if the samples are int16
    baseline: np.ndarray | None = None  # (12,) the step that means 0 units, if the samples are int16

    def physical(self) -> np.ndarray:
        """(12, T) float64 in units, NaN where a sample is missing: exactly the values that wfdb or h5py reads."""
        if self.gain is None or self.baseline is None:
            return self.samples.astype(np.float64)
        signal: np.ndarray = (self.samples.astype(np.float64) - self.baseline[:, None]) / self.gain[:, None]
        signal[self.samples == GAP] = np.nan
        return signal


class Refusal(UserError):
    """The error that says why one record is not used.

    reason: a short text that groups records in the report. by_rule: True if the corpus leaves such records out on purpose, so
    nothing is wrong with the folder.
    """

    def __init__(self, reason: str, text: str, by_rule: bool = False):
        super().__init__(reason, text, by_rule)  # all three, because pickling an exception saves these arguments only
        self.reason, self.text, self.by_rule = reason, text, by_rule

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CorpusFolder:
    """A folder of a corpus, opened and checked, ready to be prepared. So far only its tables have been read."""

    name: str  # becomes the store's name
    version: str
    rate_hz: int  # rate of the recordings; a recording may have another rate
    units: str  # units of the physical signal: mV, or sd if the corpus holds no absolute values
    scale: float  # physical units per int16 step of the store
    records: pd.DataFrame  # record_id, patient_id (may be empty), fold (0: none), one column of labels per task
    tasks: dict[str, list[str]]  # task -> its classes, in order; for a regression, a list with only its unit
    read: Callable[[Any], Recording]  # a row of records -> its recording; raises Refusal if the record cannot be used
    kinds: dict[str, str] = field(default_factory=dict)  # task -> single-label or regression; the others are multi-label
    gaps: str = "fill"  # if samples are missing: "fill" interpolates them per lead, "refuse" refuses the record
    constant: str = "keep"  # if a lead never changes: "keep" uses and lists the record, "refuse" refuses it
    min_seconds: float = 0.0  # shorter records are left out by rule
    highpass_hz: float = 0.0
    stats_folds: list[int] = field(default_factory=list)  # mean and sd come from these folds; empty: from all records
    chunk: int = 32  # records that a worker takes at a time; 1 if they are long, to limit memory
    origin: str = ""  # differs between folders that have the same table but other files; "" if this is not known


def _modules() -> dict[str, ModuleType]:
    """Name of a corpus -> its module."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {module.CORPUS.name: module for module in modules if hasattr(module, "CORPUS")}


def known_corpora() -> dict[str, Corpus]:
    """Name -> Corpus of every file in this folder, in the order of the names."""
    return {name: module.CORPUS for name, module in sorted(_modules().items())}


def open_corpus(name: str, folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the folder as the named corpus; UserError if the name is unknown or the folder holds something else.

    If a corpus is published at several rates, the files at rate_hz are opened, or files that can be resampled to it. None opens
    the files that the corpus prefers.
    """
    modules = _modules()
    if name not in modules:
        raise unknown("corpus", name, modules)
    return cast(CorpusFolder, modules[name].open_folder(folder, rate_hz))
