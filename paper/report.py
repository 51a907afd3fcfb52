"""Writes all files of `ecgssl report` from results."""

from collections.abc import Sequence
from pathlib import Path

from bench.report.aggregate import make_report
from bench.report.results import Results
from paper import figures, macros, page, tables


def write(results: Results, out: Path, *, rule: str = "default", html: Path | None = None,
          pictures: Sequence[Path] = ()) -> list[Path]:
    """Write tables, macros and figures into out and, if html is given, the page into html. Returns the files written.

    rule: rule of the intervals, one of bench.evaluation.metrics.RULES. pictures: ECGs to show on the page.
    """
    report = make_report(results, rule)
    written = [*tables.write(report, out), *macros.write(report, out), *figures.write(report, out / "figures")]
    return [*written, *(page.write(report, html, written, pictures) if html else [])]
