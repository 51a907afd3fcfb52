"""Evaluations end to end by kind of target, on a fraction of the labels, and on another store."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import configs
import numpy as np
import pytest
import torch
from conftest import reported
from corpora import array_corpus

from bench.backbones.embed import Reading
from bench.backbones.predict import load_classifier, predict_records
from bench.core.errors import UserError
from bench.data.corpora import open_corpus
from bench.data.ingest import records
from bench.data.ingest.prepare import prepare
from bench.data.store import Store
from bench.evaluation import frozen, regression, tasks
from bench.evaluation import runner as evaluation
from bench.runs import results as record
from bench.runs.workspace import Workspace, run_folder
from paper.commands import evaluation_options

SHORT = ["evaluation.steps=12", "evaluation.batch=16", "evaluation.validate_every=4", "evaluation.patience=12",
         "evaluation.lr=3e-3", "evaluation.final_lr=3e-3", "evaluation.warmup_steps=0"]


@pytest.fixture
def clinic(tmp_path: Path) -> Store:
    """80 records of 10 s at 100 Hz: the louder, the older; sex is low or high; pitch is sex, and odd without positives."""
    rng, time_s = np.random.default_rng(5), np.arange(1000) / 100
    age, sex = rng.uniform(20, 80, 80), np.arange(80) // 10 % 2
    mv = rng.normal(0, 0.1, (80, 12, 1000))
    mv += (age / 100)[:, None, None] * np.sin(2 * np.pi * np.where(sex, 11, 2)[:, None, None] * time_s)
    names = np.array(["low", "high"])[sex]
    columns = {"fold": [i % 10 + 1 for i in range(80)], "age": [f"{a:.1f}" for a in age], "sex": names, "pitch": names}
    return prepare(open_corpus("array", array_corpus(
        tmp_path / "clinic-data", np.rint(mv * 1000).astype(np.int16), columns, name="clinic", tasks=["age", "sex", "pitch"],
        single_label=["sex"], regression={"age": "years"}), None), tmp_path)


def evaluate(task: str, run: str, store: Store, workspace: Workspace, *overrides: str, protocol: str = "linear", seed: int = 0,
             external: Store | None = None) -> SimpleNamespace:
    config = configs.evaluation(protocol, task, run, store, seed, [*SHORT, *overrides], external)
    (name,) = evaluation.evaluate([config], store, workspace, external)
    folder = run_folder(workspace.work, run) / "evaluations" / name
    with np.load(folder / "predictions.npz") as content:
        predictions = dict(content)
    return SimpleNamespace(config=config, name=name, predictions=predictions,
                           result=json.loads(record.result_path(workspace.results, name).read_text())["result"])


def test_a_regression_is_learned_and_reported_in_its_unit(
        random: str, clinic: Store, workspace: Workspace, tmp_path: Path) -> None:
    done = evaluate("age", random, clinic, workspace, "evaluation.steps=80", "evaluation.patience=80", protocol="scratch")
    y, p = done.predictions["y_test"], done.predictions["p_test"]
    assert y.shape == p.shape == (8, 1) and 20 < y.mean() < 80
    assert done.result["metric"] == "r2" and done.result["r2"] == regression.r2(y, p) > 0.5
    assert done.result["mae"]["value"] == pytest.approx(np.abs(y - p).mean()) and "macro_auroc" not in done.result
    assert done.result["validation_r2"] == max(done.result["curve"]["validation_r2"])
    reported(workspace.results, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "## age on clinic: R2" in text and "AUROC per class" not in text
    assert not (tmp_path / "report" / "figures" / "auroc.png").exists()


def test_the_best_of_values_below_minus_1_is_tested(run: str, clinic: Store, workspace: Workspace,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([-40.0, -3.0, -5.0])
    monkeypatch.setattr(tasks, "selection", lambda kind, labels, p: next(values))
    done = evaluate("age", run, clinic, workspace)
    assert (done.result["best_step"], done.result["validation_r2"]) == (8, -3.0)


@pytest.mark.parametrize("task", ["age", "sex"])
def test_predict_gives_what_the_evaluation_of_that_kind_gave(run: str, clinic: Store, workspace: Workspace, task: str) -> None:
    done = evaluate(task, run, clinic, workspace)
    if task == "sex":
        assert done.result["metric"] == "macro_auroc"
        assert done.predictions["p_test"].sum(1) == pytest.approx(np.ones(8))
    again = predict_records(load_classifier(workspace.work, workspace.results, done.name), records.records_of(clinic),
                            Reading(torch.device("cpu"), workers=1))
    p = dict(zip(again.record_id, again.values, strict=True))
    assert np.abs(np.stack([p[i] for i in done.predictions["record_id_test"]]) - done.predictions["p_test"]).max() < 1e-3


def test_every_seed_trains_on_the_same_fraction_of_the_records_or_the_same_shuffled_labels(
        run: str, tiny: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    choose = frozen.choose
    monkeypatch.setattr(frozen, "choose", lambda job, reader: trained.extend(
        task.train for task in job.tasks.values()) or choose(job, reader))
    whole, shuffled, few, again = (evaluate("pitch", run, tiny, workspace, *overrides, seed=seed) for *overrides, seed in (
        [0], ["shuffle_labels=1", 0], ["fraction=0.25", 0], ["fraction=0.25", 1]))
    assert len({done.name for done in (whole, shuffled, few, again)}) == 4
    assert np.array_equal(trained[2].rows, trained[3].rows) and set(trained[2].rows) < set(trained[0].rows)
    assert not np.array_equal(trained[0].labels, trained[1].labels) and trained[0].labels.sum() == trained[1].labels.sum()
    assert np.array_equal(whole.predictions["y_test"], shuffled.predictions["y_test"])
    assert few.result["records"] == whole.result["records"] | {"train": 16}


def test_an_external_store_is_the_test_split_of_an_evaluation_of_its_own(
        run: str, tiny: Store, clinic: Store, workspace: Workspace, tmp_path: Path) -> None:
    home = evaluate("pitch", run, tiny, workspace)
    away = evaluate("pitch", run, tiny, workspace, "folds.test=[77]", external=clinic)  # the test fold at home is not read
    assert away.config.external.to_json() == {"store": "clinic", "fingerprint": clinic.fingerprint} and away.name != home.name
    assert away.result["records"] == {"train": 64, "validation": 8, "test": 80}
    assert away.predictions["classes"].tolist() == ["high", "low", "odd"]
    assert away.predictions["scored"].tolist() == list(away.result["per_class"]) == ["high", "low"]
    assert away.predictions["p_test"].shape == away.predictions["y_test"].shape == (80, 2)
    assert away.predictions["record_id_test"].tolist() == [f"r{i}" for i in range(80)]
    for key in ("best_step", "curve", "validation_macro_auroc"):  # trained and selected as at home
        assert away.result[key] == home.result[key]
    reported(workspace.results, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "## pitch on clinic (trained on tiny)" in text and "## pitch on tiny\n" in text
    options = evaluation_options(away.config)
    assert "--store tiny --external clinic" in options and "external." not in options


def test_the_command_line_tests_on_another_store_and_names_score_and_records(
        run: str, tiny: Store, clinic: Store, workspace: Workspace, command: Callable[..., tuple[int, str, str]]) -> None:
    (workspace.work / "stores").mkdir()
    for store in (tiny, clinic):
        (workspace.work / "stores" / store.name).symlink_to(store.folder)
    base = ["evaluate", run, "--work", workspace.work, "--results", workspace.results, "--device", "cpu",
            *(word for setting in SHORT for word in ("--set", setting))]
    for more, shown in ((("--store", "tiny", "--task", "pitch", "--external", "clinic"), r"macro AUROC .* 80 records of cl"),
                        (("--store", "clinic", "--task", "age"), r"R2 .* on 8 records of clinic,")):
        code, printed, _ = command(*base, *more)
        assert code == 0 and re.search(shown, printed)


def test_an_external_store_that_the_backbone_saw_or_that_is_only_named_is_refused(
        run: str, tiny: Store, clinic: Store, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="of the 60 external test records of store tiny were in the pre-training data"):
        evaluate("pitch", run, clinic, workspace, external=tiny)
    with pytest.raises(UserError, match="external.store is 'clinic' in the config but not opened; write .*--external STORE"):
        evaluate("pitch", run, tiny, workspace, "external.store=clinic")
