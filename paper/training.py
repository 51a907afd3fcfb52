"""Tables of how pre-trainings went: loss, feature sd and RankMe, whether they collapsed, time and memory of a step."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.report.aggregate import Report, spread
from bench.report.results import Pretraining
from bench.report.rows import Row
from paper.commands import pretraining_options
from paper.families import SWEEP, Group, groups_of
from paper.labels import MISSING
from paper.typeset import Entry, Sheet, Table

COLLAPSED = "!"  # mark
LEAST_RANKME, LEAST_SD = 2.0, 0.1  # a run collapsed if RankMe is below the first, or feature sd below this share of its start
DIGITS = {"loss": 3, "feature_sd": 3, "rankme": 1}  # quantity -> decimals, in the order of the columns
POINTS = ("start", "least", "end")
HEAD = [("", "pre-training"), ("", "runs"), ("loss", "start"), ("loss", "end"),
        *((what, point) for what in ("feature sd", "RankMe") for point in POINTS), ("", "s/step"), ("", "memory (MB)")]


def training(report: Report) -> Sheet:
    """A table for each group of families: loss at start and end; feature sd and RankMe at start, minimum and end."""
    tables: list[Table] = []
    data: list[dict[str, Any]] = []
    for group in groups_of(report.rows):
        blocks: list[tuple[str, list[list[Entry]]]] = []
        fill: list[tuple[str, str, str]] = []
        for family, rows in group.blocks:
            lines = []
            for row in (row for row in rows if not row.untrained):
                numbers = means([numbers_of(each) for each in report.pretrainings(row)])
                command = "" if numbers["runs"] else f"ecgssl pretrain {row.method} {pretraining_options(row.config)}"
                fill += [(group.name(row), "all", command)] if command else []
                data.append({"group": group.title, "family": family, "row": group.name(row), **numbers,
                             "run_ids": " ".join(run for _, run in row.pretrained) or None, "command": command or None})
                lines.append(_line(group, row, numbers))
            if lines:
                blocks.append((family, lines))
        caption = (f"{group.title}: how pre-training went, means over runs. Loss: the first and the last point of its curve. "
                   "Feature sd (over records, mean over features) and RankMe (arXiv 2210.02885) of the mean tokens of a fixed "
                   "batch. A step: median along the run. Losses of different methods do not compare.")
        note = (f"a run or more collapsed: at its end RankMe is below {LEAST_RANKME:g}, or feature sd below {LEAST_SD:g} of that "
                "at the start")
        tables.append(Table(group.title, caption, HEAD, blocks, {COLLAPSED: note} | dict(group.notes), fill))
    if not tables:
        nothing, caption = [("", [[Entry(MISSING), Entry(MISSING)]])], f"How pre-training went. {MISSING}: no result yet."
        tables = [Table("Training", caption, [("", "pre-training"), ("", "loss")], nothing, fill=[("all methods", "all", SWEEP)])]
        data = [{"command": SWEEP}]
    return Sheet("training", tables, data)


def _line(group: Group, row: Row, numbers: Mapping[str, Any]) -> list[Entry]:
    """A row of the table, its entries below those of HEAD."""
    quantities = [(f"{key}_{point}", digits) for key, digits in DIGITS.items() for point in POINTS
                  if (key, point) != ("loss", "least")]
    return [Entry(group.name(row), marks=group.mark(row) + COLLAPSED * bool(numbers.get("collapsed"))),
            Entry(str(numbers["runs"])),
            *(Entry(number(numbers.get(key), digits)) for key, digits in quantities),
            Entry(number(numbers.get("seconds_per_step"), 3)), Entry(number(numbers.get("peak_memory_mb"), 0))]


def numbers_of(pretraining: Pretraining) -> dict[str, Any]:
    """The numbers of one pre-training that its result holds."""
    curves, monitor = pretraining.result["curves"], pretraining.result["monitor"]
    out: dict[str, Any] = {}
    for key in DIGITS:
        if values := _values(curves if key == "loss" else monitor, key):
            out |= {f"{key}_start": values[0], f"{key}_least": min(values), f"{key}_end": values[-1]}
    if {"rankme_end", "feature_sd_end"} <= out.keys():
        out["collapsed"] = out["rankme_end"] < LEAST_RANKME or out["feature_sd_end"] < LEAST_SD * out["feature_sd_start"]
    if speeds := _values(curves, "records_per_second"):
        out["seconds_per_step"] = pretraining.config.optim.batch / median(speeds)
    if (memory := pretraining.result.get("peak_memory_mb")) is not None:
        out["peak_memory_mb"] = memory
    return out


def _values(points: Mapping[str, Sequence[float | None]], key: str) -> list[float]:
    """The values at those points that have one."""
    return [value for value in points.get(key, ()) if value is not None]


def means(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the runs, and how many of them collapsed; None where no run holds RankMe and feature sd."""
    keys = dict.fromkeys(key for run in runs for key in run)
    out: dict[str, Any] = {key: spread([run[key] for run in runs if key in run])[0] for key in keys if key != "collapsed"}
    collapsed = [run["collapsed"] for run in runs if "collapsed" in run]
    return {"runs": len(runs), **out, "collapsed": sum(collapsed) if collapsed else None}


def number(value: float | None, digits: int) -> str:
    """The value with so many decimals, or MISSING."""
    return MISSING if value is None else f"{value:,.{digits}f}"
