"""Draws the results.

In: a report with its rows, columns and cells. Out: figures, each as PNG, SVG and PDF.
The same results give the same bytes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.plot.style import save
from bench.report.aggregate import Report
from paper.columns import rankings
from paper.figures.classes import classes, reliability
from paper.figures.curves import pages_of_curves, pretraining
from paper.figures.panels import Styles
from paper.figures.points import Point, pages_of, pairs_of, points_of, reliability_of, with_hours, with_several
from paper.figures.ranks import critical_difference
from paper.figures.scores import along, auroc, cost, labels


def write(report: Report, out: Path) -> list[Path]:
    """Write the figures and return the files.

    A figure of many protocols or tasks has pages: NAME, NAME-2, ...; linear and finetune are on the first. All figures except
    `along` show the last checkpoint; all except `labels` show evaluations with all labels.
    """
    points, styles = points_of(report), Styles(report.rows)
    runs = {row.key: report.pretrainings(row) for row in report.rows}
    last, whole = [p for p in points if p.at == 1], [p for p in points if p.fraction == 1]
    main = [p for p in last if p.fraction == 1]
    figures: list[tuple[str, Sequence[Point], Callable[[Sequence[Point]], Figure]]] = [
        ("auroc", main, lambda page: auroc(page, styles)),
        ("labels", with_several(last, "fraction"), lambda page: labels(page, styles)),
        ("along", with_several(whole, "at"), lambda page: along(page, runs, styles)),
        ("cost", with_hours(main, runs), lambda page: cost(page, runs, styles)),
        ("reliability", [p for p in main if reliability_of(p.cell)], lambda page: reliability(page, styles)),
    ]
    written = []
    for name, chosen, draw in figures:
        for i, page in enumerate(pages_of(chosen), 1):
            written += save(draw(page), out / _page_name(name, i))
    for i, (what, each) in enumerate(rankings(report).items(), 1):
        written += save(critical_difference(each, what), out / f"ranks-{i}")
    for (store, task), pairs in pairs_of(main).items():
        name = re.sub("[^a-z0-9]+", "-", f"{store} {task}".lower()).strip("-")
        written += save(classes(pairs, styles, f"{store}, {task}"), out / f"classes-{name}")
    curves = [(row, [run.result for run in runs[row.key]]) for row in report.rows if not row.untrained and runs[row.key]]
    for i, some in enumerate(pages_of_curves(curves), 1):
        written += save(pretraining(some, curves, styles), out / _page_name("pretraining", i))
    return written


def _page_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
