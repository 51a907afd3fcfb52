"""The tables of arXiv 2410.13867 with this benchmark's scores beside the published ones, and the differences of the two.

In the tables, "ours" is a score that this benchmark measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from bench.report.aggregate import Cell, spread
from bench.report.results import AFTER_LINEAR, FINETUNE, RANDOM, SCRATCH
from bench.report.statistics import LEVEL, welch
from paper.columns import LEADERS, leaders, numbers, runs_in, score
from paper.labels import MISSING
from paper.published import DATA, LINEAR, RUNS, SINGLE, SIZES, TASKS, Fact, Ours, Place, facts
from paper.typeset import Entry, Sheet, Table

SPLIT, HALF, SECONDARY, TWO_STAGE = "s", "h", "2", "t"
MARKS = {
    SPLIT: "measured on another split of PTB-XL, that of arXiv 2402.09450: not comparable",
    HALF: "in brackets the half-width of a 90 % bootstrap interval over test records, not a standard deviation over runs",
    SECONDARY: "taken from a summary of the paper that names neither size nor protocol, not from the paper or its repository",
    TWO_STAGE: "published: a head on the frozen random backbone is trained first, then all is fine-tuned; ours: trained from "
               "scratch"}
PLACES: list[Place] = [*((RANDOM, size, "") for size in SIZES),
                       *(("jepa", size, mix) for size in SIZES for mix in DATA if size != "b" or mix == "all")]
SHOWN = {LINEAR: "linear", FINETUNE: "fine-tuning", AFTER_LINEAR: "fine-tuning after linear"}
NAMES = ("method", "data", "backbone")
Value = tuple[float | None, float | None, int]  # mean, sd, number of runs
Bounds = tuple[float | None, float | None]


def sheets(ours: Ours) -> list[Sheet]:
    """A table per task of the paper, and the differences."""
    out = [task_sheet("all-statements", "all", "Table 2", (AFTER_LINEAR, LINEAR), ours),
           task_sheet("superdiagnostic-single", SINGLE, "Table 3", (FINETUNE, LINEAR), ours)]
    for number, task in enumerate(("diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm"), 6):
        out.append(task_sheet(task, task, f"Table {number}", (FINETUNE, AFTER_LINEAR, LINEAR), ours))
    return [*out, differences(ours)]


def systems(task: str) -> list[dict[str, Fact]]:
    """The published lines of a task's table. A line maps LINEAR and FINETUNE to its fact, "half" + LINEAR to its half-width."""
    out: dict[tuple[str, ...], dict[str, Fact]] = {}
    for fact in facts():
        if fact.of == task:
            column = LINEAR if fact.protocol.startswith(LINEAR) else FINETUNE
            out.setdefault(fact.system, {})["half" * ("halfwidth" in fact.metric) + column] = fact
    return list(out.values())


def task_sheet(name: str, task: str, table: str, protocols: Sequence[str], ours: Ours) -> Sheet:
    """The table of one task: cited numbers of other systems, then the paper's backbones. protocols: one column of ours each.

    Published fine-tuning stands beside the first protocol, published linear evaluation beside LINEAR.
    """
    lines = sorted(systems(task), key=lambda line: first(line).place is not None)
    sources = {fact.source: fact.url for line in lines for fact in line.values()}
    number = {source: f"[{i}]" for i, source in enumerate(sources, 1)}
    published = {place: line for line in lines if (place := first(line).place)}
    places = [*published, *(place for place in PLACES if place not in published)]
    beside = {p: theirs for p, theirs in ((protocols[0], FINETUNE), (LINEAR, LINEAR)) if any(theirs in line for line in lines)}
    data: list[dict[str, Any]] = []
    fill: list[tuple[str, str, str]] = []
    cited, measured_here = [], []
    for line in lines:
        fact = first(line)
        if not fact.place:
            entries = [e for p in protocols for e in ([Entry("")] + ([quoted(line, beside[p], data)] if p in beside else []))]
            names = fact.method, fact.pretrain_data.replace("none", ""), fact.model
            cited.append([*map(Entry, names), *entries, Entry(number[fact.source])])
    stands = {p: [in_column(place, p, protocols) for place in places] for p in protocols}
    cells = {p: measured([ours.cell(place, task, each) for place, each in zip(places, stands[p], strict=True)])
             for p in protocols}
    runs, with_n = runs_in([cell for column in cells.values() for cell, *_ in column if cell])
    for i, place in enumerate(places):
        names, line, entries, missing = named(place), published.get(place, {}), [], []
        for p in protocols:
            protocol, (cell, bold, p_best) = stands[p][i], cells[p][i]
            if not protocol:
                entries.append(Entry(""))
            else:
                command = None if cell else ours.command(place, task, [protocol])
                data.append({**dict(zip(NAMES, names, strict=True)), "protocol": protocol, "whose": "ours", **numbers(cell),
                             "bold": bold, "p_best": p_best, "command": command})
                entries.append(Entry(score(cell, with_n) if cell else MISSING, bold))
                missing += [] if cell else [protocol]
            if p in beside:
                entries.append(quoted(line, beside[p], data))
        measured_here.append([*map(Entry, names), *entries, Entry(number[first(line).source] if line else "")])
        if missing:
            fill.append((" ".join(filter(None, names)), ", ".join(missing), ours.command(place, task, missing)))
    head = [("", "pre-training"), ("", "data"), ("", "backbone"), *((SHOWN[p], whose) for p in protocols for whose in (
        ("ours", "published") if p in beside else ("ours",))), ("", "source")]
    marks = {mark for block in (cited, measured_here) for line in block for e in line for mark in e.marks}
    others = [f"{' '.join(filter(None, named(place)))}: {', '.join(labels)}" for place, labels in ours.others.items()]
    notes = {mark: text for mark, text in MARKS.items() if mark in marks}
    notes |= {number[source]: f"{source}, {url}" for source, url in sources.items()}
    if others:
        notes["+"] = ("further rows of ours that repeat one of these pre-trainings with settings that are less close to the "
                      "published ones: " + "; ".join(others))
    caption = (f"PTB-XL, {task}, as in {table} of arXiv 2410.13867: macro AUROC on test fold 10, mean (standard deviation over "
               f"runs; ours: {runs}, published: {RUNS} of these backbones). Other systems are cited, not measured. {LEADERS}. "
               f"{MISSING}: no result yet; {name}.csv has the command.")
    blocks = [("other systems, cited", cited), ("backbones of this benchmark", measured_here)]
    table_of_task = Table(f"{task} ({table})", caption, head, blocks, notes, fill)
    return Sheet(name, [table_of_task], [{"task": task, **line} for line in data])


def in_column(place: Place, protocol: str, protocols: Sequence[str]) -> str:
    """The protocol that stands in a protocol's column for this pre-training, or "". A random backbone has training from scratch
    in the column of fine-tuning, and in no second one."""
    if place[0] != RANDOM or protocol == LINEAR:
        return protocol
    return "" if protocol != FINETUNE and FINETUNE in protocols else SCRATCH


def first(line: Mapping[str, Fact]) -> Fact:
    return next(iter(line.values()))


def named(place: Place) -> tuple[str, str, str]:
    """A pre-training's method, data and backbone as the tables name them."""
    method, size, mix = place
    return "random / from scratch" if method == RANDOM else "JEPA", DATA.get(mix, ""), SIZES[size]


def quoted(line: Mapping[str, Fact], protocol: str, data: list[dict[str, Any]]) -> Entry:
    """A published value with its marks; adds its line of the CSV."""
    fact, half = line.get(protocol), line.get(f"half{protocol}")
    if fact is None:
        return Entry("")
    marks = "".join(mark for mark, holds in (
        (SPLIT, fact.task.endswith("/ST-MEM-split")), (HALF, half), (SECONDARY, fact.source.startswith("SECONDARY")),
        (TWO_STAGE, fact.ours == SCRATCH)) if holds)
    bracket = half.value if half else fact.std
    data.append({"method": fact.method, "data": fact.pretrain_data or None, "backbone": fact.model, "protocol": fact.protocol,
                 "whose": "published", "mean": fact.value, "sd": fact.std or None, "n": RUNS if fact.place else None,
                 "half_width_90": half.value if half else None, "marks": "; ".join(MARKS[mark] for mark in marks) or None,
                 "source": fact.source, "url": fact.url})
    return Entry(fact.value + f" ({bracket})" * bool(bracket), marks=marks)


def measured(cells: Sequence[Cell | None]) -> list[tuple[Cell | None, bool, float | None]]:
    """(cell, whether it is bold, p of its difference to the best) for each cell of a column, of which some may be missing."""
    lead = iter(leaders([c for c in cells if c]))
    return [(c, *next(lead)) if c else (None, False, None) for c in cells]


def differences(ours: Ours) -> Sheet:
    """The table of differences, ours minus published. Intervals are over runs, on the one test fold."""
    data: list[dict[str, Any]] = []
    blocks, fill = [], []
    for task in TASKS:
        lines = []
        for fact in facts():
            if not (place := fact.place) or fact.of != task:
                continue
            cell = ours.cell(place, task, fact.ours)
            mine, theirs = spread(cell.values) if cell else (None, None, 0), (float(fact.value), float(fact.std), RUNS)
            intervals = over_runs(mine), over_runs(theirs)
            value, bounds = minus(mine, theirs)
            command = None if cell else ours.command(place, task, [fact.ours])
            names = (*named(place), fact.ours)
            data.append({"task": task, **dict(zip((*NAMES, "protocol"), names, strict=True)), **numbers(cell),
                         "runs_lower": intervals[0][0], "runs_upper": intervals[0][1], "published": fact.value,
                         "published_sd": fact.std, "published_lower": intervals[1][0], "published_upper": intervals[1][1],
                         "difference": value, "difference_lower": bounds[0], "difference_upper": bounds[1],
                         "source": fact.source, "command": command})
            marks = "*" * bool(bounds[0] is not None and bounds[1] is not None and not bounds[0] <= 0 <= bounds[1])
            lines.append([*map(Entry, names), Entry(bracketed(mine[0], intervals[0])), Entry(bracketed(theirs[0], intervals[1])),
                          Entry(bracketed(value, bounds, "+.3f"), marks=marks + TWO_STAGE * (fact.ours == SCRATCH))])
            if command:
                fill.append((" ".join(filter(None, named(place))), f"{task} {fact.ours}", command))
        if lines:
            blocks.append((task, lines))
    caption = (f"Macro AUROC, ours and published (arXiv 2410.13867): mean and its {1 - LEVEL:.0%} interval over runs (Student's "
               f"t; for published numbers from {RUNS} runs and the printed sd), and the difference with Welch's interval. All "
               f"scores are on fold 10, so the intervals do not count how other test records would change them. {MISSING}: no "
               f"result yet; for an interval: fewer than two runs.")
    head = ["pre-training", "data", "backbone", "protocol", "ours", "published", "ours minus published"]
    notes = {"*": "the interval of the difference does not contain 0", TWO_STAGE: MARKS[TWO_STAGE]}
    return Sheet("reproduction", [Table("Reproduction", caption, [("", h) for h in head], blocks, notes, fill)], data)


def over_runs(value: Value) -> Bounds:
    """Interval of a mean over runs: Student's t."""
    mean, sd, n = value
    if mean is None or sd is None:
        return None, None
    half = float(stats.t.isf(LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return mean - half, mean + half


def minus(a: Value, b: Value) -> tuple[float | None, Bounds]:
    """(difference, its interval: Welch's) of two means over runs."""
    if a[0] is None or b[0] is None:
        return None, (None, None)
    difference = a[0] - b[0]
    if a[1] is None or b[1] is None:
        return difference, (None, None)
    half = welch((a[1], a[2]), (b[1], b[2]))
    return difference, (difference - half, difference + half)


def bracketed(value: float | None, bounds: Bounds, form: str = ".3f") -> str:
    """"0.938 [0.930, 0.945]"."""
    if value is None:
        return MISSING
    low, high = bounds
    return f"{value:{form}} [{MISSING if low is None or high is None else f'{low:{form}}, {high:{form}}'}]"
