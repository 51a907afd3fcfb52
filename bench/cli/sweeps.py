"""The commands `ecgssl sweep`: plan, submit, watch and run sweeps, on Slurm or on this machine."""

import difflib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from bench.cli.options import WORK, Device, Methods, Minutes, Results, Threads, Work, open_workspace, sweep_app
from bench.core.errors import UserError
from bench.runs.workspace import SAVE_MINUTES

if TYPE_CHECKING:  # what takes seconds to import is imported where it is used
    from slurm.cluster import Cluster
    from slurm.plan import Plan
    from slurm.shared import SharedFolder
    from slurm.states import Run

Spec = Annotated[Path, typer.Argument(help="YAML file, e.g. slurm/sweeps/demo.yaml.")]
ClusterFile = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or a YAML file like "
                                                 "them.")]
SweepWork = Annotated[Path | None, typer.Option("--work", help="Folder for stores, checkpoints, logs; else the cluster "
                                                "file's, else the environment variable ECGSSL_WORK.")]
SweepResults = Annotated[Path | None, typer.Option("--results", help="Folder of the results; else the cluster file's, else "
                                                   "results.")]
ARRAY_SIZE = 1001  # Slurm's default, where no cluster answers


def _folder_of(cluster: "Cluster | None", work: Path | None, results: Path | None) -> "SharedFolder":
    """The folder that the sweep's jobs share. Options win over the cluster file."""
    from slurm.shared import SharedFolder

    return SharedFolder(work or (cluster and cluster.work) or WORK, results or (cluster and cluster.results) or Path("results"))


def _read_cluster(name: str) -> "Cluster":
    from slurm.cluster import find_cluster, read_cluster

    return read_cluster(find_cluster(name))


def _open_sweep(spec: Path, cluster: str | None, work: Path | None, results: Path | None
                ) -> "tuple[dict[str, Run], SharedFolder]":
    """(the runs of the sweep, the folder that its jobs share)."""
    from bench import sweeps
    from slurm import states

    shared = _folder_of(_read_cluster(cluster) if cluster else None, work, results)
    return states.list_runs(sweeps.load_sweep(spec, shared.work)[0]), shared


def _read_states(runs: "dict[str, Run]", shared: "SharedFolder") -> None:
    """Fill in the runs' states. If the queue does not answer, print a warning and go on without it."""
    from slurm import commands, states

    try:
        queue = commands.list_queue()
    except UserError as error:
        queue = None
        print(f"ecgssl: without the queue: {error}", file=sys.stderr)
    states.read_states(runs, shared, queue)


def _check_names(runs: "dict[str, Run]", names: Collection[str], spec: Path) -> None:
    """UserError for a name that is no run of the sweep."""
    for name in names:
        if name not in runs:
            near = difflib.get_close_matches(name, runs, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"no run {name!r} in {spec}{hint}; `ecgssl sweep status {spec}` lists them")


def _print_plan(plan: "Plan", runs: "dict[str, Run]") -> None:
    """Print what was submitted."""
    from slurm.states import count_states
    from slurm.status import format_states

    for array in plan.arrays:
        print(f"array of {len(array.tasks)} jobs, {array.size} runs: {array.kind}"
              + (", each after its pre-training" if array.after else ""))
    if plan.later:
        print(f"{len(plan.later)} evaluations wait for pre-trainings that run outside the queue: submit again after them")
    print(f"before: {format_states(count_states(runs.values()))}" + ("" if plan.arrays else "; nothing to submit"))


@sweep_app.command("plan")
def sweep_plan(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
               outside: Methods = None) -> None:
    """Show a sweep's runs by state, the arrays and dependencies that `submit` would create, and the cost. Submits nothing."""
    from bench import sweeps
    from slurm import cost, local, states

    place = _read_cluster(cluster) if cluster else None
    shared = _folder_of(place, work, results)
    pretrainings, missing = sweeps.preview_sweep(spec, shared.work)
    runs = states.list_runs(pretrainings)
    if missing:
        print(f"not in {shared.work / 'stores'}: {', '.join(missing)}. The plan below uses the configs alone. run_ids depend on "
              "the stores, so it counts every run as missing; `ecgssl data prepare` makes a store")
    else:
        states.check_code(runs, shared)
        _read_states(runs, shared)
    _print_stages(runs)
    if place:
        _print_arrays(runs, place)
    for kind, price in cost.estimate_costs(runs, shared.results, place or local.local_cluster(1)).items():
        print(f"cost of {kind}: {price}")


def _print_stages(runs: "dict[str, Run]") -> None:
    """Print a table with the number of runs in each state."""
    from slurm.states import count_states
    from slurm.status import count_by_stage

    numbers = count_states(runs.values())
    used = [state for state, number in numbers.items() if number]
    table = Table("method", "stage", *used, show_footer=True)
    for (method, stage), by_state in count_by_stage(runs.values()).items():
        table.add_row(method, stage, *(str(by_state[state] or "") for state in used))
    for column, text in zip(table.columns, (f"{len(runs)} runs", "", *(str(numbers[state]) for state in used)), strict=True):
        column.footer = text
    Console().print(table)


def _print_arrays(runs: "dict[str, Run]", cluster: "Cluster") -> None:
    """Print a table of the arrays that `submit` would create."""
    from slurm import commands
    from slurm.plan import Limits, plan_arrays

    try:
        size = commands.max_array_size()
    except UserError:
        size = ARRAY_SIZE
    plan = plan_arrays(runs, cluster, Limits(size))
    table = Table("array", "jobs", "runs", "after")
    number = {array.token: i for i, array in enumerate(plan.arrays, 1)}
    for array in plan.arrays:
        after = f"array {number[array.after]}" if array.after in number else "what is queued" if array.after else ""
        table.add_row(f"{number[array.token]} {array.kind}", str(len(array.tasks)), str(array.size), after)
    Console().print(table if plan.arrays else "nothing to submit")
    for kind in dict.fromkeys(array.kind for array in plan.arrays):
        print(f"{kind} requests: {' '.join(cluster.requests[kind].options())}")


@sweep_app.command("submit")
def sweep_submit(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or "
                                                                  "a YAML file like them.")],
                 work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = SAVE_MINUTES,
                 outside: Methods = None) -> None:
    """Submit the runs that have no result, are not queued and have not failed. It is safe to repeat this at any time."""
    from slurm.submit import Settings, submit

    runs, shared = _open_sweep(spec, cluster, work, results)
    _print_plan(submit(runs, shared, Settings(spec.stem, _read_cluster(cluster), save_minutes)), runs)


@sweep_app.command("retry")
def sweep_retry(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="As for submit.")],
                failed: Annotated[bool, typer.Option("--failed", help="The runs that failed; not those that are parked "
                                                     "after three failures for one reason.")] = False,
                work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = SAVE_MINUTES,
                outside: Methods = None) -> None:
    """Submit failed and missing runs, and print why the failed ones failed."""
    from slurm.submit import Settings, submit

    if not failed:
        raise UserError("say what to retry: --failed")
    runs, shared = _open_sweep(spec, cluster, work, results)
    plan = submit(runs, shared, Settings(spec.stem, _read_cluster(cluster), save_minutes), ("failed",))
    for run in runs.values():
        if run.state == "failed":
            print(f"{run.name}: submitted again; it failed before: {run.reason}")
        elif run.state == "parked":
            print(f"{run.name}: parked, because it failed three times with: {run.reason}; to try again remove "
                  f"{shared.failures / run.name}.jsonl")
    _print_plan(plan, runs)


@sweep_app.command("status")
def sweep_status(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 watch: Annotated[bool, typer.Option("--watch", help="Stay, and look again every few seconds.")] = False,
                 page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page, too.")] = None,
                 outside: Methods = None) -> None:
    """Show every run of a sweep: its state, progress, speed, node, attempts, and why it failed."""
    import time

    from rich.live import Live

    from bench.core.files import write_text
    from slurm.page import render_page
    from slurm.status import render_table

    runs, shared = _open_sweep(spec, cluster, work, results)

    def render() -> Group:
        _read_states(runs, shared)
        if page:
            write_text(page, render_page(runs, shared, spec.stem))
        return render_table(runs, shared)

    if not watch:
        Console().print(render())
        return
    with Live(render(), console=Console()) as live:
        while any(run.state in ("running", "waiting") for run in runs.values()):
            time.sleep(5)
            live.update(render())


@sweep_app.command("logs")
def sweep_logs(spec: Spec, run: Annotated[str, typer.Argument(help="A run_id, see status.")], cluster: ClusterFile = None,
               follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
               work: SweepWork = None, results: SweepResults = None, outside: Methods = None) -> None:
    """Print the log of a run's newest attempt. With -f, follow it and the logs of later attempts."""
    from slurm.status import follow_log

    runs, shared = _open_sweep(spec, cluster, work, results)
    _check_names(runs, [run], spec)
    if run not in shared.newest_logs() and not follow:
        raise UserError(f"run {run} has no log in {shared.work}: it has not begun")

    def is_over() -> bool:
        _read_states(runs, shared)
        return not follow or runs[run].state not in ("running", "waiting")

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    follow_log(run, shared, is_over, write)


@sweep_app.command("cancel")
def sweep_cancel(spec: Spec, names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="run_ids; none: all "
                                                                               "of the sweep.")] = None,
                 cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 outside: Methods = None) -> None:
    """Cancel the queued and running jobs that contain these runs, and so all runs in the same jobs. Results stay."""
    from slurm.submit import cancel

    runs, shared = _open_sweep(spec, cluster, work, results)
    _check_names(runs, names or [], spec)
    print(f"{len(cancel(runs, shared, names or []))} jobs cancelled")


@sweep_app.command("run")
def sweep_run(spec: Spec, work: Work = WORK, results: Results = Path("results"), device: Device = "auto", threads: Threads = 0,
              save_minutes: Minutes = SAVE_MINUTES,
              local: Annotated[bool, typer.Option("--local", help="Run tasks in separate processes, as on a cluster: after a "
                                                  "failure, the other runs go on.")] = False,
              jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="With --local: number of tasks at a time.")] = 1,
              outside: Methods = None) -> None:
    """Run a sweep on this machine. Runs with a result are skipped, so it is safe to interrupt and repeat this."""
    from bench import sweeps

    if local:
        from slurm.local import run_local
        from slurm.status import render_table

        runs, shared = _open_sweep(spec, None, work, results)
        run_local(runs, shared, spec.stem, jobs=jobs, cpus=threads or 1, save_minutes=save_minutes)
        Console().print(render_table(runs, shared))
        if any(run.state != "done" for run in runs.values()):
            sys.exit(1)
    else:
        sweeps.run_sweep(spec, open_workspace(work, results, device, threads, save_minutes))
    print(f"done. Next: ecgssl report --results {results}")
