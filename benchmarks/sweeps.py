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

from bench import sweeps as sweep
from bench.core.files import write_text
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS
from slurm import cluster, commands, cost, lease, plan, status, submit
from slurm.commands import Task
from slurm.plan import Run
from slurm.shared import Shared

TARGETS = {"plan": 10.0, "status": 5.0}  # seconds, of 10,000 runs
RUNNING, FAILED = 500, 200  # of the runs, when the status is measured


def store(folder: Path) -> None:
    """A labelled store, as small as the evaluation takes it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    np.save(corpus / "signals.npy", np.random.default_rng(0).integers(-900, 900, (40, 12, 1000), dtype=np.int16))
    rows = [f"r{i},{i // 4 + 1},{'ab'[i % 2]}" for i in range(40)]
    (corpus / "records.csv").write_text("\n".join(["record_id,fold,letter", *rows, ""]))
    (corpus / "dataset.yaml").write_text(yaml.safe_dump({
        "name": "noise", "rate_hz": 100, "leads": list(LEADS), "units": "mV", "scale": 0.001, "tasks": ["letter"]}))
    prepare(open_corpus("array", corpus, None), folder / "stores")


def spec(runs: int) -> dict[str, dict[str, object]]:
    """About so many runs: 24 evaluations of each pre-training of four methods."""
    return {
        "pretrain": {"methods": ["jepa", "mae", "simclr", "vicreg"], "seeds": list(range(max(1, runs // 100))),
                     "mix": {"noise": 1.0}, "set": {"data.rate_hz": 100, "encoder.patch": 10, "optim.warmup_steps": 10}},
        "evaluate": {"store": "noise", "tasks": ["letter"], "protocols": ["linear", "finetune"], "seeds": list(range(12))}}


class Cluster:
    """Takes every sbatch; what is queued."""

    def __init__(self) -> None:
        self.calls = 0
        self.tasks: list[Task] = []

    def call(self, *command: str) -> str:
        if command[0] != "sbatch":
            return "MaxArraySize = 1001"
        self.calls += 1
        options = dict(option.removeprefix("--").partition("=")[::2] for option in command[1:-1])
        for part in options["array"].partition("%")[0].split(","):
            first, _, last = part.partition("-")
            self.tasks += [Task(str(self.calls), i, "PENDING", "", "Priority", options["job-name"].removeprefix(commands.PREFIX))
                           for i in range(int(first), int(last or first) + 1)]
        return str(self.calls)


def graph(path: Path, folder: Path) -> dict[str, Run]:
    return plan.graph(sweep.load_sweep(path, folder)[0])


def measure(runs: int) -> dict[str, float]:
    """Seconds of plan, submit and status, and the calls of sbatch."""
    with tempfile.TemporaryDirectory() as name:
        folder, queue = Path(name), Cluster()
        store(folder)
        shared, path = Shared(folder, folder / "results"), folder / "s.yaml"
        shared.results.mkdir()
        path.write_text(yaml.safe_dump(spec(runs)))
        where = cluster.read(cluster.find("test"))
        with patch.object(commands, "call", queue.call), patch.multiple(
                commands, queue=lambda: queue.tasks, ended=dict):
            began = time.perf_counter()
            made = graph(path, folder)
            plan.look(made, shared, queue.tasks)
            plan.arrays(made, where, commands.largest_array())
            cost.estimate(made, shared.results, where)
            planned = time.perf_counter()
            submit.submit(made, shared, where, "s")
            submitted = time.perf_counter()
            log = f"{queue.tasks[0].token}/logs/0.log"
            holders = [lease.Holder(shared.leases, log=log) for _ in range(min(RUNNING, len(made)))]
            for holder, run in zip(holders, made, strict=False):
                holder.take([run])
            for run in list(made)[RUNNING : RUNNING + FAILED]:
                shared.note(run, "a reason", job="1", node="n1")
            shown = time.perf_counter()
            made = graph(path, folder)
            plan.look(made, shared, queue.tasks)
            Console(file=sys.stderr, quiet=True).print(status.table(made, shared))
            over = time.perf_counter()
            for holder in holders:
                holder.end()
    return {"runs": len(made), "plan": planned - began, "submit": submitted - planned, "sbatch": queue.calls,
            "status": over - shown}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    given = parser.parse_args(arguments)
    found = measure(given.runs)
    for key, value in found.items():
        target = f"  (target {TARGETS[key]:g} s)" if key in TARGETS and found["runs"] >= 10_000 else ""
        print(f"{key:>7} {value:10,.2f}{target}" if isinstance(value, float) else f"{key:>7} {value:10,}")
    if given.json:
        write_text(given.json, json.dumps(found))


if __name__ == "__main__":
    main()
