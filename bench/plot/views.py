"""Draws what each augmentation of bench/data/views.py does to a record."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.core.rng import seeded
from bench.data import views
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.plot.ecg import Signal, check_leads
from bench.plot.records import find_row, read_normalised
from bench.plot.style import COLUMN, TEXT, image_format, save_as, styled

SEED = 0
# Augmentation -> a setting that is strong enough to be seen.
SETTINGS = {"resized_crop": [0.5, 1.0], "time_out": [0.2, 0.4], "gaussian_noise": 0.2, "baseline_wander": 1.0,
            "mains_hum": 0.3, "lead_dropout": 0.5, "amplitude_scale": [0.5, 2.0]}


def draw_views(store: Store, record_id: str | None, out: Path) -> Path:
    """Write to out a record of the store, the first if record_id is None, after a crop and after every augmentation."""
    image_format(out)
    row, rate_hz = find_row(store, record_id), store.rate_hz
    seconds = min(10.0, max(2.5, int(store.index["length"][row]) / rate_hz))
    x, rng = read_normalised(store, row, seconds), seeded(SEED, 1)
    panels = [("as stored, normalised", x[0].numpy()),
              ("crop (2.5 s)", views.crop(x, round(2.5 * rate_hz), rng)[0].numpy())]
    for name, value in SETTINGS.items():
        view = {"seconds": 2.5 if name == "resized_crop" else seconds, name: value}
        panels.append((f"{name} {value}", views.make(x, [view], rate_hz, rng)[0][0].numpy()))
    return save_as(plot_views(panels, rate_hz), out)


@styled
def plot_views(panels: Sequence[tuple[str, Signal]], rate_hz: float, leads: Sequence[str] = ("II", "V1", "V5")) -> Figure:
    """A row per (name, ECG (12, T), leads in the order of LEADS), drawn in black over the first ECG in grey."""
    figure = Figure(figsize=(COLUMN if len(leads) == 1 else TEXT, 0.75 * len(panels) + 0.5))
    grid = figure.subplots(len(panels), len(leads), sharex=True, sharey="col", squeeze=False)
    for row, (name, signal) in zip(grid, panels, strict=True):
        check_leads(signal, LEADS)
        for axes, lead in zip(row, leads, strict=True):
            for trace, colour in ((panels[0][1], "0.75"), (signal, "black")):
                if trace.shape == signal.shape:
                    trace = trace[LEADS.index(lead)]
                    axes.plot(np.arange(trace.size) / rate_hz, trace, color=colour, linewidth=0.7)
            axes.margins(x=0)
        row[0].set_title(name)
    for axes, lead in zip(grid[0], leads, strict=True):
        axes.set_title(lead, loc="right", fontweight="bold")
    figure.supxlabel("seconds", fontsize=8)
    return figure
