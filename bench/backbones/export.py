"""Write a backbone for others: model.safetensors, README.md (the model card) and, last, config.json, which marks it complete."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.backbones.backbone import CONFIG, WEIGHTS, Backbone, BackboneConfig
from bench.core.errors import UserError
from bench.core.files import replace_file, write_text
from bench.data.corpora import known_corpora
from bench.data.signal import LEADS
from bench.training import checkpoint
from bench.training.summary import count_parameters

SAW_WORDS = {"unknown": "unknown; the table has the corpora that the checkpoint names",
             "stated": "what the person who imported it stated"}


def export_backbone(backbone: Backbone, folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write the backbone into a new or empty folder. results: of any runs; the model card shows those of this backbone."""
    assert backbone.config is not None
    unfinished = {WEIGHTS, "README.md"}  # of an export that was killed
    if folder.is_dir() and any(p.name not in unfinished and p.suffix != ".tmp" for p in folder.iterdir()):
        raise UserError(f"{folder} is not empty; remove it, or write another --to")
    checkpoint.remove_partial(folder)
    weights = safetensors.torch.save(backbone.encoder.state_dict(), {"format": "pt"})
    with replace_file(folder / WEIGHTS) as file:
        file.write(weights)
    write_text(folder / "README.md", write_card(backbone, results))
    config = backbone.config.replace(sha256=hashlib.sha256(weights).hexdigest())
    write_text(folder / CONFIG, json.dumps(config.to_json(), indent=1, sort_keys=True))


def write_card(backbone: Backbone, results: Sequence[dict[str, Any]]) -> str:
    """The model card in Markdown. The code in it runs in the exported folder."""
    config, encoder = backbone.config, backbone.encoder
    assert config is not None
    pretraining, size = config.pretrain_config, encoder.size
    samples = round(pretraining.data.crop_seconds * backbone.rate_hz)
    with torch.device("meta"):
        tokens = encoder.count_tokens(torch.empty(1, len(LEADS), samples))
    arguments = pretraining.method.arguments
    imported = (f"The weights were imported from a checkpoint of the published implementation; what it saw is "
                f"{SAW_WORDS[arguments['saw']]}.\n" if "imported" in arguments else "")
    return CARD.format(
        method=config.method, run_id=config.run_id, width=size.width, depth=size.depth, heads=size.heads,
        parameters=count_parameters(encoder), steps=config.step, batch=pretraining.optim.batch,
        crop_seconds=pretraining.data.crop_seconds, samples=samples, tokens=tokens,
        leads=", ".join(LEADS), units=backbone.units, rate_hz=backbone.rate_hz,
        patch=encoder.patch, clip_sd=backbone.clip_sd, registers=len(encoder.registers), statistics=config.statistics,
        imported=imported, folds=", ".join(map(str, pretraining.data.folds)), seen="\n".join(_corpora(config)),
        scores="\n".join(_scores(config.run_id, results)) or "| none yet | | | | | | |")


def _corpora(config: BackboneConfig) -> list[str]:
    """A table row for each store that the backbone saw."""
    return [f"| {name} | {saw.source} | {saw.version} | {'unknown' if saw.records is None else saw.records} | "
            f"{find_licence(saw.source)} |" for name, saw in sorted(config.saw.items())]


def _scores(run: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """A table row for each evaluation of the run."""
    rows = []
    for each in results:
        config, result = each["config"], each["result"]
        if each["kind"] != "evaluate" or config["pretrain"] != run:
            continue
        low, high = result["interval"]
        metric, external, store = result["metric"], config["external"]["store"], config["data"]["store"]
        tested = f"{external} (trained on {store})" if external else store
        labels = "" if config["fraction"] == 1 else f", {config['fraction']:g} of the labels"
        protocol = config["evaluation"]["name"]
        key = (store, external, config["task"], config["at"], protocol, config["seed"])
        rows.append((key, f"| {tested} | {config['task']} | {protocol}{labels} | {config['at']:g} | {config['seed']} | "
                          f"{'R2 ' if metric == 'r2' else ''}{result[metric]:.4f} [{low:.4f}, {high:.4f}] | {each['run_id']} |"))
    return [row for _, row in sorted(rows)]


def find_licence(corpus: str) -> str:
    """The licence of a corpus's data; "unknown" if it is not one of `ecgssl data list`."""
    known = known_corpora()
    return str(known[corpus].licence) if corpus in known else "unknown"


CARD = """\
# {method}: ECG backbone {run_id}

A ViT of width {width}, depth {depth} and {heads} heads ({parameters:,} parameters) for 12-lead ECG. It was pre-trained by
`{method}`: {steps:,} steps of {batch:,} records, crops of {crop_seconds:g} s. `pretrain_config` in config.json is the whole
config of that run.

```python
import bench, torch
backbone = bench.load_backbone(".")
tokens = backbone(torch.zeros(1, 12, {samples}))  # -> (1, {tokens}, {width})
```

Input: leads {leads}, in this order, in {units} at {rate_hz} Hz, any multiple of {patch} samples. The backbone z-scores each
lead and clips it to +-{clip_sd:g} sd itself. `backbone.embed(ecg)` is the mean of the tokens;
`backbone(ecg, registers=True)` puts the {registers} register tokens first.

## Normalisation

The mean and sd of each lead are those {statistics}; config.json holds them. In pre-training each record was normalised by the
statistics of its own corpus. In evaluations, ECG-SSL-Bench normalises by the statistics of the evaluated corpus's training folds.
For a corpus with other gains, set `backbone.mean` and `backbone.sd`, (12, 1) each, to the statistics of this corpus.

## Data seen

{imported}Do not evaluate the backbone on any of these records or patients. If a corpus has folds, only folds {folds} were used.

| store | corpus | version | records | licence of the data |
|---|---|---|---|---|
{seen}

## Scores

The score is macro AUROC (R2 if the row says so) on the test folds, or on all records of another store. In brackets are the 2.5
and 97.5 percentiles of class-complete bootstrap resamples. There is one line per evaluation.

| store | task | protocol | share of the steps | seed | score | run |
|---|---|---|---|---|---|---|
{scores}
"""
