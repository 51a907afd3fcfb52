"""The published numbers in published.csv, and the rule by which a result here is compared with a number of arXiv 2410.13867."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.evaluation.protocols import load_defaults
from bench.report.aggregate import Cell, Column, Report
from bench.report.names import leaves
from bench.report.results import AFTER_LINEAR, FINETUNE, RANDOM, SCRATCH
from bench.report.rows import Row
from bench.runs.config import PretrainConfig, load_pretrain_config
from bench.runs.layers import overrides_of
from bench.runs.mixtures import name_mixture
from paper.labels import row_label

LINEAR, STORE, RATE_HZ = "linear", "ptb-xl", 500
SIZES = {"xs": "ViT-XS", "s": "ViT-S", "b": "ViT-B"}
DATA = {"all": "All", "mimic-iv-ecg": "MIMIC-IV-ECG", "ptb-xl": "PTB-XL"}
PAPER = "arXiv:2410.13867 README table"  # beginning of the source of rows from this README; quoted rows contain "quoting"
SINGLE = "superdiagnostic-single"
TASKS = {"all": "ptbxl-all", "diagnostic": "ptbxl-diag", "subdiagnostic": "ptbxl-sub", "superdiagnostic": "ptbxl-super",
         "form": "ptbxl-form", "rhythm": "ptbxl-rhythm", SINGLE: "ptbxl-super-single-label"}  # ours -> published.csv's
TESTED = {"all": 2198, "diagnostic": 2158, "subdiagnostic": 2158, "superdiagnostic": 2158, "form": 880, "rhythm": 2098,
          SINGLE: 1650}  # records of fold 10, PTB-XL 1.0.3
NEAR = 0.01  # allowed relative difference of the number of test records: versions differ by 0.2 %, duplicates may be dropped
FREE = ("seed", "data.resampling", "encoder.init", "optim.precision", "optim.compile", "optim.accumulate",
        "checkpoints.at")  # settings of a pre-training that may differ from the published recipe
AS_PUBLISHED = {"encoder.init": "xavier_uniform", "data.resampling": "periodic", "optim.precision": "float32"}
RUNS = 10  # number of runs behind a published mean
BATCH = {"xs": 2048, "s": 2048, "b": 1024}  # published configurations
Place = tuple[str, str, str]  # method, size, mixture ("" of random) of a pre-training of the paper


@dataclass(frozen=True)
class Fact:
    """A line of published.csv."""

    source: str
    model: str
    method: str
    pretrain_data: str
    task: str
    protocol: str
    metric: str
    value: str
    std: str
    url: str

    @property
    def system(self) -> tuple[str, ...]:
        """The system that the number is of: a line of a table."""
        return self.source, self.model, self.method, self.pretrain_data, self.task

    @property
    def of(self) -> str:
        """The name of the task in this benchmark; "" if it is not among TASKS."""
        return next((ours for ours, theirs in TASKS.items() if self.task.split("/")[0] == theirs), "")

    @property
    def place(self) -> Place | None:
        """The pre-training, if it is one of the paper's own on a backbone that this benchmark has; else None."""
        if not self.source.startswith(PAPER) or "quoting" in self.source:
            return None
        size = {v: k for k, v in SIZES.items()}[self.model]
        if self.method == "Random Init":
            return RANDOM, size, ""
        return "jepa", size, {v: k for k, v in DATA.items()}[self.pretrain_data]

    @property
    def ours(self) -> str:
        """The name of the protocol in this benchmark; "" if the number is of another system."""
        if self.place is None:
            return ""
        if self.protocol.startswith(LINEAR):
            return LINEAR
        if self.place[0] == RANDOM:
            return SCRATCH
        return AFTER_LINEAR if "two-stage" in self.protocol else FINETUNE


@cache
def facts() -> tuple[Fact, ...]:
    """published.csv, in its order."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as f:
        return tuple(Fact(**row) for row in csv.DictReader(f))


def place_of(config: PretrainConfig) -> Place | None:
    """The pre-training of the paper that the config describes, or None. The settings in FREE may differ."""
    method, size, name = config.method.name, config.encoder.size, name_mixture(config.data.mix) or ""
    if method not in (RANDOM, "jepa") or size not in SIZES or (name not in DATA and method != RANDOM):
        return None
    if _differs(leaves(config), _published(method, size, "" if method == RANDOM else name)):
        return None
    return method, size, "" if method == RANDOM else name


@cache
def _published(method: str, size: str, mix: str) -> Mapping[str, object]:
    """The settings of a pre-training of the paper, without those in FREE; for a random backbone, only rate and encoder."""
    config = load_pretrain_config(method, overrides_of(
        {"encoder.size": size, "data.mix": mix or "ptb-xl", "optim.batch": BATCH[size]}))
    wanted = {k: v for k, v in leaves(config).items() if k not in FREE}
    return wanted if mix else {k: v for k, v in wanted.items() if k == "data.rate_hz" or k.startswith("encoder.")}


def _differs(settings: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether the settings have another value for any key of `wanted`."""
    return any(settings.get(key, value) != value for key, value in wanted.items())


def task_of(column: Column) -> tuple[str, str] | None:
    """The paper's (task, protocol) that the column repeats, or None.

    The column must be of all of PTB-XL, the last checkpoint, all labels and default settings.
    """
    key = column.key
    first = next((c.runs[0] for c in column.cells if c.runs), None)
    if first is None or key.store != STORE or key.external or key.task not in TASKS:
        return None
    if key.protocol not in (LINEAR, FINETUNE, AFTER_LINEAR):
        return None
    wanted = leaves(load_defaults(key.protocol).value)
    for filled in ("task", "data.store", "evaluation.name"):
        del wanted[filled]
    tested, expected = first.result["records"]["test"], TESTED[key.task]
    if _differs(leaves(key.config), wanted) or abs(tested - expected) > NEAR * expected:
        return None
    return key.task, key.protocol


@dataclass(frozen=True)
class Ours:
    """Rows and cells of this report that belong into the tables of the paper."""

    cells: Mapping[tuple[Place, str, str], Cell]  # (pre-training, task, protocol); from scratch is fine-tuning of random
    rows: Mapping[Place, Row]
    others: Mapping[Place, Sequence[str]]  # labels of other rows that are the same pre-training

    def cell(self, place: Place, task: str, protocol: str) -> Cell | None:
        return self.cells.get((place, task, FINETUNE if protocol == SCRATCH else protocol))

    def command(self, place: Place, task: str, protocols: Sequence[str]) -> str:
        """The command that fills a pre-training's missing cells of a task; if it has not run, the command that runs it."""
        method, size, mix = place
        row = self.rows.get(place)
        if row is None or not row.pretrained:
            data = [f"--mix {mix}"] if mix else [f"--store {STORE}"]
            sets = [f"--set encoder.size={size}", f"--set encoder.init={AS_PUBLISHED['encoder.init']}",
                    *([f"--set optim.batch={BATCH[size]}"] if size == "b" and mix else [])]
            return " ".join([f"ecgssl pretrain {method}", *data, *sets])
        wanted = " ".join(f"--protocol {p}" for p in protocols)
        return f"ecgssl evaluate {row.pretrained[0][1]} --store {STORE} --task {task} {wanted} --seeds {RUNS}"


def ours_of(report: Report) -> Ours:
    """The rows and cells that repeat the paper's. If several rows do, the one closest to the published settings is chosen."""
    places: dict[Place, list[Row]] = {}
    for row in report.rows:
        place = place_of(row.config)
        if place:
            places.setdefault(place, []).append(row)
    for rows in places.values():
        rows.sort(key=lambda row: (not row.pretrained, _distance(row), row_label(row)))
    chosen = {place: rows[0] for place, rows in places.items()}
    by_row = {row.key: place for place, row in chosen.items()}
    cells = {}
    for column in report.columns:
        if task := task_of(column):
            for cell in column.cells:
                if cell.runs and cell.row.key in by_row:
                    cells[by_row[cell.row.key], *task] = cell
    return Ours(cells, chosen, {place: [row_label(row) for row in rows[1:]] for place, rows in places.items() if len(rows) > 1})


def _distance(row: Row) -> list[bool]:
    """For each setting of AS_PUBLISHED, whether the row differs from it. Rows sort by this list."""
    settings = leaves(row.config)
    return [settings.get(key) != value for key, value in AS_PUBLISHED.items()]
