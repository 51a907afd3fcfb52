"""A trained backbone as others use it: ECG in physical units in, tokens out. Nothing of its training is needed.

`ecgssl export` writes a folder: model.safetensors, README.md (the model card) and, last, config.json, whose presence
means complete. config.json holds all that is needed to use the weights: the encoder's shape, rate, units, leads,
normalisation; and where they come from: run_id, the pre-training's config, what it saw.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.files import read_json, replace_file, write_text
from bench.data.corpora import modules
from bench.data.loader import CLIP
from bench.data.signal import LEADS
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.evaluation import runner as evaluation
from bench.runs import results as record
from bench.runs.workspace import checkpoint_name, run_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint
from bench.training.trainer import count

FORMAT = 1
WEIGHTS = "model.safetensors"
NEEDED = {"run_id": str, "method": str, "encoder": dict, "rate_hz": int, "units": str, "leads": list, "mean": list,
          "sd": list, "clip_sd": float, "statistics": str, "saw": dict, "sha256": str}


class Backbone(nn.Module):
    """(B, 12, T) ECG in `units` at `rate_hz`, leads in the order LEADS -> (B, N, D) tokens; with registers=True the R
    registers come first. It z-scores each lead by `mean` and `sd` and clips to +-clip_sd itself."""

    mean: Tensor
    sd: Tensor

    def __init__(self, encoder: vit.Encoder, rate_hz: int, units: str, mean: Sequence[float], sd: Sequence[float],
                 clip_sd: float = CLIP, about: dict[str, Any] | None = None):
        super().__init__()
        self.encoder, self.rate_hz, self.units, self.clip_sd = encoder, rate_hz, units, clip_sd
        self.about = about or {}  # config.json
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(len(LEADS), 1), persistent=False)
        self.register_buffer("sd", torch.tensor(sd, dtype=torch.float32).view(len(LEADS), 1), persistent=False)

    def forward(self, ecg: Tensor, registers: bool = False) -> Tensor:
        if ecg.ndim != 3 or ecg.shape[1] != len(LEADS):
            raise UserError(f"ECG of shape {tuple(ecg.shape)}; (records, 12 leads, samples) is needed: {', '.join(LEADS)}, "
                            f"in {self.units} at {self.rate_hz} Hz")
        x = ((ecg.float() - self.mean) / self.sd).clamp(-self.clip_sd, self.clip_sd)
        return self.encoder(x, registers=registers)

    def embed(self, ecg: Tensor) -> Tensor:
        """(B, 12, T) ECG -> (B, D): the mean of the tokens, registers left out."""
        return self(ecg).mean(1)


def of_checkpoint(trained: Checkpoint) -> Backbone:
    """The backbone that a finished pre-training yields, in evaluation mode; UserError where it learned nothing, or does
    not say how its input was normalised."""
    meta = trained.meta
    made = meta["config"]
    if not meta["step"]:
        raise UserError(f"run {meta['run_id']} ({made['method']['name']}) has learned nothing: each evaluation draws its "
                        f"own weights; name the run of a pre-training")
    mean, sd, units, words = statistics(meta)
    encoder = evaluation.backbone(trained, 0, 0.0).eval().requires_grad_(False)
    shape = {**made["encoder"], "size": str(encoder.size), "dropout": 0.0}
    about = {
        "run_id": meta["run_id"], "method": made["method"]["name"], "encoder": shape, "rate_hz": meta["rate_hz"],
        "units": units, "leads": meta["leads"], "mean": mean, "sd": sd, "clip_sd": CLIP, "statistics": words,
        "stores": meta["stores"], "saw": meta["saw"], "step": meta["step"], "pretrain_config": made}
    return Backbone(encoder, meta["rate_hz"], units, mean, sd, CLIP, about)


def statistics(meta: dict[str, Any]) -> tuple[list[float], list[float], str, str]:
    """(12,) mean and sd that new records are normalised by, their units, and which ones they are, in words.

    In pre-training a record is normalised by its own corpus. One corpus: its statistics. Several: those of their
    mixture, each corpus with the probability that it is drawn with, as new records are of none of them.
    """
    stores, weights = meta["stores"], meta["config"]["data"]["mix"]
    if not stores:
        raise UserError(f"run {meta['run_id']} does not say how its input was normalised: import it again, with --saw STORE "
                        f"for the stores that it was pre-trained on")
    units = sorted({s["units"] for s in stores.values()})
    if len(units) > 1:
        raise UserError(f"run {meta['run_id']} was pre-trained on records in {' and '.join(units)}: new ones cannot be both")
    if len(stores) == 1:
        (name, only), = stores.items()
        return only["mean"], only["sd"], units[0], f"of {name}"
    share = np.array([weights[name] for name in stores])
    means, sds = (np.array([s[key] for s in stores.values()]) for key in ("mean", "sd"))
    mean = share @ means
    sd = np.sqrt(share @ (sds**2 + (means - mean) ** 2))
    words = ", ".join(f"{name} ({weight:g})" for name, weight in sorted(weights.items()))
    return mean.tolist(), sd.tolist(), units[0], f"of the mixture of {words}"


def of_run(work: Path, run: str) -> Backbone:
    """The backbone of a finished pre-training in the work folder."""
    path = run_folder(work, run) / checkpoint_name(1)
    if not re.fullmatch(r"[0-9a-f]{12}", run) or not path.is_file():
        known = sorted(p.parent.name for p in (work / "runs").glob(f"*/{checkpoint_name(1)}"))
        raise UserError(f"no finished pre-training {run!r:.80} in {work}, and no folder of `ecgssl export`. Known: "
                        f"{', '.join(known) or 'none'}")
    trained = checkpoint.load(path)
    if not {"config", "run_id", "step", "rate_hz", "leads", "stores", "saw"} <= trained.meta.keys():
        raise UserError(f"{path} is no checkpoint of a pre-training; remove it and run the pre-training again")
    return of_checkpoint(trained)


def open_backbone(work: Path, given: str) -> Backbone:
    """The backbone of an exported folder, or of a run_id."""
    return load(Path(given)) if Path(given).is_dir() else of_run(work, given)


def load(folder: Path) -> Backbone:
    """The exported backbone in folder, in evaluation mode; UserError when it is none, or is damaged."""
    path = folder / "config.json"
    about = read_json(path, "exported backbone")
    if about.get("format") != FORMAT:
        raise UserError(f"{path} has format {about.get('format')!r:.80}, this version reads {FORMAT}; export it again")
    for key, kind in NEEDED.items():
        if not isinstance(about.get(key), kind):
            raise UserError(f"{path} is damaged: {key} must be {kind.__name__}, it is {about.get(key)!r:.80}")
    if about["leads"] != list(LEADS):
        raise UserError(f"{path}: its leads are {', '.join(map(str, about['leads']))!r:.200}, not {', '.join(LEADS)}")
    try:
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing; export the backbone again") from None
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise UserError(f"{folder / WEIGHTS} is damaged (its SHA-256 is not that of config.json); export the backbone again")
    try:
        tensors = safetensors.torch.load(content)
        with torch.device("meta"):
            encoder = vit.build(EncoderConfig.model_validate(about["encoder"]))
        made = Backbone(encoder, about["rate_hz"], about["units"], about["mean"], about["sd"], about["clip_sd"], about)
    except (safetensors.SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} is no exported backbone, or is damaged ({type(error).__name__}: {error!s:.99})") from None
    checkpoint.fill_(made.encoder, tensors, str(folder / WEIGHTS))
    return made.eval().requires_grad_(False)


def export(backbone: Backbone, folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the folder; records: all that are known, the card names the scores of this backbone's."""
    unfinished = {WEIGHTS, "README.md"}  # of an export that was killed
    if folder.is_dir() and any(p.name not in unfinished and p.suffix != ".tmp" for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty; remove it, or write another --to")
    checkpoint.forget_partial(folder)
    content = safetensors.torch.save(backbone.encoder.state_dict(), {"format": "pt"})
    with replace_file(folder / WEIGHTS) as f:
        f.write(content)
    write_text(folder / "README.md", card(backbone, records))
    about = {"format": FORMAT, **backbone.about, "sha256": hashlib.sha256(content).hexdigest()}
    write_text(folder / "config.json", json.dumps(about, indent=1, sort_keys=True))


def card(backbone: Backbone, records: Sequence[dict[str, Any]]) -> str:
    """The model card, Markdown; its code runs in the exported folder."""
    about, encoder = backbone.about, backbone.encoder
    made, size = about["pretrain_config"], encoder.size
    samples = round(made["data"]["crop_seconds"] * backbone.rate_hz)
    with torch.device("meta"):
        n = encoder.count(torch.empty(1, len(LEADS), samples))
    seen = [f"| {name} | {s['source']} | {s['version']} | {s['records'] if s['records'] is not None else 'unknown'} | "
            f"{licence(s['source'])} |" for name, s in sorted(about["saw"].items())]
    scores = []
    for r in sorted((r for r in records if r["kind"] == "evaluate" and r["config"]["pretrain"] == about["run_id"]),
                    key=lambda r: (*(str(r["config"][k]) for k in ("data", "task", "at")), r["config"]["evaluation"]["name"],
                                   r["config"]["seed"])):
        c, result = r["config"], r["result"]
        low, high = result["interval"]
        metric, other = result.get("metric", "macro_auroc"), c.get("external", {}).get("store")
        tested = f"{other} (trained on {c['data']['store']})" if other else c["data"]["store"]
        labels = "" if c.get("fraction", 1) == 1 else f", {c['fraction']:g} of the labels"
        scores.append(f"| {tested} | {c['task']} | {c['evaluation']['name']}{labels} | {c['at']:g} | {c['seed']} | "
                      f"{'R2 ' if metric == 'r2' else ''}{result[metric]:.4f} [{low:.4f}, {high:.4f}] | {r['run_id']} |")
    imported = ("The weights were imported from a checkpoint of the published implementation; what it saw is "
                + ("unknown: the table names the corpora that the checkpoint names.\n" if made["method"]["saw"] == "unknown"
                   else "what the person who imported it stated.\n") if "imported" in made["method"] else "")
    return f"""\
# {about['method']}: ECG backbone {about['run_id']}

A ViT of width {size.width}, depth {size.depth} and {size.heads} heads ({count(encoder):,} parameters) for 12-lead ECG,
pre-trained by `{about['method']}`: {about['step']:,} steps of {made['optim']['batch']:,} records, crops of
{made['data']['crop_seconds']:g} s. `pretrain_config` in config.json is its whole protocol.

```python
import bench, torch
backbone = bench.load_backbone(".")
tokens = backbone(torch.zeros(1, 12, {samples}))  # -> (1, {n}, {size.width})
```

Input: leads {', '.join(LEADS)}, in this order, in {backbone.units} at {backbone.rate_hz} Hz, any multiple of
{encoder.patch} samples. The backbone z-scores each lead and clips it to +-{backbone.clip_sd:g} sd itself.
`backbone.embed(ecg)` is the mean of the tokens; `backbone(ecg, registers=True)` puts the {len(encoder.registers)} register
tokens first.

## Normalisation

Mean and sd of each lead are those {about['statistics']}; config.json holds them. In pre-training each record
was normalised by its own corpus's statistics, and ecgssl's evaluations use those of the evaluated corpus's training
folds. For a corpus with other gains, set `backbone.mean` and `backbone.sd`, (12, 1) each, to its own.

## Data seen

{imported}Evaluate it on no record, and no patient, of these. Of a corpus with folds, folds
{', '.join(map(str, made['data']['folds']))} alone were used.

| store | corpus | version | records | licence of the data |
|---|---|---|---|---|
{chr(10).join(seen)}

## Scores

Macro AUROC (R2 where it says so) on the test folds, or on all of another store, [2.5, 97.5] percentiles of
class-complete bootstrap resamples, one line per run.

| store | task | protocol | share of the steps | seed | score | record |
|---|---|---|---|---|---|---|
{chr(10).join(scores) or '| none yet | | | | | | |'}
"""


def licence(source: str) -> str:
    known = modules()
    return known[source].CORPUS.licence if source in known else "unknown"


def read_records(results: Path) -> list[dict[str, Any]]:
    """Every record of a folder; none where there is no folder."""
    return [read_json(path, "record") for path in sorted(results.glob("*.json")) if record.path(results, path.stem) == path]
