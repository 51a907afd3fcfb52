"""Opens the records that a backbone is used on: a store, a folder of a user's own data, or WFDB files, as a `CorpusFolder`."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import CorpusFolder, Recording, Refusal, array
from bench.data.ingest import wfdb_file
from bench.data.signal import LEADS, breaks_einthoven
from bench.data.store import Store, open_by_name, open_store

ANY_RATE = 0  # rate_hz of a CorpusFolder whose recordings may have different rates
CHUNK = 4  # records that a worker takes at a time; few, because a record may last half an hour
LUDB_HEADER = re.compile(rb"^# ?<(age|sex|diagnoses)>:", re.MULTILINE)  # only its headers have such lines


def open_records(place: str, stores: Path) -> CorpusFolder:
    """The records at a place; UserError if there are none.

    place: a .hea file (with or without its suffix), a folder of .hea files, a folder with dataset.yaml, a store's folder,
    or a store's name in `stores`.
    """
    path, header = Path(place), Path(f"{place}.hea")
    if not path.is_dir():
        if path.suffix == ".hea" or header.is_file():
            header = path if path.suffix == ".hea" else header
            return open_wfdb(header.parent, [header])
        if path.exists() or len(path.parts) != 1:
            raise UserError(f"--from {place}: a .hea file, a folder of them, a folder with dataset.yaml, or a store's name")
        return records_of(open_by_name(stores, place))
    if (path / "manifest.json").is_file():
        return records_of(open_store(path))
    if (path / "dataset.yaml").is_file():
        return array.open_folder(path, None)
    headers = sorted(path.rglob("*.hea"))
    if not headers:
        raise UserError(f"{path} holds no .hea file, no dataset.yaml, and is no store")
    return open_wfdb(path, headers)


def open_wfdb(folder: Path, headers: list[Path]) -> CorpusFolder:
    """Open WFDB records in mV; the id of a record is its path below folder, without suffix."""
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in headers]
    return CorpusFolder(
        name=folder.resolve().name, version="", rate_hz=ANY_RATE, units="mV", scale=0.001, tasks={}, chunk=CHUNK,
        records=pd.DataFrame({"record_id": names}), read=lambda row: read_wfdb(folder / f"{row.record_id}.hea"))


def read_wfdb(path: Path) -> Recording:
    """The recording of a .hea file; Refusal if it cannot be read, or its gains are wrong, as those of LUDB are."""
    try:
        recording = wfdb_file.read(path)
        header = path.read_bytes()
    except OSError as error:
        raise Refusal("unreadable", f"{path} cannot be read ({error.strerror})") from None
    if breaks_einthoven(recording.physical()):
        wrong = f"{path}: lead I + lead III is not lead II, so the gains or the leads in its header are wrong"
        if _is_ludb(recording, header):
            wrong += ". It is a record of LUDB, which is known for that: `ecgssl data prepare ludb` corrects it, use the store"
        raise Refusal("wrong gains", wrong)
    return recording


def _is_ludb(recording: Recording, header: bytes) -> bool:
    """Whether the integers obey Einthoven's law, as LUDB's microvolts do, and the header has LUDB's comments."""
    i, ii, iii = recording.samples[:3].astype(int)
    return bool(np.abs(i + iii - ii).max(initial=0) <= 1 and LUDB_HEADER.search(header))


def records_of(store: Store) -> CorpusFolder:
    """The records of a store; their samples are the integers of the store."""
    gain, zero = np.full(len(LEADS), 1 / store.manifest["scale"]), np.zeros(len(LEADS))

    def read(row: Any) -> Recording:
        start = int(store.index["offset"][row.row]) * len(LEADS)
        end = start + int(store.index["length"][row.row]) * len(LEADS)
        return Recording(store.rate_hz, store.signals[start:end].view(len(LEADS), -1).numpy(), gain, zero)

    ids = store.records.record_id
    return CorpusFolder(
        name=store.name, version=store.version, rate_hz=store.rate_hz, units=store.manifest["units"],
        scale=store.manifest["scale"], tasks={}, read=read, chunk=CHUNK,
        records=pd.DataFrame({"record_id": ids, "row": np.arange(len(ids))}))
