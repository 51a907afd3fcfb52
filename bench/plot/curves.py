"""Draws the curves that pre-trainings have logged: loss, RankMe, learning rate, ..."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench.plot.style import COLOURS, TEXT, image_format, save_as, styled
from bench.training.log import load_metrics

TITLES = {"loss": "loss", "rankme": "RankMe", "feature_sd": "feature sd", "lr": "learning rate",
          "gradient_norm": "gradient norm", "records_per_second": "records/s", "memory_mb": "peak memory (MB)"}


def draw_curves(work: Path, run_ids: Sequence[str], out: Path) -> Path:
    """Write to out the curves of pre-trainings in this work folder, finished or not."""
    image_format(out)
    runs = []
    for run_id in run_ids:
        config, lines = load_metrics(work, run_id)
        runs.append((f"{config.method.name}, seed {config.seed} ({run_id})", lines))
    return save_as(plot_curves(runs), out)


@styled
def plot_curves(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Figure:
    """A panel per quantity that any run has logged, a line per run. runs: (name, lines of its metrics.jsonl)."""
    logged = dict.fromkeys([*TITLES, *(key for _, lines in runs for line in lines for key in line)])
    keys = [k for k in logged if k not in ("step", "seconds", "seconds_left")
            and any(k in line for _, lines in runs for line in lines)]
    rows = max(1, math.ceil(len(keys) / 4))
    figure = Figure(figsize=(TEXT, 1.5 * rows + 0.25 * len(runs) + 0.3))
    grid = figure.subplots(rows, 4, squeeze=False).ravel()
    for axes in grid[len(keys):]:
        axes.set_visible(False)
    for axes, key in zip(grid, keys, strict=False):
        for i, (name, lines) in enumerate(runs):
            points = [(line["step"], line[key]) for line in lines if key in line]
            axes.plot(*np.reshape(points, (-1, 2)).T, color=COLOURS[i % len(COLOURS)], label=name, linewidth=0.9,
                      linestyle=("-", "--", ":", "-.")[i // len(COLOURS) % 4])
        axes.set_title(TITLES.get(key, key))
    figure.supxlabel("step", fontsize=8)
    if keys:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center")
    return figure
