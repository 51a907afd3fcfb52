"""A finished study in one file: pack a folder of results into Parquet, and unpack that into the same files."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core.errors import UserError
from bench.core.files import replace_file, sync_folder
from bench.core.models import canonical
from bench.runs.parquet import COLUMNS, LARGE, PackedStudy, result_of_row
from bench.runs.results import PACKED, NoResultsError, dumps, is_packed, list_results, result_path, with_columns
from bench.runs.values import LazyValues, Pool, parse, plain

GROUP = 1000  # rows that are written, and read, at once
ALIKE = ["kind", "schema", "provenance", "pretrain_config", "others", "result_bulky", "classes"]  # most rows share their values
FLOATS = [f"{name}.list.element" for name, kind in LARGE.items() if pa.types.is_list(kind)]
WRITING: dict[str, Any] = {"compression": "zstd", "compression_level": 9, "use_dictionary": ALIKE,
                           "use_byte_stream_split": FLOATS, "write_statistics": False, "write_page_checksum": True}


def pack(study: Path) -> Path:
    """Write STUDY.parquet beside the folder STUDY, and return its path. The same results give the same bytes.

    UserError where a file of the folder is no result, or where STUDY.parquet holds runs that the folder lacks.
    """
    if is_packed(study):
        raise UserError(f"{study} is packed already; give the folder of JSON files")
    if not study.is_dir():
        raise UserError(f"{study} is no folder; give a folder of results, <run_id>.json")
    paths, others = list_results(study)
    if others:
        name, why = min(others.items())
        raise UserError(f"{study / name} {why}; nothing was packed")
    if not paths:
        raise NoResultsError(f"{study} holds no result (<run_id>.json)")
    target = study.resolve().with_name(study.resolve().name + PACKED)
    if target.exists() and (lost := PackedStudy(target).run_ids - {path.stem for path in paths}):
        raise UserError(f"{target} holds {len(lost):,} runs that {study} lacks, among them {min(lost)}; unpack it into another "
                        f"folder and copy what is missing, or remove it")
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # left by a pack that was killed
        left.unlink(missing_ok=True)
    with replace_file(target) as f, pq.ParquetWriter(f, COLUMNS, **WRITING) as writer:
        for rows in _groups(paths):
            writer.write_table(pa.Table.from_pylist(rows, COLUMNS), row_group_size=GROUP)
    return target


def _groups(paths: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(paths), GROUP):
        rows = []
        for path in paths[start : start + GROUP]:
            try:
                rows.append(_row(path.stem, path.read_bytes()))
            except UserError as error:
                raise UserError(f"{path} {error}; nothing was packed") from None
        yield rows


def _row(name: str, data: bytes) -> dict[str, Any]:
    """The row of one file. It also holds the file's text, if the text cannot be rebuilt from the other columns."""
    result = with_columns(parse(name, data), Pool())
    values: LazyValues = result["result"]
    texts: dict[str, Any] = {key: _text(result.pop(key)) for key in ("provenance", "pretrain_config") if key in result}
    row: dict[str, Any] = {key: result.pop(key) for key in ("run_id", "kind", "schema")}
    row |= {"config": canonical(result.pop("config")), "result": _text(values.small), "result_bulky": _text(values.bulky)}
    del result["result"]
    row |= {**texts, **values.columns, "others": _text(result)}
    again = dumps(plain(result_of_row(row, row, Pool()))).encode()
    return row if again == data else row | {"text": data.decode()}


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def unpack(packed: Path, folder: Path | None = None) -> Path:
    """Write every result of a Parquet file as the JSON file that it was, byte for byte, and return the folder.

    folder: new or empty; None: STUDY beside STUDY.parquet. The folder appears complete or not at all. UserError if the file is
    damaged, or is no file of results.
    """
    study = PackedStudy(packed)
    target = folder or packed.with_suffix("")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is not empty; write --to FOLDER, a new or an empty one")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        for i, (name, result) in enumerate(study.results()):
            if isinstance(result, str):
                raise UserError(f"{packed}, run {name} {result}; nothing was unpacked")
            text = result["result"].columns["text"]
            result_path(unfinished, name).write_bytes(text.encode() if text else dumps(plain(result)).encode())
            if i % GROUP == GROUP - 1:
                study.forget_columns()
        os.chmod(unfinished, 0o755)
        unfinished.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target
