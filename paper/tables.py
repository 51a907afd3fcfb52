"""The report as a function of records: a page to read, everything in CSV, and the tables for print."""

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
from bench.report.aggregate import (
    METRICS,
    MISSING,
    OTHER_SCORES,
    RANDOM,
    RANDOM_ROW,
    Cell,
    Record,
    Row,
    footnotes,
    leaves,
    spread,
    text_of,
)
from bench.report.statistics import by_run, compare_pairs, holm
from paper import inventory, published, reproduction, training
from paper.columns import Column, columns_of, rankings, score
from paper.families import families, mixture_of
from paper.typeset import Sheet, as_csv, as_markdown, to_fill

NOTE = f"""\
Macro AUROC, or what a table's heading names, on the test records: mean over runs (sd over runs), n runs,
[{{}}, {{}}] percentiles of the runs' mean over {{}} bootstrap resamples of those records. A run is a pre-training, the
mean of its evaluations; where there is one backbone alone, a run is an evaluation of it: frozen heads on it differ in
their initial weights, not in the crops that they see. "vs random": difference to the row `{RANDOM_ROW}`; where both have
two or more runs, its 95 % interval counts the variance over test records and over runs, and p is corrected for all
differences of its table (Holm); otherwise the interval is that of the runs at hand, over the same resamples, without p.
Each resample holds a positive of every class: where a class has few, intervals are too narrow and p is too small.
`pairs.csv` compares all rows. Rows differ in all that their names say; what compares on the same terms stands in
[families](tables/families.md).
The random row's backbone learned nothing: frozen protocols evaluate its random weights; beside `finetune` stands
training from scratch, weights drawn anew from the evaluation's seed. `{MISSING}`: no value yet.
"""


def write(cells: Sequence[Cell], rows: Sequence[Row], records: Sequence[Record], out: Path) -> list[Path]:
    """The files written, tables/ among them; same records, same bytes."""
    columns = columns_of(cells)
    ours = published.ours_of(columns, rows)
    sheets = [families(columns, rows, records), training.training(rows, records), *reproduction.sheets(ours), inventory.sizes(),
              inventory.corpora(records)]
    texts = {"table.md": markdown(columns, rows, records, sheets), "per_class.md": markdown_classes(columns),
             "table.csv": table(cells), "per_class.csv": classes(cells), "scores.csv": scores(cells)}
    for name, text in texts.items():
        write_text(out / name, text)
    with replace_file(out / "pairs.csv") as f:
        f.writelines(pairs(cells))
    return [*(out / name for name in (*texts, "pairs.csv")), *(path for sheet in sheets for path in sheet.write(out / "tables"))]


def table(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell, floats in full."""
    head = ["store", "task", "metric", "method", "row", "protocol", "mean", "sd", "n", "lower", "upper"]
    lines = [[*head, "vs_random", "vs_random_lower", "vs_random_upper", "p", "p_holm", "run_ids", "command"]]
    for c in cells:
        bounds, difference = c.interval or (None,) * 2, c.difference or (None,) * 3
        p = (c.comparison.p if c.comparison else None, c.p_holm)
        numbers = [MISSING if x is None else x for x in (*spread(c.values), *bounds, *difference, *p)]
        names = [c.store, c.task, c.metric, c.row.method, c.row.label, c.protocol]
        lines.append([*names, *numbers, " ".join(r["run_id"] for r in c.runs), "; ".join(c.commands)])
    return as_csv(lines)


def pairs(cells: Sequence[Cell]) -> Iterator[bytes]:
    """CSV, a line per two rows of a column with two or more runs each; p_holm is corrected for all pairs of a table.

    Half a million lines are usual in a large folder: numbers become text many at a time.
    """
    yield as_csv([["store", "task", "protocol", "row", "other", "difference", "lower", "upper", "p", "p_holm", "sd_records",
                   "sd_runs", "runs", "other_runs"]]).encode()
    tables: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for c in cells:
        if len(c.runs) > 1:
            tables.setdefault((c.store, c.task), {}).setdefault(c.protocol, []).append(c)
    for (store, task), columns in tables.items():
        names, numbers = list[bytes](), list[list[float]]()
        for protocol, here in columns.items():
            two = [*itertools.combinations(range(len(here)), 2)]
            start = as_csv([[store, task, protocol]]).encode().rstrip(b"\n")
            labels = [as_csv([[c.row.label]]).encode().rstrip(b"\n") for c in here]
            names += [b"%b,%b,%b," % (start, labels[i], labels[j]) for i, j in two]
            numbers += [[each.difference, each.lower, each.upper, each.p, each.sd_records, each.sd_runs, *each.runs]
                        for each in compare_pairs([c.runs for c in here], two)]
        for line, p_holm in zip(numbers, holm([line[3] for line in numbers]), strict=True):
            line.insert(4, p_holm)
        if numbers:
            texts = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
            yield b"".join(b"%b%b\n" % each for each in zip(names, texts, strict=True))


def classes(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and class, floats in full."""
    head = ["store", "task", "method", "row", "protocol", "class", "positives", "mean", "sd", "n"]
    lines: list[list[Any]] = [head]
    for c in cells:
        found = list(c.per_class())
        values = np.array([values for _, _, values in found])  # (classes, runs)
        if not found:
            continue
        means, n = values.mean(1).tolist(), values.shape[1]
        sds = values.std(1, ddof=1).tolist() if n > 1 else [None] * len(found)
        for (name, positives, _), mean, sd in zip(found, means, sds, strict=True):
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, positives, mean, sd, n])
    return as_csv(lines)


def scores(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and score beside its metric, floats in full; over the runs that have it."""
    lines: list[list[Any]] = [["store", "task", "method", "row", "protocol", "score", "mean", "sd", "n"]]
    for c in cells:
        for name in OTHER_SCORES[c.metric]:
            have = [r for r in c.runs if name in r["result"]]
            found = [each["value"] if isinstance(each := r["result"][name], dict) else each for r in have]
            numbers = [MISSING if x is None else x for x in spread(by_run(have, found).tolist() if have else [])]
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, *numbers])
    return as_csv(lines)


def markdown(columns: Sequence[Column], rows: Sequence[Row], records: Sequence[Record], sheets: Sequence[Sheet]) -> str:
    """The report for reading, three decimals."""
    cells = [c for column in columns for c in column.cells]
    count, (low, high) = RULES[cells[0].rule]
    sections: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        sections.setdefault((column.store, column.task), []).append(column)
    drawn = ["![AUROC](figures/auroc.png)"] if any(c.metric == "macro_auroc" for c in cells) else []
    parts = ["# ecgssl report", NOTE.format(low, high, f"{count:,}"),
             "\n".join(contents(list(sections.values()), sheets)), *drawn]
    for here in sections.values():
        parts += [f"## {title(here[0])}", *section(here)]
    for i, name in enumerate(rankings(columns), 1):
        parts += [f"## Mean ranks over tasks: {name}", f"![ranks](figures/ranks-{i}.png)",
                  "Both tests take the tasks for independent; tasks on the same records are not."]
    ran = {r["run_id"] for r in records if r["kind"] == "pretrain"}
    curves = ["![pre-training](figures/pretraining.png)"] if any(run in ran for row in rows for _, run in row.pretrained) else []
    parts += ["## Pre-training", *curves]
    parts.append(as_markdown(settings(rows, records)))
    parts += footnotes(records)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def title(column: Column) -> str:
    """Of the section of its task."""
    return f"{column.task} on {column.store}" + ("" if column.metric == "macro_auroc" else f": {METRICS[column.metric]}")


def contents(sections: Sequence[Sequence[Column]], sheets: Sequence[Sheet]) -> Iterator[str]:
    """What is where, a line each."""
    for here in sections:
        anchor = re.sub(r"[^\w -]", "", title(here[0]).lower()).replace(" ", "-")
        yield f"- [{title(here[0])}](#{anchor}): {', '.join(dict.fromkeys(c.protocol for c in here))}"
    yield "- For print, with captions and notes: " + ", ".join(f"[{s.name}](tables/{s.name}.md)" for s in sheets)
    per_class = ", [AUROC per class](per_class.md)" if any(c.metric == "macro_auroc" for here in sections for c in here) else ""
    yield ("- In full: [table.csv](table.csv), [pairs.csv](pairs.csv), [scores.csv](scores.csv), [per_class.csv](per_class.csv)"
           + per_class)


def section(columns: Sequence[Column]) -> Iterator[str]:
    """On what it was tested, a table per protocol, what fills it, and the scores along the pre-training."""
    yield from dict.fromkeys(f"{column.tested}." for column in columns if column.tested)
    for column in columns:
        if column.whole:
            yield f"### {column.protocol}"
            head = ["pre-training", METRICS[column.metric], "vs random"]
            yield as_markdown([head, *([c.row.label, *cell_texts(c)] for c in column.cells)])
    yield from to_fill([(c.row.label, c.protocol, command) for column in columns for c in column.cells
                        for command in c.commands], "column `command` of [table.csv](table.csv)")
    for protocol in dict.fromkeys(c.protocol for c in columns):
        points = sorted((c for c in columns if c.protocol == protocol and c.fraction == 1), key=lambda c: c.at)
        if any(c.at != 1 for c in points):
            yield f"### {protocol}, after a share of the pre-training's steps"
            body = [[each[0].row.label, *map(score, each)] for each in zip(*(c.cells for c in points), strict=True)]
            yield as_markdown([["pre-training", *(f"{100 * c.at:g} %" for c in points)], *body])
    if any(c.fraction != 1 for c in columns):
        yield "With shares of the labels: [families](tables/families.md)."


def markdown_classes(columns: Sequence[Column]) -> str:
    """AUROC of every class, mean over runs; of last checkpoints and all labels."""
    parts = ["# AUROC per class"]
    for column in columns:
        done = [c for c in column.cells if c.runs]
        if column.whole and done and column.metric == "macro_auroc":
            found = [list(c.per_class()) for c in done]
            body = [[each[0][0], str(each[0][1]), *(f"{math.fsum(values) / len(values):.3f}" for _, _, values in each)]
                    for each in zip(*found, strict=True)]  # fmt: skip
            head = ["class", "positives", *(c.row.label for c in done)]
            parts += [f"## {title(column)}: {column.protocol}", as_markdown([head, *body])]
    return "\n\n".join(parts) + "\n"


def cell_texts(c: Cell) -> tuple[str, str]:
    """("0.870 (0.010), n=3 [0.850, 0.890]", "+0.050 [+0.030, +0.070]")"""
    value = MISSING
    if c.interval:
        mean, sd, n = spread(c.values)
        brackets = "[{:.3f}, {:.3f}]".format(*c.interval)
        value = f"{mean:.3f} ({MISSING if sd is None else f'{sd:.3f}'}), n={n} {brackets}"
    if c.row.method == RANDOM and c.runs:
        return value, "reference"
    p = "" if c.p_holm is None else f", p={c.p_holm:.2g}"
    return value, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*c.difference) + p if c.difference else MISSING


def settings(rows: Sequence[Row], records: Sequence[Record]) -> list[list[str]]:
    """Each row's budget; records/s and seconds are means over its pre-trainings."""
    keys = ("encoder.size", "data.rate_hz", "encoder.patch", "optim.steps", "optim.batch")
    heads = ["pre-training", "size", "rate (Hz)", "patch", "steps", "batch", "data"]
    lines = [[*heads, "runs", "records/s", "seconds", "device"]]
    by_run = {r["run_id"]: r for r in records if r["kind"] == "pretrain"}
    for row in rows:
        config = dict(leaves(row.config)) if row.pretrained else {}
        runs = [by_run[run] for _, run in row.pretrained if run in by_run]
        line = [row.label, *(text_of(config.get(key, MISSING)) for key in keys),
                mixture_of(config["data.mix"]) if "data.mix" in config else MISSING, str(len(row.pretrained))]
        for key in ("records_per_second", "seconds"):
            mean = spread([r["result"][key] for r in runs if key in r["result"]])[0]
            line.append(MISSING if mean is None else f"{mean:.1f}")
        devices = sorted({str(r["provenance"].get("device", MISSING)) for r in runs})
        lines.append([*line, ", ".join(devices) or MISSING])
    return lines
