"""What rows, columns and tables are called in text."""

from bench.report.aggregate import Column
from bench.report.names import MISSING as MISSING
from bench.report.names import Name, text_of
from bench.report.results import METRICS, RANDOM, EvaluationRecipe
from bench.report.rows import Row

RANDOM_ROW = "random / from scratch"
SHUFFLED = "labels shuffled"  # after a store's name, of controls


def label(name: Name) -> str:
    """"linear (evaluation.steps=20)": the name and, in brackets, what tells it from its namesakes."""
    text = RANDOM_ROW if name.name == RANDOM else name.name
    settings = ", ".join(f"{key}={text_of(value)}" for key, value in name.settings)
    return f"{text} ({settings})" if settings else text


def row_label(row: Row) -> str:
    """What a row is called in the tables of a report."""
    return label(row.name)


def store_label(key: EvaluationRecipe) -> str:
    """The store that was tested on, and what is unusual about it: "ludb (trained on ptb-xl)", "ptb-xl, labels shuffled"."""
    text = f"{key.external} (trained on {key.store})" if key.external else key.store
    return f"{text}, {SHUFFLED}" if key.control else text


def series_label(column: Column) -> str:
    """What a column is called among the columns of all tasks, checkpoints and shares of the labels of its store."""
    return label(column.series)


def task_label(column: Column) -> str:
    """The task and, unless it is macro AUROC, the metric."""
    return column.key.task if column.metric == "macro_auroc" else f"{column.key.task} ({METRICS[column.metric]})"
