"""Records to use a backbone on, in whatever form they come, as one Source: a store, an `array` folder, WFDB files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import Recording, Refused, Source, array
from bench.data.ingest import wfdb_file
from bench.data.signal import LEADS, breaks_einthoven
from bench.data.store import Store, open_by_name, open_store

ANY_RATE = 0  # of a Source whose records each say their own
CHUNK = 4  # records that a worker takes at a time: they may last half an hour; ours


def open_records(place: str, stores: Path) -> Source:
    """The records at a place: a .hea file (its suffix may be missing), a folder of them, a folder with dataset.yaml, or
    a store, by its folder or its name in `stores`."""
    path, header = Path(place), Path(f"{place}.hea")
    if not path.is_dir():
        if path.suffix == ".hea" or header.is_file():
            header = path if path.suffix == ".hea" else header
            return wfdb(header.parent, [header])
        if path.exists() or len(path.parts) != 1:
            raise UserError(f"--from {place}: a .hea file, a folder of them, a folder with dataset.yaml, or a store's name")
        return store(open_by_name(stores, place))
    if (path / "manifest.json").is_file():
        return store(open_store(path))
    if (path / "dataset.yaml").is_file():
        return array.open_source(path, None)
    found = sorted(path.rglob("*.hea"))
    if not found:
        raise UserError(f"{path} holds no .hea file, no dataset.yaml, and is no store")
    return wfdb(path, found)


def wfdb(folder: Path, files: list[Path]) -> Source:
    """WFDB records in mV; an id is the path below folder, without its suffix."""
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    return Source(name=folder.resolve().name, version="", rate_hz=ANY_RATE, units="mV", scale=0.001, tasks={}, chunk=CHUNK,
                  records=pd.DataFrame({"record_id": names}), read=lambda row: read_wfdb(folder / f"{row.record_id}.hea"))


def read_wfdb(path: Path) -> Recording:
    try:
        recording = wfdb_file.read(path)
    except OSError as error:
        raise Refused("unreadable", f"{path} cannot be read ({error.strerror})") from None
    if breaks_einthoven(recording.physical()):
        raise Refused("wrong gains", f"{path}: lead I + lead III is not lead II: gains or leads of its header are wrong")
    return recording


def store(opened: Store) -> Source:
    """The records of a store; its integers are left as they are."""
    m = opened.manifest
    gain, zero = np.full(len(LEADS), 1 / m["scale"]), np.zeros(len(LEADS))

    def read(row: Any) -> Recording:
        start = int(opened.index["offset"][row.row]) * len(LEADS)
        end = start + int(opened.index["length"][row.row]) * len(LEADS)
        return Recording(opened.rate_hz, opened.signals[start:end].view(len(LEADS), -1).numpy(), gain, zero)

    ids = opened.records.record_id
    return Source(name=opened.name, version=m["version"], rate_hz=opened.rate_hz, units=m["units"], scale=m["scale"],
                  records=pd.DataFrame({"record_id": ids, "row": np.arange(len(ids))}), tasks={}, read=read,
                  chunk=CHUNK)
