"""A run is a plain dict: base.yaml <- methods/<name>.yaml <- key=value overrides. Its hash names it."""

import contextlib
import copy
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError, unknown

ROOT = Path(__file__).resolve().parents[2]
METHODS = "ECGSSL_METHODS"  # environment variable: folders of methods outside the repository
OWNED = {"method", "views"}  # a method's yaml brings them whole; its constructor and views.py check them
WHOLE = {"data.mix", "data.fingerprints", "views"}  # keyed by the user's names: any key, replaced whole
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

Config = dict[str, Any]


def method_files() -> dict[str, Path]:
    """Method -> its yaml, sorted: of methods/, and of the folders that ECGSSL_METHODS names as PATH names some."""
    found: dict[str, Path] = {}
    outside = [Path(text).resolve() for text in os.environ.get(METHODS, "").split(os.pathsep) if text]
    for folder in dict.fromkeys([ROOT / "methods", *outside]):
        if not folder.is_dir():
            raise UserError(f"{METHODS} or --methods names {folder}, which is not a folder")
        for path in folder.glob("*.yaml"):
            if path.stem in found:
                raise UserError(f"two methods are called {path.stem!r}: {found[path.stem]} and {path}; rename one")
            if not path.with_suffix(".py").is_file():
                raise UserError(f"method {path.stem!r}: {path} has no {path.stem}.py beside it")
            found[path.stem] = path
    return dict(sorted(found.items()))


def methods() -> list[str]:
    """Names of the known methods, sorted."""
    return list(method_files())


def load(method: str, overrides: Iterable[str | tuple[str, Any]] = ()) -> Config:
    """The config of a pre-training; overrides are "key=value" texts (YAML values) or (key, value) pairs."""
    files = method_files()
    if method not in files:
        raise unknown("method", method, files)
    config = merge(read_yaml(ROOT / "bench" / "runs" / "base.yaml"), read_yaml(files[method]))
    if config["method"].get("name") != method:
        raise UserError(f"{files[method]}: method.name is {config['method'].get('name')!r}, it must be {method!r}")
    config = override(config, overrides)
    validate(config)
    if not config["optim"]["steps"]:  # its weights are drawn from the evaluation's seed: one run, whatever seed was named
        config["seed"] = 0
    return config


def override(config: Config, overrides: Iterable[str | tuple[str, Any]]) -> Config:
    """Set existing keys: override(c, ["optim.lr=3e-4"]) or override(c, [("optim.lr", 3e-4)])."""
    out = copy.deepcopy(config)
    for item in overrides:
        if isinstance(item, str):
            key, found, text = item.partition("=")
            if not found:
                raise UserError(f"--set {item!r} has no '='; write key=value, e.g. optim.lr=3e-4")
            item = (key.strip(), parse(text, key))
        key, value = item
        if key == "data.mix" and isinstance(value, str):
            value = mixture(value)
        *parents, leaf = key.split(".")
        node, where = out, ""
        for parent in parents:
            if parent not in node or not isinstance(node[parent], dict):
                raise unknown("key", key, (f"{where}{k}" for k in node))
            node, where = node[parent], f"{where}{parent}."
        if leaf not in node and where[:-1] not in WHOLE:
            raise unknown("key", key, (f"{where}{k}" for k in node))
        if leaf not in node or key in WHOLE:
            node[leaf] = floats(numbers(value))
        elif isinstance(node[leaf], dict) and isinstance(value, dict):
            node[leaf] = _overlay(node[leaf], numbers(value), f"{key}.")
        else:
            node[leaf] = _as_type_of(node[leaf], numbers(value), key)
    return out


def parse(text: str, where: str) -> Any:
    try:
        return numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {text!r} is not YAML ({type(error).__name__})") from None


def read_yaml(path: Path) -> Config:
    """A YAML mapping, with 1e-3 read as the number that it is (PyYAML reads it as text)."""
    try:
        value = _parsed(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a YAML file is needed") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, a 13th month, a huge integer
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise UserError(f"{path} is not valid YAML{'' if line is None else f' (line {line + 1})'}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, it holds {type(value).__name__}")
    return numbers(value)


@functools.lru_cache
def _parsed(text: str) -> Any:
    """What the YAML text says; shared, so not to be changed (numbers() copies): a sweep asks 10,000 times."""
    return yaml.safe_load(text)


@contextlib.contextmanager
def located(path: Path) -> Iterator[None]:
    """Let a UserError of the block name the one line of the YAML file in path that holds what it complains of."""
    try:
        yield
    except UserError as error:
        if path.is_file() and not re.search(r"\(line \d+\)", str(error)):
            lines = list(_lines(yaml.compose(path.read_text(), yaml.SafeLoader)))
            said = re.findall(r"'([^']+)'", str(error)) + re.findall(r"[\w-]+(?:\.[\w-]+)+", str(error))
            for word in [*said, *(word.rpartition(".")[2] for word in said)]:
                found = {line for name, line in lines if name == word}
                if len(found) == 1:
                    raise UserError(f"{error} ({path} line {found.pop()})") from None
        raise


def _lines(node: yaml.Node | None, parents: str = "") -> Iterator[tuple[str, int]]:
    """(what stands there, line) of every key, bare and with its parents, and every scalar."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for name in {str(key.value), f"{parents}{key.value}"}:
                yield name, key.start_mark.line + 1
            yield from _lines(value, f"{parents}{key.value}.")
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _lines(value, parents)
    elif isinstance(node, yaml.ScalarNode):
        yield str(node.value), node.start_mark.line + 1


def numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for text: give back the same value with such texts as floats."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def floats(value: Any) -> Any:
    """The same value with every int as a float: weights and views must name the same run as 3 and as 3.0."""
    if isinstance(value, dict):
        return {k: floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [floats(v) for v in value]
    return float(value) if type(value) is int else value


def mixture(name: str) -> dict[str, float]:
    """A named mixture of corpora: store -> probability."""
    known = read_yaml(ROOT / "bench" / "data" / "mixtures.yaml")
    if name not in known:
        raise unknown("mixture", name, known)
    return known[name]


def mixture_name(weights: dict[str, float]) -> str | None:
    """What a mixture is called, if it has a name."""
    known = read_yaml(ROOT / "bench" / "data" / "mixtures.yaml")
    return next((name for name in known if known[name] == weights), None)


def merge(base: Config, extra: Config) -> Config:
    """Overlay extra on base. New keys and changed types are errors, so a typo cannot pass silently."""
    return _overlay(base, extra, "")


def _overlay(base: Config, extra: Config, where: str) -> Config:
    out = copy.deepcopy(base)
    for key, value in extra.items():
        name = f"{where}{key}"
        if name in OWNED | WHOLE:
            value = _as_type_of(base[key], value, name) if not base[key] else value
            out[key] = floats(value) if name in WHOLE else value
        elif key not in base:
            raise unknown("key", name, (f"{where}{k}" for k in base))
        elif isinstance(base[key], dict) and isinstance(value, dict):
            out[key] = _overlay(base[key], value, f"{name}.")
        else:
            out[key] = _as_type_of(base[key], value, name)
    return out


def _as_type_of(old: Any, value: Any, name: str) -> Any:
    if type(old) is float and type(value) is int:  # 3 and 3.0 must name the same run
        value = float(value)
    if type(old) is int and type(value) is float and value.is_integer():  # 1e5 steps
        value = int(value)
    if type(value) is not type(old):
        raise UserError(f"{name} must be {type(old).__name__} (now {old!r}), got {value!r}")
    if isinstance(value, list) and old and all(type(v) is not list for v in old):
        value = [_as_type_of(old[0], v, f"{name}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}")
    return value


def validate(config: Config) -> None:
    """Refuse values that no run can have, naming the key."""
    optim, data = config["optim"], config["data"]
    rules = [
        (optim["steps"] >= 0, "optim.steps", "0 or more"),
        (optim["batch"] >= 1, "optim.batch", "1 or more"),
        (optim["accumulate"] >= 1 and optim["batch"] % optim["accumulate"] == 0, "optim.accumulate",
         f"a divisor of optim.batch ({optim['batch']})"),
        (optim["lr"] >= 0, "optim.lr", "0 or more"),
        (0 <= optim["warmup_steps"] < max(1, optim["steps"]) or not optim["steps"], "optim.warmup_steps",
         f"less than optim.steps ({optim['steps']})"),
        (optim["clip"] >= 0, "optim.clip", "0 (no clipping) or more"),
        (optim["precision"] in ("float32", "bfloat16"), "optim.precision", "float32 or bfloat16"),
        (len(optim["betas"]) == 2 and all(0 <= b < 1 for b in optim["betas"]), "optim.betas", "two numbers in [0, 1)"),
        (optim["eps"] > 0, "optim.eps", "positive"),
        (min(optim["weight_decay"], optim["final_weight_decay"]) >= 0, "optim.weight_decay", "0 or more, final_ too"),
        (data["rate_hz"] > 0, "data.rate_hz", "a positive rate"),
        (data["crop_seconds"] > 0, "data.crop_seconds", "a positive duration"),
        (config["encoder"]["patch"] > 0, "encoder.patch", "1 sample or more"),
        (0 <= config["encoder"]["dropout"] < 1, "encoder.dropout", "in [0, 1)"),
        (all(isinstance(at, float) and 0 < at < 1 for at in config["checkpoints"]["at"]), "checkpoints.at",
         "a list of shares of the steps, between 0 and 1"),
        (config["seed"] >= 0, "seed", "0 or more"),
        (config["encoder"]["registers"] >= 0, "encoder.registers", "0 or more"),
        (isinstance(data["mix"], dict), "data.mix", "a mapping of store to weight, or a mixture's name"),
        (isinstance(config["views"], list), "views", "a list of mappings, see bench/data/views.py"),
    ]
    for holds, key, needed in rules:
        if not holds:
            value: Any = config
            for part in key.split("."):
                value = value[part]
            raise UserError(f"{key} must be {needed}, got {value!r}")
    for name, weight in data["mix"].items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"data.mix.{name} must be a positive weight, got {weight!r}")
    total = math.fsum(data["mix"].values())
    if data["mix"] and abs(total - 1) > 1e-9:
        shares = ", ".join(f"{name}: {weight / total:.6g}" for name, weight in data["mix"].items())
        raise UserError(f"the weights of data.mix sum to {total:.9g}, not 1; in these proportions they are {{{shares}}}")


def run_id(config: Config) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON. Nothing about where or when it ran is inside."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:12]


def canonical(config: Config) -> str:
    """JSON with sorted keys and no spaces: equal configs, equal text."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
