"""Results are written and read here. A result is one JSON file per finished run, written once and never edited.

All readers take a folder of JSON files or the Parquet file of a finished study (bench/runs/packing.py). results/README.md says
what a result holds.
"""

import contextlib
import functools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.files import replace_file, write_text
from bench.runs.values import METRICS as METRICS
from bench.runs.values import RUN_ID, SCHEMA, LazyValues, Pool, Result, bulky_keys, parse, plain, to_columns
from bench.runs.values import metric_of as metric_of

if TYPE_CHECKING:
    from bench.runs.parquet import PackedStudy

ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)
NOT_RESULTS = ("README.md", ".gitignore")  # files that may lie beside results
PACKED = ".parquet"  # suffix of a finished study's file
LISTED = 3  # how many files an error names when a folder holds no result


class NoResultsError(UserError):
    """The folder does not exist, or holds no result."""


def is_packed(results: Path) -> bool:
    """Whether the path names a Parquet file rather than a folder of JSON files."""
    return results.suffix == PACKED and not results.is_dir()


def open_packed(path: Path) -> "PackedStudy":
    """The Parquet file, open; UserError if it is no file of results."""
    from bench.runs.parquet import PackedStudy  # importing pyarrow takes time, and reading a folder does not need it

    return PackedStudy(path)


def result_path(results: Path, run_id: str) -> Path:
    """The JSON file of a run in a folder of results."""
    return results / f"{run_id}.json"


def result_exists(results: Path, run_id: str) -> bool:
    """Whether the folder, or the Parquet file, holds the run's result."""
    if is_packed(results):
        return run_id in _packed_run_ids(results, os.stat(results).st_mtime_ns) if results.is_file() else False
    return result_path(results, run_id).is_file()


@functools.lru_cache(8)
def _packed_run_ids(path: Path, changed_ns: int) -> frozenset[str]:
    return open_packed(path).run_ids


def check_writable(results: Path) -> None:
    """UserError if results cannot be written into the folder: better now than after hours of work."""
    if is_packed(results):
        raise UserError(f"{results} is a packed study, which is only read; name a folder, or `ecgssl results unpack` it first")
    try:
        with replace_file(results / ".probe"):
            pass
        (results / ".probe").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {results} ({error.strerror}); choose another folder") from None


def write_result(results: Path, result: Result) -> Path:
    """Write a run's result into the folder and return its path; UserError if the run has a result already.

    Another process sees either the whole file or no file.
    """
    target = result_path(results, result["run_id"])
    if target.exists():
        raise UserError(f"{target} already holds this run; delete it to run again")
    with replace_file(target) as f:
        f.write(dumps({"schema": SCHEMA, **result}).encode())
    return target


def dumps(value: Any, indent: str = "") -> str:
    """The value as JSON text. Keys are sorted, one per line; lists of numbers are on one line. No NaN, no rounding."""
    if not isinstance(value, dict):
        return ENCODER.encode(value)
    inner = ",\n".join(f"{indent} {ENCODER.encode(k)}: {dumps(v, indent + ' ')}" for k, v in sorted(value.items()))
    return f"{{\n{inner}\n{indent}}}" + ("" if indent else "\n") if value else "{}"


def load_result(results: Path, run_id: str) -> Result:
    """The result of one run, in plain JSON values; UserError if there is none or it is damaged."""
    check_packed_beside(results)
    if is_packed(results):
        for name, result in open_packed(results).results(run_id):
            if isinstance(result, str):
                raise UserError(f"{results}, run {name} {result}")
            return plain(result)
        raise UserError(f"{results} holds no result of run {run_id}")
    path = result_path(results, run_id)
    try:
        return parse(run_id, path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no result of run {run_id}: {path} does not exist") from None
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def read_results(results: Path) -> tuple[list[Result], list[str]]:
    """(the results in a folder or a Parquet file, sorted by run_id; for each skipped file or row, a line that says why).

    A result has the shape of its JSON; its key `result` is a LazyValues. Do not change a result: results share equal parts as
    one object. NoResultsError if there is no result. Folders and Parquet files inside the folder are not read.
    """
    check_packed_beside(results)
    good, skipped = dict[str, Result](), dict[str, str]()
    if is_packed(results):
        for name, result in open_packed(results).results():
            if isinstance(result, str):
                skipped[f", run {name}"] = result
            else:
                good[name] = result
    else:
        paths, others = list_results(results)
        skipped, pool = {f"/{name}": why for name, why in others.items()}, Pool()
        for path in paths:
            try:
                good[path.stem] = with_columns(parse(path.stem, path.read_bytes()), pool)
            except UserError as error:
                skipped[f"/{path.name}"] = str(error)
            except OSError as error:
                skipped[f"/{path.name}"] = f"cannot be read ({error.strerror})"
    lines = [f"{results}{name} {why}" for name, why in sorted(skipped.items())]
    if not good:
        more = [f"and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
        raise NoResultsError("; ".join([f"{results} holds no result (<run_id>.json); `ecgssl pretrain random --store STORE` "
                                        f"makes one", *lines[:LISTED], *more]))
    return [good[name] for name in sorted(good)], lines


def with_columns(result: Result, pool: Pool) -> Result:
    """The same result with LazyValues under `result`. Parts that equal those of other results in the pool are shared."""
    small, columns = to_columns(result["result"])
    values = LazyValues(pool.share_parts(small), pool.share(bulky_keys(columns)), columns)
    return pool.share_result({**result, "result": values})


def check_packed_beside(results: Path) -> None:
    """UserError if the folder does not exist, but the Parquet file of that study does."""
    packed = results.with_name(results.name + PACKED) if results.name else results
    if not results.exists() and packed.is_file():
        raise UserError(f"{results} is packed: write {packed}, or `ecgssl results unpack {packed}` first")


def list_results(results: Path) -> tuple[list[Path], dict[str, str]]:
    """(sorted paths in a folder that are named like results; {name of another file: why it is no result})."""
    paths, others = [], {}
    for entry in os.scandir(results) if results.is_dir() else ():
        try:
            mode = entry.stat().st_mode
        except OSError as error:  # a link to nothing, or to itself
            others[entry.name] = f"cannot be read ({error.strerror})"
            continue
        if stat.S_ISDIR(mode) or entry.name in NOT_RESULTS or (stat.S_ISREG(mode) and entry.name.endswith(PACKED)):
            continue
        stem, _, suffix = entry.name.partition(".")
        if not stat.S_ISREG(mode):
            others[entry.name] = "is no file; move it elsewhere"
        elif suffix == "json" and RUN_ID.fullmatch(stem):
            paths.append(Path(entry.path))
        elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
            others[entry.name] = "is half of a file, left where a run was killed; remove it unless that still runs"
        else:
            others[entry.name] = "is not named like a result, <run_id>.json; move it elsewhere"
    return sorted(paths), others


def newest_results(results: Path, limit: int, skip: frozenset[str] = frozenset()) -> Iterator[Result]:
    """The results whose files are the newest, at most `limit`, in plain JSON values; damaged files are left out.

    A Parquet file has no dates: there, the first results come. skip: run_ids to leave out.
    """
    if is_packed(results) and results.is_file():
        names = sorted(open_packed(results).run_ids - skip)
    else:
        paths = [path for path in list_results(results)[0] if path.stem not in skip]
        names = [path.stem for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)]
    for name in names[:limit]:
        with contextlib.suppress(UserError, OSError):
            yield load_result(results, name)


@contextlib.contextmanager
def save_error(folder: Path) -> Iterator[None]:
    """A context: if its block fails, the reason is written to folder/error.txt; if it succeeds, that file is removed."""
    try:
        yield
    except (UserError, OSError) as error:
        with contextlib.suppress(OSError):  # a full disk
            write_text(folder / "error.txt", f"{error}\n")
        raise
    (folder / "error.txt").unlink(missing_ok=True)
