"""Shows the state of a sweep: a table on a terminal, lines in a log, and the log of a run as it grows."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slurm.shared import SharedFolder, read_server_time
from slurm.states import Run, count_states

ORDER = ("failed", "parked", "lost", "running", "blocked", "waiting", "missing", "done")  # the most urgent first
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "parked": "red", "lost": "yellow", "blocked": "yellow"}
HEAD = ("run", "what", "state", "step", "step/s", "left", "node", "attempts", "why")
LOCAL_HEAD = ("run", "what", "state", "step", "left", "why")  # columns of the live table of a sweep on this machine
ROWS = 40  # number of runs in the table; the rest is only counted
HOUR = 3600


def list_cells(run: Run) -> list[str]:
    """The cells of a run's row, in the order of HEAD."""
    at = run.progress
    speed = at.per_second if at else None
    return [run.name, str(run), run.state, f"{at.done}/{at.total}" if at else "", f"{speed:.1f}" if speed else "",
            format_seconds(at.seconds_left) if at and at.seconds_left is not None else "", run.node,
            str(run.attempts or ""), run.reason if run.reason != "None" else ""]


def format_seconds(seconds: float) -> str:
    """The duration as text: 2 d 03:04 or 03:04:05."""
    days, rest = divmod(round(seconds), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days} d {hours:02d}:{minutes:02d}" if days else f"{hours:02d}:{minutes:02d}:{rest % 60:02d}"


def format_states(numbers: dict[str, int]) -> str:
    """The counts as text: 3 done, 1 failed."""
    return ", ".join(f"{number} {state}" for state, number in numbers.items() if number)


def count_by_stage(runs: Iterable[Run]) -> dict[tuple[str, str], dict[str, int]]:
    """(method and size, stage) -> state -> number of runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((f"{run.method} {run.size}", run.stage), []).append(run)
    return {key: count_states(group) for key, group in groups.items()}


def summarise(runs: dict[str, Run], shared: SharedFolder) -> str:
    """The number of runs by state, and the rate at which runs finish."""
    numbers = count_states(runs.values())
    text = f"{len(runs)} runs: {format_states(numbers)}"
    if numbers["done"] and numbers["done"] < len(runs):
        now = read_server_time(shared.results)
        recent = sum(f.name.removesuffix(".json") in runs and now - f.stat().st_mtime < HOUR
                     for f in os.scandir(shared.results))
        if recent:
            left = (len(runs) - numbers["done"]) / recent * HOUR
            text += f"; {recent} finished in the last hour, at that rate {format_seconds(left)} left"
    return text


def sort_by_need(runs: Iterable[Run]) -> list[Run]:
    """The runs, the most urgent states first."""
    return sorted(runs, key=lambda run: ORDER.index(run.state))


def render_rows(runs: Sequence[Run], columns: Collection[str] = HEAD) -> Table:
    """A table with a row per run and these columns; empty columns are left out."""
    rows = [list_cells(run) for run in runs]
    used = [i for i, name in enumerate(HEAD) if name in columns and any(cells[i] for cells in rows)]
    table = Table(padding=(0, 1))
    for i in used:  # on a narrow terminal the columns with prose shrink
        table.add_column(HEAD[i], no_wrap=HEAD[i] not in ("what", "why"), min_width=20 if HEAD[i] == "why" else None)
    for cells in rows:
        style = {"state": COLOURS.get(cells[2], "")}
        table.add_row(*(Text(cells[i], style.get(HEAD[i], ""), no_wrap=True, overflow="ellipsis") for i in used))
    return table


def render_table(runs: dict[str, Run], shared: SharedFolder) -> Group:
    """Counts by method and stage, the first ROWS runs that are not done, and a summary."""
    left = [run for run in sort_by_need(runs.values()) if run.state != "done"]
    by_stage = Table("method", "stage", "done", "of")
    for (method, stage), numbers in count_by_stage(runs.values()).items():
        by_stage.add_row(method, stage, str(numbers["done"]), str(sum(numbers.values())))
    return Group(by_stage, *([render_rows(left[:ROWS])] if left else []),
                 *([Text(f"... and {len(left) - ROWS} more that are not done")] if len(left) > ROWS else []),
                 Text(summarise(runs, shared)))


def summarise_local(runs: Iterable[Run], done_before: int, seconds: float) -> str:
    """The number of runs by state in a sweep on this machine, the time so far, and the time left at this rate."""
    numbers = count_states(runs)
    new = numbers["done"] - done_before
    to_come = sum(numbers.pop(state) for state in ("waiting", "lost", "missing"))
    left = numbers["running"] + to_come
    text = f"{format_states({**numbers, 'to come': to_come})}; {format_seconds(seconds)} so far"
    return text + (f", {format_seconds(seconds / new * left)} left at this rate" if new and left else "")


def render_live(runs: Iterable[Run], summary: str, height: int) -> Group:
    """The failed, lost and running runs, as many as fit on a screen of this height, and the summary."""
    shown = [run for run in sort_by_need(runs) if run.state in ("failed", "parked", "lost", "running")]
    room = max(1, height - 8)  # the lines of the table's frame, and the summary
    return Group(*([render_rows(shown[-room:], LOCAL_HEAD)] if shown else []), Text(summary))


def list_at_work(runs: Iterable[Run], summary: str) -> str:
    """The summary and the progress of the running runs, in one line."""
    lines = dict.fromkeys(f"{run.progress.title} {run.progress.done}/{run.progress.total}" for run in runs if run.progress)
    return "; ".join([summary, *lines])


def follow_log(run: str, shared: SharedFolder, is_over: Callable[[], bool], write: Callable[[str], object],
               poll_seconds: float = 1.0) -> None:
    """Write the run's log as it grows, and then the log of each newer attempt, until is_over() is true."""
    path, position = shared.newest_logs().get(run), 0
    while True:
        over, newest = is_over(), shared.newest_logs().get(run)
        if newest != path:
            path, position = newest, 0
        if path:
            with path.open("rb") as f:
                f.seek(position)
                data = f.read()
            position += len(data)
            write(data.decode(errors="replace"))
        if over:
            return
        time.sleep(poll_seconds)
