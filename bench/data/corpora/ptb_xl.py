"""PTB-XL as PhysioNet publishes it (Wagner et al. 2020, Sci Data 7:154; doi 10.13026/kfzx-aw45)."""

import functools
import re
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import TRAINING_FOLDS, Corpus, CorpusFolder, PhysioNet, Recording, Refusal
from bench.data.corpora.tables import parse_numbers, parse_whole_numbers, read_published_table, require_unique
from bench.data.ingest import wfdb_file

CORPUS = Corpus(
    name="ptb-xl",
    title="PTB-XL, a large publicly available electrocardiography dataset",
    version="1.0.3",
    licence="CC BY 4.0",
    citation="Wagner P, Strodthoff N, Bousseljot R-D, Kreiseler D, Lunze FI, Samek W, Schaeffter T. PTB-XL, a large "
             "publicly available electrocardiography dataset. Sci Data 7, 154 (2020)",
    url="https://doi.org/10.13026/kfzx-aw45",
    layout="ptbxl_database.csv, scp_statements.csv, WFDB in records100/ and records500/",
    rate_hz=(100, 500),
    records=17_439,  # of folds 1-8
    seconds=174_390,
    labels="all, diagnostic, subdiagnostic, superdiagnostic, form, rhythm; age (regression)",
    patients="patient_id of ptbxl_database.csv; no patient is in two folds",
    # Unpacked: 21,799 records x 144,000 bytes of samples, the headers, the tables: 2.96 GiB, published as 3.0 GB.
    download=PhysioNet("ptb-xl", "1.0.3", size_gb=3.0),
)

SECONDS = 10
FILES = {100: ("filename_lr", "lr"), 500: ("filename_hr", "hr")}  # rate in Hz -> column, end of the names
FOLDS = range(1, 11)
VERSIONS = {21837: "1.0.1", 21799: "1.0.3"}  # by number of records
CSV_SHA256 = {"cd9bf4e6445c5e022605857c4d6f90c90ff0e62df847da52efaebe94de786156": "1.0.1"}
OLDEST = 89  # years; the ages of older patients are not used
COLUMNS = ("ecg_id", "patient_id", "age", "scp_codes", "strat_fold", "filename_lr", "filename_hr")
SCP_COLUMNS = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
NAME = re.compile(r"[^\s;'\\]+")  # labels are joined by ";"
CODES = re.compile(r"\{(?:'[^'\\]+': *\d+(?:\.\d*)?(?:, *|(?=\})))*\}", re.ASCII)  # {'NORM': 100.0, 'SR': 0.0}


def open_folder(folder: Path, rate_hz: int | None) -> CorpusFolder:
    """Open the records of the csv. If rate_hz is 100, their files of 100 Hz are used, otherwise those of 500 Hz."""
    rate_hz = 100 if rate_hz == 100 else 500
    path = folder / "ptbxl_database.csv"
    table = read_published_table(path, COLUMNS, "PTB-XL")
    for column in ("ecg_id", "patient_id", "strat_fold"):
        table[column] = parse_whole_numbers(table[column], path)
    require_unique(table.ecg_id, path)
    strange = table.strat_fold[~table.strat_fold.isin(FOLDS)]
    if len(strange):
        raise UserError(f"{path}: strat_fold {strange.iloc[0]} in row {strange.index[0] + 1} is not one of 1 to 10")
    classes, labels = label_tasks(table, folder)
    records = pd.DataFrame({
        "record_id": table.ecg_id.astype(str),
        "patient_id": table.patient_id.astype(str),
        "fold": table.strat_fold,
        "file": table[FILES[rate_hz][0]],
        **labels,
        "age": parse_ages(table.age, path),
    })
    return CorpusFolder(
        name=CORPUS.name, version=detect_version(folder, len(table)), rate_hz=rate_hz, units=CORPUS.units, scale=CORPUS.scale,
        records=records, tasks=classes | {"age": ["years"]}, kinds={"age": "regression"},
        read=functools.partial(read_record, folder, rate_hz), stats_folds=TRAINING_FOLDS)


def parse_ages(column: pd.Series, path: Path) -> pd.Series:
    """Ages in years as texts; "" if the age is not known or is above 89.

    Since version 1.0.2, the csv has 300 instead of an age above 89, because HIPAA demands it; 1.0.1 has the true ages of these
    patients. They are left out of both versions, so that the target is the same.
    """
    age = parse_numbers(column, path)
    return age.mask(pd.to_numeric(age) > OLDEST, "")


def detect_version(folder: Path, rows: int) -> str:
    """The version of PTB-XL that the csv belongs to; UserError if the list of checksums belongs to another version."""
    by_rows, by_sums = VERSIONS.get(rows), None
    for sums in (folder / "SHA256SUMS.txt", folder / ".download" / "listing"):
        for line in sums.read_text(errors="replace").splitlines() if sums.is_file() else ():
            digest, _, name = line.partition(" ")
            if name.strip() == "ptbxl_database.csv":
                by_sums = CSV_SHA256.get(digest, "another version")
    if by_rows and by_sums and (by_rows == "1.0.1") != (by_sums == "1.0.1"):
        raise UserError(f"{folder} mixes versions: ptbxl_database.csv has the {rows:,} rows of {by_rows}, "
                        f"SHA256SUMS.txt belongs to {by_sums}; download one version whole")
    return by_rows or f"{by_sums if by_sums == '1.0.1' else 'unknown'}, {rows:,} records of it"


def label_tasks(table: pd.DataFrame, folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Task -> classes, and task -> one ';'-joined text per record.

    A likelihood of 0 counts as present (published benchmark, Strodthoff et al. 2021, doi 10.1109/JBHI.2020.3022989).
    """
    path = folder / "scp_statements.csv"
    statements = read_published_table(path, SCP_COLUMNS, "PTB-XL")
    statements = statements.set_index(statements.columns[0])  # it has no name
    twice = statements.index[statements.index.duplicated()]
    if len(twice):
        raise UserError(f"{path}: statement {twice[0]!r:.80} occurs twice")
    flagged = {}
    for kind in ("diagnostic", "form", "rhythm"):
        wrong = statements[kind][~statements[kind].isin(("", "1", "1.0"))]
        if len(wrong):
            raise UserError(f"{path}: {kind} {wrong.iloc[0]!r:.80} of {wrong.index[0]!r:.80} is not 1.0 or empty")
        flagged[kind] = statements[statements[kind] != ""]
    diagnostic = flagged["diagnostic"]
    mapping: dict[str, dict[str, str]] = {
        "all": {c: c for c in statements.index},
        "diagnostic": {c: c for c in diagnostic.index},
        "subdiagnostic": {c: name for c, name in zip(diagnostic.index, diagnostic.diagnostic_subclass, strict=True) if name},
        "superdiagnostic": {c: name for c, name in zip(diagnostic.index, diagnostic.diagnostic_class, strict=True) if name},
        "form": {c: c for c in flagged["form"].index},
        "rhythm": {c: c for c in flagged["rhythm"].index},
    }
    for name in {name for of in mapping.values() for item in of.items() for name in item}:
        if not NAME.fullmatch(name):
            raise UserError(f"{path}: {name!r:.80} is not the name of a statement or class")
    codes = []
    for row, text in enumerate(table.scp_codes, 1):
        if not CODES.fullmatch(text):
            raise UserError(f"{folder / 'ptbxl_database.csv'}: a value of scp_codes is not a {{code: likelihood}} text: "
                            f"{text!r:.80} in row {row}")
        codes.append(set(re.findall(r"'([^']+)'", text)))
    unknown = sorted(set().union(*codes) - set(statements.index))
    if unknown:
        raise UserError(f"{folder / 'ptbxl_database.csv'} has the statement {unknown[0]!r:.80}, {path.name} has not")
    labels = {task: [";".join(sorted({of[c] for c in row if c in of})) for row in codes]
              for task, of in mapping.items()}
    classes = {task: sorted(set(of.values())) for task, of in mapping.items()}
    return classes, labels


def read_record(folder: Path, rate_hz: int, row: Any) -> Recording:
    """The recording of one record, 10 s, leads in the order of LEADS; Refusal if its files are not as PTB-XL publishes them."""
    number = int(row.record_id)
    name = f"records{rate_hz}/{number // 1000 * 1000:05d}/{number:05d}_{FILES[rate_hz][1]}"
    if row.file != name:  # never another record's samples, nor a file elsewhere
        raise Refusal("other file name", f"ptbxl_database.csv names its file {row.file!r:.80}; PTB-XL's is {name!r}")
    path = f"{folder}/{name}.hea"
    recording = wfdb_file.read(path)
    if recording.rate_hz != rate_hz:
        raise Refusal("other rate", f"{path} says {recording.rate_hz} Hz, not {rate_hz} Hz")
    samples = recording.samples.shape[1]
    if samples != SECONDS * rate_hz:
        raise Refusal("other length", f"{path} holds {samples} samples, not {SECONDS * rate_hz}")
    return recording
