"""The commands whose results fill missing cells of a table."""

import shlex
from collections.abc import Iterable
from typing import Any

from bench.evaluation.protocols import load_defaults
from bench.report.aggregate import Cell
from bench.report.names import leaves, text_of
from bench.report.results import FINETUNE, SCRATCH
from bench.runs.config import EvaluationConfig, PretrainConfig


def commands_of(cell: Cell) -> list[str]:
    """The commands that fill a cell; empty if it has runs, or can have none."""
    if cell.to_run is None:
        return []
    if not cell.to_run.runs:
        return [f"ecgssl pretrain {cell.row.method} {pretraining_options(cell.row.config)}"]
    config = cell.column.config
    if cell.row.untrained:  # there is one checkpoint, and fine-tuning it is training from scratch
        head = config.evaluation.replace(name=SCRATCH) if config.evaluation.name == FINETUNE else config.evaluation
        config = config.replace(evaluation=head, at=1.0)
    options = evaluation_options(config)
    return [f"ecgssl evaluate {run} {options} --seed {seed}" for run in cell.to_run.runs for seed in cell.to_run.seeds]


def evaluation_options(config: EvaluationConfig) -> str:
    """The options of `ecgssl evaluate` for this recipe, with --set for each setting that differs from its protocol's default."""
    protocol, task, store = config.evaluation.name, config.task, config.data.store
    defaults = leaves(load_defaults(protocol).value) | {"task": task, "data.store": store, "evaluation.name": protocol}
    differ = {key: value for key, value in leaves(config).items() if defaults.get(key) != value}
    external = [f"--external {config.external.store}"] if config.external.store else []
    at = [f"--at {differ.pop('at'):g}"] if "at" in differ else []
    return " ".join([f"--protocol {protocol} --task {task} --store {store}", *external, *at, *set_options(differ.items())])


def pretraining_options(config: PretrainConfig) -> str:
    """The options of `ecgssl pretrain` that choose the config's stores, rate and encoder; others keep their defaults."""
    differ = {key: value for key, value in leaves(config).items() if key == "data.rate_hz" or key.startswith("encoder.")}
    return " ".join([*store_options(config), *set_options(differ.items())])


def store_options(config: PretrainConfig) -> list[str]:
    """--store NAME=WEIGHT for each corpus of a pre-training."""
    return [f"--store {shlex.quote(f'{store}={weight}')}" for store, weight in sorted(config.data.mix.items())]


def set_options(settings: Iterable[tuple[str, Any]]) -> list[str]:
    """--set KEY=VALUE for each setting, sorted by key."""
    return [f"--set {shlex.quote(f'{key}={text_of(value)}')}" for key, value in sorted(settings)]
