"""The Python API: the functions that the commands call. `import bench` offers all of them; docs/python.md shows a study."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.core import progress
from bench.core.errors import UserError, unknown
from bench.core.processes import ALONE, World
from bench.data.corpora import open_corpus
from bench.data.ingest import prepare as preparing
from bench.data.ingest.records import open_records
from bench.data.loader import PLACES
from bench.data.store import Store, open_by_name
from bench.evaluation import runner
from bench.evaluation.inputs import has_learned
from bench.evaluation.protocols import load_evaluation_config, select_seeds, start_from_linear
from bench.runs.config import load_pretrain_config
from bench.runs.config import run_id as name_run
from bench.runs.layers import Override, overrides_of
from bench.runs.mixtures import load_mixture
from bench.runs.results import load_result, result_exists, result_path
from bench.runs.workspace import SAVE_MINUTES, Workspace
from bench.training import trainer

if TYPE_CHECKING:
    import pandas as pd

    from bench.backbones.backbone import Backbone
    from bench.backbones.embed import Outputs
    from bench.sweeps import Pretraining

Settings = Mapping[str, Any] | Sequence[Override]  # {"optim.lr": 3e-4}, or the overrides of --set


def open_workspace(work: str | Path | None = None, results: str | Path = "results", *, device: str = "auto", threads: int = 0,
                   save_minutes: float = SAVE_MINUTES, place: str = "auto") -> Workspace:
    """The workspace: the folders and the device that runs use, and how often they save.

    work: folder of stores, checkpoints, predictions and logs; None: the environment variable ECGSSL_WORK, or "work". results:
    folder of results. device: cpu, cuda, cuda:1, ... or auto. threads: number of CPU threads of this process; 0: torch's choice.
    place: memory from which signals are read: host, device, or auto.
    """
    if place not in PLACES:
        raise unknown("--place", place, PLACES)
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
    folder = Path(work or os.environ.get("ECGSSL_WORK", "work"))
    return Workspace(folder, Path(results), chosen, save_minutes=save_minutes, place=place)


def prepare(corpus: str, folder: str | Path, *, work: str | Path = "work", name: str | None = None, rate_hz: int | None = None,
            workers: int | None = None, resampling: str = "fourier", skip_bad: bool = False, drop_duplicates: bool = False,
            not_in: Iterable[str] = ()) -> Store:
    """Turn the corpus in `folder` into a store in work/stores, and open it. If the call is stopped, call it again: it continues.

    corpus: one of `ecgssl data list`, or "array" for your own data. rate_hz: rate of the store; None: 500, or the rate of your
    own data. skip_bad: leave out records that cannot be used. drop_duplicates: leave out records whose samples an earlier record
    has. not_in: leave out records that these stores hold.
    """
    stores = Path(work) / "stores"
    rate_hz = 500 if rate_hz is None and corpus != "array" else rate_hz
    source = open_corpus(corpus, Path(folder), rate_hz)
    with progress.bar(f"prepare {name or source.name}", len(source.records)) as bar:
        return preparing.prepare(
            source, stores, name=name, rate_hz=rate_hz, resampling=resampling,
            workers=workers or len(os.sched_getaffinity(0)), skip_bad=skip_bad, drop_duplicates=drop_duplicates,
            not_in=[open_by_name(stores, each) for each in not_in], progress=lambda done, total: bar(done, ""))


def open_store(name: str, work: str | Path = "work") -> Store:
    """A prepared store by its name."""
    return open_by_name(Path(work) / "stores", name)


def pretrain(method: str, stores: Mapping[str, float] | str, *, settings: Settings = (), seed: int = 0,
             again: bool = False, workspace: Workspace | None = None, world: World = ALONE) -> str:
    """Pre-train one backbone and return its run_id. A run that has a result is not repeated; a killed run continues bit for bit.

    stores: store -> probability of drawing a record from it, or the name of a mixture. settings: keys of the config, e.g.
    {"encoder.size": "s", "optim.steps": 1000}. again: run it anew, after the code of its method has changed; what the run and
    its evaluations left moves to replaced/ in the folders of work and results. world: the processes that train together.
    """
    workspace = workspace or open_workspace()
    mix = load_mixture(stores) if isinstance(stores, str) else dict(stores)
    config = load_pretrain_config(method, [*_overrides(settings), *overrides_of({"seed": seed, "data.mix": mix})])
    opened = [open_by_name(workspace.work / "stores", name) for name in mix]
    outcome = trainer.pretrain(config, opened, workspace, world, again=again)
    if world.first and not outcome.ran:
        print(f"already done: {outcome.result}")
    return outcome.run_id


def evaluate(run_id: str, store: str, *, tasks: Sequence[str] = ("superdiagnostic",), protocols: Sequence[str] = ("linear",),
             seeds: Iterable[int] = (0,), at: float = 1.0, external: str | None = None, settings: Settings = (),
             workspace: Workspace | None = None) -> list[dict[str, Any]]:
    """Evaluate a pre-trained backbone and return the results, one for each protocol, task and seed.

    store: the store with the labels. external: a store to test on instead of the test folds. at: evaluate the checkpoint after
    this share of the steps. Heads on a frozen backbone train at the same time, so give all tasks, protocols and seeds at once.
    """
    workspace = workspace or open_workspace()
    opened, other = (open_by_name(workspace.work / "stores", name) if name else None for name in (store, external))
    assert opened is not None
    overrides = _overrides(settings)
    if any(each.key == "at" for each in overrides):
        raise UserError("--set at would be overridden; write --at SHARE")
    learned = has_learned(workspace.work, run_id)
    configs = [load_evaluation_config(protocol, task, run_id, opened, seed, external=other, overrides=[
                   *(start_from_linear(overrides) if protocol == "finetune-after-linear" else []), *overrides,
                   Override("at", at)])
               for protocol in protocols for task in tasks for seed in select_seeds(protocol, learned, list(seeds))]
    for config in configs:
        if result_exists(workspace.results, name_run(config)):
            print(f"already done: {result_path(workspace.results, name_run(config))}")
    names = runner.evaluate(configs, opened, workspace, other)
    return [load_result(workspace.results, name) for name in names]


def run_sweep(path: str | Path, workspace: Workspace | None = None) -> "list[Pretraining]":
    """Run a sweep file in this process and return its runs. Runs with a result are skipped, so the call may be repeated."""
    from bench import sweeps

    return sweeps.run_sweep(Path(path), workspace or open_workspace())


def write_report(results: str | Path, out: str | Path, *, interval: str = "default", allow: bool = False, controls: bool = False,
                 csv: Path | None = None, html: str | Path | None = None, pictures: Sequence[Path] = ()) -> list[Path]:
    """Write the tables and figures of a folder of results, or of a packed study, into out, and return the files.

    interval: rule of the confidence intervals. allow: write the report even if results differ in rules, data or code. controls:
    add tables of the evaluations on shuffled labels. csv: a file for the table that load_results returns. html: a folder for the
    page. pictures: ECGs to show on the page. Warns of each file that is no result.
    """
    from bench.core.files import write_text
    from bench.report.checks import footnotes, refuse
    from bench.report.frame import frame_of
    from bench.report.results import load_results
    from paper import report

    loaded, skipped = load_results(Path(results), controls=controls)
    for line in skipped:
        warnings.warn(f"skipped: {line}", stacklevel=2)
    if not allow:
        refuse(footnotes(loaded))
    if csv:
        write_text(csv, frame_of(loaded).to_csv(index=False, lineterminator="\n"))
    written = report.write(loaded, Path(out), rule=interval, html=Path(html) if html else None, pictures=pictures)
    return [*([csv] if csv else []), *written]


def load_results(results: str | Path = "results", *, controls: bool = False) -> "pd.DataFrame":
    """The evaluations in a folder of results, or in a packed study, as a table with a row for each evaluation.

    bench.report.frame.frame_of describes the columns. controls: include the evaluations on shuffled labels.
    """
    from bench.report.frame import load_results_frame

    return load_results_frame(results, controls=controls)


def load_backbone(folder: str | Path) -> "Backbone":
    """The exported backbone in folder, a module: (B, 12, T) ECG -> (B, N, D) tokens. UserError if it is none, or damaged."""
    from bench.backbones import backbone

    return backbone.load_backbone(Path(folder))


def embed(backbone: "Backbone | str | Path", records: str | Path, *, resample: bool = False, workers: int = 2,
          workspace: Workspace | None = None) -> "Outputs":
    """Embeddings of ECG records: the mean of a backbone's tokens over 2.5 s crops every 1.25 s.

    backbone: a loaded backbone, the folder of an exported one, or a run_id. records: a .hea file, a folder of them, a folder with
    dataset.yaml, or a store. `refused` of the return value names records that could not be used.
    """
    from bench.backbones.backbone import open_backbone
    from bench.backbones.embed import Reading, embed_records

    workspace = workspace or open_workspace()
    loaded = open_backbone(workspace.work, str(backbone)) if isinstance(backbone, str | Path) else backbone
    source = open_records(str(records), workspace.work / "stores")
    with progress.bar(f"embed {source.name}", len(source.records)) as bar:
        return embed_records(loaded, source, Reading(workspace.device, resample, workers, bar))


def predict(run_id: str, records: str | Path, *, resample: bool = False, workers: int = 2,
            workspace: Workspace | None = None, out: Path | None = None) -> "Outputs":
    """The probability of each class of an evaluation for ECG records. out: a CSV file to write them to; None writes none."""
    from bench.backbones.embed import Reading
    from bench.backbones.predict import load_classifier, predict_records, write_predictions

    workspace = workspace or open_workspace()
    classifier = load_classifier(workspace.work, workspace.results, run_id)
    source = open_records(str(records), workspace.work / "stores")
    with progress.bar(f"predict {source.name}", len(source.records)) as bar:
        outputs = predict_records(classifier, source, Reading(workspace.device, resample, workers, bar))
    if out:
        write_predictions(out, outputs, classifier.facts)
    return outputs


def _overrides(settings: Settings) -> list[Override]:
    return overrides_of(dict(settings)) if isinstance(settings, Mapping) else list(settings)
