"""The program `ecgssl`, its groups of commands, and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

WORK = Path(os.environ.get("ECGSSL_WORK", "work"))

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compare self-supervised learning methods on 12-lead ECG: one ViT, one data pipeline, "
                       "one budget, one evaluation.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Download, prepare, check and draw data.")
sweep_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run many pre-trainings and their evaluations.")
methods_app = typer.Typer(rich_markup_mode=None, help="List, show and add methods.")
app.add_typer(data_app, name="data")
runs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at pre-trainings.")
app.add_typer(methods_app, name="methods")
app.add_typer(runs_app, name="runs")
app.add_typer(sweep_app, name="sweep")

Work = Annotated[Path, typer.Option(help="Folder for stores, checkpoints, predictions, logs [env: ECGSSL_WORK].")]
Results = Annotated[Path, typer.Option(help="Folder of the results: one small JSON file per finished run. A "
                                         "command that only reads them takes the file of `ecgssl results pack`, too.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, e.g. "
                                               "optim.steps=1000. May be repeated.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto: cuda if there is a GPU.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes torch's choice. Results are bit for bit the same only "
                                           "at the same number.")]


def _add_methods(folder: Path | None) -> Path | None:
    from bench.runs.config import METHODS

    if folder:
        folders = os.environ.get(METHODS, "").split(os.pathsep)
        os.environ[METHODS] = os.pathsep.join(dict.fromkeys([*filter(None, folders), str(folder.resolve())]))
    return folder


Methods = Annotated[Path | None, typer.Option("--methods", metavar="DIR", callback=_add_methods, help="Folder of methods outside "
                                              "the repository, in addition [env: ECGSSL_METHODS].")]
Pictured = Annotated[str, typer.Option("--store", help="Store of the record.")]
Record = Annotated[str | None, typer.Option("--record", metavar="ID", help="Its record_id; the first if none is given.")]
Picture = Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")]
Minutes = Annotated[float, typer.Option(help="Save a checkpoint at least every so many minutes.")]


def open_workspace(work: Path, results: Path, device: str, threads: int, minutes: float, place: str = "auto") -> Any:
    """The workspace that a command's options describe. Sets the threads of torch."""
    from bench import api

    return api.open_workspace(work, results, device=device, threads=threads, save_minutes=minutes, place=place)
