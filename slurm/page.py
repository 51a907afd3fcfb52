"""The state of a sweep as one HTML file, which reloads itself and needs no other files."""

import html
import time

from slurm.shared import SharedFolder
from slurm.states import Run
from slurm.status import HEAD, ORDER, count_by_stage, list_cells, sort_by_need, summarise

ROWS = 500  # number of runs on the page; the page only counts the rest


def render_page(runs: dict[str, Run], shared: SharedFolder, title: str) -> str:
    """The page: a bar per method and stage, and a row per run that is not done."""
    bars = []
    for (method, stage), numbers in count_by_stage(runs.values()).items():
        total = sum(numbers.values())
        parts = "".join(f'<i class="{state}" style="width:{100 * n / total:.2f}%" title="{n} {state}"></i>'
                        for state, n in numbers.items() if n)
        bars.append(f"<tr><th>{html.escape(method)}</th><td>{html.escape(stage)}</td><td class=bar>{parts}</td>"
                    f"<td>{numbers['done']} / {total}</td></tr>")
    left = [run for run in sort_by_need(runs.values()) if run.state != "done"]
    rows = ["<tr>" + "".join(f"<td{f' class={run.state}' if i == HEAD.index('state') else ''}>{html.escape(cell)}</td>"
                             for i, cell in enumerate(list_cells(run))) + "</tr>" for run in left[:ROWS]]
    more = f"<p>... and {len(left) - ROWS} more that are not done</p>" if len(left) > ROWS else ""
    legend = " ".join(f'<span class="{state}">{state}</span>' for state in ORDER)
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    return PAGE.format(title=html.escape(title), summary=html.escape(summarise(runs, shared)), bars="\n".join(bars),
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
