"""Evaluations end with the same bytes however often they are stopped; each result is written once, with its files."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import SHORT, Finished, call_at_step, finish, list_states, load, load_group
from torch import Tensor

from bench import cli
from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.data.store import Store
from bench.evaluation import artifacts, finetune, frozen, heads, metrics
from bench.evaluation.job import Job
from bench.evaluation.protocols import derive_linear
from bench.evaluation.runner import evaluate, group_configs
from bench.runs import results
from bench.runs.config import EvaluationConfig, find_methods, run_id
from bench.runs.source import hash_source
from bench.runs.workspace import Workspace, evaluation_folder, run_folder
from bench.training import optim


def stop(signum: int = signal.SIGTERM) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


@pytest.fixture
def group(run: str, two: Store) -> list[EvaluationConfig]:
    """Linear and knn evaluations of two tasks."""
    return [*load_group(two, run), *load_group(two, run, protocols=("knn",), seeds=1)]


@pytest.fixture
def straight(two: Store, workspace: Workspace, group: list[EvaluationConfig]) -> list[tuple[Any, ...]]:
    """What the group left that nothing interrupted."""
    return [each.state() for each in finish(two, workspace, *group)]


@pytest.fixture
def again(workspace: Workspace) -> Workspace:
    """The same workspace without results."""
    return replace(workspace, results=workspace.results / "again")


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_an_evaluation_leaves_a_result_and_its_predictions(run: str, two: Store, workspace: Workspace, protocol: str) -> None:
    (made,) = finish(two, workspace, load(two, run, protocol))
    assert {p.name for p in made.folder.iterdir()} == {"predictions.npz", "weights.pt", "config.json", "lock"}
    assert made.content["pretrain_config"]["method"]["name"] == "jepa"
    assert made.content["provenance"]["source"] == hash_source(find_methods()["jepa"])
    assert made.result["records"] == {"train": 64, "validation": 8, "test": 8}
    assert made.predictions["record_id_test"].tolist() == [f"r{i}" for i in range(72, 80)]
    assert made.predictions["classes"].tolist() == ["high", "low", "odd"]
    p, y = made.predictions["p_test"], made.predictions["y_test"].astype(np.int64)
    assert ((p > 0) & (p < 1)).all()
    score = metrics.score(y, p)
    assert (made.result["macro_auroc"], made.result["interval"]) == (score.macro, [score.lower, score.upper])
    assert made.result["replicates"] == pytest.approx(score.replicates, abs=5e-7)
    assert made.result["per_class"]["odd"]["auroc"] == score.per_class[2]
    assert made.result["normalisation"]["sd"] == two.sd.tolist()
    validation = metrics.auroc(made.predictions["y_validation"].astype(np.int64), made.predictions["p_validation"])
    assert made.result["validation_macro_auroc"] == pytest.approx(validation.mean(), abs=1e-12)


def test_the_same_evaluation_gives_the_same_bytes_and_another_seed_others(run: str, two: Store, workspace: Workspace,
                                                                          again: Workspace) -> None:
    (first,), (second,) = (finish(two, each, load(two, run)) for each in (workspace, again))
    (other,) = finish(two, workspace, load(two, run, seed=1))
    assert first.state() == second.state()
    assert not np.array_equal(first.predictions["p_test"], other.predictions["p_test"])


def test_what_has_a_result_does_not_run_again_when_more_is_asked_for(run: str, two: Store, workspace: Workspace,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    configs = load_group(two, run)
    before = [each.state() for each in finish(two, workspace, *configs[:2])]
    with monkeypatch.context() as m:
        m.setattr(frozen, "evaluate", lambda *a: pytest.fail("ran again"))
        finish(two, workspace, *configs[:2])
    after = finish(two, workspace, *configs)
    assert [each.state() for each in after[:2]] == before
    assert after[2].result["together"] == 2


# stopped and killed


@pytest.mark.parametrize(("protocol", "signum"), [("linear", signal.SIGTERM), ("finetune", signal.SIGUSR2)])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(run: str, two: Store, workspace: Workspace, again: Workspace,
                                                            protocol: str, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(two, run, protocol, *(["evaluation.dropout=0.2"] if protocol == "finetune" else []))
    (straight,) = finish(two, workspace, config)
    before = straight.state()
    (straight.folder / "predictions.npz").unlink()
    for step in (2, 4):  # of those that are left
        with monkeypatch.context() as m:
            call_at_step(m, step, stop(signum))
            with pytest.raises(Interrupted, match=r"at step \d of 9") as caught:
                evaluate([config], two, again)
        assert caught.value.exit_code == 128 + signum
        assert (straight.folder / "state.pt").is_file()
    assert finish(two, again, config)[0].state() == before
    assert not (straight.folder / "state.pt").exists()


def test_a_group_stopped_anywhere_ends_with_the_same_bytes(
        run: str, two: Store, group: list[EvaluationConfig], straight: list[tuple[Any, ...]], again: Workspace,
        monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = run_folder(again.work, run) / "evaluations"
    for step in (1, 4, 6):
        with monkeypatch.context() as m:
            call_at_step(m, step, stop())
            with pytest.raises(Interrupted, match="the same command continues"):
                evaluate(group, two, again)
        assert len(list_states(evaluations)) == 1
    assert not list(again.results.glob("*.json"))
    assert [each.state() for each in finish(two, again, *group)] == straight
    assert not list(evaluations.glob("group-*"))


@pytest.mark.parametrize("features", ["exact", "cached"])
def test_a_group_killed_without_warning_continues_from_its_last_state(
        run: str, two: Store, workspace: Workspace, again: Workspace, features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = load_group(two, run, f"evaluation.features={features}", "evaluation.patience=3")  # some stop early
    expected = [each.state() for each in finish(two, workspace, *configs)]
    again, schedule, steps, kills = replace(again, save_minutes=0.0), optim.schedule_, list[int](), 0

    def die(optimiser: Any, taken: int, settings: Any) -> float:
        steps.append(taken)
        if len(steps) % 11 == 0:
            raise KeyboardInterrupt
        return schedule(optimiser, taken, settings)

    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", die)
        while True:
            try:
                evaluate(configs, two, again)
                break
            except KeyboardInterrupt:
                kills += 1
    assert kills >= 1
    assert [each.state() for each in finish(two, again, *configs)] == expected


@pytest.mark.parametrize("written", [0, 1, 4])
def test_a_group_killed_between_its_results_continues_from_its_choice(
        two: Store, group: list[EvaluationConfig], straight: list[tuple[Any, ...]], again: Workspace, written: int,
        monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = results.write_result, []

    def die(*arguments: Any) -> Path:
        calls.append(1)
        if len(calls) > written:
            raise KeyboardInterrupt
        return write(*arguments)

    with monkeypatch.context() as m:
        m.setattr(results, "write_result", die)
        with pytest.raises(KeyboardInterrupt):
            evaluate(group, two, again)
    assert len(list(again.results.glob("*.json"))) == written
    monkeypatch.setattr(optim, "schedule_", lambda *_: pytest.fail("trained again"))
    assert [each.state() for each in finish(two, again, *group)] == straight


def test_what_a_stopped_group_saved_is_removed_once_another_has_written_its_results(
        run: str, two: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    configs, evaluations = load_group(two, run, seeds=3), run_folder(workspace.work, run) / "evaluations"
    with monkeypatch.context() as m:
        call_at_step(m, 3, stop())
        with pytest.raises(Interrupted):
            evaluate(configs[:4], two, workspace)
    assert list_states(evaluations)
    evaluate(configs[:3], two, workspace)
    assert list_states(evaluations)  # its fourth is still to come
    evaluate(configs, two, workspace)
    assert not list(evaluations.glob("group-*"))


def test_a_damaged_state_starts_the_evaluation_again_and_says_so(run: str, two: Store, workspace: Workspace, again: Workspace,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (straight,) = finish(two, workspace, load(two, run))
    (straight.folder / "state.pt").write_bytes(b"damaged")
    (straight.folder / ".state.pt.x.tmp").write_bytes(b"half")
    assert finish(two, again, load(two, run))[0].raw == straight.raw
    assert "starting again" in capsys.readouterr().err
    assert not list(straight.folder.glob(".*.tmp"))


def test_two_calls_with_an_evaluation_in_common_do_not_run_at_once(run: str, two: Store, workspace: Workspace,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    configs, choose = load_group(two, run), frozen.choose

    def second(*arguments: Any) -> Any:
        with pytest.raises(UserError, match=rf"evaluation {run_id(configs[1])} is being worked on by another process"):
            evaluate(configs[1:2], two, workspace)
        return choose(*arguments)

    monkeypatch.setattr(frozen, "choose", second)
    evaluate(configs, two, workspace)


def test_predictions_are_written_whole(run: str, two: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write = artifacts.replace_file

    def replace_file(path: Path) -> Any:
        if path.name == "predictions.npz":
            monkeypatch.setattr(os, "fsync", fail)
        return write(path)

    monkeypatch.setattr(artifacts, "replace_file", replace_file)
    with pytest.raises(OSError, match="No space left"):
        evaluate([load(two, run)], two, workspace)
    assert not list((run_folder(workspace.work, run) / "evaluations").rglob("predictions.npz*"))


def test_a_loss_that_is_no_number_stops_the_evaluation_and_leaves_its_reason(run: str, two: Store, workspace: Workspace,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads.AttentiveHead, "forward", lambda self, tokens, crops=1:
                        tokens[::crops, 0] @ self.proj.weight.mT * torch.nan)
    config = load(two, run)
    with pytest.raises(UserError, match="the loss of step 0 is nan: evaluation stopped; lower"):
        evaluate([config], two, workspace)
    reason = evaluation_folder(workspace.work, run, run_id(config)) / "error.txt"
    assert "the loss of step 0 is nan" in reason.read_text()
    assert not list(workspace.results.glob("*.json"))


# what runs in one go, and after what


def test_what_runs_in_one_go_reads_the_same_crops_of_the_same_backbone(two: Store) -> None:
    first = load(two, "a")
    same = [load(two, "a", seed=1), load(two, "a", task="form"), load(two, "a", "linear-mean"), load(two, "a", "knn"),
            load(two, "a", "linear", "evaluation.lr=1")]
    apart = [load(two, "b"), load(two, "a", "finetune"), load(two, "a", "finetune", seed=1), load(two, "a", "linear", "at=0.5"),
             *(load(two, "a", "linear", f"evaluation.{change}") for change in (
                 "features=cached", "precision=bfloat16", "crop_seconds=5.0", "stride_seconds=2.0"))]
    assert group_configs([first, *same, first]) == [[first, *same]]
    assert sorted(map(len, group_configs([first, *apart]))) == [1] * 9
    assert [group[0].evaluation.frozen for group in group_configs([*apart, first])] == [True] * 7 + [False] * 2


def test_finetune_after_linear_starts_from_the_chosen_head_and_runs_what_it_starts_from(
        run: str, two: Store, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(two, run, "finetune-after-linear", *(s.replace("evaluation.", "after.") for s in SHORT), seed=1)
    linear = load(two, run, seed=1)
    assert derive_linear(config) == linear
    started: list[dict[str, Tensor]] = []
    fit = finetune.fit

    def note(job: Job, model: heads.Classifier) -> Any:
        started.append({k: v.clone() for k, v in model.head.state_dict().items()})
        return fit(job, model)

    monkeypatch.setattr(finetune, "fit", note)
    evaluate([config], two, workspace)
    chosen = artifacts.read_linear_head(linear, workspace)
    assert started[0].keys() == chosen.keys()
    assert all(torch.equal(started[0][k], v) for k, v in chosen.items())
    (Finished(linear, workspace).folder / "weights.pt").unlink()
    (workspace.results / f"{run_id(config)}.json").unlink()
    with pytest.raises(UserError, match=rf"weights.pt is missing, .*; remove .*{run_id(linear)}.json to run it again"):
        evaluate([config], two, workspace)


def test_scratch_goes_with_the_random_backbone_alone_and_its_finetune_is_scratch(run: str, random: str, two: Store,
                                                                                 workspace: Workspace) -> None:
    for protocol, name, words in (("scratch", run, "scratch draws all weights anew: .*; write finetune"),
                                  ("finetune", random, "finetune needs a backbone that has learned .*; write scratch"),
                                  ("finetune-after-linear", random, "finetune-after-linear needs .*; write scratch"),
                                  ("linear", "abc", "no finished pre-training 'abc'")):
        with pytest.raises(UserError, match=words):
            evaluate([load(two, name, protocol)], two, workspace)
    scratch, tuned = load(two, random, "scratch").evaluation, load(two, run, "finetune").evaluation
    assert scratch.replace(name="") == tuned.replace(name="")
    a, b = finish(two, workspace, *(load(two, random, "scratch", seed=seed) for seed in range(2)))
    assert not np.array_equal(a.predictions["p_test"], b.predictions["p_test"])


def test_one_command_evaluates_several_tasks_protocols_and_seeds(run: str, two: Store, workspace: Workspace,
                                                                 monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.work / "stores").mkdir()
    (workspace.work / "stores" / "two").symlink_to(two.folder)
    words = ["ecgssl", "evaluate", run, "--store", "two", "--work", workspace.work, "--results", workspace.results,
             "--device", "cpu", "--task", "pitch", "--task", "form", "--protocol", "linear", "--protocol", "knn",
             "--seed", 3, "--seeds", 2, *(word for setting in SHORT for word in ("--set", setting))]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 == len({line.split()[1] for line in printed})  # neighbours are the same for every seed
    assert "(knn form seed 3): macro AUROC" in printed[-1]
