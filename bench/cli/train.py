"""The commands pretrain and evaluate."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import WORK, Device, Methods, Minutes, Results, Set, Threads, Work, app, open_workspace
from bench.core.errors import UserError
from bench.runs.workspace import SAVE_MINUTES


def parse_stores(stores: list[str]) -> dict[str, float]:
    """store -> weight, of texts NAME or NAME=WEIGHT."""
    weights = {}
    for item in stores:
        name, equals, weight = item.partition("=")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise UserError(f"--store {item!r}: the weight must be a number, e.g. {name}=0.7") from None
    return weights


@app.command()
def pretrain(method: Annotated[str, typer.Argument(help="See `ecgssl methods`.")],
             stores: Annotated[list[str] | None, typer.Option("--store", metavar="NAME[=WEIGHT]", help="Store to pre-train on; "
                                                              "repeat it, with weights, for a mixture.")] = None,
             mix: Annotated[str | None, typer.Option(help="Instead of --store: a mixture of the paper: all, mimic-iv-ecg, "
                                                          "ptb-xl.")] = None,
             seed: int = 0, overrides: Set = None, work: Work = WORK, results: Results = Path("results"),
             device: Device = "auto", threads: Threads = 0, save_minutes: Minutes = SAVE_MINUTES,
             place: Annotated[str, typer.Option(help="Where the signals lie while they are read: host, device, or auto: on a "
                                                     "GPU that has room for them.")] = "auto",
             again: Annotated[bool, typer.Option("--again", help="Run it anew though it has a result, e.g. after a change of the "
                                                 "method's code. What the run and its evaluations left moves to replaced/ in "
                                                 "the folders of work and results.")] = False,
             outside: Methods = None) -> None:
    """Pre-train one backbone. Killed and started again, it continues bit for bit.

    Started by torchrun or srun as several processes, these train one model together: the batch of the config is the batch of
    all of them.
    """
    import torch

    from bench import api
    from bench.core import processes
    from bench.runs.layers import parse_overrides

    if bool(stores) == bool(mix):
        raise UserError("name the data: --store NAME[=WEIGHT], once or more, or --mix NAME; one of the two")
    settings = parse_overrides(overrides or [])
    for key, option in (("seed", "--seed N"), ("data.mix", "--store NAME=WEIGHT or --mix NAME")):
        if any(each.key.startswith(key) for each in settings):
            raise UserError(f"--set {key} would be overridden; write {option}")
    world = processes.join_processes()
    if device in ("auto", "cuda") and world.size > 1 and torch.cuda.is_available():
        device = f"cuda:{world.local}"
    workspace = open_workspace(work, results, device, threads, save_minutes, place)
    run = api.pretrain(method, mix or parse_stores(stores or []), settings=settings, seed=seed, again=again, workspace=workspace,
                       world=world)
    processes.leave_processes()
    if world.first:
        print(f"run {run}: {results / run}.json\nNext: ecgssl evaluate {run} --protocol linear --task TASK --store STORE")


@app.command()
def evaluate(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")],
             store: Annotated[str, typer.Option(help="Store with labels.")],
             tasks: Annotated[list[str], typer.Option("--task", help="A task of it, see `ecgssl data info`. TASK-single: the "
                                                      "records that have one label of TASK. May be repeated.")
                              ] = ["superdiagnostic"],  # noqa: B006
             protocols: Annotated[list[str], typer.Option("--protocol", help="linear, linear-mean, knn, finetune, "
                                                          "finetune-after-linear or scratch. May be repeated.")
                                  ] = ["linear"],  # noqa: B006
             external: Annotated[str | None, typer.Option(metavar="STORE", help="Test on all records of this store instead of "
                                                          "the test folds. Classes of the task that its labels lack are not "
                                                          "scored (bench/evaluation/external.csv).")] = None,
             at: Annotated[float, typer.Option(help="The checkpoint after this share of the pre-training's steps, one of its "
                                                    "checkpoints.at; 1: the last.")] = 1.0,
             seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
             seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the first on.")] = 1,
             overrides: Set = None, work: Work = WORK, results: Results = Path("results"),
             device: Device = "auto", threads: Threads = 0, save_minutes: Minutes = SAVE_MINUTES,
             outside: Methods = None) -> None:
    """Evaluate a pre-trained backbone on labelled records.

    Give all tasks, frozen protocols and seeds at once: their heads train together, in one pass over the records.
    """
    from bench import api
    from bench.runs.layers import parse_overrides

    every = api.evaluate(run, store, tasks=tasks, protocols=protocols, seeds=range(seed, seed + seeds), at=at, external=external,
                         settings=parse_overrides(overrides or []),
                         workspace=open_workspace(work, results, device, threads, save_minutes))
    for each in every:
        config, result = each["config"], each["result"]
        low, high = result["interval"]
        metric = {"macro_auroc": "macro AUROC", "r2": "R2"}[result["metric"]]
        print(f"evaluation {each['run_id']} ({config['evaluation']['name']} {config['task']} seed {config['seed']}): {metric} "
              f"{result[result['metric']]:.4f} [{low:.4f}, {high:.4f}] on {result['records']['test']} records of "
              f"{external or store}, best step {result['best_step']}; {results / each['run_id']}.json")
    if any(saw["records"] is None for each in every for saw in each["saw"].values()):
        print("It is unknown what this imported backbone saw: it may have seen the test records.", file=sys.stderr)
