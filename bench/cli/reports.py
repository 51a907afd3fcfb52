"""Records -> tables, figures, page; and the demo, which does everything."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from bench.cli.data import synth
from bench.cli.options import WORK, Device, Results, Threads, Work, app, where
from bench.core.errors import UserError


@app.command()
def report(results: Results = Path("results"),
           out: Annotated[Path, typer.Option(help="Folder for the tables and figures.")] = Path("report"),
           interval: Annotated[str, typer.Option(help="Rule of the intervals: ours (1,000 resamples, 2.5 and 97.5 "
                                                      "percentiles) or strodthoff (100, 5 and 95).")] = "ours",
           allow: Annotated[bool, typer.Option("--allow", help="Let records of different protocols or data, or of uncommitted "
                                               "code, meet: a footnote says so.")] = False,
           table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a line per evaluation, too; its "
                                                      "columns: bench.report.aggregate.frame_of.")] = None,
           html: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a page, too; open DIR/index.html.")] = None,
           pictures: Annotated[list[Path] | None, typer.Option("--picture", metavar="FILE", help="SVG or PNG for the page, as "
                                                               "`ecgssl data plot` makes it; again for more.")] = None) -> None:
    """Make tables, figures and a page from records alone. What is no record is named and skipped; the exit code then is 1."""
    from bench.core.files import write_text
    from bench.report import aggregate as reporting
    from paper import figures, macros, page, tables

    if pictures and not html:
        raise UserError("--picture is for the page; write --html DIR, too")
    if out.resolve() == results.resolve():
        raise UserError(f"--out {out} is the folder of the records, which holds nothing else; choose another")
    records, skipped = reporting.read(results)
    for line in skipped:
        print(f"ecgssl: skipped: {line}", file=sys.stderr)
    if not allow:
        reporting.refuse(reporting.footnotes(records))
    if table:
        write_text(table, reporting.frame_of(records).to_csv(index=False, lineterminator="\n"))
        print(table)
    rows = reporting.rows_of(records)
    cells = reporting.cells_of(records, rows, interval)
    written = [*tables.write(cells, rows, records, out), *macros.write(cells, rows, records, out),
               *figures.write(cells, rows, records, out / "figures")]
    for path in [*written, *(page.write(cells, rows, records, html, written, pictures or []) if html else [])]:
        print(path)
    if skipped:
        sys.exit(1)


@app.command()
def repeat(first: Annotated[Path, typer.Argument(help="Folder of records.")],
           second: Annotated[Path, typer.Argument(help="Those of the same sweep, run again, here or elsewhere.")]) -> None:
    """How near a second run of a sweep came to the first; exit code 1 where one has runs that the other lacks."""
    from bench.report.reproduction import repeated

    found, *alone = repeated(first, second, lambda line: print(f"ecgssl: {line}", file=sys.stderr))
    table = Table(Column(no_wrap=True), "in both", "bit for bit", "differ by (mean)", "at most", "sd over runs")
    for each in found:
        numbers = ("-" if x is None else f"{x:.2g}" for x in (each.mean, each.largest, each.sd))
        table.add_row(each.kind, f"{each.both:,}", f"{each.equal:,}", *numbers)
    Console().print(table)
    print("of a pre-training: its last loss; of an evaluation: its score. sd: of the first, the median over the recipes")
    for folder, names in zip((first, second), alone, strict=True):
        if names:
            print(f"{len(names):,} runs are in {folder} alone: {' '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    if any(alone):
        sys.exit(1)


@app.command()
def demo(work: Work = WORK / "demo", device: Device = "auto", threads: Threads = 0) -> None:
    """Everything at once on synthetic ECG: data, three methods and a random backbone, evaluation, table, figures, page."""
    from bench import sweeps
    from bench.core.files import ROOT
    from bench.data.corpora import open_source
    from bench.data.ingest import prepare as preparing
    from bench.data.store import open_by_name
    from bench.plot import pictures
    from bench.runs.reading import read

    corpus, results, out = work / "synthetic-ptb-xl", work / "results", work / "report"
    if not corpus.exists():
        synth(corpus)
    if not (work / "stores" / "synthetic").exists():
        preparing.prepare(open_source("ptb-xl", corpus, 100), work / "stores", name="synthetic",
                          workers=len(os.sched_getaffinity(0)))
    sweeps.run_sweep(ROOT / "slurm" / "sweeps" / "demo.yaml", where(work, results, device, threads, 10.0))
    store, drawn = open_by_name(work / "stores", "synthetic"), out / "figures"
    ecgs = [pictures.draw(store, [], drawn / f"{what}.png", what) for what in ("ecg", "views")]
    trained = {r["config"]["method"]["name"]: r["run_id"] for r in read(results)[0] if r["kind"] == "pretrain"}
    for method in ("jepa", "simclr", "mae"):
        ecgs.append(pictures.see_run(store, None, drawn / f"see-{method}.png", work, trained[method]))
    page = out / "page" / "index.html"
    report(results, out, allow=True, html=page.parent, pictures=ecgs)
    print(f"\n{(out / 'table.md').read_text()}\nTable: {out / 'table.md'}\nFigures: {drawn}\nPage: {page}")
