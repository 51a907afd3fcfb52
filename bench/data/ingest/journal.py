"""An unfinished store: the signals that were written so far, and a journal from which a stopped `prepare` continues.

signals.i16     the signals of the accepted records, one after the other
journal.jsonl   a `Batch` per line: the outcome for some consecutive records of the corpus's table
"""

import array
import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.core.files import name_in_errors
from bench.data.corpora import Refusal
from bench.data.ingest.convert import Conversion
from bench.data.signal import LEADS

SAVE_BYTES = 64 << 20  # bytes of signals between two lines of the journal, so a kill loses no more
SAVE_ROWS = 10_000  # largest number of records between two lines, refused ones included


def _zeros() -> list[int]:
    return [0] * len(LEADS)


def _no_notes() -> dict[str, dict[str, Any]]:
    return {"gaps_filled": {}, "constant_leads": {}, "clipped": {}}


@dataclass
class Batch:
    """A line of the journal: the outcome for some consecutive records."""

    rows: int = 0  # number of these records
    bytes: int = 0  # bytes of their signals in signals.i16
    row: list[int] = field(default_factory=list)  # row of each accepted record in the corpus's table
    length: list[int] = field(default_factory=list)  # of each accepted record, as are the next two: see store.INDEX
    digest: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    refused: list[tuple[str, bool, str, str]] = field(default_factory=list)  # reason, by_rule, record_id, text
    notes: dict[str, dict[str, Any]] = field(default_factory=_no_notes)  # kind of change -> record_id -> how much
    resampled: int = 0  # number of resampled records
    samples: int = 0  # samples per lead of the records that the statistics come from
    total: list[int] = field(default_factory=_zeros)  # per lead, the sum of these samples
    squares: list[int] = field(default_factory=_zeros)  # per lead, the sum of their squares


class Tally:
    """The sum of all lines of the journal: the outcome for all records so far."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.resampled = self.samples = 0  # as in Batch
        self.row, self.length = array.array("q"), array.array("q")
        self.digest, self.stored = array.array("Q"), array.array("Q")
        self.refused: dict[str, dict[str, Any]] = {}  # reason -> by_rule, records: record_id -> text
        self.notes = _no_notes()
        self.total, self.squares = _zeros(), _zeros()

    def add(self, batch: Batch) -> None:
        for key in ("rows", "bytes", "resampled", "samples"):
            setattr(self, key, getattr(self, key) + getattr(batch, key))
        for key in ("row", "length", "digest", "stored"):
            getattr(self, key).extend(getattr(batch, key))
        for reason, by_rule, record_id, text in batch.refused:
            self.refused.setdefault(reason, {"by_rule": by_rule, "records": {}})["records"][record_id] = text
        for kind, records in batch.notes.items():
            self.notes[kind].update(records)
        self.total = [a + b for a, b in zip(self.total, batch.total, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, batch.squares, strict=True)]


class UnfinishedStore:
    """Appends records to the two files in `folder`. When they are opened again, bytes that a kill left incomplete are cut off."""

    def __init__(self, folder: Path, *, retry_refused: bool):
        """retry_refused: continue from the first record that was refused, but not by rule: the user may have mended it."""
        self.signals, self.journal = folder / "signals.i16", folder / "journal.jsonl"
        self.tally, self.batch = Tally(), Batch()
        self.signals.touch()
        self.journal.touch()
        self._resume(retry_refused)

    def _resume(self, retry_refused: bool) -> None:
        intact, size = 0, self.signals.stat().st_size
        with self.journal.open("rb") as lines:
            for text in lines:
                batch = _parse(text)
                if batch is None or self.tally.bytes + batch.bytes > size:
                    break
                if retry_refused and any(not by_rule for _, by_rule, _, _ in batch.refused):
                    break
                self.tally.add(batch)
                intact += len(text)
        os.truncate(self.journal, intact)
        os.truncate(self.signals, self.tally.bytes)

    def __enter__(self) -> Self:
        self._out, self._lines = self.signals.open("ab"), self.journal.open("a")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._out.close()
        self._lines.close()

    @property
    def rows(self) -> int:
        """Records of the corpus's table that are done."""
        return self.tally.rows + self.batch.rows

    def accept(self, record_id: str, conversion: Conversion, in_statistics: bool) -> None:
        """Append the signal of the next record."""
        signal, batch = conversion.signal, self.batch
        assert signal is not None
        with name_in_errors(self.signals):
            self._out.write(signal.data)
        batch.bytes += signal.nbytes
        batch.row.append(self.rows)
        batch.length.append(signal.shape[1])
        batch.digest.append(conversion.digest)
        batch.stored.append(conversion.stored)
        batch.resampled += conversion.resampled
        changes = {"gaps_filled": conversion.gaps, "constant_leads": list(conversion.constant), "clipped": conversion.clipped}
        for kind, value in changes.items():
            if value:
                batch.notes[kind][record_id] = value
        if in_statistics:
            batch.samples += signal.shape[1]
            batch.total = [a + b for a, b in zip(batch.total, conversion.total, strict=True)]
            batch.squares = [a + b for a, b in zip(batch.squares, conversion.squares, strict=True)]
        batch.rows += 1

    def refuse(self, record_id: str, refusal: Refusal) -> None:
        """Note that the next record is not used."""
        self.batch.refused.append((refusal.reason, refusal.by_rule, record_id, str(refusal)))
        self.batch.rows += 1

    @property
    def is_due(self) -> bool:
        """Whether there are enough records for a line of the journal."""
        return self.batch.bytes >= SAVE_BYTES or self.batch.rows >= SAVE_ROWS

    def save(self) -> None:
        """Sync the signals to the disk, and then the line of the journal that lists them."""
        if not self.batch.rows:
            return
        with name_in_errors(self.signals):
            self._out.flush()
            os.fsync(self._out.fileno())
        with name_in_errors(self.journal):
            self._lines.write(json.dumps(dataclasses.asdict(self.batch), separators=(",", ":")) + "\n")
            self._lines.flush()
            os.fsync(self._lines.fileno())
        self.tally.add(self.batch)
        self.batch = Batch()


def _parse(line: bytes) -> Batch | None:
    """The batch in a line of the journal; None if the line is incomplete, or was written by another version."""
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    keys = {each.name for each in dataclasses.fields(Batch)}
    if not line.endswith(b"\n") or not isinstance(value, dict) or value.keys() != keys:
        return None
    return Batch(**value)
