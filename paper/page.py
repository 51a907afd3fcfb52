"""Writes a static page of results: a folder that a browser opens from disk, without a network."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from bench.core.errors import UserError
from bench.core.files import replace_file, write_text
from bench.report.aggregate import Report
from paper.page_data import data_of

STATIC = Path(__file__).parent / "static"
PAGES = {"index": "Leaderboard", "compare": "Compare", "runs": "Runs", "figures": "Figures"}

FIGURES = {  # the first word of a figure's file -> its heading, and a description for readers who cannot see it
    "auroc": ("Macro AUROC", "Dot plots of macro AUROC with intervals, a panel per task and protocol, a line per method. The "
                             "leaderboard holds the same numbers."),
    "labels": ("Labels", "Macro AUROC against the share of patients whose labels train, a line per method."),
    "along": ("Along pre-training", "Macro AUROC along pre-training, beside loss and RankMe, a line per method."),
    "cost": ("Cost", "Macro AUROC against the time of pre-training, a mark per method."),
    "reliability": ("Reliability", "The share observed minus the predicted probability, against that, a line per method."),
    "classes": ("Classes", "Differences in AUROC per class between two methods."),
    "ranks": ("Ranks", "Critical-difference diagram: methods at their mean rank over tasks. A bar joins those that a test does "
                       "not tell apart."),
    "pretraining": ("Pre-training", "Loss, RankMe and feature sd against the step, a row of panels per recipe. The page of a run "
                                    "holds its numbers."),
}


def write(report: Report, out: Path, drawn: Sequence[Path] = (), pictures: Sequence[Path] = ()) -> list[Path]:
    """Write the pages and return them, index.html first. The same results give the same bytes.

    drawn: the files of the report's figures; the SVGs are shown. pictures: further pictures to show, e.g. ECGs.
    """
    for path in pictures:
        if path.suffix not in (".svg", ".png"):
            raise UserError(f"--picture {path} must end in .svg or .png; `ecgssl data plot STORE ID --out ecg.svg` makes one")
        if not path.is_file():
            raise UserError(f"--picture {path} does not exist")
    files = {path_in(out / "data", f"{name}.js"): script(name, value) for name, value in data_of(report).items()}
    for path, text in files.items():
        write_text(path, text)
    for path in (out / "data").resolve().glob("*/*.js"):  # of results that are gone
        if path not in files:
            path.unlink(missing_ok=True)
    for path in sorted(STATIC.iterdir()):
        if path.suffix != ".html":
            copy(path, out / path.name)
    bodies = {name: (STATIC / f"{name}.html").read_text() for name in ("index", "compare", "runs")}
    bodies["figures"] = figures(drawn, pictures, out)
    for name, body in bodies.items():
        write_text(out / f"{name}.html", frame(name, body))
    return [out / f"{name}.html" for name in bodies]


def path_in(folder: Path, name: str) -> Path:
    """The path of that name in the folder; UserError if the name leads out of the folder, by ".." or as an absolute path."""
    path = (folder / name).resolve()
    if ".." in Path(name).parts or not path.is_relative_to(folder.resolve()):
        raise UserError(f"a result names {name!r}, which would be a file outside {folder}; remove that result")
    return path


def frame(name: str, body: str) -> str:
    """The HTML of a page: the frame that all pages share, with this body."""
    links = "".join(f'<li><a href="{key}.html"{" aria-current=page" if key == name else ""}>{title}</a></li>'
                    for key, title in PAGES.items())
    return Template((STATIC / "frame.html").read_text()).substitute(title=PAGES[name], links=links, body=body.strip())


def script(name: str, value: Any) -> str:
    """JavaScript that passes a value to the page by its name. A page opened from disk may load scripts, but no JSON."""
    text = json.dumps([name, value], sort_keys=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"page.put(...{text});\n"


def copy(path: Path, to: Path) -> None:
    """Write a file's bytes to another path."""
    with replace_file(to) as file:
        file.write(path.read_bytes())


def figures(drawn: Sequence[Path], pictures: Sequence[Path], out: Path) -> str:
    """The body of the page of figures, whose files are copied beside it."""
    parts = ["<h1>Figures</h1>"]
    kinds: dict[str, list[Path]] = {}
    for path in drawn:
        if path.suffix == ".svg":
            kinds.setdefault(path.stem.partition("-")[0], []).append(path)
    if kinds:
        parts.append("<p>Made from the results by <code>ecgssl report</code>, which writes each as PNG and PDF, too.</p>")
    for kind, paths in kinds.items():
        title, text = FIGURES.get(kind, (kind.replace("_", " ").capitalize(), f"Figure {kind}."))
        parts.append(f"<h2>{html.escape(title)}</h2>")
        for path in paths:
            copy(path, path_in(out / "figures", path.name))
            rest = path.stem.partition("-")[2].replace("-", " ")
            parts.append(picture(f"figures/{path.name}", f"{text} ({rest})" if rest else text, "figure"))
    if pictures:
        parts.append("<h2>Pictures</h2>")
    for i, path in enumerate(pictures, 1):
        copy(path, out / "figures" / f"picture-{i}{path.suffix}")
        parts.append(picture(f"figures/picture-{i}{path.suffix}", path.stem, "picture"))
    return "\n".join(parts)


def picture(source: str, text: str, kind: str) -> str:
    """A figure in a box of its own that scrolls: an ECG keeps its scale on a narrow screen."""
    name, text = html.escape(source), html.escape(text)
    return (f'<figure class="{kind}"><div class="scroll" tabindex="0" role="region" aria-label="{text}">'
            f'<img src="{name}" alt="{text}" loading="lazy"></div><figcaption>{text}</figcaption></figure>')
