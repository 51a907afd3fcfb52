"""Data: list, download, prepare, check, draw; and synthetic ECG."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from bench.cli.options import WORK, Work, data_app
from bench.core.errors import UserError


@data_app.command()
def synth(folder: Annotated[Path, typer.Argument(help="Folder to create; it must not exist.")],
          records: Annotated[int, typer.Option(min=1, help="Number of 10 s records.")] = 600,
          seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0) -> None:
    """Write labelled synthetic ECG in PTB-XL's own layout (WFDB, 100 and 500 Hz, folds, patients)."""
    from bench.core import progress
    from bench.data.synthetic.ptbxl_layout import write_ptbxl

    with progress.bar("synthetic ECG", records) as bar:
        write_ptbxl(folder, records=records, seed=seed, progress=lambda done, total: bar(done, ""))
    print(f"{folder}: {records} records. Next: ecgssl data prepare ptb-xl --from {folder} --rate-hz 100")


@data_app.command("list")
def list_corpora(as_json: Annotated[bool, typer.Option("--json", help="Print all that is known about them, as JSON.")] = False,
                 ) -> None:
    """List the corpora that can be prepared: size, rate, licence, source, labels."""
    import json
    from dataclasses import asdict

    from bench.data.corpora import known_corpora

    corpora = list(known_corpora().values())
    if as_json:
        print(json.dumps([asdict(c) for c in corpora], indent=1))
        return
    size, content = Table(padding=(0, 0)), Table("corpus", "labels", "high-pass", "left out by rule", padding=(0, 0))
    for name in ("corpus", "records", "hours", "Hz", "licence", "doi"):
        size.add_column(name, no_wrap=True)
    for c in corpora:
        size.add_row(c.name, f"{c.records:,}" if c.records else "-", f"{c.seconds / 3600:,.0f}" if c.seconds else "-",
                     ", ".join(map(str, c.rate_hz)) or "any", c.licence, c.url.removeprefix("https://doi.org/") or "-")
        content.add_row(c.name, Text(c.labels or "-"), f"{c.highpass_hz:g} Hz" if c.highpass_hz else "-", Text(c.dropped or "-"))
    console = Console()
    for table in (size, content):  # two, as one would be wider than 80 characters
        console.print(table)
    console.print(Text("Records and hours are those that the paper used (arXiv 2410.13867). --json adds citation, version, "
                       "files, leads and patients."))


@data_app.command()
def download(corpus: Annotated[str, typer.Argument(help="See `ecgssl data list`.")],
             folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the files; created if it is missing.")],
             subset: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N records and the tables "
                                                        "only (Zenodo: the first N files).")] = None,
             dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be downloaded; write nothing.")] = False,
             parallel: Annotated[int, typer.Option(min=1, max=32, help="Files at a time.")] = 4,
             mirror: Annotated[str | None, typer.Option(metavar="URL", help="Instead of https://physionet.org/files, "
                                                        "e.g. https://physionet-open.s3.amazonaws.com, or of "
                                                        "https://zenodo.org/api.")] = None) -> None:
    """Download a corpus as it is published and verify every checksum. If it is stopped, the same command continues."""
    from bench.core.errors import unknown
    from bench.data.corpora import known_corpora
    from bench.data.ingest.download import download as fetch

    known = known_corpora()
    if corpus not in known:
        raise unknown("corpus", corpus, known)
    files = fetch(known[corpus], folder, subset=subset, dry_run=dry_run, parallel=parallel, mirror=mirror)
    if not dry_run:
        print(f"{folder}: {files:,} files, every checksum is right. Next: ecgssl data prepare {corpus} --from {folder}"
              + (" --skip-bad, as its tables list records that are not here" if subset else ""))


@data_app.command()
def prepare(corpus: Annotated[str, typer.Argument(help="See `ecgssl data list`; array for your own data.")],
            folder: Annotated[Path, typer.Option("--from", help="Folder of the corpus.")],
            name: Annotated[str | None, typer.Option("--to", metavar="STORE", help="Name of the store; by default that of "
                                                                                   "the corpus.")] = None,
            rate_hz: Annotated[int | None, typer.Option(min=1, help="Rate of the store; default: 500, for array the rate of "
                                                             "your data.")] = None,
            workers: Annotated[int, typer.Option(min=1, help="Processes that read records.")
                               ] = len(os.sched_getaffinity(0)),
            resampling: Annotated[str, typer.Option(help="fourier, or periodic as in the paper.")] = "fourier",
            skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that cannot be used, list "
                                                                      "them, and go on.")] = False,
            drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Leave out records whose samples an "
                                                          "earlier one has.")] = False,
            not_in: Annotated[list[str] | None, typer.Option("--not-in", metavar="STORE", help="Leave out records that "
                                                             "this store holds. May be repeated.")] = None,
            work: Work = WORK) -> None:
    """Turn a corpus into a store: signals, statistics, labels, checksums. If it is stopped, the same command continues."""
    from bench import api

    store = api.prepare(corpus, folder, work=work, name=name, rate_hz=rate_hz, workers=workers, resampling=resampling,
                        skip_bad=skip_bad, drop_duplicates=drop_duplicates, not_in=not_in or [])
    show(store)
    show_report(store)


def show_report(store: Any) -> None:
    """Print how many records were accepted, refused and mended, from prepare.json."""
    from bench.core.files import read_json

    path = store.folder / "prepare.json"
    report = read_json(path, f"store {store.name}")
    table = Table("records", "count", "for example")

    def add(what: str, records: Any) -> None:
        few = [f"{k}: {v}" for k, v in list(records.items())[:2]] if isinstance(records, dict) else records[:2]
        table.add_row(what, f"{len(records):,}", Text("; ".join(map(str, few)) + ("; ..." if len(records) > 2 else "")))

    table.add_row("all", f"{report['records']:,}", "")
    table.add_row("accepted", f"{report['accepted']:,}", "")
    for reason, group in sorted(report["refused"].items()):
        add(f"refused{', by rule' if group['by_rule'] else ''}: {reason}", group["records"])
    duplicates = report["duplicates"]
    for what, records in (("gaps filled (leads)", report["gaps_filled"]), ("constant leads", report["constant_leads"]),
                          ("clipped (samples)", report["clipped"]),
                          ("duplicates", [" = ".join(ids) for ids in duplicates["within"]]),
                          *((f"also in {other}", ids) for other, ids in duplicates["across"].items())):
        if records:
            add(what, records)
    Console().print(table)
    usable, paper = report["for_training"], report["paper"]
    print(f"for pre-training: {usable['records']:,} records, {usable['seconds']:,.0f} s"
          + (f"; the paper: {paper['records']:,} records, {paper['seconds']:,} s" if paper else "") + f"; all in {path}")


@data_app.command()
def verify(store: Annotated[str, typer.Argument(help="Name of a store in the work folder.")], work: Work = WORK) -> None:
    """Check the hash of every record and file of a store."""
    from bench.data.store import open_by_name

    opened = open_by_name(work / "stores", store, verify=True)
    print(f"{opened.folder}: whole, fingerprint {opened.fingerprint}")


@data_app.command()
def info(store: Annotated[str, typer.Argument(help="Name of a store in the work folder.")],
         out: Annotated[Path | None, typer.Option(help="Draw the labels per fold, too: .png, .svg or .pdf.")] = None,
         work: Work = WORK) -> None:
    """Check a store and print what it holds: statistics, labels per fold, refused and changed records of the corpus."""
    from bench.data.store import open_by_name
    from bench.plot import labels

    opened = open_by_name(work / "stores", store)
    show(opened)
    show_labels(opened)
    show_report(opened)
    if out:
        print(labels.draw_labels(opened, out))


def show(store: Any) -> None:
    """Print what a store holds."""
    m = store.manifest
    seconds = m["samples"] / m["rate_hz"]
    print(f"store {m['name']} ({m['corpus']} {m['version']}), fingerprint {m['fingerprint']}\n"
          f"{m['records']:,} records, {seconds:,.0f} s ({seconds / 3600:,.1f} h), {m['rate_hz']} Hz, {m['units']}, "
          f"{m['files']['signals.i16']['bytes']:,} bytes")
    for name in ("mean", "sd"):
        print(f"{name} per lead: " + ", ".join(f"{lead} {v:.3f}" for lead, v in zip(m["leads"], m[name], strict=True)))
    for task, classes in m["tasks"].items():
        kind, used = store.kind(task), f"{int((store.records[task] != '').sum()):,} records"
        print(f"task {task}: " + (f"{kind}, in {classes[0]}" if kind == "regression" else f"{kind}, {len(classes)} classes")
              + f", {used}")


def show_labels(store: Any) -> None:
    """Print the number of records per class and fold, a table for each task."""
    from bench.data.corpora.challenge import snomed_names

    for task in store.manifest["tasks"]:
        if store.kind(task) == "regression":
            continue
        counts = store.label_counts(task)
        names = snomed_names() if task == "snomed" else {}
        folds = [str(fold) if fold else "none" for fold in counts.columns]
        table = Table(Column("class", overflow="fold"), box=None, pad_edge=False, title=f"\ntask {task}: records per fold",
                      title_justify="left")
        for title in [*folds, *["total"] * (len(folds) > 1)]:
            table.add_column(title, justify="right", no_wrap=True)
        for name, row in counts.iterrows():
            every = [*row.tolist(), *[row.sum()] * (len(folds) > 1)]
            table.add_row(f"{name} {names[name]}" if name in names else str(name), *(f"{n:,}" for n in every))
        Console().print(table)


@data_app.command("plot")
def draw_records(store: Annotated[str, typer.Argument(help="Name of a store, or the .hea file of a WFDB record.")],
                 records: Annotated[list[str] | None, typer.Argument(metavar="[RECORD]...", help="record_id; several "
                                    "make a contact sheet; none: the first record.")] = None,
                 views: Annotated[bool, typer.Option("--views", help="Show what each augmentation does to it.")] = False,
                 out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")] = Path("ecg.png"),
                 work: Work = WORK) -> None:
    """Draw records on ECG paper, or one's augmented views."""
    from bench.data.store import open_by_name
    from bench.plot.ecg import draw_file, draw_records
    from bench.plot.views import draw_views

    records = records or []
    if store.endswith(".hea"):
        if records or views:
            raise UserError(f"{store} is one record as published: it is drawn on ECG paper; views and contact sheets are "
                            f"drawn from a store")
        print(draw_file(Path(store), out))
        return
    opened = open_by_name(work / "stores", store)
    if not views:
        print(draw_records(opened, records, out))
    elif len(records) > 1:
        raise UserError(f"--views draws one record, not {len(records)}")
    else:
        print(draw_views(opened, records[0] if records else None, out))
