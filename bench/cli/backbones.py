"""Backbones: import, export, embed, compare, predict."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import WORK, Device, Picture, Results, Threads, Work, app, open_workspace
from bench.core.errors import UserError
from bench.runs.workspace import SAVE_MINUTES

SHOWN = 20  # refused records that are printed


@app.command("import")
def import_command(file: Annotated[Path, typer.Argument(help="Checkpoint of the published implementation: a pre-training, "
                                                        "or a classifier (linear, fine-tuned).")],
                   saw: Annotated[list[str], typer.Option(metavar="STORE", help="Store whose training folds it was "
                                                          "pre-trained on, for the leak guard and the normalisation; may be "
                                                          "repeated. Write unknown if you do not know: then nothing is "
                                                          "checked, and results say so.")],
                   name: Annotated[str, typer.Option("--as", help="Its name in tables.")] = "published",
                   work: Work = WORK) -> None:
    """Turn a checkpoint of kweimann/ECG-JEPA into a backbone that can be evaluated, exported and used."""
    from bench.backbones import import_published as importing
    from bench.data.store import open_by_name

    if importing.UNKNOWN in saw and len(saw) > 1:
        raise UserError(f"--saw {importing.UNKNOWN} excludes every other --saw")
    stores = None if saw == [importing.UNKNOWN] else [open_by_name(work / "stores", s) for s in dict.fromkeys(saw)]
    run, evaluation = importing.import_published(file, work, name, stores)
    if stores is None:
        print("It is unknown which records this backbone saw. Evaluations on records that it saw are not refused; their results "
              "say so.", file=sys.stderr)
    print(f"run {run}. Next: ecgssl evaluate {run} --protocol linear --task TASK --store STORE")
    if evaluation:
        print(f"its classifier: ecgssl predict --run {evaluation} --from RECORDS --out p.csv")


@app.command()
def export(run: Annotated[str, typer.Argument(help="run_id of a finished pre-training.")],
           folder: Annotated[Path, typer.Option("--to", metavar="DIR", help="New or empty folder.")],
           work: Work = WORK, results: Results = Path("results")) -> None:
    """Write a backbone to share it: weights (safetensors), config.json, model card. `bench.load_backbone(DIR)` opens it."""
    from bench.backbones.backbone import load_run
    from bench.backbones.export import export_backbone
    from bench.runs.results import NoResultsError, read_results

    try:
        known = read_results(results)[0]
    except NoResultsError:
        known = []
    export_backbone(load_run(work, run), folder, known)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


Records = Annotated[str, typer.Option("--from", metavar="RECORDS", help="A .hea file, a folder of them, a folder with "
                                      "dataset.yaml, or a store.")]
Resample = Annotated[bool, typer.Option("--resample", help="Convert records of another rate; the output says how many.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read records.")]


@app.command()
def embed(backbone: Annotated[str, typer.Option("--backbone", metavar="DIR|RUN", help="Folder of `ecgssl export`, or a run_id.")],
          records: Records, out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")],
          resample: Resample = False, workers: Workers = 2, work: Work = WORK, device: Device = "auto",
          threads: Threads = 0) -> None:
    """Embed ECG records: the mean of a backbone's tokens, over 2.5 s crops every 1.25 s. Bad records are listed."""
    from bench import api
    from bench.backbones.embed import check_out, write_embeddings

    check_out(out, (".npz", ".parquet"))
    outputs = api.embed(backbone, records, resample=resample, workers=workers,
                        workspace=open_workspace(work, work, device, threads, SAVE_MINUTES))
    write_embeddings(out, outputs)
    show_outputs(outputs, out)


@app.command()
def cka(first: Annotated[Path, typer.Argument(help=".npz file of `ecgssl embed`.")],
        second: Annotated[Path, typer.Argument(help="Another one: the same records, another backbone.")]) -> None:
    """Measure how similar two backbones are: debiased linear CKA of their embeddings. 1: equal up to rotation; 0: unrelated."""
    from bench.backbones.embed import compare_embeddings

    value, n = compare_embeddings(first, second)
    print(f"CKA {value:.4f} on {n:,} records that both files hold")


@app.command("map")
def map_command(embeddings: Annotated[Path, typer.Argument(help=".npz file of `ecgssl embed`.")],
                store: Annotated[str, typer.Option(help="Store that has the records' labels.")],
                task: Annotated[str, typer.Option(help="Its task; records with one label are coloured.")] = "superdiagnostic",
                by: Annotated[str, typer.Option(help="pca, or umap (pip install 'ecg-ssl-bench[umap]').")] = "pca",
                out: Picture = Path("map.png"), work: Work = WORK) -> None:
    """Draw a 2-D map of embeddings, coloured by class."""
    from bench.data.store import open_by_name
    from bench.plot.embeddings import draw_map

    print(draw_map(embeddings, open_by_name(work / "stores", store), task, out, by))


@app.command()
def predict(run: Annotated[str, typer.Option("--run", metavar="EVALUATION_RUN", help="run_id of an evaluation, frozen or "
                                             "fine-tuned.")],
            records: Records, out: Annotated[Path, typer.Option(help="File to write: .csv.")], resample: Resample = False,
            workers: Workers = 2, work: Work = WORK, results: Results = Path("results"), device: Device = "auto",
            threads: Threads = 0) -> None:
    """Predict with the classifier of an evaluation: the probability of each class, and its threshold. Bad records are listed."""
    from bench import api
    from bench.backbones.embed import check_out

    check_out(out, (".csv",))
    outputs = api.predict(run, records, resample=resample, workers=workers, out=out,
                          workspace=open_workspace(work, results, device, threads, SAVE_MINUTES))
    show_outputs(outputs, out)


def show_outputs(outputs: Any, out: Path) -> None:
    """Print how many records were used; the refused ones go to standard error."""
    for record_id, why in list(outputs.refused.items())[:SHOWN]:
        print(f"refused {record_id}: {why}", file=sys.stderr)
    if len(outputs.refused) > SHOWN:
        print(f"... and {len(outputs.refused) - SHOWN:,} more; the output's metadata has them all", file=sys.stderr)
    print(f"{out}: {len(outputs.record_id):,} records ({outputs.about['resampled']:,} resampled, "
          f"{outputs.about['gaps_filled']:,} with gaps filled), {len(outputs.refused):,} refused")
