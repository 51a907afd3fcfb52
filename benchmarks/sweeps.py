"""Prints how long a sweep of 10,000 runs takes to plan, to submit (and how many calls of sbatch) and to show."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import yaml
from rich.console import Console

from bench import sweeps
from bench.core.files import write_text
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from slurm import commands, cost, lease, states, status
from slurm.cluster import find_cluster, read_cluster
from slurm.commands import QueuedTask
from slurm.plan import Limits, plan_arrays
from slurm.shared import Failure, SharedFolder
from slurm.states import Run
from slurm.submit import Settings, submit

TARGETS = {"plan": 10.0, "status": 5.0}  # seconds, of 10,000 runs
RUNNING, FAILED = 500, 200  # of the runs, when the status is measured


def write_store(folder: Path) -> None:
    """A labelled store, as small as the evaluation takes it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    np.save(corpus / "signals.npy", np.random.default_rng(0).integers(-900, 900, (40, 12, 1000), dtype=np.int16))
    rows = [f"r{i},{i // 4 + 1},{'ab'[i % 2]}" for i in range(40)]
    (corpus / "records.csv").write_text("\n".join(["record_id,fold,letter", *rows, ""]))
    (corpus / "dataset.yaml").write_text(yaml.safe_dump({
        "name": "noise", "rate_hz": 100, "leads": list(LEADS), "units": "mV", "scale": 0.001, "tasks": ["letter"]}))
    prepare(open_corpus("array", corpus, None), folder / "stores")


def make_spec(runs: int) -> dict[str, dict[str, object]]:
    """About so many runs: 24 evaluations of each pre-training of four methods."""
    return {
        "pretrain": {"methods": ["jepa", "mae", "simclr", "vicreg"], "seeds": list(range(max(1, runs // 100))),
                     "mix": {"noise": 1.0}, "set": {"data.rate_hz": 100, "encoder.patch": 10, "optim.warmup_steps": 10}},
        "evaluate": {"store": "noise", "tasks": ["letter"], "protocols": ["linear", "finetune"], "seeds": list(range(12))}}


class FakeCluster:
    """Takes every sbatch; `tasks` is its queue."""

    def __init__(self) -> None:
        self.calls = 0
        self.tasks: list[QueuedTask] = []

    def run_command(self, *command: str) -> str:
        if command[0] != "sbatch":
            return "MaxArraySize = 1001"
        self.calls += 1
        options = dict(option.removeprefix("--").partition("=")[::2] for option in command[1:-1])
        token = options["job-name"].removeprefix(commands.PREFIX)
        for part in options["array"].partition("%")[0].split(","):
            first, _, last = part.partition("-")
            self.tasks += [QueuedTask(str(self.calls), i, "PENDING", "", "Priority", token)
                           for i in range(int(first), int(last or first) + 1)]
        return str(self.calls)


def load_runs(path: Path, folder: Path) -> dict[str, Run]:
    return states.list_runs(sweeps.load_sweep(path, folder)[0])


def occupy(runs: list[str], shared: SharedFolder, log: str) -> list[lease.Holder]:
    """Let some of the runs be worked on, and others have failed; gives those who work."""
    holders = [lease.Holder(shared.leases, log=log) for _ in runs[:RUNNING]]
    for holder, run in zip(holders, runs, strict=False):
        holder.take([run])
    for run in runs[RUNNING : RUNNING + FAILED]:
        shared.note_failure(run, Failure("a reason", job="1", node="n1"))
    return holders


def measure(number: int) -> dict[str, float]:
    """Seconds of plan, submit and status, and the calls of sbatch."""
    with tempfile.TemporaryDirectory() as name:
        folder, fake = Path(name), FakeCluster()
        write_store(folder)
        shared, path = SharedFolder(folder, folder / "results"), folder / "s.yaml"
        shared.results.mkdir()
        path.write_text(yaml.safe_dump(make_spec(number)))
        cluster = read_cluster(find_cluster("test"))
        with patch.multiple(commands, run_command=fake.run_command, list_queue=lambda: fake.tasks, list_end_states=dict):
            began = time.perf_counter()
            runs = load_runs(path, folder)
            states.read_states(runs, shared, fake.tasks)
            plan_arrays(runs, cluster, Limits(commands.max_array_size()))
            cost.estimate_costs(runs, shared.results, cluster)
            planned = time.perf_counter()
            submit(runs, shared, Settings("s", cluster))
            submitted = time.perf_counter()
            holders = occupy(list(runs), shared, f"{fake.tasks[0].token}/logs/0.log")
            occupied = time.perf_counter()
            runs = load_runs(path, folder)
            states.read_states(runs, shared, fake.tasks)
            Console(file=sys.stderr, quiet=True).print(status.render_table(runs, shared))
            shown = time.perf_counter()
            for holder in holders:
                holder.end()
    return {"runs": len(runs), "plan": planned - began, "submit": submitted - planned, "sbatch": fake.calls,
            "status": shown - occupied}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    options = parser.parse_args(arguments)
    numbers = measure(options.runs)
    for key, value in numbers.items():
        target = f"  (target {TARGETS[key]:g} s)" if key in TARGETS and numbers["runs"] >= 10_000 else ""
        print(f"{key:>7} {value:10,.2f}{target}" if isinstance(value, float) else f"{key:>7} {value:10,}")
    if options.json:
        write_text(options.json, json.dumps(numbers))


if __name__ == "__main__":
    main()
