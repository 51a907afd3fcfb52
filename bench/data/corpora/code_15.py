"""CODE-15% (Ribeiro et al. 2021, Zenodo 4916206; Ribeiro et al. 2020, Nat Commun 11:1760).

Amplitudes are nominal. The record states no unit; its authors' code says both 1e-4 V and 1000 times volts, which differ
by ten; a comparison with other corpora fits neither, but 0.5 mV. The values are taken as published and called mV, as the
PhysioNet Challenge 2025 does; a store's statistics make the factor immaterial. A store's step of 0.004 holds 131; its
rounding, of sd 0.0012, is a third of a percent of the smallest lead's sd after the high-pass, 0.37.

Exams that last less than 10.24 s are padded with zeros at both ends. The paper used those of which every lead is other
than zero in its first and its last sample: 128,033 of 345,779. So is it here.
"""

import functools
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import Corpus, Recording, Refused, Source, Zenodo, published_table, whole_numbers
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


def open_source(folder: Path, rate_hz: int | None) -> Source:
    """The exams that exams.csv lists, in the order of the HDF5 files' rows."""
    path = folder / "exams.csv"
    table = published_table(path, ("exam_id", "patient_id", "trace_file", *LABELS), "CODE-15%")
    exam = whole_numbers(table.exam_id, path)
    if exam.duplicated().any():
        raise UserError(f"{path}: exam_id {exam[exam.duplicated()].iloc[0]} occurs twice")
    strange = ~table.trace_file.str.fullmatch(r"\w[\w-]*\.(?:hdf5|h5)", flags=re.ASCII)
    if strange.any():
        raise UserError(f"{path}: trace_file {table.trace_file[strange].iloc[0][:80]!r} is not an HDF5 file's name")
    positive = {label: table[label].str.casefold().map(FLAGS) for label in LABELS}
    for label, flags in positive.items():
        if flags.isna().any():
            raise UserError(f"{path}: {label} {table[label][flags.isna()].iloc[0][:80]!r} is neither True nor False")
    files, rows = {}, []
    for name in sorted(set(table.trace_file), key=lambda name: (len(name), name)):  # part2 before part11
        if not (folder / name).is_file():  # reading its exams says so
            continue
        ids, files[name] = open_part(folder / name)
        rows.append(pd.DataFrame({"exam": ids, "file": name, "row": range(len(ids))})[ids != 0])  # 0 fills a part up
    if not rows:
        raise UserError(f"{folder} holds none of the HDF5 files that exams.csv lists; download and unpack them")
    there = pd.concat(rows, ignore_index=True)
    if there.exam.duplicated().any():
        raise UserError(f"{folder}: exam_id {there.exam[there.exam.duplicated()].iloc[0]} occurs twice in the HDF5 files")
    listed = pd.DataFrame({
        "exam": exam, "file": table.trace_file, "record_id": exam.astype(str),
        "patient_id": whole_numbers(table.patient_id, path).astype(str), "fold": 0,
        "abnormalities": [";".join(label for label, here in zip(LABELS, flags, strict=True) if here)
                          for flags in zip(*positive.values(), strict=True)]})
    records = there.merge(listed, how="right", on=["exam", "file"]).fillna({"row": -1}).astype({"row": int})
    order = records.assign(length=records.file.str.len()).sort_values(["length", "file", "row", "exam"]).index
    return Source(
        name=CORPUS.name, version=CORPUS.version, rate_hz=RATE_HZ, units=CORPUS.units, scale=CORPUS.scale,
        records=records.loc[order].drop(columns="exam").reset_index(drop=True),
        tasks={"abnormalities": list(LABELS)}, read=functools.partial(read_record, files),
        highpass_hz=CORPUS.highpass_hz, origin=" ".join(str((folder / name).stat().st_size) for name in files))


def open_part(path: Path) -> tuple[np.ndarray, h5py.Dataset]:
    """exam_id and tracings of an HDF5 file; the file stays open as long as its tracings are in use."""
    try:
        file = h5py.File(path, "r")
        ids, tracings = own(file, "exam_id"), own(file, "tracings")
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or tracings.dtype.kind != "f" \
                or tracings.shape != (len(ids), SAMPLES, len(LEADS)):
            raise UserError(f"{path} holds exam_id {ids.shape} {ids.dtype}, tracings {tracings.shape} {tracings.dtype}; "
                            f"(n,) integers and (n, {SAMPLES}, {len(LEADS)}) floats are needed")
        return ids[:].astype(np.int64), tracings
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is damaged, truncated, or no HDF5 file ({str(error)[:120]})") from None


def own(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set that lies in the file itself: HDF5 has links and virtual data that may lead anywhere."""
    data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise UserError(f"{file.filename} holds no data set {name!r} of its own")
    return data


def read_record(files: dict[str, h5py.Dataset], row: Any) -> Recording:
    """One exam; h5py lets one thread read at a time."""
    if row.file not in files:
        raise Refused("missing file", f"{row.file} is not there, exams.csv lists it; download and unpack it")
    if row.row < 0:
        raise Refused("missing exam", f"{row.file} does not hold it, exams.csv says so")
    try:
        tracing = files[row.file][row.row]
    except (OSError, RuntimeError) as error:
        raise Refused("damaged", f"row {row.row} of {row.file} cannot be read ({str(error)[:120]})") from None
    ends = tracing[[0, -1]] == 0
    if ends.all(axis=1).any():
        lasts = np.flatnonzero(tracing.any(axis=1))
        seconds = (lasts[-1] - lasts[0] + 1) / RATE_HZ if len(lasts) else 0
        raise Refused("shorter than 10.24 s", f"lasts {seconds:g} s, zeros fill it up", by_rule=True)
    if ends.any():
        raise Refused("a lead at 0 at an end", f"lead {LEADS[ends.any(axis=0).argmax()]} begins or ends at 0", by_rule=True)
    return Recording(RATE_HZ, np.ascontiguousarray(tracing.T))
