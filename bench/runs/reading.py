"""Record files -> records. What has been read before comes from a cache beside them, anything bulky only when asked for.

The cache is a folder of segments; each holds what some files said when they were read. It may be deleted at any time: a
segment that is damaged or was written by other code than this, and files that have changed, are read again.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import re
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import xxhash

from bench.core.errors import UserError
from bench.core.files import replace_file

Record = dict[str, Any]
Stamp = list[int]  # size, ns of modification, ns of change: a file that has the same ones is the same

CACHE = ".cache"
OTHERS = ("README.md", ".gitignore")  # what may lie beside records
METRICS = {"macro_auroc": "macro AUROC", "r2": "R2"}  # of a record's result.metric; a table holds one of them
SHARED = ("bootstrap", "normalisation", "records", "task")  # of a result: alike in many
SETTLED_NS = 2 * 10**9  # a file changed later than that before it was read may change again with the same stamp; ours
MANY, PROCESSES = 2000, 8  # files from which on processes share the reading, and how many at most; ours
NAMED = 3  # of a folder without records: what else lies there; ours
TAIL = 24  # bytes at the end of a segment: the hash of the others, and how many of them are its head
CODE = xxhash.xxh3_64_hexdigest(Path(__file__).read_bytes())

# What the tables read of a record, by kind; anything else in it may change freely.
CONFIG = ["protocol", "seed", "method.name", "data.mix", "data.rate_hz", "encoder"]
EVALUATION = ["protocol", "seed", "pretrain", "data.store", "data.fingerprint", "task", "evaluation.name", "folds.test"]
NEEDS = {
    "pretrain": ["result.curves", "result.monitor", *(f"config.{k}" for k in CONFIG)],
    "evaluate": ["result.records.test", "result.bootstrap",
                 *(f"config.{k}" for k in EVALUATION), *(f"pretrain_config.{k}" for k in CONFIG)],
}


def read(results: Path) -> tuple[list[Record], list[str]]:
    """(the folder's records, sorted by run_id; what else lies there, a line per file with the reason why it was skipped).

    A record has the shape of its JSON and is not to be changed: what is alike in several is one object. `result` is a
    mapping (see Result). UserError where there is no record. Folders in it are not looked into.
    """
    files, skipped = listing(results)
    folder, kept = results / CACHE, dict[Segment, set[str]]()
    for path in sorted(folder.glob("*.segment")):
        with contextlib.suppress(OSError, ValueError):
            segment = Segment(path)
            if names := {name for name, (stamp, *_) in segment.entries.items() if files.get(name) == stamp}:
                kept[segment] = names
    missing = set(files).difference(*kept.values())
    for segment, names in sorted(kept.items(), key=lambda each: len(each[1])):
        if missing and len(names) <= 2 * len(missing):  # so that segments are few, however often a few files are new
            missing |= kept.pop(segment)
    for segment in new_segments(results, {name: files[name] for name in sorted(missing)}):
        kept[segment] = missing & segment.entries.keys()
    with contextlib.suppress(OSError):
        for path in set(folder.iterdir()) - {segment.path for segment in kept}:
            if path.suffix == ".segment" or path.stat().st_mtime < time.time() - 3600:  # what a killed process left
                path.unlink()
    records = {}
    with uncollected():
        for segment, names in kept.items():
            for name in names:
                if why := segment.entries[name][1]:
                    skipped[name] = why
                else:
                    records[name] = segment.record(name)
    lines = [f"{results / name} {why}" for name, why in sorted(skipped.items())]
    if not records:
        more = [f"and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else []
        raise UserError("; ".join([f"{results} holds no record (<run_id>.json); `ecgssl pretrain random --store STORE` "
                                   f"makes one", *lines[:NAMED], *more]))
    return [records[name] for name in sorted(records)], lines


def listing(results: Path) -> tuple[dict[str, Stamp], dict[str, str]]:
    """({name of a file that may be a record: its stamp}, {name of another file: why it is none})."""
    files, skipped = {}, {}
    for entry in os.scandir(results) if results.is_dir() else ():
        try:
            about = entry.stat()
        except OSError as error:  # a link to nothing, or to itself
            skipped[entry.name] = f"cannot be read ({error.strerror})"
            continue
        if stat.S_ISDIR(about.st_mode) or entry.name in OTHERS:
            continue
        if not stat.S_ISREG(about.st_mode):
            skipped[entry.name] = "is no file; move it elsewhere"
        elif re.fullmatch(r"[0-9a-f]{12}\.json", entry.name):
            files[entry.name] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
            skipped[entry.name] = "is half of a file, left where a run was killed; remove it unless that still runs"
        else:
            skipped[entry.name] = "has not the name of a record, <run_id>.json; move it elsewhere"
    return files, skipped


def parsed(name: str, data: bytes) -> Record:
    """The record in a file's bytes; UserError, what is wrong, where they are no JSON, lack a key or hold NaN."""
    try:
        record = orjson.loads(data)
        if record["schema"] != 1 or record["kind"] not in NEEDS or f"{record['run_id']}.json" != name:
            raise ValueError("schema must be 1, kind pretrain or evaluate, and run_id the file's name")
        for key in ["provenance", *NEEDS[record["kind"]]]:
            reduce(getitem, key.split("."), record)
        if record["kind"] == "evaluate":
            result = record["result"]
            metric = metric_of(record)
            if metric not in METRICS:
                raise ValueError(f"its metric {metric!r} is not {' or '.join(METRICS)}")
            classes = result["per_class"] if metric == "macro_auroc" else {}
            aurocs = [(each["positives"], each["auroc"]) for each in classes.values()]
            numbers = np.array([result[metric], *np.ravel(aurocs), *result["replicates"]])
            if not result["replicates"] or numbers.dtype.kind not in "if" or not np.isfinite(numbers).all():
                raise ValueError("a number is not finite or there are no replicates")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is no record ({error})"
        raise UserError(f"{what}; remove it and run that run again") from None
    return record


def metric_of(record: Record) -> str:
    return record["result"].get("metric", "macro_auroc")


class Classes(Mapping[str, dict[str, Any]]):
    """A result's per_class, class -> its scores, classes sorted; `scores[key]` is that score of every class, (C,)."""

    def __init__(self, positives: dict[str, int], keys: list[str], read: Callable[[], bytes]) -> None:
        self.positives, self.keys_, self.read = positives, keys, read

    @functools.cached_property
    def scores(self) -> dict[str, np.ndarray]:
        values = np.frombuffer(self.read(), "<f8").reshape(len(self.keys_), len(self.positives))
        return dict(zip(self.keys_, values, strict=True))

    def __getitem__(self, name: str) -> dict[str, Any]:
        positives, i = self.positives[name], list(self.positives).index(name)
        return {key: v[i].item() for key, v in self.scores.items() if not np.isnan(v[i])} | {"positives": positives}

    def __iter__(self) -> Iterator[str]:
        return iter(self.positives)

    def __len__(self) -> int:
        return len(self.positives)


class Result(Mapping[str, Any]):
    """A record's result. Numbers are at hand, other values are read when asked for, each time: keep what you use twice.

    Lists and dicts as in the JSON, but for `replicates`, (R,) float64, and `per_class`, a mapping like it (Classes).
    """

    __slots__ = ("hand", "kinds", "places", "segment")

    def __init__(self, segment: "Segment", hand: dict[str, Any], kinds: dict[str, list[Any]], places: list[int]) -> None:
        self.segment, self.hand, self.kinds, self.places = segment, hand, kinds, places

    def __getitem__(self, key: str) -> Any:
        if key in self.hand:
            return self.hand[key]
        number, kind, *about = self.kinds[key]
        place = self.places[2 * number : 2 * number + 2]
        if kind == "classes":
            positives, keys = about
            return Classes(positives, keys, lambda: self.segment.blob(*place))
        data = self.segment.blob(*place)
        if kind == "json":
            return orjson.loads(data)
        return np.frombuffer(data, "<i4") / 1e6 if kind == "millionths" else np.frombuffer(data, "<f8")

    def __contains__(self, key: object) -> bool:
        return key in self.hand or key in self.kinds

    def __iter__(self) -> Iterator[str]:
        yield from self.hand
        yield from self.kinds

    def __len__(self) -> int:
        return len(self.hand) + len(self.kinds)


class Segment:
    """An open segment; ValueError where it is damaged or of other code. It stays readable when its file is removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, state = path, os.open(path, os.O_RDONLY), xxhash.xxh3_128()
        weakref.finalize(self, os.close, self.file)
        end = max(0, os.fstat(self.file).st_size - TAIL)
        for at in range(0, end, 1 << 20):
            state.update(self.blob(at, min(end - at, 1 << 20)))
        tail = self.blob(end, TAIL)
        size = int.from_bytes(tail[16:], "little")
        if tail[:16] != state.digest():
            raise ValueError(f"{path} is damaged")
        head = orjson.loads(self.blob(end - size, size))
        if head["code"] != CODE:
            raise ValueError(f"{path} was written by other code")
        self.shared: list[Any] = head["shared"]
        self.entries: dict[str, list[Any]] = head["entries"]  # file -> stamp, why it is no record or "", its parts

    def blob(self, at: int, size: int) -> bytes:
        return os.pread(self.file, size, at)

    def record(self, name: str) -> Record:
        _, _, record, parts, config, config_parts, hand, hand_parts, kinds, places = self.entries.pop(name)
        for values, shared in ((record, parts), (config, config_parts), (hand, hand_parts)):
            for key, number in shared.items():
                values[key] = self.shared[number]
        return record | {"config": config, "result": Result(self, hand, self.shared[kinds], places)}


class Packing:
    """A segment in the making."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.at, self.state = file, 0, xxhash.xxh3_128()
        self.written: dict[bytes, int] = {}  # hash -> where
        self.shared: dict[bytes, int] = {}  # JSON -> number
        self.entries: dict[str, list[Any]] = {}

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.state.update(data)
        self.at += len(data)
        return self.at - len(data)

    def place(self, data: bytes) -> list[int]:
        """Where the bytes are, and how many."""
        key = xxhash.xxh3_128_digest(data)
        if key not in self.written:
            self.written[key] = self.write(data)
        return [self.written[key], len(data)]

    def share(self, value: Any) -> int:
        return self.shared.setdefault(orjson.dumps(value), len(self.shared))

    def parts(self, record: Record) -> list[Any]:
        """What Segment.record makes the record of."""
        out: list[Any] = []
        for values, sharing in ((record, record.keys() - {"config", "result"}), (record["config"], record["config"].keys()),
                                (record["result"], SHARED)):
            large = {key for key in sharing if isinstance(values.get(key), dict | list)}
            at_hand = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
            out += [at_hand, {key: self.share(values[key]) for key in sorted(large)}]
        kinds: dict[str, list[Any]] = {}
        places: list[int] = []
        for key, value in record["result"].items():
            if isinstance(value, dict | list) and key not in SHARED:
                kind, data = encoded(key, value)
                kinds[key] = [len(kinds), *kind]
                places += self.place(data)
        return [*out, self.share(kinds), places]

    def end(self) -> None:
        head = orjson.dumps({"code": CODE, "shared": [orjson.Fragment(text) for text in self.shared], "entries": self.entries})
        self.write(head)
        self.file.write(self.state.digest() + len(head).to_bytes(8, "little"))


def encoded(key: str, value: Any) -> tuple[list[Any], bytes]:
    """(kind, bytes) of a value of a result, from which Result makes it again, every digit the same."""
    if key == "replicates":
        numbers = np.array(value, np.float64)
        millionths = np.rint(numbers * 1e6)
        if (millionths / 1e6 == numbers).all() and (abs(millionths) < 2**31).all():  # six digits, as they are written
            return ["millionths"], millionths.astype("<i4").tobytes()
        return ["floats"], numbers.astype("<f8").tobytes()
    if key == "per_class" and value:
        names, keys = sorted(value), sorted({score for each in value.values() for score in each} - {"positives"})
        table = np.array([[value[name].get(score, np.nan) for name in names] for score in keys])
        if table.dtype.kind in "if" and all(type(value[name].get("positives")) is int for name in names):
            return ["classes", {name: value[name]["positives"] for name in names}, keys], table.astype("<f8").tobytes()
    return ["json"], orjson.dumps(value)


def pack(results: Path, files: Mapping[str, Stamp], path: Path) -> None:
    """Read the files and write a segment of them."""
    with replace_file(path) as file, uncollected():
        packing = Packing(file)
        for name, stamp in files.items():
            if time.time_ns() - stamp[2] < SETTLED_NS:
                stamp = [0, 0, 0]  # nothing has it
            try:
                packing.entries[name] = [stamp, "", *packing.parts(parsed(name, (results / name).read_bytes()))]
            except UserError as error:
                packing.entries[name] = [stamp, str(error)]
            except OSError as error:
                packing.entries[name] = [[0, 0, 0], f"cannot be read ({error.strerror})"]
        packing.end()


def new_segments(results: Path, files: Mapping[str, Stamp]) -> list[Segment]:
    """New segments of the files, in the cache, or of no name where that cannot be written."""
    if not files:
        return []
    number = min(len(os.sched_getaffinity(0)), PROCESSES) if len(files) > MANY else 1
    parts = [dict(list(files.items())[i::number]) for i in range(number)]
    try:
        return [*written_in(results, parts, results / CACHE)]
    except OSError:  # a folder that is read alone, a full disk
        with tempfile.TemporaryDirectory() as folder:
            return [*written_in(results, parts, Path(folder))]


def written_in(results: Path, parts: Sequence[Mapping[str, Stamp]], folder: Path) -> Iterator[Segment]:
    paths = [folder / f"{xxhash.xxh3_64_hexdigest(orjson.dumps(part))}.segment" for part in parts]
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=pack, args=(results, *each)) for each in zip(parts[1:], paths[1:], strict=True)]
    for process in others:
        process.start()
    try:
        pack(results, parts[0], paths[0])
    finally:
        for process in others:
            process.join()
    for path, part in zip(paths, parts, strict=True):
        if not path.is_file():  # its process was killed, or could not write
            pack(results, part, path)
        yield Segment(path)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: it would look at every object of every record again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
