"""A page of a few results, with hostile names, for the tests of the page."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from results_fixture import Runs

from paper import page

HOSTILE = "<script>window.hacked = 1</script>&amp;\"'"
CLASSES = {"MI": 7, f"</script>{HOSTILE}": 9, "NORM": 12}
PROTOCOLS = ("linear", "finetune")
PAGES = ("index.html", "compare.html", "runs.html", "figures.html")


def some_runs() -> Runs:
    """Two seeds of three methods, one with a hostile name, and random: two tasks, two protocols, a control; mae lacks a task."""
    runs, rng = Runs(), np.random.default_rng(0)
    for method, score in (("random", 0.6), ("jepa", 0.8), ("mae", 0.7), (HOSTILE, 0.65)):
        for seed in (0,) if method == "random" else (0, 1):
            trained = runs.pretrain(method, seed, commit="0123456789abcdef", device=HOSTILE)
            controls = [("superdiagnostic", "linear", n) for n in (1, 2, 3)]
            for task, protocol, shuffle in [*itertools.product(("superdiagnostic", HOSTILE), PROTOCOLS, (0,)), *controls]:
                if (method, task) == ("mae", HOSTILE):
                    continue
                head = "scratch" if (method, protocol) == ("random", "finetune") else protocol
                for own in (0, 1) if method == "random" else (seed,):
                    auroc = 0.5 if shuffle else score + 0.01 * seed
                    each = runs.evaluate(trained, (auroc + 0.01 * rng.standard_normal(20)).tolist(), own, head, auroc, task,
                                         shuffle_labels=shuffle)
                    each["provenance"]["commit"] = "fedcba9876543210"
                    each["result"]["per_class"] = {
                        name: {"auroc": auroc - 0.01 * i, "lower": auroc - 0.05, "upper": auroc + 0.05, "positives": n}
                        for i, (name, n) in enumerate(CLASSES.items())}
    return runs


def one_run() -> Runs:
    runs = Runs()
    runs.evaluate(runs.pretrain("jepa"), [0.5, 0.6])
    return runs


def written(runs: Runs, folder: Path, **options: Any) -> Path:
    """The page's folder."""
    page.write(runs.report(), folder, **options)
    return folder


def write_pages(folder: Path) -> Path:
    """Write the page of some_runs with three figures below folder; gives the page's folder."""
    drawn = [folder / name for name in ("auroc.png", "auroc.svg", "auroc.pdf", "ranks-1.svg", "new_figure.svg", "table.md")]
    for path in drawn:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='900' height='100'/>")
    return written(some_runs(), folder / "html", drawn=drawn)


def data(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text()
    put, value = json.loads(text.removeprefix("page.put(...").removesuffix(");\n"))
    assert put == name
    return value


def comparison(folder: Path, one: str, other: str) -> list[float]:
    """Difference, lower, upper, p and corrected p of two methods, linear on superdiagnostic."""
    board = data(folder, "board")
    place = {row["method"]: i for i, row in enumerate(board["rows"])}
    wanted = ("superdiagnostic", "linear", False)
    [number] = [i for i, c in enumerate(board["columns"]) if (c["task"], c["name"], c["control"]) == wanted]
    return list(data(folder, f"compare/{number}")["pairs"][f"{place[one]}-{place[other]}"][0])


def run_of(board: dict[str, Any], method: str) -> str:
    return str(next(row for row in board["rows"] if row["method"] == method)["runs"][0][0])
