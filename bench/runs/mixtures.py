"""Mixtures of corpora that have a name, from bench/data/mixtures.yaml."""

from functools import cache

from bench.core.errors import unknown
from bench.core.files import ROOT
from bench.core.yaml import read_yaml

MIXTURES = ROOT / "bench" / "data" / "mixtures.yaml"


def load_mixture(name: str) -> dict[str, float]:
    """A named mixture of corpora: store -> probability."""
    known = read_yaml(MIXTURES)
    if name not in known:
        raise unknown("mixture", name, known)
    return {store: float(weight) for store, weight in known[name].items()}


def name_mixture(weights: dict[str, float]) -> str | None:
    """The name of a mixture; None if it has no name."""
    return next((name for name in _mixtures() if load_mixture(name) == weights), None)


@cache
def _mixtures() -> tuple[str, ...]:
    return tuple(read_yaml(MIXTURES))
