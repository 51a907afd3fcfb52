"""Reads YAML files safely, with the line of every key. 1e-3 is a number here, though PyYAML reads it as text."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # PyYAML follows YAML 1.1, which takes 1e-3 for text

Keys = tuple[str | int, ...]  # the path from the top of a document to a value


@dataclass(frozen=True)
class Document:
    """A YAML mapping and the line of each of its values."""

    path: Path
    value: dict[str, Any]
    lines: dict[Keys, int]

    def place(self, keys: Keys) -> str:
        """The text "FILE line N" for the value at `keys`, or for the nearest value around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.path} line {self.lines[keys]}" if keys else str(self.path)


def read_document(path: Path) -> Document:
    """The YAML mapping in path, with its lines; UserError if there is none."""
    try:
        value, lines = _parse(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a YAML file is needed") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, a 13th month, a huge integer
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise UserError(f"{path} is not valid YAML{'' if line is None else f' (line {line + 1})'}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, it holds {type(value).__name__}")
    return Document(path, parse_numbers(value), lines)


def read_yaml(path: Path) -> dict[str, Any]:
    """The YAML mapping in path; UserError if there is none."""
    return read_document(path).value


def parse_value(text: str, what: str) -> Any:
    """The value of a YAML text, e.g. of `--set KEY=VALUE`; UserError if it is not YAML. what: begins the error."""
    try:
        return parse_numbers(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{what}: {text!r:.200} is not YAML ({type(error).__name__})") from None


def parse_numbers(value: Any) -> Any:
    """A copy of the value in which texts such as 1e-3 are floats."""
    if isinstance(value, dict):
        return {k: parse_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [parse_numbers(v) for v in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


@functools.lru_cache
def _parse(text: str) -> tuple[Any, dict[Keys, int]]:
    """(value, lines) of a YAML text. Both are shared between calls and must not be changed."""
    node = yaml.compose(text, yaml.SafeLoader)
    return yaml.safe_load(text), dict(_lines(node, ()))


def _lines(node: yaml.Node | None, keys: Keys) -> Iterator[tuple[Keys, int]]:
    if isinstance(node, yaml.MappingNode):
        own = [(key, value) for key, value in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # <<: *anchor; the mapping's own keys come later and win
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _lines(merged, keys)
        for key, value in own:
            inner = (*keys, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*keys, i), value.start_mark.line + 1
            yield from _lines(value, (*keys, i))
