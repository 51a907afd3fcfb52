"""An evaluation trains on its training folds, selects on its validation folds and looks at the test fold once."""

import copy
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
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.data.loader import Crops
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation import finetune, frozen, heads, metrics, tasks
from bench.evaluation import runner as evaluation
from bench.evaluation.crops import Epochs, average, grid
from bench.runs import results as record
from bench.runs.config import Config, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint, optim
from bench.training import trainer as pretrain

SHORT = ["evaluation.steps=12", "evaluation.batch=16", "evaluation.validate_every=4", "evaluation.patience=12",
         "evaluation.lr=3e-3", "evaluation.final_lr=3e-3", "evaluation.warmup_steps=0"]


@pytest.fixture
def run(configure: Callable[..., Config], tiny: Store, where: Workspace) -> str:
    """run_id of a pre-training of two steps."""
    return pretrain.pretrain(configure("jepa", "optim.steps=2", "optim.warmup_steps=0"), [tiny], where).run_id


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Of every training while the test runs: weights before and after, whether the encoder would get a gradient."""
    seen: list[SimpleNamespace] = []
    frozen_fit, finetune_fit = frozen.fit, finetune.fit

    def watch_frozen(configs: list[Config], visible: Any, reader: frozen.Reader, *arguments: Any) -> Any:
        encoder = {f"encoder.{k}": v.clone() for k, v in reader.encoder.state_dict().items()}
        drawn, build = [], heads.build
        with monkeypatch.context() as m:
            m.setattr(heads, "build", lambda *a: drawn.append(build(*a)) or drawn[-1])
            outcomes = frozen_fit(configs, visible, reader, *arguments)
        head = {f"head.{k}": v.clone() for k, v in drawn[0].state_dict().items()}
        after = {f"encoder.{k}": v for k, v in reader.encoder.state_dict().items()}
        after |= {f"head.{k}": v for k, v in outcomes[0].weights[0].items()}
        seen.append(SimpleNamespace(before=encoder | head, after=after, encoder=reader.encoder))
        return outcomes

    def watch_finetune(config: Config, task: Any, model: heads.Classifier, *arguments: Any) -> Any:
        before = copy.deepcopy(model.state_dict())
        result = finetune_fit(config, task, model, *arguments)
        seen.append(SimpleNamespace(before=before, after=copy.deepcopy(model.state_dict()), encoder=model.encoder))
        return result

    monkeypatch.setattr(frozen, "fit", watch_frozen)
    monkeypatch.setattr(finetune, "fit", watch_finetune)
    return seen


def evaluate(protocol: str, run: str, tiny: Store, where: Workspace, *overrides: str, seed: int = 0) -> SimpleNamespace:
    """The evaluation's record, predictions and bytes."""
    config = configs.evaluation(protocol, "pitch", run, tiny, seed, [*SHORT, *overrides])
    (name,) = evaluation.evaluate([config], tiny, where)
    folder = run_folder(where.work, run) / "evaluations" / name
    with np.load(folder / "predictions.npz") as content:
        predictions = dict(content)
    return SimpleNamespace(
        config=config, name=name, folder=folder, predictions=predictions, raw=(folder / "predictions.npz").read_bytes(),
        record=json.loads(record.path(where.results, name).read_text()))


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_an_evaluation_leaves_a_record_and_its_predictions(run: str, tiny: Store, where: Workspace, protocol: str) -> None:
    made = evaluate(protocol, run, tiny, where)
    assert made.name == run_id(made.config)
    assert made.config["pretrain"] == run
    assert {p.name for p in made.folder.iterdir()} == {"predictions.npz", "weights.pt", "config.json", "lock"}
    assert made.record["pretrain_config"]["method"]["name"] == "jepa"
    result = made.record["result"]
    assert result["records"] == {"train": 64, "validation": 8, "test": 8}
    p, y = made.predictions["p_test"], made.predictions["y_test"].astype(np.int64)
    assert made.predictions["record_id_test"].tolist() == [f"r{i}" for i in range(72, 80)]
    assert made.predictions["classes"].tolist() == ["high", "low", "odd"]
    assert y.sum(0).tolist() == [4, 4, 2]
    assert ((p > 0) & (p < 1)).all()
    score = metrics.score(y, p)
    assert result["macro_auroc"] == score.macro
    assert result["interval"] == [score.lower, score.upper]
    assert result["replicates"] == pytest.approx(score.replicates, abs=5e-7)
    assert result["per_class"]["odd"]["auroc"] == score.per_class[2]
    assert result["per_class"]["odd"]["positives"] == 2
    assert result["normalisation"]["sd"] == tiny.sd.tolist()
    validation = metrics.auroc(made.predictions["y_validation"].astype(np.int64), made.predictions["p_validation"])
    assert result["validation_macro_auroc"] == pytest.approx(validation.mean(), abs=1e-12)


def test_pitches_can_be_learned(run: str, tiny: Store, where: Workspace) -> None:
    made = evaluate("finetune", run, tiny, where, "evaluation.steps=60", "evaluation.patience=60",
                    "evaluation.validate_every=15")
    assert made.record["result"]["macro_auroc"] > 0.9
    assert made.record["result"]["curve"]["loss"][-1] < 0.6 * made.record["result"]["curve"]["loss"][0]


def test_an_evaluation_with_a_record_is_skipped(run: str, tiny: Store, where: Workspace,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    made = evaluate("linear", run, tiny, where)
    monkeypatch.setattr(evaluation, "run", lambda *a: pytest.fail("ran again"))
    assert evaluation.evaluate([made.config], tiny, where) == [made.name]


def test_the_same_evaluation_gives_the_same_bytes_and_another_seed_others(run: str, tiny: Store, where: Workspace) -> None:
    first = evaluate("linear", run, tiny, where)
    again = evaluate("linear", run, tiny, replace(where, results=where.results / "again"))
    other = evaluate("linear", run, tiny, where, seed=1)
    assert first.raw == again.raw
    assert first.name == again.name != other.name
    assert not np.array_equal(first.predictions["p_test"], other.predictions["p_test"])


def test_a_frozen_encoder_stays_as_it_is_and_a_fine_tuned_one_moves(run: str, tiny: Store, where: Workspace,
                                                                    fitted: list) -> None:
    trained = checkpoint.load(run_folder(where.work, run) / "final.pt").tensors
    for protocol in ("linear", "finetune"):
        evaluate(protocol, run, tiny, where)
        seen = fitted.pop()
        for key, before in seen.before.items():
            if key.startswith("encoder."):
                assert torch.equal(before, trained[f"model/target_{key}"]), key  # what JEPA evaluates
            still = key.startswith("encoder.") and protocol == "linear"
            # under finetune the register token's own head sees every weight of the encoder
            assert torch.equal(before, seen.after[key]) == still, key
        assert any(p.requires_grad for p in seen.encoder.parameters()) == (protocol == "finetune")


def test_a_random_backbone_is_drawn_from_the_evaluations_seed(configure: Callable[..., Config], run: str, tiny: Store,
                                                              where: Workspace, fitted: list) -> None:
    random = pretrain.pretrain(configure("random"), [tiny], where).run_id
    assert pretrain.pretrain(configure("random", "seed=5"), [tiny], where).run_id == random  # there is one, whatever seed is named
    for name, seed in ((random, 0), (random, 1), (run, 0), (run, 1)):
        evaluate("linear", name, tiny, where, seed=seed)
    key = "encoder.blocks.0.qkv.weight"
    weights = [seen.before[key] for seen in fitted]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3])
    heads_ = [seen.before["head.query"] for seen in fitted]
    assert torch.equal(heads_[0], heads_[2])  # methods meet the same head of the same seed
    assert not torch.equal(heads_[0], heads_[1])


def test_the_labels_of_the_test_fold_influence_nothing_before_the_score(run: str, tiny: Store, where: Workspace,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    plain = evaluate("finetune", run, tiny, where)
    load = tasks.load

    def permuted(*arguments: Any, **settings: Any) -> tasks.Task:
        task = load(*arguments, **settings)
        order = np.random.default_rng(0).permutation(len(task.test.rows))
        return replace(task, test=replace(task.test, labels=task.test.labels[order]))

    monkeypatch.setattr(tasks, "load", permuted)
    other = evaluate("finetune", run, tiny, replace(where, results=where.results / "permuted"))
    assert other.name == plain.name
    assert not np.array_equal(other.predictions["y_test"], plain.predictions["y_test"])
    assert np.array_equal(other.predictions["p_test"], plain.predictions["p_test"])
    for key in ("best_step", "curve", "validation_macro_auroc", "steps"):
        assert other.record["result"][key] == plain.record["result"][key]
    assert other.record["result"]["macro_auroc"] != plain.record["result"]["macro_auroc"]


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the validations have these macro AUROCs."""
    left = iter(values)
    monkeypatch.setattr(tasks, "selection", lambda kind, labels, p: next(left))


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_the_best_validation_step_is_tested(run: str, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch,
                                            protocol: str) -> None:
    scripted(monkeypatch, [0.5, 0.8, 0.7, 0.8, 0.6])
    best = evaluate(protocol, run, tiny, where, "evaluation.steps=20", "evaluation.patience=100")
    assert best.record["result"]["best_step"] == 8  # the first of two equal ones
    assert best.record["result"]["validation_macro_auroc"] == 0.8
    assert best.record["result"]["curve"]["step"] == [4, 8, 12, 16, 20]
    scripted(monkeypatch, [0.5, 0.8])  # constant lr: the weights of step 8 are those of a run that ends there
    again = evaluate(protocol, run, tiny, where, "evaluation.steps=8", "evaluation.patience=9")
    assert np.array_equal(best.predictions["p_test"], again.predictions["p_test"])


def test_training_stops_after_patience_steps_without_a_gain(run: str, tiny: Store, where: Workspace,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.7, 0.6, 0.7, 0.9, 0.9])
    made = evaluate("linear", run, tiny, where, "evaluation.steps=40", "evaluation.patience=8")
    assert made.record["result"]["best_step"] == 8
    assert made.record["result"]["steps"] == 16
    scripted(monkeypatch, [0.5, 0.7, 0.6, 0.8, 0.7, 0.6, 0.9, 0.9])
    made = evaluate("linear", run, tiny, where, "evaluation.steps=24", "evaluation.patience=9")
    assert (made.record["result"]["best_step"], made.record["result"]["steps"]) == (16, 24)


# crops


class Sum(nn.Module):
    """(B, 12, T) -> (B, 2): lead sums, so that a logit says which crop it saw."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sum(1), x[:, 5].square().sum(1)], 1) / 50


def test_a_10_s_record_has_seven_crops_of_2_5_s_every_1_25_s(tiny: Store) -> None:
    crops = Crops(tiny, 250, torch.device("cpu"))
    rows = tasks.load(tiny, "pitch", {"train": [1], "validation": [2], "test": [10]}).test.rows
    fixed = grid(crops, rows, 125)
    assert fixed.rows.tolist() == [row for row in rows for _ in range(7)]
    assert fixed.starts.tolist() == [125 * i for i in range(7)] * len(rows)
    batches = list(fixed.batches(crops, 21))
    assert [len(x) for x in batches] == [21, 21, 14]
    for place, crop in enumerate(torch.cat(batches)):
        row, start = rows[place // 7], 125 * (place % 7)
        expected = ((tiny.signal(row) - tiny.mean[:, None]) / tiny.sd[:, None]).clip(-5, 5)[:, start: start + 250]
        assert np.abs(crop.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_record_is_the_mean_over_its_crops(tiny: Store, average: str) -> None:
    crops = Crops(tiny, 250, torch.device("cpu"))
    rows = tasks.load(tiny, "pitch", {"train": [1], "validation": [2], "test": [9, 10]}).test.rows
    owner = torch.arange(16).repeat_interleave(7).split(21)
    batches = zip(grid(crops, rows, 125).batches(crops, 21), owner, strict=True)
    p = heads.predict(Sum(), batches, 16, torch.sigmoid, {"average": average, "precision": "float32"})
    assert p.shape == (16, 2)
    for i, row in enumerate(rows):
        x = torch.tensor((tiny.signal(row) - tiny.mean[:, None]) / tiny.sd[:, None]).clamp(-5, 5)
        logits = torch.cat([Sum()(x[None, :, 125 * k: 125 * k + 250]) for k in range(7)])
        expected = logits.mean(0).sigmoid() if average == "logits" else logits.sigmoid().mean(0)
        assert p[i] == pytest.approx(expected.numpy(), abs=1e-5)


def test_records_of_different_numbers_of_crops_weigh_the_same() -> None:
    values, owner = torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([1, 1, 0])
    assert average([(values[:2], owner[:2]), (values[2:], owner[2:])], 2).tolist() == [[7.0], [2.0]]


def test_validation_sees_the_same_crops_whether_tokens_are_kept_or_not(run: str, tiny: Store, where: Workspace) -> None:
    made = evaluate("linear", run, tiny, where)
    assert made.record["result"]["curve"]["validation_macro_auroc"][
        made.record["result"]["curve"]["step"].index(made.record["result"]["best_step"])] == pytest.approx(
        metrics.auroc(made.predictions["y_validation"].astype(np.int64), made.predictions["p_validation"]).mean())


def test_an_epoch_has_every_record_once_and_its_crops_begin_anywhere() -> None:
    epochs, room = Epochs(np.arange(100, 164), 0), np.full(64, 751)
    orders = [epochs.order(e).tolist() for e in range(12)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len(set(map(tuple, orders))) == 12
    starts = np.concatenate([epochs.starts(e, room) for e in range(12)])
    assert (starts.min() < 15, starts.max() > 735, starts.max() <= 750) == (True, True, True)
    assert len(set(starts.tolist())) > 400
    assert epochs.order(5).tolist() == orders[5] != Epochs(epochs.rows, 1).order(5).tolist()
    assert not np.array_equal(epochs.starts(5, room), Epochs(epochs.rows, 1).starts(5, room))


# stopping and continuing


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, signum: int) -> None:
    schedule, sent = optim.schedule_, []

    def send(optimiser: Any, taken: int, settings: Any) -> float:
        if taken == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signum)
        return schedule(optimiser, taken, settings)

    monkeypatch.setattr(optim, "schedule_", send)


@pytest.mark.parametrize(("protocol", "signum"), [("linear", signal.SIGTERM), ("finetune", signal.SIGUSR2)])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(run: str, tiny: Store, where: Workspace, protocol: str,
                                                            signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["evaluation.dropout=0.2"] if protocol == "finetune" else []
    straight = evaluate(protocol, run, tiny, where, *overrides)
    (straight.folder / "predictions.npz").unlink()
    other = replace(where, results=where.results / "interrupted")
    for step in (1, 5, 11):
        with monkeypatch.context() as m:
            interrupt(m, step, signum)
            with pytest.raises(Interrupted, match=f"at step {step + 1} of 12") as stop:
                evaluate(protocol, run, tiny, other, *overrides)
        assert stop.value.exit_code == 128 + signum
        assert (straight.folder / "state.pt").is_file()
    again = evaluate(protocol, run, tiny, other, *overrides)
    assert again.raw == straight.raw
    assert not (again.folder / "state.pt").exists()
    for made in (straight, again):
        for key in ("seconds", "peak_memory_mb"):
            del made.record["result"][key]
    assert again.record["result"] == straight.record["result"]


def test_a_damaged_state_starts_the_evaluation_again_and_says_so(run: str, tiny: Store, where: Workspace,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    straight = evaluate("linear", run, tiny, where)
    (straight.folder / "state.pt").write_bytes(b"damaged")
    (straight.folder / ".state.pt.x.tmp").write_bytes(b"half")
    again = evaluate("linear", run, tiny, replace(where, results=where.results / "again"))
    assert "starting again" in capsys.readouterr().err
    assert again.raw == straight.raw
    assert not list(again.folder.glob(".*.tmp"))


def test_a_loss_that_is_no_number_stops_the_evaluation_and_leaves_its_reason(run: str, tiny: Store, where: Workspace,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads.AttentiveHead, "forward", lambda self, tokens, crops=1:
                        tokens[::crops, 0] @ self.proj.weight.mT * torch.nan)
    with pytest.raises(UserError, match="the loss of step 0 is nan: evaluation stopped; lower"):
        evaluate("linear", run, tiny, where)
    (reason,) = (run_folder(where.work, run) / "evaluations").glob("*/error.txt")
    assert "the loss of step 0 is nan" in reason.read_text()
    assert not list(where.results.glob(f"{reason.parent.name}.json"))


# what cannot be


def test_an_unfinished_pretraining_is_named(tiny: Store, where: Workspace) -> None:
    with pytest.raises(UserError, match="no finished pre-training 'abc'"):
        evaluate("linear", "abc", tiny, where)


def test_a_store_of_another_rate_and_a_crop_of_no_whole_patches_are_refused(run: str, tiny: Store,
                                                                            where: Workspace) -> None:
    with pytest.raises(UserError, match=r"crop_seconds of 2\.4 s at 100 Hz does not divide .* patches of 25"):
        evaluate("linear", run, tiny, where, "evaluation.crop_seconds=2.4")
    fast = replace(tiny, manifest={**tiny.manifest, "rate_hz": 500})
    with pytest.raises(UserError, match="has 500 Hz, the backbone was pre-trained at 100 Hz"):
        evaluate("linear", run, fast, where)


@pytest.mark.parametrize(("override", "words"), [
    ("evaluation.steps=0", "evaluation.steps must be 1 or more"),
    ("evaluation.batch=0", "evaluation.batch must be 1 or more"),
    ("evaluation.validate_every=13", r"evaluation\.validate_every must be between 1 and evaluation\.steps \(12\)"),
    ("evaluation.warmup_steps=12", "evaluation.warmup_steps must be less than"),
    ("evaluation.patience=3", r"evaluation\.patience must be evaluation\.validate_every \(4\) or more, got 3"),
    ("evaluation.betas=[0.9]", "evaluation.betas must be two numbers"),
    ("evaluation.clip=-1", "evaluation.clip must be 0"),
    ("evaluation.dropout=1.0", "evaluation.dropout must be in"),
    ("evaluation.average=mean", "evaluation.average must be logits or probabilities, got 'mean'"),
    ("evaluation.precision=half", "evaluation.precision must be float32 or bfloat16"),
    ("evaluation.stride_seconds=0", "evaluation.stride_seconds must be positive"),
    ("evaluation.stpes=3", "unknown key 'evaluation.stpes'; did you mean 'evaluation.steps'"),
    ("folds.test=[8]", "folds.test overlaps"),
    ("folds.test=[9]", "folds.test overlaps"),
    ("seed=1", "seed is filled in"), ("data.store=other", "data.store is filled in"),
    ("evaluation.name=finetune", "evaluation.name is filled in"), ("evaluation.final_lr=1", "final_lr must be at most"),
    ("folds.validation=[1]", "folds.train overlaps folds.validation"),
])
def test_a_bad_override_is_one_line(tiny: Store, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configs.evaluation("linear", "pitch", "abc", tiny, 0, [*SHORT, override])
    assert "\n" not in str(caught.value)


def test_an_unknown_protocol_and_head_name_the_known_ones(tiny: Store) -> None:
    with pytest.raises(UserError, match="unknown protocol 'liner'; did you mean 'linear'"):
        configs.evaluation("liner", "pitch", "abc", tiny)
    with pytest.raises(UserError, match=r"unknown evaluation\.head 'x'. Known: attentive, mean, register"):
        heads.build("x", vit.Encoder(vit.Size(16, 1, 2)), 3)


def test_the_name_chains_to_the_pretraining_and_the_data(tiny: Store) -> None:
    ids = {run_id(configs.evaluation("linear", "pitch", run, store, seed))
           for run, store, seed in (("a", tiny, 0), ("b", tiny, 0), ("a", tiny, 1),
                                    ("a", replace(tiny, manifest={**tiny.manifest, "fingerprint": "f"}), 0))}
    assert len(ids) == 4


def test_the_protocols_settings_are_the_papers() -> None:
    tiny = SimpleNamespace(name="x", fingerprint="f")
    linear, finetune = (configs.evaluation(p, "all", "a", tiny)["evaluation"]  # type: ignore[arg-type]
                        for p in ("linear", "finetune"))
    assert (linear["steps"], linear["batch"], linear["lr"], linear["final_lr"]) == (5000, 128, 1e-3, 1e-3)
    assert (linear["weight_decay"], linear["clip"], linear["betas"], linear["frozen"]) == (0.1, 1.0, [0.9, 0.999], True)
    assert (finetune["steps"], finetune["lr"], finetune["final_lr"]) == (10000, 1e-3, 1e-5)
    assert (finetune["warmup_steps"], finetune["patience"]) == (200, 2000)
    assert (finetune["weight_decay"], finetune["dropout"], finetune["betas"]) == (0.01, 0.05, [0.9, 0.99])
    assert (finetune["frozen"], finetune["head"], linear["head"]) == (False, "register", "attentive")
    assert {s["validate_every"] for s in (linear, finetune)} == {100}
    for s in (linear, finetune):
        assert (s["crop_seconds"], s["stride_seconds"], s["average"]) == (2.5, 1.25, "logits")


def test_the_register_head_is_linear_in_the_first_register() -> None:
    encoder = vit.Encoder(vit.Size(16, 1, 2))
    head = heads.build("register", encoder, 3)
    tokens = torch.randn(4, 11, 16)
    assert torch.allclose(head(tokens), tokens[:, 0] @ head.proj.weight.T)
    torch.manual_seed(0)
    weights = heads.build("attentive", vit.Encoder(vit.Size(128, 1, 2)), 3).kv.weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)


def test_predictions_are_written_whole(run: str, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write = evaluation.replacing

    def replacing(path: Path) -> Any:
        if path.name == "predictions.npz":
            monkeypatch.setattr(os, "fsync", full)
        return write(path)

    monkeypatch.setattr(evaluation, "replace_file", replacing)
    with pytest.raises(OSError, match="No space left"):
        evaluate("linear", run, tiny, where)
    assert not list((run_folder(where.work, run) / "evaluations").rglob("predictions.npz*"))
