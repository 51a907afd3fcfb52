"""The `ecgbench` command: the one file that ties the parts together."""

import difflib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from bench.errors import UserError

WORK = Path(os.environ.get("ECGBENCH_WORK", "work"))
LISTED = 20  # refused records that are printed; ours

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compare self-supervised learning methods on 12-lead ECG: one ViT, one data pipeline, "
                       "one budget, one evaluation.")
data_app = typer.Typer(no_args_is_help=True, help="Make, check and look at data.")
sweep_app = typer.Typer(no_args_is_help=True, help="Run many pre-trainings and their evaluations.")
methods_app = typer.Typer(help="List, show and add methods.")
app.add_typer(data_app, name="data")
runs_app = typer.Typer(no_args_is_help=True, help="Look at pre-trainings.")
app.add_typer(methods_app, name="methods")
app.add_typer(runs_app, name="runs")
app.add_typer(sweep_app, name="sweep")

Work = Annotated[Path, typer.Option(help="Folder for stores, checkpoints, predictions, logs [env: ECGBENCH_WORK].")]
Results = Annotated[Path, typer.Option(help="Folder of the records, one small JSON file per finished run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, e.g. "
                                               "optim.steps=1000. May be repeated.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto: cuda where there is one.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes torch's choice. Results are bit for bit the same only "
                                           "at the same number.")]


def _also(folder: Path | None) -> Path | None:
    from bench.config import METHODS

    if folder:
        before = os.environ.get(METHODS, "").split(os.pathsep)
        os.environ[METHODS] = os.pathsep.join(dict.fromkeys([*filter(None, before), str(folder.resolve())]))
    return folder


Methods = Annotated[Path | None, typer.Option("--methods", metavar="DIR", callback=_also, help="Folder of methods outside "
                                              "the repository, in addition [env: ECGBENCH_METHODS].")]
Pictured = Annotated[str, typer.Option("--store", help="Store of the record.")]
Record = Annotated[str | None, typer.Option("--record", metavar="ID", help="Its record_id; the first if none is given.")]
Picture = Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")]
Minutes = Annotated[float, typer.Option(help="Save a checkpoint at least this often.")]


def where(work: Path, results: Path, device: str, threads: int, minutes: float, place: str = "auto") -> Any:
    """The Where of a command's options; sets torch's threads."""
    import torch

    from bench.pretrain import Where

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; write cpu, cuda, cuda:0 or auto") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable GPU; write --device cpu")
    if threads:
        torch.set_num_threads(threads)
    return Where(work, results, chosen, save_minutes=minutes, place=place)


@methods_app.callback(invoke_without_command=True)
def methods(context: typer.Context, overrides: Set = None, outside: Methods = None) -> None:
    """List the methods that can be pre-trained, with what they cost beside jepa."""
    if context.invoked_subcommand:
        return
    from bench import catalogue, config

    given = overrides or []
    jepa = catalogue.gflop(config.load("jepa", given))
    table = Table("family", "method", "what it does", "source", "parameters", "cost")
    facts = {name: catalogue.header(path) for name, path in config.method_files().items()}
    for name, head in sorted(facts.items(), key=lambda item: (item[1].get("family", ""), item[0])):
        made = config.load(name, [g for g in given if name != "random" or not g.startswith("optim.")])
        parameters = sum(p.numel() for p in catalogue.built(made).parameters() if p.requires_grad)
        table.add_row(head.get("family", "-"), name, head.get("about", "-"), head.get("source", "-").split(";")[0],
                      f"{parameters / 1e6:.1f} M", f"{catalogue.gflop(made) / jepa:.2f}")
    Console().print(table)
    print(f"Parameters: trained in pre-training. Cost: floating-point operations of a step, jepa = 1 ({jepa:.2f} GFLOP a "
          f"record). `ecgbench methods show NAME` has the settings.")


@methods_app.command("show")
def methods_show(name: Annotated[str, typer.Argument(help="See `ecgbench methods`.")], overrides: Set = None,
                 outside: Methods = None) -> None:
    """Print a method's whole config and the file that each value comes from."""
    from bench import catalogue, config
    from bench.errors import unknown

    files = config.method_files()
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
    from bench import catalogue, config

    for path in catalogue.new(name, folder):
        print(path)
    option = "" if folder.resolve() == config.ROOT / "methods" else f" --methods {folder}"
    print(f"Next: ecgbench pretrain {name} --store STORE{option}")


@methods_app.command("see")
def methods_see(name: Annotated[str, typer.Argument(help="See `ecgbench methods`.")], store: Pictured, record_id: Record = None,
                out: Picture = Path("see.png"), overrides: Set = None, work: Work = WORK, outside: Methods = None) -> None:
    """Draw what a method's encoder sees of a record: its views, its masks, drawn by the method itself."""
    from bench import config, pictures
    from bench.data.store import open_by_name

    opened = open_by_name(work / "stores", store)
    made = config.load(name, [("data.rate_hz", opened.rate_hz), *(overrides or [])])
    print(pictures.see(opened, record_id, out, made))


@data_app.command()
def synth(folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
          records: Annotated[int, typer.Option(min=1, help="Number of 10 s records.")] = 600,
          seed: int = 0) -> None:
    """Write labelled synthetic ECG in PTB-XL's own layout (WFDB, 100 and 500 Hz, folds, patients)."""
    from bench import progress
    from bench.data.ptbxl_layout import write_ptbxl

    with progress.bar("synthetic ECG", records) as bar:
        write_ptbxl(folder, records=records, seed=seed, progress=lambda done, total: bar(done, ""))
    print(f"{folder}: {records} records. Next: ecgbench data prepare ptb-xl --from {folder} --rate-hz 100")


@data_app.command("list")
def list_corpora(as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, for programs.")] = False,
                 ) -> None:
    """List the corpora that can be prepared: size, rate, licence, where they live, labels; --json: all that is known."""
    import json
    from dataclasses import asdict

    from bench.data.sources import modules

    corpora = [m.CORPUS for _, m in sorted(modules().items())]
    if as_json:
        print(json.dumps([asdict(c) for c in corpora], indent=1))
        return
    narrow = [Column(name, no_wrap=True) for name in ("corpus", "records", "hours", "Hz", "licence", "doi")]
    table = Table(*narrow, "high-pass", "labels", "left out by rule", padding=(0, 0))
    for c in corpora:
        table.add_row(c.name, f"{c.records:,}" if c.records else "-", f"{c.seconds / 3600:,.0f}" if c.seconds else "-",
                      ", ".join(map(str, c.rate_hz)) or "any", c.licence, c.url.removeprefix("https://doi.org/") or "-",
                      f"{c.highpass_hz:g} Hz" if c.highpass_hz else "-", c.labels or "-", c.dropped or "-")
    Console().print(table)
    print("Records and hours: as the paper used them (arXiv 2410.13867). --json says more: citation, "
          "version, files, leads, patients.")


@data_app.command()
def download(corpus: Annotated[str, typer.Argument(help="See `ecgbench data list`.")],
             folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where to put it; made if need be.")],
             subset: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N records and the tables "
                                                        "only (Zenodo: the first N files).")] = None,
             dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come, and write nothing.")] = False,
             parallel: Annotated[int, typer.Option(min=1, max=32, help="Files at a time.")] = 4,
             mirror: Annotated[str | None, typer.Option(metavar="URL", help="Instead of https://physionet.org/files, "
                                                        "e.g. https://physionet-open.s3.amazonaws.com, or of "
                                                        "https://zenodo.org/api.")] = None) -> None:
    """Download a corpus as it is published, every checksum verified. Stopped, it continues inside the file."""
    from bench.data.download import download as fetch
    from bench.data.sources import modules
    from bench.errors import unknown

    known = modules()
    if corpus not in known:
        raise unknown("corpus", corpus, known)
    files = fetch(known[corpus].CORPUS, folder, subset=subset, dry_run=dry_run, parallel=parallel, mirror=mirror)
    if not dry_run:
        print(f"{folder}: {files:,} files, every checksum right. Next: ecgbench data prepare {corpus} --from {folder}"
              + (" --skip-bad, as its tables list records that are not here" if subset else ""))


@data_app.command()
def prepare(corpus: Annotated[str, typer.Argument(help="See `ecgbench data list`; array for your own data.")],
            folder: Annotated[Path, typer.Option("--from", help="Where the corpus lies.")],
            name: Annotated[str | None, typer.Option("--to", metavar="STORE", help="Name of the store, if not the "
                                                                                   "corpus's own.")] = None,
            rate_hz: Annotated[int | None, typer.Option(min=1, help="Rate of the store; 500 by default, that of your data "
                                                             "for array.")] = None,
            workers: Annotated[int, typer.Option(min=1, help="Processes that read records.")
                               ] = len(os.sched_getaffinity(0)),
            resampling: Annotated[str, typer.Option(help="fourier, or periodic as in the paper, whose ends ring.")] = "fourier",
            skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that cannot be used, list "
                                                                      "them, and go on.")] = False,
            drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Leave out records whose samples an "
                                                          "earlier one has.")] = False,
            not_in: Annotated[list[str] | None, typer.Option("--not-in", metavar="STORE", help="Leave out records that "
                                                             "this store holds. May be repeated.")] = None,
            work: Work = WORK) -> None:
    """Turn a corpus into a store: one int16 file, statistics, labels, checksums. Stopped, it continues."""
    from bench import progress
    from bench.data import prepare as preparing
    from bench.data.sources import open_source
    from bench.data.store import open_by_name

    stores = work / "stores"
    rate_hz = 500 if rate_hz is None and corpus != "array" else rate_hz
    source = open_source(corpus, folder, rate_hz)
    with progress.bar(f"prepare {name or source.name}", len(source.records)) as bar:
        made = preparing.prepare(source, stores, name=name, rate_hz=rate_hz, resampling=resampling, workers=workers,
                                 skip_bad=skip_bad, drop_duplicates=drop_duplicates,
                                 not_in=[open_by_name(stores, n) for n in not_in or []],
                                 progress=lambda done, total: bar(done, ""))
    show(made)
    show_report(made)


def show_report(store: Any) -> None:
    """What became of the records, as prepare.json has it."""
    from bench.files import read_json

    path = store.folder / "prepare.json"
    report = read_json(path, f"store {store.name}")
    table = Table("records", "count", "for example")

    def row(what: str, found: Any) -> None:
        few = [f"{k}: {v}" for k, v in list(found.items())[:2]] if isinstance(found, dict) else found[:2]
        table.add_row(what, f"{len(found):,}", "; ".join(map(str, few)) + ("; ..." if len(found) > 2 else ""))

    table.add_row("found", f"{report['found']:,}", "")
    table.add_row("accepted", f"{report['accepted']:,}", "")
    for reason, group in sorted(report["refused"].items()):
        row(f"refused{', by rule' if group['by_rule'] else ''}: {reason}", group["records"])
    twice = report["duplicates"]
    for what, found in (("gaps filled (leads)", report["gaps_filled"]), ("constant leads", report["constant_leads"]),
                        ("clipped (samples)", report["clipped"]),
                        ("found twice", [" = ".join(ids) for ids in twice["within"]]),
                        *((f"also in {other}", ids) for other, ids in twice["across"].items())):
        if found:
            row(what, found)
    Console().print(table)
    ours, paper = report["for_training"], report["paper"]
    print(f"for pre-training: {ours['records']:,} records, {ours['seconds']:,.0f} s"
          + (f"; the paper: {paper['records']:,} records, {paper['seconds']:,} s" if paper else "") + f"; all in {path}")


@data_app.command()
def verify(store: Annotated[str, typer.Argument(help="Name of a store in the work folder.")], work: Work = WORK) -> None:
    """Hash every byte of a store, however large, against its manifest."""
    from bench.data.store import open_by_name

    opened = open_by_name(work / "stores", store, verify=True)
    print(f"{opened.folder}: whole, fingerprint {opened.fingerprint}")


@data_app.command()
def info(store: Annotated[str, typer.Argument(help="Name of a store in the work folder.")],
         out: Annotated[Path | None, typer.Option(help="Draw the labels per fold, too: .png, .svg or .pdf.")] = None,
         work: Work = WORK) -> None:
    """Check a store and say what it holds: statistics, labels per fold, what became of the corpus's records."""
    from bench import pictures
    from bench.data.store import open_by_name

    opened = open_by_name(work / "stores", store)
    show(opened)
    show_labels(opened)
    show_report(opened)
    if out:
        print(pictures.labels(opened, out))


def show(store: Any) -> None:
    """What a store holds."""
    m = store.manifest
    seconds = m["samples"] / m["rate_hz"]
    print(f"store {m['name']} ({m['source']} {m['version']}), fingerprint {m['fingerprint']}\n"
          f"{m['records']:,} records, {seconds:,.0f} s ({seconds / 3600:,.1f} h), {m['rate_hz']} Hz, {m['units']}, "
          f"{m['files']['signals.i16']['bytes']:,} bytes")
    for name in ("mean", "sd"):
        print(f"{name} per lead: " + ", ".join(f"{lead} {v:.3f}" for lead, v in zip(m["leads"], m[name], strict=True)))
    for task, classes in m["tasks"].items():
        kind, used = store.kind(task), f"{int((store.records[task] != '').sum()):,} records"
        print(f"task {task}: " + (f"{kind}, in {classes[0]}" if kind == "regression" else f"{kind}, {len(classes)} classes")
              + f", {used}")


def show_labels(store: Any) -> None:
    """Records per class and fold, a table per task."""
    from bench.data.challenge import snomed_names

    for task in store.manifest["tasks"]:
        if store.kind(task) == "regression":
            continue
        counts = store.label_counts(task)
        names = snomed_names() if task == "snomed" else {}
        folds = [f"fold {fold}" if fold else "no fold" for fold in counts.columns]
        table = Table(task, *folds, *["all"] * (len(folds) > 1), title_justify="left")
        for name, row in counts.iterrows():
            every = [*row.tolist(), *[row.sum()] * (len(folds) > 1)]
            table.add_row(f"{name} {names[name]}" if name in names else str(name), *(f"{n:,}" for n in every))
        Console().print(table)


@data_app.command("plot")
def plot_command(store: Annotated[str, typer.Argument(help="Name of a store, or the .hea file of a WFDB record.")],
                 records: Annotated[list[str] | None, typer.Argument(metavar="[RECORD]...", help="record_id; several "
                                    "make a contact sheet; none: the first record.")] = None,
                 views: Annotated[bool, typer.Option("--views", help="Show what each view does to it.")] = False,
                 out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")] = Path("ecg.png"),
                 work: Work = WORK) -> None:
    """Draw records on ECG paper, or one's augmented views."""
    from bench import pictures
    from bench.data.store import open_by_name

    if store.endswith(".hea"):
        if records or views:
            raise UserError(f"{store} is one record as published: it is drawn on ECG paper; views and contact sheets are "
                            f"drawn from a store")
        print(pictures.file(Path(store), out))
    else:
        print(pictures.draw(open_by_name(work / "stores", store), records or [], out, "views" if views else "ecg"))


@app.command()
def pretrain(method: Annotated[str, typer.Argument(help="See `ecgbench methods`.")],
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

    from bench import config, distributed
    from bench.data.loader import PLACES
    from bench.errors import unknown
    from bench.pretrain import pretrain as run
    from slurm import sweep

    if place not in PLACES:
        raise unknown("--place", place, PLACES)
    if bool(chosen) == bool(mix):
        raise UserError("name the data: --store NAME[=WEIGHT], once or more, or --mix NAME; one of the two")
    for key, option in (("seed", "--seed N"), ("data.mix", "--store NAME=WEIGHT or --mix NAME")):
        if any(item.partition("=")[0].strip().startswith(key) for item in overrides or []):
            raise UserError(f"--set {key} would be overridden; write {option}")
    weights = config.mixture(mix) if mix else {}
    for item in chosen or []:
        name, given, weight = item.partition("=")
        try:
            weights[name] = float(weight) if given else 1.0
        except ValueError:
            raise UserError(f"--store {item!r}: the weight must be a number, e.g. {name}=0.7") from None
    stores = sweep.open_stores(work / "stores", set(weights))
    made = config.load(method, [*(overrides or []), ("seed", seed), ("data.mix", weights)])
    made = sweep.with_fingerprints(made, stores)
    world = distributed.joined()
    if device in ("auto", "cuda") and world.size > 1 and torch.cuda.is_available():
        device = f"cuda:{world.local}"
    name = run(made, [stores[n] for n in weights], where(work, results, device, threads, save_minutes, place), world)
    distributed.left()
    if not world.first:
        return
    print(f"run {name}: {results / name}.json\n"
          f"Next: ecgbench evaluate {name} --protocol linear --task TASK --store STORE")


@app.command()
def evaluate(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")],
             store: Annotated[str, typer.Option(help="Store with labels.")],
             tasks: Annotated[list[str], typer.Option("--task", help="A task of it, see `ecgbench data info`; TASK-single: the "
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
    from bench import record
    from bench.data.store import open_by_name
    from bench.evaluation import run as evaluation
    from bench.files import read_json

    opened = open_by_name(work / "stores", store)
    other = open_by_name(work / "stores", external) if external else None
    given = overrides or []
    if any(item.partition("=")[0].strip() == "at" for item in given):
        raise UserError("--set at would be overridden; write --at SHARE")
    learned = evaluation.has_learned(work, run)
    configs = [evaluation.config_for(protocol, task, run, opened, s, [
                   *(evaluation.of_linear(given) if protocol == "finetune-after-linear" else []), *given, ("at", at)], other)
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


@app.command("import")
def import_command(file: Annotated[Path, typer.Argument(help="Checkpoint of the published implementation: a pre-training, "
                                                        "or a classifier (linear, fine-tuned).")],
                   saw: Annotated[list[str], typer.Option(metavar="STORE", help="Store whose training folds it was "
                                                          "pre-trained on, for the leak guard and the normalisation; may be "
                                                          "repeated. unknown: nothing is checked; records say so.")],
                   name: Annotated[str, typer.Option("--as", help="What tables call it.")] = "published",
                   work: Work = WORK) -> None:
    """Turn a checkpoint of kweimann/ECG-JEPA into a backbone that can be evaluated, exported and used."""
    from bench import published
    from bench.data.store import open_by_name

    if published.UNKNOWN in saw and len(saw) > 1:
        raise UserError(f"--saw {published.UNKNOWN} excludes every other --saw")
    stores = None if saw == [published.UNKNOWN] else [open_by_name(work / "stores", s) for s in dict.fromkeys(saw)]
    run, evaluation = published.import_(file, work, name, stores)
    if stores is None:
        print("What this backbone saw is unknown: evaluating it on records that it saw is not refused; its records say so.",
              file=sys.stderr)
    print(f"run {run}. Next: ecgbench evaluate {run} --protocol linear --task TASK --store STORE")
    if evaluation:
        print(f"its classifier: ecgbench predict --run {evaluation} --from RECORDS --out p.csv")


@app.command()
def export(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")],
           folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to make.")],
           work: Work = WORK, results: Results = Path("results")) -> None:
    """Write a backbone for others: weights (safetensors), config.json, model card. `bench.load_backbone(DIR)` opens it."""
    from bench import backbone

    backbone.export(backbone.of_run(work, run), folder, backbone.read_records(results))
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


Records = Annotated[str, typer.Option("--from", metavar="RECORDS", help="A .hea file, a folder of them, a folder with "
                                      "dataset.yaml, or a store.")]
Resample = Annotated[bool, typer.Option("--resample", help="Convert records of another rate; the output says how many.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read records.")]


@app.command()
def embed(given: Annotated[str, typer.Option("--backbone", metavar="DIR|RUN", help="Folder of `ecgbench export`, or a "
                                             "run_id.")],
          place: Records, out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")],
          resample: Resample = False, workers: Workers = 2, work: Work = WORK, device: Device = "auto",
          threads: Threads = 0) -> None:
    """Embed ECG records: the mean of a backbone's tokens, over 2.5 s crops every 1.25 s. Bad records are listed."""
    from bench import apply, backbone, progress
    from bench.data.records import open_records

    apply.check_out(out, (".npz", ".parquet"))
    chosen = where(work, work, device, threads, 10.0).device
    opened, source = backbone.open_backbone(work, given), open_records(place, work / "stores")
    with progress.bar(f"embed {source.name}", len(source.records)) as bar:
        applied = apply.embed(opened, source, chosen, resample=resample, workers=workers, progress=bar)
    apply.write_embeddings(out, applied)
    show_applied(applied, out)


@app.command()
def cka(first: Annotated[Path, typer.Argument(help=".npz file of `ecgbench embed`.")],
        second: Annotated[Path, typer.Argument(help="Another, of the same records by another backbone.")]) -> None:
    """How alike two backbones see the same records: debiased linear CKA, 1 alike up to rotation, 0 unrelated."""
    from bench import apply

    value, n = apply.similarity(first, second)
    print(f"CKA {value:.4f} on {n:,} records that both files hold")


@app.command("map")
def map_command(embeddings: Annotated[Path, typer.Argument(help=".npz file of `ecgbench embed`.")],
                store: Annotated[str, typer.Option(help="Store that has the records' labels.")],
                task: Annotated[str, typer.Option(help="A task of it: records with one label are coloured.")] = "superdiagnostic",
                by: Annotated[str, typer.Option(help="pca, or umap (pip install 'ecgbench[umap]').")] = "pca",
                out: Picture = Path("map.png"), work: Work = WORK) -> None:
    """Draw a 2-D map of embeddings, coloured by class."""
    from bench import pictures
    from bench.data.store import open_by_name

    print(pictures.embedding_map(embeddings, open_by_name(work / "stores", store), task, out, by))


@app.command()
def predict(run: Annotated[str, typer.Option("--run", metavar="EVALUATION_RUN", help="run_id of an evaluation, frozen or "
                                             "fine-tuned.")],
            place: Records, out: Annotated[Path, typer.Option(help="File to write: .csv.")], resample: Resample = False,
            workers: Workers = 2, work: Work = WORK, results: Results = Path("results"), device: Device = "auto",
            threads: Threads = 0) -> None:
    """Probability of each of an evaluation's classes, with its threshold, for ECG records. Bad records are listed."""
    from bench import apply, progress
    from bench.data.records import open_records

    apply.check_out(out, (".csv",))
    chosen = where(work, results, device, threads, 10.0).device
    opened, source = apply.open_classifier(work, results, run), open_records(place, work / "stores")
    with progress.bar(f"predict {source.name}", len(source.records)) as bar:
        applied = apply.predict(opened, source, chosen, resample=resample, workers=workers, progress=bar)
    apply.write_predictions(out, applied, opened)
    show_applied(applied, out)


def show_applied(applied: Any, out: Path) -> None:
    """What became of the records; refused ones on standard error."""
    for record_id, why in list(applied.refused.items())[:LISTED]:
        print(f"refused {record_id}: {why}", file=sys.stderr)
    if len(applied.refused) > LISTED:
        print(f"... and {len(applied.refused) - LISTED:,} more; the output's metadata has them all", file=sys.stderr)
    print(f"{out}: {len(applied.record_id):,} records ({applied.done['resampled']:,} resampled, "
          f"{applied.done['gaps_filled']:,} with gaps filled), {len(applied.refused):,} refused")


@runs_app.command("plot")
def runs_plot(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
              out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")] = Path("runs.png"),
              work: Work = WORK) -> None:
    """Draw what pre-trainings have logged, side by side: loss, RankMe, feature sd, gradient norm, speed, ..."""
    from bench import pictures

    print(pictures.runs(work, runs, out))


@runs_app.command("see")
def runs_see(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")], store: Pictured,
             record_id: Record = None, out: Picture = Path("see.png"), work: Work = WORK, outside: Methods = None) -> None:
    """Draw what a pre-training's encoder sees of a record and, of masked autoencoders, how it reconstructs the rest."""
    from bench import pictures
    from bench.data.store import open_by_name

    print(pictures.see_run(open_by_name(work / "stores", store), record_id, out, work, run))


@runs_app.command("table")
def runs_table(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
               work: Work = WORK) -> None:
    """Show where pre-trainings began and where they are: loss, feature sd, RankMe; and what a step costs."""
    from statistics import median

    from bench.pretrain import logged

    table = Table("method", "seed", "run", "steps", "loss", "feature sd", "RankMe", "s/step", "memory")
    for name in runs:
        made, lines = logged(work, name)
        of = {key: [line[key] for line in lines if key in line]
              for key in ("loss", "feature_sd", "rankme", "records_per_second", "memory_mb")}
        table.add_row(
            made["method"]["name"], str(made["seed"]), name, f"{lines[-1]['step']:,} of {made['optim']['steps']:,}",
            *(f"{of[key][0]:.{digits}f} -> {of[key][-1]:.{digits}f}" if of[key] else "-"
              for key, digits in (("loss", 4), ("feature_sd", 3), ("rankme", 1))),
            f"{made['optim']['batch'] / median(of['records_per_second']):.2f}" if of["loss"] else "-",
            f"{max(of['memory_mb']):,.0f} MB" if of["loss"] else "-")
    Console().print(table)


@runs_app.command("tensorboard")
def runs_tensorboard(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
                     out: Annotated[Path, typer.Option(help="Folder for the event files, one below it per run.")
                                    ] = Path("tensorboard"), work: Work = WORK) -> None:
    """Write what pre-trainings have logged for TensorBoard (pip install 'ecgbench[tensorboard]')."""
    from bench.pretrain import logged

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed; pip install 'ecgbench[tensorboard]'") from None
    for name in runs:
        with SummaryWriter(str(out / name)) as writer:
            for line in logged(work, name)[1]:
                for key, value in line.items():
                    if key != "step":
                        writer.add_scalar(key, value, line["step"])
        print(out / name)


@runs_app.command("wandb")
def runs_wandb(runs: Annotated[list[str], typer.Argument(help="run_ids of pre-trainings, finished or running.")],
               project: Annotated[str, typer.Option(help="Project of Weights & Biases.")] = "ecgbench",
               offline: Annotated[bool, typer.Option("--offline", help="Send nothing: write it below --out, for `wandb sync`.")
                                  ] = False,
               out: Annotated[Path, typer.Option(help="Folder for the files of wandb.")] = Path(), work: Work = WORK) -> None:
    """Log what pre-trainings have logged, and their configs, to Weights & Biases (pip install 'ecgbench[wandb]')."""
    from bench.pretrain import logged

    try:
        import wandb
    except ImportError:
        raise UserError("Weights & Biases is not installed; pip install 'ecgbench[wandb]'") from None
    out.mkdir(parents=True, exist_ok=True)
    for name in runs:
        made, lines = logged(work, name)
        with wandb.init(project=project, id=name, name=f"{made['method']['name']} {name}", config=made, dir=str(out),
                        mode="offline" if offline else "online", resume="allow") as run:
            for line in lines:
                run.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])
        print(name)


Spec = Annotated[Path, typer.Argument(help="YAML file, e.g. slurm/sweeps/demo.yaml.")]
ClusterFile = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or a YAML file like "
                                                 "them.")]
SweepWork = Annotated[Path | None, typer.Option("--work", help="Folder for stores, checkpoints, logs; else the cluster "
                                                "file's, else [env: ECGBENCH_WORK].")]
SweepResults = Annotated[Path | None, typer.Option("--results", help="Folder of the records; else the cluster file's, else "
                                                   "results.")]


def _sweep(spec: Path, cluster: str | None, work: Path | None, results: Path | None) -> tuple[Any, Any, Any]:
    """(runs of the sweep, what its jobs share, the cluster or None)."""
    from slurm import cluster as clusters
    from slurm import plan, sweep
    from slurm.shared import Shared

    where = clusters.read(clusters.find(cluster)) if cluster else None
    work = work or (where and where.work) or WORK
    shared = Shared(work, results or (where and where.results) or Path("results"))
    return plan.graph(sweep.load(spec, work)[0]), shared, where


def _looked(runs: Any, shared: Any) -> Any:
    """Fill in the runs' states; a queue that does not answer is said, not fatal."""
    from slurm import commands, plan

    try:
        queue = commands.queue()
    except UserError as error:
        queue = None
        print(f"ecgbench: without the queue: {error}", file=sys.stderr)
    plan.look(runs, shared, queue)


def _must_hold(runs: Any, name: str, spec: Path) -> None:
    if name not in runs:
        near = difflib.get_close_matches(name, runs, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no run {name!r} in {spec}{hint}; `ecgbench sweep status {spec}` lists them")


def _submitted(made: Any, runs: Any) -> None:
    """Say what was submitted."""
    from slurm import plan

    for array in made.arrays:
        print(f"array of {len(array.tasks)} jobs, {array.runs()} runs: {array.kind}"
              + (", each after its pre-training" if array.after else ""))
    if made.later:
        print(f"{len(made.later)} evaluations wait for pre-trainings that run outside the queue: submit again after them")
    found = plan.counts(runs.values())
    print("before: " + ", ".join(f"{n} {state}" for state, n in found.items() if n)
          + ("" if made.arrays else "; nothing to submit"))


@sweep_app.command("plan")
def sweep_plan(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
               outside: Methods = None) -> None:
    """Show a sweep's runs by state, the arrays and dependencies that `submit` would make, and the cost. Submits nothing."""
    from slurm import commands, cost, plan, status, submit

    runs, shared, where = _sweep(spec, cluster, work, results)
    _looked(runs, shared)
    states = [state for state, n in plan.counts(runs.values()).items() if n]
    by_stage = Table("method", "stage", *states)
    for (method, stage), found in status.stages(runs.values()).items():
        by_stage.add_row(method, stage, *(str(found[state] or "") for state in states))
    Console().print(by_stage)
    if where:
        try:
            largest = commands.largest_array()
        except UserError:
            largest = 1001  # Slurm's default
        made = plan.arrays(runs, where, largest)
        arrays = Table("array", "jobs", "runs", "after", "asks for")
        number = {array.token: i for i, array in enumerate(made.arrays, 1)}
        for array in made.arrays:
            after = f"array {number[array.after]}" if array.after in number else "what is queued" if array.after else ""
            asks = " ".join(where.asked[array.kind].options())
            arrays.add_row(f"{number[array.token]} {array.kind}", str(len(array.tasks)), str(array.runs()), after, asks)
        Console().print(arrays if made.arrays else "nothing to submit")
    for kind, price in cost.estimate(runs, shared.results, where or submit.local(1)).items():
        print(f"left of {kind}: {price}")


@sweep_app.command("submit")
def sweep_submit(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="One of slurm/clusters, or "
                                                                  "a YAML file like them.")],
                 work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = 10.0,
                 outside: Methods = None) -> None:
    """Submit to Slurm what has no record, is not queued and has not failed; again at any time: only what is missing."""
    from slurm import submit

    runs, shared, where = _sweep(spec, cluster, work, results)
    _submitted(submit.submit(runs, shared, where, spec.stem, save_minutes=save_minutes), runs)


@sweep_app.command("retry")
def sweep_retry(spec: Spec, cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="As for submit.")],
                failed: Annotated[bool, typer.Option("--failed", help="The runs that failed; not those that are parked "
                                                     "after three failures for one reason.")] = False,
                work: SweepWork = None, results: SweepResults = None, save_minutes: Minutes = 10.0,
                outside: Methods = None) -> None:
    """Submit failed runs again, and what is missing; says what made them fail."""
    from slurm import submit

    if not failed:
        raise UserError("say what to retry: --failed")
    runs, shared, where = _sweep(spec, cluster, work, results)
    made = submit.submit(runs, shared, where, spec.stem, ("failed",), save_minutes)
    for run in runs.values():
        if run.state == "failed":
            print(f"{run.name}: again after: {run.reason}")
        elif run.state == "parked":
            print(f"{run.name}: parked, three times the same: {run.reason}; to try again remove "
                  f"{shared.failures / run.name}.jsonl")
    _submitted(made, runs)


@sweep_app.command("status")
def sweep_status(spec: Spec, cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 watch: Annotated[bool, typer.Option("--watch", help="Stay, and look again every few seconds.")] = False,
                 page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page, too.")] = None,
                 outside: Methods = None) -> None:
    """Show what every run of a sweep is doing: state, progress, speed, node, attempts, why it failed."""
    import time

    from rich.live import Live

    from bench.files import write_text
    from slurm import status

    runs, shared, _ = _sweep(spec, cluster, work, results)

    def look() -> Any:
        _looked(runs, shared)
        if page:
            write_text(page, status.page(runs, shared, spec.stem))
        return status.table(runs, shared)

    if not watch:
        Console().print(look())
        return
    with Live(look(), console=Console()) as live:
        while any(run.state in ("running", "waiting") for run in runs.values()):
            time.sleep(5)
            live.update(look())


@sweep_app.command("logs")
def sweep_logs(spec: Spec, run: Annotated[str, typer.Argument(help="A run_id, see status.")], cluster: ClusterFile = None,
               follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
               work: SweepWork = None, results: SweepResults = None, outside: Methods = None) -> None:
    """Print a run's log, of its newest attempt; -f follows it into the next."""
    from slurm import status

    runs, shared, _ = _sweep(spec, cluster, work, results)
    _must_hold(runs, run, spec)
    if run not in shared.logs() and not follow:
        raise UserError(f"run {run} has no log in {shared.work}: it has not begun")

    def over() -> bool:
        _looked(runs, shared)
        return not follow or runs[run].state not in ("running", "waiting")

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    status.follow(run, shared, over, write)


@sweep_app.command("cancel")
def sweep_cancel(spec: Spec, names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="run_ids; none: all "
                                                                               "of the sweep.")] = None,
                 cluster: ClusterFile = None, work: SweepWork = None, results: SweepResults = None,
                 outside: Methods = None) -> None:
    """Cancel the jobs, queued and running, that carry these runs, with all that is packed with them. Records stay."""
    from slurm import submit

    runs, shared, _ = _sweep(spec, cluster, work, results)
    for name in names or []:
        _must_hold(runs, name, spec)
    print(f"{len(submit.cancel(runs, shared, names or []))} jobs cancelled")


@sweep_app.command("run")
def sweep_run(spec: Spec, work: Work = WORK, results: Results = Path("results"), device: Device = "auto", threads: Threads = 0,
              save_minutes: Minutes = 10.0,
              local: Annotated[bool, typer.Option("--local", help="In processes of their own, as the jobs of a cluster run it: "
                                                  "failures are noted, the rest goes on.")] = False,
              jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Of --local: how many at a time.")] = 1,
              outside: Methods = None) -> None:
    """Run a sweep on this machine; whatever has a record is skipped, so interrupting and repeating it is safe."""
    from slurm import plan, status, submit, sweep

    if local:
        runs, shared, _ = _sweep(spec, None, work, results)
        submit.run_here(runs, shared, spec.stem, jobs, threads or 1, save_minutes)
        plan.look(runs, shared, None)
        Console().print(status.table(runs, shared))
        if any(run.state != "done" for run in runs.values()):
            sys.exit(1)
    else:
        sweep.run(spec, where(work, results, device, threads, save_minutes))
    print(f"done. Next: ecgbench report --results {results}")


@app.command()
def report(results: Results = Path("results"),
           out: Annotated[Path, typer.Option(help="Folder for the tables and figures.")] = Path("report"),
           interval: Annotated[str, typer.Option(help="Rule of the intervals: ours (1,000 resamples, 2.5 and 97.5 "
                                                      "percentiles) or strodthoff (100, 5 and 95).")] = "ours",
           allow: Annotated[bool, typer.Option("--allow", help="Let records of different protocols or data, or of uncommitted "
                                               "code, meet: a footnote says so.")] = False,
           table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a line per evaluation, too; its "
                                                      "columns: bench.report.frame_of.")] = None,
           html: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a page, too; open DIR/index.html.")] = None,
           pictures: Annotated[list[Path] | None, typer.Option("--picture", metavar="FILE", help="SVG or PNG for the page, as "
                                                               "`ecgbench data plot` makes it; again for more.")] = None) -> None:
    """Make tables, figures and a page from records alone. What is no record is named and skipped; the exit code then is 1."""
    from bench import report as reporting
    from bench.files import write_text
    from paper import figures, macros, page, tables

    if pictures and not html:
        raise UserError("--picture is for the page; write --html DIR, too")
    if out.resolve() == results.resolve():
        raise UserError(f"--out {out} is the folder of the records, which holds nothing else; choose another")
    records, skipped = reporting.read(results)
    for line in skipped:
        print(f"ecgbench: skipped: {line}", file=sys.stderr)
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
    from bench.repeat import repeated

    found, *alone = repeated(first, second, lambda line: print(f"ecgbench: {line}", file=sys.stderr))
    table = Table("", "in both", "bit for bit", "mean difference", "largest", "sd over seeds")
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
    from bench import config, pictures
    from bench.data import prepare as preparing
    from bench.data.sources import open_source
    from bench.data.store import open_by_name
    from bench.reading import read
    from slurm import sweep

    corpus, results, out = work / "synthetic-ptb-xl", work / "results", work / "report"
    if not corpus.exists():
        synth(corpus)
    if not (work / "stores" / "synthetic").exists():
        preparing.prepare(open_source("ptb-xl", corpus, 100), work / "stores", name="synthetic",
                          workers=len(os.sched_getaffinity(0)))
    sweep.run(config.ROOT / "slurm" / "sweeps" / "demo.yaml", where(work, results, device, threads, 10.0))
    store, drawn = open_by_name(work / "stores", "synthetic"), out / "figures"
    ecgs = [pictures.draw(store, [], drawn / f"{what}.png", what) for what in ("ecg", "views")]
    trained = {r["config"]["method"]["name"]: r["run_id"] for r in read(results)[0] if r["kind"] == "pretrain"}
    for method in ("jepa", "simclr", "mae"):
        ecgs.append(pictures.see_run(store, None, drawn / f"see-{method}.png", work, trained[method]))
    page = out / "page" / "index.html"
    report(results, out, allow=True, html=page.parent, pictures=ecgs)
    print(f"\n{(out / 'table.md').read_text()}\nTable: {out / 'table.md'}\nFigures: {drawn}\nPage: {page}")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a signal that a run obeyed its own exit code."""
    from bench.interrupt import Interrupted

    try:
        app()
    except UserError as error:
        fail(" ".join(str(error).split()))
    except Interrupted as stop:
        print(f"ecgbench: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        path = error.filename2 or error.filename  # of a rename the target: the user knows that one
        fail(f"{error.strerror or error}{f': {path}' if path else ''}")


def fail(text: str) -> None:
    print(f"ecgbench: {text}", file=sys.stderr)
    sys.exit(2)
