"""Progress of long work: a bar on a terminal, a line every so often in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.core.outline import current

EVERY = 15.0  # seconds between lines in a log; ours

Update = Callable[[int, str], None]  # (done, what to show beside it)


@contextlib.contextmanager
def bar(title: str, total: int, first: int = 0) -> Iterator[Update]:
    """Yield update(done, text); shown on standard error."""
    if outline := current():
        yield outline.show(title, total, first)
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False))
        with Progress(*columns, console=console, refresh_per_second=4) as progress:
            task = progress.add_task(title, total=total, completed=first, text="")

            def advance(done: int, text: str = "") -> None:
                progress.update(task, completed=done, text=text)

            yield advance
        return
    began, last = time.monotonic(), 0.0

    def update(done: int, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY or done == total:
            last = now
            spent = now - began
            left = f", {spent / (done - first) * (total - done):.0f} s left" if first < done < total else ""
            print(f"{title}: {done}/{total}, {spent:.0f} s{left}{'  ' + text if text else ''}",
                  file=sys.stderr, flush=True)

    update(first)
    yield update
