"""Pictures of a store's records: on ECG paper, after every augmentation, as a method sees them, as a backbone maps them."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.backbones.embed import read_embeddings
from bench.core.errors import UserError, unknown
from bench.core.rng import VIEWS, Rng, generator, seeded
from bench.data import views
from bench.data.ingest.records import read_wfdb
from bench.data.loader import Crops
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.method import Method, build_model, step_at
from bench.parts import MaskedAutoencoder
from bench.plot import drawing as plot
from bench.runs.config import PretrainConfig
from bench.runs.workspace import checkpoint_path
from bench.training import checkpoint
from bench.training.metrics import load_metrics

SEED = 0
# Strong enough to be seen; ours.
SHOWN = {"resized_crop": [0.5, 1.0], "time_out": [0.2, 0.4], "gaussian_noise": 0.2, "baseline_wander": 1.0,
         "mains_hum": 0.3, "lead_dropout": 0.5, "amplitude_scale": [0.5, 2.0]}


def suffix(out: Path) -> str:
    """Of a picture's file; UserError when it is none that can be drawn."""
    given = out.suffix.removeprefix(".")
    if given not in ("png", "svg", "pdf"):
        raise UserError(f"--out {out} must end in .png, .svg or .pdf")
    return given


def file(path: Path, out: Path) -> Path:
    """Write a picture of one published WFDB record to out: its first 10 s on ECG paper."""
    kind, recording = suffix(out), read_wfdb(path)
    signal_mv, rate_hz = recording.physical(), recording.rate_hz
    return plot.save(plot.ecg(signal_mv[:, : 10 * rate_hz], rate_hz, title=path.stem), out.with_suffix(""), (kind,))[0]


def runs(work: Path, names: Sequence[str], out: Path) -> Path:
    """Write the curves of pre-trainings, finished or not, side by side to out."""
    kind, named = suffix(out), []
    for name in names:
        made, lines = load_metrics(work, name)
        named.append((f"{made['method']['name']}, seed {made['seed']} ({name})", lines))
    return plot.save(plot.runs(named), out.with_suffix(""), (kind,))[0]


def labels(store: Store, out: Path) -> Path:
    """Write a picture of a store's records per class and fold to out."""
    kind = suffix(out)
    tables = [(task, {str(name): row.to_numpy() for name, row in store.label_counts(task).iterrows()})
              for task in store.manifest["tasks"] if store.kind(task) != "regression"]
    if not tables:
        raise UserError(f"store {store.name} is unlabelled: there are no label counts to draw")
    title = f"{store.name} ({store.corpus} {store.version}): {len(store.index):,} records"
    return plot.save(plot.label_counts(tables, np.unique(store.index["fold"]).tolist(), title), out.with_suffix(""), (kind,))[0]


def row_of(store: Store, record_id: str | None) -> int:
    """The row of a record, the first where none is named."""
    ids = store.records.record_id
    found = np.flatnonzero(ids == record_id) if record_id is not None else [0]
    if not len(found):
        raise UserError(f"store {store.name} has no record {record_id!r}; its ids look like {', '.join(ids[:3])}")
    return int(found[0])


def normalised(store: Store, row: int, seconds: float) -> torch.Tensor:
    """(1, 12, T): the beginning of a record as a pre-training reads it."""
    samples, length = round(seconds * store.rate_hz), int(store.index["length"][row])
    if length < samples:
        raise UserError(f"record {store.records.record_id[row]} lasts {length / store.rate_hz:g} s; {seconds:g} s are needed")
    crops = Crops(store, samples, torch.device("cpu"))
    return crops.normalise(crops.raw(torch.tensor([row]), torch.tensor([0])))


def draw(store: Store, record_ids: Sequence[str], out: Path, what: str) -> Path:
    """Write a picture of records (none named: the first) to out; what is "ecg" or "views"."""
    kind = suffix(out)
    rate_hz, units = store.rate_hz, store.manifest["units"]
    rows = [row_of(store, record_id) for record_id in record_ids] or [0]
    if what == "ecg":
        titles = []
        for i in rows:
            known = {t: store.records[t][i] for t in store.manifest["tasks"]}
            titles.append(f"{store.name} {store.records.record_id[i]}  {known.get('all') or known.get('superdiagnostic') or ''}")
        signals = [store.signal(i)[:, : 10 * rate_hz] for i in rows]
        figure = (plot.ecg(signals[0], rate_hz, LEADS, units, titles[0]) if len(rows) == 1
                  else plot.contact_sheet(signals, titles, rate_hz, units))
    elif what == "views":
        if len(rows) > 1:
            raise UserError(f"views are drawn of one record, not of {len(rows)}")
        seconds = min(10.0, max(2.5, int(store.index["length"][rows[0]]) / rate_hz))
        x, rng = normalised(store, rows[0], seconds), seeded(SEED, 1)
        panels = [("as stored, normalised", x[0].numpy()),
                  ("crop (2.5 s)", views.crop(x, round(2.5 * rate_hz), rng)[0].numpy())]
        for name, value in SHOWN.items():
            spec = [{"seconds": 2.5 if name == "resized_crop" else seconds, name: value}]
            panels.append((f"{name} {value}", views.make(x, spec, rate_hz, rng)[0][0].numpy()))
        figure = plot.views(panels, rate_hz)
    else:
        raise unknown("picture", what, ("ecg", "views"))
    return plot.save(figure, out.with_suffix(""), (kind,))[0]


def see(store: Store, record_id: str | None, out: Path, made: PretrainConfig, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Write to out what a method's encoder is given of a record in the first step of this config; with the weights of a run,
    what its decoder makes of the rest."""
    kind, name, rate_hz = suffix(out), made["method"]["name"], made["data"]["rate_hz"]
    if rate_hz != store.rate_hz:
        raise UserError(f"store {store.name} has {store.rate_hz} Hz, {name} is configured for {rate_hz} Hz")
    if not made["optim"]["steps"]:
        raise UserError(f"method {name} takes no step: there is nothing that it sees")
    row, model = row_of(store, record_id), build_model(made)
    views.check(made["views"], rate_hz, made["data"]["crop_seconds"], made["encoder"]["patch"])
    if weights:
        model.load_state_dict(weights)
    panels = sights(model, made, normalised(store, row, made["data"]["crop_seconds"]), rebuild=bool(weights))
    title = f"{name}: what its encoder sees of {store.name} {store.records.record_id[row]}"
    if any(panel.rebuilt is not None for panel in panels):
        title += "; coloured: reconstructed, on each patch's own mean and sd"
    return plot.save(plot.sights(panels, rate_hz, title), out.with_suffix(""), (kind,))[0]


def see_run(store: Store, record_id: str | None, out: Path, work: Path, run: str) -> Path:
    """The same of a finished pre-training."""
    path = checkpoint_path(work, run)
    if not path.is_file():
        raise unknown("finished run", run, sorted(p.parent.name for p in (work / "runs").glob(f"*/{path.name}")))
    trained = checkpoint.load(path)
    weights = {k.removeprefix("model/"): v for k, v in trained.tensors.items() if k.startswith("model/")}
    return see(store, record_id, out, PretrainConfig.model_validate(trained.meta["config"]), weights)


@torch.no_grad()
def sights(model: Method, made: PretrainConfig, x: torch.Tensor, rebuild: bool) -> list[plot.Sight]:
    """What the method hands its encoder in one step on a batch that is twice the crop x (1, 12, T).

    Where that is never the whole crop, the crop comes first.
    """
    given: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    decoded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_encoder(_: Any, args: Any, kwargs: Any) -> None:
        bound = inspect.signature(model.encoder.forward).bind(*args, **kwargs).arguments
        given.append((bound["x"], bound.get("keep")))

    model.eval()
    model.encoder.register_forward_pre_hook(on_encoder, with_kwargs=True)
    if rebuild and isinstance(model, MaskedAutoencoder):
        model.decoder.register_forward_hook(lambda _, args, out: decoded.append((args[2][0], out[0])))
    seed, device, rate_hz = made["seed"], x.device, made["data"]["rate_hz"]
    rng = Rng(generator(device, seed, VIEWS, 0), 2)
    step = step_at(seed, 0, made["optim"]["steps"], device, 2, patients=torch.arange(2))
    model(views.make(x.expand(2, -1, -1), made["views"], rate_hz, rng), step)

    panels = []
    for i, (batch, keep) in enumerate(given):
        view = batch[0]
        where = model.encoder.patchify(torch.arange(view.numel()).view(1, *view.shape))[0]  # (N, patch_width): which samples
        seen, rebuilt = torch.full((view.numel(),), keep is None), None
        name = f"view {i + 1}" if len(given) > 1 else "the record" if torch.equal(view, x[0]) else "the view"
        if keep is not None:
            seen[where[keep[0]].flatten()] = True
            name = f"{len(keep[0])} of {len(where)} tokens, {seen.float().mean():.0%} of the samples"
        if decoded:
            hidden, predicted = decoded[i]
            target = view.flatten()[where[hidden]]
            rebuilt = torch.full((view.numel(),), torch.nan)
            rebuilt[where[hidden].flatten()] = (predicted * target.std(1, keepdim=True) + target.mean(1, keepdim=True)).flatten()
        panels.append(plot.Sight(name, view.numpy(), seen.view(view.shape).numpy(),
                                 None if rebuilt is None else rebuilt.view(view.shape).numpy()))
    if not any(panel.signal.shape == x[0].shape for panel in panels):
        panels.insert(0, plot.Sight("the record", x[0].numpy(), np.ones(x[0].shape, bool)))
    return panels


def embedding_map(path: Path, store: Store, task: str, out: Path, by: str = "pca") -> Path:
    """Write to out a map of the embeddings in an .npz file of `ecgssl embed`, coloured by the store's labels."""
    kind = suffix(out)
    classes = store.manifest["tasks"]
    if task not in classes or store.kind(task) == "regression":
        raise unknown("task with classes", task, [name for name in classes if store.kind(name) != "regression"])
    ids, values = read_embeddings(path)
    label = dict(zip(store.records.record_id, store.records[task], strict=True))
    here = np.array([bool(label.get(i)) for i in ids.tolist()])
    if here.sum() < 3:
        raise UserError(f"a map needs 3 records or more; {here.sum()} of {path} have a label of {task} in store {store.name}")
    names = [label[i] for i in ids[here].tolist()]
    single = [name for name in names if ";" not in name]
    common = sorted(set(single), key=lambda name: (-single.count(name), name))[: len(plot.COLOURS) - 1]
    points, axis = flat(values[here], by)
    title = f"{store.name}, {task}: {len(names):,} records"
    figure = plot.scatter(points, [name if name in common else "" for name in names], title, axis)
    return plot.save(figure, out.with_suffix(""), (kind,))[0]


def flat(values: np.ndarray, by: str) -> tuple[np.ndarray, tuple[str, str]]:
    """(n, D) -> (n, 2) by pca or umap (McInnes et al. 2018, arXiv 1802.03426), and the names of the axes."""
    if by == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise UserError("UMAP is not installed; pip install 'ecg-ssl-bench[umap]', or write --by pca") from None
        return np.asarray(UMAP(random_state=SEED, n_jobs=1).fit_transform(values), float), ("UMAP 1", "UMAP 2")
    if by != "pca":
        raise unknown("--by", by, ("pca", "umap"))
    centred = values.astype(float) - values.mean(0, dtype=float)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = u[:, :2] * s[:2]
    points *= np.sign(points[np.abs(points).argmax(0), [0, 1]])  # a direction is arbitrary: the farthest point is positive
    share = s**2 / (s**2).sum()
    return points, (f"component 1 ({share[0]:.0%} of the variance)", f"component 2 ({share[1]:.0%})")
