"""Published corpora, one file each: what is known about a corpus, and how its folder is opened.

In: the name of a corpus and a folder with its files, as they were published.
Out: a `CorpusFolder`: the table of its records, their labels, patients and folds, and a function that reads one record.

The file of a corpus has two names: `CORPUS`, a `Corpus` with all that is known before a byte is downloaded, and
`open_folder(folder, rate_hz)`, which opens a folder of it as a `CorpusFolder`. `known_corpora` and `open_corpus` find
the files by themselves, so a new corpus is one new file.
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
    """What is known about a corpus before a byte of it is downloaded; `ecgssl data list` prints it."""

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
    seconds: int | None = None  # their duration
    dropped: str = ""  # which records are left out by rule, and why
    highpass_hz: float = 0.0  # 4th-order Butterworth, forwards and backwards; 0: none
    labels: str = ""  # tasks, in words
    patients: str = ""  # what patient_id is, in words; empty: unknown
    download: PhysioNet | Zenodo | None = None


@dataclass(frozen=True)
class Recording:
    """One record as its file holds it, with the 12 leads in the order of LEADS."""

    rate_hz: int
    samples: np.ndarray  # (12, T): int16 steps with GAP where a sample is missing, or floats in units with NaN
    gain: np.ndarray | None = None  # (12,) steps per unit, of int16 samples
    baseline: np.ndarray | None = None  # (12,) the step that is 0 units, of int16 samples

    def physical(self) -> np.ndarray:
        """(12, T) float64 in units, NaN where a sample is missing: to the last bit what wfdb or h5py reads."""
        if self.gain is None or self.baseline is None:
            return self.samples.astype(np.float64)
        signal: np.ndarray = (self.samples.astype(np.float64) - self.baseline[:, None]) / self.gain[:, None]
        signal[self.samples == GAP] = np.nan
        return signal


class Refusal(UserError):
    """Why one record is not used.

    reason: groups records in the report. by_rule: the corpus leaves such records out by design, nothing is wrong with
    the folder.
    """

    def __init__(self, reason: str, text: str, by_rule: bool = False):
        super().__init__(reason, text, by_rule)  # all three: an exception is pickled by its arguments
        self.reason, self.text, self.by_rule = reason, text, by_rule

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CorpusFolder:
    """A folder of a corpus, opened and checked, ready to be prepared. Nothing but its tables was read."""

    name: str  # becomes the store's name
    version: str
    rate_hz: int  # of the recordings; one recording may have a rate of its own
    units: str  # of the physical signal: mV, or sd where a corpus holds no absolute values
    scale: float  # physical units per int16 step of the store
    records: pd.DataFrame  # record_id, patient_id (may be empty), fold (0: none), one column of labels per task
    tasks: dict[str, list[str]]  # task -> its classes, in order, labels joined by ";"; of a regression its unit alone
    read: Callable[[Any], Recording]  # a row of records -> its recording; raises Refusal where it cannot be used
    kinds: dict[str, str] = field(default_factory=dict)  # task -> single-label or regression; the others are multi-label
    gaps: str = "fill"  # a missing sample: fill (interpolated per lead) or refuse the record
    constant: str = "keep"  # a lead that never changes: keep (and list) or refuse the record
    min_seconds: float = 0.0  # shorter records are left out by rule
    highpass_hz: float = 0.0
    stats_folds: list[int] = field(default_factory=list)  # mean and sd come from these folds; empty: from all records
    chunk: int = 32  # records that a worker takes at a time: 1 where they are long, so that memory stays flat
    origin: str = ""  # tells the files of this folder from others with the same table, where that is cheap to know


def _modules() -> dict[str, ModuleType]:
    """Name of a corpus -> its module."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {module.CORPUS.name: module for module in modules if hasattr(module, "CORPUS")}


def known_corpora() -> dict[str, Corpus]:
    """Name -> Corpus of every file in this folder, in the order of the names."""
    return {name: module.CORPUS for name, module in sorted(_modules().items())}


def open_corpus(name: str, folder: Path, rate_hz: int | None) -> CorpusFolder:
    """The folder as one of the named corpus; UserError where the name is unknown or the folder holds something else.

    A corpus that is published at several rates opens the files of rate_hz, or those that can be resampled to it; None
    opens the files that the corpus prefers.
    """
    modules = _modules()
    if name not in modules:
        raise unknown("corpus", name, modules)
    return cast(CorpusFolder, modules[name].open_folder(folder, rate_hz))
