"""What a study of settings tried: the validation score of every recipe of every method, beside the recipe that most share.

python -m paper.tuning RESULTS PAGE writes the table between the page's two marks. Nothing of the test fold is read.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from bench.errors import UserError
from bench.reading import METRICS, metric_of
from bench.report import MISSING, RANDOM, RANDOM_ROW, Record, Row, footnotes, leaves, pretrainings, read, rows_of, spread, text_of
from paper.readme import write_between
from paper.training import number, went
from paper.typeset import Entry, Table, markdown

BEGIN, END = "<!-- settings: written by `make readme` -->", "<!-- settings: end -->"


def settings(row: Row) -> dict[str, str]:
    """Of each setting its value, as --set takes it."""
    return {key: text_of(value) for key, value in leaves(row.config)}


def usual(rows: Sequence[Row]) -> dict[str, str]:
    """Of each setting the value that most of the rows have, the first of several."""
    made = [settings(row) for row in rows]
    keys = dict.fromkeys(key for own in made for key in own)
    return {key: Counter(own.get(key, MISSING) for own in made).most_common(1)[0][0] for key in keys}


def differs(row: Row, base: dict[str, str]) -> str:
    """"optim.batch=32": what the row sets otherwise; what several views share once."""
    own = settings(row)
    changed = {key: own.get(key, MISSING) for key in base if own.get(key, MISSING) != base[key]}
    return ", ".join(dict.fromkeys(f"{re.sub(r'^views[.][0-9]+', 'views', key)}={value}" for key, value in changed.items()))


def table(records: Sequence[Record]) -> Table:
    """A block per method, a line per recipe: score on validation, its sd over heads, RankMe at the end, seconds."""
    evaluated: dict[str, list[Record]] = {}
    for record in records:
        if record["kind"] == "evaluate":
            evaluated.setdefault(record["config"]["pretrain"], []).append(record)
    every = [record for each in evaluated.values() for record in each]
    kinds = {(r["config"]["evaluation"]["name"], r["config"]["task"], metric_of(r)) for r in every}
    if len(kinds) != 1:
        raise UserError(f"a study of settings has one protocol, task and metric, these records have {sorted(kinds) or 'none'}")
    ((protocol, task, metric),) = kinds
    blocks = []
    rows = sorted(rows_of(records), key=lambda row: (row.method != RANDOM, row.method))
    for method, here in groupby(rows, key=lambda row: row.method):
        own = list(here)
        base, lines = usual(own), []
        scored = [(row, [float(r["result"][f"validation_{metric}"]) for _, run in row.pretrained for r in evaluated.get(run, ())])
                  for row in own]
        best = max((spread(scores)[0] or 0.0 for _, scores in scored), default=0.0)
        for row, scores in sorted(scored, key=lambda each: (bool(differs(each[0], base)), differs(each[0], base))):
            mean, sd, _ = spread(scores)
            made = pretrainings(row, records)
            how, took = [went(r) for r in made], [r["result"]["seconds"] for r in made]
            lines.append([Entry(differs(row, base) or "as most"), Entry(number(mean, 3), bold=len(own) > 1 and mean == best),
                          Entry(number(sd, 3)), Entry(str(len(scores))),
                          Entry(number(spread([w["rankme_end"] for w in how if "rankme_end" in w])[0], 1)),
                          Entry(number(spread([t for t in took if t])[0], 0))])
        blocks.append((RANDOM_ROW if method == RANDOM else method, lines))
    head = [("", "setting"), (f"{METRICS[metric]} on validation", "mean"), (f"{METRICS[metric]} on validation", "sd"),
            ("", "heads"), ("", "RankMe"), ("", "seconds")]
    caption = (f"{task}, {protocol}, on the validation fold. Under each method the recipe that shares most of its settings with "
               "the others, and what every other sets otherwise. The sd is that over heads on one backbone.")
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
    write_between(page, BEGIN, section(results), END)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as error:
        print(f"paper.tuning: {error}", file=sys.stderr)
        sys.exit(2)
