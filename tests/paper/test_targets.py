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

from bench import cli
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
from bench.runs.config import Config, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import trainer as pretrain
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


@pytest.fixture
def run(configure: Callable[..., Config], tiny: Store, workspace: Workspace) -> str:
    """run_id of a random backbone."""
    return pretrain.pretrain(configure("random"), [tiny], workspace).run_id


def evaluate(task: str, run: str, store: Store, workspace: Workspace, *overrides: str, protocol: str = "linear", seed: int = 0,
             external: Store | None = None) -> SimpleNamespace:
    config = configs.evaluation(protocol, task, run, store, seed, [*SHORT, *overrides], external)
    (name,) = evaluation.evaluate([config], store, workspace, external)
    folder = run_folder(workspace.work, run) / "evaluations" / name
    with np.load(folder / "predictions.npz") as content:
        predictions = dict(content)
    return SimpleNamespace(config=config, name=name, predictions=predictions, raw=(folder / "predictions.npz").read_bytes(),
                           result=json.loads(record.result_path(workspace.results, name).read_text())["result"])


def test_a_regression_is_learned_and_reported_in_its_unit(run: str, clinic: Store, workspace: Workspace, tmp_path: Path) -> None:
    made = evaluate("age", run, clinic, workspace, "evaluation.steps=80", "evaluation.patience=80", protocol="scratch")
    y, p = made.predictions["y_test"], made.predictions["p_test"]
    assert y.shape == p.shape == (8, 1) and 20 < y.mean() < 80
    assert made.result["metric"] == "r2" and made.result["r2"] == regression.r2(y, p) > 0.5
    assert made.result["mae"]["value"] == pytest.approx(np.abs(y - p).mean()) and "macro_auroc" not in made.result
    assert made.result["validation_r2"] == max(made.result["curve"]["validation_r2"])
    assert made.result["task"]["kind"] == "regression"
    reported(workspace.results, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "## age on clinic: R2" in text and "AUROC per class" not in text
    assert not (tmp_path / "report" / "figures" / "auroc.png").exists()


def test_the_best_of_values_below_minus_1_is_tested(run: str, clinic: Store, workspace: Workspace,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([-40.0, -3.0, -5.0])
    monkeypatch.setattr(tasks, "selection", lambda kind, labels, p: next(values))
    made = evaluate("age", run, clinic, workspace)
    assert (made.result["best_step"], made.result["validation_r2"]) == (8, -3.0)


def test_a_single_label_task_gives_probabilities_that_sum_to_1(run: str, clinic: Store, workspace: Workspace) -> None:
    made = evaluate("sex", run, clinic, workspace)
    assert made.predictions["p_test"].sum(1) == pytest.approx(np.ones(8))
    assert made.result["metric"] == "macro_auroc" and list(made.result["per_class"]) == ["high", "low"]


@pytest.mark.parametrize("task", ["age", "sex"])
def test_predict_gives_what_the_evaluation_of_that_kind_gave(run: str, clinic: Store, workspace: Workspace, task: str) -> None:
    made = evaluate(task, run, clinic, workspace)
    again = predict_records(load_classifier(workspace.work, workspace.results, made.name), records.records_of(clinic),
                            Reading(torch.device("cpu"), workers=1))
    p = dict(zip(again.record_id, again.values, strict=True))
    assert np.abs(np.stack([p[i] for i in made.predictions["record_id_test"]]) - made.predictions["p_test"]).max() < 1e-3


def test_a_fraction_has_a_name_of_its_own_and_every_seed_trains_on_the_same_records(
        run: str, tiny: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    choose = frozen.choose
    monkeypatch.setattr(frozen, "choose", lambda job, reader: trained.extend(
        task.train.rows for task in job.tasks.values()) or choose(job, reader))
    few = [evaluate("pitch", run, tiny, workspace, "fraction=0.25", seed=seed) for seed in (0, 1)]
    whole = evaluate("pitch", run, tiny, workspace)
    assert len({made.name for made in (*few, whole)}) == 3
    assert np.array_equal(trained[0], trained[1]) and len(trained[0]) == few[0].result["records"]["train"] == 16
    assert whole.result["records"]["train"] == 64 and set(trained[0]) < set(trained[2])
    for made in few:
        assert made.result["task"]["train_patients"] == 16
        assert made.result["records"]["test"] == whole.result["records"]["test"] == 8


def test_shuffled_labels_are_what_an_evaluation_of_that_name_trains_on(run: str, tiny: Store, workspace: Workspace,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    choose = frozen.choose
    monkeypatch.setattr(frozen, "choose", lambda job, reader: trained.extend(
        task.train.labels for task in job.tasks.values()) or choose(job, reader))
    honest, shuffled = (evaluate("pitch", run, tiny, workspace, f"shuffle_labels={n}") for n in (0, 1))
    assert honest.name != shuffled.name
    assert not np.array_equal(*trained) and trained[0].sum() == trained[1].sum()
    assert np.array_equal(honest.predictions["y_test"], shuffled.predictions["y_test"])


def test_an_external_store_is_the_test_split_of_an_evaluation_of_its_own(
        run: str, tiny: Store, clinic: Store, workspace: Workspace, tmp_path: Path) -> None:
    home = evaluate("pitch", run, tiny, workspace)
    made = evaluate("pitch", run, tiny, workspace, external=clinic)
    assert made.config.external.to_json() == {"store": "clinic", "fingerprint": clinic.fingerprint} and made.name != home.name
    assert made.predictions["classes"].tolist() == ["high", "low", "odd"]
    assert made.predictions["scored"].tolist() == list(made.result["per_class"]) == ["high", "low"]
    assert made.predictions["p_test"].shape == made.predictions["y_test"].shape == (80, 2)
    assert made.predictions["record_id_test"].tolist() == [f"r{i}" for i in range(80)]
    assert made.result["task"]["external"]["unscored"] == {"odd": "no label stands for it"}
    for key in ("best_step", "curve", "validation_macro_auroc"):  # trained and selected as at home
        assert made.result[key] == home.result[key]
    assert np.array_equal(made.predictions["p_validation"], home.predictions["p_validation"])
    reported(workspace.results, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "## pitch on clinic (trained on tiny)" in text and "## pitch on tiny\n" in text
    options = evaluation_options(made.config)
    assert "--store tiny --external clinic" in options and "external." not in options


def test_an_external_test_reads_no_test_fold_at_home(run: str, tiny: Store, clinic: Store, workspace: Workspace) -> None:
    made = evaluate("pitch", run, tiny, workspace, "folds.test=[77]", external=clinic)
    assert made.result["records"] == {"train": 64, "validation": 8, "test": 80}


def test_the_command_line_tests_on_another_store_and_names_score_and_records(
        run: str, tiny: Store, clinic: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.work / "stores").mkdir()
    for store in (tiny, clinic):
        (workspace.work / "stores" / store.name).symlink_to(store.folder)
    base = ["ecgssl", "evaluate", run, "--work", workspace.work, "--results", workspace.results, "--device", "cpu",
            *(word for setting in SHORT for word in ("--set", setting))]
    for more, printed in ((("--store", "tiny", "--task", "pitch", "--external", "clinic"), r"macro AUROC .* 80 records of cl"),
                          (("--store", "clinic", "--task", "age"), r"R2 .* on 8 records of clinic,")):
        monkeypatch.setattr("sys.argv", [str(word) for word in (*base, *more)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        assert re.search(printed, capsys.readouterr().out)


def test_a_backbone_that_saw_the_external_store_is_refused(configure: Callable[..., Config], tiny: Store, clinic: Store,
                                                           workspace: Workspace, tmp_path: Path) -> None:
    saw = pretrain.pretrain(configure("jepa", "optim.steps=1", "optim.warmup_steps=0"), [tiny], workspace).run_id
    evaluate("pitch", saw, clinic, workspace)
    with pytest.raises(UserError, match="of the 60 external test records of store tiny were in the pre-training data"):
        evaluate("pitch", saw, clinic, workspace, external=tiny)


@pytest.mark.parametrize(("override", "words"), [
    ("fraction=0", "fraction must be above 0, got 0"), ("fraction=1.1", "fraction must be at most 1, got 1.1"),
    ("fraction=none", "fraction must be a number, got 'none'"), ("external=clinic", "external must be a mapping"),
    ("shuffle_labels=-1", "shuffle_labels must be 0"),
    ("external.sotre=x", "unknown key 'external.sotre'; did you mean 'external.store'"),
])
def test_a_bad_fraction_order_or_external_is_one_line(tiny: Store, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configs.evaluation("linear", "pitch", "abc", tiny, 0, [override])
    assert "\n" not in str(caught.value)


def test_an_external_store_that_is_only_named_is_refused(run: str, tiny: Store, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="external.store is 'clinic' in the config but not opened; write .*--external STORE"):
        evaluate("pitch", run, tiny, workspace, "external.store=clinic")


def test_the_same_external_store_in_another_version_has_another_name(tiny: Store) -> None:
    names = {run_id(configs.evaluation("linear", "pitch", "a", tiny, 0, (), SimpleNamespace(  # type: ignore[arg-type]
        name="x", fingerprint=fingerprint))) for fingerprint in ("f", "g")}
    assert len(names) == 2
