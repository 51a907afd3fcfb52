"""Evaluations end with the same bytes however often they are stopped; each result is written once, with its files."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import SHORT, Evaluator, Finished
from torch import Tensor, equal

from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.data.store import Store
from bench.evaluation import artifacts, finetune, frozen, heads, metrics
from bench.evaluation.job import Job
from bench.evaluation.protocols import derive_linear
from bench.evaluation.runner import group_configs
from bench.runs import results
from bench.runs.config import EvaluationConfig, find_methods, run_id
from bench.runs.source import hash_source
from bench.runs.workspace import Workspace
from bench.training import optim


@pytest.fixture
def jepa(run: str, two: Store, workspace: Workspace) -> Evaluator:
    return Evaluator(run, two, workspace)


@pytest.fixture
def group(jepa: Evaluator) -> list[EvaluationConfig]:
    """Linear and knn evaluations of two tasks."""
    return [*jepa.load_group(), *jepa.load_group(protocol="knn", seeds=1)]


@pytest.fixture
def straight(jepa: Evaluator, group: list[EvaluationConfig]) -> list[tuple[Any, ...]]:
    """What the group left that nothing interrupted."""
    return [each.state() for each in jepa.finish(*group)]


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_an_evaluation_leaves_a_result_and_its_predictions(jepa: Evaluator, protocol: str) -> None:
    (left,) = jepa.finish(jepa.load(protocol))
    result, predictions = left.result, left.predictions
    assert {p.name for p in left.folder.iterdir()} == {"predictions.npz", "weights.pt", "config.json", "lock"}
    assert left.content["pretrain_config"]["method"]["name"] == "jepa"
    assert left.content["provenance"]["source"] == hash_source(find_methods()["jepa"])
    assert result["records"] == {"train": 64, "validation": 8, "test": 8}
    assert result["normalisation"]["sd"] == jepa.store.sd.tolist()
    assert predictions["record_id_test"].tolist() == [f"r{i}" for i in range(72, 80)]
    assert predictions["classes"].tolist() == ["high", "low", "odd"]
    score = metrics.score(predictions["y_test"].astype(np.int64), predictions["p_test"])
    assert (result["macro_auroc"], result["interval"]) == (score.macro, [score.lower, score.upper])
    assert result["replicates"] == pytest.approx(score.replicates, abs=5e-7)
    validation = metrics.auroc(predictions["y_validation"].astype(np.int64), predictions["p_validation"])
    assert result["validation_macro_auroc"] == pytest.approx(validation.mean(), abs=1e-12)


# stopped and killed


def test_an_interrupted_fine_tuning_ends_with_the_same_bytes(jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    config, again = jepa.load("finetune", "evaluation.dropout=0.2"), jepa.elsewhere()
    (straight,) = jepa.finish(config)
    before = straight.state()
    (straight.folder / "predictions.npz").unlink()
    schedule = optim.schedule_

    def stop(optimiser: Any, taken: int, settings: Any) -> float:
        if taken in (1, 4):
            os.kill(os.getpid(), signal.SIGUSR2)
        return schedule(optimiser, taken, settings)

    monkeypatch.setattr(optim, "schedule_", stop)
    for _ in range(2):
        with pytest.raises(Interrupted, match=r"at step \d of 9") as caught:
            again.evaluate(config)
        assert caught.value.exit_code == 128 + signal.SIGUSR2
        assert (straight.folder / "state.pt").is_file()
    assert again.finish(config)[0].state() == before
    assert not (straight.folder / "state.pt").exists()


@pytest.mark.parametrize("features", ["exact", "cached"])
def test_a_group_stopped_or_killed_without_warning_continues_from_its_last_state(jepa: Evaluator, features: str,
                                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    group = jepa.load_group(f"evaluation.features={features}", "evaluation.patience=3")  # some end early
    expected = [each.state() for each in jepa.finish(*group)]
    again, schedule, steps, ends = jepa.elsewhere(save_minutes=0.0), optim.schedule_, list[int](), list[type]()

    def stop_or_die(optimiser: Any, taken: int, settings: Any) -> float:
        steps.append(taken)
        if len(steps) % 8 == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(steps) % 8 == 7:
            raise KeyboardInterrupt
        return schedule(optimiser, taken, settings)

    monkeypatch.setattr(optim, "schedule_", stop_or_die)
    while len(again.results()) < len(group):
        try:
            again.evaluate(*group)
        except (Interrupted, KeyboardInterrupt) as end:
            ends.append(type(end))
    assert set(ends) == {Interrupted, KeyboardInterrupt} and not again.group_folders()
    monkeypatch.setattr(frozen, "evaluate", lambda *_: pytest.fail("what has a result ran again"))
    assert [each.state() for each in again.finish(*group)] == expected


@pytest.mark.parametrize("written", [0, 4])
def test_a_group_killed_between_its_results_continues_from_its_choice(
        jepa: Evaluator, group: list[EvaluationConfig], straight: list[tuple[Any, ...]], written: int,
        monkeypatch: pytest.MonkeyPatch) -> None:
    again, write = jepa.elsewhere(), results.write_result

    def die(*arguments: Any) -> Path:
        if len(again.results()) == written:
            raise KeyboardInterrupt
        return write(*arguments)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(results, "write_result", die)
        again.evaluate(*group)
    assert len(again.results()) == written
    monkeypatch.setattr(optim, "schedule_", lambda *_: pytest.fail("trained again"))
    assert [each.state() for each in again.finish(*group)] == straight


def test_a_damaged_state_starts_the_evaluation_again_and_says_so(jepa: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    (straight,) = jepa.finish(jepa.load())
    (straight.folder / "state.pt").write_bytes(b"damaged")
    (straight.folder / ".state.pt.x.tmp").write_bytes(b"half")
    assert jepa.elsewhere().finish(jepa.load())[0].raw == straight.raw
    assert "starting again" in capsys.readouterr().err
    assert not list(straight.folder.glob(".*.tmp"))


def test_two_calls_with_an_evaluation_in_common_do_not_run_at_once(jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    group, choose = jepa.load_group(seeds=1), frozen.choose

    def second(*arguments: Any) -> Any:
        with pytest.raises(UserError, match=rf"evaluation {run_id(group[1])} is being worked on by another process"):
            jepa.evaluate(group[1])
        return choose(*arguments)

    monkeypatch.setattr(frozen, "choose", second)
    jepa.evaluate(*group)


def test_predictions_are_written_whole(jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write = artifacts.replace_file

    def replace_file(path: Path) -> Any:
        if path.name == "predictions.npz":
            monkeypatch.setattr(os, "fsync", fail)
        return write(path)

    monkeypatch.setattr(artifacts, "replace_file", replace_file)
    with pytest.raises(OSError, match="No space left"):
        jepa.evaluate(jepa.load())
    assert not list(jepa.workspace.work.rglob("predictions.npz*"))


# what runs in one go, and after what


def test_what_runs_in_one_go_reads_the_same_crops_of_the_same_backbone(jepa: Evaluator) -> None:
    first, other = jepa.load(), replace(jepa, run="other")
    same = [jepa.load(seed=1, task="form"), jepa.load("linear-mean"), jepa.load("knn"), jepa.load("linear", "evaluation.lr=1")]
    apart = [other.load(), jepa.load("finetune"), jepa.load("finetune", seed=1), jepa.load("linear", "at=0.5"),
             *(jepa.load("linear", f"evaluation.{change}") for change in (
                 "features=cached", "precision=bfloat16", "crop_seconds=5.0", "stride_seconds=2.0"))]
    assert group_configs([first, *same, first]) == [[first, *same]]
    assert sorted(map(len, group_configs([first, *apart]))) == [1] * 9


def test_finetune_after_linear_starts_from_the_chosen_head_and_runs_what_it_starts_from(
        jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    config = jepa.load("finetune-after-linear", *(s.replace("evaluation.", "after.") for s in SHORT), seed=1)
    linear = derive_linear(config)
    assert linear == jepa.load(seed=1)
    started, fit = dict[str, Tensor](), finetune.fit

    def note(job: Job, model: heads.Classifier) -> Any:
        started.update({k: v.clone() for k, v in model.head.state_dict().items()})
        return fit(job, model)

    monkeypatch.setattr(finetune, "fit", note)
    jepa.evaluate(config)
    chosen = artifacts.read_linear_head(linear, jepa.workspace)
    assert started.keys() == chosen.keys() and all(equal(started[key], chosen[key]) for key in chosen)
    (Finished(linear, jepa.workspace).folder / "weights.pt").unlink()
    (jepa.workspace.results / f"{run_id(config)}.json").unlink()
    with pytest.raises(UserError, match=rf"weights.pt is missing, .*; remove .*{run_id(linear)}.json to run it again"):
        jepa.evaluate(config)


def test_scratch_goes_with_the_random_backbone_alone_and_its_finetune_is_scratch(jepa: Evaluator, random: str) -> None:
    drawn = replace(jepa, run=random)
    for evaluator, protocol, words in ((jepa, "scratch", "scratch needs a random backbone .*; write finetune"),
                                       (drawn, "finetune", "finetune needs a trained backbone, .*; write scratch"),
                                       (replace(jepa, run="abc"), "linear", "no finished pre-training 'abc'")):
        with pytest.raises(UserError, match=words):
            evaluator.evaluate(evaluator.load(protocol))
    assert drawn.load("scratch").evaluation.replace(name="") == jepa.load("finetune").evaluation.replace(name="")
    a, b = drawn.finish(*(drawn.load("scratch", seed=seed) for seed in range(2)))
    assert not np.array_equal(a.predictions["p_test"], b.predictions["p_test"])


def test_one_command_evaluates_several_tasks_protocols_and_seeds(jepa: Evaluator,
                                                                 command: Callable[..., tuple[int, str, str]]) -> None:
    (jepa.workspace.work / "stores").symlink_to(jepa.store.folder.parent)
    code, out, _ = command(
        "evaluate", jepa.run, "--store", "two", "--work", jepa.workspace.work, "--results", jepa.workspace.results,
        "--device", "cpu", "--task", "pitch", "--task", "form", "--protocol", "linear", "--protocol", "knn",
        "--seed", 3, "--seeds", 2, *(word for setting in SHORT for word in ("--set", setting)))
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 6 == len({line.split()[1] for line in lines})  # neighbours are the same for every seed
    assert "(knn form seed 3): macro AUROC" in lines[-1]
