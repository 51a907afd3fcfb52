"""What arXiv 2410.13867 lacks: all methods on the same backbone, data, budget and evaluation, quality beside cost."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bench.catalogue import header
from bench.core.models import canonical
from bench.report.aggregate import (
    MISSING,
    RANDOM,
    RANDOM_ROW,
    Cell,
    Config,
    Record,
    Row,
    backbone,
    labelled,
    leaves,
    recipe,
    spread,
    text_of,
)
from bench.report.statistics import LEVEL
from bench.runs import config as configs
from paper.columns import LEADERS, Column, leaders, numbers, runs_in, score
from paper.published import SIZES
from paper.typeset import Entry, Sheet, Table

SWEEP = "ecgssl sweep run slurm/sweeps/families.yaml"
SAME = ("encoder.size", "data.rate_hz", "data.mix", "optim.steps", "optim.batch")  # of the rows of a group
FAMILIES = ("none", "joint-embedding predictive", "invariance-based", "generative")  # order of the blocks
DIFFERS = "*"  # mark: from the random row
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Group:
    """Rows that compare, and what marks those whose tokens are others."""

    title: str
    blocks: Sequence[tuple[str, Sequence[Row]]]  # (family, its rows)
    labels: Mapping[str, str]  # recipe -> what the row is called here
    marks: Mapping[str, str]  # recipe -> mark, of those with another backbone
    notes: Mapping[str, str]  # mark -> in what that differs

    def name(self, row: Row) -> str:
        return self.labels[recipe(row.config)]

    def mark(self, row: Row) -> str:
        return self.marks.get(recipe(row.config), "")


def family_of(method: str) -> str:
    path = configs.find_methods().get(method)
    return header(path).get("family", MISSING) if path else MISSING


def mixture_of(mix: dict[str, float]) -> str:
    """What a pre-training drew from, in few words: a store, a mixture's name, "0.75 a + 0.25 b"."""
    if len(mix) == 1:
        return next(iter(mix))
    shares = sorted(mix.items(), key=lambda each: (-each[1], each[0]))
    return configs.name_mixture(mix) or " + ".join(f"{weight:g} {store}" for store, weight in shares) or "unknown"


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """A group per size, rate, mixture, steps and batch; the random rows of its backbones are in it."""
    found: dict[str, list[Row]] = {}
    budgets: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.method != RANDOM:
            given = dict(leaves(row.config))
            budget = {key: given.get(key, MISSING) for key in SAME}
            found.setdefault(canonical(budget), []).append(row)
            budgets[canonical(budget)] = budget
    groups, known = [], {method: family_of(method) for method in {row.method for row in rows}}
    order = [*FAMILIES, *sorted(set(known.values()) - set(FAMILIES))]
    for key, trained in found.items():
        size, rate_hz, mix, steps, batch = budgets[key].values()
        backbones = {backbone(row.config) for row in trained}
        here = [*(row for row in rows if row.method == RANDOM and backbone(row.config) in backbones), *trained]
        count = Counter(canonical(row.config["encoder"]) for row in trained)
        usual = json.loads(min(count, key=lambda encoder: (-count[encoder], encoder)))
        unlike = {recipe(row.config): text for row in here if (text := _unlike(row.config["encoder"], usual))}
        letters = dict(zip(sorted(set(unlike.values())), LETTERS, strict=False))
        title = (f"{SIZES.get(size, f'ViT {size}')}, {rate_hz} Hz, {mixture_of(mix) if isinstance(mix, dict) else mix}, "
                 + " steps of ".join(f"{n:,}" if isinstance(n, int) else n for n in (steps, batch)) + " records")
        labels = labelled({recipe(row.config): (RANDOM_ROW if row.method == RANDOM else row.method, row.config | {"encoder": {}})
                           for row in here})
        blocks = [(family, those) for family in order if (those := [row for row in here if known[row.method] == family])]
        groups.append(Group(title, blocks, labels, {key: letters[text] for key, text in unlike.items()},
                            {mark: f"another backbone: {text}" for text, mark in letters.items()}))
    return sorted(groups, key=lambda group: (-sum(len(each) for _, each in group.blocks), group.title))


def _unlike(encoder: Config, usual: Config) -> str:
    """"patch=125, tokens=lead-time": in what the encoder is not the usual one."""
    keys = sorted(encoder.keys() | usual.keys())
    return ", ".join(f"{k}={text_of(encoder.get(k, MISSING))}" for k in keys if encoder.get(k) != usual.get(k))


def families(columns: Sequence[Column], rows: Sequence[Row], records: Sequence[Record]) -> Sheet:
    """Of each group: ranks and cost, scores per protocol, scores per share of the labels."""
    by_run = {r["run_id"]: r for r in records if r["kind"] == "pretrain"}
    tables: list[Table] = []
    data: list[dict[str, Any]] = []
    for group in groups_of(rows):
        here = {id(row) for _, those in group.blocks for row in those}
        by_protocol: dict[tuple[str, str], list[Column]] = {}
        by_task: dict[tuple[str, str, str], list[Column]] = {}
        for c in columns:
            trained = [cell for cell in c.cells if id(cell.row) in here and cell.row.method != RANDOM]
            if c.at == 1 and not c.control and any(cell.runs for cell in trained):
                by_task.setdefault((c.store, c.protocol, c.task), []).append(c)
                if c.whole:
                    by_protocol.setdefault((c.store, c.protocol), []).append(c)
        ranks = {key: mean_ranks(group, found) for key, found in by_protocol.items()}
        tables.append(overview(group, ranks, by_run, data))
        for (store, protocol), found in by_protocol.items():
            heads = [c.heading for c in found]
            tables.append(scores(group, f"{protocol} on {store}", found, heads, data, ranks[store, protocol]))
        for (store, protocol, _), found in by_task.items():
            if any(not c.whole for c in found):
                found.sort(key=lambda c: c.fraction)
                heads = [f"{100 * c.fraction:g} %" for c in found]
                what = f"shares of the labels, {protocol}, {found[0].heading} on {store}"
                tables.append(scores(group, what, found, heads, data))
    if not tables:
        caption = f"Methods on one backbone, data, budget and evaluation. {MISSING}: no pre-training but of the random row yet."
        nothing, head = [("", [[Entry(MISSING), Entry(MISSING)]])], [("", "pre-training"), ("", "macro AUROC")]
        tables = [Table("Families", caption, head, nothing, fill=[("all methods", "all", SWEEP)])]
        data = [{"kind": "scores", "command": SWEEP}]
    return Sheet("families", tables, data)


def cells_in(group: Group, column: Column) -> list[Cell]:
    """The column's cells of the group's rows, in the group's order."""
    by_row = {id(cell.row): cell for cell in column.cells}
    return [by_row[id(row)] for _, rows in group.blocks for row in rows]


def mean_ranks(group: Group, columns: Sequence[Column]) -> dict[str, float]:
    """recipe -> mean over the columns of its rank (1 is best) among the rows that have runs in all of them."""
    found: dict[str, list[float]] = {}
    for column in columns:
        for c in cells_in(group, column):
            if c.runs:
                found.setdefault(recipe(c.row.config), []).append(c.mean)
    complete = {key: values for key, values in found.items() if len(values) == len(columns)}
    ranks = stats.rankdata(-np.array(list(complete.values())), axis=0).mean(1) if complete else []
    return dict(zip(complete, map(float, ranks), strict=True))


def hours_of(pretrained: Record) -> tuple[float, str] | None:
    """(hours, of what: "GPU", or "core" where a CPU trained) of a pre-training; None where its record does not say."""
    seconds, origin = pretrained["result"].get("seconds"), pretrained["provenance"]
    if seconds is None:
        return None
    cpu = str(origin.get("device") or "cpu").startswith("cpu")
    units = (origin.get("processes") or 1) * (origin.get("threads") or 1 if cpu else 1)
    return seconds * units / 3600, "core" if cpu else "GPU"


def cost(row: Row, by_run: Mapping[str, Record]) -> dict[str, Any]:
    """Of one pre-training, means over its runs: hours of a GPU or a core, records/s, peak memory in MB, energy in kWh.

    What the runs do not tell in one unit is None.
    """
    runs = [by_run[run] for _, run in row.pretrained if run in by_run and row.method != RANDOM]

    def mean(values: Iterator[float | None]) -> float | None:
        return spread([v for v in values if v is not None])[0]

    results = [r["result"] for r in runs]
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
            "device": ", ".join(sorted({str(r["provenance"].get("device", MISSING)) for r in runs})) or None}


def overview(group: Group, ranks: Mapping[tuple[str, str], Mapping[str, float]], by_run: Mapping[str, Record],
             data: list[dict[str, Any]]) -> Table:
    """Mean rank per protocol beside the cost of one pre-training."""
    blocks, devices = [], set()
    for family, rows in group.blocks:
        lines = []
        for row in rows:
            key, spent = recipe(row.config), cost(row, by_run)
            devices.add(spent["device"])
            data.append({"kind": "cost", "group": group.title, "family": family, "row": group.name(row), **spent})
            shown = [f"{ranks[p][key]:.1f}" if key in ranks[p] else MISSING for p in ranks]
            amounts = [(spent["hours"], ".3g"), (spent["records_per_second"], ",.0f"), (spent["peak_memory_mb"], ",.0f"),
                       (spent["energy_kwh"], ".3g")]
            texts = ["" if row.method == RANDOM else MISSING if x is None else f"{x:{form}}" for x, form in amounts]
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
    caption = (f"{group.title}. Mean rank over tasks (1 is best; among the rows that have runs in all of a protocol's tasks) "
               f"beside the cost of a pre-training, mean over runs; hours are of one GPU, or of one core where a CPU trained; "
               f"energy is of the named parts of the machine, whatever else ran there. "
               f"On: {on}. {MISSING}: no value.")
    return Table(f"{group.title}: ranks and cost", caption, head, blocks, notes=dict(group.notes))


def scores(group: Group, what: str, columns: Sequence[Column], heads: Sequence[str], data: list[dict[str, Any]],
           ranks: Mapping[str, float] | None = None, intervals: bool = True) -> Table:
    """Rows of a group in columns that differ in the task, or the share of the labels, alone."""
    cells = [cells_in(group, column) for column in columns]
    runs, with_n = runs_in([c for here in cells for c in here])
    best = [leaders(here) for here in cells]
    blocks, fill, i = [], [], 0
    for family, rows in group.blocks:
        lines = []
        for row in rows:
            entries = [Entry(group.name(row), marks=group.mark(row))]
            for column, heading, here, lead in zip(columns, heads, cells, best, strict=True):
                c, (bold, p_best) = here[i], lead[i]
                mark = DIFFERS if c.p_holm is not None and c.p_holm < LEVEL else ""
                interval = c.interval
                below = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval and intervals else ""
                entries.append(Entry(score(c, with_n), bold, mark, below))
                fill += [(group.name(row), heading, command) for command in c.commands]
                data.append({
                    "kind": "fractions" if ranks is None else "scores", "group": group.title, "family": family,
                    "row": group.name(row), "store": column.store, "task": column.task, "metric": column.metric,
                    "protocol": column.protocol, "fraction": column.fraction, **numbers(c), "bold": bold, "p_best": p_best,
                    "p_random": c.p_holm, "mean_rank": ranks.get(recipe(row.config)) if ranks else None,
                    "backbone": group.notes.get(group.mark(row)), "command": "; ".join(c.commands) or None})
            if ranks is not None:
                rank = ranks.get(recipe(row.config))
                entries.append(Entry(MISSING if rank is None else f"{rank:.1f}"))
            lines.append(entries)
            i += 1
        blocks.append((family, lines))
    metric = "macro AUROC" if all(c.metric == "macro_auroc" for c in columns) else "score"
    over = " and its interval over test records" if intervals else ""
    tested = {c.heading: c.tested for c in columns if c.tested}
    on = "; ".join(f"{heading}: {text}" for heading, text in tested.items())
    caption = (f"{group.title}; {what}: {metric}, mean (sd over {runs}){over}. {LEADERS}. "
               f"{f'{on}. ' if on else ''}{MISSING}: no record yet.")
    notes = {DIFFERS: f"differs from the random row of its backbone (p < {LEVEL:g}, Holm's correction for all of its task)"}
    head = [("", "pre-training"), *(("", heading) for heading in heads), *([("", "rank")] if ranks is not None else [])]
    return Table(f"{group.title}: {what}", caption, head, blocks, notes | dict(group.notes), fill)
