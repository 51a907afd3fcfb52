"""A progress display for work in several steps. While it is open, the steps' own progress bars appear inside it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOG_SECONDS = 15.0  # between the lines of one step in a log


class Outline:
    """A display of `total` steps on standard error: two bars on a terminal, a line for each step in a log."""

    def __init__(self, total: int):
        self.total, self.done, self.title = total, 0, ""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=console, refresh_per_second=4) if console.is_terminal else None
        self.steps = self.bars.add_task("", total=total) if self.bars else None
        self.inner = self.bars.add_task("", total=1, visible=False) if self.bars else None

    def begin(self, title: str) -> None:
        """End the current step and begin the next one."""
        self.done, self.title = self.done + 1, title
        if self.bars and self.steps is not None and self.inner is not None:
            self.bars.update(self.steps, completed=self.done - 1, description=title)
            self.bars.update(self.inner, visible=False)
        else:
            print(f"{self.done}/{self.total} {title}", file=sys.stderr, flush=True)

    def show(self, title: str, total: int, first: int) -> Callable[[int, str], None]:
        """Show a bar inside the current step. Returns its update function, which takes (done, text)."""
        last = time.monotonic()
        if self.bars and self.inner is not None:
            self.bars.reset(self.inner, total=total, completed=first, description=f"  {title}", visible=True)

        def update(done: int, text: str = "") -> None:
            nonlocal last
            if self.bars and self.inner is not None:
                self.bars.update(self.inner, completed=done)
            elif time.monotonic() - last >= LOG_SECONDS and done < total:
                last = time.monotonic()
                print(f"    {title}: {done}/{total}", file=sys.stderr, flush=True)

        return update


_open: list[Outline] = []


def current() -> Outline | None:
    """The outline that is open in this process."""
    return _open[-1] if _open else None


@contextlib.contextmanager
def open_outline(total: int) -> Iterator[Outline]:
    """Open an outline of `total` steps. Progress bars that are opened in the block appear inside it."""
    outline = Outline(total)
    _open.append(outline)
    try:
        with outline.bars or contextlib.nullcontext():
            yield outline
            if outline.bars and outline.steps is not None:
                outline.bars.update(outline.steps, completed=total, description="done")
    finally:
        _open.remove(outline)
