"""Lobachevsky University Electrocardiography Database (Kalyakulina et al. 2020; doi 10.13026/eegm-h675).

The integers in its files are microvolts: read as such, they obey Einthoven's law exactly and have the amplitudes of other
corpora. The gains and baselines in its headers differ from lead to lead and give wrong millivolts, so they are not used.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.corpora import Corpus, CorpusFolder, PhysioNet, Recording, Refusal
from bench.data.corpora.tables import parse_whole_numbers, read_published_table, require_unique
from bench.data.ingest import wfdb_file
from bench.data.signal import LEADS

CORPUS = Corpus(
    "ludb", "Lobachevsky University Electrocardiography Database", "1.0.1", "ODC-By 1.0",
    "Kalyakulina et al. 2020, IEEE Access 8:186181 (doi 10.1109/ACCESS.2020.3029211)",
    "https://doi.org/10.13026/eegm-h675", "ludb.csv, data/*.hea + .dat: WFDB format 16, in microvolts", (500,),
    labels="rhythm", patients="ID (one record each)", download=PhysioNet("ludb", "1.0.1", size_gb=0.03))


def open_folder(folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the records that ludb.csv lists. They have 500 Hz; rate_hz is ignored."""
    path = folder / "ludb.csv"
    table = read_published_table(path, ("ID", "Rhythms"), "LUDB")
    ids = parse_whole_numbers(table.ID, path).astype(str)
    require_unique(ids, path)
    records = pd.DataFrame({"record_id": ids, "patient_id": ids, "fold": 0, "rhythm": table.Rhythms.map(parse_rhythms)})
    classes = sorted({name for text in records.rhythm for name in text.split(";") if name})
    return CorpusFolder(
        name=CORPUS.name, version=CORPUS.version, rate_hz=500, units="mV", scale=CORPUS.scale, records=records,
        tasks={"rhythm": classes} if classes else {}, read=functools.partial(read_record, folder))


def parse_rhythms(text: str) -> str:
    """Lines of a cell -> names joined by ";": "Sinus  rhythm.\nAberrant conduction" -> "Aberrant conduction;Sinus rhythm"."""
    names = (" ".join(line.split()).rstrip(".") for line in text.replace(";", "\n").splitlines())
    return ";".join(sorted({name[:1].upper() + name[1:] for name in names} - {""}))


def read_record(folder: Path, row: Any) -> Recording:
    """The recording of one record, its integers read as microvolts; Refusal if they are not the published integers."""
    recording = wfdb_file.read(folder / "data" / f"{row.record_id}.hea")
    i, ii, iii = recording.samples[:3].astype(int)
    if np.abs(i + iii - ii).max(initial=0) > 1:
        raise Refusal("not microvolts", "I + III is not II in its integers, so they are not the published ones")
    return dataclasses.replace(recording, gain=np.full(len(LEADS), 1000.0), baseline=np.zeros(len(LEADS)))
