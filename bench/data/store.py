"""The on-disk form of a corpus: one int16 file, one csv, and a manifest whose presence means complete.

signals.i16    every record's leads one after the other: record 0 lead I, record 0 lead II, ... little-endian
records.csv    record_id, patient_id, fold, offset and length in samples per lead, one column of labels per task
prepare.json   what was refused, filled or noticed
manifest.json  rate, leads, units, statistics, the other files' sizes and SHA-256, the fingerprint; written last
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.config import canonical
from bench.data.signal import LEADS
from bench.errors import UserError
from bench.files import read_json, sha256

FORMAT = 1
HASH_AT_OPEN = 4 << 30  # bytes; ours: a signal file up to this size is hashed whenever a store is opened


@dataclass(frozen=True)
class Store:
    """A complete store, opened read-only."""

    folder: Path
    manifest: dict[str, Any]
    records: pd.DataFrame
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

    def signal(self, index: int) -> np.ndarray:
        """(12, samples) float64 of one record in the store's units, to the last bit as wfdb reads it."""
        offset, length = self.records.offset[index], self.records.length[index]
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

    Sizes and the small files' hashes are always checked; the signals' hash if verify is true, or by default when
    they are no larger than HASH_AT_OPEN.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; `ecgbench data prepare` makes a store")
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is no complete store: manifest.json is missing; prepare it again")
    manifest = read_json(folder / "manifest.json", f"store {folder.name}")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder / 'manifest.json'} has format {manifest.get('format')!r}, this version reads "
                        f"{FORMAT}; prepare the store again")
    try:
        intact = fingerprint(manifest) == manifest["fingerprint"]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        intact, files = False, {}
    if not intact or not {"signals.i16", "records.csv"} <= set(files):
        raise UserError(f"{folder / 'manifest.json'} is damaged; prepare the store again")
    for name, (size, digest) in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"{path} is missing; prepare the store again")
        if path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size} bytes, the manifest says {size}; "
                            f"prepare the store again")
        hashed = name != "signals.i16" or (size <= HASH_AT_OPEN if verify is None else verify)
        if hashed and sha256(path) != digest:
            raise UserError(f"{path} is damaged (its SHA-256 is not the manifest's); prepare the store again")
    text = {"record_id": str, "patient_id": str, **dict.fromkeys(manifest["tasks"], str)}
    records = pd.read_csv(folder / "records.csv", dtype=text, keep_default_na=False)
    count = files["signals.i16"][0] // 2
    signals = torch.from_file(str(folder / "signals.i16"), shared=False, size=count, dtype=torch.int16)
    return Store(folder, manifest, records, signals)


def open_by_name(stores: Path, name: str) -> Store:
    """The store called name in the folder of stores."""
    if not (stores / name).is_dir() or Path(name).name != name or name.startswith(".") or not name:
        known = sorted(p.parent.name for p in stores.glob("*/manifest.json") if not p.parent.name.startswith("."))
        raise UserError(f"no store {name!r} in {stores}. Known: {', '.join(known) or 'none'}; "
                        f"`ecgbench data prepare` makes one")
    return open_store(stores / name)
