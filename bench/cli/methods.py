"""The methods: list, show, add, see."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.cli.options import WORK, Methods, Picture, Pictured, Record, Set, Work, methods_app


@methods_app.callback(invoke_without_command=True)
def methods(context: typer.Context, overrides: Set = None, outside: Methods = None) -> None:
    """List the methods that can be pre-trained, with what they cost beside jepa."""
    if context.invoked_subcommand:
        return
    from bench import catalogue
    from bench.runs.config import find_methods, load_pretrain_config, parse_overrides

    given = overrides or []
    jepa = catalogue.gflop(load_pretrain_config("jepa", parse_overrides(given)))
    table = Table("family", "method", "what it does", "source", "parameters", "cost")
    facts = {name: catalogue.header(path) for name, path in find_methods().items()}
    for name, head in sorted(facts.items(), key=lambda item: (item[1].get("family", ""), item[0])):
        made = load_pretrain_config(
            name, parse_overrides(g for g in given if name != "random" or not g.startswith("optim.")))
        parameters = sum(p.numel() for p in catalogue.built(made).parameters() if p.requires_grad)
        table.add_row(head.get("family", "-"), name, head.get("about", "-"), head.get("source", "-").split(";")[0],
                      f"{parameters / 1e6:.1f} M", f"{catalogue.gflop(made) / jepa:.2f}")
    Console().print(table)
    print(f"Parameters: trained in pre-training. Cost: floating-point operations of a step, jepa = 1 ({jepa:.2f} GFLOP a "
          f"record). `ecgssl methods show NAME` has the settings.")


@methods_app.command("show")
def methods_show(name: Annotated[str, typer.Argument(help="See `ecgssl methods`.")], overrides: Set = None,
                 outside: Methods = None) -> None:
    """Print a method's whole config and the file that each value comes from."""
    from bench import catalogue
    from bench.core.errors import unknown
    from bench.runs.config import find_methods

    files = find_methods()
    if name not in files:
        raise unknown("method", name, files)
    for key, text in catalogue.header(files[name]).items():
        print(f"# {key:<9} {text}")
    table = Table("key", "value", "from", box=None)
    for key, value, origin in catalogue.origins(name, overrides or []):
        table.add_row(key, str(value), origin)
    Console().print(table)


@methods_app.command("new")
def methods_new(name: Annotated[str, typer.Argument(help="Lower-case letters, digits, underscores.")],
                folder: Annotated[Path, typer.Option("--to", help="Folder for the two files; outside the repository, give "
                                  "it to --methods afterwards.")] = Path("methods"), outside: Methods = None) -> None:
    """Write the two files of a new method: commented, working, yours to change."""
    from bench import catalogue
    from bench.core.files import ROOT

    for path in catalogue.new(name, folder):
        print(path)
    option = "" if folder.resolve() == ROOT / "methods" else f" --methods {folder}"
    print(f"Next: ecgssl pretrain {name} --store STORE{option}")


@methods_app.command("see")
def methods_see(name: Annotated[str, typer.Argument(help="See `ecgssl methods`.")], store: Pictured, record_id: Record = None,
                out: Picture = Path("see.png"), overrides: Set = None, work: Work = WORK, outside: Methods = None) -> None:
    """Draw what a method's encoder sees of a record: its views, its masks, drawn by the method itself."""
    from bench.data.store import open_by_name
    from bench.plot import pictures
    from bench.runs.config import Override, load_pretrain_config, parse_overrides

    opened = open_by_name(work / "stores", store)
    made = load_pretrain_config(
        name, [Override("data.rate_hz", opened.rate_hz), *parse_overrides(overrides or [])])
    print(pictures.see(opened, record_id, out, made))
