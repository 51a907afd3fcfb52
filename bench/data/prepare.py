"""Source -> store, in parallel, with a report of what was refused, filled and noticed."""

import collections
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.data.signal import LEADS, constant_leads, fill_gaps, to_int16
from bench.data.sources import Source
from bench.data.store import FORMAT, Store, fingerprint, open_store
from bench.errors import UserError
from bench.files import locked, named, sha256, sync_folder, write_text

CHUNK = 32  # records a task; ours
INLINE = 1000  # fewer records than this are not worth starting processes for; ours


@dataclass(frozen=True)
class Prepared:
    """One record, ready to be written, or the reason why not."""

    signal: np.ndarray | None  # (12, samples) int16
    refused: str = ""
    gaps: int = 0  # leads that had gaps
    constant: tuple[str, ...] = ()


def prepare(source: Source, stores: Path, *, name: str | None = None, jobs: int = 1, skip_bad: bool = False,
            progress: Callable[[int, int], None] = lambda done, total: None) -> Store:
    """Write stores/<name> from source and open it. Nothing is left behind unless it is complete.

    A record that cannot be used is a UserError, or with skip_bad left out and listed in prepare.json.
    """
    name = name or source.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        raise UserError(f"store name {name!r} must be lower-case letters, digits and dashes")
    target, partial = stores / name, stores / f".{name}.partial"
    stores.mkdir(parents=True, exist_ok=True)
    with locked(stores / f".{name}.lock", f"store {name}"):
        if target.exists():
            raise UserError(f"{target} exists already; remove it, or choose another --name")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _write(source, name, partial, jobs, skip_bad, progress)
            os.rename(partial, target)
            sync_folder(stores)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return open_store(target)


def _write(source: Source, name: str, folder: Path, jobs: int, skip_bad: bool,
           progress: Callable[[int, int], None]) -> None:
    rows = [SimpleNamespace(**{str(k): v for k, v in row.items()}) for row in source.records.to_dict("records")]
    for_stats = set(source.stats_folds)
    kept, lengths = [], []
    count, total, squares = 0, np.zeros(len(LEADS), np.int64), np.zeros(len(LEADS), np.int64)
    report: dict[str, Any] = {"refused": {}, "gaps_filled": {}, "constant_leads": {}}
    with named(folder / "signals.i16"), (folder / "signals.i16").open("wb") as out:
        for i, (row, record) in enumerate(zip(rows, _all(source, rows, jobs), strict=True)):
            if record.signal is None:
                if not skip_bad:
                    raise UserError(f"{record.refused} (--skip-bad leaves such records out)")
                report["refused"][row.record_id] = record.refused
            else:
                if record.gaps:
                    report["gaps_filled"][row.record_id] = record.gaps
                if record.constant:
                    report["constant_leads"][row.record_id] = list(record.constant)
                out.write(record.signal.astype("<i2").tobytes())
                kept.append(i)
                lengths.append(record.signal.shape[1])
                if not for_stats or row.fold in for_stats:
                    wide = record.signal.astype(np.int64)  # integers: the sums are exact in any order
                    count += wide.shape[1]
                    total += wide.sum(1)
                    squares += (wide * wide).sum(1)
            progress(i + 1, len(rows))
        out.flush()
        os.fsync(out.fileno())
    if not count:
        raise UserError(f"{name}: no usable record" + (f" in folds {sorted(for_stats)}" if kept else ""))
    mean = total / count
    variance = squares / count - mean**2
    flat = [lead for lead, v, s, q in zip(LEADS, variance, total.tolist(), squares.tolist(), strict=True)
            if v <= 0 or count * q == s * s]  # in integers too: v may round to just above 0
    if flat:
        raise UserError(f"{name}: lead {flat[0]} is constant in every record, it cannot be normalised")

    table = source.records.iloc[kept][["record_id", "patient_id", "fold", *source.tasks]].copy()
    table.insert(3, "offset", np.cumsum([0, *lengths[:-1]]))
    table.insert(4, "length", lengths)
    write_text(folder / "records.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "prepare.json", json.dumps(report, indent=1, sort_keys=True))
    manifest = {
        "format": FORMAT, "name": name, "source": source.name, "version": source.version, "rate_hz": source.rate_hz,
        "leads": list(LEADS), "units": source.units, "scale": source.scale, "records": len(kept),
        "samples": sum(lengths),
        "mean": (mean * source.scale).tolist(), "sd": (np.sqrt(variance) * source.scale).tolist(),
        "stats_folds": sorted(for_stats), "tasks": source.tasks,
        "files": {f: {"bytes": (folder / f).stat().st_size, "sha256": sha256(folder / f)}
                  for f in ("signals.i16", "records.csv", "prepare.json")},
    }
    manifest["fingerprint"] = fingerprint(manifest)
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))


def _all(source: Source, rows: list[SimpleNamespace], jobs: int) -> Iterator[Prepared]:
    """Every row's record, in order."""
    if jobs <= 1 or len(rows) < INLINE:
        for row in rows:
            yield _one(source, row)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(source,)) as pool:
        chunks = iter(rows[i: i + CHUNK] for i in range(0, len(rows), CHUNK))
        waiting = collections.deque(pool.submit(_chunk, c) for c in itertools.islice(chunks, 4 * jobs))
        try:
            while waiting:
                done = waiting.popleft().result()
                with contextlib.suppress(StopIteration):
                    waiting.append(pool.submit(_chunk, next(chunks)))
                yield from done
        except BrokenProcessPool:
            raise UserError("a process that read records was killed (memory?); try fewer --jobs") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_source: Source | None = None  # of this worker process


def _start(source: Source) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End this process when its parent is killed: the pool's own queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _chunk(rows: list[SimpleNamespace]) -> list[Prepared]:
    assert _source is not None
    return [_one(_source, row) for row in rows]


def _one(source: Source, row: SimpleNamespace) -> Prepared:
    try:
        signal, gaps = source.read(row), 0
        try:
            if source.gaps == "refuse" and np.isnan(signal).any():
                raise UserError("has gaps (NaN)")
            signal, gaps = fill_gaps(signal)
            if not np.isfinite(signal).all():
                raise UserError("holds infinite values")
            constant = constant_leads(signal)
            if source.constant == "refuse" and constant:
                raise UserError(f"has constant leads ({', '.join(constant)})")
            return Prepared(to_int16(signal, source.scale), "", gaps, tuple(constant))
        except UserError as error:
            raise UserError(f"record {row.record_id}: {error}") from None
    except UserError as error:
        return Prepared(None, str(error))
