"""Heads that train in one go are those that would have trained alone, and no test record is read before the choice."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluations import Evaluator, Finished
from test_heads import project_all
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.rng import derive
from bench.data.loader import Crops
from bench.data.store import Store
from bench.encoders.vit import Encoder
from bench.evaluation import finetune, frozen, heads, metrics, reader, tasks
from bench.evaluation.crops import Epochs, lay_grid
from bench.evaluation.diagnostics import diagnose
from bench.evaluation.inputs import build_encoder, load_pretrained, open_task
from bench.evaluation.job import Job
from bench.evaluation.stack import HEAD_STREAM
from bench.evaluation.train_heads import EPOCHS_SEED
from bench.runs.config import PretrainConfig, run_id
from bench.runs.workspace import Workspace, evaluation_folder, run_folder

CPU = torch.device("cpu")


@pytest.fixture
def jepa(run: str, two: Store, workspace: Workspace) -> Evaluator:
    return Evaluator(run, two, workspace)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def open_inputs(left: Finished, evaluator: Evaluator) -> tuple[Encoder, tasks.Task]:
    """The frozen encoder and the task of an evaluation."""
    pretrained = load_pretrained(evaluator.workspace.work, left.config)
    task = open_task(left.config, PretrainConfig.model_validate(pretrained.meta["config"]), evaluator.store)
    return build_encoder(pretrained, left.config.seed).eval().requires_grad_(False), task


def compute_features(encoder: Encoder, store: Store, rows: np.ndarray) -> Tensor:
    """(n, D) mean tokens of the rows: of 3 crops of 2.5 s in 5 s."""
    crops = Crops(store, 250, CPU)
    with torch.no_grad():
        return encoder(torch.cat(list(lay_grid(crops, rows, 125).batches(crops, 64)))).mean(1).view(len(rows), 3, -1).mean(1)


@pytest.mark.parametrize("features", ["exact", "cached"])
def test_heads_of_seeds_tasks_kinds_and_a_grid_are_each_what_they_are_alone(jepa: Evaluator, features: str) -> None:
    settings = ["evaluation.grid.lr=[1e-2, 1e-3]", f"evaluation.features={features}"]
    group = [jepa.load("linear", *settings), jepa.load("linear", *settings, seed=1),
             jepa.load("linear", *settings, task="form"), jepa.load("linear-mean", *settings)]
    all_at_once = jepa.finish(*group)
    assert {each.result["together"] for each in all_at_once} == {4}
    for config, each in zip(group, all_at_once, strict=True):
        (alone,) = jepa.elsewhere().finish(config)
        for part in ("p_validation", "p_test"):
            assert np.abs(logit(alone.predictions[part]) - logit(each.predictions[part])).max() < 1e-5
        for key in ("best_step", "chosen", "steps"):
            assert each.result[key] == alone.result[key]
    assert len({tuple(each.result["curve"]["loss"]) for each in all_at_once}) == 4


def test_a_head_is_that_of_a_naive_loop(jepa: Evaluator) -> None:
    """One unstacked head, its tokens projected, the loop of torch, crops one by one."""
    (left,) = jepa.finish(jepa.load(task="form", seed=1))
    encoder, task = open_inputs(left, jepa)
    torch.manual_seed(derive(1, *HEAD_STREAM))
    head = heads.build("attentive", encoder, len(task.classes))
    assert isinstance(head, heads.AttentiveHead)
    decay, rest = [head.q.weight, head.kv.weight, head.proj.weight], [head.query]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-2, betas=(0.9, 0.999), foreach=False)
    crops, stream = Crops(jepa.store, 250, CPU), list[tuple[int, int]]()
    epochs = Epochs(np.arange(64), EPOCHS_SEED)
    for epoch in range(9):
        own = [(row, epochs.starts(epoch, np.full(64, 251))[row]) for row in epochs.order(epoch) if row in task.train.rows]
        stream += own[: len(own) // 10 * 10]
    losses = []
    for batch in (stream[i: i + 10] for i in range(0, 90, 10)):
        x = crops.normalise(crops.raw(*(torch.tensor(each) for each in zip(*batch, strict=True))))
        y = torch.from_numpy(np.stack([task.train.labels[list(task.train.rows).index(row)] for row, _ in batch]))
        loss = F.binary_cross_entropy_with_logits(project_all(head, encoder(x, registers=True)), y)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    assert left.result["curve"]["loss"] == pytest.approx(np.reshape(losses, (3, 3)).mean(1), abs=1e-6)


def test_the_encoder_is_the_one_that_the_method_evaluates_and_moves_where_it_is_fine_tuned(jepa: Evaluator) -> None:
    linear, tuned = jepa.finish(jepa.load(), jepa.load("finetune"))
    trained = torch.load(run_folder(jepa.workspace.work, jepa.run) / "final.pt", weights_only=True)["tensors"]
    moved = torch.load(tuned.folder / "weights.pt", weights_only=True)["tensors"]
    for key, value in open_inputs(linear, jepa)[0].state_dict().items():
        assert torch.equal(value, trained[f"model/target_encoder.{key}"]), key
        assert not torch.equal(value, moved[f"encoder.{key}"]), key  # the register's head sees every weight


def test_seeds_of_a_random_backbone_are_backbones_and_methods_meet_the_same_head(
        jepa: Evaluator, random: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads_drawn, build, of_random = list[Tensor](), heads.build, replace(jepa, run=random)
    monkeypatch.setattr(heads, "build", lambda *a: heads_drawn.append(
        (head := build(*a)).get_parameter("query").clone()) or head)
    group = [*of_random.finish(*of_random.load_group()), *jepa.finish(*jepa.load_group())]
    assert [each.result["together"] for each in group] == [2] * 4 + [4] * 4  # of `random` the tasks of one seed
    assert torch.equal(heads_drawn[0], heads_drawn[4]) and not torch.equal(heads_drawn[0], heads_drawn[2])
    encoders = [open_inputs(each, jepa)[0].get_parameter("blocks.0.qkv.weight") for each in group]
    assert not torch.equal(encoders[0], encoders[1]) and torch.equal(encoders[4], encoders[5])


# choosing


def test_the_grid_point_with_the_best_validation_is_tested_and_named(jepa: Evaluator) -> None:
    (left,) = jepa.finish(jepa.load("linear", "evaluation.grid={lr: [1e-5, 3e-2], weight_decay: [0.0, 0.1]}"))
    tried, result = left.result["grid"], left.result
    assert [(p["lr"], p["weight_decay"]) for p in tried] == [(1e-5, 0.0), (1e-5, 0.1), (3e-2, 0.0), (3e-2, 0.1)]
    best = max(tried, key=lambda p: p["validation_macro_auroc"])
    assert result["chosen"] == {k: best[k] for k in ("lr", "weight_decay")}
    assert (result["best_step"], result["validation_macro_auroc"]) == (best["best_step"], best["validation_macro_auroc"])
    (single,) = jepa.finish(jepa.load("linear", *(
        f"evaluation.{prefix}{key}={value}" for key, value in result["chosen"].items() for prefix in ("", "final_"))))
    assert single.result["macro_auroc"] == pytest.approx(result["macro_auroc"])
    assert single.result["curve"]["loss"] == pytest.approx(result["curve"]["loss"], abs=1e-6)


def script(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the validations have these macro AUROCs."""
    left = iter(values)
    monkeypatch.setattr(tasks, "selection", lambda kind, labels, p: next(left))


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_the_best_validation_step_is_tested_and_training_stops_after_patience_steps_without_a_gain(
        jepa: Evaluator, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    script(monkeypatch, [0.5, 0.8, 0.7, 0.8, 0.6, 0.9])
    (best,) = jepa.finish(jepa.load(protocol, "evaluation.steps=18", "evaluation.patience=9"))
    assert (best.result["best_step"], best.result["validation_macro_auroc"]) == (6, 0.8)  # the first of two equal ones
    assert best.result["curve"]["step"] == [3, 6, 9, 12, 15]
    script(monkeypatch, [0.5, 0.8])  # constant lr: the weights of step 6 are those of a run that ends there
    flat = f"evaluation.final_weight_decay={best.config.evaluation.weight_decay}"
    (again,) = jepa.finish(jepa.load(protocol, "evaluation.steps=6", flat))
    assert np.array_equal(best.predictions["p_test"], again.predictions["p_test"])


def test_no_record_of_the_test_fold_is_read_before_the_choice_is_final(jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[set[int]] = []
    raw = Crops.raw

    def note(self: Crops, rows: Tensor, starts: Tensor) -> Tensor:
        read[-1].update(rows.tolist())
        return raw(self, rows, starts)

    def watch(fit: Callable[..., Any]) -> Callable[..., Any]:
        def watched(job: Job, other: Any) -> Any:
            assert not any(hasattr(task, "test") for task in job.tasks.values())  # the test fold is not even handed over
            out = fit(job, other)
            read.append(set())
            return out
        return watched

    monkeypatch.setattr(Crops, "raw", note)
    monkeypatch.setattr(frozen, "choose", watch(frozen.choose))
    monkeypatch.setattr(finetune, "fit", watch(finetune.fit))
    test = set(range(72, 80))
    for protocols in (("linear", "knn"), ("finetune",)):
        read[:] = [set()]
        jepa.evaluate(*map(jepa.load, protocols))
        assert read[0] and not read[0] & test
        assert set.union(*read[1:]) & test


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_the_labels_of_the_test_fold_influence_nothing_before_the_score(jepa: Evaluator, protocol: str,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    load_task = tasks.load_task

    def permute(*arguments: Any, **settings: Any) -> tasks.Task:
        task = load_task(*arguments, **settings)
        return replace(task, test=replace(task.test, labels=np.roll(task.test.labels, 1, axis=0)))

    (plain,) = jepa.finish(jepa.load(protocol))
    monkeypatch.setattr(tasks, "load_task", permute)
    (other,) = jepa.elsewhere().finish(jepa.load(protocol))
    assert np.array_equal(other.predictions["p_test"], plain.predictions["p_test"])
    for key in ("best_step", "curve", "validation_macro_auroc", "steps"):
        assert other.result[key] == plain.result[key]
    assert other.result["macro_auroc"] != plain.result["macro_auroc"]


def test_a_head_that_diverges_fails_alone(jepa: Evaluator) -> None:
    wild = jepa.load("linear", "evaluation.lr=1e38", "evaluation.final_lr=1e38", "evaluation.clip=0.0")
    tried = jepa.load("linear", "evaluation.grid.lr=[1e-2, 1e38]", "evaluation.clip=0.0", task="form")
    with pytest.raises(UserError, match=f"evaluation stopped; lower evaluation.lr .evaluation {run_id(wild)}."):
        jepa.evaluate(jepa.load(), wild, tried)
    assert jepa.results() == {run_id(jepa.load()), run_id(tried)}
    error = evaluation_folder(jepa.workspace.work, jepa.run, run_id(wild)) / "error.txt"
    assert "lower evaluation.lr" in error.read_text()
    grid = Finished(tried, jepa.workspace).result["grid"]
    assert "failure" not in grid[0] and "lower evaluation.lr" in grid[1]["failure"]


def test_neighbours_vote_by_the_cosine_of_their_features_and_k_is_chosen_on_the_validation_fold(jepa: Evaluator) -> None:
    (left,) = jepa.finish(jepa.load("knn", "evaluation.neighbours.k=[1, 5, 30]"))
    encoder, task = open_inputs(left, jepa)
    bank, features = (compute_features(encoder, jepa.store, split.rows) for split in (task.train, task.validation))
    assert left.result["diagnostics"]["sd"] == pytest.approx(diagnose(features)["sd"], abs=1e-4)
    similar, values = (F.normalize(features) @ F.normalize(bank).T).numpy(), {}
    for k in (1, 5, 30):
        p = np.zeros((8, 3))
        for i, row in enumerate(similar):
            for j in np.argsort(-row)[:k]:
                p[i] += np.exp(row[j] / 0.07) * task.train.labels[j]
        values[k] = metrics.auroc(task.validation.labels.astype(int), p / p.sum(1, keepdims=True)).mean()
        if k == left.result["chosen"]["k"]:
            assert left.predictions["p_validation"] == pytest.approx(p / p.sum(1, keepdims=True), abs=1e-5)
    assert {p["k"]: p["validation_macro_auroc"] for p in left.result["grid"]} == pytest.approx(values)
    assert left.result["chosen"]["k"] == max(values, key=lambda k: values[k])


def test_tokens_beyond_memory_lie_in_a_file_and_change_no_byte(jepa: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    group = [*jepa.load_group(seeds=1), jepa.load("linear", "evaluation.features=cached")]
    before = [each.state() for each in jepa.finish(*group)]
    monkeypatch.setattr(reader, "IN_MEMORY", 0)
    assert [each.state() for each in jepa.elsewhere().finish(*group)] == before
    assert not list(jepa.workspace.work.rglob("tmp*"))

    def fail(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        jepa.elsewhere("full").evaluate(*group)
    assert "evaluations" in str(caught.value.filename)


def test_bfloat16_gives_nearly_the_same_losses_and_auto_says_what_it_became(jepa: Evaluator,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    single, half = jepa.finish(*(jepa.load("linear", f"evaluation.precision={each}") for each in ("float32", "bfloat16")))
    assert 0 < np.abs(np.subtract(single.result["curve"]["loss"], half.result["curve"]["loss"])).max() < 0.01
    monkeypatch.setattr("bench.training.optim.has_bfloat16", lambda device: True)
    (auto,) = jepa.finish(jepa.load("linear", "evaluation.precision=auto"))
    assert (auto.result["precision"], auto.result["curve"]) == ("bfloat16", half.result["curve"])


def test_pitches_can_be_learned(jepa: Evaluator) -> None:
    (left,) = jepa.finish(jepa.load("finetune", "evaluation.steps=60", "evaluation.patience=60", "evaluation.validate_every=15",
                                    "evaluation.lr=3e-3", "evaluation.final_lr=3e-3"))
    assert left.result["macro_auroc"] > 0.9
    assert left.result["curve"]["loss"][-1] < 0.7 * left.result["curve"]["loss"][0]
