"""Writes tables as text: Markdown, CSV, LaTeX, HTML. Other modules decide what the tables hold."""

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.core.files import write_text
from bench.report.names import MISSING

BARE = re.compile(rf"([+-]?[\d,]+(\.\d+)?)?|{MISSING}")
MEANT = re.compile(r"[|$]|<(?!/?sup>|br>)")  # characters of a name that Markdown would interpret; this module writes the tags
FILL = 12  # largest number of commands that a table prints; its CSV holds all
TEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_\allowbreak{}", "%": r"\%",
       "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
       '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "--": r"\mbox{-{}-}", "[": "{[}", "]": "{]}",
       "/": r"/\allowbreak{}"}
CSS = """\
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 75rem; color-scheme: light dark; }
figure { margin: 0 0 3rem; overflow-x: auto; } table { border-collapse: collapse; }
caption { text-align: left; padding-bottom: .5rem; max-width: 60rem; }
th, td { padding: .15rem .6rem; text-align: left; vertical-align: top; }
thead { border-block: 2px solid; } tbody, tfoot { border-bottom: 1px solid; } thead th { font-weight: 600; }
tbody th[scope=row] { font-weight: normal; white-space: nowrap; } sup { line-height: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .6rem; } dd { margin: 0; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
th[scope=rowgroup] { font-style: italic; font-weight: normal; padding-top: .5rem; }
td.r { text-align: right; } td small { color: color-mix(in srgb, currentcolor 75%, transparent); }
th[scope=colgroup] { text-align: center; border-bottom: 1px solid; } code { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Entry:
    """The content of one place of a table."""

    text: str
    bold: bool = False
    marks: str = ""  # keys of the table's notes, a letter or sign each
    below: str = ""  # a second line, smaller where there is a smaller type


@dataclass(frozen=True)
class Table:
    """Lines in blocks below a head of one or two rows, with a caption, notes, and the commands that fill what is missing."""

    title: str
    caption: str
    head: Sequence[tuple[str, str]]  # (heading of a group of neighbouring columns or "", heading of the column)
    blocks: Sequence[tuple[str, Sequence[Sequence[Entry]]]]  # (heading or "", lines)
    notes: dict[str, str] = field(default_factory=dict)  # mark -> text
    fill: Sequence[tuple[str, str, str]] = ()  # (line, column of it that is missing, command)

    @property
    def sides(self) -> str:
        """The side of each column, e.g. "lrr": columns of bare numbers stand at the right."""
        columns = zip(*(line for _, block in self.blocks for line in block), strict=True)
        return "".join("r" if any(e.text for e in column) and all(BARE.fullmatch(e.text) for e in column) else "l"
                       for column in columns)


@dataclass(frozen=True)
class Sheet:
    """One or several tables that are one file of each kind, and their numbers in full."""

    name: str
    tables: Sequence[Table]
    data: Sequence[Mapping[str, Any]]  # the CSV's lines: column -> value

    def write(self, folder: Path) -> list[Path]:
        """The files written: folder/name.md, .csv, .tex, .html."""
        texts = {"md": f"# {self.name}\n\n" + "\n".join(markdown(t) for t in self.tables), "csv": as_csv(by_column(self.data)),
                 "tex": latex(self), "html": page(self)}
        for kind, text in texts.items():
            write_text(folder / f"{self.name}.{kind}", text)
        return [folder / f"{self.name}.{kind}" for kind in texts]


def as_csv(lines: Iterable[Sequence[Any]]) -> str:
    """The lines as CSV: floats in full, None as MISSING."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([MISSING if x is None else x for x in line] for line in lines)
    return text.getvalue()


def by_column(lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """A head and the lines as lists; None if a line does not have a column."""
    head = list(dict.fromkeys(key for line in lines for key in line))
    return [head, *([line.get(key) for key in head] for line in lines)]


def as_markdown(lines: Sequence[Sequence[str]], sides: str = "") -> str:
    head, *body = ["| " + " | ".join(MEANT.sub(r"\\\g<0>", text) for text in line) + " |" for line in lines]
    rule = "".join("---:|" if side == "r" else "---|" for side in sides or "l" * len(lines[0]))
    return "\n".join([head, f"|{rule}", *body])


def filling(fill: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """{command: text of the cells that it fills, "line: column, column"}."""
    by_command: dict[str, dict[str, list[str]]] = {}
    for line, column, command in fill:
        by_command.setdefault(command, {}).setdefault(line, []).append(column)
    return {command: "; ".join(f"{line}: {', '.join(dict.fromkeys(columns))}" for line, columns in what.items())
            for command, what in by_command.items()}


def first(fill: Sequence[tuple[str, str, str]]) -> tuple[list[tuple[str, str]], int]:
    """([(command, what it fills), ...] the first FILL, how many more there are)."""
    commands = list(filling(fill).items())
    return commands[:FILL], max(0, len(commands) - FILL)


def to_fill(fill: Sequence[tuple[str, str, str]], rest: str) -> list[str]:
    """The paragraph that lists what to run, in Markdown; empty where nothing is missing. rest: which file lists all of it."""
    shown, more = first(fill)
    lines = [f"- {what}: `{command}`" for command, what in shown]
    return ["To fill:\n\n" + "\n".join(lines + ([f"- and {more:,} more: {rest}"] if more else []))] if fill else []


def markdown(table: Table) -> str:
    def shown(e: Entry) -> str:
        text = f"**{e.text}**" if e.bold else e.text
        return text + (f"<sup>{e.marks}</sup>" if e.marks else "") + (f"<br>{e.below}" if e.below else "")

    lines = [[f"{group}: {name}" if group else name for group, name in table.head]]
    for heading, block in table.blocks:
        if heading:
            lines.append([f"*{heading}*", *[""] * (len(table.head) - 1)])
        lines += [[shown(e) for e in line] for line in block]
    notes = ["\n".join(f"- {mark}: {text}" for mark, text in table.notes.items())] if table.notes else []
    parts = [f"## {table.title}", table.caption, as_markdown(lines, table.sides), *notes, *to_fill(table.fill, "the CSV file")]
    return "\n\n".join(parts) + "\n"


def latex(sheet: Sheet) -> str:
    """A float per table, no wider than the line. Needs the packages booktabs, graphicx, textcomp (T1 fonts)."""
    parts = [f"% {sheet.name}: written by `ecgssl report`; needs booktabs, graphicx and T1 fonts\n"]
    for i, table in enumerate(sheet.tables, 1):
        label = sheet.name if len(sheet.tables) == 1 else f"{sheet.name}-{i}"
        parts.append("\n".join(_float(table, label)) + "\n")
    return "\n".join(parts)


def _float(table: Table, label: str) -> Iterator[str]:
    def row(texts: Iterable[str]) -> str:
        return " & ".join(texts) + r" \\"

    def shown(e: Entry) -> str:
        text = rf"\textbf{{{tex(e.text)}}}" if e.bold else tex(e.text)
        return text + (rf"\textsuperscript{{{tex(e.marks)}}}" if e.marks else "")

    n = len(table.head)
    yield r"\begin{table*}[tp]"
    yield r"\centering"
    yield rf"\caption{{{tex(table.caption)}}}\label{{tab:{label}}}"
    yield r"\footnotesize"
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{table.sides}}}"
    yield r"\toprule"
    if any(group for group, _ in table.head):
        groups = [(group, len(list(same))) for group, same in groupby(table.head, key=lambda column: column[0])]
        yield row(rf"\multicolumn{{{width}}}{{{'c' if group else 'l'}}}{{{tex(group)}}}" for group, width in groups)
        ends = [sum(width for _, width in groups[: i + 1]) for i in range(len(groups))]
        yield " ".join(rf"\cmidrule(lr){{{end - width + 1}-{end}}}"
                       for (group, width), end in zip(groups, ends, strict=True) if group)
    yield row(tex(name) for _, name in table.head)
    for heading, block in table.blocks:
        yield r"\midrule"
        if heading:
            yield row([rf"\multicolumn{{{n}}}{{l}}{{\textit{{{tex(heading)}}}}}"])
        for line in block:
            yield row(map(shown, line))
            if any(e.below for e in line):
                yield row(rf"{{\scriptsize {tex(e.below)}}}" for e in line) + r"[2pt]"
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    if table.notes:
        notes = (rf"\textsuperscript{{{tex(mark)}}} {tex(text)}\par" for mark, text in table.notes.items())
        yield "\n".join((r"\par\smallskip\parbox{\linewidth}{\raggedright\scriptsize", *notes, "}"))
    yield r"\end{table*}"
    for command, what in filling(table.fill).items():
        yield f"% to fill {what}: {command}"


def tex(text: str) -> str:
    """The text with LaTeX's special characters escaped. Two dashes stay two dashes; a dash before a number is a minus."""
    out, i = [], 0
    while i < len(text):
        key = text[i: i + 2] if text[i: i + 2] in TEX else text[i]
        minus = key == "-" and text[i + 1: i + 2].isdigit() and (not i or text[i - 1] in " [(,")
        out.append(r"\ensuremath{-}" if minus else TEX.get(key, key))
        i += len(key)
    return "".join(out)


def page(sheet: Sheet) -> str:
    tables = "\n".join(as_html(table) for table in sheet.tables)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
            f'content="width=device-width, initial-scale=1">\n<title>{html.escape(sheet.name)}</title>\n'
            f"<style>\n{CSS}</style>\n</head>\n<body>\n{tables}\n</body>\n</html>\n")


def as_html(table: Table) -> str:
    """A figure: the table, its notes, and what fills it."""
    def shown(e: Entry) -> str:
        text, marks, below = map(html.escape, (e.text, e.marks, e.below))
        text = f"<strong>{text}</strong>" if e.bold else text
        return text + (f"<sup>{marks}</sup>" if marks else "") + (f"<br><small>{below}</small>" if below else "")

    groups = [(group, [name for _, name in same]) for group, same in groupby(table.head, key=lambda column: column[0])]
    rows = 2 if any(group for group, _ in groups) else 1
    top = "".join(f'<th scope="colgroup" colspan="{len(names)}">{html.escape(group)}</th>' if group
                  else "".join(f'<th scope="col" rowspan="{rows}">{html.escape(name)}</th>' for name in names)
                  for group, names in groups)
    below = "".join(f'<th scope="col">{html.escape(name)}</th>' for group, names in groups if group for name in names)
    out = ["<figure>", "<table>", f"<caption><strong>{html.escape(table.title)}.</strong> {html.escape(table.caption)}</caption>",
           "<thead>", f"<tr>{top}</tr>", *([f"<tr>{below}</tr>"] if below else []), "</thead>"]
    for heading, block in table.blocks:
        out.append("<tbody>")
        if heading:
            out.append(f'<tr><th scope="rowgroup" colspan="{len(table.head)}">{html.escape(heading)}</th></tr>')
        for line in block:
            cells = [f'<td class="{side}">{shown(e)}</td>' for e, side in zip(line[1:], table.sides[1:], strict=True)]
            out.append(f'<tr><th scope="row">{shown(line[0])}</th>{"".join(cells)}</tr>')
        out.append("</tbody>")
    out.append("</table>")
    if table.notes:
        out += ["<dl>", *(f"<dt>{html.escape(m)}</dt><dd>{html.escape(t)}</dd>" for m, t in table.notes.items()), "</dl>"]
    commands, more = first(table.fill)
    if commands:
        lines = [f"<li>{html.escape(what)}: <code>{html.escape(command)}</code></li>" for command, what in commands]
        out += ["<p>To fill:</p>", "<ul>", *lines, *([f"<li>and {more:,} more: the CSV file</li>"] if more else []), "</ul>"]
    return "\n".join([*out, "</figure>"])
