"""Layers of settings: defaults, a file that overrides them, and values that a user sets. Each value has its origin."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.yaml import Document, Keys, parse_numbers, parse_value
from bench.runs.mixtures import load_mixture

REPLACED = {("data", "mix"), ("data", "fingerprints"), ("views",), ("method",)}  # a later layer replaces them whole
FREE = ("data.mix", "data.fingerprints")  # their keys are the user's own names


@dataclass(frozen=True)
class Override:
    """One value that a user sets. key: dotted, e.g. optim.lr. place: where the user wrote it, for error texts."""

    key: str
    value: Any
    place: str = ""


def parse_overrides(texts: Iterable[str]) -> list[Override]:
    """The overrides that texts KEY=VALUE of the option --set stand for; a value is YAML."""
    out = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r} has no '='; write key=value, e.g. optim.lr=3e-4")
        out.append(Override(key.strip(), parse_value(value, key)))
    return out


def overrides_of(values: dict[str, Any]) -> list[Override]:
    """The overrides that {dotted key: value} stands for."""
    return [Override(key, value) for key, value in values.items()]


@dataclass
class Layers:
    """The settings that all layers give, and for each value the place that it comes from."""

    value: dict[str, Any] = field(default_factory=dict)
    places: dict[Keys, str] = field(default_factory=dict)

    def add_document(self, document: Document) -> None:
        """Override the settings by those of a YAML file."""
        self._overlay(self.value, document.value, (), document)

    def _overlay(self, under: dict[str, Any], over: dict[str, Any], keys: Keys, document: Document) -> None:
        for key, value in over.items():
            path = (*keys, key)
            if isinstance(value, dict) and isinstance(under.get(key), dict) and path not in REPLACED:
                self._overlay(under[key], value, path, document)
                continue
            under[key] = copy.deepcopy(value)
            self.places |= {inner: document.place(inner) for inner in document.lines if inner[: len(path)] == path}

    def set(self, override: Override) -> None:
        """Set one existing key; UserError if no key has that name."""
        *parents, leaf = override.key.split(".")
        node, prefix, path = self.value, "", (*parents, leaf)
        end = f" ({override.place})" if override.place else ""
        for key in parents:
            if not isinstance(node.get(key), dict):
                raise UserError(f"{unknown('key', override.key, (f'{prefix}{k}' for k in node))}{end}")
            node, prefix = node[key], f"{prefix}{key}."
        if leaf not in node and prefix[:-1] not in FREE:
            raise UserError(f"{unknown('key', override.key, (f'{prefix}{k}' for k in node))}{end}")
        old, value = node.get(leaf), parse_numbers(override.value)
        if override.key == "data.mix" and isinstance(value, str):
            value = load_mixture(value)
        elif override.key == "views":
            value = floats(value)
        elif isinstance(old, dict) and isinstance(value, dict) and path not in REPLACED:
            value = _merge(old, value, override.key, end, strict=parents[:1] == ["method"])
        elif parents[:1] == ["method"]:
            value = _as_type_of(old, value, override.key, end)
        node[leaf] = value
        self.places = {keys: place for keys, place in self.places.items() if keys[: len(path)] != path}
        self.places[path] = override.place

    def locate(self, keys: Keys) -> str:
        """The place of the value that keys lead to, or of the nearest value around it."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, "")


def _merge(under: dict[str, Any], over: dict[str, Any], prefix: str, end: str, strict: bool) -> dict[str, Any]:
    """A copy of `under` in which the values of `over` override; strict: keys and types must be those of `under`."""
    out = copy.deepcopy(under)
    for key, value in over.items():
        name = f"{prefix}.{key}"
        if strict and key not in under:
            raise UserError(f"{unknown('key', name, (f'{prefix}.{k}' for k in under))}{end}")
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            out[key] = _merge(under[key], value, name, end, strict)
        else:
            out[key] = _as_type_of(under[key], value, name, end) if strict else value
    return out


def _as_type_of(old: Any, value: Any, name: str, end: str) -> Any:
    """A method's argument converted to the type that its yaml has, so that 3 and 3.0 name the same run."""
    if type(old) is float and type(value) is int:
        value = float(value)
    if type(old) is int and type(value) is float and value.is_integer():  # 1e5
        value = int(value)
    if type(value) is not type(old):
        raise UserError(f"{name} must be {type(old).__name__} (now {old!r}), got {value!r}{end}")
    if isinstance(value, list) and old and all(type(v) is not list for v in old):
        value = [_as_type_of(old[0], v, f"{name}[{i}]", end) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}{end}")
    return value


def floats(value: Any) -> Any:
    """The same value with every int as a float, so that views with 3 and with 3.0 name the same run."""
    if isinstance(value, dict):
        return {k: floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [floats(v) for v in value]
    return float(value) if type(value) is int else value
