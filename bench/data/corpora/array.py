"""Bring your own data: a folder with dataset.yaml, signals.npy (records, leads, samples) and records.csv.

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
    constant_leads: keep           # optional: a record with a lead that never changes is used and listed (keep) or refused
    version: "1"                   # optional

signals.npy holds integers or floats; int16 goes into the store unchanged. A missing sample is NaN, or -32768 in int16.
The file may be larger than memory, because it is read record by record.

records.csv has one row per record, in the order of signals.npy. Its columns are record_id (all different) and optionally
patient_id, fold (1-8 train, 9 validates, 10 tests; 0 or empty: none) and a column for each task. If a record's value of a task is
empty (for a regression: empty or NaN), the record is left out of that task.
"""

import functools
import re
import tokenize
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from bench.core.errors import UserError, unknown
from bench.core.models import Bool, Float, Int, Model, Text, rule, validate
from bench.core.yaml import read_document
from bench.data.corpora import TRAINING_FOLDS, Corpus, CorpusFolder, Recording
from bench.data.corpora.tables import parse_numbers, parse_whole_numbers, read_table, require_unique
from bench.data.signal import LEADS, lead_order

CORPUS = Corpus(
    name="array", title="bring your own data", version="", licence="yours", citation="", url="",
    layout="dataset.yaml, signals.npy (records, leads, samples), records.csv", rate_hz=(),
    labels="columns of records.csv that dataset.yaml names", patients="patient_id of records.csv, where it exists")

NAME = "[a-z0-9][a-z0-9-]{0,40}"
FOLDS = range(1, 11)
FLOAT_SCALE = 0.001  # units per step of a store, if the signals are floats: 1 µV, or 1/1000 sd
RESERVED = ("record_id", "patient_id", "fold", "offset", "length", "digest", "stored", "row")  # columns of a store


class Columns(Model):
    """What the columns of records.csv are called."""

    record_id: Text = "record_id"
    patient_id: Text = "patient_id"
    fold: Text = "fold"


class DatasetConfig(Model):
    """dataset.yaml: what a user says about their own data."""

    name: Annotated[Text, Field(json_schema_extra={"pattern": f"^{NAME}$"}, description="Becomes the store's name.")]
    rate_hz: Annotated[Int, Field(ge=1, le=100_000, description="Samples per second.")]
    leads: Annotated[tuple[Text, ...], Field(description="Names of the 12 leads, in the order of signals.npy.")]
    units: Annotated[Literal["mV", "sd"], Field(description="mV, or sd where the signals hold no absolute values.")]
    scale: Annotated[Float, Field(ge=1e-9, le=1e9, description="Units per step of signals.npy: value = number x scale.")]
    tasks: Annotated[tuple[Text, ...], Field(description="Columns of records.csv with labels or numbers; [] for none.")]
    single_label: Annotated[tuple[Text, ...], Field(description="Tasks in which a record has one label at most.")] = ()
    regression: Annotated[dict[Text, Text], Field(
        default_factory=dict, description="Tasks whose column holds a number -> its unit.")]
    columns: Annotated[Columns, Field(description="What records.csv calls record_id, patient_id, fold.")] = Columns()
    folds: Annotated[Bool | None, Field(description="Statistics from folds 1-8 alone; default: if there is any fold.")] = None
    gaps: Annotated[Literal["fill", "refuse"], Field(description="Missing samples: interpolate them or refuse.")] = "fill"
    constant_leads: Annotated[Literal["keep", "refuse"], Field(description="Leads that never change: keep or refuse.")] = "keep"
    version: Annotated[Text, Field(description="Version of your data.")] = "1"

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if not re.fullmatch(NAME, self.name):
            raise rule("name", "lower-case letters, digits and dashes, at most 41")
        try:
            lead_order(self.leads)
        except UserError:
            raise rule("leads", f"the 12 leads {', '.join(LEADS)}, in the order of signals.npy") from None
        if set(RESERVED) & set(self.tasks) or len(set(self.tasks)) < len(self.tasks):
            raise rule("tasks", f"columns of records.csv, each once, and none of {', '.join(RESERVED)}")
        for key, tasks in (("single_label", self.single_label), ("regression", self.regression)):
            for task in tasks:
                if task not in self.tasks:
                    raise rule(key, f"names that `tasks` lists: {unknown('task', task, self.tasks)}")
        for task, unit in self.regression.items():
            if task in self.single_label or not unit or not unit.isprintable():
                raise rule(f"regression.{task}", "a unit such as years, of a task that single_label does not list")
        return self


def open_folder(folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the user's data in folder, at the rate in dataset.yaml; rate_hz is ignored. UserError names the file that is wrong."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    path = folder / "dataset.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not an array data set: it holds no dataset.yaml")
    config = read_config(path)
    order = lead_order(config.leads)
    signals = open_signals(folder / "signals.npy", len(order))
    records = read_records(folder / "records.csv", config)
    if len(records) != len(signals):
        raise UserError(f"{folder}: records.csv has {len(records)} rows, signals.npy {len(signals)} records")
    tasks = {task: [config.regression[task]] if task in config.regression
             else sorted({label for text in records[task] for label in text.split(";") if label}) for task in config.tasks}
    use_folds = bool(records.fold.any()) if config.folds is None else config.folds
    records["row"] = np.arange(len(records))
    status = (folder / "signals.npy").stat()
    return CorpusFolder(
        name=config.name, version=config.version, rate_hz=config.rate_hz, units=config.units,
        scale=config.scale if signals.dtype.kind in "iu" else FLOAT_SCALE, records=records, tasks=tasks,
        kinds=dict.fromkeys(config.single_label, "single-label") | dict.fromkeys(config.regression, "regression"),
        read=functools.partial(read_record, signals, config.rate_hz, config.scale, order),
        gaps=config.gaps, constant=config.constant_leads, stats_folds=TRAINING_FOLDS if use_folds else [],
        origin=f"{status.st_size} bytes of {status.st_mtime_ns}")


def read_config(path: Path) -> DatasetConfig:
    """Read dataset.yaml; UserError names file, line, key and value of the first mistake."""
    document = read_document(path)
    return validate(DatasetConfig, document.value, document.place)


def open_signals(path: Path, leads: int) -> np.ndarray:
    """The array in the file, (records, leads, samples), memory-mapped; UserError if it has another shape or type."""
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


def read_records(path: Path, config: DatasetConfig) -> pd.DataFrame:
    """The table of record_id, patient_id, fold and a column per task; UserError names the column and row that is wrong."""
    table, columns = read_table(path), config.columns
    renamed = [getattr(columns, key) for key in columns.model_fields_set]
    for column in (columns.record_id, *renamed, *config.tasks):
        if column not in table:
            raise UserError(f"{path} has no column {column!r:.80}; it has {', '.join(table.columns)!r:.200}")
    ids = table[columns.record_id].rename("record_id")
    if not ids.all():
        raise UserError(f"{path}: the {columns.record_id!r:.80} of row {ids.eq('').argmax() + 1} is empty")
    require_unique(ids, path)
    return pd.DataFrame({
        "record_id": ids,
        "patient_id": table.get(columns.patient_id, ""),
        "fold": _folds(table[columns.fold], ids, path) if columns.fold in table else 0,
        **{task: _target(table[task], task, config, path) for task in config.tasks},
    })


def _folds(column: pd.Series, ids: pd.Series, path: Path) -> pd.Series:
    """The fold of each record, 0 if it has none; UserError names the records with an invalid fold."""
    strange = [text not in ("", "0", "0.0", *(f"{fold}{end}" for fold in FOLDS for end in ("", ".0"))) for text in column]
    if any(strange):
        named = [f"{i} has {fold!r:.20}" for i, fold in zip(ids[strange], column[strange], strict=True)]
        raise UserError(f"{path}: {column.name!s:.80} must be 1 to 10, or 0 or empty for a record without a fold; record "
                        f"{', '.join(named[:3])}{f' and {len(named) - 3:,} more' if len(named) > 3 else ''}"[:600])
    return parse_whole_numbers(column.replace("", "0"), path)


def _target(column: pd.Series, task: str, config: DatasetConfig, path: Path) -> pd.Series:
    """The labels of a task, sorted and joined by ";", or the numbers of a regression as texts."""
    if task in config.regression:
        return parse_numbers(column, path)
    labels = column.map(_labels)
    several = labels.str.contains(";")
    if task in config.single_label and several.any():
        row = int(several.to_numpy().argmax())
        raise UserError(f"{path}: {task:.80} is single-label, row {row + 1} has {labels.iloc[row]!r:.80}")
    return labels


def _labels(text: str) -> str:
    """"b ;a;a;" -> "a;b"."""
    return ";".join(sorted({label.strip() for label in text.split(";")} - {""}))


def read_record(signals: np.ndarray, rate_hz: int, scale: float, order: list[int], row: Any) -> Recording:
    """The recording of one record, leads in the order of LEADS; a value in units is number x scale."""
    samples = np.asarray(signals[row.row])[order]
    if samples.dtype == np.int16:
        return Recording(rate_hz, samples, np.full(len(LEADS), 1 / scale), np.zeros(len(LEADS)))
    return Recording(rate_hz, samples.astype(np.float64) * scale)
