"""MIMIC-IV-ECG, Diagnostic Electrocardiogram Matched Subset (Gow et al. 2023; doi 10.13026/4nqg-sb35).

Its files have aVF before aVL, so the reader orders the leads by their names. The paper used every record.
"""

import functools
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import Corpus, CorpusFolder, PhysioNet, Recording, Refusal
from bench.data.corpora.tables import parse_whole_numbers, read_published_table, require_unique
from bench.data.ingest import wfdb_file

CORPUS = Corpus(
    "mimic-iv-ecg", "MIMIC-IV-ECG", "1.0", "ODbL 1.0",
    "Gow et al. 2023, PhysioNet (doi 10.13026/4nqg-sb35)", "https://doi.org/10.13026/4nqg-sb35",
    "record_list.csv, files/p*/p*/s*/*.hea + .dat: WFDB format 16", (500,),
    leads=("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"),
    scale=0.005,  # the files' own step: 200 per mV
    records=800_035, seconds=8_000_350, labels="none", patients="subject_id",
    download=PhysioNet("mimic-iv-ecg", "1.0", size_gb=90.4))

PATH = r"[\w-]+(?:/[\w-]+)*"  # no dot, so no path leaves the folder


def open_folder(folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the records that record_list.csv lists; no other file is read. They have 500 Hz; rate_hz is ignored."""
    path = folder / "record_list.csv"
    table = read_published_table(path, ("subject_id", "study_id", "path"), "MIMIC-IV-ECG")
    strange = ~table.path.str.fullmatch(PATH)
    if strange.any():
        row = int(strange.to_numpy().argmax())
        raise UserError(f"{path}: path {table.path.iloc[row][:80]!r} in row {row + 1} is not one of files/p.../p.../s.../...")
    records = pd.DataFrame({
        "record_id": parse_whole_numbers(table.study_id, path).astype(str),
        "patient_id": parse_whole_numbers(table.subject_id, path).astype(str),
        "fold": 0,
        "path": table.path,
    })
    require_unique(records.record_id.rename("study_id"), path)
    return CorpusFolder(
        name=CORPUS.name, version=CORPUS.version, rate_hz=500, units=CORPUS.units, scale=CORPUS.scale, records=records,
        tasks={}, read=functools.partial(read_record, folder))


def read_record(folder: Path, row: Any) -> Recording:
    """The recording of one record; Refusal if record_list.csv names a file of another record, or the file cannot be read."""
    name = f"p{row.patient_id}/s{row.record_id}/{row.record_id}"
    if not row.path.endswith(f"/{name}"):  # never another record's samples
        raise Refusal("other file name", f"record_list.csv names its file {row.path!r:.80}; MIMIC-IV-ECG's ends in {name!r}")
    return wfdb_file.read(f"{folder}/{row.path}.hea")
