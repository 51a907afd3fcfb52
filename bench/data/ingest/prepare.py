"""Source -> store: parallel, restartable, in flat memory, with a report of all that was refused or changed."""

import array
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import mmap
import multiprocessing
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.core import memory
from bench.core.errors import UserError, unknown
from bench.core.files import lock_file, name_in_errors, read_json, replace_file, sha256, sync_folder, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.models import canonical
from bench.data.corpora import GAP, Refused, Source, modules
from bench.data.signal import LEADS, RESAMPLERS, SHORTEST, fill_gaps, high_pass, resample, to_int16
from bench.data.store import FILES, FORMAT, INDEX, Store, fingerprint, open_store, short_hash

SAVE = 64 << 20  # bytes of signals between two lines of the journal, what a kill can cost; ours
SAVE_ROWS = 10_000  # or so many records, refused ones included; ours
EXACT = 1 << 20  # samples of 16 bits whose squares add up to less than 2**53
ROOM = 4 << 20  # bytes for the signals of a chunk; ours
BLOCK = 1024  # rows of the source's table that are made Python's at a time; ours
LONG = 2  # workers for a source of long records, each of which takes 100 MiB and more to resample; ours
NAMED = 3  # refused records that an error names; ours


class Done(NamedTuple):
    """What became of one record."""

    signal: np.ndarray | None  # (12, samples) int16; None: refused
    refusal: Refused | None = None
    digest: int = 0  # of the samples as published; 0: nothing to compare
    stored: int = 0  # of the signal
    gaps: int = 0  # leads that had gaps
    constant: Sequence[str] = ()
    clipped: int = 0  # samples
    total: Sequence[int] = ()  # sum over the samples, per lead; integers are exact in any order
    squares: Sequence[int] = ()
    resampled: bool = False


def prepare(source: Source, stores: Path, *, name: str | None = None, rate_hz: int | None = None,
            resampling: str = "fourier", workers: int = 1, skip_bad: bool = False, drop_duplicates: bool = False,
            not_in: Sequence[Store] = (), progress: Callable[[int, int], None] = lambda done, total: None) -> Store:
    """Write stores/<name> at rate_hz (None: the source's) from source and open it.

    Killed and started again with the same arguments it goes on, and ends with the same bytes. Records that the
    source drops by rule are left out and reported. Any other record that cannot be used is a UserError once all
    are read, or with skip_bad left out and reported too. drop_duplicates leaves out records whose samples an
    earlier one has; not_in leaves out those that these stores hold.
    """
    name, rate_hz = name or source.name, source.rate_hz if rate_hz is None else rate_hz
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        raise UserError(f"store name {name!r} must be lower-case letters, digits and dashes")
    if rate_hz <= 0:
        raise UserError(f"rate {rate_hz} Hz must be positive")
    if resampling not in RESAMPLERS:
        raise unknown("resampling method", resampling, RESAMPLERS)
    for column in ("record_id", "patient_id", *source.tasks):
        strange = next((text for text in source.records[column].tolist() if not text.isprintable()), None)
        if strange is not None:
            raise UserError(f"{name}: {column} {strange!r:.80} holds a line break or another character that cannot be printed")
    plan = {
        "format": FORMAT, "source": source.name, "version": source.version, "origin": source.origin, "rate_hz": rate_hz,
        "resampling": resampling, "scale": source.scale, "units": source.units, "highpass_hz": source.highpass_hz,
        "gaps": source.gaps, "constant": source.constant, "min_seconds": source.min_seconds, "tasks": source.tasks,
        **_kinds(source),
        "stats_folds": sorted(source.stats_folds), "drop_duplicates": drop_duplicates,
        "not_in": {s.name: s.fingerprint for s in not_in}, "records": _hash(source.records)}
    target, partial = stores / name, stores / f".{name}.partial"
    stores.mkdir(parents=True, exist_ok=True)
    with lock_file(stores / f".{name}.lock", f"store {name}"):
        if target.exists():
            raise UserError(f"{target} exists already; remove it, or choose another name with --to")
        partial.mkdir(exist_ok=True)
        if not (partial / "plan.json").exists():  # a journal without its plan may be of another
            (partial / "journal.jsonl").unlink(missing_ok=True)
            write_text(partial / "plan.json", canonical(plan))
        elif read_json(partial / "plan.json", "unfinished store") != json.loads(canonical(plan)):
            raise UserError(f"{partial} is the unfinished store of other records or options; finish it with those, or "
                            f"remove it")
        tally = _resume(partial, skip_bad)
        _signals(source, partial, tally, rate_hz, resampling, workers, not_in, drop_duplicates, progress)
        bad = {reason: group["records"] for reason, group in tally.refused.items() if not group["by_rule"]}
        if bad and not skip_bad:
            raise UserError(_complaint(name, bad, tally))
        if not tally.samples:
            folds = f" in folds {plan['stats_folds']}" if tally.row else ""
            raise UserError(f"{name}: no usable record{folds}; remove {partial} before other options are tried")
        _finish(source, name, partial, tally, plan, stores)
        for leftover in ("journal.jsonl", "plan.json"):
            (partial / leftover).unlink()
        os.rename(partial, target)
        sync_folder(stores)
    return open_store(target, verify=False)  # of what was written this moment


def _kinds(source: Source) -> dict[str, Any]:
    """Nothing where every task is multi-label: such a store is what it was before there were other kinds."""
    return {"kinds": source.kinds} if source.kinds else {}


def _hash(records: pd.DataFrame) -> str:
    """SHA-256 of a table's values."""
    return hashlib.sha256(pd.util.hash_pandas_object(records, index=False).to_numpy().tobytes()).hexdigest()


def _complaint(name: str, bad: dict[str, dict[str, str]], tally: "Tally") -> str:
    counts = ", ".join(f"{len(records)} {reason}" for reason, records in bad.items())
    every = [f"record {i}: {text}" for records in bad.values() for i, text in records.items()]
    few = "; ".join(every[:NAMED]) + ("; ..." if len(every) > NAMED else "")
    return (f"{name}: {len(every):,} of {tally.rows:,} records cannot be used ({counts}): {few}. Put them right and "
            f"run again, or --skip-bad leaves them out and lists them")


class Tally:
    """What is known of the records done so far: the sum of the journal's lines."""

    def __init__(self) -> None:
        self.rows, self.bytes = 0, 0  # of the source's table, of signals.i16
        self.row, self.length = array.array("q"), array.array("q")  # of the accepted
        self.digest, self.stored = array.array("Q"), array.array("Q")
        self.refused: dict[str, dict[str, Any]] = {}  # reason -> by_rule, records: id -> text
        self.notes: dict[str, dict[str, Any]] = {"gaps_filled": {}, "constant_leads": {}, "clipped": {}}
        self.resampled = 0  # records that came at another rate
        self.samples, self.total, self.squares = 0, [0] * len(LEADS), [0] * len(LEADS)  # of the statistics

    def add(self, line: dict[str, Any]) -> None:
        self.rows, self.bytes = self.rows + line["rows"], self.bytes + line["bytes"]
        for key in ("row", "length", "digest", "stored"):
            getattr(self, key).extend(line[key])
        for reason, by_rule, record_id, text in line["refused"]:
            self.refused.setdefault(reason, {"by_rule": by_rule, "records": {}})["records"][record_id] = text
        for kind, found in line["notes"].items():
            self.notes[kind].update(found)
        self.resampled += line["resampled"]
        self.samples += line["samples"]
        self.total = [a + b for a, b in zip(self.total, line["total"], strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, line["squares"], strict=True)]


def _line() -> dict[str, Any]:
    return {"rows": 0, "bytes": 0, "resampled": 0, "row": [], "length": [], "digest": [], "stored": [], "refused": [],
            "notes": {"gaps_filled": {}, "constant_leads": {}, "clipped": {}}, "samples": 0,
            "total": [0] * len(LEADS), "squares": [0] * len(LEADS)}


def _resume(folder: Path, skip_bad: bool) -> Tally:
    """The tally of an unfinished store; its files are cut back to what the journal vouches for.

    Without skip_bad it ends before the first record that was refused but by rule: it may have been put right.
    """
    tally, journal, signals = Tally(), folder / "journal.jsonl", folder / "signals.i16"
    journal.touch()
    signals.touch()
    good, size = 0, signals.stat().st_size
    with journal.open("rb") as lines:
        for text in lines:
            try:
                line = json.loads(text)
            except (json.JSONDecodeError, UnicodeDecodeError):  # torn by a kill
                break
            if not isinstance(line, dict) or line.keys() != _line().keys():
                break
            bad = any(not by_rule for _, by_rule, _, _ in line["refused"])
            if not text.endswith(b"\n") or (bad and not skip_bad) or tally.bytes + line["bytes"] > size:
                break
            tally.add(line)
            good += len(text)
    os.truncate(journal, good)
    os.truncate(signals, tally.bytes)
    return tally


def _signals(source: Source, folder: Path, tally: Tally, rate_hz: int, resampling: str, workers: int,
             not_in: Sequence[Store], drop_duplicates: bool, progress: Callable[[int, int], None]) -> None:
    """Read what the tally does not have yet, append it to signals.i16, and keep the journal."""
    count = len(source.records)
    elsewhere = {d: s.name for s in not_in for d in s.index["digest"].tolist() if d}
    seen = set(tally.digest) if drop_duplicates else set()
    for_stats = set(source.stats_folds)
    line = _line()
    path = folder / "signals.i16"
    progress(tally.rows, count)
    with path.open("ab") as out, (folder / "journal.jsonl").open("a") as journal, watch_signals() as asked:

        def save() -> None:
            nonlocal line
            with name_in_errors(path):
                out.flush()
                os.fsync(out.fileno())
            with name_in_errors(path.with_name("journal.jsonl")):
                journal.write(json.dumps(line, separators=(",", ":")) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
            tally.add(line)
            line = _line()

        for row, done in each(source, tally.rows, rate_hz, resampling, workers):
            refusal = done.refusal
            if refusal is None and done.digest in elsewhere:
                refusal = Refused(f"in {elsewhere[done.digest]}", "the store has a record of the same samples", True)
            if refusal is None and done.digest and done.digest in seen:
                refusal = Refused("duplicate", "an earlier record has the same samples", True)
            if refusal:
                line["refused"].append((refusal.reason, refusal.by_rule, row.record_id, str(refusal)))
            else:
                assert done.signal is not None
                with name_in_errors(path):
                    out.write(done.signal.data if done.signal.dtype == np.dtype("<i2") else done.signal.astype("<i2").data)
                line["bytes"] += done.signal.nbytes
                line["row"].append(tally.rows + line["rows"])
                line["length"].append(done.signal.shape[1])
                line["digest"].append(done.digest)
                line["stored"].append(done.stored)
                line["resampled"] += done.resampled
                for kind, value in (("gaps_filled", done.gaps), ("constant_leads", list(done.constant)),
                                    ("clipped", done.clipped)):
                    if value:
                        line["notes"][kind][row.record_id] = value
                if drop_duplicates:
                    seen.add(done.digest)
                if not for_stats or row.fold in for_stats:
                    line["samples"] += done.signal.shape[1]
                    line["total"] = [a + b for a, b in zip(line["total"], done.total, strict=True)]
                    line["squares"] = [a + b for a, b in zip(line["squares"], done.squares, strict=True)]
            line["rows"] += 1
            signum = asked()
            if line["bytes"] >= SAVE or line["rows"] >= SAVE_ROWS or signum:
                save()
            progress(tally.rows + line["rows"], count)
            if signum:
                raise Interrupted(signum, f"{tally.rows:,} of {count:,} records of {path.parent}")
        if line["rows"]:
            save()


def each(source: Source, first: int, rate_hz: int, resampling: str, workers: int) -> Iterator[tuple[Any, Done]]:
    """(row, what became of it) from row `first` on, in order. A signal is valid until the next is asked for.

    In processes, as much of a record's time is the interpreter's own: each gets the next chunk in turn and leaves the
    signals in memory that it shares with this one.
    """
    Row = collections.namedtuple("Row", source.records.columns.tolist(), rename=True)  # type: ignore[misc]
    blocks = (source.records.iloc[i: i + BLOCK].to_numpy(object).tolist()  # a tenth of the time of itertuples
              for i in range(first, len(source.records), BLOCK))
    rows = itertools.chain.from_iterable(blocks)
    chunks = iter(lambda: list(itertools.islice(rows, source.chunk)), [])
    workers = min(workers, LONG) if source.chunk == 1 else workers
    context = multiprocessing.get_context("fork")  # a worker has the source, whatever that holds
    rooms = [[mmap.mmap(-1, ROOM) for _ in range(2)] for _ in range(workers)]  # one is filled while the other is read
    team: list[tuple[Any, Any]] = []
    waiting: collections.deque = collections.deque()

    def finished() -> Iterator[tuple[Any, Done]]:
        chunk, pipe, room = waiting.popleft()
        try:
            results = pipe.recv()
        except (EOFError, ConnectionError):
            raise UserError("a worker was killed, perhaps for want of memory; run again with fewer --workers") from None
        if isinstance(results, Exception):
            raise results
        for values, (done, start, samples) in zip(chunk, results, strict=True):
            if samples:
                signal = np.frombuffer(room, np.int16, len(LEADS) * samples, start).reshape(len(LEADS), samples)
                done = done._replace(signal=signal)
            yield Row._make(values), done

    try:
        for own in rooms:
            pipe, end = context.Pipe()
            others = [pipe, *(p for _, p in team)]
            process = context.Process(target=_work, args=(end, others, own, lambda values: one(
                source, Row(*values), rate_hz, resampling)), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that other threads run: a worker needs none of them
                process.start()
            end.close()
            team.append((process, pipe))
        for i, chunk in enumerate(chunks):
            if len(waiting) == 2 * workers:
                yield from finished()
            worker, room = i % workers, i // workers % 2
            team[worker][1].send((room, chunk))
            waiting.append((chunk, team[worker][1], rooms[worker][room]))
        while waiting:
            yield from finished()
    finally:
        for process, _ in team:
            process.kill()
        for process, pipe in team:  # they leave their memory all at once
            process.join()
            pipe.close()


def _work(pipe: Any, others: list[Any], rooms: list[mmap.mmap], make: Callable[[tuple], Done]) -> None:
    """A worker's life: chunks in, (what became of it, where in the room its signal is, how long that is) out."""
    for other in others:  # the far ends of pipes: else this one would not see that the process behind them is gone
        other.close()
    memory.keep()
    with contextlib.suppress(EOFError, ConnectionError):  # it is gone: so is the work
        while True:
            room, chunk = pipe.recv()
            results: list[tuple[Done, int, int]] = []
            answer: Any = results
            end = 0
            try:
                for values in chunk:
                    done, start, samples = make(values), end, 0
                    if done.signal is not None and end + done.signal.nbytes <= ROOM:  # else it goes through the pipe
                        end, samples = end + done.signal.nbytes, done.signal.shape[1]
                        np.frombuffer(rooms[room], np.int16, done.signal.size, start)[:] = done.signal.ravel()
                        done = done._replace(signal=None)
                    results.append((done, start, samples))
            except Exception as error:
                answer = error
            pipe.send(answer)


def one(source: Source, row: Any, rate_hz: int, resampling: str) -> Done:
    """Read one record and make it what the store holds."""
    try:
        recording = source.read(row)
        samples, scale = recording.samples, source.scale
        seconds = samples.shape[1] / recording.rate_hz
        if seconds < source.min_seconds:
            raise Refused(f"shorter than {source.min_seconds:g} s", f"lasts {seconds:g} s", by_rule=True)
        if samples.shape[1] < (SHORTEST if source.highpass_hz else 1) or not round(seconds * rate_hz):
            raise Refused("too short", f"holds {samples.shape[1]} samples")
        digest = stored = short_hash(np.ascontiguousarray(samples))
        as_published = recording.rate_hz == rate_hz and not source.highpass_hz
        if (as_published and recording.gain is not None and recording.baseline is not None
                and (recording.gain == 1 / scale).all() and not recording.baseline.any() and samples.min() > GAP):
            signal, gaps, clipped = np.ascontiguousarray(samples), 0, 0  # the published integers are the store's
        else:
            physical = recording.physical()
            missing = np.isnan(physical)
            if source.gaps == "refuse" and missing.any():
                raise Refused("gaps", "has gaps (NaN)")
            if missing.all(axis=1).any():
                raise Refused("empty lead", f"lead {LEADS[missing.all(axis=1).argmax()]} holds no value at all")
            if np.isinf(physical).any():
                raise Refused("infinite values", "holds infinite values")
            physical, gaps = fill_gaps(physical)
            if source.highpass_hz:
                physical = high_pass(physical, recording.rate_hz, source.highpass_hz)
            if recording.rate_hz != rate_hz:
                physical = resample(physical, recording.rate_hz, rate_hz, resampling)
            signal, clipped = to_int16(physical, scale)
            stored = short_hash(np.ascontiguousarray(signal, "<i2"))
        total, squares = _sums(signal)
        constant = [lead for lead, a, b in zip(LEADS, total, squares, strict=True) if a * a == signal.shape[1] * b]
        if len(constant) == len(LEADS):
            digest = 0  # a flat record is no one's
        if source.constant == "refuse" and constant:
            raise Refused("constant leads", f"has constant leads ({', '.join(constant)})")
        return Done(signal, None, digest, stored, gaps, constant, clipped, total, squares,
                    resampled=recording.rate_hz != rate_hz)
    except Refused as refusal:
        return Done(None, refusal)


def _sums(signal: np.ndarray) -> tuple[list[int], list[int]]:
    """Per lead the sum of the samples and of their squares: floats are exact up to 2**53, and fast."""
    total, squares = np.zeros((2, len(signal)), np.int64)
    for first in range(0, signal.shape[1], EXACT):
        samples = signal[:, first: first + EXACT]
        part, ones = _room_for(*samples.shape)
        np.copyto(part, samples)
        total += (part[:, None] @ ones).ravel().astype(np.int64)
        squares += (part[:, None] @ part[..., None]).ravel().astype(np.int64)
    return total.tolist(), squares.tolist()


@functools.lru_cache(maxsize=1)
def _room_for(leads: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """What the samples of a record are copied to as float64, used again for the next one, and (samples, 1) of 1."""
    return np.empty((leads, samples)), np.ones((samples, 1))


def _finish(source: Source, name: str, folder: Path, tally: Tally, plan: dict[str, Any], stores: Path) -> None:
    """Index, csv, report, and last the manifest."""
    for_stats, count = plan["stats_folds"], tally.samples
    mean = np.array([total / count for total in tally.total])
    variance = [(count * squares - total**2) / count**2  # of integers: exact until the division
                for total, squares in zip(tally.total, tally.squares, strict=True)]
    flat = [lead for lead, v in zip(LEADS, variance, strict=True) if not v]
    if flat:
        raise UserError(f"{name}: lead {flat[0]} is constant in every record, it cannot be normalised")

    kept = source.records.iloc[np.array(tally.row)]
    index = np.zeros(len(kept), INDEX)
    index["length"], index["digest"], index["stored"] = tally.length, tally.digest, tally.stored
    index["fold"] = kept["fold"]
    index["offset"][1:] = index["length"][:-1].cumsum()
    with replace_file(folder / "index.npy") as f:
        np.save(f, index)
    with replace_file(folder / "records.csv") as f:
        kept.to_csv(f, columns=["record_id", "patient_id", *source.tasks], index=False, lineterminator="\n", mode="wb")
    report = _report(source, tally, index, kept["record_id"].to_numpy(object), plan, stores)
    write_text(folder / "prepare.json", json.dumps(report, indent=1, sort_keys=True))
    manifest = {
        "format": FORMAT, "name": name, "source": source.name, "version": source.version, "rate_hz": plan["rate_hz"],
        "published_rate_hz": source.rate_hz, "resampled": tally.resampled, "resampling": plan["resampling"],
        "highpass_hz": source.highpass_hz,
        "leads": list(LEADS), "units": source.units, "scale": source.scale, "records": len(kept),
        "samples": int(index["length"].sum()),
        "mean": (mean * source.scale).tolist(), "sd": (np.sqrt(variance) * source.scale).tolist(),
        "stats_folds": for_stats, "tasks": source.tasks, **_kinds(source),
        "files": {f: {"bytes": (folder / f).stat().st_size, **({} if f == "signals.i16" else {"sha256": sha256(folder / f)})}
                  for f in FILES},
    }
    manifest["fingerprint"] = fingerprint(manifest)
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))


def _report(source: Source, tally: Tally, index: np.ndarray, ids: np.ndarray, plan: dict[str, Any],
            stores: Path) -> dict[str, Any]:
    """found = accepted + refused; what was changed; duplicates; and how the counts compare with the paper's."""
    refused = {reason: {**group, "count": len(group["records"])} for reason, group in tally.refused.items()}
    found, accepted = tally.rows, len(index)
    assert found == len(source.records) == accepted + sum(g["count"] for g in refused.values())
    _, inverse, times = np.unique(index["digest"], return_inverse=True, return_counts=True)
    groups: dict[int, list[str]] = {}
    for i in np.flatnonzero((times[inverse] > 1) & (index["digest"] != 0)):
        groups.setdefault(int(inverse[i]), []).append(ids[i])
    across, unread = {}, []
    for other in sorted(p.parent for p in stores.glob("[!.]*/manifest.json")):
        try:
            theirs = open_store(other, verify=False).index["digest"]
        except UserError:  # of another version, or damaged
            unread.append(other.name)
            continue
        common = np.isin(index["digest"], theirs) & (index["digest"] != 0)
        if common.any():
            across[other.name] = ids[common].tolist()
    training = np.isin(index["fold"], plan["stats_folds"]) if plan["stats_folds"] else np.ones(accepted, bool)
    corpus = modules()[source.name].CORPUS if source.name in modules() else None
    return {
        "found": found, "accepted": accepted, "refused": refused, **tally.notes,
        "duplicates": {"within": sorted(groups.values()), "across": across, "not_compared": unread},
        "for_training": {"records": int(training.sum()),
                         "seconds": float(index["length"][training].sum() / plan["rate_hz"])},
        "paper": {"records": corpus.records, "seconds": corpus.seconds} if corpus and corpus.records else None,
    }
