"""A trained backbone on new records: embeddings, and probabilities of an evaluation's classes."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backbones.exporting import Backbone
from bench.core.errors import UserError
from bench.core.files import read_json, replace_file, write_text
from bench.data.corpora import Recording, Refused, Source
from bench.data.ingest import prepare
from bench.data.ingest.records import ANY_RATE
from bench.data.signal import LEADS
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.evaluation import heads, tasks
from bench.evaluation import runner as evaluation
from bench.evaluation.diagnostics import cka
from bench.evaluation.protocols import load_defaults
from bench.runs import results as record
from bench.runs.config import EvaluationConfig, HeadConfig
from bench.runs.workspace import checkpoint_name, run_folder
from bench.training import checkpoint, optim

BATCH = 256  # crops that are encoded at a time; ours
RESAMPLING = "fourier"


@dataclass(frozen=True)
class Applied:
    """What became of each record."""

    record_id: list[str]  # of the n that could be used
    values: np.ndarray  # (n, K)
    crops: np.ndarray  # (n,) how many each is the mean of
    refused: dict[str, str]  # record_id -> why
    done: dict[str, Any]  # what was done to them, for the output's metadata


def over_crops(f: Callable[[Tensor], Tensor], source: Source, backbone: Backbone, settings: HeadConfig, *,
               device: torch.device, resample: bool, workers: int,
               progress: Callable[[int, str], None] = lambda done, text: None) -> Applied:
    """The mean of f over the crops of every record: (B, 12, T) in the backbone's units -> (B, K).

    Crops start at every stride, as an evaluation's do; settings are its. Records are read as `ecgssl data prepare`
    reads them: gaps filled, and resampled where asked. UserError where the records' units or rate are not the
    backbone's, or none can be used.
    """
    rate_hz, crop_seconds, stride_seconds = backbone.rate_hz, settings["crop_seconds"], settings["stride_seconds"]
    if source.units != backbone.units:
        raise UserError(f"{source.name} is in {source.units}, the backbone takes {backbone.units}: it cannot be converted")
    if source.rate_hz not in (rate_hz, ANY_RATE) and not resample:
        raise UserError(f"{source.name} has {source.rate_hz} Hz, the backbone takes {rate_hz} Hz; --resample converts it")
    samples, stride = round(crop_seconds * rate_hz), round(stride_seconds * rate_hz)
    if samples % backbone.encoder.patch:
        raise UserError(f"crops of {crop_seconds:g} s at {rate_hz} Hz do not divide into the backbone's patches of "
                        f"{backbone.encoder.patch} samples")

    def read(row: Any) -> Recording:
        recording = source.read(row)
        if recording.rate_hz != rate_hz and not resample:
            raise Refused("other rate", f"has {recording.rate_hz} Hz, the backbone takes {rate_hz}; --resample converts it")
        return recording

    ids: list[str] = []
    counts: list[int] = []
    sums = np.empty((0, 0))
    refused: dict[str, str] = {}
    resampled = gaps_filled = 0
    crops: list[np.ndarray] = []
    owners: list[int] = []

    def flush() -> None:
        nonlocal sums
        with torch.no_grad():
            values = f(torch.from_numpy(np.stack(crops)).to(device)).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError("the backbone gave values that are no finite numbers")
        sums = sums if sums.size else np.zeros((len(source.records), values.shape[1]))
        np.add.at(sums, owners, values)
        crops.clear()
        owners.clear()

    rows = prepare.each(replace(source, read=read), 0, rate_hz, RESAMPLING, workers)
    for done, (row, made) in enumerate(rows, 1):
        signal = made.signal
        if signal is None:
            refused[row.record_id] = str(made.refusal)
        elif signal.shape[1] < samples:
            refused[row.record_id] = f"lasts {signal.shape[1] / rate_hz:g} s, shorter than a crop of {crop_seconds:g} s"
        else:
            starts = range(0, signal.shape[1] - samples + 1, stride)
            for start in starts:
                crops.append((signal[:, start: start + samples] * source.scale).astype(np.float32))
                owners.append(len(ids))
                if len(crops) == BATCH:
                    flush()
            ids.append(row.record_id)
            counts.append(len(starts))
            resampled += made.resampled
            gaps_filled += bool(made.gaps)
        progress(done, f"{len(refused):,} refused" if refused else "")
    if crops:
        flush()
    if not ids:
        record_id, why = next(iter(refused.items()), ("its table", "is empty"))
        raise UserError(f"none of the {len(refused):,} records of {source.name} can be used; {record_id}: {why}")
    done_to_them = {"from": source.name, "rate_hz": rate_hz, "units": source.units, "crop_seconds": crop_seconds,
                    "stride_seconds": stride_seconds, "resampled": resampled, "resampling": RESAMPLING if resampled else "",
                    "gaps_filled": gaps_filled, "refused": refused}
    return Applied(ids, sums[:len(ids)] / np.array(counts)[:, None], np.array(counts), refused, done_to_them)


def embed(backbone: Backbone, source: Source, device: torch.device, **options: Any) -> Applied:
    """(n, D) embeddings: the mean of the tokens, registers left out, over the crops that an evaluation would take."""
    shared = HeadConfig.model_validate(load_defaults("linear").value["evaluation"])
    made = over_crops(backbone.to(device).embed, source, backbone, shared, device=device, **options)
    about = {key: backbone.about[key] for key in ("run_id", "method", "statistics")}
    return replace(made, done={"backbone": about, "embedding": "mean of tokens, mean over crops", **made.done})


class Classifier(nn.Module):
    """(B, 12, T) ECG in the backbone's units -> (B, C) logits: an evaluation's selected weights.

    meta: of evaluation.KEPT. threshold: of the classes whose record holds one, chosen on the validation folds.
    """

    def __init__(self, run: str, backbone: Backbone, head: nn.Module, bias: Tensor, meta: dict[str, Any],
                 threshold: dict[str, float]):
        super().__init__()
        self.run, self.backbone, self.head, self.meta, self.threshold = run, backbone, head, meta, threshold
        self.bias = nn.Parameter(bias)  # (C,): 0 but of an imported head, as heads here have no biases

    def forward(self, ecg: Tensor) -> Tensor:
        return self.head(self.backbone(ecg, registers=True)) + self.bias

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> probabilities; of a regression values in the target's unit."""
        return tasks.probabilities(self.meta.get("kind", "multi-label"), logits, self.meta.get("moments", (0.0, 1.0)))


def head(name: str, encoder: vit.Encoder, classes: int, tensors: dict[str, Tensor], what: str) -> tuple[nn.Module, Tensor]:
    """The named head with these weights, and what is added to its logits, (classes,)."""
    made, bias = heads.build(name, encoder, classes), tensors.get("proj.bias", torch.zeros(classes, device="cpu"))
    checkpoint.fill_(made, {k: v for k, v in tensors.items() if k != "proj.bias"}, what)
    if bias.shape != (classes,) or not bias.isfinite().all():
        raise UserError(f"{what}: proj.bias has shape {tuple(bias.shape)}, not ({classes},), or is not finite")
    return made, bias.float()


def open_classifier(work: Path, results: Path, run: str) -> Classifier:
    """The classifier of an evaluation's run_id, in evaluation mode."""
    kept = {path.parent.name: path for path in sorted((work / "runs").glob(f"*/evaluations/*/{evaluation.KEPT}"))}
    if run not in kept:
        known = ", ".join(sorted(kept)) or "none"
        raise UserError(f"no evaluation {run!r:.80} with its weights in {work}; delete its record to run one again that was "
                        f"made before weights were kept. Known: {known:.200}")
    path = kept[run]
    state = checkpoint.load(path)
    tensors, meta = state.tensors, state.meta
    if not {"config", "pretrain_config", "classes", "rate_hz", "leads", "units", "mean", "sd"} <= meta.keys():
        raise UserError(f"{path} does not hold the weights of an evaluation; remove it, and run the evaluation again")
    if meta["leads"] != list(LEADS):
        raise UserError(f"{path}: its leads are {meta['leads']!r:.200}, not {', '.join(LEADS)}")
    config = EvaluationConfig.model_validate(meta["config"])
    trained = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    if trained:
        with torch.device("meta"):
            encoder = vit.build(EncoderConfig.model_validate(meta["pretrain_config"]["encoder"]).replace(dropout=0.0))
        checkpoint.fill_(encoder, trained, str(path))
    else:
        source = run_folder(work, config["pretrain"]) / checkpoint_name(config["at"])
        torch.manual_seed(optim.derive(config["seed"], evaluation.WEIGHTS))  # of a backbone that learned nothing
        encoder = evaluation.backbone(checkpoint.load(source), config["seed"], 0.0)
    made, bias = head(config["evaluation"]["head"], encoder, len(meta["classes"]),
                      {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}, str(path))
    threshold = {}
    if record.exists(results, run):
        per_class = read_json(record.path(results, run), "record")["result"].get("per_class", {})
        found = {c: per_class.get(c, {}).get("threshold") for c in meta["classes"]}
        threshold = {c: value for c, value in found.items() if value is not None}
    backbone = Backbone(encoder, meta["rate_hz"], meta["units"], meta["mean"], meta["sd"])
    return Classifier(run, backbone, made, bias, meta, threshold).eval().requires_grad_(False)


def predict(classifier: Classifier, source: Source, device: torch.device, **options: Any) -> Applied:
    """(n, C) probabilities, as the evaluation computed them."""
    classifier, config = classifier.to(device), EvaluationConfig.model_validate(classifier.meta["config"])
    settings = config.evaluation

    def f(x: Tensor) -> Tensor:
        with optim.autocast(device, settings["precision"]):
            logits = classifier(x).double()
        return logits if settings["average"] == "logits" else classifier.probabilities(logits)

    found = over_crops(f, source, classifier.backbone, settings, device=device, **options)
    p = torch.from_numpy(found.values)
    p = classifier.probabilities(p) if settings["average"] == "logits" else p
    done = {"evaluation": classifier.run, "pretrain": config["pretrain"], "task": config["task"], **found.done}
    return replace(found, values=p.numpy(), done=done)


def check_out(out: Path, kinds: tuple[str, ...]) -> None:
    """UserError, before hours of work, where the file cannot be of a kind that is written."""
    if out.suffix not in kinds:
        raise UserError(f"--out {out} must end in {' or '.join(kinds)}")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError("parquet needs pyarrow: pip install 'ecg-ssl-bench[parquet]', or write .npz") from None
    record.check_writable(out.parent)


def write_embeddings(out: Path, applied: Applied) -> None:
    """.npz: record_id (n,), embedding (n, D) float32, crops (n,), metadata (JSON); .parquet: record_id, crops, e0, e1,
    ..., the metadata under `ecgssl` in the schema's."""
    values, text = applied.values.astype(np.float32), json.dumps(applied.done, sort_keys=True)
    ids, crops = applied.record_id, applied.crops
    with replace_file(out) as f:
        if out.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.table({"record_id": ids, "crops": crops, **{f"e{i}": v for i, v in enumerate(values.T)}})
            pyarrow.parquet.write_table(table.replace_schema_metadata({"ecgssl": text}), f)
        else:
            np.savez(f, record_id=np.array(ids), embedding=values, crops=crops, metadata=np.array(text))


def read_embeddings(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n,) record ids and (n, D) embeddings of an .npz file of write_embeddings; UserError when it is none."""
    try:
        with np.load(path, allow_pickle=False) as content:
            ids, values = content["record_id"], content["embedding"]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} does not exist, or is no file; `ecgssl embed --out {path.name}` makes one") from None
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no .npz file of `ecgssl embed` ({type(error).__name__})") from None
    if values.ndim != 2 or len(ids) != len(values) or values.dtype.kind != "f" or len(set(ids.tolist())) != len(ids):
        raise UserError(f"{path} is no .npz file of `ecgssl embed`: it lacks an embedding for each of its records")
    return ids, values


def similarity(first: Path, second: Path) -> tuple[float, int]:
    """(linear CKA of two files of embeddings, how many records they share). UserError where these are too few."""
    (a, x), (b, y) = read_embeddings(first), read_embeddings(second)
    shared, i, j = np.intersect1d(a, b, return_indices=True)
    return cka(torch.from_numpy(x[i]), torch.from_numpy(y[j])), len(shared)


def write_predictions(out: Path, applied: Applied, classifier: Classifier) -> None:
    """CSV, a line per record and class: record_id, class, probability, threshold, positive (the last two empty where the
    evaluation's record has no threshold), of a regression record_id, unit, value; what was done, and the refused records,
    in <out>.json."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    regression = classifier.meta.get("kind") == "regression"
    table.writerow(["record_id", *(("unit", "value") if regression else ("class", "probability", "threshold", "positive"))])
    for record_id, values in zip(applied.record_id, applied.values.tolist(), strict=True):
        for name, p in zip(classifier.meta["classes"], values, strict=True):
            threshold = classifier.threshold.get(name)
            chosen = ("", "") if threshold is None else (threshold, int(p >= threshold))
            table.writerow([record_id, name, p, *(() if regression else chosen)])
    write_text(out.with_name(f"{out.name}.json"), json.dumps(applied.done, indent=1, sort_keys=True))
    write_text(out, text.getvalue())
