"""The README's section of results, from the records of one study: a table, and the figure that `ecgbench report` drew.

python -m paper.readme RESULTS FIGURE README writes it between the README's two marks (`make readme`).
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.errors import UserError
from bench.files import write_text
from bench.report import Cell, Row, cells_of, footnotes, read, rows_of
from paper.columns import Column, columns_of
from paper.families import groups_of, mean_ranks, scores
from paper.typeset import Table, markdown

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- results: end -->"
FROZEN, TUNED = "linear", "finetune"  # the protocols that are shown ...
TASK = "superdiagnostic"  # ... of the second this task alone


def shown(cells: Sequence[Cell]) -> list[Column]:
    """The columns of the last checkpoint and all labels: every task of FROZEN, one of TUNED."""
    whole = [c for c in columns_of(cells) if c.whole and not c.control and any(cell.runs for cell in c.cells)]
    return [c for c in whole if c.protocol == FROZEN] + [
        c for c in whole if (c.protocol, c.task) == (TUNED, TASK)]


def table(cells: Sequence[Cell], rows: Sequence[Row]) -> Table:
    """The largest group of families in those columns, without intervals; ranks are of FROZEN."""
    columns, groups = shown(cells), groups_of(rows)
    if not columns or not groups:
        raise UserError(f"no pre-trained backbone has a record of {FROZEN}, with all labels: there is nothing to show")
    group = groups[0]
    heads = [c.heading if c.protocol == FROZEN else f"{c.heading}, {c.protocol}" for c in columns]
    ranks = mean_ranks(group, [c for c in columns if c.protocol == FROZEN])
    made = scores(group, f"{FROZEN} on the frozen backbone, {TUNED} end to end", columns, heads, [], ranks, intervals=False)
    return replace(made, head=[*made.head[:-1], ("", f"rank, {FROZEN}")])


def section(results: Path, figure: str) -> str:
    """What stands between the marks, and they."""
    records, skipped = read(results)
    if wrong := [*skipped, *footnotes(records)]:
        raise UserError(f"{results} is no clean set of records: {'; '.join(wrong)}")
    rows = rows_of(records)
    _, body = markdown(table(cells_of(records, rows), rows)).split("\n\n", 1)  # the README's heading is its own
    return f"{BEGIN}\n\n{body}\n![macro AUROC of the methods, {FROZEN} and {TUNED}]({figure})\n\n{END}"


def write(results: Path, figure: Path, readme: Path) -> None:
    if not figure.is_file():
        raise UserError(f"{figure} is missing: `ecgbench report` draws it")
    write_between(readme, BEGIN, lambda: section(results, Path(os.path.relpath(figure, readme.parent)).as_posix()), END)


def write_between(page: Path, begin: str, make: Callable[[], str], end: str) -> None:
    """Put what `make` makes, which holds the marks itself, in the place of what stands from the mark begin to the mark end."""
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{page} must hold the lines {begin!r} and {end!r} once each, in this order")
    write_text(page, text.split(begin)[0] + make() + text.split(end)[1])


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 3:
        raise UserError("write python -m paper.readme RESULTS FIGURE README")
    write(*map(Path, arguments))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as error:
        print(f"paper.readme: {error}", file=sys.stderr)
        sys.exit(2)
