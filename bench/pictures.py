"""Pictures of a store's records: on ECG paper, after every augmentation, under the masks."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench import config, parts, plot
from bench.data import views, wfdb_file
from bench.data.loader import Crops
from bench.data.signal import LEADS, breaks_einthoven
from bench.data.store import Store
from bench.errors import UserError, unknown
from bench.pretrain import logged
from bench.rng import seeded

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
    kind, recording = suffix(out), wfdb_file.read(path)
    signal_mv, rate_hz = recording.physical(), recording.rate_hz
    if breaks_einthoven(signal_mv):
        raise UserError(f"{path}: lead I + lead III is not lead II: the gains of its header are wrong, as LUDB's are. Draw "
                        f"it from a store: `ecgbench data prepare` knows the right ones")
    return plot.save(plot.ecg(signal_mv[:, : 10 * rate_hz], rate_hz, title=path.stem), out.with_suffix(""), (kind,))[0]


def runs(work: Path, names: Sequence[str], out: Path) -> Path:
    """Write the curves of pre-trainings, finished or not, side by side to out."""
    kind, named = suffix(out), []
    for name in names:
        made, lines = logged(work, name)
        named.append((f"{made['method']['name']}, seed {made['seed']} ({name})", lines))
    return plot.save(plot.runs(named), out.with_suffix(""), (kind,))[0]


def labels(store: Store, out: Path) -> Path:
    """Write a picture of a store's records per class and fold to out."""
    kind = suffix(out)
    tables = [(task, {str(name): row.to_numpy() for name, row in store.label_counts(task).iterrows()})
              for task in store.manifest["tasks"] if store.kind(task) != "regression"]
    if not tables:
        raise UserError(f"store {store.name} is unlabelled: there are no label counts to draw")
    title = f"{store.name} ({store.manifest['source']} {store.manifest['version']}): {len(store.index):,} records"
    return plot.save(plot.label_counts(tables, np.unique(store.index["fold"]).tolist(), title), out.with_suffix(""), (kind,))[0]


def draw(store: Store, record_ids: Sequence[str], out: Path, what: str) -> Path:
    """Write a picture of records (none named: the first) to out; what is "ecg", "views" or "masks"."""
    kind = suffix(out)
    ids = store.records.record_id
    rows = {record_id: row for row, record_id in enumerate(ids)}
    for record_id in record_ids:
        if record_id not in rows:
            raise UserError(f"store {store.name} has no record {record_id!r}; its ids look like {', '.join(ids[:3])}")
    if len(record_ids) > 1 and what != "ecg":
        raise UserError(f"{what} are drawn of one record, not of {len(record_ids)}")
    chosen = [rows[record_id] for record_id in record_ids] or [0]
    index = chosen[0]
    rate_hz, patch = store.rate_hz, round(0.1 * store.rate_hz)  # ours: masks are drawn in patches of 100 ms
    if what == "ecg":
        titles = []
        for i in chosen:
            known = {t: store.records[t][i] for t in store.manifest["tasks"]}
            titles.append(f"{store.name} {ids[i]}  {known.get('all') or known.get('superdiagnostic') or ''}")
        signals = [store.signal(i)[:, : 10 * rate_hz] for i in chosen]
        if len(chosen) == 1:
            figure = plot.ecg(signals[0], rate_hz, LEADS, store.manifest["units"], titles[0])
        else:
            figure = plot.contact_sheet(signals, titles, rate_hz, store.manifest["units"])
    else:
        length = int(store.index["length"][index])
        samples = min(length, 10 * rate_hz) // patch * patch
        if samples < round(2.5 * rate_hz):
            raise UserError(f"record {ids[index]} lasts {length / rate_hz:g} s; {what} need 2.5 s or more")
        crops = Crops(store, samples, torch.device("cpu"))
        x = crops.normalise(crops.raw(torch.tensor([index]), torch.tensor([0])))
        rng = seeded(SEED, 1)
        if what == "views":
            seconds = samples / rate_hz
            panels = [("as stored, normalised", x[0].numpy()),
                      ("crop (2.5 s)", views.crop(x, round(2.5 * rate_hz), rng)[0].numpy())]
            for name, value in SHOWN.items():
                spec = [{"seconds": 2.5 if name == "resized_crop" else seconds, name: value}]
                panels.append((f"{name} {value}", views.make(x, spec, rate_hz, rng)[0][0].numpy()))
            figure = plot.views(panels, rate_hz)
        elif what == "masks":
            n = samples // patch
            jepa, mae = config.load("jepa")["method"], config.load("mae")["method"]
            kept = []
            for share in jepa["keep"]:
                index_kept, _ = parts.block_split(n, math.ceil(share * n), jepa["block"], rng)
                kept.append((f"jepa, keep {share:g}", index_kept))
            kept.append((f"mae, keep {mae['keep']:g}", parts.random_split(n, mae["keep"], rng)[0]))
            seen = [(name, np.isin(np.arange(n), i[0].numpy())) for name, i in kept]
            figure = plot.masks(x[0].numpy(), seen, rate_hz, patch)
        else:
            raise unknown("picture", what, ("ecg", "views", "masks"))
    return plot.save(figure, out.with_suffix(""), (kind,))[0]
