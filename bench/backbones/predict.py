"""Use the classifier that an evaluation trained on new records: the probability of each of its classes."""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.backbones.backbone import Backbone
from bench.backbones.embed import Outputs, Reading, average_over_crops
from bench.core.errors import UserError
from bench.core.files import write_text
from bench.data.corpora import CorpusFolder
from bench.data.signal import LEADS
from bench.encoders import vit
from bench.evaluation import artifacts, heads, tasks
from bench.evaluation.inputs import build_encoder
from bench.runs import results as record
from bench.runs.config import EvaluationConfig
from bench.runs.workspace import checkpoint_path
from bench.training import checkpoint, optim


@dataclass(frozen=True)
class ClassifierFacts:
    """What is known about a classifier besides its weights."""

    run_id: str
    config: EvaluationConfig
    classes: list[str]  # a regression has one, the unit of its target
    kind: str  # multi-label, single-label or regression
    moments: tuple[float, float]  # mean and sd of a regression's training values
    threshold: dict[str, float]  # class -> chosen on the validation folds, where the result holds one


class Classifier(nn.Module):
    """(B, 12, T) ECG in the backbone's units -> (B, C) logits, with the weights that an evaluation selected."""

    def __init__(self, backbone: Backbone, head: nn.Module, bias: Tensor, facts: ClassifierFacts):
        super().__init__()
        self.backbone, self.head, self.facts = backbone, head, facts
        self.bias = nn.Parameter(bias)  # (C,): 0 unless the head was imported, as heads here have no biases

    def forward(self, ecg: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(ecg, registers=True)) + self.bias
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> probabilities. For a regression: values in the unit of the target."""
        return tasks.probabilities(self.facts.kind, logits, self.facts.moments)


def build_head(name: str, encoder: vit.Encoder, classes: int, tensors: dict[str, Tensor], what: str) -> tuple[nn.Module, Tensor]:
    """(the head of this name with these weights, (classes,) bias that is added to its logits)."""
    head, bias = heads.build(name, encoder, classes), tensors.get("proj.bias", torch.zeros(classes, device="cpu"))
    checkpoint.fill_(head, {k: v for k, v in tensors.items() if k != "proj.bias"}, what)
    if bias.shape != (classes,) or not bias.isfinite().all():
        raise UserError(f"{what}: proj.bias has shape {tuple(bias.shape)}, not ({classes},), or is not finite")
    return head, bias.float()


def load_classifier(work: Path, results: Path, run: str) -> Classifier:
    """The classifier of an evaluation's run_id, in evaluation mode."""
    known = artifacts.find_weights(work)
    if run not in known:
        raise UserError(f"no evaluation {run!r:.80} with its weights in {work}. Known: {', '.join(sorted(known)) or 'none':.200}")
    path = known[run]
    weights = artifacts.read_weights(path)
    config = weights.config
    if weights.leads != list(LEADS):
        raise UserError(f"{path}: its leads are {weights.leads!r:.200}, not {', '.join(LEADS)}")
    if weights.encoder:
        with torch.device("meta"):
            encoder = vit.build(weights.pretrain_config.encoder.replace(dropout=0.0))
        checkpoint.fill_(encoder, weights.encoder, str(path))
    else:
        encoder = build_encoder(checkpoint.load(checkpoint_path(work, config.pretrain, config.at)), config.seed)
    head, bias = build_head(config.evaluation.head, encoder, len(weights.classes), weights.head, str(path))
    backbone = Backbone(encoder, rate_hz=weights.rate_hz, units=weights.units, mean=weights.mean, sd=weights.sd)
    facts = ClassifierFacts(run, config, weights.classes, weights.kind, weights.moments, load_thresholds(results, run))
    return Classifier(backbone, head, bias, facts).eval().requires_grad_(False)


def load_thresholds(results: Path, run: str) -> dict[str, float]:
    """class -> threshold in the evaluation's result; {} if there is no result."""
    if not record.result_exists(results, run):
        return {}
    per_class = record.load_result(results, run)["result"].get("per_class", {})
    return {name: each["threshold"] for name, each in per_class.items() if each.get("threshold") is not None}


def predict_records(classifier: Classifier, source: CorpusFolder, reading: Reading) -> Outputs:
    """(n, C) probabilities, computed as in the evaluation."""
    classifier, config = classifier.to(reading.device), classifier.facts.config
    settings = config.evaluation

    def compute(x: Tensor) -> Tensor:
        with optim.autocast(reading.device, settings.precision):
            logits = classifier(x).double()
        return logits if settings.average == "logits" else classifier.probabilities(logits)

    outputs = average_over_crops(compute, source, classifier.backbone, settings, reading)
    p = torch.from_numpy(outputs.values)
    p = classifier.probabilities(p) if settings.average == "logits" else p
    about = {"evaluation": classifier.facts.run_id, "pretrain": config.pretrain, "task": config.task, **outputs.about}
    return replace(outputs, values=p.numpy(), about=about)


def write_predictions(out: Path, outputs: Outputs, facts: ClassifierFacts) -> None:
    """Write a CSV file with a line per record and class: record_id, class, probability, threshold, positive.

    A regression has record_id, unit, value instead. Threshold and positive are empty if the evaluation's result has no
    threshold. <out>.json holds the settings and the refused records.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    regression = facts.kind == "regression"
    table.writerow(["record_id", *(("unit", "value") if regression else ("class", "probability", "threshold", "positive"))])
    for record_id, values in zip(outputs.record_id, outputs.values.tolist(), strict=True):
        for name, p in zip(facts.classes, values, strict=True):
            threshold = facts.threshold.get(name)
            decision = ("", "") if threshold is None else (threshold, int(p >= threshold))
            table.writerow([record_id, name, p, *(() if regression else decision)])
    write_text(out.with_name(f"{out.name}.json"), json.dumps(outputs.about, indent=1, sort_keys=True))
    write_text(out, text.getvalue())
