"""An evaluation's classifier on new records gives the evaluation's own probabilities."""

import csv
import json
from typing import Any

import configs
import numpy as np
import pytest
import torch

from bench.backbones.embed import Reading
from bench.backbones.predict import load_classifier, predict_records, write_predictions
from bench.data.ingest.records import records_of
from bench.data.store import Store
from bench.evaluation.runner import evaluate
from bench.runs.workspace import Workspace, run_folder

HERE = Reading(torch.device("cpu"), workers=1)


def run_evaluation(protocol: str, run: str, tiny: Store, workspace: Workspace, *overrides: str) -> tuple[str, dict[str, Any]]:
    """The run_id of a short evaluation, and its predictions."""
    short = ["evaluation.steps=6", "evaluation.batch=16", "evaluation.validate_every=3", "evaluation.patience=6",
             "evaluation.warmup_steps=0"]
    (name,) = evaluate([configs.evaluation(protocol, "pitch", run, tiny, 1, [*short, *overrides])], tiny, workspace)
    with np.load(run_folder(workspace.work, run) / "evaluations" / name / "predictions.npz") as content:
        return name, dict(content)


@pytest.mark.parametrize(("method", "protocol", "average"), [
    ("jepa", "linear", "logits"), ("jepa", "finetune", "probabilities"), ("random", "linear", "logits")])
def test_the_probabilities_of_an_evaluation_are_computed_again(tiny, workspace, run, random, method, protocol, average) -> None:
    of = run if method == "jepa" else random
    name, predictions = run_evaluation(protocol, of, tiny, workspace, f"evaluation.average={average}", "evaluation.lr=0.1",
                                       "evaluation.final_lr=0.1")  # far from where it began
    torch.manual_seed(5)  # weights come from files, or from the evaluation's own seed
    again = predict_records(load_classifier(workspace.work, workspace.results, name), records_of(tiny), HERE)
    p = dict(zip(again.record_id, again.values, strict=True))
    for part in ("validation", "test"):
        ours = np.stack([p[i] for i in predictions[f"record_id_{part}"]])
        assert np.abs(ours - predictions[f"p_{part}"]).max() < 1e-5
    assert again.crops.tolist() == [7] * 80
    assert predictions["p_test"].std(0).min() > 1e-4


def test_thresholds_are_those_of_the_result_and_a_class_without_one_has_none(run, tiny, workspace, tmp_path) -> None:
    name, _ = run_evaluation("linear", run, tiny, workspace)
    path = workspace.results / f"{name}.json"
    content = json.loads(path.read_text())
    for each in content["result"]["per_class"].values():
        each.pop("threshold", None)
    content["result"]["per_class"]["low"]["threshold"] = 0.4
    path.write_text(json.dumps(content))
    classifier = load_classifier(workspace.work, workspace.results, name)
    outputs = predict_records(classifier, records_of(tiny), HERE)
    write_predictions(tmp_path / "p.csv", outputs, classifier.facts)
    with (tmp_path / "p.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 80 * 3
    for row in rows:
        expected = str(int(float(row["probability"]) >= 0.4)) if row["class"] == "low" else ""
        assert (row["positive"], row["threshold"]) == (expected, "0.4" if row["class"] == "low" else "")
    assert json.loads((tmp_path / "p.csv.json").read_text())["evaluation"] == name
