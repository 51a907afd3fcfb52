"""A small folder of every corpus, written from what is published about its layout, for the contract of the corpora."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import wfdb
from corpora import array_corpus, noise, wfdb_mv
from test_wfdb_file import challenge_record, write

from bench.data.corpora import challenge, code_15, known_corpora, mimic_iv_ecg
from bench.data.signal import LEADS
from bench.data.synthetic.ptbxl_layout import write_ptbxl


@dataclass(frozen=True)
class Example:
    """How the contract meets a corpus."""

    build: Callable[[Path], object]  # writes the corpus into a folder that does not exist
    samples_of: Callable[[Path, str], np.ndarray]  # (folder, record_id) -> (12, T) in units, by another reader
    table: str = ""  # its csv; "": none
    name: str = ""  # what the error for another folder calls it
    columns: Sequence[str] = ()  # of the csv, that are needed
    bad: Sequence[tuple[str, str, str]] = ()  # column, value in row 2, what the error says


def build_mimic(folder: Path) -> None:
    table = []
    for study, subject in ((40689238, 10000032), (44458630, 10000032), (49036311, 10000117)):
        path = f"files/p{subject // 10000}/p{subject}/s{study}/{study}"
        write((folder / path).parent, str(study), mimic_iv_ecg.CORPUS.leads, 5000, adc_gain=[200.0] * 12, baseline=[0] * 12)
        table.append((subject, study, study, "2180-07-23 08:44:00", path))
    pd.DataFrame(table, columns=["subject_id", "study_id", "file_name", "ecg_time", "path"]).to_csv(
        folder / "record_list.csv", index=False)


def build_ludb(folder: Path) -> None:
    """Integers in microvolts that obey Einthoven's law, under headers with other gains."""
    (folder / "data").mkdir(parents=True)
    for i in (1, 2, 3):
        signal = noise(5000, 12, seed=i)
        signal[:, 1] = signal[:, 0] + signal[:, 2]
        wfdb.wrsamp(str(i), 500, ["mV"] * 12, [lead.lower() for lead in LEADS], d_signal=signal.astype(int), fmt=["16"] * 12,
                    adc_gain=[700.0 + 100 * k for k in range(12)], baseline=list(range(12)),
                    write_dir=str(folder / "data"), comments=["<age>: 51", "<sex>: F", "<diagnoses>:"])
    pd.DataFrame({"ID": [1, 2, 3], "Sex": "F", "Rhythms": ["Sinus rhythm", "Sinus  rhythm.\nAberrant conduction", ""]}).to_csv(
        folder / "ludb.csv", index=False)


def code_15_part(folder: Path, number: int, ids: list[int], tracings: np.ndarray, **columns: object) -> None:
    """exams_part<number>.hdf5, and its rows in exams.csv but for exam_id 0."""
    folder.mkdir(exist_ok=True)
    name = f"exams_part{number}.hdf5"
    with h5py.File(folder / name, "w") as f:
        f["exam_id"], f["tracings"] = np.array(ids), tracings
    listed = [i for i in ids if i]
    table = pd.DataFrame({"exam_id": listed, "age": 50, "patient_id": [7 * i for i in listed], "trace_file": name,
                          **dict.fromkeys(code_15.LABELS, False), **columns})
    path = folder / "exams.csv"
    pd.concat([*([pd.read_csv(path)] if path.exists() else []), table]).to_csv(path, index=False)


def tracings(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, code_15.SAMPLES, 12)).astype(np.float32)


def build_code_15(folder: Path) -> None:
    """Four exams in two parts, and a row of padding."""
    padding = np.zeros((1, code_15.SAMPLES, 12), np.float32)
    code_15_part(folder, 11, [44, 22, 0], np.concatenate([tracings(2), padding]), AF=[True, False])
    code_15_part(folder, 2, [33, 11], tracings(2, 1), **{"1dAVb": [False, True], "AF": [False, True]})


def tracing_of(folder: Path, record_id: str) -> np.ndarray:
    for path in folder.glob("*.hdf5"):
        with h5py.File(path) as f:
            for i in np.flatnonzero(f["exam_id"][:] == int(record_id)):
                return f["tracings"][i].T.astype(float)
    raise KeyError(record_id)


def microvolts_of(folder: Path, record_id: str) -> np.ndarray:
    record = wfdb.rdrecord(str(folder / "data" / record_id), physical=False)
    names = [name.casefold() for name in record.sig_name]
    return record.d_signal.T[[names.index(lead.casefold()) for lead in LEADS]] / 1000


FIRST = {"chapman-shaoxing": "JS00001", "cpsc": "A0001", "cpsc-extra": "Q0001", "georgia": "E00001", "ningbo": "JS10647",
         "ptb": "S0001", "st-petersburg": "I0001"}  # a record of each corpus of the Challenge


def challenge_example(name: str) -> Example:
    first = FIRST[name]
    others = [first, first[:-1] + "8", first[:-1] + "9"]

    def build(folder: Path) -> None:
        for i, record in enumerate(others):
            rate_hz = known_corpora()[name].rate_hz[0]
            challenge_record(folder / f"g{i + 1}", record, "164889003,59118001", fs=rate_hz, length=10 * rate_hz)

    return Example(build, lambda folder, record: wfdb_mv(next(folder.rglob(f"{record}.hea"))))


def _ptb_xl_mv(folder: Path, record_id: str) -> np.ndarray:
    return wfdb_mv(folder / "records500" / "00000" / f"{int(record_id):05d}_hr")


EXAMPLES = {
    "array": Example(
        lambda folder: array_corpus(folder, noise(3, 12, 300), {
            "patient_id": ["p", "p", "q"], "fold": ["1", "2", "9"], "rhythm": ["SR", "AF;SR", ""]}, tasks=["rhythm"]),
        lambda folder, record: np.load(folder / "signals.npy")[int(record[1:])] * 0.001, "records.csv", "",
        ["record_id", "rhythm"], [
            ("record_id", "r0", "record_id r0 occurs twice"), ("record_id", "", "of row 2 is empty"),
            *[("fold", fold, f"fold must be 1 to 10, or 0 or empty for a record without a fold; record r1 has '{fold}")
              for fold in ("11", "x")]]),
    "code-15": Example(
        build_code_15, tracing_of, "exams.csv", "CODE-15%", ["exam_id", "patient_id", "trace_file", "SB"], [
            ("exam_id", "11", "exam_id 11 occurs twice"), ("exam_id", "", "exam_id '' in row 2"),
            ("patient_id", "", "patient_id '' in row 2"), ("AF", "maybe", "AF 'maybe' is neither True nor False"),
            ("trace_file", "../x.hdf5", "trace_file '../x.hdf5'")]),
    "ludb": Example(build_ludb, microvolts_of, "ludb.csv", "LUDB", ["ID", "Rhythms"], [
        ("ID", "1", "ID 1 occurs twice"), ("ID", "../1", "ID '../1' in row 2"), ("ID", "", "ID '' in row 2")]),
    "mimic-iv-ecg": Example(
        build_mimic, lambda folder, record: wfdb_mv(next(folder.rglob(f"{record}.hea"))), "record_list.csv", "MIMIC-IV-ECG",
        ["subject_id", "study_id", "path"], [
            ("path", "files/../../x", "path 'files/../../x' in row 2"), ("study_id", "x", "study_id 'x' in row 2"),
            ("study_id", "40689238", "study_id 40689238 occurs twice"), ("subject_id", "1e300", "subject_id '1e300' in row 2")]),
    "ptb-xl": Example(
        lambda folder: write_ptbxl(folder, records=24, seed=5), _ptb_xl_mv, "ptbxl_database.csv", "PTB-XL",
        ["ecg_id", "patient_id", "scp_codes", "strat_fold", "filename_hr"], [
            *[("scp_codes", text, "a value of scp_codes is not") for text in ("NORM", "(" * 5000)],
            ("scp_codes", "{'XYZ': 100.0}", "has the statement 'XYZ', scp_statements.csv has not"),
            ("strat_fold", "", "strat_fold '' in row 2"), ("strat_fold", "11", "strat_fold 11 in row 2 is not one of 1 to 10"),
            ("patient_id", "inf", "patient_id 'inf' in row 2"), ("ecg_id", "1", "ecg_id 1 occurs twice")]),
    **{name: challenge_example(name) for name in FIRST},
}
assert challenge.SHORTEST == 10  # seconds of the examples
