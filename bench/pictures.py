"""Pictures of a store's records: on ECG paper, after every augmentation, under the masks."""

import math
from pathlib import Path

import numpy as np
import torch

from bench import config, parts, plot
from bench.data import views
from bench.data.loader import Crops
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.errors import UserError, unknown

SEED = 0
# Strong enough to be seen; ours.
SHOWN = {"resized_crop": [0.5, 1.0], "time_out": [0.2, 0.4], "gaussian_noise": 0.2, "baseline_wander": 1.0,
         "mains_hum": 0.3, "lead_dropout": 0.5, "amplitude_scale": [0.5, 2.0]}


def draw(store: Store, record_id: str | None, out: Path, what: str) -> Path:
    """Write a picture of one record (the first when None) to out; what is "ecg", "views" or "masks"."""
    suffix = out.suffix.removeprefix(".")
    if suffix not in ("png", "svg", "pdf"):
        raise UserError(f"--out {out} must end in .png, .svg or .pdf")
    ids = store.records.record_id
    if record_id is not None and not (ids == record_id).any():
        raise UserError(f"store {store.name} has no record {record_id!r}; its ids look like {', '.join(ids[:3])}")
    index = 0 if record_id is None else int(np.flatnonzero(ids == record_id)[0])
    rate_hz, patch = store.rate_hz, round(0.1 * store.rate_hz)  # ours: masks are drawn in patches of 100 ms
    signal = store.signal(index)
    if what == "ecg":
        labels = {t: store.records[t][index] for t in store.manifest["tasks"]}
        title = f"{store.name} {ids[index]}  {labels.get('all') or labels.get('superdiagnostic') or ''}"
        figure = plot.ecg(signal[:, : 10 * rate_hz], rate_hz, LEADS, store.manifest["units"], title)
    else:
        samples = min(signal.shape[1], 10 * rate_hz) // patch * patch
        if samples < round(2.5 * rate_hz):
            raise UserError(f"record {ids[index]} lasts {signal.shape[1] / rate_hz:g} s; {what} need 2.5 s or more")
        crops = Crops(store, samples, torch.device("cpu"), on_device=False)
        x = crops.normalise(crops.raw(torch.tensor([index]), torch.tensor([0])))
        rng = torch.Generator().manual_seed(SEED)
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
                index_kept, _ = parts.block_split(1, n, math.ceil(share * n), jepa["block"], rng)
                kept.append((f"jepa, keep {share:g}", index_kept))
            kept.append((f"mae, keep {mae['keep']:g}", parts.random_split(1, n, mae["keep"], rng)[0]))
            seen = [(name, np.isin(np.arange(n), i[0].numpy())) for name, i in kept]
            figure = plot.masks(x[0].numpy(), seen, rate_hz, patch)
        else:
            raise unknown("picture", what, ("ecg", "views", "masks"))
    return plot.save(figure, out.with_suffix(""), (suffix,))[0]
