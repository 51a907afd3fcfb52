"""What a sweep is doing: a table for the terminal, a page for the wall, a log that follows."""

import html
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slurm.plan import Run, counts, server_time
from slurm.shared import Shared, tail

ORDER = ("failed", "parked", "lost", "running", "blocked", "waiting", "missing", "done")  # what needs looking at first
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "parked": "red", "lost": "yellow", "blocked": "yellow"}
ROWS, PAGE_ROWS = 40, 500  # runs in the table, on the page; the rest are counted; ours
TAIL_BYTES = 8192  # of a log, to find how far a run is; ours
HOUR = 3600


@dataclass(frozen=True)
class Progress:
    done: int
    total: int
    left_seconds: float | None

    @property
    def steps_per_second(self) -> float | None:
        return (self.total - self.done) / self.left_seconds if self.left_seconds else None


def progress(run: Run) -> Progress | None:
    """How far a run, or the group of evaluations that it is in, is: from its log's last line about it ."""
    named = f"(?:{run.name}|evaluations of {run.pretrain})" if run.pretrain else run.name
    lines = re.findall(rf"{named}: (\d+)/(\d+), \d+ s(?:, (\d+) s left)?", tail(run.log, TAIL_BYTES) if run.log else "")
    if not lines:
        return None
    done, total, left = lines[-1]
    return Progress(int(done), int(total), float(left) if left else None)


def stage(run: Run) -> str:
    return run.config["evaluation"]["name"] if run.pretrain else "pretrain"


def what(run: Run) -> str:
    """What tells a run from its neighbours, in words."""
    parts = [run.method, run.size, stage(run)]
    if run.pretrain:
        parts += [run.config["task"], *([f"at {run.config['at']:g}"] if run.config["at"] != 1 else [])]
    return " ".join([*parts, f"seed {run.config['seed']}"])


def row(run: Run) -> list[str]:
    """run, what, state, progress, step/s, time left, node, attempts, why."""
    at = progress(run) if run.state == "running" else None
    speed = at.steps_per_second if at else None
    return [run.name, what(run), run.state, f"{at.done}/{at.total}" if at else "", f"{speed:.1f}" if speed else "",
            clock(at.left_seconds) if at and at.left_seconds is not None else "", run.node,
            str(run.attempts or ""), run.reason if run.reason != "None" else ""]


HEAD = ("run", "what", "state", "step", "step/s", "left", "node", "attempts", "why")


def clock(seconds: float) -> str:
    """2 d 03:04 or 03:04:05"""
    days, rest = divmod(round(seconds), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days} d {hours:02d}:{minutes:02d}" if days else f"{hours:02d}:{minutes:02d}:{rest % 60:02d}"


def stages(runs: Iterable[Run]) -> dict[tuple[str, str], dict[str, int]]:
    """(method, stage) -> state -> number of runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((f"{run.method} {run.size}", stage(run)), []).append(run)
    return {key: counts(group) for key, group in groups.items()}


def summary(runs: dict[str, Run], shared: Shared) -> str:
    """Counts by state, and how fast runs are finished."""
    found = counts(runs.values())
    text = f"{len(runs)} runs: " + ", ".join(f"{n} {state}" for state, n in found.items() if n)
    if found["done"] and found["done"] < len(runs):
        now = server_time(shared.results)
        recent = sum(f.name.removesuffix(".json") in runs and now - f.stat().st_mtime < HOUR
                     for f in os.scandir(shared.results))
        if recent:
            left = (len(runs) - found["done"]) / recent * HOUR
            text += f"; {recent} finished in the last hour, at that rate {clock(left)} left"
    return text


def ordered(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: ORDER.index(run.state))


def table(runs: dict[str, Run], shared: Shared) -> Group:
    """The first ROWS runs, those that need looking at first, and a summary."""
    shown = [run for run in ordered(runs.values()) if run.state != "done"][:ROWS]
    rows = [row(run) for run in shown]
    used = [i for i in range(len(HEAD)) if any(cells[i] for cells in rows)]
    body = Table(padding=(0, 1))
    for i in used:  # of a narrow terminal the columns that are prose lose most
        body.add_column(HEAD[i], no_wrap=HEAD[i] not in ("what", "why"), min_width=20 if HEAD[i] == "why" else None)
    for cells in rows:
        style = {"state": COLOURS.get(cells[2], "")}
        body.add_row(*(Text(cells[i], style.get(HEAD[i], ""), no_wrap=True, overflow="ellipsis") for i in used))
    by_stage = Table("method", "stage", "done", "of")
    for (method, name), found in stages(runs.values()).items():
        by_stage.add_row(method, name, str(found["done"]), str(sum(found.values())))
    more = sum(run.state != "done" for run in runs.values()) - len(shown)
    return Group(by_stage, *([body] if shown else []), *([Text(f"... and {more} more that are not done")] if more else []),
                 Text(summary(runs, shared)))


def page(runs: dict[str, Run], shared: Shared, title: str) -> str:
    """The same as one HTML file that loads itself anew; nothing in it comes from elsewhere."""
    bars = []
    for (method, name), found in stages(runs.values()).items():
        total = sum(found.values())
        parts = "".join(f'<i class="{state}" style="width:{100 * n / total:.2f}%" title="{n} {state}"></i>'
                        for state, n in found.items() if n)
        bars.append(f"<tr><th>{html.escape(method)}</th><td>{html.escape(name)}</td><td class=bar>{parts}</td>"
                    f"<td>{found['done']} / {total}</td></tr>")
    shown = [run for run in ordered(runs.values()) if run.state != "done"]
    rows = ["<tr>" + "".join(f"<td{f' class={run.state}' if i == 2 else ''}>{html.escape(cell)}</td>"
                             for i, cell in enumerate(row(run))) + "</tr>" for run in shown[:PAGE_ROWS]]
    more = f"<p>... and {len(shown) - PAGE_ROWS} more that are not done</p>" if len(shown) > PAGE_ROWS else ""
    legend = " ".join(f'<span class="{state}">{state}</span>' for state in ORDER)
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    return PAGE.format(title=html.escape(title), summary=html.escape(summary(runs, shared)), bars="\n".join(bars),
                       legend=legend, head=head, rows="\n".join(rows), more=more, when=time.strftime("%Y-%m-%d %H:%M:%S %Z"))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="15"><title>{title}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }}
table {{ border-collapse: collapse; margin: 1rem 0; width: 100% }}
th, td {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; vertical-align: top }}
.bar {{ width: 55%; white-space: nowrap }} .bar i {{ display: inline-block; height: 1rem; vertical-align: middle }}
i, span {{ background: #ddd }} span {{ padding: 0 .5rem }}
.done {{ background: #7bb97b }} .running {{ background: #79b6e8 }} .waiting {{ background: #d5dde5 }}
.failed, .parked {{ background: #e58080 }} .lost, .blocked {{ background: #f0c75e }} .missing {{ background: #eee }}
</style></head><body><h1>{title}</h1><p>{summary}</p><p>{legend}</p>
<table>{bars}</table>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table>{more}<p>{when}</p></body></html>
"""


def follow(run: str, shared: Shared, over: Callable[[], bool], write: Callable[[str], object],
           poll_seconds: float = 1.0) -> None:
    """Write the run's log as it grows, and that of the next attempt when it begins, until over() and nothing is new."""
    path, at = shared.logs().get(run), 0
    while True:
        last, newest = over(), shared.logs().get(run)
        if newest != path:
            path, at = newest, 0
        if path:
            with path.open("rb") as f:
                f.seek(at)
                data = f.read()
            at += len(data)
            write(data.decode(errors="replace"))
        if last:
            return
        time.sleep(poll_seconds)
