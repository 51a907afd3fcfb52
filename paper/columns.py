"""Facts about whole columns: the number of test records, the best rows, and how rows rank over tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.report.aggregate import Cell, Column, Report, spread
from bench.report.statistics import LEVEL, Ranking, by_class, compare_pairs, holm, ranking
from paper.labels import MISSING, row_label, series_label, store_label

LEADERS = ("In a column with runs in two or more rows, bold marks the best mean and each mean that is not significantly worse "
           f"(both rows have two or more runs, and p of their difference is {LEVEL:g} or more after Holm's correction for all "
           f"comparisons with the best)")
RARE = 5  # a class is rare if fewer test records are positive
NARROW = "intervals too narrow, p too small"  # because each resample holds a positive of every class, even of rare ones


def tested_on(column: Column) -> str:
    """A text with the number of test records of the column's runs and of the rare classes among them; "" without a run."""
    run = next((cell.runs[0] for cell in column.cells if cell.runs), None)
    if run is None:
        return ""
    positives = by_class(run.result.get("per_class", {}), "positives").values()
    rare = sum(n < RARE for n in positives)
    text = f"{run.result['records']['test']:,} test records"
    return text + (f" ({rare} of {len(positives)} classes with fewer than {RARE} positives: {NARROW})" if rare else "")


def rankings(report: Report) -> dict[str, Ranking]:
    """{"protocol on store": ranking of the rows that have runs in all of its tasks}, if there are 3 or more rows and 2 or more
    tasks. Only last checkpoints and all labels count, and no controls.
    """
    series: dict[str, list[dict[str, float]]] = {}
    for column in report.columns:
        if column.key.whole and not column.key.control:
            means = {row_label(cell.row): cell.mean for cell in column.cells if cell.runs}
            series.setdefault(f"{series_label(column)} on {store_label(column.key)}", []).append(means)
    out = {}
    for name, tasks in series.items():
        complete = [row for row in dict.fromkeys(row for rows in tasks for row in rows) if all(row in rows for rows in tasks)]
        if len(complete) > 2 and len(tasks) > 1:
            out[name] = ranking({row: [rows[row] for rows in tasks] for row in complete})
    return out


def leaders(cells: Sequence[Cell]) -> list[tuple[bool, float | None]]:
    """For each cell: (whether it is bold, see LEADERS; Holm's p of its difference to the best, None if there is none)."""
    means = [float(np.mean(c.values)) if c.runs else -np.inf for c in cells]
    if sum(bool(c.runs) for c in cells) < 2:
        return [(False, None)] * len(cells)
    top = int(np.argmax(means))
    others = [i for i, c in enumerate(cells) if i != top and min(len(c.values), len(cells[top].values)) > 1]
    pairs = [(0, i) for i, _ in enumerate(others, 1)]
    comparisons = compare_pairs([cells[i].runs for i in (top, *others)], pairs) if pairs else []
    p_holm = dict(zip(others, holm([each.p for each in comparisons]), strict=True))
    return [(i == top or p_holm.get(i, 0.0) >= LEVEL, p_holm.get(i)) for i in range(len(cells))]


def runs_in(cells: Sequence[Cell]) -> tuple[str, bool]:
    """(the number of runs as a text for the caption, whether it differs between cells, so that each cell must state its own)."""
    counts = {len(c.values) for c in cells if c.runs}
    return (f"{counts.pop()} runs", False) if len(counts) == 1 else ("n runs", True)


def score(c: Cell, with_n: bool = False) -> str:
    """"0.870 (0.010)": mean and sd over runs; with_n: "0.870 (0.010), n=3"."""
    mean, sd, n = spread(c.values)
    if mean is None:
        return MISSING
    return f"{mean:.3f} ({MISSING if sd is None else f'{sd:.3f}'})" + (f", n={n}" if with_n else "")


def numbers(cell: Cell | None) -> dict[str, Any]:
    """{column: value} of a cell in a CSV."""
    mean, sd, n = spread(cell.values) if cell else (None, None, 0)
    low, high = cell.interval or (None, None) if cell else (None, None)
    return {"mean": mean, "sd": sd, "n": n, "lower": low, "upper": high,
            "run_ids": " ".join(run.run_id for run in cell.runs) or None if cell else None}
