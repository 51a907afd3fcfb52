"""A store is the prepared form of a corpus on disk: one int16 file, an index, a csv, and a manifest.

signals.i16    the leads of every record one after the other: record 0 lead I, record 0 lead II, ... little-endian
index.npy      a row INDEX for every record: its place in signals.i16, its fold, hashes of its samples
records.csv    record_id, patient_id, and one column per task with labels or a number; in the order of the index
prepare.json   a report: which records were refused, filled or clipped, and which have the same samples as another record
manifest.json  corpus, rate, leads, units, statistics, the fingerprint, and sizes and SHA-256 of the other files (for signals.i16
               the index holds a hash per record). It is written last: a store without it is not complete.
"""

import functools
import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xxhash

from bench.core.errors import UserError
from bench.core.files import read_json, sha256
from bench.core.models import canonical
from bench.data.signal import LEADS

FORMAT = 4
FILES = ("signals.i16", "index.npy", "records.csv", "prepare.json")
HASH_THREADS, HASH_RECORDS = 4, 1024  # records that a thread takes at a time
HASH_AT_OPEN = 4 << 30  # bytes: a signal file up to this size is hashed whenever a store is opened
INDEX = np.dtype([("offset", "<i8"),  # samples per lead of all records before this one
                  ("length", "<i8"),  # samples per lead of this record
                  ("digest", "<u8"),  # short_hash of its samples as published; 0 if it is flat, as all flat records are equal
                  ("stored", "<u8"),  # short_hash of its samples in signals.i16, to find damage
                  ("fold", "<i4")])  # 0: none


@dataclass(frozen=True)
class Store:
    """A complete store, opened read-only. Its signals and index stay on disk; only the pages in use take memory."""

    folder: Path
    manifest: dict[str, Any]
    index: np.ndarray  # (records,) INDEX, memory-mapped
    signals: torch.Tensor  # (12 x samples,) int16, memory-mapped

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def corpus(self) -> str:
        """Name of the corpus that the records come from."""
        return str(self.manifest["corpus"])

    @property
    def version(self) -> str:
        """Version of the corpus."""
        return str(self.manifest["version"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits: equal for stores with equal records, signals, labels, folds and statistics."""
        return str(self.manifest["fingerprint"])

    @property
    def rate_hz(self) -> int:
        return int(self.manifest["rate_hz"])

    @property
    def mean(self) -> np.ndarray:
        """(12,) mean of each lead over the training folds, in units."""
        return np.asarray(self.manifest["mean"])

    @property
    def sd(self) -> np.ndarray:
        """(12,) sd of each lead over the training folds, in units."""
        return np.asarray(self.manifest["sd"])

    def kind(self, task: str) -> str:
        """The kind of a task: multi-label, single-label or regression."""
        return str(self.manifest["kinds"].get(task, "multi-label"))

    @functools.cached_property
    def records(self) -> pd.DataFrame:
        """A row per record: record_id, patient_id, fold, offset, length, digest and a column of ";"-joined labels per task."""
        table = pd.read_csv(self.folder / "records.csv", dtype=str, keep_default_na=False)
        for column in INDEX.names or ():
            table[column] = self.index[column]
        return table

    def label_counts(self, task: str) -> pd.DataFrame:
        """Records per class (rows, in the task's order) and fold (columns)."""
        long = self.records[["fold", task]].assign(label=self.records[task].str.split(";")).explode("label")
        counts = pd.crosstab(long["label"], long["fold"])
        return counts.reindex(index=self.manifest["tasks"][task], columns=np.unique(self.index["fold"]), fill_value=0)

    def signal(self, index: int) -> np.ndarray:
        """(12, samples) float64 of one record in the store's units. If it was not resampled, these are exactly wfdb's values."""
        offset, length = (int(self.index[key][index]) for key in ("offset", "length"))
        start = offset * len(LEADS)
        raw = self.signals[start: start + length * len(LEADS)].view(len(LEADS), -1)
        return np.asarray(raw.numpy() / (1 / self.manifest["scale"]))  # WFDB divides by a gain; x 0.001 is not / 1000


def fingerprint(manifest: dict[str, Any]) -> str:
    """16 hex digits, a hash of everything in the manifest that can change a result: all except the report in prepare.json."""
    content = {k: v for k, v in manifest.items() if k != "fingerprint"}
    content["files"] = {k: v for k, v in manifest["files"].items() if k != "prepare.json"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def open_store(folder: Path, verify: bool | None = None) -> Store:
    """The store in folder; UserError that names the file if the store is incomplete or damaged.

    The sizes of all files and the hashes of the small ones are always checked. The hash of every record is checked if verify is
    True, or if verify is None and signals.i16 has at most HASH_AT_OPEN bytes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; `ecgssl data prepare` makes a store")
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is no complete store: manifest.json is missing; prepare it again")
    manifest = read_json(folder / "manifest.json", f"store {folder.name}")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder / 'manifest.json'} has format {manifest.get('format')!r}, this version reads "
                        f"{FORMAT}; prepare the store again")
    try:
        intact = fingerprint(manifest) == manifest["fingerprint"]
        files = {name: (entry["bytes"], entry.get("sha256")) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, files = False, {}
    if not intact or set(files) != set(FILES):
        raise UserError(f"{folder / 'manifest.json'} is damaged; prepare the store again")
    for name, (size, digest) in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"{path} is missing; prepare the store again")
        if path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size} bytes, the manifest says {size}; "
                            f"prepare the store again")
        if name != "signals.i16" and sha256(path) != digest:
            raise UserError(f"{path} is damaged (its SHA-256 is not the manifest's); prepare the store again")
    try:
        index = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
    except ValueError:
        index = np.empty(0)
    if index.dtype != INDEX or len(index) != manifest["records"]:
        raise UserError(f"{folder / 'index.npy'} is damaged; prepare the store again")
    store = Store(folder, manifest, index, _mapped(folder / "signals.i16"))
    verify = files["signals.i16"][0] <= HASH_AT_OPEN if verify is None else verify
    if verify and (record := first_damaged(store)) is not None:
        raise UserError(f"{folder / 'signals.i16'} is damaged (record {record}: its hash is not the index's); "
                        f"prepare the store again")
    return store


def short_hash(samples: np.ndarray) -> int:
    """XXH3 of a contiguous array's bytes, 64 bits. It takes a tenth of the time of SHA-256 and detects accidents, not attacks."""
    return int(xxhash.xxh3_64_intdigest(samples.data))


def first_damaged(store: Store) -> int | None:
    """The first record whose samples differ from those that were written; None if all are intact."""
    signals, index = _mapped(store.folder / "signals.i16").numpy(), store.index  # a second map: its pages are freed with it

    def wrong(first: int) -> int | None:
        for i in range(first, min(first + HASH_RECORDS, len(index))):
            start, length = len(LEADS) * int(index["offset"][i]), len(LEADS) * int(index["length"][i])
            if short_hash(signals[start: start + length]) != index["stored"][i]:
                return i
        return None

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return next((i for i in pool.map(wrong, range(0, len(index), HASH_RECORDS)) if i is not None), None)


def _mapped(path: Path) -> torch.Tensor:
    """The file as int16, memory-mapped: it may be larger than memory, and a write would not reach the file."""
    with path.open("rb") as f:
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's value; a name from Python 3.13 on
        return torch.frombuffer(mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE),
                                dtype=torch.int16)


def open_by_name(stores: Path, name: str, verify: bool | None = None) -> Store:
    """The store `name` in the folder `stores`; UserError if there is none. verify: as in open_store."""
    if not (stores / name).is_dir() or Path(name).name != name or name.startswith(".") or not name:
        known = sorted(p.parent.name for p in stores.glob("*/manifest.json") if not p.parent.name.startswith("."))
        raise UserError(f"no store {name!r} in {stores}. Known: {', '.join(known) or 'none'}; "
                        f"`ecgssl data prepare` makes one")
    store = open_store(stores / name, verify)
    if store.name != name:
        raise UserError(f"{store.folder} holds the store {store.name!r}: rename the folder back to that")
    return store


def eligible(store: Store, folds: Sequence[int], samples: int) -> np.ndarray:
    """The rows of the store that may be drawn: in these folds or in no fold, and with `samples` samples or more."""
    fold = store.index["fold"]
    return np.flatnonzero(((fold <= 0) | np.isin(fold, folds)) & (store.index["length"] >= samples))


def explain_none_eligible(store: Store, folds: Sequence[int], samples: int) -> UserError:
    """The error for a store without an eligible row; it says whether the folds or the lengths are the cause."""
    in_folds = store.index["length"][eligible(store, folds, 0)]
    folds_text = f"folds {', '.join(map(str, folds))}"
    if not len(in_folds):
        known = sorted(set(store.index["fold"].tolist()))
        return UserError(f"store {store.name} has no record in {folds_text}. Known folds: {', '.join(map(str, known))}")
    longest, seconds = int(in_folds.max()) / store.rate_hz, samples / store.rate_hz
    return UserError(f"store {store.name}: all {len(in_folds):,} records in {folds_text} are shorter than the crop of "
                     f"{seconds:g} s; the longest lasts {longest:g} s. Choose a shorter crop")
