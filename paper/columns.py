"""Cells -> columns: one evaluation recipe on one task, at one checkpoint and share of the labels; and who leads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core.models import canonical
from bench.report.aggregate import FINETUNE, METRICS, MISSING, RANDOM, SCRATCH, Cell, Config, labelled, protocol_of, spread
from bench.report.statistics import LEVEL, Ranking, by_class, compare_pairs, holm, ranking

LEADERS = ("Bold, in a column with runs in two or more rows: the best mean, and what is not significantly worse (two or more "
           f"runs each, p of the difference {LEVEL:g} or more after Holm's correction for all comparisons with the best)")
RARE = 5  # positives of a class among the test records; ours
NARROW = "intervals too narrow, p too small"  # each resample holds a positive of every class, however few there are


@dataclass(frozen=True)
class Column:
    """The cells of one column, one per row of the report."""

    store: str
    task: str
    protocol: str  # and what tells it from its namesakes on this store, but for the next two
    at: float  # checkpoint: share of the pre-training's steps
    fraction: float  # of the labels
    config: Config  # an evaluation's; {} where none has run
    cells: Sequence[Cell]

    @property
    def metric(self) -> str:
        return self.cells[0].metric

    @property
    def heading(self) -> str:
        return self.task if self.metric == "macro_auroc" else f"{self.task} ({METRICS[self.metric]})"

    @property
    def control(self) -> bool:
        """Of labels that say nothing."""
        return bool(self.config.get("shuffle_labels"))

    @property
    def tested(self) -> str:
        """On how many records its runs were tested, and how many classes are rare among them; "" without a run."""
        run = next((c.runs[0] for c in self.cells if c.runs), None)
        if run is None:
            return ""
        positives = by_class(run["result"].get("per_class", {}), "positives").values()
        rare = sum(n < RARE for n in positives)
        text = f"{run['result']['records']['test']:,} test records"
        return text + (f" ({rare} of {len(positives)} classes with fewer than {RARE} positives: {NARROW})" if rare else "")

    @property
    def whole(self) -> bool:
        """Of the last checkpoint, trained on all labels."""
        return self.at == self.fraction == 1


def columns_of(cells: Sequence[Cell]) -> list[Column]:
    """The columns, in the order of the cells."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for c in cells:
        found.setdefault((c.store, c.task, c.protocol), []).append(c)
    configs: dict[tuple[str, str, str], Config] = {}
    for key, here in found.items():  # the random rows stand in the columns of every checkpoint with the one that they have
        filled = sorted((c for c in here if c.runs), key=lambda c: c.row.method == RANDOM)
        configs[key] = filled[0].runs[0]["config"] if filled else {}
    plain = {key: _plain(config) for key, config in configs.items() if config}
    labels = {store: labelled({canonical(plain[key]): (str(protocol_of(plain[key])), plain[key])
                               for key in plain if key[0] == store}) for store in {store for store, *_ in found}}
    columns = []
    for key, here in found.items():
        config, label = configs[key], labels[key[0]][canonical(plain[key])] if key in plain else key[2]
        columns.append(Column(*key[:2], label, config.get("at", 1.0), config.get("fraction", 1.0), config, here))
    return columns


def _plain(config: Config) -> Config:
    """An evaluation's recipe without task, checkpoint and share of the labels."""
    if protocol_of(config) == SCRATCH:
        config = config | {"evaluation": config["evaluation"] | {"name": FINETUNE}}
    return {k: v for k, v in config.items() if k not in ("seed", "pretrain", "task", "at", "fraction")}


def rankings(columns: Sequence[Column]) -> dict[str, Ranking]:
    """{"protocol on store": ranking of the rows that have runs in all its tasks}, where 3 or more rows and 2 tasks are.

    Of last checkpoints and all labels, as the ranks in tables.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for column in columns:
        if column.whole and not column.control:
            means = {c.row.label: c.mean for c in column.cells if c.runs}
            found.setdefault(f"{column.protocol} on {column.store}", []).append(means)
    out = {}
    for name, tasks in found.items():
        complete = [row for row in dict.fromkeys(row for rows in tasks for row in rows) if all(row in rows for rows in tasks)]
        if len(complete) > 2 and len(tasks) > 1:
            out[name] = ranking({row: [rows[row] for rows in tasks] for row in complete})
    return out


def leaders(cells: Sequence[Cell]) -> list[tuple[bool, float | None]]:
    """(in bold, p that it equals the best after Holm's correction, None where that is not known) of each cell; see LEADERS."""
    means = [float(np.mean(c.values)) if c.runs else -np.inf for c in cells]
    if sum(bool(c.runs) for c in cells) < 2:
        return [(False, None)] * len(cells)
    top = int(np.argmax(means))
    others = [i for i, c in enumerate(cells) if i != top and min(len(c.values), len(cells[top].values)) > 1]
    pairs = [(0, i) for i, _ in enumerate(others, 1)]
    found = compare_pairs([cells[i].runs for i in (top, *others)], pairs) if pairs else []
    raised = dict(zip(others, holm([each.p for each in found]), strict=True))
    return [(i == top or raised.get(i, 0.0) >= LEVEL, raised.get(i)) for i in range(len(cells))]


def runs_in(cells: Sequence[Cell]) -> tuple[str, bool]:
    """(of how many runs a caption says that cells are, whether each has to say it itself): ("3 runs", False)."""
    counts = {len(c.values) for c in cells if c.runs}
    return (f"{counts.pop()} runs", False) if len(counts) == 1 else ("n runs", True)


def score(c: Cell, with_n: bool = False) -> str:
    """"0.870 (0.010)": mean and sd over runs; with_n: "0.870 (0.010), n=3"."""
    mean, sd, n = spread(c.values)
    if mean is None:
        return MISSING
    return f"{mean:.3f} ({MISSING if sd is None else f'{sd:.3f}'})" + (f", n={n}" if with_n else "")


def numbers(cell: Cell | None) -> dict[str, Any]:
    """A cell's columns in a CSV."""
    mean, sd, n = spread(cell.values) if cell else (None, None, 0)
    low, high = cell.interval or (None, None) if cell else (None, None)
    return {"mean": mean, "sd": sd, "n": n, "lower": low, "upper": high,
            "run_ids": " ".join(r["run_id"] for r in cell.runs) or None if cell else None}
