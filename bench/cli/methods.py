"""The commands about methods: list, show, new, see."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.cli.options import WORK, Methods, Picture, Pictured, Record, Set, Work, methods_app


@methods_app.callback(invoke_without_command=True)
def methods(context: typer.Context, overrides: Set = None, outside: Methods = None) -> None:
    """List the methods that can be pre-trained, by family, with their cost relative to jepa."""
    if context.invoked_subcommand:
        return
    from bench import catalogue
    from bench.runs.config import find_methods, load_pretrain_config
    from bench.runs.layers import parse_overrides

    given = overrides or []
    jepa = catalogue.count_gflop(load_pretrain_config("jepa", parse_overrides(given)))
    headers = {name: catalogue.read_header(path) for name, path in find_methods().items()}

    def family_of(name: str) -> str:
        return headers[name].get("family", "-")

    table = Table(box=None, pad_edge=False)
    for title in ("method", "what it does", "source", "weights", "cost"):
        number = title in ("weights", "cost")
        table.add_column(title, no_wrap=number or title == "method", overflow="fold", justify="right" if number else "left")
    for family, names in groupby(sorted(headers, key=lambda name: (family_of(name), name)), key=family_of):
        table.add_row()
        table.add_row("", Text(family, style="bold"))
        for name in names:
            config = load_pretrain_config(name, parse_overrides(
                each for each in given if name != "random" or not each.startswith("optim.")))
            source = headers[name].get("source", "-").split(";")[0]
            table.add_row(name, Text(headers[name].get("about", "-")), Text(source),
                          f"{catalogue.count_parameters(config) / 1e6:.1f} M", f"{catalogue.count_gflop(config) / jepa:.2f}")
    console = Console()
    console.print(table)
    console.print(Text(f"\nweights: trained in pre-training. cost: floating-point operations of a step, jepa = 1 ({jepa:.2f} "
                       f"GFLOP per record). `ecgssl methods show NAME` prints the settings of a method."))


@methods_app.command("show")
def methods_show(name: Annotated[str, typer.Argument(help="See `ecgssl methods`.")], overrides: Set = None,
                 outside: Methods = None) -> None:
    """Print a method's settings and the file that each value comes from."""
    from bench import catalogue
    from bench.core.errors import unknown
    from bench.runs.config import find_methods

    files = find_methods()
    if name not in files:
        raise unknown("method", name, files)
    about = Table.grid(padding=(0, 2))
    about.add_column(no_wrap=True)
    about.add_column(overflow="fold")
    for key, text in catalogue.read_header(files[name]).items():
        about.add_row(key, Text(text))
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for setting in catalogue.list_settings(name, overrides or []):
        table.add_row(setting.key, Text(str(setting.value)), Text(setting.origin))
    console = Console()
    console.print(about, "", table, sep="\n")


@methods_app.command("new")
def methods_new(name: Annotated[str, typer.Argument(help="Lower-case letters, digits, underscores.")],
                folder: Annotated[Path, typer.Option("--to", help="Folder to write the two files into. If it is outside the "
                                  "repository, give it to other commands with --methods.")] = Path("methods"),
                outside: Methods = None) -> None:
    """Write the two files of a new method: a commented example that works, for you to change."""
    from bench import catalogue
    from bench.core.files import ROOT

    for path in catalogue.write_new(name, folder):
        print(path)
    option = "" if folder.resolve() == ROOT / "methods" else f" --methods {folder}"
    print(f"Next: ecgssl pretrain {name} --store STORE{option}")


@methods_app.command("see")
def methods_see(name: Annotated[str, typer.Argument(help="See `ecgssl methods`.")], store: Pictured, record_id: Record = None,
                out: Picture = Path("see.png"), overrides: Set = None, work: Work = WORK, outside: Methods = None) -> None:
    """Draw what a method's encoder sees of a record: its views and its masks."""
    from bench.data.store import open_by_name
    from bench.plot import masks
    from bench.runs.config import load_pretrain_config
    from bench.runs.layers import Override, parse_overrides

    opened = open_by_name(work / "stores", store)
    config = load_pretrain_config(name, [Override("data.rate_hz", opened.rate_hz), *parse_overrides(overrides or [])])
    print(masks.draw_method(opened, record_id, out, config))
