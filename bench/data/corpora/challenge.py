"""What the corpora of the PhysioNet/CinC Challenge 2021 share (Reyna et al. 2021; doi 10.13026/34va-7q14).

A record is two files, NAME.hea and NAME.mat, in the folder of its corpus or in its parts g1, g2, ... The header's line `#Dx:`
holds the diagnoses as SNOMED CT codes. snomed.csv has the names of the Challenge's 133 codes (dx_mapping_scored.csv and
dx_mapping_unscored.csv of github.com/physionetchallenges/evaluation-2021); other codes have no name here.
"""

import collections
import functools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from bench.core.errors import UserError
from bench.data.corpora import Corpus, CorpusFolder, PhysioNet, Recording, Refusal
from bench.data.ingest import wfdb_file

VERSION = "1.0.3"
PREFIXES = {"A": "cpsc", "Q": "cpsc-extra", "E": "georgia", "S": "ptb", "I": "st-petersburg", "HR": "ptb-xl"}
LAST_CHAPMAN = 10646  # JS00001 to JS10646 belong to Chapman-Shaoxing, later numbers to Ningbo
SHORTEST, SHORT = 10.0, "shorter than 10 s"
DX = re.compile(rb"^#[ \t]*Dx[ \t]*:([^\r\n]*)", re.MULTILINE)
CODE = re.compile(r"[\w./ -]{1,40}", re.ASCII)
LONGEST_HEADER = 1 << 16  # bytes that are searched for #Dx
READERS = 16  # threads that read headers: a network file system answers each only after a while

PTB_XL = "of PTB-XL"
PROBLEMS = {
    PTB_XL: "HRnnnnn is the record of PTB-XL with ecg_id nnnnn; prepare it as ptb-xl",
    "of another corpus": "its name belongs to another corpus",
    "not in RECORDS": "the file RECORDS beside it does not list it",
    "missing part": "the file RECORDS lists this folder of records, but it does not exist: is the download complete?",
    "damaged labels": "its header has more than one line #Dx, or codes that cannot be read",
}


def describe(name: str, folder: str, title: str, citation: str, *, records: int, seconds: int, size_gb: float,
             rate_hz: int = 500, dropped: str = "", highpass_hz: float = 0.0) -> Corpus:
    """The Corpus of one collection of the Challenge; size_gb is computed from the number of its samples."""
    return Corpus(
        name, title, VERSION, "CC BY 4.0",
        f"{citation}; Reyna et al. 2021, Comput Cardiol 48 (doi 10.23919/CinC53138.2021.9662687)",
        "https://doi.org/10.13026/34va-7q14", f"training/{folder}/g*/*.hea + .mat: WFDB format 16", (rate_hz,),
        records=records, seconds=seconds, dropped=dropped, highpass_hz=highpass_hz, labels="snomed",
        download=PhysioNet("challenge-2021", VERSION, f"training/{folder}", size_gb))


def open_folder(corpus: Corpus, folder: Path, rate_hz: int | None, *, min_seconds: float = 0.0,
                chunk: int = 32) -> CorpusFolder:
    """Open the corpus. folder: the corpus's own folder, or the root of the Challenge. Records are sorted by name."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    under = Path(_published_folder(corpus))
    folder = next((d for d in (folder / under, folder / under.name) if d.is_dir()), folder)
    records = list_records(corpus, folder)
    with ThreadPoolExecutor(READERS) as pool:
        labels = list(pool.map(read_diagnoses, (folder / f"{file}.hea" for file in records.file)))
    records["snomed"] = [text or "" for text in labels]
    records["problem"] = [problem or ("damaged labels" if text is None else "")
                          for problem, text in zip(records.problem, labels, strict=True)]
    classes = sorted({code for text in set(records.snomed) for code in text.split(";") if code})
    return CorpusFolder(
        name=corpus.name, version=corpus.version, rate_hz=corpus.rate_hz[0], units=corpus.units, scale=corpus.scale,
        records=records, tasks={"snomed": classes} if classes else {}, read=functools.partial(read_record, folder),
        min_seconds=min_seconds, highpass_hz=corpus.highpass_hz, chunk=chunk)


def list_records(corpus: Corpus, folder: Path) -> pd.DataFrame:
    """A table with a row for every record in the folder or in a file RECORDS; column `problem`: why it cannot be used, or ""."""
    parts = sorted(["", *(f"{d.name}/" for d in folder.iterdir() if re.fullmatch(r"g\d+", d.name) and d.is_dir())])
    present = {part + path.stem for part in parts for path in (folder / part).glob("*.hea")}  # below folder, no suffix
    if corpus.name not in {find_corpus(PurePosixPath(file).name) for file in present}:
        raise _wrong_folder(corpus, folder, sorted(PurePosixPath(file).name for file in present))
    listed = {part + line for part in parts for line in read_list(folder / part / "RECORDS")}
    complete = {str(PurePosixPath(file).parent) for file in listed}  # the parts whose records RECORDS lists
    name_of = {file: PurePosixPath(file).name + "/" * file.endswith("/") for file in present | listed}
    repeated = [name for name, times in collections.Counter(name_of.values()).items() if times > 1]
    if repeated:
        raise UserError(f"{folder} holds {min(repeated)} twice, in two of its parts g1, g2, ...; remove one")

    def problem(file: str) -> str:
        if file.endswith("/"):
            return "missing part"
        owner = find_corpus(name_of[file])
        if owner != corpus.name:
            return PTB_XL if owner == "ptb-xl" else "of another corpus"
        unlisted = file not in listed and str(PurePosixPath(file).parent) in complete
        return "not in RECORDS" if unlisted else ""

    files = sorted(name_of, key=name_of.__getitem__)
    return pd.DataFrame({"record_id": [name_of[f] for f in files], "patient_id": "", "fold": 0, "file": files,
                         "problem": [problem(f) for f in files]})


def _published_folder(corpus: Corpus) -> str:
    """The folder of the corpus inside the Challenge."""
    return corpus.download.under if isinstance(corpus.download, PhysioNet) else ""


def read_list(path: Path) -> list[str]:
    """The records that a file RECORDS lists, and those of its folders that do not exist; [] if there is no such file."""
    if not path.is_file():
        return []
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: it is not text") from None
    for line in lines:
        if not re.fullmatch(r"g\d+/|(g\d+/)?\w{1,40}", line, re.ASCII):
            raise UserError(f"{path} is damaged: {line[:80]!r} is not a record's name")
    return [line for line in lines if not line.endswith("/") or not (path.parent / line).is_dir()]


def find_corpus(name: str) -> str:
    """The corpus to which a record belongs by its name, or "". JS10647 -> ningbo."""
    match = re.fullmatch(r"([A-Z]{1,2})(\d{1,6})", name, re.ASCII)
    if match and match[1] == "JS":
        return "chapman-shaoxing" if int(match[2]) <= LAST_CHAPMAN else "ningbo"
    return PREFIXES.get(match[1], "") if match else ""


def _wrong_folder(corpus: Corpus, folder: Path, names: list[str]) -> UserError:
    """The error for a folder that does not hold the corpus; names: the records that it holds."""
    if not names:
        return UserError(f"{folder} holds no record of {corpus.name}: no .hea file lies in it or in its parts g1, g2, ..., "
                         f"and it has no folder {_published_folder(corpus)}")
    seems, _ = collections.Counter(map(find_corpus, names)).most_common(1)[0]
    example = next(name for name in names if find_corpus(name) == seems)
    if seems == "ptb-xl":
        return UserError(f"{folder} is PTB-XL's part of the Challenge ({example}, ...): HRnnnnn is the record with ecg_id "
                         f"nnnnn of PTB-XL, which has folds and patients; download that and prepare ptb-xl")
    return UserError(f"{folder} does not hold {corpus.name}: its records ({example}, ...) seem to be "
                     + (f"{seems}'s; write {seems}, or give another folder" if seems else "of no corpus of the Challenge"))


def read_diagnoses(path: Path) -> str | None:
    """The codes after #Dx in a header, sorted and joined by ";" ("": no code); None if they cannot be read."""
    try:
        with path.open("rb") as f:
            lines = DX.findall(f.read(LONGEST_HEADER))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""  # reading the record raises the Refusal
    codes = {code.strip() for line in lines for code in line.decode("ascii", "replace").split(",")} - {"", "Unknown"}
    return ";".join(sorted(codes)) if len(lines) <= 1 and all(CODE.fullmatch(code) for code in codes) else None


def read_record(folder: Path, row: Any) -> Recording:
    """The recording of one record; Refusal if its row has a problem or its files cannot be read."""
    if row.problem:
        raise Refusal(row.problem, PROBLEMS[row.problem], by_rule=row.problem == PTB_XL)
    return wfdb_file.read(f"{folder}/{row.file}.hea")


@functools.cache
def snomed_names() -> dict[str, str]:
    """SNOMED CT code -> its name in the Challenge."""
    table = pd.read_csv(Path(__file__).with_name("snomed.csv"), dtype=str, keep_default_na=False)
    return dict(zip(table["code"], table["name"], strict=True))
