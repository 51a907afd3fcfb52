"""How pre-trainings went, from their curves: loss, what shows collapse, and what a step costs."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.report.aggregate import Report, spread
from bench.report.results import Pretraining
from paper.commands import pretraining_options
from paper.families import SWEEP, groups_of
from paper.labels import MISSING
from paper.typeset import Entry, Sheet, Table

COLLAPSED = "!"  # mark
LEAST_RANKME, LEAST_SD = 2.0, 0.1  # collapsed: below the one, or below this share of the sd at the start; ours
DIGITS = {"loss": 3, "feature_sd": 3, "rankme": 1}  # quantity -> decimals, in the order of the columns


def training(report: Report) -> Sheet:
    """Of each group of families: loss at the start and the end, feature sd and RankMe at the start, at least, at the end."""
    tables: list[Table] = []
    data: list[dict[str, Any]] = []
    for group in groups_of(report.rows):
        blocks, fill = [], list[tuple[str, str, str]]()
        for family, those in group.blocks:
            lines = []
            for row in those:
                if not row.untrained:
                    found = means([went(each) for each in report.pretrainings(row)])
                    missing = "" if found["runs"] else f"ecgssl pretrain {row.method} {pretraining_options(row.config)}"
                    fill += [(group.name(row), "all", missing)] if missing else []
                    data.append({"group": group.title, "family": family, "row": group.name(row), **found,
                                 "run_ids": " ".join(run for _, run in row.pretrained) or None, "command": missing or None})
                    lines.append([Entry(group.name(row), marks=group.mark(row) + COLLAPSED * bool(found.get("collapsed"))),
                                  Entry(str(found["runs"])),
                                  *(Entry(number(found.get(f"{key}_{when}"), digits)) for key, digits in DIGITS.items()
                                    for when in ("start", "least", "end") if (key, when) != ("loss", "least")),
                                  Entry(number(found.get("seconds_per_step"), 3)), Entry(number(found.get("peak_memory_mb"), 0))])
            if lines:
                blocks.append((family, lines))
        caption = (f"{group.title}: how pre-training went, means over runs. Loss: the first and the last point of its curve. "
                   "Feature sd (over records, mean over features) and RankMe (arXiv 2210.02885) of the mean tokens of a fixed "
                   "batch. A step: median along the run. Losses of different methods do not compare.")
        head = [("", "pre-training"), ("", "runs"), ("loss", "start"), ("loss", "end"),
                *((what, when) for what in ("feature sd", "RankMe") for when in ("start", "least", "end")),
                ("", "s/step"), ("", "memory (MB)")]
        note = (f"a run or more collapsed: at its end RankMe is below {LEAST_RANKME:g}, or feature sd below {LEAST_SD:g} of that "
                "at the start")
        tables.append(Table(group.title, caption, head, blocks, {COLLAPSED: note} | dict(group.notes), fill))
    if not tables:
        nothing, caption = [("", [[Entry(MISSING), Entry(MISSING)]])], f"How pre-training went. {MISSING}: no result yet."
        tables = [Table("Training", caption, [("", "pre-training"), ("", "loss")], nothing, fill=[("all methods", "all", SWEEP)])]
        data = [{"command": SWEEP}]
    return Sheet("training", tables, data)


def went(record: Pretraining) -> dict[str, Any]:
    """The numbers of one pre-training; without what its result does not hold."""
    curves, monitor = record.result["curves"], record.result["monitor"]
    out: dict[str, Any] = {}
    for key in DIGITS:
        if values := known(curves if key == "loss" else monitor, key):
            out |= {f"{key}_start": values[0], f"{key}_least": min(values), f"{key}_end": values[-1]}
    if {"rankme_end", "feature_sd_end"} <= out.keys():
        out["collapsed"] = out["rankme_end"] < LEAST_RANKME or out["feature_sd_end"] < LEAST_SD * out["feature_sd_start"]
    if speeds := known(curves, "records_per_second"):
        out["seconds_per_step"] = record.config.optim.batch / median(speeds)
    if (memory := record.result.get("peak_memory_mb")) is not None:
        out["peak_memory_mb"] = memory
    return out


def known(points: Mapping[str, Sequence[float | None]], key: str) -> list[float]:
    """The values at those points that have one."""
    return [value for value in points.get(key, ()) if value is not None]


def means(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the runs, and how many of them collapsed; None where none tells."""
    keys = dict.fromkeys(key for run in runs for key in run)
    out: dict[str, Any] = {key: spread([run[key] for run in runs if key in run])[0] for key in keys if key != "collapsed"}
    told = [run["collapsed"] for run in runs if "collapsed" in run]
    return {"runs": len(runs), **out, "collapsed": sum(told) if told else None}


def number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"
