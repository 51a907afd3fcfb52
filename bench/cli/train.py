"""One pre-training, and evaluations of it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import WORK, Device, Methods, Minutes, Results, Set, Threads, Work, app, where
from bench.core.errors import UserError


@app.command()
def pretrain(method: Annotated[str, typer.Argument(help="See `ecgssl methods`.")],
             chosen: Annotated[list[str] | None, typer.Option("--store", metavar="NAME[=WEIGHT]", help="Store to "
                                                              "pre-train on; repeat it, with weights, for a mixture.")
                               ] = None,
             mix: Annotated[str | None, typer.Option(help="Or one of the paper's mixtures: all, mimic-iv-ecg, ptb-xl.")
                            ] = None,
             seed: int = 0, overrides: Set = None, work: Work = WORK, results: Results = Path("results"),
             device: Device = "auto", threads: Threads = 0, save_minutes: Minutes = 10.0,
             place: Annotated[str, typer.Option(help="Where the signals lie: host, device, or auto: on a GPU that has "
                                                     "room for them.")] = "auto", outside: Methods = None) -> None:
    """Pre-train one backbone; killed and started again, it continues bit for bit.

    Started by torchrun or srun on several processes, these train one model together: the batch of the config is the
    batch of all of them.
    """
    import torch

    from bench.core import processes as distributed
    from bench.core.errors import unknown
    from bench.data.loader import PLACES
    from bench.data.store import open_by_name
    from bench.runs import config
    from bench.training.trainer import pretrain as run

    if place not in PLACES:
        raise unknown("--place", place, PLACES)
    if bool(chosen) == bool(mix):
        raise UserError("name the data: --store NAME[=WEIGHT], once or more, or --mix NAME; one of the two")
    for key, option in (("seed", "--seed N"), ("data.mix", "--store NAME=WEIGHT or --mix NAME")):
        if any(item.partition("=")[0].strip().startswith(key) for item in overrides or []):
            raise UserError(f"--set {key} would be overridden; write {option}")
    weights = config.load_mixture(mix) if mix else {}
    for item in chosen or []:
        name, given, weight = item.partition("=")
        try:
            weights[name] = float(weight) if given else 1.0
        except ValueError:
            raise UserError(f"--store {item!r}: the weight must be a number, e.g. {name}=0.7") from None
    stores = {name: open_by_name(work / "stores", name) for name in weights}
    set_here = config.overrides_of({"seed": seed, "data.mix": weights})
    made = config.load_pretrain_config(method, [*config.parse_overrides(overrides or []), *set_here])
    world = distributed.join_processes()
    if device in ("auto", "cuda") and world.size > 1 and torch.cuda.is_available():
        device = f"cuda:{world.local}"
    name = run(made, list(stores.values()), where(work, results, device, threads, save_minutes, place), world)
    distributed.leave_processes()
    if not world.first:
        return
    print(f"run {name}: {results / name}.json\n"
          f"Next: ecgssl evaluate {name} --protocol linear --task TASK --store STORE")


@app.command()
def evaluate(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")],
             store: Annotated[str, typer.Option(help="Store with labels.")],
             tasks: Annotated[list[str], typer.Option("--task", help="A task of it, see `ecgssl data info`; TASK-single: the "
                                                      "records of it that have one label. May be repeated.")
                              ] = ["superdiagnostic"],  # noqa: B006
             protocols: Annotated[list[str], typer.Option("--protocol", help="linear, linear-mean, knn, finetune, "
                                                          "finetune-after-linear or scratch. May be repeated.")
                                  ] = ["linear"],  # noqa: B006
             external: Annotated[str | None, typer.Option(metavar="STORE", help="Test on all records of this store instead of "
                                                          "the test folds, as far as its labels stand for the task's "
                                                          "classes (bench/evaluation/external.csv).")] = None,
             at: Annotated[float, typer.Option(help="Checkpoint after this share of the pre-training's steps, one of its "
                                                    "checkpoints.at; 1: the last.")] = 1.0,
             seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
             seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the first on.")] = 1,
             overrides: Set = None, work: Work = WORK, results: Results = Path("results"),
             device: Device = "auto", threads: Threads = 0, save_minutes: Minutes = 10.0,
             outside: Methods = None) -> None:
    """Evaluate a pre-trained backbone on labelled records.

    Give all tasks, frozen protocols and seeds at once: their heads train together, in one pass over the records.
    """
    from bench.core.files import read_json
    from bench.data.store import open_by_name
    from bench.evaluation import runner as evaluation
    from bench.evaluation.protocols import load_evaluation_config, start_from_linear
    from bench.runs import results as record
    from bench.runs.config import Override, parse_overrides

    opened = open_by_name(work / "stores", store)
    other = open_by_name(work / "stores", external) if external else None
    given = parse_overrides(overrides or [])
    if any(each.key == "at" for each in given):
        raise UserError("--set at would be overridden; write --at SHARE")
    learned = evaluation.has_learned(work, run)
    configs = [load_evaluation_config(protocol, task, run, opened, s, [
                   *(start_from_linear(given) if protocol == "finetune-after-linear" else []), *given, Override("at", at)], other)
               for protocol in protocols for task in tasks
               for s in evaluation.seeds_of(protocol, learned, range(seed, seed + seeds))]
    names = evaluation.evaluate(configs, opened, where(work, results, device, threads, save_minutes), other)
    for name, config in zip(names, configs, strict=True):
        made = read_json(record.path(results, name), "record")
        result = made["result"]
        low, high = result["interval"]
        metric = {"macro_auroc": "macro AUROC", "r2": "R2"}[result["metric"]]
        print(f"evaluation {name} ({config['evaluation']['name']} {config['task']} seed {config['seed']}): {metric} "
              f"{result[result['metric']]:.4f} [{low:.4f}, {high:.4f}] on {result['records']['test']} records of "
              f"{external or store}, best step {result['best_step']}; {results / name}.json")
    if any(s["records"] is None for s in made["saw"].values()):
        print("What this imported backbone saw is unknown: it may have seen the test records.", file=sys.stderr)
