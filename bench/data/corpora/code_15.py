"""CODE-15% (Ribeiro et al. 2021, Zenodo 4916206; Ribeiro et al. 2020, Nat Commun 11:1760).

The unit of the amplitudes is not known. The Zenodo record states none. The code of its authors says both 1e-4 V and 1000 times
volts, which differ by a factor of ten, and a comparison with other corpora suggests 0.5 mV. This file takes the values as
published and calls them mV, as the PhysioNet Challenge 2025 does. Every store is normalised by its own statistics, so the factor
has no effect. With a step of 0.004, a store can hold values up to 131. The rounding error has sd 0.0012, a third of a percent of
the sd of the smallest lead after the high-pass, 0.37.

Exams of less than 10.24 s are padded with zeros at both ends. Like the paper, this file uses only exams in which the first and
the last sample of every lead differ from zero: 128,033 of 345,779.
"""

import functools
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import Corpus, CorpusFolder, Recording, Refusal, Zenodo
from bench.data.corpora.tables import parse_whole_numbers, read_published_table, require_unique
from bench.data.signal import LEADS

SAMPLES, RATE_HZ = 4096, 400
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
FLAGS = {"true": True, "1": True, "false": False, "0": False}

CORPUS = Corpus(
    "code-15", "CODE-15%", "1.0.0", "CC BY 4.0", "Ribeiro et al. 2021, Zenodo (doi 10.5281/zenodo.4916206)",
    "https://doi.org/10.5281/zenodo.4916206", "exams.csv, exams_part*.hdf5 (unpacked): exam_id, tracings (n, 4096, 12) "
    "float32, amplitudes nominal", (RATE_HZ,), scale=0.004, records=128_033, seconds=1_311_060,
    dropped="shorter than 10.24 s; a lead at 0 at an end", highpass_hz=0.5, labels="abnormalities",
    patients="patient_id", download=Zenodo(4916206, size_gb=50.6))


def open_folder(folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the exams that exams.csv lists, in the order of the HDF5 files' rows. They have 400 Hz; rate_hz is ignored."""
    path = folder / "exams.csv"
    table = read_published_table(path, ("exam_id", "patient_id", "trace_file", *LABELS), "CODE-15%")
    exam = parse_whole_numbers(table.exam_id, path)
    require_unique(exam, path)
    strange = ~table.trace_file.str.fullmatch(r"\w[\w-]*\.(?:hdf5|h5)", flags=re.ASCII)
    if strange.any():
        raise UserError(f"{path}: trace_file {table.trace_file[strange].iloc[0][:80]!r} is not an HDF5 file's name")
    positive = {label: table[label].str.casefold().map(FLAGS) for label in LABELS}
    for label, flags in positive.items():
        if flags.isna().any():
            raise UserError(f"{path}: {label} {table[label][flags.isna()].iloc[0][:80]!r} is neither True nor False")
    files, stored = open_parts(folder, sorted(set(table.trace_file), key=lambda name: (len(name), name)))  # part2 before part11
    listed = pd.DataFrame({
        "exam": exam, "file": table.trace_file, "record_id": exam.astype(str),
        "patient_id": parse_whole_numbers(table.patient_id, path).astype(str), "fold": 0,
        "abnormalities": [";".join(label for label, present in zip(LABELS, flags, strict=True) if present)
                          for flags in zip(*positive.values(), strict=True)]})
    records = stored.merge(listed, how="right", on=["exam", "file"]).fillna({"row": -1}).astype({"row": int})
    order = records.assign(length=records.file.str.len()).sort_values(["length", "file", "row", "exam"]).index
    return CorpusFolder(
        name=CORPUS.name, version=CORPUS.version, rate_hz=RATE_HZ, units=CORPUS.units, scale=CORPUS.scale,
        records=records.loc[order].drop(columns="exam").reset_index(drop=True),
        tasks={"abnormalities": list(LABELS)}, read=functools.partial(read_record, files),
        highpass_hz=CORPUS.highpass_hz, origin=" ".join(str((folder / name).stat().st_size) for name in files))


def open_parts(folder: Path, names: list[str]) -> tuple[dict[str, h5py.Dataset], pd.DataFrame]:
    """Name -> tracings of the HDF5 files that exist, and a table of their exams: exam, file, row."""
    files, rows = {}, []
    for name in names:
        if not (folder / name).is_file():  # read_record refuses its exams
            continue
        ids, files[name] = open_part(folder / name)
        rows.append(pd.DataFrame({"exam": ids, "file": name, "row": range(len(ids))})[ids != 0])  # a 0 is padding
    if not rows:
        raise UserError(f"{folder} holds none of the HDF5 files that exams.csv lists; download and unpack them")
    stored = pd.concat(rows, ignore_index=True)
    if stored.exam.duplicated().any():
        raise UserError(f"{folder}: exam_id {stored.exam[stored.exam.duplicated()].iloc[0]} occurs twice in the HDF5 files")
    return files, stored


def open_part(path: Path) -> tuple[np.ndarray, h5py.Dataset]:
    """(exams,) exam_id and (exams, 4096, 12) tracings of an HDF5 file, which stays open as long as the tracings are used."""
    try:
        file = h5py.File(path, "r")
        ids, tracings = dataset_of(file, "exam_id"), dataset_of(file, "tracings")
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or tracings.dtype.kind != "f" \
                or tracings.shape != (len(ids), SAMPLES, len(LEADS)):
            raise UserError(f"{path} holds exam_id {ids.shape} {ids.dtype}, tracings {tracings.shape} {tracings.dtype}; "
                            f"(n,) integers and (n, {SAMPLES}, {len(LEADS)}) floats are needed")
        return ids[:].astype(np.int64), tracings
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is damaged, truncated, or no HDF5 file ({str(error)[:120]})") from None


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set that lies in the file itself; UserError for a link or a virtual data set, which could point to another file."""
    data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise UserError(f"{file.filename} holds no data set {name!r} of its own")
    return data


def read_record(files: dict[str, h5py.Dataset], row: Any) -> Recording:
    """The recording of one exam; Refusal if it cannot be read, or is left out by rule. h5py lets one thread read at a time."""
    if row.file not in files:
        raise Refusal("missing file", f"exams.csv lists {row.file}, which does not exist; download and unpack it")
    if row.row < 0:
        raise Refusal("missing exam", f"{row.file} does not hold it, although exams.csv says so")
    try:
        tracing = files[row.file][row.row]
    except (OSError, RuntimeError) as error:
        raise Refusal("damaged", f"row {row.row} of {row.file} cannot be read ({str(error)[:120]})") from None
    ends = tracing[[0, -1]] == 0
    if ends.all(axis=1).any():
        signal = np.flatnonzero(tracing.any(axis=1))
        seconds = (signal[-1] - signal[0] + 1) / RATE_HZ if len(signal) else 0
        raise Refusal("shorter than 10.24 s", f"lasts {seconds:g} s, the rest is padding", by_rule=True)
    if ends.any():
        raise Refusal("a lead at 0 at an end", f"lead {LEADS[ends.any(axis=0).argmax()]} begins or ends at 0", by_rule=True)
    return Recording(RATE_HZ, np.ascontiguousarray(tracing.T))
