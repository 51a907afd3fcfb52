"""Draws a map of embeddings in two dimensions, coloured by class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.backbones.embed import read_embeddings
from bench.core.errors import UserError, unknown
from bench.data.store import Store
from bench.plot.style import COLOURS, COLUMN, SHAPES, image_format, save_as, styled

Points = np.ndarray[Any, Any]  # (n, 2)
SEED = 0
BULK = (1, 99)  # the axes show at least the points between these percentiles, the bulk
MARGIN, EDGE = 0.25, 0.05  # room around the bulk and around the outermost point, as shares of the width of the bulk
BORDER = 0.3  # inches around the axes: room for the title and the names of the axes
LONGEST = 32  # characters of a class name in the legend
RIM: dict[str, Any] = {"markeredgewidth": 0.5, "markeredgecolor": "black"}  # of a point outside the axes


def draw_map(path: Path, store: Store, task: str, out: Path, by: str = "pca") -> Path:
    """Write to out a map of the embeddings in an .npz file of `ecgssl embed`, coloured by the labels of the store.

    by: "pca" or "umap". UserError if the task has no classes, or fewer than 3 embeddings have a label.
    """
    image_format(out)
    classes = store.manifest["tasks"]
    if task not in classes or store.kind(task) == "regression":
        raise unknown("task with classes", task, [name for name in classes if store.kind(name) != "regression"])
    ids, values = read_embeddings(path)
    label = dict(zip(store.records.record_id, store.records[task], strict=True))
    rows = np.array([bool(label.get(record_id)) for record_id in ids.tolist()])
    if rows.sum() < 3:
        raise UserError(f"a map needs 3 records or more; {rows.sum()} of {path} have a label of {task} in store {store.name}")
    names = [label[record_id] for record_id in ids[rows].tolist()]
    single = [name for name in names if ";" not in name]
    common = sorted(set(single), key=lambda name: (-single.count(name), name))[: len(COLOURS) - 1]
    points, axes_names = project(values[rows], by)
    figure = plot_map(points, [name if name in common else "" for name in names],
                      f"{store.name}, {task}: {len(names):,} records", axes_names)
    return save_as(figure, out)


def project(values: Points, by: str) -> tuple[Points, tuple[str, str]]:
    """The values (n, D) as points (n, 2), and the names of the two axes.

    by: "pca", principal components, or "umap" (McInnes et al. 2018, arXiv 1802.03426). UserError for another name, or if UMAP
    is not installed.
    """
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
    # The sign of a component is arbitrary: the farthest point becomes positive.
    points *= np.sign(points[np.abs(points).argmax(0), [0, 1]])
    share = s**2 / (s**2).sum()
    return points, (f"component 1 ({share[0]:.0%} of the variance)", f"component 2 ({share[1]:.0%})")


@styled
def plot_map(points: Points, names: Sequence[str], title: str = "", axes_names: Sequence[str] = ("", "")) -> Figure:
    """A map of points (n, 2), each with the name of its class: a colour and marker per class, small grey dots for "".

    The axes show the bulk of the points. A point outside of them is drawn at the edge, with a black rim. UserError if there are
    more classes than colours.
    """
    classes = sorted(set(names) - {""})
    if len(classes) >= len(COLOURS):
        raise UserError(f"{len(classes)} classes; {len(COLOURS) - 1} can be told apart")
    low, high = limits(points)
    outside = ((points < low) | (points > high)).any(1)
    points, name_of_point = points.clip(low, high), np.array(names)
    handles, styles = [], [("", "0.8", (".", True)), *zip(classes, COLOURS[1:], SHAPES, strict=False)]
    for name, colour, (marker, _) in [*styles[1:], styles[0]]:
        if name in names:
            text = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4,
                                  label=f"{text or 'other'} ({(name_of_point == name).sum():,})"))
    if outside.any():
        handles.append(Line2D([], [], color="white", marker="o", linestyle="", markersize=4, **RIM,
                              label=f"outside the axes ({outside.sum():,})"))
    figure, axes = make_figure(handles)
    for name, colour, (marker, _) in styles:
        rows = name_of_point == name
        # Drawn as an image in vector formats too: thousands of marks would make files of megabytes.
        axes.plot(*points[rows & ~outside].T, marker, color=colour, markersize=2.2, markeredgewidth=0, alpha=0.7, rasterized=True)
        axes.plot(*points[rows & outside].T, marker, color=colour, markersize=4, **RIM, clip_on=False, zorder=3)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_title(title)
    return figure


def limits(points: Points) -> tuple[Points, Points]:
    """The lowest and highest coordinates (2,) that a map shows: the bulk of the points and a margin, never more than needed."""
    low, high = np.percentile(points, BULK, axis=0)
    width = np.maximum(high - low, 1e-9)
    return (np.maximum(low - MARGIN * width, points.min(0) - EDGE * width),
            np.minimum(high + MARGIN * width, points.max(0) + EDGE * width))


def make_figure(handles: Sequence[Line2D]) -> tuple[Figure, Axes]:
    """A figure with square axes and, below them, a legend in as many columns as fit; its height grows with the legend."""
    figure = Figure(figsize=(COLUMN, COLUMN))
    figure.set_layout_engine("none")
    for columns in (3, 2, 1):
        legend = figure.legend(handles=handles, loc="lower center", ncols=columns, handletextpad=0.1)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    side, below = COLUMN - 2 * BORDER, BORDER + box.height / figure.dpi
    height = below + side + BORDER
    figure.set_size_inches(COLUMN, height)
    return figure, figure.add_axes((BORDER / COLUMN, below / height, side / COLUMN, side / height))
