"""Sweeps, on Slurm and here."""

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.cli.options import WORK, Device, Methods, Minutes, Results, Threads, Work, sweep_app, where
from bench.core.errors import UserError

Spec = Annotated[Path, typer.Argument(help="YAML file, e.g. slurm/sweeps/demo.yaml.")]
ClusterFile = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or a YAML file like "
                                                 "them.")]
SweepWork = Annotated[Path | None, typer.Option("--work", help="Folder for stores, checkpoints, logs; else the cluster "
                                                "file's, else [env: ECGSSL_WORK].")]
SweepResults = Annotated[Path | None, typer.Option("--results", help="Folder of the records; else the cluster file's, else "
                                                   "results.")]


def _sweep(spec: Path, cluster: str | None, work: Path | None, results: Path | None) -> tuple[Any, Any, Any]:
    """(runs of the sweep, what its jobs share, the cluster or None)."""
    from bench import sweeps
    from slurm import cluster as clusters
    from slurm import plan
    from slurm.shared import Shared

    where = clusters.read(clusters.find(cluster)) if cluster else None
    work = work or (where and where.work) or WORK
    shared = Shared(work, results or (where and where.results) or Path("results"))
    return plan.graph(sweeps.load_sweep(spec, work)[0]), shared, where


def _looked(runs: Any, shared: Any) -> Any:
    """Fill in the runs' states; a queue that does not answer is said, not fatal."""
    from slurm import commands, plan

    try:
        queue = commands.queue()
    except UserError as error:
        queue = None
        print(f"ecgssl: without the queue: {error}", file=sys.stderr)
    plan.look(runs, shared, queue)


def _must_hold(runs: Any, name: str, spec: Path) -> None:
    if name not in runs:
        near = difflib.get_close_matches(name, runs, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no run {name!r} in {spec}{hint}; `ecgssl sweep status {spec}` lists them")


def _submitted(made: Any, runs: Any) -> None:
    """Say what was submitted."""
    from slurm import plan

    for array in made.arrays:
        print(f"array of {len(array.tasks)} jobs, {array.runs()} runs: {array.kind}"
              + (", each after its pre-training" if array.after else ""))
    if made.later:
        print(f"{len(made.later)} evaluations wait for pre-trainings that run outside the queue: submit again after them")
    found = plan.counts(runs.values())
    print("before: " + ", ".join(f"{n} {state}" for state, n in found.items() if n)
          + ("" if made.arrays else "; nothing to submit"))


@sweep_app.command("plan")
def sweep_plan(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
               outside: Methods = None) -> None:
    """Show a sweep's runs by state, the arrays and dependencies that `submit` would make, and the cost. Submits nothing."""
    from slurm import commands, cost, plan, status, submit

    runs, shared, where = _sweep(spec, cluster, work, results)
    _looked(runs, shared)
    states = [state for state, n in plan.counts(runs.values()).items() if n]
    by_stage = Table("method", "stage", *states)
    for (method, stage), found in status.stages(runs.values()).items():
        by_stage.add_row(method, stage, *(str(found[state] or "") for state in states))
    Console().print(by_stage)
    if where:
        try:
            largest = commands.largest_array()
        except UserError:
            largest = 1001  # Slurm's default
        made = plan.arrays(runs, where, largest)
        arrays = Table("array", "jobs", "runs", "after", "asks for")
        number = {array.token: i for i, array in enumerate(made.arrays, 1)}
        for array in made.arrays:
            after = f"array {number[array.after]}" if array.after in number else "what is queued" if array.after else ""
            asks = " ".join(where.asked[array.kind].options())
            arrays.add_row(f"{number[array.token]} {array.kind}", str(len(array.tasks)), str(array.runs()), after, asks)
        Console().print(arrays if made.arrays else "nothing to submit")
    for kind, price in cost.estimate(runs, shared.results, where or submit.local(1)).items():
        print(f"left of {kind}: {price}")


@sweep_app.command("submit")
def sweep_submit(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or "
                                                                  "a YAML file like them.")],
                 work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = 10.0,
                 outside: Methods = None) -> None:
    """Submit to Slurm what has no record, is not queued and has not failed; again at any time: only what is missing."""
    from slurm import submit

    runs, shared, where = _sweep(spec, cluster, work, results)
    _submitted(submit.submit(runs, shared, where, spec.stem, save_minutes=save_minutes), runs)


@sweep_app.command("retry")
def sweep_retry(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="As for submit.")],
                failed: Annotated[bool, typer.Option("--failed", help="The runs that failed; not those that are parked "
                                                     "after three failures for one reason.")] = False,
                work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = 10.0,
                outside: Methods = None) -> None:
    """Submit failed runs again, and what is missing; says what made them fail."""
    from slurm import submit

    if not failed:
        raise UserError("say what to retry: --failed")
    runs, shared, where = _sweep(spec, cluster, work, results)
    made = submit.submit(runs, shared, where, spec.stem, ("failed",), save_minutes)
    for run in runs.values():
        if run.state == "failed":
            print(f"{run.name}: again after: {run.reason}")
        elif run.state == "parked":
            print(f"{run.name}: parked, three times the same: {run.reason}; to try again remove "
                  f"{shared.failures / run.name}.jsonl")
    _submitted(made, runs)


@sweep_app.command("status")
def sweep_status(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 watch: Annotated[bool, typer.Option("--watch", help="Stay, and look again every few seconds.")] = False,
                 page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page, too.")] = None,
                 outside: Methods = None) -> None:
    """Show what every run of a sweep is doing: state, progress, speed, node, attempts, why it failed."""
    import time

    from rich.live import Live

    from bench.core.files import write_text
    from slurm import status

    runs, shared, _ = _sweep(spec, cluster, work, results)

    def look() -> Any:
        _looked(runs, shared)
        if page:
            write_text(page, status.page(runs, shared, spec.stem))
        return status.table(runs, shared)

    if not watch:
        Console().print(look())
        return
    with Live(look(), console=Console()) as live:
        while any(run.state in ("running", "waiting") for run in runs.values()):
            time.sleep(5)
            live.update(look())


@sweep_app.command("logs")
def sweep_logs(spec: Spec, run: Annotated[str, typer.Argument(help="A run_id, see status.")], cluster: ClusterFile = None,
               follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
               work: SweepWork = None, results: SweepResults = None, outside: Methods = None) -> None:
    """Print a run's log, of its newest attempt; -f follows it into the next."""
    from slurm import status

    runs, shared, _ = _sweep(spec, cluster, work, results)
    _must_hold(runs, run, spec)
    if run not in shared.logs() and not follow:
        raise UserError(f"run {run} has no log in {shared.work}: it has not begun")

    def over() -> bool:
        _looked(runs, shared)
        return not follow or runs[run].state not in ("running", "waiting")

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    status.follow(run, shared, over, write)


@sweep_app.command("cancel")
def sweep_cancel(spec: Spec, names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="run_ids; none: all "
                                                                               "of the sweep.")] = None,
                 cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 outside: Methods = None) -> None:
    """Cancel the jobs, queued and running, that carry these runs, with all that is packed with them. Records stay."""
    from slurm import submit

    runs, shared, _ = _sweep(spec, cluster, work, results)
    for name in names or []:
        _must_hold(runs, name, spec)
    print(f"{len(submit.cancel(runs, shared, names or []))} jobs cancelled")


@sweep_app.command("run")
def sweep_run(spec: Spec, work: Work = WORK, results: Results = Path("results"), device: Device = "auto", threads: Threads = 0,
              save_minutes: Minutes = 10.0,
              local: Annotated[bool, typer.Option("--local", help="In processes of their own, as the jobs of a cluster run it: "
                                                  "failures are noted, the rest goes on.")] = False,
              jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Of --local: how many at a time.")] = 1,
              outside: Methods = None) -> None:
    """Run a sweep on this machine; whatever has a record is skipped, so interrupting and repeating it is safe."""
    from bench import sweeps
    from slurm import plan, status, submit

    if local:
        runs, shared, _ = _sweep(spec, None, work, results)
        submit.run_here(runs, shared, spec.stem, jobs, threads or 1, save_minutes)
        plan.look(runs, shared, None)
        Console().print(status.table(runs, shared))
        if any(run.state != "done" for run in runs.values()):
            sys.exit(1)
    else:
        sweeps.run_sweep(spec, where(work, results, device, threads, save_minutes))
    print(f"done. Next: ecgssl report --results {results}")
