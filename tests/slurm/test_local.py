"""A sweep in processes of this machine: the same results, a progress that shows, and a Ctrl-C that loses nothing."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sweep_tools import HOSTILE, load_runs, processes, until, with_pretrain
from test_sweeps import read_results

from bench import sweeps
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.runs.workspace import Workspace
from slurm import local, states
from slurm.shared import SharedFolder, read_tail

pytestmark = pytest.mark.slow


def test_a_sweep_run_by_workers_here_gives_what_one_in_this_process_gives(tmp_path: Path, stores: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOG_SECONDS", 0.1)
    spec = with_pretrain(20, grid=[{"optim.lr": [1e-3, 1e30]}])  # one fails
    results = {}
    for name in ("straight", HOSTILE):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stores").symlink_to(stores)
        here = SharedFolder(tmp_path / name, tmp_path / name / "results")
        runs, lines = load_runs(here, spec), list[str]()
        if name == HOSTILE:
            local.run_local(runs, here, "s", jobs=2, cpus=1, say=lines.append)
            assert "2 evaluations left out: their pre-training has no result" in lines
            assert any(re.search(r"running.* so far.*; \S.* \d+/\d+$", line) for line in lines), lines
        else:
            with pytest.raises(UserError, match="lower optim.lr"):
                sweeps.run_sweep(here.work / "s.yaml", Workspace(here.work, here.results, torch.device("cpu")), lines.append)
        states.read_states(runs, here, None)
        results[name] = read_results(here.results)
    assert states.count_states(runs.values()) | {"done": 3, "failed": 1, "blocked": 2} == states.count_states(runs.values())
    assert results[HOSTILE] == results["straight"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_local_sweep_that_is_stopped_leaves_no_process_and_a_checkpoint(tmp_path: Path, stores: Path, signum: int, code: int
                                                                         ) -> None:
    (tmp_path / "stores").symlink_to(stores)
    shared = SharedFolder(tmp_path, tmp_path / "results")
    runs = load_runs(shared, with_pretrain(100_000))
    command = ["sweep", "run", tmp_path / "s.yaml", "--local", "--work", tmp_path, "--results", shared.results]
    process = subprocess.Popen([sys.executable, "-c", "from bench.cli import main; main()", *command], text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    first = next(iter(runs.values()))
    folder = tmp_path / "runs" / first.name
    try:
        until(lambda: "loss" in read_tail(folder / "metrics.jsonl"), 60)
        until(lambda: states.read_states(runs, shared, None) or (first.progress and first.progress.done), 60)
        assert first.state == "running" and first.progress and first.progress.total == 100_000
    finally:
        process.send_signal(signum)
        _, words = process.communicate(timeout=100)
    assert process.returncode == code
    until(lambda: not processes(str(tmp_path)), 60)
    assert list((folder / "checkpoints").glob("step-*.pt"))
    states.read_states(runs, shared, None)
    assert {run.state for run in runs.values()} == {"missing"}
    if signum == signal.SIGINT:
        assert re.fullmatch(r"ecgssl: SIGINT: saved 0 results \(0 of 3 runs are done\) and the checkpoints of 1 tasks; "
                            r"the same command continues from there\n", words), words
