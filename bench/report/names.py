"""Names of rows and columns: a name, and the settings that distinguish it from its namesakes. paper/ writes them as text."""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.core.models import Model
from bench.runs.config import EvaluationConfig, PretrainConfig

MISSING = "--"
Key = TypeVar("Key")
Config = PretrainConfig | EvaluationConfig


@dataclass(frozen=True)
class Name:
    """A method or protocol, and the settings in which this recipe of it differs from the others."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()  # (dotted key, value; MISSING where this recipe has no such key)

    @functools.cached_property
    def settings_text(self) -> str:
        """The settings as "key=value, ...", written once although hundreds of thousands of lines of a report name a row."""
        return ", ".join(f"{key}={text_of(value)}" for key, value in self.settings)


def leaves(config: Model | Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a recipe's settings, without seed, pre-training, fingerprints and the external store.

    The mixture of corpora is one value.
    """
    return dict(_leaves(config.to_json() if isinstance(config, Model) else config, ""))


def _leaves(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        name = f"{prefix}{key}"
        if name == "views" or (isinstance(value, Mapping) and name != "data.mix"):
            yield from _leaves(value, f"{name}.")
        elif name not in ("seed", "pretrain") and not name.startswith(("data.fingerprint", "external.")):
            yield name, value


def fingerprints(config: Config) -> dict[str, str]:
    """{store: fingerprint} of the stores that a run reads."""
    if isinstance(config, PretrainConfig):
        return dict(config.data.fingerprints)
    stores = {config.data.store: config.data.fingerprint}
    if config.external.store:
        stores[config.external.store] = config.external.fingerprint
    return stores


def text_of(value: Any) -> str:
    """A setting's value as a text for the option --set."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def distinguish(recipes: Mapping[Key, tuple[str, Config]]) -> dict[Key, Name]:
    """{key: (name, config)} -> {key: its Name}, sorted by name, then by the settings in which namesakes differ.

    If recipes differ only in the content of their stores, their Names hold the fingerprints.
    """
    namesakes: dict[str, dict[Key, dict[str, Any]]] = {}
    for key, (name, config) in recipes.items():
        namesakes.setdefault(name, {})[key] = leaves(config)
    out: list[tuple[str, list[Any], str, Key, Name]] = []
    for name, peers in namesakes.items():
        differ = differing(peers.values())
        equal: dict[str, list[Key]] = {}
        for key, settings in peers.items():
            equal.setdefault(text_of([settings.get(leaf) for leaf in differ]), []).append(key)
        for keys in equal.values():
            prints = {key: {f"fingerprint of {store}": value for store, value in fingerprints(recipes[key][1]).items()}
                      for key in keys} if len(keys) > 1 else {}
            others = differing(prints.values())
            for key in keys:
                own = [(leaf, peers[key].get(leaf, MISSING)) for leaf in differ]
                own += [(leaf, prints[key].get(leaf, MISSING)) for leaf in others]
                order = [(0, v, "") if isinstance(v, int | float) else (1, 0, text_of(v)) for _, v in own]
                out.append((name, order, str(key), key, Name(name, tuple(own))))
    out.sort(key=lambda each: each[:3])
    return {key: name for *_, key, name in out}


def differing(peers: Iterable[Mapping[str, Any]]) -> list[str]:
    """The sorted keys whose values differ between these settings."""
    peers = list(peers)
    keys = sorted({key for settings in peers for key in settings})
    return [key for key in keys if len({text_of(settings.get(key, MISSING)) for settings in peers}) > 1]
