"""What state each run of a sweep is in, how far it is, and how that is shown."""

import os
from pathlib import Path

from sweep_tools import load_runs, shared, write_result
from test_cluster import cluster_of
from test_sweeps import of_methods

from bench.core import progress
from bench.core.progress import Progress
from slurm import lease, page, states, status
from slurm.commands import QueuedTask
from slurm.plan import Array
from slurm.shared import Failure, SharedFolder
from slurm.states import Run
from slurm.submit import Settings, prepare_submission

__all__ = ["shared"]  # a fixture


def submit_tasks(shared: SharedFolder, *tasks: list[Run]) -> Path:
    """A submission with these tasks, of one unit per run."""
    array = Array("pretrain", {index: [[run.config] for run in runs] for index, runs in enumerate(tasks)}, token="ab12")
    return prepare_submission(array, shared, Settings("s", cluster_of(shared.work)), shared.folder)


def test_a_run_s_state_comes_from_results_leases_failures_and_the_queue(shared: SharedFolder) -> None:
    runs = load_runs(shared, of_methods("jepa", seeds=list(range(8))))
    first = [run for run in runs.values() if not run.pretrain]
    done, running, turn, lost, failed, parked, waiting, missing = first
    write_result(shared, done)
    folder = submit_tasks(shared, [done], [running, turn], [lost], [], [waiting], [missing])
    (folder / "logs" / "5.log").write_text("loading\nbash: module: command not found\n\n")
    holder = lease.Holder(shared.leases, log="ab12/logs/1.log")
    holder.take([running.name, turn.name])
    progress.write_progress(holder.progress, Progress("pretrain", 3, 10, 6.0, 14.0))
    dead = lease.Holder(shared.leases, log="ab12/logs/2.log")
    dead.take([lost.name])
    dead.path.write_text(dead.path.read_text().replace(f'"start_ticks": {lease.start_ticks(os.getpid())}', '"start_ticks": 1'))
    for step in range(3):
        shared.note_failure(failed.name, Failure("a\nreason" if step else "another", job="1", node="n1"))
        shared.note_failure(parked.name, Failure(f"the loss of step {step} is nan"))  # one reason, whatever the number
    states.read_states(runs, shared, [QueuedTask("9", 4, "PENDING", "", "Resources", "ab12"),
                                      QueuedTask("8", 0, "PENDING", "", "", "cd34")])
    assert [run.state for run in first] == ["done", "running", "waiting", "lost", "failed", "parked", "waiting", "missing"]
    assert (failed.reason, failed.node, waiting.reason) == ("a reason", "n1", "Resources")
    assert "vanished" in lost.reason
    assert (missing.reason, turn.reason) == ("its job ended: bash: module: command not found", states.TURN)
    assert {run.state for run in runs.values() if run.pretrain in (failed.name, parked.name)} == {"blocked"}
    assert {run.state for run in runs.values() if run.pretrain in (lost.name, done.name)} == {"missing"}
    assert status.list_cells(running)[3:6] == ["3/10", "0.5", "00:00:14"] and turn.progress is None
    text = page.render_page(runs, shared, "<s>")
    assert "&lt;s&gt;" in text and all(word in text for word in (failed.name, "a reason", "its pre-training", "3/10"))
    assert status.summarise(runs, shared).startswith(
        "24 runs: 1 done, 1 running, 2 waiting, 1 failed, 1 parked, 4 blocked, 1 lost, 13 missing")
    holder.end()
    assert not holder.progress.exists()
