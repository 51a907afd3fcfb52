"""Tables as a function of records: Markdown and CSV."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.evaluation.compare import compare_pairs, holm
from bench.evaluation.metrics import RULES
from bench.files import replacing, write_text
from bench.report import (
    METRICS,
    MISSING,
    RANDOM,
    RANDOM_ROW,
    Cell,
    Record,
    Row,
    footnotes,
    leaves,
    pretrainings,
    rankings,
    spread,
    text_of,
)

SCORES = {"macro_auroc": ("macro_average_precision", "macro_f1", "f_max", "macro_brier", "macro_ece"),
          "r2": ("mae", "rmse", "pearson_r")}  # beside a table's metric
NOTE = f"""\
Macro AUROC, or what a table's heading names, on the test records: mean over runs (sd over runs), n runs,
[{{}}, {{}}] percentiles of the runs' mean over {{}} bootstrap resamples of those records. A run is a pre-training, the
mean of its evaluations; where there is one backbone alone, a run is an evaluation of it: frozen heads on it differ in
their initial weights, not in the crops that they see. "vs random": difference to the row `{RANDOM_ROW}`; where both have
two or more runs, its 95 % interval counts the variance over test records and over runs, and p is corrected for all
differences of its table (Holm); otherwise the interval is that of the runs at hand, over the same resamples, without p.
`pairs.csv` compares all rows.
The random row's backbone learned nothing: frozen protocols evaluate its random weights; beside `finetune` stands
training from scratch, weights drawn anew from the evaluation's seed. `{MISSING}`: no value yet.
"""


def write(cells: Sequence[Cell], rows: Sequence[Row], records: Sequence[Record], out: Path) -> list[Path]:
    """The files written: table.md, table.csv, per_class.csv, scores.csv, pairs.csv; same records, same bytes."""
    texts = {"table.md": markdown(cells, rows, records), "table.csv": table(cells), "per_class.csv": classes(cells),
             "scores.csv": scores(cells)}
    for name, text in texts.items():
        write_text(out / name, text)
    write_csv(out / "pairs.csv", pairs(cells))
    return [out / name for name in (*texts, "pairs.csv")]


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


def pairs(cells: Sequence[Cell]) -> Iterator[Sequence[Any]]:
    """Lines of CSV, one per two rows of a column with two or more runs each; p_holm is corrected for all pairs of a table."""
    yield ["store", "task", "protocol", "row", "other", "difference", "lower", "upper", "p", "p_holm", "sd_records", "sd_runs",
           "runs", "other_runs"]
    tables: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for c in cells:
        if len(c.runs) > 1:
            tables.setdefault((c.store, c.task), {}).setdefault(c.protocol, []).append(c)
    for (store, task), columns in tables.items():
        found = []
        for here in columns.values():
            two = [*itertools.combinations(range(len(here)), 2)]
            compared = compare_pairs([c.runs for c in here], two)
            found += [(here[i], here[j], each) for (i, j), each in zip(two, compared, strict=True)]
        for (a, b, each), p_holm in zip(found, holm([each.p for *_, each in found]), strict=True):
            yield [store, task, a.protocol, a.row.label, b.row.label, each.difference, each.lower, each.upper, each.p, p_holm,
                   each.sd_records, each.sd_runs, *each.runs]


def classes(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and class, floats in full."""
    head = ["store", "task", "method", "row", "protocol", "class", "positives", "mean", "sd", "n"]
    lines: list[list[Any]] = [head]
    for c in cells:
        for name, positives, values in c.per_class():
            numbers = [MISSING if x is None else x for x in spread(values)]
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, positives, *numbers])
    return as_csv(lines)


def scores(cells: Sequence[Cell]) -> str:
    """CSV, a line per cell and score beside its metric, floats in full; over the runs that have it."""
    lines: list[list[Any]] = [["store", "task", "method", "row", "protocol", "score", "mean", "sd", "n"]]
    for c in cells:
        for name in SCORES[c.metric]:
            found = [r["result"][name] for r in c.runs if name in r["result"]]
            found = [each["value"] if isinstance(each, dict) else each for each in found]
            numbers = [MISSING if x is None else x for x in spread(found)]
            lines.append([c.store, c.task, c.row.method, c.row.label, c.protocol, name, *numbers])
    return as_csv(lines)


def as_csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_csv(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Line by line: pairs may be half a million."""
    with replacing(path) as f:
        text = io.TextIOWrapper(f, "utf-8", newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        text.detach()


def markdown(cells: Sequence[Cell], rows: Sequence[Row], records: Sequence[Record]) -> str:
    """The report for reading, three decimals."""
    count, (low, high) = RULES[cells[0].rule]
    drawn = ["![AUROC](figures/auroc.png)"] if any(c.metric == "macro_auroc" for c in cells) else []
    parts = ["# ecgbench report", NOTE.format(low, high, f"{count:,}"), *drawn]
    for store, task in dict.fromkeys((c.store, c.task) for c in cells):
        here = [c for c in cells if (c.store, c.task) == (store, task)]
        protocols = list(dict.fromkeys(c.protocol for c in here))
        lines = [["pre-training", *(head for name in protocols for head in (name, "vs random"))]]
        for row in rows:
            lines.append([row.label, *(text for c in here if c.row is row for text in cell_texts(c))])
        title = f"## {task} on {store}" + ("" if here[0].metric == "macro_auroc" else f": {METRICS[here[0].metric]}")
        parts += [title, as_markdown(lines)]
        commands = list(dict.fromkeys(f"- `{command}`" for c in here for command in c.commands))
        if commands:
            parts += ["To fill:", "\n".join(commands)]
        for name in protocols:
            done = [c for c in here if c.protocol == name and c.runs]
            if done and here[0].metric == "macro_auroc":
                found = [list(c.per_class()) for c in done]
                body = [[each[0][0], str(each[0][1]), *(f"{spread(values)[0]:.3f}" for _, _, values in each)]
                        for each in zip(*found, strict=True)]  # fmt: skip
                head = ["class", "positives", *(c.row.label for c in done)]
                parts += [f"### AUROC per class: {name}", as_markdown([head, *body])]
    for i, name in enumerate(rankings(cells), 1):
        parts += [f"## Mean ranks over tasks: {name}", f"![ranks](figures/ranks-{i}.png)",
                  "Both tests take the tasks for independent; tasks on the same records are not."]
    parts += ["## Pre-training", "![pre-training](figures/pretraining.png)"]
    parts.append(as_markdown(settings(rows, records)))
    parts += footnotes(records)
    return "\n\n".join(part.strip() for part in parts) + "\n"


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
    keys = ("encoder.size", "data.rate_hz", "encoder.patch", "optim.steps", "optim.batch", "data.mix")
    heads = ["pre-training", "size", "rate (Hz)", "patch", "steps", "batch", "data"]
    lines = [[*heads, "runs", "records/s", "seconds", "device"]]
    for row in rows:
        config = dict(leaves(row.config)) if row.pretrained else {}
        runs = pretrainings(row, records)
        line = [row.label, *(text_of(config.get(key, MISSING)) for key in keys), str(len(row.pretrained))]
        for key in ("records_per_second", "seconds"):
            mean = spread([r["result"][key] for r in runs if key in r["result"]])[0]
            line.append(MISSING if mean is None else f"{mean:.1f}")
        devices = sorted({str(r["provenance"].get("device", MISSING)) for r in runs})
        lines.append([*line, ", ".join(devices) or MISSING])
    return lines


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
