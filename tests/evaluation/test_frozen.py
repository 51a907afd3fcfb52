"""Heads that train together are those that would have trained alone, however often they are killed."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import configs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corpora import array_corpus
from torch import Tensor, nn

from bench import cli
from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.loader import Crops
from bench.data.store import Store, open_by_name
from bench.encoders import vit
from bench.evaluation import finetune, frozen, heads, metrics, tasks
from bench.evaluation import runner as evaluation
from bench.evaluation.crops import Epochs, grid
from bench.evaluation.diagnostics import diagnose
from bench.runs import results as record
from bench.runs.config import Config, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import optim
from bench.training import trainer as pretrain

SHORT = ["evaluation.steps=9", "evaluation.batch=10", "evaluation.validate_every=3", "evaluation.patience=9",
         "evaluation.lr=1e-2", "evaluation.final_lr=1e-2", "evaluation.warmup_steps=0"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores with `two`: 80 records of 5 s at 100 Hz; every one has a `pitch`, every second one a `form`."""
    rng, at = np.random.default_rng(0), tmp_path_factory.mktemp("two")
    pitch = rng.integers(3, size=80)
    pitch[[64, 65, 66, 72, 73, 74]] = [0, 1, 2, 0, 1, 2]
    time_s = np.arange(500) / 100
    mv = rng.normal(0, 0.2, (80, 12, 500)) + np.sin(2 * np.pi * np.array([2, 11, 23])[pitch, None, None] * time_s)
    forms = ["", "flat", "", "steep"] * 20
    array_corpus(at / "corpus", np.rint(mv * 1000).astype(np.int16), {
        "fold": [i // 8 + 1 for i in range(80)], "pitch": [("low", "high", "odd")[p] for p in pitch], "form": forms},
        name="two", tasks=["pitch", "form"])
    prepare(open_corpus("array", at / "corpus", None), at / "stores")
    return at / "stores"


@pytest.fixture
def two(folder: Path) -> Store:
    return open_by_name(folder, "two")


@pytest.fixture
def run(configure: Callable[..., Config], tiny: Store, where: Workspace) -> str:
    """run_id of a pre-training of two steps."""
    return pretrain.pretrain(configure("jepa", "optim.steps=2", "optim.warmup_steps=0"), [tiny], where).run_id


def configs_of(store: Store, run: str, *overrides: str, protocols: tuple[str, ...] = ("linear", "linear-mean"),
               seeds: int = 2) -> list[Config]:
    return [configs.evaluation(protocol, task, run, store, seed, [*SHORT, *overrides])
            for protocol in protocols for task in ("pitch", "form") for seed in range(seeds)]


def left(names: list[str], run: str, where: Workspace) -> dict[str, Any]:
    """What each evaluation left, without what the clock and the machine decide."""
    out = {}
    for name in names:
        folder = run_folder(where.work, run) / "evaluations" / name
        made = json.loads(record.path(where.results, name).read_text())
        del made["provenance"], made["result"]["seconds"], made["result"]["peak_memory_mb"]
        out[name] = (made, (folder / "predictions.npz").read_bytes(), (folder / "weights.pt").read_bytes())
    return out


def predictions(name: str, run: str, where: Workspace) -> dict[str, np.ndarray]:
    with np.load(run_folder(where.work, run) / "evaluations" / name / "predictions.npz") as content:
        return dict(content)


def result(name: str, where: Workspace) -> dict[str, Any]:
    return json.loads(record.path(where.results, name).read_text())["result"]


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


# together and alone


@pytest.mark.parametrize("features", ["exact", "cached"])
def test_heads_of_seeds_tasks_kinds_and_a_grid_are_each_what_they_are_alone(run: str, two: Store, where: Workspace,
                                                                            features: str) -> None:
    made = configs_of(two, run, "evaluation.grid.lr=[1e-2, 1e-3]", f"evaluation.features={features}")
    names = evaluation.evaluate(made, two, where)
    assert names == [run_id(c) for c in made]
    assert {result(name, where)["together"] for name in names} == {8}
    apart = replace(where, results=where.results / "alone")
    together = {name: predictions(name, run, where) for name in names}
    for config, name in zip(made, names, strict=True):
        evaluation.evaluate([config], two, apart)
        alone = predictions(name, run, where)
        for part in ("validation", "test"):
            assert np.abs(logit(alone[f"p_{part}"]) - logit(together[name][f"p_{part}"])).max() < 1e-5
        for key in ("best_step", "chosen", "steps"):
            assert result(name, where)[key] == result(name, apart)[key]
    curves = [tuple(result(name, where)["curve"]["loss"]) for name in names]
    assert len(set(curves)) == 8


def plain(head: heads.AttentiveHead, tokens: Tensor) -> Tensor:
    """The attentive head as it is published: every token is projected."""
    q = head.q(head.query).view(1, head.heads, 1, -1).expand(len(tokens), -1, -1, -1)
    k, v = head.kv(tokens).unflatten(2, (2, head.heads, -1)).permute(2, 0, 3, 1, 4)
    return head.proj(F.scaled_dot_product_attention(q, k, v).flatten(1))


def test_a_head_is_that_of_a_naive_loop(run: str, two: Store, where: Workspace) -> None:
    """One unstacked head, its tokens projected, the loop of torch, crops one by one."""
    config = configs.evaluation("linear", "form", run, two, 1, SHORT)
    (name,) = evaluation.evaluate([config], two, where)
    trained = evaluation.load(run_folder(where.work, run) / "final.pt", config)
    encoder = evaluation.backbone(trained, 1, 0.0).eval().requires_grad_(False)
    task = evaluation.open_task(config, trained.meta["config"], two)
    torch.manual_seed(optim.derive(1, frozen.WEIGHTS, 1))
    head = heads.build("attentive", encoder, len(task.classes))
    assert isinstance(head, heads.AttentiveHead)
    decay, rest = [head.q.weight, head.kv.weight, head.proj.weight], [head.query]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-2, betas=(0.9, 0.999), foreach=False)
    crops, every = Crops(two, 250, torch.device("cpu")), np.arange(64)
    epochs, stream = Epochs(every, frozen.SEQUENCE), []
    for epoch in range(9):
        own = [(row, epochs.starts(epoch, np.full(64, 251))[row]) for row in epochs.order(epoch) if row in task.train.rows]
        stream += own[: len(own) // 10 * 10]
    batches = [stream[i: i + 10] for i in range(0, 90, 10)]
    losses = []
    for batch in batches:
        x = crops.normalise(crops.raw(*(torch.tensor(each) for each in zip(*batch, strict=True))))
        y = torch.from_numpy(np.stack([task.train.labels[list(task.train.rows).index(row)] for row, _ in batch]))
        loss = F.binary_cross_entropy_with_logits(plain(head, encoder(x, registers=True)), y)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    curve = result(name, where)["curve"]["loss"]
    assert curve == pytest.approx(np.reshape(losses, (3, 3)).mean(1), abs=1e-6)


def test_folding_the_query_changes_neither_logits_nor_gradients() -> None:
    torch.manual_seed(0)
    encoder = vit.Encoder(vit.Size(48, 1, 4))
    made = [heads.build("attentive", encoder, 5).double() for _ in range(3)]
    tokens = torch.randn(6, 11, 48, dtype=torch.float64, requires_grad=True)
    stacked = heads.stack(made)
    logits = stacked(tokens)
    assert logits.shape == (3, 6, 5)
    logits.sin().sum().backward()
    folded, tokens.grad = tokens.grad, None
    for s, head in enumerate(made):
        expected = plain(head, tokens)  # type: ignore[arg-type]
        assert (logits[s] - expected).abs().max() < 1e-14
        assert (head(tokens) - expected).abs().max() < 1e-14
        expected.sin().sum().backward()
        for key, parameter in head.named_parameters():
            assert torch.allclose(stacked.get_parameter(key).grad[s], parameter.grad, rtol=0, atol=1e-13), key
    assert torch.allclose(folded, tokens.grad, rtol=0, atol=1e-13)


def test_each_head_of_a_stack_is_clipped_by_its_own_norm() -> None:
    encoder = vit.Encoder(vit.Size(16, 1, 2))
    made = [heads.build("attentive", encoder, 3) for _ in range(3)]
    stacked, sizes = heads.stack(made), (0.01, 1.0, 100.0)
    for key, parameter in stacked.named_parameters():
        parameter.grad = torch.stack([torch.full_like(h.get_parameter(key), g) for h, g in zip(made, sizes, strict=True)])
    heads.clip_(stacked, 1.0)
    for s, (head, g) in enumerate(zip(made, sizes, strict=True)):
        for parameter in head.parameters():
            parameter.grad = torch.full_like(parameter, g)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for key, parameter in head.named_parameters():
            assert torch.allclose(stacked.get_parameter(key).grad[s], parameter.grad, rtol=1e-6), key


def test_the_mean_head_leaves_the_registers_out() -> None:
    encoder = vit.Encoder(vit.Size(16, 1, 2), registers=2)
    head, tokens = heads.build("mean", encoder, 3), torch.randn(4, 12, 16)
    assert torch.allclose(head(tokens), tokens[:, 2:].mean(1) @ head.proj.weight.T)


def test_a_batch_of_a_task_is_the_next_of_its_records_in_the_order_of_all(two: Store) -> None:
    rows, order = np.arange(64), Epochs(np.arange(64), 0).order(3)
    labels = np.eye(80, dtype=np.float32)[:, :64]
    split = tasks.Split(np.arange(1, 64, 2), labels[1:64:2])  # 32 records in batches of 10: 2 are left out
    taken: list[list[int]] = []
    stack = SimpleNamespace(done=False, taken=1, settings={"validate_every": 5, "steps": 9},
                            step=lambda tokens, y: taken.append([*tokens[:, 0].int().tolist(), *y.argmax(1).tolist()]))
    feed = frozen.Feed(frozen.Visible("multi-label", [], split, split), rows, 10, [stack], torch.device("cpu"))
    wanted = np.flatnonzero(feed.wanted(order))
    for part in np.split(wanted, [4, 17]):
        feed.add(torch.from_numpy(order[part])[:, None].float(), order[part], None)
    own = [row for row in order if row % 2]
    assert taken == [[*own[i: i + 10]] * 2 for i in (0, 10, 20)]
    assert len(feed.records) == 0


# choosing


def test_the_grid_point_with_the_best_validation_is_tested_and_recorded(run: str, two: Store, where: Workspace) -> None:
    config = configs.evaluation("linear", "pitch", run, two, 0, [
        *SHORT, "evaluation.grid={lr: [1e-5, 3e-2], weight_decay: [0.0, 0.1]}"])
    found = result(evaluation.evaluate([config], two, where)[0], where)
    assert [(p["lr"], p["weight_decay"]) for p in found["grid"]] == [(1e-5, 0.0), (1e-5, 0.1), (3e-2, 0.0), (3e-2, 0.1)]
    best = max(found["grid"], key=lambda p: p["validation_macro_auroc"])
    assert found["chosen"] == {k: best[k] for k in ("lr", "weight_decay")}
    assert (found["best_step"], found["validation_macro_auroc"]) == (best["best_step"], best["validation_macro_auroc"])
    single = configs.evaluation("linear", "pitch", run, two, 0, [
        *SHORT, *(f"evaluation.{k}={v}" for k, v in found["chosen"].items()), f"evaluation.final_lr={best['lr']}",
        f"evaluation.final_weight_decay={best['weight_decay']}"])
    (name,) = evaluation.evaluate([single], two, where)
    assert result(name, where)["macro_auroc"] == pytest.approx(found["macro_auroc"])
    assert result(name, where)["curve"]["loss"] == pytest.approx(found["curve"]["loss"], abs=1e-6)


def test_no_record_of_the_test_fold_is_read_before_the_choice_is_final(run: str, two: Store, where: Workspace,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[set[int]] = [set()]
    raw, frozen_fit, finetune_fit = Crops.raw, frozen.fit, finetune.fit

    def watched(self: Crops, rows: Tensor, starts: Tensor) -> Tensor:
        read[-1].update(rows.tolist())
        return raw(self, rows, starts)

    def ended(fit: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            assert not any(isinstance(each, tasks.Task) for each in arguments)  # it is not even handed over
            out = fit(*arguments)
            read.append(set())
            return out
        return wrapped

    monkeypatch.setattr(Crops, "raw", watched)
    monkeypatch.setattr(frozen, "fit", ended(frozen_fit))
    monkeypatch.setattr(finetune, "fit", ended(finetune_fit))
    test = set(range(72, 80))
    for protocols in (("linear", "knn"), ("finetune",)):
        read[:] = [set()]
        evaluation.evaluate(configs_of(two, run, protocols=protocols, seeds=1)[:: len(protocols)], two, where)
        assert read[0] and all(not (part & test) for part in read[:1])
        assert set.union(*read[1:]) & test


def test_the_record_diagnoses_the_mean_tokens_of_the_validation_records(run: str, two: Store, where: Workspace) -> None:
    (config,) = configs_of(two, run, protocols=("linear",), seeds=1)[:1]
    (name,) = evaluation.evaluate([config], two, where)
    trained = evaluation.load(run_folder(where.work, run) / "final.pt", config)
    with torch.no_grad():
        x = torch.cat(list(grid(Crops(two, 250, torch.device("cpu")), np.arange(64, 72), 125).batches(
            Crops(two, 250, torch.device("cpu")), 64)))
        features = evaluation.backbone(trained, 0, 0.0).eval()(x).mean(1).view(8, 3, -1).mean(1)
    found, expected = result(name, where)["diagnostics"], diagnose(features)
    assert (found["n"], found["rankme"]) == (8, pytest.approx(expected["rankme"], rel=1e-4))
    assert found["sd"] == pytest.approx(expected["sd"], abs=1e-4)


# nearest neighbours


def test_neighbours_vote_by_the_cosine_of_their_features_and_k_is_chosen_on_the_validation_fold(
        run: str, two: Store, where: Workspace) -> None:
    config = configs.evaluation("knn", "pitch", run, two, 0, ["evaluation.neighbours.k=[1, 5, 30]"])
    (name,) = evaluation.evaluate([config], two, where)
    made, found = predictions(name, run, where), result(name, where)
    assert not (run_folder(where.work, run) / "evaluations" / name / "weights.pt").exists()
    trained = evaluation.load(run_folder(where.work, run) / "final.pt", config)
    encoder = evaluation.backbone(trained, 0, 0.0).eval()
    task, crops = evaluation.open_task(config, trained.meta["config"], two), Crops(two, 250, torch.device("cpu"))

    def features(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = torch.cat(list(grid(crops, rows, 125).batches(crops, 64)))
            f = encoder(x).mean(1).view(len(rows), 3, -1).mean(1).numpy()  # 3 crops in 5 s
        return f / np.linalg.norm(f, axis=1, keepdims=True)

    bank, values = features(task.train.rows), {}
    for k in (1, 5, 30):
        cosine = features(task.validation.rows) @ bank.T
        p = np.zeros((8, 3))
        for i, row in enumerate(cosine):
            for j in np.argsort(-row)[:k]:
                p[i] += np.exp(row[j] / 0.07) * task.train.labels[j]
        values[k] = metrics.auroc(task.validation.labels.astype(int), p / p.sum(1, keepdims=True)).mean()
        if k == found["chosen"]["k"]:
            assert made["p_validation"] == pytest.approx(p / p.sum(1, keepdims=True), abs=1e-5)
    assert {p["k"]: p["validation_macro_auroc"] for p in found["grid"]} == pytest.approx(values)
    assert found["chosen"]["k"] == max(values, key=lambda k: values[k])


# cached features


def test_cached_features_of_whole_records_are_the_exact_ones_in_half_precision(run: str, two: Store, where: Workspace) -> None:
    whole = ["evaluation.crop_seconds=5.0", "evaluation.stride_seconds=5.0"]  # one crop, wherever it starts
    made = [configs.evaluation("linear", "pitch", run, two, 0, [*SHORT, *whole, f"evaluation.features={how}"])
            for how in ("exact", "cached")]
    exact, cached = (predictions(name, run, where)["p_test"] for name in evaluation.evaluate(made, two, where))
    assert made[0]["evaluation"] != made[1]["evaluation"]
    assert 0 < np.abs(logit(exact) - logit(cached)).max() < 0.02


def test_cached_training_crops_are_all_those_at_every_stride(run: str, two: Store, where: Workspace,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[np.ndarray] = []
    take = frozen.Kept.take
    monkeypatch.setattr(frozen.Kept, "take", lambda self, crops: taken.append(self.rows[crops]) or take(self, crops))
    monkeypatch.setattr(frozen, "IN_MEMORY", 0)  # in a file
    config = configs.evaluation("linear", "pitch", run, two, 0, [*SHORT, "evaluation.features=cached",
                                                                   "evaluation.batch=64", "evaluation.steps=30",
                                                                   "evaluation.patience=30"])
    starts: set[tuple[int, int]] = set()
    epoch_starts = Epochs.starts

    def note(self: Epochs, epoch: int, choices: np.ndarray) -> np.ndarray:
        assert choices.tolist() == [3] * 64
        out = epoch_starts(self, epoch, choices)
        starts.update(enumerate(out.tolist()))
        return out

    monkeypatch.setattr(Epochs, "starts", note)
    evaluation.evaluate([config], two, where)
    assert starts == {(row, crop) for row in range(64) for crop in range(3)}
    assert not list(run_folder(where.work, run).rglob("tmp*"))


def test_tokens_beyond_memory_lie_in_a_file_and_change_no_byte(run: str, two: Store, where: Workspace,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    made = configs_of(two, run, protocols=("linear",))
    names = evaluation.evaluate(made, two, where)
    before = left(names, run, where)
    monkeypatch.setattr(frozen, "IN_MEMORY", 0)
    other = replace(where, results=where.results / "again")
    evaluation.evaluate(made, two, other)
    assert left(names, run, other) == before


def test_a_disk_too_small_for_the_tokens_is_an_error_that_names_the_folder(run: str, two: Store, where: Workspace,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        evaluation.evaluate(configs_of(two, run, protocols=("linear",)), two, where)
    assert "evaluations" in str(caught.value.filename)


def test_bfloat16_gives_nearly_the_same_losses(run: str, two: Store, where: Workspace) -> None:
    made = [configs.evaluation("linear", "pitch", run, two, 0, [*SHORT, f"evaluation.precision={precision}"])
            for precision in ("float32", "bfloat16")]
    a, b = (np.array(result(name, where)["curve"]["loss"]) for name in evaluation.evaluate(made, two, where))
    assert 0 < np.abs(a - b).max() < 0.01


# killed


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    schedule, calls = optim.schedule_, []

    def send(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return schedule(*arguments)

    monkeypatch.setattr(optim, "schedule_", send)


@pytest.fixture
def straight(run: str, two: Store, where: Workspace) -> SimpleNamespace:
    """A group of linear and knn evaluations that nothing interrupted, and where to run it again."""
    made = [*configs_of(two, run, protocols=("linear",)), *configs_of(two, run, protocols=("knn",), seeds=1)]
    names = evaluation.evaluate(made, two, where)
    for name in names[-2:]:  # of knn nothing trains
        (run_folder(where.work, run) / "evaluations" / name / "weights.pt").write_bytes(b"")
    found = left(names, run, where)
    return SimpleNamespace(configs=made, names=names, left=found, again=replace(where, results=where.results / "again"))


def test_a_group_stopped_anywhere_ends_with_the_same_bytes(run: str, two: Store, straight: SimpleNamespace,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = run_folder(straight.again.work, run) / "evaluations"
    for at in (1, 4, 6):
        with monkeypatch.context() as m:
            stopping(m, at)
            with pytest.raises(Interrupted, match="the same command continues"):
                evaluation.evaluate(straight.configs, two, straight.again)
        assert len(list(evaluations.glob("group-*/state.pt"))) == 1
    assert not straight.again.results.is_dir() or not list(straight.again.results.glob("*.json"))
    evaluation.evaluate(straight.configs, two, straight.again)
    assert left(straight.names, run, straight.again) == straight.left
    assert not list(evaluations.glob("group-*"))


@pytest.mark.parametrize("features", ["exact", "cached"])
def test_a_group_killed_without_warning_continues_from_its_last_state(run: str, two: Store, where: Workspace, features: str,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    made = configs_of(two, run, f"evaluation.features={features}", "evaluation.patience=3")  # some stop early
    names = evaluation.evaluate(made, two, where)
    again = replace(where, results=where.results / "again", save_minutes=0.0)
    expected, schedule, steps = left(names, run, where), optim.schedule_, list[int]()

    def die(optimiser: Any, taken: int, settings: Any) -> float:
        steps.append(taken)
        if len(steps) % 11 == 0:
            raise KeyboardInterrupt
        return schedule(optimiser, taken, settings)

    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", die)
        kills = 0
        while True:
            try:
                evaluation.evaluate(made, two, again)
                break
            except KeyboardInterrupt:
                kills += 1
    assert kills >= 2
    assert left(names, run, again) == expected


@pytest.mark.parametrize("written", [0, 1, 4])
def test_a_group_killed_between_its_records_continues_from_its_choice(run: str, two: Store, straight: SimpleNamespace,
                                                                      monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    write, calls = record.write, []

    def die(*arguments: Any) -> Path:
        calls.append(1)
        if len(calls) > written:
            raise KeyboardInterrupt
        return write(*arguments)

    with monkeypatch.context() as m:
        m.setattr(record, "write", die)
        with pytest.raises(KeyboardInterrupt):
            evaluation.evaluate(straight.configs, two, straight.again)
    assert len(list(straight.again.results.glob("*.json"))) == written
    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", lambda *_: pytest.fail("trained again"))
        evaluation.evaluate(straight.configs, two, straight.again)
    assert left(straight.names, run, straight.again) == straight.left


def test_what_has_a_record_is_not_trained_again_when_more_is_asked_for(run: str, two: Store, where: Workspace,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    made = configs_of(two, run, protocols=("linear",))
    names = evaluation.evaluate(made[:2], two, where)
    before = left(names, run, where)
    evaluation.evaluate(made, two, where)
    assert left(names, run, where) == before
    assert result(run_id(made[2]), where)["together"] == 2


def test_what_a_killed_group_kept_is_removed_once_another_has_written_its_records(
        run: str, two: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made, evaluations = configs_of(two, run, protocols=("linear",), seeds=3), run_folder(where.work, run) / "evaluations"
    with monkeypatch.context() as m:
        stopping(m, 3)
        with pytest.raises(Interrupted):
            evaluation.evaluate(made[:4], two, where)
    assert list(evaluations.glob("group-*/state.pt"))
    evaluation.evaluate(made[:3], two, where)
    assert list(evaluations.glob("group-*/state.pt"))  # its fourth is still to come
    evaluation.evaluate(made, two, where)
    assert not list(evaluations.glob("group-*"))


def test_two_calls_with_an_evaluation_in_common_do_not_run_at_once(run: str, two: Store, where: Workspace,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    made, fit = configs_of(two, run, protocols=("linear",)), frozen.fit

    def second(*arguments: Any) -> Any:
        with pytest.raises(UserError, match=rf"evaluation {run_id(made[1])} is being worked on by another process"):
            evaluation.evaluate(made[1:2], two, where)
        return fit(*arguments)

    monkeypatch.setattr(frozen, "fit", second)
    evaluation.evaluate(made, two, where)


# what runs together, and after what


def test_what_runs_together_reads_the_same_crops_of_the_same_backbone(two: Store) -> None:
    def made(protocol: str = "linear", task: str = "pitch", run: str = "a", seed: int = 0, *more: str) -> Config:
        return configs.evaluation(protocol, task, run, two, seed, [*SHORT, *more])

    first = made()
    same = [made(seed=1), made(task="form"), made("linear-mean"), made("knn"), made("linear", "pitch", "a", 0, "evaluation.lr=1")]
    apart = [made(run="b"), made("finetune"), made("finetune", seed=1), made("linear", "pitch", "a", 0, "at=0.5"),
             *(made("linear", "pitch", "a", 0, f"evaluation.{change}") for change in (
                 "features=cached", "precision=bfloat16", "crop_seconds=5.0", "stride_seconds=2.0"))]
    assert evaluation.groups([first, *same, first]) == [[first, *same]]
    assert sorted(map(len, evaluation.groups([first, *apart]))) == [1] * 9
    assert [g[0]["evaluation"]["frozen"] for g in evaluation.groups([*apart, first])] == [True] * 7 + [False] * 2


def test_finetune_after_linear_starts_from_the_chosen_head_and_runs_what_it_starts_from(
        run: str, two: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    after = [s.replace("evaluation.", "after.") for s in SHORT]
    config = configs.evaluation("finetune-after-linear", "pitch", run, two, 1, [*SHORT, *after])
    linear = configs.evaluation("linear", "pitch", run, two, 1, SHORT)
    assert run_id(evaluation.linear_of(config)) == run_id(linear)
    started: list[dict[str, Tensor]] = []
    fit = finetune.fit

    def note(config: Config, task: Any, model: heads.Classifier, *arguments: Any) -> Any:
        started.append({k: v.clone() for k, v in model.head.state_dict().items()})
        return fit(config, task, model, *arguments)

    monkeypatch.setattr(finetune, "fit", note)
    evaluation.evaluate([config], two, where)
    assert record.exists(where.results, run_id(linear))
    chosen = evaluation.linear_weights(linear, run_folder(where.work, run) / "evaluations", where)
    assert started[0].keys() == chosen.keys()
    assert all(torch.equal(started[0][k], v) for k, v in chosen.items())
    (run_folder(where.work, run) / "evaluations" / run_id(linear) / "weights.pt").unlink()
    with pytest.raises(UserError, match=rf"weights.pt is missing, .*; remove .*{run_id(linear)}.json to run it again"):
        evaluation.evaluate([config], two, replace(where, results=copied(where.results, run_id(linear))))


def copied(results: Path, name: str) -> Path:
    """Another folder of records, with this one alone."""
    (results / "other").mkdir()
    (results / "other" / f"{name}.json").write_bytes((results / f"{name}.json").read_bytes())
    return results / "other"


def test_scratch_goes_with_the_random_backbone_alone_and_its_finetune_is_scratch(
        configure: Callable[..., Config], run: str, tiny: Store, two: Store, where: Workspace) -> None:
    random = pretrain.pretrain(configure("random"), [tiny], where).run_id
    for protocol, name, words in (("scratch", run, "scratch draws all weights anew: .*; write finetune"),
                                  ("finetune", random, "finetune needs a backbone that has learned .*; write scratch"),
                                  ("finetune-after-linear", random, "finetune-after-linear needs .*; write scratch")):
        config = configs.evaluation(protocol, "pitch", name, two, 0, SHORT)
        with pytest.raises(UserError, match=words):
            evaluation.evaluate([{**config, "after": {}}], two, where)
    made = [configs.evaluation("scratch", "pitch", random, two, seed, SHORT) for seed in range(2)]
    assert {k: v for k, v in made[0]["evaluation"].items() if k != "name"} == {k: v for k, v in configs.evaluation(
        "finetune", "pitch", run, two, 0, SHORT)["evaluation"].items() if k != "name"}
    a, b = (predictions(name, random, where)["p_test"] for name in evaluation.evaluate(made, two, where))
    assert not np.array_equal(a, b)


def test_seeds_of_a_random_backbone_are_backbones(configure: Callable[..., Config], tiny: Store, two: Store,
                                                  where: Workspace) -> None:
    random = pretrain.pretrain(configure("random"), [tiny], where).run_id
    made = configs_of(two, random, protocols=("linear",))
    names = evaluation.evaluate(made, two, where)
    assert {result(name, where)["together"] for name in names} == {2}  # the tasks of one seed
    made = [configs.evaluation("knn", "pitch", random, two, seed) for seed in range(2)]
    a, b = (predictions(name, random, where)["p_test"] for name in evaluation.evaluate(made, two, where))
    assert not np.array_equal(a, b)


def test_one_command_evaluates_several_tasks_protocols_and_seeds(run: str, two: Store, where: Workspace,
                                                                  monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    (where.work / "stores").mkdir()
    (where.work / "stores" / "two").symlink_to(two.folder)
    words = ["ecgssl", "evaluate", run, "--store", "two", "--work", where.work, "--results", where.results, "--device", "cpu",
             "--task", "pitch", "--task", "form", "--protocol", "linear", "--protocol", "knn", "--seed", 3, "--seeds", 2,
             *(word for setting in SHORT for word in ("--set", setting))]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 == len({line.split()[1] for line in printed})  # neighbours are the same for every seed
    assert "(knn form seed 3): macro AUROC" in printed[-1]
    assert {result(line.split()[1], where)["together"] for line in printed} == {6}


@pytest.mark.parametrize(("protocol", "override", "words"), [
    ("linear", "evaluation.features=cache", "evaluation.features must be exact or cached, got 'cache'"),
    ("finetune", "evaluation.features=cached", "evaluation.features must be exact where the backbone trains"),
    ("finetune", "evaluation.head=neighbours", "evaluation.head must be one that trains"),
    ("finetune", "evaluation.grid.lr=[1e-3]", "evaluation.grid must be empty where the backbone trains"),
    ("linear", "evaluation.grid.lr=[0]", "evaluation.grid.lr must be a list of positive numbers"),
    ("linear", "evaluation.grid.lr=[fast]", "evaluation.grid.lr must be a list of positive numbers"),
    ("linear", "evaluation.grid.weight_decay=[-1]", "evaluation.grid.weight_decay must be a list of numbers, 0 or more"),
    ("linear", "evaluation.grid.clip=[1]", "unknown key 'evaluation.grid.clip'"),
    ("linear", "evaluation.dropout=0.1", "evaluation.dropout must be 0 where the backbone is frozen"),
    ("knn", "evaluation.neighbours.k=[]", "evaluation.neighbours.k must be a list of numbers of records"),
    ("knn", "evaluation.neighbours.k=[0]", "evaluation.neighbours.k must be a list of numbers of records"),
    ("knn", "evaluation.neighbours.temperature=0", "evaluation.neighbours.temperature must be positive"),
    ("finetune-after-linear", "after.steps=0", "after.steps must be 1 or more"),
    ("linear", "after.steps=3", "unknown key 'after.steps'"),
])
def test_a_setting_that_cannot_be_is_one_line(two: Store, protocol: str, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configs.evaluation(protocol, "pitch", "abc", two, 0, [override])
    assert "\n" not in str(caught.value)


def test_a_head_that_diverges_is_lost_alone(run: str, two: Store, where: Workspace) -> None:
    sound = configs_of(two, run, protocols=("linear",), seeds=1)
    wild = configs.evaluation("linear", "pitch", run, two, 0, [*SHORT[:4], "evaluation.lr=1e38", "evaluation.clip=0.0"])
    grid_ = configs.evaluation("linear", "form", run, two, 0, [
        *SHORT, "evaluation.grid.lr=[1e-2, 1e38]", "evaluation.clip=0.0"])
    with pytest.raises(UserError, match=f"evaluation stopped; lower evaluation.lr .evaluation {run_id(wild)}."):
        evaluation.evaluate([*sound, wild, grid_], two, where)
    done = {path.stem for path in where.results.glob("*.json")} - {run}
    assert done == {run_id(c) for c in [*sound, grid_]}
    tried = result(run_id(grid_), where)["grid"]
    assert "lost" not in tried[0] and "lower evaluation.lr" in tried[1]["lost"]


def test_a_grid_of_checkpoints_and_settings_of_linear_reach_the_run_that_comes_after_it(run: str, two: Store) -> None:
    given = ["evaluation.steps=4", "evaluation.validate_every=2", "evaluation.lr=1e-4", "at=0.5"]
    linear = configs.evaluation("linear", "pitch", run, two, 0, given)
    after = configs.evaluation("finetune-after-linear", "pitch", run, two, 0, [
        *evaluation.of_linear(given), *given, "evaluation.warmup_steps=0", "evaluation.patience=2"])
    assert evaluation.linear_of(after) == linear
    assert linear["evaluation"]["final_lr"] == 1e-4  # what is constant stays so


@pytest.mark.parametrize(("override", "words"), [
    ("after.head=mean", "after.head attentive, got True and mean"), ("after.frozen=false", "after.frozen must be true"),
    ("after.name=x", "after.name is filled in")])
def test_a_finetune_after_linear_needs_the_head_that_it_starts_from(run: str, two: Store, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        configs.evaluation("finetune-after-linear", "pitch", run, two, 0, [override])


@pytest.mark.parametrize("name", ["attentive", "mean", "register"])
def test_logits_of_a_record_are_the_mean_over_its_crops_however_it_is_taken(name: str) -> None:
    encoder = vit.Encoder(vit.Size(16, 2, 2))
    head = heads.stack([heads.build(name, encoder, 3) for _ in range(2)])
    tokens = torch.randn(6 * 7, 11, 16, generator=torch.Generator().manual_seed(0))
    each = head(tokens).unflatten(-2, (6, 7)).mean(-2)
    torch.testing.assert_close(head(tokens, crops=7), each, rtol=0, atol=1e-6)
    assert each.std() > 1e-4


def test_crops_are_averaged_together_only_where_all_records_have_as_many() -> None:
    tokens = torch.randn(9, 5, 16)
    kept = frozen.Kept(np.array([3, 3, 3, 4, 4, 4, 6, 6, 6]), tokens, torch.device("cpu"), torch.float32)
    uneven = frozen.Kept(np.array([3, 3, 4, 4, 4, 4, 6, 6, 6]), tokens, torch.device("cpu"), torch.float32)
    rows = np.array([3, 4, 6])
    assert (kept.together(rows), uneven.together(rows), uneven.together(np.array([6]))) == (3, 1, 3)
    for given in (kept, uneven):
        assert torch.equal(torch.cat([x for x, _ in given.batches(rows, given.together(rows))]), tokens)
