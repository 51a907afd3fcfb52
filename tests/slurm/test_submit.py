"""What a sweep submits: every run once, few arrays, evaluations after their pre-training."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sweep_tools import Queue, count_submitted, load_runs, runs_of, shared, write_result
from test_cluster import cluster_of
from test_sweeps import SPEC, replace

from bench.cli.sweeps import sweep_plan
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.runs import config, provenance
from slurm import commands, plan, snapshot, states, submit
from slurm.shared import SharedFolder
from slurm.states import Run

__all__ = ["shared"]  # a fixture


def settings(shared: SharedFolder, text: str = "") -> submit.Settings:
    return submit.Settings("s", cluster_of(shared.work, text))


@pytest.mark.parametrize(("pack", "array_size"), [(1, 1001), (3, 1001), (1, 3)])
def test_every_run_is_submitted_once_after_a_refusal_too_and_each_evaluation_after_its_pretraining(
        shared: SharedFolder, monkeypatch: pytest.MonkeyPatch, pack: int, array_size: int) -> None:
    queue, runs = Queue(monkeypatch, array_size), load_runs(shared, replace("evaluate/seeds", [0, 1, 2, 3]))
    with monkeypatch.context() as m, pytest.raises(UserError, match="sbatch refuses: no"):
        m.setattr(commands, "run_command", queue.refuse_second)
        submit.submit(runs, shared, settings(shared, f"evaluate: {{pack: {pack}}}"))
    submit.submit(runs, shared, settings(shared, f"evaluate: {{pack: {pack}}}"))
    assert count_submitted(shared, queue) == Counter(list(runs))
    assert max(task.index for task in queue.tasks) < array_size
    places = {run: (task.job, task.index) for task in queue.tasks for run in runs_of(shared, task) if not runs[run].pretrain}
    for task in queue.tasks:
        command = queue.calls[int(task.job) - 1]
        for run in runs_of(shared, task):
            if runs[run].pretrain:
                job, index = places[runs[run].pretrain]
                assert f"--dependency=aftercorr:{job}" in command and "--kill-on-invalid-dep=yes" in command
                assert task.index == index
    before = len(queue.calls)
    runs = load_runs(shared, replace("evaluate/seeds", [0, 1, 2, 3, 5]))  # new evaluations of pre-trainings that are queued
    submit.submit(runs, shared, settings(shared))
    assert count_submitted(shared, queue) == Counter(list(runs))
    assert len(queue.calls) > before and all("--dependency=aftercorr:" in " ".join(call) for call in queue.calls[before:])


def test_what_stands_in_the_way_of_a_submission_is_said_before_it(shared: SharedFolder) -> None:
    with pytest.raises(UserError, match="choose a work folder without"):
        submit.submit({}, SharedFolder(shared.work / "100%", shared.results), settings(shared))
    with submit.lock_submissions(shared, 1), pytest.raises(UserError, match="another `submit` works on .*pid"):
        submit.submit({}, shared, settings(shared, "\nbeat_seconds: 0.01"))


def work(shared: SharedFolder, kind: str, runs: list[Run]) -> "subprocess.CompletedProcess[str]":
    """What a worker of one task with these runs does."""
    array = plan.Array(kind, {0: [[run.config for run in runs]]})
    folder = submit.prepare_submission(array, shared, settings(shared), ROOT)
    return subprocess.run([sys.executable, "-m", "slurm.worker", folder, "0"], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)


def test_a_worker_does_not_repeat_what_is_done_nor_fail_what_comes_too_early(shared: SharedFolder) -> None:
    """The job of an evaluation may run though its pre-training has no result: Slurm has forgotten that job, say."""
    runs = load_runs(shared, SPEC)
    first, *others = runs.values()
    early = [run for run in others if run.pretrain][:2]
    done = work(shared, "evaluate", early)
    assert done.returncode == 1 and "its pre-training has no result" in done.stderr
    states.read_states(runs, shared, None)
    assert {run.state for run in early} == {"missing"}
    assert not any(shared.leases.iterdir())
    write_result(shared, first)
    done = work(shared, "pretrain", [first])
    assert done.returncode == 0 and f"already done: {shared.results / first.name}.json" in done.stderr


def test_a_plan_without_stores_counts_runs_and_cost_and_says_what_is_missing(
        shared: SharedFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = load_runs(shared, SPEC)
    write_result(shared, next(run for run in runs.values() if run.method == "jepa"), seconds=3600.0, records=16)
    sweep_plan(shared.work / "s.yaml", "test", shared.work / "empty", shared.results)
    output = capsys.readouterr().out
    assert f"not in {shared.work / 'empty' / 'stores'}: tiny. The plan below uses the configs alone" in output
    assert "15 runs" in output and "1 pretrain" in output and "2 evaluate" in output
    assert "cost of pretrain: 0.0 GPU-hours and 2.0 CPU-hours for 3 runs; unknown for 2 runs" in output  # random, mae
    assert "cost of evaluate: unknown for 10 runs" in output


def test_a_copy_of_the_code_is_whole_and_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = snapshot.copy_code(tmp_path / "code")
    assert snapshot.copy_code(tmp_path / "code") == a
    assert [p.name for p in (tmp_path / "code").iterdir()] == [a.name]
    for part in snapshot.PARTS:
        assert {p.relative_to(ROOT) for p in (ROOT / part).rglob("*") if p.suffix in snapshot.SUFFIXES} == {
            p.relative_to(a) for p in (a / part).rglob("*") if p.is_file()}
    assert json.loads((a / provenance.SNAPSHOT).read_text()) == provenance.code()
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "mine.yaml").write_text("method: {name: mine}\n")
    monkeypatch.setenv(config.METHODS, str(tmp_path))
    b = snapshot.copy_code(tmp_path / "code")
    assert b.name != a.name and (b / "methods" / "mine.py").read_text() == "x = 1\n"
