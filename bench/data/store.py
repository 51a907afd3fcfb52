"""The on-disk form of a corpus: one int16 file, an index, a csv, and a manifest whose presence means complete.

signals.i16    every record's leads one after the other: record 0 lead I, record 0 lead II, ... little-endian
index.npy      INDEX of every record: where it lies, its fold, hashes of its samples
records.csv    record_id, patient_id, one column per task: its labels, or the number; in the index's order
prepare.json   what was refused, filled, clipped or found twice
manifest.json  rate, leads, units, statistics, the other files' sizes and SHA-256 (but for signals.i16: the index has a
               hash of every record), the fingerprint; written last
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

FORMAT = 3
FILES = ("signals.i16", "index.npy", "records.csv", "prepare.json")
HASHERS, HASHED = 4, 1024  # threads, records that one takes at a time; ours
HASH_AT_OPEN = 4 << 30  # bytes; ours: a signal file up to this size is hashed whenever a store is opened
INDEX = np.dtype([("offset", "<i8"), ("length", "<i8"),  # samples per lead, of all records before it and of it
                  ("digest", "<u8"),  # short_hash of its samples as published; 0: nothing to compare
                  ("stored", "<u8"),  # the same of its samples in signals.i16: what their damage is found by
                  ("fold", "<i4")])  # 0: none


@dataclass(frozen=True)
class Store:
    """A complete store, opened read-only. Nothing in memory grows with it until it is asked for."""

    folder: Path
    manifest: dict[str, Any]
    index: np.ndarray  # (records,) INDEX, memory-mapped
    signals: torch.Tensor  # (12 x samples,) int16, memory-mapped

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def rate_hz(self) -> int:
        return self.manifest["rate_hz"]

    @property
    def mean(self) -> np.ndarray:
        """(12,) of the training folds, in units."""
        return np.asarray(self.manifest["mean"])

    @property
    def sd(self) -> np.ndarray:
        """(12,) of the training folds, in units."""
        return np.asarray(self.manifest["sd"])

    def kind(self, task: str) -> str:
        """multi-label, single-label or regression."""
        return self.manifest.get("kinds", {}).get(task, "multi-label")

    @functools.cached_property
    def records(self) -> pd.DataFrame:
        """record_id, patient_id, fold, offset, length, digest and a column of ";"-joined labels per task."""
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
        """(12, samples) float64 of one record in the store's units; unresampled, to the last bit as wfdb reads it."""
        offset, length = (int(self.index[key][index]) for key in ("offset", "length"))
        start = offset * len(LEADS)
        raw = self.signals[start: start + length * len(LEADS)].view(len(LEADS), -1)
        return raw.numpy() / (1 / self.manifest["scale"])  # WFDB divides by a gain; x 0.001 is not / 1000


def fingerprint(manifest: dict[str, Any]) -> str:
    """16 hex digits over everything in the manifest that decides a result."""
    content = {k: v for k, v in manifest.items() if k != "fingerprint"}
    content["files"] = {k: v for k, v in manifest["files"].items() if k != "prepare.json"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def open_store(folder: Path, verify: bool | None = None) -> Store:
    """The store in folder. Refuses an incomplete or damaged one, naming the file.

    Sizes and the small files' hashes are always checked; every record's if verify is true, or by default when
    the signals are no larger than HASH_AT_OPEN.
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
    thorough = files["signals.i16"][0] <= HASH_AT_OPEN if verify is None else verify
    if thorough and (record := damaged(store)) is not None:
        raise UserError(f"{folder / 'signals.i16'} is damaged (record {record}: its hash is not the index's); "
                        f"prepare the store again")
    return store


def short_hash(samples: np.ndarray) -> int:
    """64 bits of a contiguous array's bytes: XXH3, a tenth of the time of SHA-256. Chance collisions alone matter here."""
    return xxhash.xxh3_64_intdigest(samples.data)


def damaged(store: Store) -> int | None:
    """The first record whose samples are not those that were written."""
    signals, index = _mapped(store.folder / "signals.i16").numpy(), store.index  # its pages are not this process's for good

    def wrong(first: int) -> int | None:
        for i in range(first, min(first + HASHED, len(index))):
            start, length = len(LEADS) * int(index["offset"][i]), len(LEADS) * int(index["length"][i])
            if short_hash(signals[start: start + length]) != index["stored"][i]:
                return i
        return None

    with ThreadPoolExecutor(HASHERS) as pool:
        return next((i for i in pool.map(wrong, range(0, len(index), HASHED)) if i is not None), None)


def _mapped(path: Path) -> torch.Tensor:
    """The file as int16, memory-mapped: larger than memory it may be, and a write would stay in this process."""
    with path.open("rb") as f:
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's value; a name from Python 3.13 on
        return torch.frombuffer(mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE),
                                dtype=torch.int16)


def open_by_name(stores: Path, name: str, verify: bool | None = None) -> Store:
    """The store called name in the folder of stores; verify as open_store has it."""
    if not (stores / name).is_dir() or Path(name).name != name or name.startswith(".") or not name:
        known = sorted(p.parent.name for p in stores.glob("*/manifest.json") if not p.parent.name.startswith("."))
        raise UserError(f"no store {name!r} in {stores}. Known: {', '.join(known) or 'none'}; "
                        f"`ecgssl data prepare` makes one")
    store = open_store(stores / name, verify)
    if store.name != name:
        raise UserError(f"{store.folder} holds the store {store.name!r}: rename the folder back to that")
    return store


def eligible(store: Store, folds: Sequence[int], samples: int) -> np.ndarray:
    """Rows of the store that may be drawn: of these folds, or of no fold; of `samples` samples or more."""
    fold = store.index["fold"]
    return np.flatnonzero(((fold <= 0) | np.isin(fold, folds)) & (store.index["length"] >= samples))
