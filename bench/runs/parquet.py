"""The Parquet file of a finished study, with a row per run: its columns and its reader. bench/runs/packing.py writes it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core.errors import UserError
from bench.runs.values import RUN_ID, TEXTS, LazyValues, Pool, Result, check_result, metric_of

LARGE: dict[str, pa.DataType] = {  # columns that are read only when their values are used
    **dict.fromkeys(TEXTS, pa.string()), "replicates": pa.list_(pa.float32()), "replicates_float64": pa.list_(pa.float64()),
    "classes": pa.string(), "class_scores": pa.list_(pa.float64())}
TYPES: dict[str, pa.DataType] = {
    "run_id": pa.string(), "kind": pa.string(), "schema": pa.int64(),
    "config": pa.string(),  # canonical JSON: its hash is run_id
    "provenance": pa.string(), "pretrain_config": pa.string(),
    "others": pa.string(),  # keys of the file that have no column
    "result": pa.string(),  # the small values
    "result_bulky": pa.string(),  # the names of the values that have columns of their own
    **LARGE,
    "text": pa.string()}  # the whole file, if write_result would not have written it so
COLUMNS = pa.schema(TYPES)
SMALL = [name for name in TYPES if name not in {*LARGE, "text"}]


class DamagedError(UserError):
    """The file is not a Parquet file, or is damaged."""


class Row(Mapping[str, Any]):
    """The large columns of one row: column -> str, (n,) array, or None."""

    __slots__ = ("at", "group", "study")

    def __init__(self, study: "PackedStudy", group: int, at: int) -> None:
        self.study, self.group, self.at = study, group, at

    def __getitem__(self, name: str) -> Any:
        value = self.study.column(self.group, name)[self.at]
        if not pa.types.is_list(value.type):
            return value.as_py()
        return value.values.to_numpy() if value.is_valid else None

    def __iter__(self) -> Iterator[str]:
        return iter([*LARGE, "text"])

    def __len__(self) -> int:
        return len(LARGE) + 1


class PackedStudy:
    """An open Parquet file of results; UserError if it holds none, is damaged, or has two results of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[tuple[int, str], Any] = {}  # (row group, column): what has been read of it
        self.file = self._read(lambda: pq.ParquetFile(path, page_checksum_verification=True))
        if not self.file.schema_arrow.equals(COLUMNS):
            raise UserError(f"{path} is no file of results: its columns are {', '.join(self.file.schema_arrow.names)!s:.200}; "
                            f"give a file of `ecgssl results pack`")
        names = [name for group in range(self.file.num_row_groups) for name in self._table(group, ["run_id"])["run_id"]]
        for name in names:
            if not isinstance(name, str) or not RUN_ID.fullmatch(name):
                raise UserError(f"{path} is no file of results: the run_id {name!r:.80} is not 12 hex digits")
        if len(set(names)) < len(names):
            (name, _), = Counter(names).most_common(1)
            raise UserError(f"{path} has more than one result of run {name}; pack the study again")
        if not names:
            raise UserError(f"{path} holds no result; pack the study again")
        self.run_ids = frozenset(names)

    def _read(self, read: Callable[[], Any]) -> Any:
        """The value of read(); UserError if the file cannot be read."""
        try:
            return read()
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist") from None
        except PermissionError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror})") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> DamagedError:
        first = "".join(why.splitlines()[:1])
        return DamagedError(f"{self.path} is no Parquet file, or is damaged ({first:.120}); pack the study again, or fetch the "
                            f"file again")

    def _table(self, group: int, columns: list[str]) -> dict[str, list[Any]]:
        read = self._read(lambda: self.file.read_row_group(group, columns=columns, use_threads=False))
        return {name: read[name].to_pylist() for name in columns}

    def column(self, group: int, name: str) -> Any:
        """One large column of a row group, as an Arrow array; it is read once."""
        if (group, name) not in self.columns:
            table = self._read(lambda: self.file.read_row_group(group, columns=[name], use_threads=False))
            if len(table) != self.file.metadata.row_group(group).num_rows:
                raise self._damaged(f"{name} has {len(table)} rows")
            self.columns[group, name] = table[name].combine_chunks()
        return self.columns[group, name]

    def forget_columns(self) -> None:
        """Free the large columns. They are read again when they are used again."""
        self.columns = {}

    def results(self, wanted: str | None = None) -> Iterator[tuple[str, Result | str]]:
        """For every row, or only for the run `wanted`: (run_id, its result, or a text that says what is wrong with it)."""
        pool = Pool()
        for group in range(self.file.num_row_groups):
            if wanted is None or wanted in self._table(group, ["run_id"])["run_id"]:
                columns = self._table(group, SMALL)
                for at, name in enumerate(columns["run_id"]):
                    if wanted in (None, name):
                        small = {key: values[at] for key, values in columns.items()}
                        try:
                            yield name, result_of_row(small, Row(self, group, at), pool)
                        except DamagedError:
                            raise
                        except UserError as error:
                            yield name, str(error)


def result_of_row(small: Mapping[str, Any], large: Mapping[str, Any], pool: Pool) -> Result:
    """The result in a row, checked. Its bulky values stay in the large columns. UserError if the row holds no result."""
    try:
        values, bulky = (orjson.loads(small[key]) for key in ("result", "result_bulky"))
        texts = {key: text for key in ("config", "provenance", "pretrain_config") if (text := small.get(key)) is not None}
        result = {**orjson.loads(small["others"]), **{key: small[key] for key in ("run_id", "kind", "schema")},
                  **{key: orjson.loads(text) for key, text in texts.items()},
                  "result": LazyValues(pool.share_parts(values), pool.share(bulky), large)}
        metric_of(result)
        true_name = hashlib.sha256(small["config"].encode()).hexdigest()[:12]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"is no result ({error}); pack the study again") from None
    check_result(small["run_id"], true_name, result)
    return pool.share_result(result)
