"""Progress of long work: a bar on a terminal, a line every 15 s in a log, and a file that other processes can read."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from bench.core.outline import current

LOG_SECONDS = 15.0  # between lines in a log
FILE_SECONDS = 2.0  # between updates of the file
FILE = "ECGSSL_PROGRESS"  # environment variable: the file into which this process writes its progress

Update = Callable[[int, str], None]  # (done, what to show beside it)


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is."""

    title: str
    done: int
    total: int
    seconds: float  # since it began here
    seconds_left: float | None  # None while unknown

    @property
    def per_second(self) -> float | None:
        """Units of work per second, or None."""
        return (self.total - self.done) / self.seconds_left if self.seconds_left else None


class Clock:
    """Turns `done` into a Progress. It knows when the work began and how much was done then."""

    def __init__(self, title: str, total: int, first: int):
        self.title, self.total, self.first = title, total, first
        self.began = time.monotonic()

    def read(self, done: int) -> Progress:
        seconds = time.monotonic() - self.began
        known = self.first < done < self.total
        left = seconds / (done - self.first) * (self.total - done) if known else 0.0 if done >= self.total else None
        return Progress(self.title, done, self.total, seconds, left)


@contextlib.contextmanager
def bar(title: str, total: int, first: int = 0) -> Iterator[Update]:
    """Yield update(done, text), which shows progress on stderr and writes it to the file that ECGSSL_PROGRESS names."""
    clock = Clock(title, total, first)
    path = Path(os.environ[FILE]) if os.environ.get(FILE) else None
    written = float("-inf")
    with _display(clock) as show:

        def update(done: int, text: str = "") -> None:
            nonlocal written
            show(done, text)
            if path and (time.monotonic() - written >= FILE_SECONDS or done == total):
                written = time.monotonic()
                write_progress(path, clock.read(done))

        update(first)
        yield update


def _display(clock: Clock) -> contextlib.AbstractContextManager[Update]:
    """The display of the progress: in the command's outline, as a bar on a terminal, or as lines in a log."""
    if outline := current():
        return contextlib.nullcontext(outline.show(clock.title, clock.total, clock.first))
    console = Console(stderr=True)
    return _bar_on_terminal(clock, console) if console.is_terminal else _lines_in_log(clock)


@contextlib.contextmanager
def _bar_on_terminal(clock: Clock, console: Console) -> Iterator[Update]:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[text]}", markup=False))
    with ProgressBars(*columns, console=console, refresh_per_second=4) as bars:
        task = bars.add_task(clock.title, total=clock.total, completed=clock.first, text="")
        yield lambda done, text: bars.update(task, completed=done, text=text)


@contextlib.contextmanager
def _lines_in_log(clock: Clock) -> Iterator[Update]:
    last = float("-inf")

    def show(done: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS or done == clock.total:
            last = time.monotonic()
            now = clock.read(done)
            left = f", {now.seconds_left:.0f} s left" if now.seconds_left else ""
            print(f"{now.title}: {done}/{now.total}, {now.seconds:.0f} s{left}{'  ' + text if text else ''}",
                  file=sys.stderr, flush=True)

    yield show


def write_progress(path: Path, progress: Progress) -> None:
    """Replace the file. A failure is ignored, because it must not stop the work; the file need not survive a power cut."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(dataclasses.asdict(progress)))
        os.replace(new, path)


def read_progress(path: Path) -> Progress | None:
    """The progress in the file, or None if there is none."""
    try:
        return Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
