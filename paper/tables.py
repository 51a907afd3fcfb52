"""Writes the report: a page to read, everything in CSV, and the tables for print."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.core.files import replace_file, write_text
from bench.evaluation.metrics import RULES
from bench.report.aggregate import Cell, Column, Report, spread
from bench.report.checks import footnotes
from bench.report.names import leaves, text_of
from bench.report.results import METRICS, OTHER_SCORES
from bench.report.statistics import by_run, compare_pairs, holm
from paper import inventory, published, reproduction, training
from paper.columns import rankings, score, tested_on
from paper.commands import commands_of
from paper.families import families, mixture_of, twin_note
from paper.labels import MISSING, RANDOM_ROW, label, row_label, series_label, store_label
from paper.typeset import Sheet, as_csv, as_markdown, to_fill

NOTE = f"""\
A cell holds the macro AUROC, or the score that the heading names, on the test records: the mean over runs, in brackets the
standard deviation over runs, then the number of runs, then an interval. The interval is the [{{}}, {{}}] percentiles of the
runs' mean over {{}} bootstrap resamples of the test records. A run is a pre-training, and its score is the mean over its
evaluations. Where a row has one backbone alone, each evaluation of it is a run: frozen heads differ in their initial weights,
not in the crops that they see.

"vs random" is the difference to the row `{RANDOM_ROW}`. Where both rows have two or more runs, its 95 % interval counts the
variance over test records and over runs, and p is corrected for all differences of its table (Holm). Otherwise the interval
is that of these runs over the same resamples, without p. Each resample holds a positive of every class, so where a class has
few positives, intervals are too narrow and p is too small. `pairs.csv` compares all rows with each other.

Rows may differ in several settings, which their names list. [families](tables/families.md) compares rows with the same backbone,
data, budget and evaluation. The backbone of the random row was not pre-trained. Frozen protocols evaluate its random weights;
in the column `finetune` it is trained from scratch, from weights drawn anew with the evaluation's seed. `{MISSING}`: no value
yet.
"""


def write(report: Report, out: Path) -> list[Path]:
    """Write all tables and return the files. The same results give the same bytes."""
    sheets = [families(report), training.training(report), *reproduction.sheets(published.ours_of(report)), inventory.sizes(),
              inventory.corpora(report.results)]
    texts = {"table.md": markdown(report, sheets), "per_class.md": markdown_classes(report),
             "table.csv": table(report), "per_class.csv": classes(report), "scores.csv": scores(report)}
    for name, text in texts.items():
        write_text(out / name, text)
    with replace_file(out / "pairs.csv") as f:
        f.writelines(pairs(report))
    return [*(out / name for name in (*texts, "pairs.csv")), *(path for sheet in sheets for path in sheet.write(out / "tables"))]


def notes_of(report: Report) -> list[str]:
    """The footnotes of a report: why its results should not stand in one report, and which rows hold two methods."""
    return footnotes(report.results) + [f"{twin_note(row)}." for row in report.rows if row.twin_methods]


def table(report: Report) -> str:
    """CSV, a line per cell, floats in full."""
    head = ["store", "task", "metric", "method", "row", "protocol", "mean", "sd", "n", "lower", "upper"]
    lines = [[*head, "vs_random", "vs_random_lower", "vs_random_upper", "p", "p_holm", "run_ids", "command"]]
    for column in report.columns:
        for c in column.cells:
            bounds, difference = c.interval or (None,) * 2, c.difference or (None,) * 3
            p = (c.comparison.p if c.comparison else None, c.p_holm)
            numbers = [MISSING if x is None else x for x in (*spread(c.values), *bounds, *difference, *p)]
            names = [store_label(column.key), column.key.task, c.metric, c.row.method, row_label(c.row), label(column.name)]
            lines.append([*names, *numbers, " ".join(run.run_id for run in c.runs), "; ".join(commands_of(c))])
    return as_csv(lines)


def pairs(report: Report) -> Iterator[bytes]:
    """CSV, a line per two rows of a column with two or more runs each; p_holm is corrected for all pairs of a table.

    Half a million lines are usual in a large folder: numbers become text many at a time.
    """
    yield as_csv([["store", "task", "protocol", "row", "other", "difference", "lower", "upper", "p", "p_holm", "sd_records",
                   "sd_runs", "runs", "other_runs"]]).encode()
    for columns in report.tables.values():
        names, numbers = list[bytes](), list[list[float]]()
        for column in columns:
            cells = [cell for cell in column.cells if len(cell.runs) > 1]
            two = [*itertools.combinations(range(len(cells)), 2)]
            start = _csv_part([store_label(column.key), column.key.task, label(column.name)])
            labels = [_csv_part([row_label(cell.row)]) for cell in cells]
            names += [b"%b,%b,%b," % (start, labels[i], labels[j]) for i, j in two]
            numbers += [[each.difference, each.lower, each.upper, each.p, each.sd_records, each.sd_runs, *each.runs]
                        for each in compare_pairs([cell.runs for cell in cells], two)]
        for line, p_holm in zip(numbers, holm([line[3] for line in numbers]), strict=True):
            line.insert(4, p_holm)
        if numbers:
            texts = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
            yield b"".join(b"%b%b\n" % each for each in zip(names, texts, strict=True))


def _csv_part(values: list[str]) -> bytes:
    return as_csv([values]).encode().rstrip(b"\n")


def classes(report: Report) -> str:
    """CSV, a line per cell and class, floats in full."""
    lines: list[list[Any]] = [["store", "task", "method", "row", "protocol", "class", "positives", "mean", "sd", "n"]]
    for column, c in _cells(report):
        per_class = list(c.per_class())
        if not per_class:
            continue
        values = np.array([values for _, _, values in per_class])  # (classes, runs)
        means, n = values.mean(1).tolist(), values.shape[1]
        sds = values.std(1, ddof=1).tolist() if n > 1 else [None] * len(per_class)
        names = _names(column, c)
        for (name, positives, _), mean, sd in zip(per_class, means, sds, strict=True):
            lines.append([*names, name, positives, mean, sd, n])
    return as_csv(lines)


def scores(report: Report) -> str:
    """CSV, a line per cell and further score, floats in full. Means are over the runs that have the score."""
    lines: list[list[Any]] = [["store", "task", "method", "row", "protocol", "score", "mean", "sd", "n"]]
    for column, c in _cells(report):
        names = _names(column, c)
        for name in OTHER_SCORES[c.metric]:
            have = [run for run in c.runs if name in run.result]
            values = [each["value"] if isinstance(each := run.result[name], dict) else each for run in have]
            numbers = [MISSING if x is None else x for x in spread(by_run(have, values).tolist() if have else [])]
            lines.append([*names, name, *numbers])
    return as_csv(lines)


def _cells(report: Report) -> Iterator[tuple[Column, Cell]]:
    yield from ((column, cell) for column in report.columns for cell in column.cells)


def _names(column: Column, cell: Cell) -> list[str]:
    return [store_label(column.key), column.key.task, cell.row.method, row_label(cell.row), label(column.name)]


def markdown(report: Report, sheets: Sequence[Sheet]) -> str:
    """The report for reading, three decimals."""
    count, (low, high) = RULES[report.rule]
    drawn = ["![AUROC](figures/auroc.png)"] if any(column.metric == "macro_auroc" for column in report.columns) else []
    parts = ["# ecgssl report", NOTE.format(low, high, f"{count:,}"), "\n".join(contents(report, sheets)), *drawn]
    for columns in report.tables.values():
        parts += [f"## {title(columns[0])}", *section(columns)]
    for i, name in enumerate(rankings(report), 1):
        parts += [f"## Mean ranks over tasks: {name}", f"![ranks](figures/ranks-{i}.png)",
                  "Both tests assume that the tasks are independent. Tasks on the same records are not."]
    trained = any(report.pretrainings(row) for row in report.rows if not row.untrained)
    curves = ["![pre-training](figures/pretraining.png)"] if trained else []
    parts += ["## Pre-training", *curves, as_markdown(settings(report)), *notes_of(report)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def title(column: Column) -> str:
    """The title of the section of a column's table."""
    text = f"{column.key.task} on {store_label(column.key)}"
    return text if column.metric == "macro_auroc" else f"{text}: {METRICS[column.metric]}"


def contents(report: Report, sheets: Sequence[Sheet]) -> Iterator[str]:
    """The table of contents: a line per section or file."""
    for columns in report.tables.values():
        anchor = re.sub(r"[^\w -]", "", title(columns[0]).lower()).replace(" ", "-")
        yield f"- [{title(columns[0])}](#{anchor}): {', '.join(dict.fromkeys(series_label(c) for c in columns))}"
    yield "- For print, with captions and notes: " + ", ".join(f"[{s.name}](tables/{s.name}.md)" for s in sheets)
    per_class = ", [AUROC per class](per_class.md)" if any(c.metric == "macro_auroc" for c in report.columns) else ""
    yield ("- In full: [table.csv](table.csv), [pairs.csv](pairs.csv), [scores.csv](scores.csv), [per_class.csv](per_class.csv)"
           + per_class)


def section(columns: Sequence[Column]) -> Iterator[str]:
    """The section of a table: test records, a table per protocol, commands for missing cells, scores along the pre-training."""
    yield from dict.fromkeys(f"{text}." for column in columns if (text := tested_on(column)))
    for column in columns:
        if column.key.whole:
            yield f"### {series_label(column)}"
            head = ["pre-training", METRICS[column.metric], "vs random"]
            yield as_markdown([head, *([row_label(c.row), *cell_texts(c)] for c in column.cells)])
    yield from to_fill([(row_label(c.row), label(column.name), command) for column in columns for c in column.cells
                        for command in commands_of(c)], "column `command` of [table.csv](table.csv)")
    for protocol in dict.fromkeys(series_label(c) for c in columns):
        points = sorted((c for c in columns if series_label(c) == protocol and c.key.fraction == 1), key=lambda c: c.key.at)
        if any(c.key.at != 1 for c in points):
            yield f"### {protocol}, after a share of the pre-training's steps"
            body = [[row_label(each[0].row), *map(score, each)] for each in zip(*(c.cells for c in points), strict=True)]
            yield as_markdown([["pre-training", *(f"{100 * c.key.at:g} %" for c in points)], *body])
    if any(c.key.fraction != 1 for c in columns):
        yield "With shares of the labels: [families](tables/families.md)."


def markdown_classes(report: Report) -> str:
    """AUROC of every class, mean over runs; of last checkpoints and all labels."""
    parts = ["# AUROC per class"]
    for column in report.columns:
        cells = [c for c in column.cells if c.runs]
        if column.key.whole and cells and column.metric == "macro_auroc":
            per_class = [list(c.per_class()) for c in cells]
            body = [[each[0][0], str(each[0][1]), *(f"{math.fsum(values) / len(values):.3f}" for _, _, values in each)]
                    for each in zip(*per_class, strict=True)]
            head = ["class", "positives", *(row_label(c.row) for c in cells)]
            parts += [f"## {title(column)}: {series_label(column)}", as_markdown([head, *body])]
    return "\n\n".join(parts) + "\n"


def cell_texts(c: Cell) -> tuple[str, str]:
    """("0.870 (0.010), n=3 [0.850, 0.890]", "+0.050 [+0.030, +0.070]")"""
    value = MISSING
    if c.interval:
        mean, sd, n = spread(c.values)
        brackets = "[{:.3f}, {:.3f}]".format(*c.interval)
        value = f"{mean:.3f} ({MISSING if sd is None else f'{sd:.3f}'}), n={n} {brackets}"
    if c.row.untrained and c.runs:
        return value, "reference"
    p = "" if c.p_holm is None else f", p={c.p_holm:.2g}"
    return value, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*c.difference) + p if c.difference else MISSING


def settings(report: Report) -> list[list[str]]:
    """Each row's budget; records/s and seconds are means over its pre-trainings."""
    keys = ("encoder.size", "data.rate_hz", "encoder.patch", "optim.steps", "optim.batch")
    heads = ["pre-training", "size", "rate (Hz)", "patch", "steps", "batch", "data"]
    lines = [[*heads, "runs", "records/s", "seconds", "device"]]
    for row in report.rows:
        config = leaves(row.config) if row.pretrained else {}
        runs = report.pretrainings(row)
        line = [row_label(row), *(text_of(config.get(key, MISSING)) for key in keys),
                mixture_of(row.config.data.mix) if row.pretrained else MISSING, str(len(row.pretrained))]
        for key in ("records_per_second", "seconds"):
            mean = spread([run.result[key] for run in runs if key in run.result])[0]
            line.append(MISSING if mean is None else f"{mean:.1f}")
        devices = sorted({str(run.provenance.get("device", MISSING)) for run in runs})
        lines.append([*line, ", ".join(devices) or MISSING])
    return lines
