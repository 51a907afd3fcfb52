"""Small corpora and stores for the tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wfdb
import yaml

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.data.corpora import CorpusFolder, Recording
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from bench.data.store import Store


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random int16 of this shape."""
    return np.random.default_rng(seed).integers(-900, 900, shape, dtype=np.int16)


def wfdb_mv(path: Path) -> np.ndarray:
    """(12, T) as wfdb reads it, in the order of LEADS; path with or without its suffix."""
    record = wfdb.rdrecord(str(path.with_suffix("")))
    names = [name.casefold() for name in record.sig_name]
    return record.p_signal.T[[names.index(lead.casefold()) for lead in LEADS]]


def array_corpus(folder: Path, signals: np.ndarray, records: dict[str, Sequence[Any]] | None = None,
                 **spec: Any) -> Path:
    """A folder of a user's own data; records' columns and dataset.yaml's keys (None: left out) as given."""
    folder.mkdir(parents=True)
    np.save(folder / "signals.npy", signals)
    table = {"record_id": [f"r{i}" for i in range(len(signals))], **(records or {})}
    pd.DataFrame(table).to_csv(folder / "records.csv", index=False)
    spec = {"name": "mine", "rate_hz": 100, "leads": list(LEADS), "units": "mV", "scale": 0.001, "tasks": [], **spec}
    (folder / "dataset.yaml").write_text(yaml.safe_dump({k: v for k, v in spec.items() if v is not None}))
    return folder


def corpus_folder(signals: np.ndarray | Sequence[np.ndarray], folds: Sequence[int] = (), *, name: str = "mine",
                  rate_hz: int = 100, units: str = "mV", labels: Sequence[str] = (), **more: Any) -> CorpusFolder:
    """A corpus of (12, any length) int16 signals in steps of 0.001, with one task `kind` where there are labels."""
    n = len(signals)
    records = pd.DataFrame({"record_id": [f"r{i}" for i in range(n)], "patient_id": "", "fold": list(folds) or [0] * n,
                            "row": range(n), **({"kind": labels} if labels else {})})
    tasks = {"kind": sorted({x for text in labels for x in text.split(";") if x})} if labels else {}
    return CorpusFolder(name=name, version="1", rate_hz=rate_hz, units=units, scale=0.001, records=records, tasks=tasks,
                        read=lambda row: Recording(rate_hz, signals[row.row], np.full(12, 1000.0), np.zeros(12)),
                        stats_folds=list(range(1, 9)) if folds else [], **more)


def store(folder: Path, signals: np.ndarray | Sequence[np.ndarray], folds: Sequence[int] = (), *,
          at_hz: int | None = None, **more: Any) -> Store:
    """A prepared store of these signals in folder."""
    return prepare(corpus_folder(signals, folds, **more), folder, rate_hz=at_hz)


def report(prepared: Store) -> dict[str, Any]:
    """prepare.json of a store."""
    return read_json(prepared.folder / "prepare.json", "report")


def rows(corpus: CorpusFolder) -> list[Any]:
    """The rows of its records, as `read` takes them."""
    return list(corpus.records.itertuples())


def change(path: Path, /, **columns: str) -> None:
    """Write one value into the second row of some columns of a csv."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns={"Unnamed: 0": ""})
    for column, value in columns.items():
        table.loc[1, column] = value
    table.to_csv(path, index=False)


INSERTED = [b"0", b"1", b"9", b" ", b"\t", b"\n", b"\r", b"-", b"+", b".", b"e", b"x", b":", b"/", b"(1)", b"#", b"\0",
            b"\xff", b"\x0b", b"\x85", b"../", b"~", b"9" * 12, b"9" * 5000, b"1e99", b"nan", b"I", b"mV", b"x2", b"+24"]


def mutated(rng: np.random.Generator, content: bytes, kinds: int = 7) -> bytes:
    """Content after one accident; the last two of the kinds move lines."""
    at = int(rng.integers(len(content)))
    to = at + int(rng.integers(1, 6))
    kind = rng.integers(kinds)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1:]
    if kind == 1:
        return content[:at] + content[to:]
    if kind == 2:
        return content[:at] + INSERTED[int(rng.integers(len(INSERTED)))] + content[at:]
    if kind == 3:
        return content[:at] + bytes(rng.integers(32, 127, to - at, dtype=np.uint8)) + content[to:]
    if kind == 4:
        return content[:at]
    lines = content.split(b"\n")
    i, j = rng.integers(len(lines), size=2)
    if kind == 5:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i:i] = [lines[j]]
    return b"\n".join(lines)


def count_survivors(paths: list[Path], cases: int, use: Callable[[], object]) -> int:
    """How often use() succeeded with one of the files damaged; it may fail with a UserError of one line alone."""
    rng, succeeded, messages = np.random.default_rng(3), 0, list[str]()
    original = {path: path.read_bytes() for path in paths}
    for case in range(cases):
        path = paths[case % len(paths)]
        path.write_bytes(mutated(rng, original[path]))
        try:
            use()
            succeeded += 1
        except UserError as error:
            messages.append(str(error))
        path.write_bytes(original[path])
    assert all(len(text) < 800 and text.isprintable() for text in messages), max(messages, key=len)
    return succeeded


def refused(attempt: Callable[[], object], *texts: str) -> str:
    """Assert that this raises a UserError of one line with each of the texts; the line."""
    with pytest.raises(UserError) as raised:
        attempt()
    message = str(raised.value)
    assert all(text in message for text in texts) and "\n" not in message, message
    return message
