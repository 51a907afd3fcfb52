"""Results of a finished study: one Parquet file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import app

results_app = typer.Typer(no_args_is_help=True, help="Pack the results of a finished study into one file, and unpack them.")
app.add_typer(results_app, name="results")


@results_app.command()
def pack(study: Annotated[Path, typer.Argument(help="Folder of results, <run_id>.json each, such as results/mini.")]) -> None:
    """Write STUDY.parquet beside the folder STUDY. Every command that reads results takes it in place of the folder."""
    from bench.runs.packing import pack
    from bench.runs.parquet import PackedStudy

    path = pack(study)
    print(f"{path}: {len(PackedStudy(path).run_ids):,} results, {path.stat().st_size / 2**20:,.1f} MiB; the folder is unchanged")


@results_app.command()
def unpack(packed: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="File of `ecgssl results pack`.")],
           to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="New or empty folder; default: the file's name "
                                                                               "without .parquet.")] = None) -> None:
    """Write every result of the file as the JSON file that it was, byte for byte."""
    from bench.runs.packing import unpack

    folder = unpack(packed, to)
    print(f"{folder}: {sum(1 for _ in folder.iterdir()):,} results")
