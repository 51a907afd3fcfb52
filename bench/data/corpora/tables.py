"""Reads the csv tables of a corpus as texts, and checks their columns."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.core.errors import UserError


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a csv file, every value a text; UserError if the file is missing, is no csv, or ends within a row.

    columns: read only the first column and these, because all texts of a large table would fill the memory.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            rows = (row for row in csv.reader(f, strict=True) if row)
            names = next(rows, [])
            wanted = [i for i, name in enumerate(names) if not columns or not i or name in columns]
            values: list[list[str]] = [[] for _ in wanted]
            for number, row in enumerate(rows, 1):
                if len(row) != len(names):
                    raise UserError(f"{path}: row {number} has {len(row)} values, the header names {len(names)}")
                for i, column in zip(wanted, values, strict=True):
                    column.append(row[i])
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} does not exist, or is no file") from None
    except (csv.Error, UnicodeDecodeError):
        names = []
    if not names or any("\0" in text for column in [names, *values] for text in column):
        raise UserError(f"{path} is not a readable csv file")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r:.80}")
    return pd.DataFrame({names[i]: column for i, column in zip(wanted, values, strict=True)}, dtype=object)


def read_published_table(path: Path, columns: tuple[str, ...], corpus: str) -> pd.DataFrame:
    """The table of a corpus, with at least these columns and one row; UserError if it is missing or belongs to another corpus."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder")
    if not path.is_file():
        raise UserError(f"{path.parent} is not {corpus}: it holds no {path.name}")
    table = read_table(path, columns)
    for column in columns:
        if column not in table:
            raise UserError(f"{path} has no column {column!r}; that of {corpus} has {', '.join(columns)}")
    if table.empty:
        raise UserError(f"{path} lists no record")
    return table


def parse_whole_numbers(column: pd.Series, path: Path) -> pd.Series:
    """The column as integers (7.0 becomes 7); UserError names the first value that is not a whole number of up to nine digits."""
    text = column.astype(str)
    wrong = ~text.str.fullmatch(r"[0-9]{1,9}(\.0*)?").to_numpy(bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}: {column.name!s:.80} {text.iloc[row]!r:.80} in row {row + 1} is not a whole number "
                        f"from 0 to 999,999,999")
    return text.astype(float).astype(int)


def parse_numbers(column: pd.Series, path: Path) -> pd.Series:
    """The column's numbers as texts, each as short as possible; "" if the value is empty or NaN.

    UserError names the first value that is no number or does not fit into 32 bits.
    """
    value = pd.to_numeric(column.replace("", "nan"), errors="coerce").astype(float)
    missing = column.str.strip().str.lower().isin(("", "nan")).to_numpy(bool)
    wrong = ~missing & ~(value.abs() <= np.finfo(np.float32).max).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}: {column.name!s:.80} {column.iloc[row]!r:.80} in row {row + 1} is not a number")
    return value.map(repr).mask(missing, "")


def require_unique(column: pd.Series, path: Path) -> None:
    """UserError that names the first value that occurs twice in the column."""
    repeated = column[column.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: {column.name!s:.80} {repeated.iloc[0]!s:.80} occurs twice")
