"""Bring your own data: a folder with dataset.yaml, signals.npy (n, leads, samples) and records.csv.

dataset.yaml:
    name: my-hospital              # becomes the store's name: letters, digits and dashes
    rate_hz: 500
    leads: [I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6]
    units: mV                      # mV, or sd where the signals hold no absolute values
    scale: 0.001                   # units per step of signals.npy: value = number x scale
    tasks: [rhythm, sex, age]      # columns of records.csv, with ';'-separated labels; [] for unlabelled data
    single_label: [sex]            # optional: the tasks in which a record has one label and no other
    regression: {age: years}       # optional: the tasks whose column holds a number, with its unit
    columns: {fold: strat_fold}    # optional: what your csv calls record_id, patient_id, fold
    folds: true                    # optional: statistics from folds 1-8 alone (default: if there is a fold column)
    gaps: fill                     # optional: missing samples are interpolated (fill) or refused (refuse)
    constant_leads: keep           # optional: a lead that never changes is kept and listed, or refused (refuse)
    version: "1"                   # optional

signals.npy holds integers or floats; int16 goes into the store as it is. A missing sample is NaN, in int16 -32768.
The file may be larger than memory: it is mapped, and read record by record.

records.csv has one row per record, in the order of signals.npy: record_id (each once), and where there are any
patient_id, fold (1-8 train, 9 validates, 10 tests; 0: none) and the tasks' columns. A record whose value is empty (of
a regression: or NaN) is left out of that task.
"""

import functools
import re
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import UserError, unknown
from bench.core.yaml import read_yaml
from bench.data.corpora import Corpus, Recording, Source, numbers, read_table, whole_numbers
from bench.data.signal import LEADS, lead_order

CORPUS = Corpus(
    name="array", title="bring your own data", version="", licence="yours", citation="", url="",
    layout="dataset.yaml, signals.npy (records, leads, samples), records.csv", rate_hz=(),
    labels="columns of records.csv that dataset.yaml names", patients="patient_id of records.csv, where there is one")

NEEDED = {"name": str, "rate_hz": int, "leads": list, "units": str, "scale": float, "tasks": list}
OPTIONAL = {"single_label": list, "regression": dict, "columns": dict, "folds": bool, "gaps": str, "constant_leads": str,
            "version": str}
COLUMNS = ("record_id", "patient_id", "fold")
RESERVED = (*COLUMNS, "offset", "length", "digest", "row")  # a store's or a source's own columns
FASTEST = 100_000  # Hz; ours
TRAINING_FOLDS = list(range(1, 9))  # as PTB-XL: 9 validates, 10 tests


def open_source(folder: Path, rate_hz: int | None) -> Source:
    """The data set in folder; its recordings have its own rate, whatever rate_hz is."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    path = folder / "dataset.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not an array data set: it holds no dataset.yaml")
    spec = read_spec(path)
    try:
        order = lead_order(spec["leads"])
    except UserError as error:
        raise UserError(f"{path} {error}") from None

    signals = open_signals(folder / "signals.npy", len(order))
    records = read_records(folder / "records.csv", spec)
    if len(records) != len(signals):
        raise UserError(f"{folder}: records.csv has {len(records)} rows, signals.npy {len(signals)} records")
    units = spec.get("regression", {})
    tasks = {t: [units[t]] if t in units else sorted({label for text in records[t] for label in text.split(";") if label})
             for t in spec["tasks"]}
    kinds = dict.fromkeys(spec.get("single_label", []), "single-label") | dict.fromkeys(units, "regression")
    by_fold = spec.get("folds", bool(records.fold.any()))
    records["row"] = np.arange(len(records))
    status = (folder / "signals.npy").stat()
    return Source(
        name=spec["name"], version=spec.get("version", "1"), rate_hz=spec["rate_hz"], units=spec["units"],
        # floats need a step of our own: 1 µV, or 1/1000 sd
        scale=spec["scale"] if signals.dtype.kind in "iu" else 0.001, records=records, tasks=tasks, kinds=kinds,
        read=functools.partial(read_record, signals, spec["rate_hz"], spec["scale"], order),
        gaps=spec.get("gaps", "fill"), constant=spec.get("constant_leads", "keep"),
        stats_folds=TRAINING_FOLDS if by_fold else [], origin=f"{status.st_size} bytes of {status.st_mtime_ns}")


def open_signals(path: Path, leads: int) -> np.ndarray:
    """The array of path, (records, leads, samples), mapped from the disk; UserError where it is another."""
    try:
        signals = np.lib.format.open_memmap(path, mode="r")
        end = signals.offset + signals.nbytes
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} does not exist, or is no file") from None
    except (ValueError, OverflowError, SyntaxError, tokenize.TokenError):
        raise UserError(f"{path} is not a .npy array, or is truncated") from None
    if end != path.stat().st_size:
        raise UserError(f"{path} is damaged: it has more bytes than its array")
    if signals.ndim != 3 or signals.shape[1] != leads or not signals.shape[2]:
        raise UserError(f"{path} has shape {signals.shape}; (records, {leads} leads, samples) is needed")
    if signals.dtype.kind not in "iuf":
        raise UserError(f"{path} holds {signals.dtype}; integers or floats are needed")
    return signals


def read_spec(path: Path) -> dict[str, Any]:
    spec = read_yaml(path)
    for key in spec:
        if key not in NEEDED | OPTIONAL:
            raise unknown(f"key in {path}:", key, NEEDED | OPTIONAL)
    for key, kind in (NEEDED | OPTIONAL).items():
        if key not in spec and key in NEEDED:
            raise UserError(f"{path} has no {key!r}; it needs {', '.join(NEEDED)}")
        right = (int, float) if kind is float else (kind,)
        if key in spec and (not isinstance(spec[key], right) or (isinstance(spec[key], bool) and kind is not bool)):
            raise UserError(f"{path}: {key} must be {kind.__name__}, got {spec[key]!r:.80}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", spec["name"]):
        raise UserError(f"{path}: name {spec['name']!r:.80} must be lower-case letters, digits and dashes")
    for task in spec["tasks"]:
        if not isinstance(task, str) or task in RESERVED or spec["tasks"].count(task) > 1:
            raise UserError(f"{path}: {task!r:.80} in tasks must be a column name, once, and not {', '.join(RESERVED)}")
    single, units = spec.get("single_label", []), spec.get("regression", {})
    for task in [*single, *units]:
        if task not in spec["tasks"]:
            raise unknown(f"task in {path}, single_label or regression:", task, spec["tasks"])
    for task, unit in units.items():
        if task in single or not isinstance(unit, str) or not unit or not unit.isprintable():
            raise UserError(f"{path}: regression.{task:.80} must be a unit such as years, and {task:.80} not be in single_label")
    for ours, theirs in spec.get("columns", {}).items():
        if ours not in COLUMNS:
            raise unknown(f"key of columns in {path}:", ours, COLUMNS)
        if not isinstance(theirs, str):
            raise UserError(f"{path}: columns.{ours} must be a column's name, got {theirs!r:.80}")
    for key, known in (("units", ("mV", "sd")), ("gaps", ("fill", "refuse")), ("constant_leads", ("keep", "refuse"))):
        if key in spec and spec[key] not in known:
            raise unknown(f"{key} in {path}:", spec[key], known)
    if not 1e-9 <= spec["scale"] <= 1e9:  # further away is a mistake, and 1 / scale may not be a number
        raise UserError(f"{path}: scale {spec['scale']!r:.80} must be positive, from 1e-9 to 1e9 units per step")
    if not 0 < spec["rate_hz"] <= FASTEST:
        raise UserError(f"{path}: rate_hz {spec['rate_hz']!r:.80} must be positive, and at most {FASTEST:,} Hz")
    return {**spec, "scale": float(spec["scale"])}


def read_records(path: Path, spec: dict[str, Any]) -> pd.DataFrame:
    table = read_table(path)
    given = spec.get("columns", {})
    called = {column: given.get(column, column) for column in COLUMNS}
    for column in (called["record_id"], *given.values(), *spec["tasks"]):
        if column not in table:
            raise UserError(f"{path} has no column {column!r:.80}; it has {', '.join(table.columns)!r:.200}")
    ids = table[called["record_id"]]
    if not ids.all():
        raise UserError(f"{path}: the {called['record_id']!r:.80} of row {ids.eq('').argmax() + 1} is empty")
    if ids.duplicated().any():
        raise UserError(f"{path}: record_id {ids[ids.duplicated()].iloc[0]!r:.80} occurs twice")
    return pd.DataFrame({
        "record_id": ids,
        "patient_id": table.get(called["patient_id"], ""),
        "fold": whole_numbers(table[called["fold"]], path) if called["fold"] in table else 0,
        **{task: _target(table[task], task, spec, path) for task in spec["tasks"]},
    })


def _target(column: pd.Series, task: str, spec: dict[str, Any], path: Path) -> pd.Series:
    if task in spec.get("regression", {}):
        return numbers(column, path)
    labels = column.map(_labels)
    several = labels.str.contains(";")
    if task in spec.get("single_label", []) and several.any():
        row = int(several.to_numpy().argmax())
        raise UserError(f"{path}: {task:.80} is single-label, row {row + 1} has {labels.iloc[row]!r:.80}")
    return labels


def _labels(text: str) -> str:
    """"b ;a;a;" -> "a;b"."""
    return ";".join(sorted({label.strip() for label in text.split(";")} - {""}))


def read_record(signals: np.ndarray, rate_hz: int, scale: float, order: list[int], row: Any) -> Recording:
    """One record, its leads in the suite's order; number x scale, also where the integers are left as they are."""
    numbers = np.asarray(signals[row.row])[order]
    if numbers.dtype == np.int16:
        return Recording(rate_hz, numbers, np.full(len(LEADS), 1 / scale), np.zeros(len(LEADS)))
    return Recording(rate_hz, numbers.astype(np.float64) * scale)
