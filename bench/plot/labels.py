"""Draws how many records of a store have each label, fold by fold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.core.errors import UserError
from bench.data.store import Store
from bench.plot.style import TEXT, image_format, save_as, styled

Counts = np.ndarray[Any, Any]  # (folds,)


def draw_labels(store: Store, out: Path) -> Path:
    """Write to out the records of a store per class and fold; UserError if it has no labels."""
    image_format(out)
    tables = [(task, {str(name): row.to_numpy() for name, row in store.label_counts(task).iterrows()})
              for task in store.manifest["tasks"] if store.kind(task) != "regression"]
    if not tables:
        raise UserError(f"store {store.name} is unlabelled: there are no label counts to draw")
    title = f"{store.name} ({store.corpus} {store.version}): {len(store.index):,} records"
    return save_as(plot_labels(tables, np.unique(store.index["fold"]).tolist(), title), out)


@styled
def plot_labels(tables: Sequence[tuple[str, Mapping[str, Counts]]], folds: Sequence[int], title: str = "") -> Figure:
    """A row per task: the records of each class, and the share of each fold in grey. tables: (task, class -> records per
    fold)."""
    rows = [max(1, len(classes)) for _, classes in tables]
    figure = Figure(figsize=(TEXT, sum(0.16 * n + 0.55 for n in rows) + 0.3))
    grid = figure.subplots(len(tables), 2, squeeze=False, width_ratios=(3, 2), height_ratios=[0.16 * n + 0.4 for n in rows])
    for (counts, shares), (task, classes) in zip(grid, tables, strict=True):
        names = sorted(classes, key=lambda name: (-classes[name].sum(), name))
        table = np.array([classes[name] for name in names]).reshape(len(names), len(folds))
        total = table.sum(1)
        counts.barh(range(len(names)), total, color="0.55", height=0.7)
        for y, n in enumerate(total):
            counts.text(n, y, f" {n:,}", va="center", fontsize=6)
        counts.set_xscale("symlog", linthresh=10)
        counts.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        counts.set_xlim(0, 3 * max(10, total.max(initial=1)))
        counts.set_title(f"{task}: records per class")
        image = shares.imshow(table / np.maximum(total, 1)[:, None], cmap="Greys", aspect="auto", vmin=0)
        for y, x in zip(*np.nonzero(table == 0), strict=True):  # without a positive, AUROC is not defined
            shares.text(x, y, "0", ha="center", va="center", fontsize=6, color="#D55E00")
        shares.set_xticks(range(len(folds)), [str(f) if f else "none" for f in folds])
        shares.set_title("share of each fold (0: none)")
        for axes in (counts, shares):
            axes.set_yticks(range(len(names)), names, fontsize=6)
            axes.set_ylim(len(names) - 0.4, -0.6)
        shares.tick_params(labelleft=False)
        image.set_clim(0, max(0.15, float(image.get_clim()[1] or 0)))
    figure.suptitle(title, fontsize=8)
    return figure
