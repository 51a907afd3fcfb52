"""The names of rows, columns and tables in text."""

from bench.report.aggregate import Column
from bench.report.names import MISSING as MISSING
from bench.report.names import Name
from bench.report.results import METRICS, RANDOM, EvaluationRecipe
from bench.report.rows import Row

RANDOM_ROW = "random / from scratch"
SHUFFLED = "labels shuffled"  # stands after the store's name for controls


def label(name: Name) -> str:
    """A name as text; in brackets the settings that distinguish it from its namesakes: "linear (evaluation.steps=20)"."""
    text = RANDOM_ROW if name.name == RANDOM else name.name
    return f"{text} ({name.settings_text})" if name.settings else text


def row_label(row: Row) -> str:
    """A row's name in the tables of a report."""
    return label(row.name)


def store_label(key: EvaluationRecipe) -> str:
    """The store that was tested on: "ptb-xl", "ludb (trained on ptb-xl)" if external, "ptb-xl, labels shuffled" for controls."""
    text = f"{key.external} (trained on {key.store})" if key.external else key.store
    return f"{text}, {SHUFFLED}" if key.control else text


def series_label(column: Column) -> str:
    """A column's name among the columns of all tasks, checkpoints and shares of the labels on its store."""
    return label(column.series)


def task_label(column: Column) -> str:
    """The task and, unless it is macro AUROC, the metric."""
    return column.key.task if column.metric == "macro_auroc" else f"{column.key.task} ({METRICS[column.metric]})"
