"""All that `ecgssl report` writes, as a function of results."""

from collections.abc import Sequence
from pathlib import Path

from bench.report.aggregate import make_report
from bench.report.results import Results
from paper import figures, macros, page, tables


def write(results: Results, out: Path, *, rule: str = "ours", html: Path | None = None,
          pictures: Sequence[Path] = ()) -> list[Path]:
    """The files written: tables, macros and figures below out and, if html names a folder, the page in it.

    rule: of intervals, one of bench.evaluation.metrics.RULES. pictures: ECGs that the page shows.
    """
    report = make_report(results, rule)
    written = [*tables.write(report, out), *macros.write(report, out), *figures.write(report, out / "figures")]
    return [*written, *(page.write(report, html, written, pictures) if html else [])]
