"""The values in a result: which keys every result must have, and a compact form in which 100,000 results fit into memory.

A result is the content of one JSON file (results/README.md). Its key `result` becomes a LazyValues: small values are in memory;
a bulky value is a column that is read when the value is used.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np
import orjson

from bench.core.errors import UserError
from bench.runs.config import run_id

Result = dict[str, Any]

SCHEMA = 1
RUN_ID = re.compile(r"[0-9a-f]{12}")
METRICS = {"macro_auroc": "macro AUROC", "r2": "R2"}  # value of result.metric -> its name in text
TEXTS = ("calibration", "curve", "curves", "diagnostics", "grid", "monitor")  # keys of `result` that become a column of JSON
DIGITS = 6  # decimals of replicates in a result; float32 holds so many of a number near 1

# The keys of a result that the tables need, by kind; all other keys may change freely.
CONFIG = ["protocol", "seed", "method.name", "data.mix", "data.rate_hz", "encoder"]
EVALUATION = ["protocol", "seed", "pretrain", "data.store", "data.fingerprint", "task", "evaluation.name", "folds.test"]
NEEDED = {
    "pretrain": ["result.curves", "result.monitor", *(f"config.{k}" for k in CONFIG)],
    "evaluate": ["result.records.test", "result.bootstrap",
                 *(f"config.{k}" for k in EVALUATION), *(f"pretrain_config.{k}" for k in CONFIG)],
}


def metric_of(result: Result) -> str:
    """The metric of an evaluation, a key of METRICS. It is also the key of its score in the result's `result`."""
    name: str = result["result"].get("metric", "macro_auroc")
    return name


def parse(name: str, data: bytes) -> Result:
    """The result of run `name`, parsed from a file's bytes; UserError if check_result finds a fault."""
    try:
        result = orjson.loads(data)
        true_name = run_id(result["config"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _fault(error) from None
    check_result(name, true_name, result)
    return result  # type: ignore[no-any-return]


def check_result(name: str, true_name: str, result: Result) -> None:
    """UserError if the result is not that of run `name`, lacks a key, or holds a number that is not finite.

    true_name: the hash of the result's config.
    """
    try:
        if result["schema"] != SCHEMA or result["kind"] not in NEEDED or result["run_id"] != name:
            raise ValueError(f"schema must be {SCHEMA}, kind pretrain or evaluate, and run_id the file's name")
        if true_name != name:
            raise ValueError(f"its config was edited: the config's hash is {true_name}")
        for key in ["provenance", *NEEDED[result["kind"]]]:
            reduce(getitem, key.split("."), result)
        if result["kind"] == "evaluate":
            _check_numbers(result["result"], metric_of(result))
    except UserError:  # the file that holds the numbers is damaged
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _fault(error) from None


def _check_numbers(values: Mapping[str, Any], metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"its metric {metric!r} is not {' or '.join(METRICS)}")
    numbers: list[Any] = [[values[metric]], values["replicates"]]
    if metric == "macro_auroc":
        classes = values["per_class"]
        numbers += [classes.scores["auroc"]] if isinstance(classes, Classes) else [
            [each["positives"], each["auroc"]] for each in classes.values()]
    arrays = [np.asarray(each) for each in numbers]
    if not len(arrays[1]) or any(a.dtype.kind not in "if" or not np.isfinite(a).all() for a in arrays if a.size):
        raise ValueError("a number is not finite or there are no replicates")


def _fault(error: Exception) -> UserError:
    what = f"lacks {error}" if isinstance(error, KeyError) else f"is no result ({error})"
    return UserError(f"{what}; remove it and run that run again")


class Classes(Mapping[str, dict[str, Any]]):
    """A result's per_class: class -> its scores, sorted by class. `scores[key]` holds one score of every class, (C,) float64."""

    def __init__(self, positives: dict[str, int], keys: list[str], table: np.ndarray) -> None:
        self.positives = positives
        self.scores = dict(zip(keys, table.reshape(len(keys), len(positives)), strict=True))

    def __getitem__(self, name: str) -> dict[str, Any]:
        positives, i = self.positives[name], list(self.positives).index(name)
        return {key: v[i].item() for key, v in self.scores.items() if not np.isnan(v[i])} | {"positives": positives}

    def __iter__(self) -> Iterator[str]:
        return iter(self.positives)

    def __len__(self) -> int:
        return len(self.positives)


class LazyValues(Mapping[str, Any]):
    """A result's `result`. A bulky value is read again at each access, so keep a reference if you use it twice.

    Values are as in the JSON, with two exceptions: `replicates` is (R,) float64, and `per_class` is a Classes if all its scores
    are numbers.
    """

    __slots__ = ("bulky", "columns", "small")

    def __init__(self, small: dict[str, Any], bulky: Sequence[str], columns: Mapping[str, Any]) -> None:
        self.small, self.bulky, self.columns = small, bulky, columns

    def __getitem__(self, key: str) -> Any:
        if key in self.small:
            return self.small[key]
        if key not in self.bulky:
            raise KeyError(key)
        if key == "replicates":
            single = self.columns["replicates"]
            return self.columns["replicates_float64"] if single is None else np.round(single.astype(np.float64), DIGITS)
        if key == "per_class":
            return Classes(*_class_names(self.columns["classes"]), self.columns["class_scores"])
        return orjson.loads(self.columns[key])

    def __contains__(self, key: object) -> bool:
        return key in self.small or key in self.bulky

    def __iter__(self) -> Iterator[str]:
        yield from self.small
        yield from self.bulky

    def __len__(self) -> int:
        return len(self.small) + len(self.bulky)


@functools.lru_cache(1000)
def _class_names(text: str) -> tuple[dict[str, int], list[str]]:
    positives, keys = orjson.loads(text)
    return positives, keys


def to_columns(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A result's `result` -> ({key: small value}, {column: value} of the bulky keys); LazyValues reads both."""
    small, columns = {}, dict[str, Any]()
    for key, value in values.items():
        if key in TEXTS:
            columns[key] = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        elif key == "replicates" and (numbers := np.asarray(value)).dtype.kind in "if" and numbers.ndim == 1:
            numbers = numbers.astype(np.float64)
            single = numbers.astype(np.float32)
            if np.array_equal(np.round(single.astype(np.float64), DIGITS), numbers):
                columns |= {"replicates": single, "replicates_float64": None}
            else:
                columns |= {"replicates": None, "replicates_float64": numbers}
        elif key == "per_class" and (class_columns := _class_columns(value)):
            columns |= class_columns
        else:
            small[key] = value
    return small, columns


def _class_columns(value: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a per_class; {} if a score is not a number, so that per_class stays as it is."""
    names, keys = sorted(value), sorted({score for each in value.values() for score in each} - {"positives"})
    table = np.array([[value[name].get(score, np.nan) for name in names] for score in keys])
    if not table.size or table.dtype.kind not in "if" or any(type(value[n].get("positives")) is not int for n in names):
        return {}
    classes = [{name: value[name]["positives"] for name in names}, keys]
    return {"classes": orjson.dumps(classes).decode(), "class_scores": table.astype(np.float64).ravel()}


def bulky_keys(columns: Mapping[str, Any]) -> list[str]:
    """The keys of `result` that the columns of to_columns hold, sorted."""
    keys = {*TEXTS, "replicates"} & columns.keys() | ({"per_class"} if "classes" in columns else set())
    return sorted(keys)


def plain(result: Result) -> Result:
    """The same result in plain dicts and lists, as in its JSON. Do not change it: it shares parts with other results."""
    values = {key: dict(value) if isinstance(value, Classes) else value.tolist() if isinstance(value, np.ndarray) else value
              for key, value in result["result"].items()}
    return {**result, "result": values}


class Pool:
    """Makes equal lists and dicts of many results one object, so that they need memory only once."""

    def __init__(self) -> None:
        self.known: dict[bytes, Any] = {}

    def share(self, value: Any) -> Any:
        """The object of the pool that equals value. Do not change it afterwards."""
        return self.known.setdefault(orjson.dumps(value), value) if isinstance(value, dict | list) else value

    def share_parts(self, values: dict[str, Any]) -> dict[str, Any]:
        """The same dict with each of its values shared."""
        return {key: self.share(value) for key, value in values.items()}

    def share_result(self, result: Result) -> Result:
        """The same result; parts that equal those of other results are shared."""
        known = self.share_parts({key: value for key, value in result.items() if key not in ("config", "result")})
        return known | {"config": self.share_parts(result["config"]), "result": result["result"]}
