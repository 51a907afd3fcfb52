"""Use a backbone on new records: embeddings, means of any function over the crops of a record, similarity of two backbones."""

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from bench.backbones.backbone import Backbone
from bench.core.errors import UserError
from bench.core.files import replace_file
from bench.data.corpora import CorpusFolder, Recording, Refusal
from bench.data.ingest.convert import convert_all
from bench.data.ingest.records import ANY_RATE
from bench.evaluation.diagnostics import cka
from bench.evaluation.protocols import load_defaults
from bench.runs.config import HeadConfig
from bench.runs.results import check_writable

BATCH = 256  # crops that are encoded at a time
RESAMPLING = "fourier"

Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Reading:
    """How records are read: on which device the backbone runs, whether other rates are converted, and by how many processes."""

    device: torch.device
    resample: bool = False
    workers: int = 2
    progress: Progress = lambda done, text: None


@dataclass(frozen=True)
class Outputs:
    """What a backbone or a classifier computed for each record, and which records were refused."""

    record_id: list[str]  # of the n records that could be used
    values: np.ndarray  # (n, K): K features, or classes
    crops: np.ndarray  # (n,) number of crops that a value is the mean of
    refused: dict[str, str]  # record_id -> why
    about: dict[str, Any]  # settings and counts: the metadata of the file that is written


@dataclass
class _Averages:
    """Sums of a function's values over the crops of each record. Crops of several records share a batch."""

    function: Callable[[Tensor], Tensor]
    device: torch.device
    record_id: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    def add(self, record_id: str, signal: np.ndarray, samples: int, stride: int) -> None:
        """Add the crops of a record, (12, T) float."""
        starts = range(0, signal.shape[1] - samples + 1, stride)
        for start in starts:
            self.crops.append(signal[:, start: start + samples].astype(np.float32))
            self.owners.append(len(self.record_id))
            if len(self.crops) == BATCH:
                self.compute()
        self.record_id.append(record_id)
        self.counts.append(len(starts))

    def compute(self) -> None:
        """Compute the function for the crops that wait."""
        if not self.crops:
            return
        with torch.no_grad():
            values = self.function(torch.from_numpy(np.stack(self.crops)).to(self.device)).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError("the backbone computed values that are not finite")
        for owner, value in zip(self.owners, values, strict=True):
            if owner == len(self.sums):
                self.sums.append(np.zeros(values.shape[1]))
            self.sums[owner] += value
        self.crops.clear()
        self.owners.clear()

    def means(self) -> np.ndarray:
        """(n, K): the mean of each record."""
        means: np.ndarray = np.stack(self.sums) / np.array(self.counts)[:, None]
        return means


def average_over_crops(function: Callable[[Tensor], Tensor], source: CorpusFolder, backbone: Backbone, settings: HeadConfig,
                       reading: Reading) -> Outputs:
    """The mean of function, (B, 12, T) in the backbone's units -> (B, K), over the crops of every record.

    Crops start at every stride, as in an evaluation with these settings. Records are read as `ecgssl data prepare` reads
    them: gaps are filled, and other rates are converted if `reading` allows it. UserError if the units or the rate of the
    records are not those of the backbone, or if no record can be used.
    """
    rate_hz, crop_seconds, stride_seconds = backbone.rate_hz, settings.crop_seconds, settings.stride_seconds
    check_form(source, backbone, crop_seconds, reading.resample)
    samples, stride = round(crop_seconds * rate_hz), round(stride_seconds * rate_hz)

    def read(row: Any) -> Recording:
        recording = source.read(row)
        if recording.rate_hz != rate_hz and not reading.resample:
            raise Refusal("other rate", f"has {recording.rate_hz} Hz, the backbone takes {rate_hz}; --resample converts it")
        return recording

    averages, refused = _Averages(function, reading.device), dict[str, str]()
    resampled = gaps_filled = 0
    rows = convert_all(replace(source, read=read), rate_hz, RESAMPLING, workers=reading.workers)
    for done, (row, outcome) in enumerate(rows, 1):
        signal = outcome.signal
        if signal is None:
            refused[row.record_id] = str(outcome.refusal)
        elif signal.shape[1] < samples:
            refused[row.record_id] = f"lasts {signal.shape[1] / rate_hz:g} s, shorter than a crop of {crop_seconds:g} s"
        else:
            averages.add(row.record_id, signal * source.scale, samples, stride)
            resampled += outcome.resampled
            gaps_filled += bool(outcome.gaps)
        reading.progress(done, f"{len(refused):,} refused" if refused else "")
    averages.compute()
    if not averages.record_id:
        record_id, why = next(iter(refused.items()), ("its table", "is empty"))
        raise UserError(f"none of the {len(refused):,} records of {source.name} can be used; {record_id}: {why}")
    about = {"from": source.name, "rate_hz": rate_hz, "units": source.units, "crop_seconds": crop_seconds,
             "stride_seconds": stride_seconds, "resampled": resampled, "resampling": RESAMPLING if resampled else "",
             "gaps_filled": gaps_filled, "refused": refused}
    return Outputs(averages.record_id, averages.means(), np.array(averages.counts), refused, about)


def check_form(source: CorpusFolder, backbone: Backbone, crop_seconds: float, resample: bool) -> None:
    """UserError if the backbone cannot take the units or the rate of the records, or crops of this length."""
    rate_hz, patch = backbone.rate_hz, backbone.encoder.patch
    if source.units != backbone.units:
        raise UserError(f"{source.name} is in {source.units}, the backbone takes {backbone.units}: it cannot be converted")
    if source.rate_hz not in (rate_hz, ANY_RATE) and not resample:
        raise UserError(f"{source.name} has {source.rate_hz} Hz, the backbone takes {rate_hz} Hz; --resample converts it")
    if round(crop_seconds * rate_hz) % patch:
        raise UserError(f"crops of {crop_seconds:g} s at {rate_hz} Hz do not divide into the backbone's patches of "
                        f"{patch} samples")


def embed_records(backbone: Backbone, source: CorpusFolder, reading: Reading) -> Outputs:
    """(n, D) embeddings: the mean of the tokens, without registers, over the crops that an evaluation would use."""
    assert backbone.config is not None
    settings = HeadConfig.model_validate(load_defaults("linear").value["evaluation"])
    outputs = average_over_crops(backbone.to(reading.device).embed, source, backbone, settings, reading)
    about = {key: getattr(backbone.config, key) for key in ("run_id", "method", "statistics")}
    return replace(outputs, about={"backbone": about, "embedding": "mean of tokens, mean over crops", **outputs.about})


def check_out(out: Path, endings: tuple[str, ...]) -> None:
    """UserError if the file cannot be written or has another ending. To be called before hours of work."""
    if out.suffix not in endings:
        raise UserError(f"--out {out} must end in {' or '.join(endings)}")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file")
    check_writable(out.parent)


def write_embeddings(out: Path, outputs: Outputs) -> None:
    """Write embeddings into a file, whose kind is its ending.

    .npz holds record_id (n,), embedding (n, D) float32, crops (n,) and metadata (JSON). .parquet has the columns record_id,
    crops, e0, e1, ..., and the metadata under the key `ecgssl` of its schema.
    """
    values, text = outputs.values.astype(np.float32), json.dumps(outputs.about, sort_keys=True)
    ids, crops = outputs.record_id, outputs.crops
    with replace_file(out) as file:
        if out.suffix == ".parquet":
            columns = {"record_id": ids, "crops": crops, **{f"e{i}": v for i, v in enumerate(values.T)}}
            table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
            pyarrow.parquet.write_table(table.replace_schema_metadata({"ecgssl": text}), file)
        else:
            np.savez(file, record_id=np.array(ids), embedding=values, crops=crops, metadata=np.array(text))


def read_embeddings(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n,) record ids and (n, D) embeddings of an .npz file of write_embeddings; UserError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            ids, values = content["record_id"], content["embedding"]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} does not exist, or is no file; `ecgssl embed --out {path.name}` writes one") from None
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no .npz file of `ecgssl embed` ({type(error).__name__})") from None
    if values.ndim != 2 or len(ids) != len(values) or values.dtype.kind != "f" or len(set(ids.tolist())) != len(ids):
        raise UserError(f"{path} is no .npz file of `ecgssl embed`: it lacks an embedding for each of its records")
    return ids, values


def compare_embeddings(first: Path, second: Path) -> tuple[float, int]:
    """(debiased linear CKA of two files of embeddings, number of records in both). UserError if these are too few."""
    (a, x), (b, y) = read_embeddings(first), read_embeddings(second)
    shared, i, j = np.intersect1d(a, b, return_indices=True)
    return cka(torch.from_numpy(x[i]), torch.from_numpy(y[j])), len(shared)
