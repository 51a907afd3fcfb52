"""Tables that compare the scores and the cost of all methods with the same backbone, data, budget and evaluation.

arXiv 2410.13867 has no such comparison.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.catalogue import read_header
from bench.core.models import canonical
from bench.encoders.config import EncoderConfig
from bench.report.aggregate import Cell, Column, Report, spread
from bench.report.names import distinguish, leaves, text_of
from bench.report.results import Pretraining, PretrainRecipe
from bench.report.rows import Row, backbone_of
from bench.report.statistics import LEVEL
from bench.runs.config import PretrainConfig, find_methods
from bench.runs.mixtures import name_mixture
from paper.columns import LEADERS, leaders, numbers, runs_in, score, tested_on
from paper.commands import commands_of
from paper.labels import MISSING, label, series_label, store_label, task_label
from paper.published import SIZES
from paper.typeset import Entry, Sheet, Table

SWEEP = "ecgssl sweep run slurm/sweeps/families.yaml"
FAMILIES = ("none", "joint-embedding predictive", "invariance-based", "generative")  # order of the blocks
DIFFERS = "*"  # mark of a score that differs significantly from that of the random row
TWIN = "="  # mark of a row that also holds the runs of another method
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Group:
    """Rows that may be compared. Marks show rows whose backbone differs from the usual one of the group, and twins."""

    title: str
    blocks: Sequence[tuple[str, Sequence[Row]]]  # (family, its rows)
    labels: Mapping[PretrainRecipe, str]  # row's key -> the row's name in this group
    marks: Mapping[PretrainRecipe, str]  # row's key -> its marks
    notes: Mapping[str, str]  # mark -> its meaning

    def name(self, row: Row) -> str:
        """The row's name in this group."""
        return self.labels[row.key]

    def mark(self, row: Row) -> str:
        """The marks behind the row's name."""
        return self.marks.get(row.key, "")

    @property
    def rows(self) -> list[Row]:
        """All rows, block by block."""
        return [row for _, rows in self.blocks for row in rows]


def family_of(method: str) -> str:
    """The family that the head of the method's YAML file names."""
    path = find_methods().get(method)
    return read_header(path).get("family", MISSING) if path else MISSING


def mixture_of(mix: dict[str, float]) -> str:
    """A short text for the data of a pre-training: a store, a mixture's name, or "0.75 a + 0.25 b"."""
    if len(mix) == 1:
        return next(iter(mix))
    shares = sorted(mix.items(), key=lambda each: (-each[1], each[0]))
    return name_mixture(mix) or " + ".join(f"{weight:g} {store}" for store, weight in shares) or "unknown"


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """A group per size, rate, mixture, steps and batch, with the random rows of its backbones. The largest group comes first."""
    by_budget: dict[str, list[Row]] = {}
    for row in rows:
        if not row.untrained:
            by_budget.setdefault(canonical(_budget(row.config)), []).append(row)
    groups = [_group(trained, rows) for trained in by_budget.values()]
    return sorted(groups, key=lambda group: (-len(group.rows), group.title))


def _budget(config: PretrainConfig) -> dict[str, Any]:
    """What the rows of a group have in common."""
    return {"size": config.encoder.size, "rate_hz": config.data.rate_hz, "mix": dict(config.data.mix),
            "steps": config.optim.steps, "batch": config.optim.batch}


def _group(trained: Sequence[Row], rows: Sequence[Row]) -> Group:
    """The group of these trained rows. rows: all rows of the report, including the random ones."""
    backbones = {backbone_of(row.config) for row in trained}
    members = [*(row for row in rows if row.untrained and backbone_of(row.config) in backbones), *trained]
    encoders = {canonical(row.config.encoder): row.config.encoder for row in trained}
    count = Counter(canonical(row.config.encoder) for row in trained)
    usual = encoders[min(count, key=lambda encoder: (-count[encoder], encoder))]
    unlike = {row.key: text for row in members if (text := _unlike(row.config.encoder, usual))}
    letters = dict(zip(sorted(set(unlike.values())), LETTERS, strict=False))
    marks = {key: letters[text] for key, text in unlike.items()}
    notes = {mark: f"another backbone: {text}" for text, mark in letters.items()}
    for row in (row for row in trained if row.twin_methods):
        marks[row.key] = marks.get(row.key, "") + TWIN
        notes[TWIN] = "; ".join(filter(None, [notes.get(TWIN), twin_note(row)]))
    config = trained[0].config
    title = (f"{SIZES.get(config.encoder.size, f'ViT {config.encoder.size}')}, {config.data.rate_hz} Hz, "
             f"{mixture_of(config.data.mix)}, {config.optim.steps:,} steps of {config.optim.batch:,} records")
    without = {row.key: row.config.replace(encoder=usual) for row in members}
    names = distinguish({row.key: (row.method, without[row.key]) for row in members})
    families = {row.method: family_of(row.method) for row in members}
    order = [*FAMILIES, *sorted(set(families.values()) - set(FAMILIES))]
    blocks = [(family, block) for family in order if (block := [row for row in members if families[row.method] == family])]
    return Group(title, blocks, {key: label(name) for key, name in names.items()}, marks, notes)


def twin_note(row: Row) -> str:
    """A text that names the other methods whose runs this row holds."""
    return f"{' and '.join(row.twin_methods)} computes the same as {row.method} by these settings: one row holds both"


def _unlike(encoder: EncoderConfig, usual: EncoderConfig) -> str:
    """The settings in which the encoder differs from the usual one, e.g. "patch=125, tokens=lead-time"."""
    these, others = leaves(encoder), leaves(usual)
    keys = sorted(these.keys() | others.keys())
    return ", ".join(f"{key}={text_of(these.get(key, MISSING))}" for key in keys if these.get(key) != others.get(key))


def families(report: Report) -> Sheet:
    """The tables of each group: ranks and cost, scores per protocol, scores per share of the labels."""
    tables: list[Table] = []
    data: list[dict[str, Any]] = []
    for group in groups_of(report.rows):
        trained = {row.key for row in group.rows if not row.untrained}
        by_protocol: dict[tuple[str, str], list[Column]] = {}
        by_task: dict[tuple[str, str, str], list[Column]] = {}
        for column in report.columns:
            if column.key.at == 1 and not column.key.control and any(c.runs and c.row.key in trained for c in column.cells):
                place = store_label(column.key), series_label(column)
                by_task.setdefault((*place, column.key.task), []).append(column)
                if column.key.whole:
                    by_protocol.setdefault(place, []).append(column)
        ranks = {place: mean_ranks(group, columns) for place, columns in by_protocol.items()}
        tables.append(overview(group, ranks, report, data))
        for (store, protocol), columns in by_protocol.items():
            heads = [task_label(column) for column in columns]
            tables.append(scores(group, f"{protocol} on {store}", columns, heads, data, ranks=ranks[store, protocol]))
        for (store, protocol, _), columns in by_task.items():
            if any(not column.key.whole for column in columns):
                columns.sort(key=lambda column: column.key.fraction)
                heads = [f"{100 * column.key.fraction:g} %" for column in columns]
                what = f"shares of the labels, {protocol}, {task_label(columns[0])} on {store}"
                tables.append(scores(group, what, columns, heads, data))
    if not tables:
        caption = f"Methods on one backbone, data, budget and evaluation. {MISSING}: only the random row has run yet."
        nothing, head = [("", [[Entry(MISSING), Entry(MISSING)]])], [("", "pre-training"), ("", "macro AUROC")]
        tables = [Table("Families", caption, head, nothing, fill=[("all methods", "all", SWEEP)])]
        data = [{"kind": "scores", "command": SWEEP}]
    return Sheet("families", tables, data)


def cells_in(group: Group, column: Column) -> list[Cell]:
    """The column's cells of the group's rows, in the group's order."""
    by_row = {cell.row.key: cell for cell in column.cells}
    return [by_row[row.key] for row in group.rows]


def mean_ranks(group: Group, columns: Sequence[Column]) -> dict[PretrainRecipe, float]:
    """row's key -> mean over the columns of its rank (1 is best). Only rows with runs in all columns are ranked."""
    means: dict[PretrainRecipe, list[float]] = {}
    for column in columns:
        for cell in cells_in(group, column):
            if cell.runs:
                means.setdefault(cell.row.key, []).append(cell.mean)
    complete = {key: values for key, values in means.items() if len(values) == len(columns)}
    ranks = stats.rankdata(-np.array(list(complete.values())), axis=0).mean(1) if complete else []
    return dict(zip(complete, map(float, ranks), strict=True))


def hours_of(pretrained: Pretraining) -> tuple[float, str] | None:
    """(hours of one GPU or one CPU core that a pre-training took, "GPU" or "core"); None if its result has no time."""
    seconds, origin = pretrained.result.get("seconds"), pretrained.provenance
    if seconds is None:
        return None
    cpu = str(origin.get("device") or "cpu").startswith("cpu")
    units = (origin.get("processes") or 1) * (origin.get("threads") or 1 if cpu else 1)
    return seconds * units / 3600, "core" if cpu else "GPU"


def cost(row: Row, report: Report) -> dict[str, Any]:
    """The cost of one pre-training, mean over its runs: hours of a GPU or a core, records/s, peak memory in MB, energy in kWh.

    A value is None if no run has it, or if the runs have it in different units.
    """
    runs = [] if row.untrained else report.pretrainings(row)

    def mean(values: Iterator[float | None]) -> float | None:
        return spread([v for v in values if v is not None])[0]

    results = [run.result for run in runs]
    spent = [each for each in map(hours_of, runs) if each]
    units = {unit for _, unit in spent}
    energies = [r["energy_joules"] for r in results if "energy_joules" in r]
    parts = {" + ".join(part.upper() for part in sorted(each)) for each in energies}
    return {"runs": len(row.pretrained),
            "hours": mean(hours for hours, _ in spent) if len(units) == 1 else None,
            "hours_of": units.pop() if len(units) == 1 else None,
            "records_per_second": mean(r.get("records_per_second") for r in results),
            "peak_memory_mb": mean(r.get("peak_memory_mb") for r in results),
            "energy_kwh": mean(sum(each.values()) / 3.6e6 for each in energies) if len(parts) == 1 else None,
            "energy_of": parts.pop() if len(parts) == 1 else None,
            "device": ", ".join(sorted({str(run.provenance.get("device", MISSING)) for run in runs})) or None}


def overview(group: Group, ranks: Mapping[tuple[str, str], Mapping[PretrainRecipe, float]], report: Report,
             data: list[dict[str, Any]]) -> Table:
    """The table of the mean ranks per protocol and the cost of one pre-training. Adds the lines of the CSV to data."""
    blocks, devices = [], set()
    for family, rows in group.blocks:
        lines = []
        for row in rows:
            key, spent = row.key, cost(row, report)
            devices.add(spent["device"])
            data.append({"kind": "cost", "group": group.title, "family": family, "row": group.name(row), **spent})
            shown = [f"{ranks[p][key]:.1f}" if key in ranks[p] else MISSING for p in ranks]
            amounts = [(spent["hours"], ".3g"), (spent["records_per_second"], ",.0f"), (spent["peak_memory_mb"], ",.0f"),
                       (spent["energy_kwh"], ".3g")]
            texts = ["" if row.untrained else MISSING if x is None else f"{x:{form}}" for x, form in amounts]
            texts[0] += f" {spent['hours_of']}" if spent["hours"] is not None else ""
            texts[3] += f" {spent['energy_of']}" if spent["energy_kwh"] is not None else ""
            lines.append([Entry(group.name(row), marks=group.mark(row)), *map(Entry, shown), Entry(str(spent["runs"])),
                          *map(Entry, texts)])
        blocks.append((family, lines))
    stores = {store for store, _ in ranks}
    heads = [("mean rank", protocol if len(stores) == 1 else f"{protocol}, {store}") for store, protocol in ranks]
    head = [("", "pre-training"), *heads, ("cost", "runs"), *(("cost", what) for what in (
        "hours", "records/s", "memory (MB)", "energy (kWh)"))]
    on = ", ".join(sorted(filter(None, devices))) or MISSING
    caption = (f"{group.title}. Mean rank over tasks (1 is best; only rows with runs in all tasks of a protocol are ranked) and "
               f"cost of a pre-training (mean over runs). Hours are those of one GPU, or of one core if a CPU trained. Energy is "
               f"that of the named parts of the machine, including other programs. Devices: {on}. {MISSING}: no value.")
    return Table(f"{group.title}: ranks and cost", caption, head, blocks, notes=dict(group.notes))


def scores(group: Group, what: str, columns: Sequence[Column], heads: Sequence[str], data: list[dict[str, Any]], *,
           ranks: Mapping[PretrainRecipe, float] | None = None, intervals: bool = True) -> Table:
    """A table of a group's rows. Its columns differ only in the task or the share of the labels. Adds the lines of the CSV."""
    cells = [cells_in(group, column) for column in columns]
    runs, with_n = runs_in([cell for in_column in cells for cell in in_column])
    best = [leaders(in_column) for in_column in cells]
    lines: dict[PretrainRecipe, list[Entry]] = {}
    fill = []
    for i, row in enumerate(group.rows):
        entries = [Entry(group.name(row), marks=group.mark(row))]
        for column, heading, in_column, lead in zip(columns, heads, cells, best, strict=True):
            cell, (bold, p_best) = in_column[i], lead[i]
            entries.append(_score_entry(cell, bold, with_n, intervals))
            fill += [(group.name(row), heading, command) for command in commands_of(cell)]
            data.append({"kind": "fractions" if ranks is None else "scores", **_csv_line(group, column, cell), "bold": bold,
                         "p_best": p_best, "p_random": cell.p_holm, "mean_rank": ranks.get(row.key) if ranks else None,
                         "backbone": next((group.notes[m] for m in group.mark(row) if m != TWIN), None),
                         "command": "; ".join(commands_of(cell)) or None})
        if ranks is not None:
            rank = ranks.get(row.key)
            entries.append(Entry(MISSING if rank is None else f"{rank:.1f}"))
        lines[row.key] = entries
    metric = "macro AUROC" if all(c.metric == "macro_auroc" for c in columns) else "score"
    over = " and its interval over test records" if intervals else ""
    tested = {task_label(column): text for column in columns if (text := tested_on(column))}
    on = "; ".join(f"{heading}: {text}" for heading, text in tested.items())
    caption = (f"{group.title}; {what}: {metric}, mean (sd over {runs}){over}. {LEADERS}. "
               f"{f'{on}. ' if on else ''}{MISSING}: no result yet.")
    notes = {DIFFERS: f"differs from the random row of its backbone (p < {LEVEL:g} after Holm's correction for all of its "
                      "task)"}
    head = [("", "pre-training"), *(("", heading) for heading in heads), *([("", "rank")] if ranks is not None else [])]
    blocks = [(family, [lines[row.key] for row in rows]) for family, rows in group.blocks]
    return Table(f"{group.title}: {what}", caption, head, blocks, notes | dict(group.notes), fill)


def _score_entry(cell: Cell, bold: bool, with_n: bool, intervals: bool) -> Entry:
    mark = DIFFERS if cell.p_holm is not None and cell.p_holm < LEVEL else ""
    below = f"[{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]" if cell.interval and intervals else ""
    return Entry(score(cell, with_n), bold, mark, below)


def _csv_line(group: Group, column: Column, cell: Cell) -> dict[str, Any]:
    """{column: value} of a cell in the CSV, without ranks and bold."""
    family = next(family for family, rows in group.blocks if cell.row in rows)
    return {"group": group.title, "family": family, "row": group.name(cell.row), "store": store_label(column.key),
            "task": column.key.task, "metric": column.metric, "protocol": series_label(column),
            "fraction": column.key.fraction, **numbers(cell)}
