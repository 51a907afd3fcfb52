"""The protocols of evaluation and their settings, from protocols.yaml."""

import functools
from pathlib import Path

from bench.core.errors import unknown
from bench.runs.config import Config, merge, read_yaml


@functools.cache
def _settings() -> Config:
    return read_yaml(Path(__file__).parent / "protocols.yaml")


def protocols() -> list[str]:
    return [name for name in _settings() if name != "shared"]


def defaults(protocol: str) -> Config:
    """The config of a protocol before anything is filled in or overridden."""
    if protocol not in protocols():
        raise unknown("protocol", protocol, protocols())
    config = merge(_settings()["shared"], _settings()[protocol])
    if protocol == "finetune-after-linear":
        config["after"] = defaults("linear")["evaluation"]
    return config
