"""However a pre-training stops, the same call continues it to the same bytes."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining import Killed, Linear, Pretraining, as_method

from bench.core.errors import UserError
from bench.core.files import lock_file
from bench.core.interrupt import SIGNALS, Interrupted
from bench.method import Step
from bench.runs.config import METHODS, run_id
from bench.training import checkpoint, trainer

Start = Callable[..., Pretraining]


def ends_as_if_never_stopped(run: Pretraining) -> None:
    """Continue the run; AssertionError unless it ends like one that nothing stopped."""
    straight = run.elsewhere("straight", save_steps=100)
    run.run()
    straight.run()
    assert run.left == straight.left


@pytest.mark.parametrize(("name", "overrides"), [
    ("jepa", []), ("simclr", []), ("jepa", ["encoder.dropout=0.3"]), ("mae", ["optim.accumulate=2"])])
def test_a_killed_run_ends_with_the_same_bytes(start: Start, name: str, overrides: list[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_POINTS", 3)  # so that a kill falls between two lines
    run = start(name, "optim.steps=10", *overrides)
    for step in (1, 4, 5, 9):
        run.kill_at(step, monkeypatch)
    ends_as_if_never_stopped(run)


def test_a_run_killed_between_its_last_checkpoint_and_its_result_only_writes_the_result(
        start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise Killed

    run = start("mae")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "write_result", die)
        run.run()
    before = (run.folder / "final.pt").read_bytes(), run.lines
    began = run.call_at(-1, None, monkeypatch)
    run.run()
    assert began == []
    assert ((run.folder / "final.pt").read_bytes(), run.lines) == before
    assert len(run.written["result"]["curves"]["loss"]) == 8


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
        start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = start("jepa")
    run.kill_at(7, monkeypatch)
    newest = run.folder / "checkpoints" / "step-00000006.pt"
    os.truncate(newest, newest.stat().st_size - 500)
    with monkeypatch.context() as patch:
        began = run.call_at(-1, None, patch)
        run.run()
    assert began == [4, 5, 6, 7]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "going back to the one before" in line]
    assert str(newest) in said
    ends_as_if_never_stopped(run)


def test_damaged_checkpoints_alone_start_the_run_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("mae")
    run.kill_at(5, monkeypatch)
    for name in (*run.states, ".step-00000006.pt.x.tmp"):
        (run.folder / "checkpoints" / name).write_bytes(b"half a checkpoint")
    with (run.folder / "metrics.jsonl").open("a") as f:
        f.write('{"step": 6, "lo')  # torn
    ends_as_if_never_stopped(run)


@pytest.mark.parametrize(("signum", "step"), [
    (signal.SIGTERM, 0), (signal.SIGINT, 3), (signal.SIGUSR2, 3), (signal.SIGTERM, 7)])
def test_a_signal_saves_and_stops_and_the_same_command_continues(start: Start, monkeypatch: pytest.MonkeyPatch, signum: int,
                                                                 step: int) -> None:
    run = start("mae")
    run = replace(run, workspace=replace(run.workspace, save_steps=100))
    before = [signal.getsignal(each) for each in SIGNALS]
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"step {step + 1} of 8; the same command") as stop:
        run.call_at(step, lambda: os.kill(os.getpid(), signum), patch)
        run.run()
    assert stop.value.exit_code == 128 + signum
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert not run.is_done and not (run.folder / "error.txt").exists()
    saved = run.folder / ("final.pt" if step == 7 else f"checkpoints/step-{step + 1:08d}.pt")
    assert checkpoint.load(saved).meta["step"] == step + 1
    ends_as_if_never_stopped(run)


def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_one_before(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def fill_up(content: Any, f: Any) -> None:
        save(content, f)
        if '"step": 6' in content["meta"]:
            raise OSError(28, "No space left on device")

    run = start("mae")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(torch, "save", fill_up)
        run.run()
    assert run.states == ["step-00000002.pt", "step-00000004.pt"]
    assert "No space left on device" in (run.folder / "error.txt").read_text()
    ends_as_if_never_stopped(run)


class Diverging(Linear):
    """At step 5 the loss is NaN, or it is finite but its gradient is not."""

    def __init__(self, encoder: Any, finite: bool) -> None:
        super().__init__(encoder)
        self.finite = finite

    def forward(self, views: list[torch.Tensor], step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, scalars = super().forward(views, step)
        if step.index == 5:
            zero = (self.encoder.norm.weight - self.encoder.norm.weight).abs().sum()
            loss = loss + zero.sqrt() if self.finite else loss * torch.nan  # sqrt at 0: value 0, gradient NaN
        return loss, scalars


@pytest.mark.parametrize(("finite", "steps", "words"), [
    (False, 8, "the loss of step 5 is nan: training stopped; lower optim.lr"),
    (True, 6, "step 5 left weights that are not finite: training stopped")])
def test_a_diverging_run_stops_names_the_step_and_keeps_the_last_good_checkpoint(
        start: Start, monkeypatch: pytest.MonkeyPatch, finite: bool, steps: int, words: str) -> None:
    run = start("mae", f"optim.steps={steps}")
    as_method(monkeypatch, lambda encoder: Diverging(encoder, finite))
    with pytest.raises(UserError, match=words) as caught:
        run.run()
    assert "Last good checkpoint: step-00000004.pt" in str(caught.value)
    assert (run.folder / "error.txt").read_text() == f"{caught.value}\n"
    assert not run.is_done and not (run.folder / "final.pt").exists()
    assert run.states[-1] == "step-00000004.pt"
    newest = checkpoint.load(run.folder / "checkpoints" / run.states[-1])
    assert all(tensor.isfinite().all() for tensor in newest.tensors.values())


def test_a_second_process_on_the_same_run_gets_one_line_and_disturbs_nothing(start: Start) -> None:
    run = start("mae")
    with lock_file(run.folder / "lock", "x"):
        with pytest.raises(UserError, match=f"run {run_id(run.config)} is being worked on by another process"):
            run.run()
        assert [path.name for path in run.folder.iterdir()] == ["lock"]
    run.run()
    assert run.is_done


# code that changes

CODE = """from bench.method import Method

class Mine(Method):
    def forward(self, views, step):
        return self.encoder(views[0]).square().mean(), {}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code of the method `mine`, outside the repository."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "mine.yaml").write_text("method: {name: mine}\nviews: [{seconds: 10.0}]\n")
    (folder / "mine.py").write_text(CODE)
    monkeypatch.setenv(METHODS, str(folder))
    return folder / "mine.py"


def test_a_finished_run_whose_code_has_changed_is_refused_and_run_anew_on_request(start: Start, mine: Path) -> None:
    run = start("mine")
    first = run.run()
    mine.write_text(f"# a comment changes nothing\n{CODE}")
    without_work = replace(run, workspace=replace(run.workspace, work=run.workspace.work / "gone"))
    assert run.run() == without_work.run() == replace(first, ran=False)
    before = run.written["provenance"]["source"]
    mine.write_text(CODE.replace(".square()", ".abs()"))
    with pytest.raises(UserError, match=rf"HAS CHANGED since the result {first.result} was written .*--again"):
        run.run()
    assert run.run(again=True).ran
    assert run.written["provenance"]["source"] != before
    replaced = run.workspace.results / "replaced" / "1" / first.result.name
    assert json.loads(replaced.read_text())["provenance"]["source"] == before
    assert (run.workspace.work / "replaced" / "1" / first.run_id / "final.pt").is_file()


def test_an_unfinished_run_is_not_continued_by_other_code(start: Start, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("mine")
    run.kill_at(5, monkeypatch)
    mine.write_text(CODE.replace(".square()", ".abs()"))
    with pytest.raises(UserError, match="HAS CHANGED since the unfinished run in"):
        run.run()
    began = run.call_at(-1, None, monkeypatch)
    run.run(again=True)
    assert began[0] == 0
