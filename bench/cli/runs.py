"""The commands about pre-trainings: draw and print what they have logged, and what their encoders see."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.cli.options import WORK, Methods, Picture, Pictured, Record, Work, runs_app
from bench.core.errors import UserError


@runs_app.command("plot")
def runs_plot(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
              out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")] = Path("runs.png"),
              work: Work = WORK) -> None:
    """Draw what pre-trainings have logged, side by side: loss, RankMe, feature sd, gradient norm, speed, ..."""
    from bench.plot import curves

    print(curves.draw_curves(work, runs, out))


@runs_app.command("see")
def runs_see(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")], store: Pictured,
             record_id: Record = None, out: Picture = Path("see.png"), work: Work = WORK, outside: Methods = None) -> None:
    """Draw what a pre-training's encoder sees of a record and, of masked autoencoders, how it reconstructs the rest."""
    from bench.data.store import open_by_name
    from bench.plot import masks

    print(masks.draw_run(open_by_name(work / "stores", store), record_id, out, work, run))


@runs_app.command("table")
def runs_table(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
               work: Work = WORK) -> None:
    """Print loss, feature sd and RankMe of pre-trainings at the start and now, and the cost of a step."""
    from statistics import median

    from bench.training.log import load_metrics

    table = Table(box=None, pad_edge=False)
    for title in ("method", "seed", "run", "steps", "loss", "feature sd", "RankMe", "s/step", "memory"):
        table.add_column(title, no_wrap=title in ("method", "seed", "run", "memory"), overflow="fold")
    for name in runs:
        config, lines = load_metrics(work, name)
        values = {key: [line[key] for line in lines if key in line]
              for key in ("loss", "feature_sd", "rankme", "records_per_second", "memory_mb")}
        table.add_row(
            config.method.name, str(config.seed), name, f"{lines[-1]['step']:,} of {config.optim.steps:,}",
            *(f"{values[key][0]:.{digits}f} -> {values[key][-1]:.{digits}f}" if values[key] else "-"
              for key, digits in (("loss", 4), ("feature_sd", 3), ("rankme", 1))),
            f"{config.optim.batch / median(values['records_per_second']):.2f}" if values["loss"] else "-",
            f"{max(values['memory_mb']):,.0f} MB" if values["loss"] else "-")
    Console().print(table)


@runs_app.command("tensorboard")
def runs_tensorboard(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
                     out: Annotated[Path, typer.Option(help="Folder for the event files, one below it per run.")
                                    ] = Path("tensorboard"), work: Work = WORK) -> None:
    """Write the logs of pre-trainings for TensorBoard (pip install 'ecg-ssl-bench[tensorboard]')."""
    from bench.training.log import load_metrics

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed; pip install 'ecg-ssl-bench[tensorboard]'") from None
    for name in runs:
        with SummaryWriter(str(out / name)) as writer:
            for line in load_metrics(work, name)[1]:
                for key, value in line.items():
                    if key != "step":
                        writer.add_scalar(key, value, line["step"])
        print(out / name)


@runs_app.command("wandb")
def runs_wandb(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
               project: Annotated[str, typer.Option(help="Project of Weights & Biases.")] = "ecg-ssl-bench",
               offline: Annotated[bool, typer.Option("--offline", help="Send nothing: write it below --out, for `wandb sync`.")
                                  ] = False,
               out: Annotated[Path, typer.Option(help="Folder for the files of wandb.")] = Path(), work: Work = WORK) -> None:
    """Send the logs and configs of pre-trainings to Weights & Biases (pip install 'ecg-ssl-bench[wandb]')."""
    from bench.training.log import load_metrics

    try:
        import wandb
    except ImportError:
        raise UserError("Weights & Biases is not installed; pip install 'ecg-ssl-bench[wandb]'") from None
    out.mkdir(parents=True, exist_ok=True)
    for name in runs:
        config, lines = load_metrics(work, name)
        with wandb.init(project=project, id=name, name=f"{config.method.name} {name}", config=config.to_json(), dir=str(out),
                        mode="offline" if offline else "online", resume="allow") as run:
            for line in lines:
                run.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])
        print(name)
