"""The training loop: what it optimises, what it writes, and how it stops and continues."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpora
import pytest
import torch
from corpora import noise

from bench import method
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.core.interrupt import Interrupted
from bench.data.store import Store
from bench.method import build_model
from bench.runs import results as record
from bench.runs.config import PretrainConfig, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint, monitor, optim
from bench.training import trainer as pretrain

Configure = Callable[..., PretrainConfig]


def final(where: Workspace, made: PretrainConfig) -> checkpoint.Checkpoint:
    return checkpoint.load(run_folder(where.work, run_id(made)) / "final.pt")


def final_bytes(where: Workspace, made: PretrainConfig) -> bytes:
    return (run_folder(where.work, run_id(made)) / "final.pt").read_bytes()


def elsewhere(where: Workspace, name: str, **changes: Any) -> Workspace:
    return replace(where, work=where.work / name, results=where.results / name, **changes)


def lines(where: Workspace, made: PretrainConfig) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock decides."""
    text = (run_folder(where.work, run_id(made)) / "metrics.jsonl").read_text()
    clock = ("seconds", "seconds_left", "records_per_second", "memory_mb", "cpu_watts")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in text.splitlines()]


class Linear(method.Method):
    """A loss that is a mean over records and draws nothing."""

    def __init__(self, encoder: Any, *, scale: float = 1.0):
        super().__init__(encoder)
        self.scale = scale
        self.seen: list[int] = []

    def forward(self, views: list, step: method.Step) -> tuple:
        (x,) = views
        self.seen.append(step.index)
        return self.scale * (self.encoder(x) - x.mean()).square().mean(), {"mean": x.mean()}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[method.Method]:
    """Every method is Linear while the test runs; the list holds those that were built."""
    built: list[method.Method] = []
    monkeypatch.setattr(method, "build", lambda config, encoder: built.append(Linear(encoder)) or built[-1])
    return built


@pytest.mark.parametrize("name", ["jepa", "simclr", "mae"])
def test_the_same_config_gives_the_same_bytes_and_another_seed_others(configure: Configure, tiny: Store, where: Workspace,
                                                                     name: str) -> None:
    made = configure(name)
    pretrain.pretrain(made, [tiny], where)
    pretrain.pretrain(made, [tiny], elsewhere(where, "again", save_steps=3))
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "again"), made)
    assert lines(where, made) == lines(elsewhere(where, "again"), made)
    other = configure(name, "seed=1")
    pretrain.pretrain(other, [tiny], where)
    weights, others = final(where, made).tensors, final(where, other).tensors
    assert not torch.equal(weights["model/encoder.embed.weight"], others["model/encoder.embed.weight"])


def test_a_run_leaves_a_record_a_checkpoint_its_config_and_metrics(configure: Configure, tiny: Store, where: Workspace) -> None:
    made = configure("simclr")
    name = pretrain.pretrain(made, [tiny], where).run_id
    folder = run_folder(where.work, name)
    assert name == run_id(made)
    assert {p.name for p in folder.iterdir()} == {"final.pt", "config.json", "metrics.jsonl", "checkpoints", "lock"}
    assert json.loads((folder / "config.json").read_text()) == made.to_json()
    written = json.loads(record.path(where.results, name).read_text())
    assert written["config"] == made.to_json()
    result = written["result"]
    assert (result["steps"], result["records"]) == (8, 32)
    assert result["curves"]["step"] == list(range(1, 9))
    assert result["monitor"]["step"] == list(range(9))
    assert set(result["curves"]) == {"step", "loss", "lr", "gradient_norm", "records_per_second", "memory_mb",
                                     "alignment", "uniformity"}
    assert result["curves"]["lr"] == [optim.cosine(i, 8, 1e-3, 1e-6, 2, 1e-6) for i in range(8)]
    assert result["parameters"]["backbone"] == sum(p.numel() for p in build_model(made).backbone().parameters())
    assert result["parameters"]["trained"] > result["parameters"]["backbone"]
    state = final(where, made)
    assert state.meta["step"] == 8
    assert (state.meta["rate_hz"], len(state.meta["leads"])) == (100, 12)
    assert state.meta["stores"]["tiny"]["fingerprint"] == tiny.fingerprint
    assert state.meta["stores"]["tiny"]["mean"] == tiny.mean.tolist()


def test_metrics_have_a_line_for_each_point_whatever_the_length(configure: Configure, tiny: Store, where: Workspace,
                                                               stub: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "LOG_POINTS", 3)
    monkeypatch.setattr(monitor, "POINTS", 2)
    made = configure("mae", "optim.steps=7")
    pretrain.pretrain(made, [tiny], where)
    found = lines(where, made)
    assert [m["step"] for m in found if "loss" in m] == [2, 4, 6, 7]
    assert [m["step"] for m in found if "rankme" in m] == [0, 3, 6, 7]
    assert stub[0].seen == list(range(7))


def test_a_logged_loss_is_the_mean_since_the_last_line(configure: Configure, tiny: Store, where: Workspace,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("mae")
    pretrain.pretrain(made, [tiny], where)
    every = [m["loss"] for m in lines(where, made) if "loss" in m]
    monkeypatch.setattr(pretrain, "LOG_POINTS", 2)
    coarse = elsewhere(where, "coarse", save_steps=3)
    pretrain.pretrain(made, [tiny], coarse)
    assert [m["loss"] for m in lines(coarse, made) if "loss" in m] == pytest.approx([sum(every[:4]) / 4, sum(every[4:]) / 4])


def test_gradient_accumulation_equals_the_full_batch(configure: Configure, tiny: Store, where: Workspace, stub: list) -> None:
    weights = []
    for accumulate in (1, 4):
        made = configure("mae", f"optim.accumulate={accumulate}", "optim.batch=8", "optim.eps=1e-3", "optim.lr=0.1")
        pretrain.pretrain(made, [tiny], where)
        weights.append({k: v for k, v in final(where, made).tensors.items() if k.startswith("model/")})
    assert len(stub[1].seen) == 4 * len(stub[0].seen)
    for key, start in build_model(configure("mae")).state_dict().items():
        whole, parts = (w[f"model/{key}"] for w in weights)
        assert (whole - start).abs().max() > 1e-5, key
        assert (whole - parts).abs().max() < 0.01 * (whole - start).abs().max(), key


def test_the_gradient_is_clipped_to_the_configs_norm(configure: Configure, tiny: Store, where: Workspace, stub: list,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *args: Any) -> Any:
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    pretrain.pretrain(configure("mae", "optim.clip=0.0"), [tiny], where)
    free = norms.copy()
    norms.clear()
    pretrain.pretrain(configure("mae", "optim.clip=1.0e-3"), [tiny], where)
    assert min(free) > 2e-3
    assert norms == pytest.approx([1e-3] * 8, rel=1e-3)


def test_precision_is_the_configs(configure: Configure, tiny: Store, where: Workspace) -> None:
    made, half = configure("mae"), configure("mae", "optim.precision=bfloat16")
    for c in (made, half):
        pretrain.pretrain(c, [tiny], where)
    a, b = ([m["loss"] for m in lines(where, c) if "loss" in m] for c in (made, half))
    assert a != b
    assert a == pytest.approx(b, rel=0.02)
    assert {v.dtype for k, v in final(where, half).tensors.items() if k.startswith("model/")} == {torch.float32}


def test_a_method_of_no_steps_gives_a_checkpoint_and_a_result_at_once(configure: Configure, tiny: Store,
                                                                      where: Workspace) -> None:
    made = configure("random")
    name = pretrain.pretrain(made, [tiny], where).run_id
    state = final(where, made)
    assert state.meta["step"] == 0
    start = build_model(made).state_dict()
    assert all(torch.equal(state.tensors[f"model/{k}"], v) for k, v in start.items())
    assert json.loads(record.path(where.results, name).read_text())["result"]["curves"] == {}


def test_a_run_with_a_record_is_skipped(configure: Configure, tiny: Store, where: Workspace,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("jepa")
    pretrain.pretrain(made, [tiny], where)
    monkeypatch.setattr(pretrain, "Trainer", lambda *a: pytest.fail("ran again"))
    assert pretrain.pretrain(made, [tiny], where).run_id == run_id(made)
    assert pretrain.pretrain(made, [tiny], replace(where, work=where.work / "gone")).run_id == run_id(made)


def test_checkpoints_are_pruned_to_the_newest(configure: Configure, tiny: Store, where: Workspace) -> None:
    made = configure("mae", "optim.steps=9")
    pretrain.pretrain(made, [tiny], replace(where, save_steps=2, keep=2))
    folder = run_folder(where.work, run_id(made)) / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000006.pt", "step-00000008.pt"]


def test_a_run_saves_by_the_clock_too(configure: Configure, tiny: Store, where: Workspace) -> None:
    made = configure("mae")
    pretrain.pretrain(made, [tiny], replace(where, save_steps=1000, save_minutes=0.0, keep=100))
    folder = run_folder(where.work, run_id(made)) / "checkpoints"
    assert len(list(folder.iterdir())) == 7


# stopping and continuing


class Killed(Exception):
    """Stands for SIGKILL: nothing in the program catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, made: PretrainConfig, stores: list[Store], where: Workspace) -> None:
    """Run until the given step has begun, then die."""
    schedule = optim.schedule_

    def die(optimiser: Any, taken: int, settings: Any) -> float:
        if taken == step:
            raise Killed
        return schedule(optimiser, taken, settings)

    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", die)
        with pytest.raises(Killed):
            pretrain.pretrain(made, stores, where)


@pytest.mark.parametrize(("name", "overrides"), [
    ("jepa", []), ("simclr", []), ("mae", []), ("jepa", ["encoder.dropout=0.3"]), ("mae", ["optim.accumulate=2"])])
def test_a_killed_run_ends_with_the_same_bytes(configure: Configure, tiny: Store, where: Workspace, name: str,
                                               overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "LOG_POINTS", 3)  # so that a kill falls between two lines
    made = configure(name, "optim.steps=10", *overrides)
    pretrain.pretrain(made, [tiny], elsewhere(where, "straight", save_steps=100))
    for step in (1, 4, 5, 9):
        killed_at(monkeypatch, step, made, [tiny], where)
    pretrain.pretrain(made, [tiny], where)
    straight = elsewhere(where, "straight")
    assert final_bytes(where, made) == final_bytes(straight, made)
    assert lines(where, made) == lines(straight, made)
    a, b = (json.loads(record.path(w.results, run_id(made)).read_text()) for w in (where, straight))
    for r in (a, b):
        del r["provenance"], r["result"]["peak_memory_mb"]
        del r["result"]["curves"]["records_per_second"], r["result"]["curves"]["memory_mb"]
        assert r["result"].pop("seconds") > 0
        r["result"].pop("energy_joules", None)  # where it can be read
        assert r["result"].pop("records_per_second") > 0
    assert a == b


def test_backbones_along_the_run_are_those_of_shorter_views_of_it(configure: Configure, tiny: Store, where: Workspace) -> None:
    made = configure("mae", "optim.steps=8", "checkpoints.at=[0.25, 0.5]")
    pretrain.pretrain(made, [tiny], elsewhere(where, "kept", save_steps=1, keep=8))
    folder = run_folder(elsewhere(where, "kept").work, run_id(made))
    for name, step in (("at-0.25.pt", 2), ("at-0.5.pt", 4)):
        kept, whole = (checkpoint.load(path) for path in (folder / name, folder / "checkpoints" / f"step-{step:08d}.pt"))
        assert kept.meta["step"] == step
        models = [{k: v for k, v in c.tensors.items() if k.startswith("model/")} for c in (kept, whole)]
        assert all(torch.equal(v, models[1][k]) for k, v in models[0].items())
        assert not [k for k in kept.tensors if k.startswith("optimiser/")]
        assert "seen/patients" in kept.tensors  # the leak guard needs them


def test_the_order_in_which_stores_are_named_changes_nothing(configure: Configure, tiny: Store, where: Workspace,
                                                             tmp_path: Path) -> None:
    other = corpora.store(tmp_path / "stores", noise(20, 12, 1000), name="other")
    made = configure("mae")
    made = made.replace(data=made.data.replace(mix={"tiny": 0.5, "other": 0.5}, fingerprints={}))
    name = pretrain.pretrain(made, [tiny, other], where).run_id
    assert pretrain.pretrain(made, [other, tiny], elsewhere(where, "turned")).run_id == name
    first, second = ((run_folder(w.work, name) / "final.pt").read_bytes() for w in (where, elsewhere(where, "turned")))
    assert first == second


def test_dropout_is_on_in_training(configure: Configure, tiny: Store, where: Workspace) -> None:
    made, other = configure("mae"), configure("mae", "encoder.dropout=0.3")
    for c in (made, other):
        pretrain.pretrain(c, [tiny], where)
    key = "model/encoder.blocks.0.fc2.weight"
    assert not torch.equal(final(where, made).tensors[key], final(where, other).tensors[key])


def test_a_run_killed_between_its_last_checkpoint_and_its_record_only_writes_the_record(
        configure: Configure, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("mae")

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(record, "write", die)
        pretrain.pretrain(made, [tiny], where)
    before, metrics = final_bytes(where, made), lines(where, made)
    monkeypatch.setattr(optim, "schedule_", lambda *a: pytest.fail("trained again"))
    name = pretrain.pretrain(made, [tiny], where).run_id
    assert (final_bytes(where, made), lines(where, made)) == (before, metrics)
    assert len(json.loads(record.path(where.results, name).read_text())["result"]["curves"]["loss"]) == 8


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
        configure: Configure, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], damage: str) -> None:
    made = configure("jepa")
    pretrain.pretrain(made, [tiny], elsewhere(where, "straight"))
    killed_at(monkeypatch, 7, made, [tiny], where)
    newest = run_folder(where.work, run_id(made)) / "checkpoints" / "step-00000006.pt"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 255
    newest.write_bytes({"truncate": raw[:-500], "flip": raw, "empty": b""}[damage])
    began: list[int] = []
    schedule = optim.schedule_
    monkeypatch.setattr(optim, "schedule_", lambda o, taken, s: began.append(taken) or schedule(o, taken, s))
    pretrain.pretrain(made, [tiny], where)
    assert began == [4, 5, 6, 7]
    said = [line for line in capsys.readouterr().err.splitlines() if "going back to the one before" in line]
    assert len(said) == 1
    assert str(newest) in said[0]
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "straight"), made)
    assert lines(where, made) == lines(elsewhere(where, "straight"), made)


def test_damaged_checkpoints_alone_start_the_run_again(configure: Configure, tiny: Store, where: Workspace,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("mae")
    pretrain.pretrain(made, [tiny], elsewhere(where, "straight"))
    killed_at(monkeypatch, 5, made, [tiny], where)
    folder = run_folder(where.work, run_id(made))
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    (folder / "checkpoints" / ".step-00000006.pt.x.tmp").write_bytes(b"half a checkpoint")
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"step": 6, "lo')  # torn
    pretrain.pretrain(made, [tiny], where)
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "straight"), made)
    assert lines(where, made) == lines(elsewhere(where, "straight"), made)
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_signal_saves_and_stops_and_the_same_command_continues(
        configure: Configure, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch, signum: int, step: int) -> None:
    made = configure("mae")
    where = replace(where, save_steps=100)
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)]
    schedule = optim.schedule_

    def send(optimiser: Any, taken: int, settings: Any) -> float:
        if taken == step:
            os.kill(os.getpid(), signum)
        return schedule(optimiser, taken, settings)

    with monkeypatch.context() as m, pytest.raises(Interrupted, match=f"step {step + 1} of 8; the same command") as stop:
        m.setattr(optim, "schedule_", send)
        pretrain.pretrain(made, [tiny], where)
    assert stop.value.exit_code == 128 + signum
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)] == before
    assert not record.exists(where.results, run_id(made))
    folder = run_folder(where.work, run_id(made))
    assert not (folder / "error.txt").exists()
    saved = folder / ("final.pt" if step == 7 else f"checkpoints/step-{step + 1:08d}.pt")
    assert checkpoint.load(saved).meta["step"] == step + 1
    pretrain.pretrain(made, [tiny], where)
    pretrain.pretrain(made, [tiny], elsewhere(where, "straight"))
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "straight"), made)
    assert lines(where, made) == lines(elsewhere(where, "straight"), made)


def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_one_before(
        configure: Configure, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("mae")
    save = torch.save

    def full(content: Any, f: Any) -> None:
        save(content, f)
        if '"step": 6' in content["meta"]:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as m, pytest.raises(OSError, match="No space left on device"):
        m.setattr(torch, "save", full)
        pretrain.pretrain(made, [tiny], where)
    folder = run_folder(where.work, run_id(made))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000002.pt", "step-00000004.pt"]
    assert "No space left on device" in (folder / "error.txt").read_text()
    pretrain.pretrain(made, [tiny], where)
    assert not (folder / "error.txt").exists()
    pretrain.pretrain(made, [tiny], elsewhere(where, "straight"))
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "straight"), made)


class Diverging(Linear):
    """From the given step on the loss is NaN, or it is finite but its gradient is not."""

    def forward(self, views: list, step: method.Step) -> tuple:
        loss, scalars = super().forward(views, step)
        if step.index == 5 and self.scale == 1.0:
            return loss * torch.nan, scalars
        if step.index == 5 and self.scale == 2.0:
            zero = (self.encoder.norm.weight - self.encoder.norm.weight).abs().sum()
            return loss + zero.sqrt(), scalars  # sqrt at 0: value 0, gradient NaN
        return loss, scalars


@pytest.mark.parametrize(("scale", "words"), [
    (1.0, "the loss of step 5 is nan: training stopped; lower optim.lr"),
    (2.0, "step 5 left weights that are not finite: training stopped"),
])
def test_a_diverging_run_stops_names_the_step_and_keeps_the_last_good_checkpoint(
        configure: Configure, tiny: Store, where: Workspace, monkeypatch: pytest.MonkeyPatch, scale: float, words: str) -> None:
    made = configure("mae")
    monkeypatch.setattr(method, "build", lambda config, encoder: Diverging(encoder, scale=scale))
    with pytest.raises(UserError, match=words) as caught:
        pretrain.pretrain(made, [tiny], where)
    folder = run_folder(where.work, run_id(made))
    assert "Last good checkpoint: step-00000004.pt" in str(caught.value)
    assert (folder / "error.txt").read_text() == f"{caught.value}\n"
    assert not record.exists(where.results, run_id(made))
    assert not (folder / "final.pt").exists()
    newest = max((folder / "checkpoints").iterdir())
    assert newest.name == "step-00000004.pt"
    assert all(t.isfinite().all() for t in checkpoint.load(newest).tensors.values())
    assert max(m["step"] for m in lines(where, made)) <= 6


def test_a_last_step_that_diverges_leaves_no_result(configure: Configure, tiny: Store, where: Workspace,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("mae", "optim.steps=6")
    monkeypatch.setattr(method, "build", lambda config, encoder: Diverging(encoder, scale=2.0))
    with pytest.raises(UserError, match="step 5 left weights that are not finite"):
        pretrain.pretrain(made, [tiny], where)
    assert not (run_folder(where.work, run_id(made)) / "final.pt").exists()
    assert not record.exists(where.results, run_id(made))


def test_a_second_process_on_the_same_run_gets_one_line_and_disturbs_nothing(configure: Configure, tiny: Store,
                                                                             where: Workspace) -> None:
    made = configure("mae")
    folder = run_folder(where.work, run_id(made))
    hold = ("import sys; from pathlib import Path; from bench.core.files import lock_file\n"
            f"with lock_file(Path({str(folder / 'lock')!r}), 'x'): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=ROOT) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"run {run_id(made)} is being worked on by another process") as caught:
            pretrain.pretrain(made, [tiny], where)
        assert "\n" not in str(caught.value)
        assert [p.name for p in folder.iterdir()] == ["lock"]
        other.stdin.close()
    pretrain.pretrain(made, [tiny], where)
    assert record.exists(where.results, run_id(made))


def test_a_results_folder_that_is_a_file_is_named_before_the_work(configure: Configure, tiny: Store, where: Workspace) -> None:
    where.results.write_text("x")
    with pytest.raises(UserError, match="cannot write into"):
        pretrain.pretrain(configure("mae"), [tiny], where)
    assert not where.work.exists()


def test_throughput_after_a_kill_counts_what_was_done_since(configure: Configure, tiny: Store, where: Workspace,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(pretrain, "LOG_POINTS", 1)
    made = configure("mae")
    killed_at(monkeypatch, 7, made, [tiny], where)
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: float(next(clock)))
    name = pretrain.pretrain(made, [tiny], where).run_id
    result = json.loads(record.path(where.results, name).read_text())["result"]
    assert result["seconds"] >= 8.0  # one tick at least for each of the eight steps, though two ran after the kill
    assert result["records_per_second"] == pytest.approx(32 / result["seconds"])


def test_rankme_is_the_number_of_directions_that_tokens_use(configure: Configure) -> None:
    class Fixed(Linear):
        def backbone(self) -> Any:
            return self

    built = Fixed(build_model(configure("mae")).encoder)
    q, _ = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    for rank in (1, 4, 16):
        tokens = (q[:, :rank] @ torch.eye(rank, 16))[:, None].expand(-1, 3, -1)
        built.forward = lambda x, tokens=tokens: tokens  # type: ignore[method-assign]
        assert monitor.measure_collapse(built, torch.zeros(64, 1))["rankme"] == pytest.approx(rank, rel=1e-3)
    built.forward = lambda x: torch.ones(64, 3, 16)  # type: ignore[method-assign]
    assert monitor.measure_collapse(built, torch.zeros(64, 1))["feature_sd"] == 0.0


def test_looking_for_collapse_does_not_change_training(configure: Configure, tiny: Store, where: Workspace,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = configure("jepa", "encoder.dropout=0.2")
    pretrain.pretrain(made, [tiny], where)
    monkeypatch.setattr(monitor, "POINTS", 1)
    pretrain.pretrain(made, [tiny], elsewhere(where, "seldom"))
    assert final_bytes(where, made) == final_bytes(elsewhere(where, "seldom"), made)
