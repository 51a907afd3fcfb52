"""What a study of settings tried: the validation score of every recipe of every method, beside the recipe that most share.

python -m paper.tuning RESULTS PAGE writes the table between the page's two marks. Nothing of the test fold is read.
"""

import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from bench.errors import UserError
from bench.reading import METRICS, metric_of
from bench.report import (
    MISSING,
    RANDOM,
    RANDOM_ROW,
    Record,
    Row,
    footnotes,
    leaves,
    pretrainings,
    read,
    recipe,
    rows_of,
    spread,
    text_of,
)
from paper.readme import write_between
from paper.training import number, went
from paper.typeset import Entry, Table, markdown

BEGIN, END = "<!-- settings: written by `make readme` -->", "<!-- settings: end -->"


def settings(row: Row) -> dict[str, str]:
    """Of each setting its value, as --set takes it; what all views share is one setting, without their number."""
    found: dict[str, list[str]] = {}
    for key, value in leaves(row.config):
        found.setdefault(re.sub(r"^views[.][0-9]+", "views", key), []).append(text_of(value))
    return {key: values[0] if len(set(values)) == 1 else " ".join(values) for key, values in found.items()}


def differing(own: dict[str, str], base: dict[str, str]) -> list[str]:
    """The settings in which they differ."""
    return [key for key in dict.fromkeys([*base, *own]) if own.get(key, MISSING) != base.get(key, MISSING)]


def usual(made: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """The settings that differ least from all the others; nothing where several do."""
    apart = [sum(len(differing(own, other)) for other in made) for own in made]
    return made[apart.index(min(apart))] if apart.count(min(apart)) == 1 else None


def table(records: Sequence[Record]) -> Table:
    """A block per method, a line per recipe: score on validation, its sd, RankMe at the end, seconds."""
    evaluated: dict[str, list[float]] = {}
    kinds: dict[str, Record] = {}
    for record in records:
        if record["kind"] == "evaluate":
            kinds.setdefault(recipe(record["config"]), record)
            score = float(record["result"][f"validation_{metric_of(record)}"])
            evaluated.setdefault(record["config"]["pretrain"], []).append(score)
    if len(kinds) != 1:
        raise UserError(f"a study of settings evaluates in one way, these records in {len(kinds)}; keep one in the folder")
    (record,) = kinds.values()
    blocks = []
    rows = sorted(rows_of(records), key=lambda row: (row.method != RANDOM, row.method))
    for method, here in groupby(rows, key=lambda row: row.method):
        own = [(row, settings(row)) for row in here]
        base = usual([made for _, made in own])
        varied = sorted({key for _, made in own for key in differing(made, base or own[0][1])})
        told = []
        for row, made in own:
            shown = (differing(made, base) if base else []) or varied
            told.append((made != base, [f"{key}={made.get(key, MISSING)}" for key in shown], row))
        lines = []
        for other, texts, row in sorted(told, key=lambda each: each[:2]):
            heads = [evaluated[run] for _, run in row.pretrained if run in evaluated]
            mean, sd, n = spread([fmean(each) for each in heads] if len(heads) > 1 else [v for each in heads for v in each])
            runs = pretrainings(row, records)
            ends = [how["rankme_end"] for how in map(went, runs) if "rankme_end" in how]
            took = [seconds for run in runs if (seconds := run["result"]["seconds"])]
            lines.append((mean, texts, other, [number(sd, 3), f"{n} {'runs' if len(heads) > 1 else 'heads'}",
                                               number(spread(ends)[0], 1), number(spread(took)[0], 0)]))
        best = max((mean for mean, *_ in lines if mean is not None), default=None) if len(lines) > 1 else None
        blocks.append((RANDOM_ROW if method == RANDOM else method, [
            [Entry(", ".join(texts), bold=len(lines) > 1 and not other), Entry(number(mean, 3), bold=best == mean is not None),
             *map(Entry, rest)] for mean, texts, other, rest in lines]))
    scored = f"{METRICS[metric_of(record)]} on validation"
    head = [("", "settings"), (scored, "mean"), (scored, "sd"), ("", "of"), ("", "RankMe"), ("", "seconds")]
    caption = (f"{record['config']['task']}, {record['config']['evaluation']['name']}, on the validation fold. Under each method "
               "the recipe that the others vary, if there is one, and the best score in bold; every other recipe by what it sets "
               "otherwise. Sd of pre-trainings, or heads where there is one (random: each head draws its own backbone).")
    return Table("Settings", caption, head, blocks)


def section(results: Path) -> str:
    """What stands between the marks, and they."""
    records, skipped = read(results)
    if wrong := [*skipped, *footnotes(records)]:
        raise UserError(f"{results} is no clean set of records: {'; '.join(wrong)}")
    _, body = markdown(table(records)).split("\n\n", 1)
    return f"{BEGIN}\n\n{body}\n{END}"


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2:
        raise UserError("write python -m paper.tuning RESULTS PAGE")
    results, page = map(Path, arguments)
    write_between(page, BEGIN, lambda: section(results), END)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as error:
        print(f"paper.tuning: {error}", file=sys.stderr)
        sys.exit(2)
