"""Results -> tables, figures, page."""

import itertools
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from bench.cli.options import Results, app
from bench.core.errors import UserError

INDEX = "index.html"  # of the page


@app.command()
def report(results: Results = Path("results"),
           out: Annotated[Path, typer.Option(help="Folder for the tables and figures.")] = Path("report"),
           interval: Annotated[str, typer.Option(help="Rule of the intervals: default (1,000 resamples, 2.5 and 97.5 "
                                                      "percentiles) or strodthoff (100, 5 and 95).")] = "default",
           allow: Annotated[bool, typer.Option("--allow", help="Accept results of different protocols, data or code, or of "
                                               "uncommitted code; a footnote says so.")] = False,
           controls: Annotated[bool, typer.Option("--controls", help="Include the evaluations whose labels were shuffled, in "
                                                  "tables of their own.")] = False,
           table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a line per evaluation, too; its "
                                                      "columns: bench.report.frame.frame_of.")] = None,
           html: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a page, too; open DIR/index.html.")] = None,
           pictures: Annotated[list[Path] | None, typer.Option("--picture", metavar="FILE", help="SVG or PNG for the page, as "
                                                               "`ecgssl data plot` writes it. May be repeated.")] = None) -> None:
    """Write tables, figures and a page of results. Files that are no results are named and skipped; then the exit code is 1."""
    from bench.api import write_report

    if pictures and not html:
        raise UserError("--picture is for the page; write --html DIR, too")
    if out.resolve() == results.resolve():
        raise UserError(f"--out {out} is the folder of the results, which holds nothing else; choose another")
    with warnings.catch_warnings(record=True) as skipped:
        warnings.simplefilter("always", UserWarning)
        written = write_report(results, out, interval=interval, allow=allow, controls=controls, csv=table, html=html,
                               pictures=pictures or [])
    for line in skipped:
        print(f"ecgssl: {line.message}", file=sys.stderr)
    for folder, paths in itertools.groupby(written, key=lambda path: path.parent):
        names = [path.name for path in paths]
        print(folder / names[0] if len(names) == 1 else f"{folder}/ ({len(names)} files)")
    print(f"Read {out / 'table.md'}{f', or open {html / INDEX} in a browser' if html else ''}.")
    if skipped:
        sys.exit(1)


@app.command()
def repeat(first: Annotated[Path, typer.Argument(help="Results of a sweep: a folder or a Parquet file.")],
           second: Annotated[Path, typer.Argument(help="Results of the same sweep that ran again, here or elsewhere.")]) -> None:
    """Compare two executions of the same sweep, result by result. The exit code is 1 if one has runs that the other lacks."""
    from bench.report.reproduction import compare_studies

    comparison = compare_studies(first, second)
    for line in comparison.skipped:
        print(f"ecgssl: skipped: {line}", file=sys.stderr)
    table = Table(Column(no_wrap=True), "in both", "bit for bit", "differ by (mean)", "at most", "sd over runs")
    for each in comparison.agreements:
        numbers = ("-" if x is None else f"{x:.2g}" for x in (each.mean, each.largest, each.sd))
        table.add_row(each.kind, f"{each.both:,}", f"{each.equal:,}", *numbers)
    Console().print(table)
    print("A pre-training is compared by its last loss, an evaluation by its score.\n"
          "sd over runs: in the first folder, the median over all recipes.")
    for folder, names in ((first, comparison.first_alone), (second, comparison.second_alone)):
        if names:
            print(f"{len(names):,} runs are in {folder} alone: {' '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    if comparison.first_alone or comparison.second_alone:
        sys.exit(1)
