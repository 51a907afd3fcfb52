"""A static page of records: a folder that a browser opens from disk, with nothing from a network."""

import html
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import replace_file, write_text
from bench.core.models import canonical
from bench.core.yaml import read_yaml
from bench.evaluation.metrics import RULES, interval
from bench.report.aggregate import FIRST_PROTOCOL, Column, Report, spread
from bench.report.names import distinguish, leaves, text_of
from bench.report.results import METRICS, OTHER_SCORES, RANDOM, Evaluation, PretrainRecipe
from bench.report.rows import Row
from bench.report.statistics import compare_pairs, holm
from bench.runs.config import BASE, EvaluationConfig, PretrainConfig, find_methods, load_pretrain_config, name_mixture
from paper.commands import commands_of, evaluation_options, set_options
from paper.families import mixture_of
from paper.labels import label, row_label, series_label, store_label
from paper.tables import notes_of

STATIC = Path(__file__).parent / "static"
PAGES = {"index": "Leaderboard", "compare": "Compare", "runs": "Runs", "figures": "Figures"}
PER_CLASS = ("positives", "auroc", "lower", "upper", "average_precision", "f1", "brier", "ece")
COST = ("seconds", "records_per_second", "peak_memory_mb", "parameters")
Pages = dict[str, dict[str, Any]]

ALT = {  # what a figure shows, for who does not see it, by the first word of its file's name; {} is the rest of that
    "auroc": "Dot plots of macro AUROC with intervals, a panel per task and protocol, a line per method. The leaderboard holds "
             "the same numbers. {}",
    "labels": "Macro AUROC against the share of labelled patients, a line per method. {}",
    "along": "Macro AUROC along pre-training, beside loss and RankMe. {}",
    "cost": "Macro AUROC against the cost of pre-training, a mark per method. {}",
    "reliability": "Reliability: the share observed minus the predicted probability, against that, a line per method. {}",
    "classes": "Differences in AUROC per class between two methods: {}.",
    "ranks": "Critical-difference diagram {}: methods at their mean rank over tasks, those not told apart joined by a bar.",
    "pretraining": "Curves of every pre-training: loss, RankMe and feature sd against the step. Each run's page holds the same "
                   "numbers. {}",
}


def write(report: Report, out: Path, drawn: Sequence[Path] = (), pictures: Sequence[Path] = ()) -> list[Path]:
    """The pages written, of which index.html is the first; same results, same bytes.

    drawn: the report's figures, of which the SVG is shown; pictures: of the user's choice, e.g. ECGs on paper.
    """
    for path in pictures:
        if path.suffix not in (".svg", ".png"):
            raise UserError(f"--picture {path} must end in .svg or .png; `ecgssl data plot STORE ID --out ecg.svg` makes one")
        if not path.is_file():
            raise UserError(f"--picture {path} does not exist")
    places = {row.key: i for i, row in enumerate(report.rows)}
    known: dict[str, str] = {}
    pages, recipes = runs(report, known)
    data: dict[str, Any] = {
        "board": board(report, places, known), "recipes": recipes,
        "rows": [dict(texts(row.config)) for row in report.rows], **{f"runs/{name}": page for name, page in pages.items()}}
    data |= {f"compare/{i}": found for i, found in enumerate(comparisons(report.columns, places))}
    for name, value in data.items():
        write_text(out / "data" / f"{name}.js", script(name, value))
    for path in out.glob("data/*/*.js"):  # of records that are gone
        if path.relative_to(out / "data").with_suffix("").as_posix() not in data:
            path.unlink(missing_ok=True)
    for path in sorted(STATIC.iterdir()):
        if path.suffix != ".html":
            copy(path, out / path.name)
    bodies = {name: (STATIC / f"{name}.html").read_text() for name in ("index", "compare", "runs")}
    bodies["figures"] = figures(drawn, pictures, out)
    for name, body in bodies.items():
        write_text(out / f"{name}.html", framed(name, body))
    return [out / f"{name}.html" for name in bodies]


def framed(name: str, body: str) -> str:
    """The HTML of a page: its body between what all have."""
    links = "".join(f'<li><a href="{key}.html"{" aria-current=page" if key == name else ""}>{title}</a></li>'
                    for key, title in PAGES.items())
    return Template((STATIC / "frame.html").read_text()).substitute(title=PAGES[name], links=links, body=body.strip())


def script(name: str, value: Any) -> str:
    """JavaScript that hands the value to the page under its name: a page opened from disk may load scripts, no JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'page.put("{name}",{text});\n'


def copy(path: Path, to: Path) -> None:
    with replace_file(to) as file:
        file.write(path.read_bytes())


def short(value: Any, digits: int = 6) -> Any:
    """The number as the page needs it; lists element by element, None as it is."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return [short(each, digits) for each in value] if isinstance(value, list | tuple) else value


def texts(config: PretrainConfig | EvaluationConfig) -> Iterable[tuple[str, str]]:
    """("optim.steps", "1000"), ..."""
    return ((key, text_of(value)) for key, value in leaves(config).items())


def corpora(config: PretrainConfig) -> str:
    """What a pre-training learned from, in few words: "none", or what mixture_of says."""
    return "none" if config.method.name == RANDOM else mixture_of(config.data.mix)


def board(report: Report, places: dict[PretrainRecipe, int], known: dict[str, str]) -> dict[str, Any]:
    """What the leaderboard shows: columns, rows, the options of commands, and a line per cell."""
    columns, rows = report.columns, report.rows
    names = distinguish({i: (row.method, bare(row)) for i, row in enumerate(rows)})
    shown = [{"label": row_label(row), "name": label(names[i]) if row.method != RANDOM else RANDOM, "method": row.method,
              "random": row.method == RANDOM, "size": row.config.encoder.size, "rate": row.config.data.rate_hz,
              "mix": corpora(row.config), "runs": [[run, seed] for seed, run in row.pretrained]}
             for i, row in enumerate(rows)]
    options: dict[str, int] = {}
    lines = []
    for number, c in ((i, c) for i, column in enumerate(columns) for c in column.cells):
        line: dict[str, Any] = {"column": number, "row": places[c.row.key], "todo": commands_of(c)}
        if c.runs:
            mean, sd, n = spread(c.values)
            of_random = np.mean(c.random.values) if c.random and c.random.runs else None
            line |= {"score": [short(x) for x in (mean, sd, *map(float, c.interval or ()))], "n": n,
                     "difference": short(c.difference), "p": short(c.p_holm, 3),
                     "random": None if of_random is None else short(float(of_random)),
                     "commits": sorted({commit(r.provenance) for r in c.runs}),
                     "runs": [[r.run_id, r.config.pretrain, r.config.seed,
                               options.setdefault(options_of(r, known), len(options))]
                              for r in sorted(c.runs, key=seeds)]}
        lines.append(line)
    count, (low, high) = RULES[report.rule]
    first = max(columns, key=lambda column: (sum(len(c.runs) for c in column.cells), column.key.protocol == FIRST_PROTOCOL,
                                             column.key.at, column.key.fraction))
    facts = [{"store": store_label(column.key), "task": column.key.task, "name": series_label(column), "at": column.key.at,
              "fraction": column.key.fraction, "metric": METRICS[column.metric]} for column in columns]
    return {"columns": facts, "rows": shown, "options": list(options), "cells": lines,
            "first": columns.index(first), "notes": notes_of(report),
            "rule": f"{low:g} and {high:g} percentiles of {count:,} resamples of the test records"}


def bare(row: Row) -> PretrainConfig:
    """The row's config without what the leaderboard shows in columns of their own, its size and its corpora."""
    config = row.config
    return config.replace(encoder=config.encoder.replace(size=""), data=config.data.replace(mix={}))


def options_of(evaluation: Evaluation, known: dict[str, str]) -> str:
    """evaluation_options, once per recipe."""
    key = f"{evaluation.config.evaluation.name} {evaluation.config.shuffle_labels} {evaluation.recipe.identity}"
    if key not in known:
        known[key] = evaluation_options(evaluation.config)
    return known[key]


def seeds(evaluation: Evaluation) -> tuple[int, int, str]:
    return evaluation.pretrain_config.seed, evaluation.config.seed, evaluation.run_id


def commit(provenance: Mapping[str, Any]) -> str:
    """The commit in ten digits, and whether the code had uncommitted changes."""
    return f"{(provenance.get('commit') or 'unknown')[:10]}{' with uncommitted changes' if provenance.get('dirty') else ''}"


def comparisons(columns: Sequence[Column], places: dict[PretrainRecipe, int]) -> list[dict[str, Any]]:
    """Of each column every two rows: difference, interval, p, p over all pairs of the table (Holm), difference per class."""
    found: list[dict[str, Any]] = []
    tables: dict[Any, list[list[float]]] = {}  # the tested pairs of each
    for column in columns:
        here = [c for c in column.cells if c.runs]
        classes = [{name: (positives, float(np.mean(values))) for name, positives, values in c.per_class()} for c in here]
        names = sorted(set().union(*classes))
        many = [i for i, c in enumerate(here) if len(c.runs) > 1]
        compared = compare_pairs([here[i].runs for i in many], list(itertools.combinations(range(len(many)), 2)))
        numbers: dict[tuple[int, int], list[float]] = {
            pair: [each.difference, each.lower, each.upper, each.p]
            for pair, each in zip(itertools.combinations(many, 2), compared, strict=True)}
        tested = tables.setdefault(column.key.table, [])
        tested += numbers.values()
        replicates = {i: c.replicates for i, c in enumerate(here)} if len(many) < len(here) else {}
        lines = []
        for i, j in itertools.combinations(range(len(here)), 2):
            if (i, j) not in numbers:
                numbers[i, j] = [float(np.mean(here[i].values) - np.mean(here[j].values)),
                                 *map(float, interval(replicates[i] - replicates[j], here[i].rule))]
            own, other = classes[i], classes[j]
            lines.append((f"{places[here[i].row.key]}-{places[here[j].row.key]}", numbers[i, j],
                          [own[name][1] - other[name][1] if name in own and name in other else None for name in names]))
        positives = [next(own[name][0] for own in classes if name in own) for name in names]
        found.append({"classes": names, "positives": positives, "pairs": lines, "tested": tested,
                      "means": {str(places[c.row.key]): [short(own.get(name, (0, None))[1], 4) for name in names]
                                for c, own in zip(here, classes, strict=True)}})
    for table in tables.values():
        for line, p in zip(table, holm([line[3] for line in table]), strict=True):
            line.append(p)
    for one in found:
        one["tested"] = len(one["tested"])
        one["pairs"] = {key: [short(line, 4), short(per_class, 3)] for key, line, per_class in one["pairs"]}
    return found


def runs(report: Report, known: dict[str, str]) -> tuple[Pages, list[Any]]:
    """({run_id of a pre-training: its config, curves, provenance, command, evaluations}, recipes of these evaluations)."""
    labels = {run: row_label(row) for row in report.rows for run in (*(run for _, run in row.pretrained), *row.twins.values())}
    found: Pages = {}
    recipes: dict[str, int] = {}
    shown: list[Any] = []
    for name, config in report.results.configs.items():
        found[name] = {"label": labels[name], "seed": config.seed, "config": list(texts(config)), "command": rerun(config),
                       "evaluations": [], "provenances": []}
    for trained in report.results.pretrainings:
        result = trained.result
        found[trained.run_id] |= {
            "provenance": origin(trained.provenance), "cost": {k: short(result[k]) for k in COST if k in result},
            **{part: {key: short(values, 5) for key, values in result[part].items()} for part in ("curves", "monitor")}}
    for r in report.results.evaluations:
        name, result, key = r.config.pretrain, r.result, r.recipe
        classes = sorted(result.get("per_class", {}).items())
        text = canonical({"options": options_of(r, known), "recipe": key.identity, "classes": [each for each, _ in classes]})
        if text not in recipes:
            recipes[text] = len(recipes)
            shown.append({"store": key.external or key.store, "task": key.task,
                          "protocol": r.config.evaluation.name, "at": key.at,
                          "fraction": key.fraction, "metric": METRICS[r.metric],
                          "options": options_of(r, known), "config": list(texts(r.config)),
                          "classes": [each for each, _ in classes]})
        scores = {"score": r.score, **{k: result[k] for k in OTHER_SCORES[r.metric] if k in result}}
        if origin(r.provenance) not in found[name]["provenances"]:
            found[name]["provenances"].append(origin(r.provenance))
        found[name]["evaluations"].append({
            "id": r.run_id, "seed": r.config.seed, "recipe": recipes[text], "records": result["records"]["test"],
            "scores": {k: short(v["value"] if isinstance(v, dict) else v, 4) for k, v in scores.items()},
            "interval": [short(float(x), 4) for x in interval(np.array(result["replicates"]), report.rule)],
            "provenance": found[name]["provenances"].index(origin(r.provenance)),
            "per_class": {k: [short(each.get(k), 3) for _, each in classes] for k in PER_CLASS
                          if any(each.get(k) is not None for _, each in classes)}})
    for page in found.values():
        page["evaluations"].sort(key=lambda e: (*(shown[e["recipe"]][k] for k in ("task", "store", "protocol", "at", "fraction")),
                                                e["recipe"], e["seed"]))
    return found, shown


def origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """("commit", "0123456789..."), ..."""
    return [(key, text_of(value)) for key, value in sorted(provenance.items())]


def rerun(config: PretrainConfig) -> str:
    """The command that runs a pre-training again: its stores and seed, and what differs from its method's defaults."""
    name, mix = config.method.name, config.data.mix
    if "imported" in config.method.arguments:
        saw = (f"--saw {shlex.quote(store)}" for store in sorted(mix) or ["unknown"])
        return " ".join(["ecgssl import FILE --as", shlex.quote(name), *saw])
    default = load_pretrain_config(name).to_json() if name in find_methods() else read_yaml(BASE)
    before = leaves(default)
    settings = [(key, value) for key, value in leaves(config).items() if key not in ("protocol", "method.name", "data.mix")
                and not key.startswith("views.") and before.get(key, ...) != value]
    if list(config.views) != default["views"]:
        settings.append(("views", config.to_json()["views"]))
    stores = [f"--store {shlex.quote(f'{store}={weight}')}" for store, weight in sorted(mix.items())]
    if len(mix) > 1 and (known := name_mixture(mix)):
        stores = [f"--mix {known}"]
    return " ".join(["ecgssl pretrain", shlex.quote(name), *stores, f"--seed {config.seed}", *set_options(settings)])


def figures(drawn: Sequence[Path], pictures: Sequence[Path], out: Path) -> str:
    """The body of the page of figures, whose files are copied beside it."""
    parts = ["<h1>Figures</h1>"]
    own = [path for path in drawn if path.suffix == ".svg"]
    if own:
        parts.append("<p>Made from the records by <code>ecgssl report</code>, which writes each as PNG and PDF, too.</p>")
    for path in own:
        copy(path, out / "figures" / path.name)
        word, _, rest = path.stem.partition("-")
        text = ALT.get(word, f"Figure {word} {{}}").format(rest.replace("-", " ")).strip()
        parts.append(picture(f"figures/{path.name}", text, "figure"))
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
