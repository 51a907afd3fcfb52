"""The rows of a report: recipes of pre-training, and the random backbones that they are compared with."""

from dataclasses import dataclass, field

from bench.catalogue import twin_of
from bench.core.models import canonical
from bench.report.names import Name, distinguish
from bench.report.results import RANDOM, PretrainRecipe, Results
from bench.runs.config import MethodConfig, PretrainConfig


@dataclass(frozen=True, eq=False)
class Row:
    """One recipe of pre-training with all its seeds."""

    key: PretrainRecipe
    name: Name
    pretrained: tuple[tuple[int, str], ...]  # (seed, run_id) of each pre-training; empty if none has run
    twins: dict[str, str] = field(default_factory=dict)  # run_id -> run_id of the twin method's run, which has the same weights
    twin_methods: tuple[str, ...] = ()  # other methods that compute the same from these settings; this row holds their runs

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.key.method

    @property
    def config(self) -> PretrainConfig:
        """The recipe's config; its seed has no meaning."""
        return self.key.config

    @property
    def untrained(self) -> bool:
        """Whether its backbones learned nothing."""
        return self.method == RANDOM


def backbone_of(config: PretrainConfig) -> str:
    """The encoder and rate of a backbone as a text: a trained backbone is compared with the random one of the same text."""
    return canonical({"encoder": config.encoder.to_json(), "rate_hz": config.data.rate_hz})


def rows_of(results: Results) -> tuple[Row, ...]:
    """A row per recipe of pre-training. Random rows come first. There is one for every backbone, even if it has not run."""
    pretrained: dict[PretrainRecipe, dict[str, int]] = {}
    for run, config in results.configs.items():
        pretrained.setdefault(PretrainRecipe.of(config), {})[run] = config.seed
    twins = _merge_twins(pretrained)
    randoms = sorted((key for key in pretrained if key.method == RANDOM), key=lambda key: key.identity)
    backbones = {backbone_of(key.config) for key in randoms}
    for key in sorted(pretrained, key=lambda key: key.identity):
        if backbone_of(key.config) not in backbones:
            randoms.append(_random_like((randoms or [key])[0].config, key.config))
            pretrained[randoms[-1]] = {}
            backbones.add(backbone_of(key.config))
    names = distinguish({key: (key.method, key.config) for key in pretrained})
    rows = []
    for key, name in names.items():
        pairs, methods = twins.get(key, ({}, ()))
        runs = tuple(sorted((seed, run) for run, seed in pretrained[key].items()))
        rows.append(Row(key, name, runs, pairs, methods))
    return tuple(sorted(rows, key=lambda row: not row.untrained))


def _random_like(like: PretrainConfig, trained: PretrainConfig) -> PretrainRecipe:
    """The recipe of the random backbone that belongs to a trained one. like: a config that gives all other settings."""
    data = like.data.replace(mix=trained.data.mix, rate_hz=trained.data.rate_hz)
    return PretrainRecipe.of(like.replace(method=MethodConfig(name=RANDOM), data=data, encoder=trained.encoder))


def _merge_twins(pretrained: dict[PretrainRecipe, dict[str, int]]
                 ) -> dict[PretrainRecipe, tuple[dict[str, str], tuple[str, ...]]]:
    """Move the runs of a recipe into the recipe of the method's twin, if the twin has run. Returns each changed recipe's
    ({run_id: the moved run's run_id} for equal seeds, names of the moved methods).

    If both have run with the same seed, the two runs count as one: the moved run only fills in for missing evaluations.
    """
    out: dict[PretrainRecipe, tuple[dict[str, str], tuple[str, ...]]] = {}
    for key in sorted(pretrained, key=lambda key: key.identity):
        twin = twin_of(key.config)
        if twin is None:
            continue
        other = PretrainRecipe.of(key.config.replace(method=key.config.method.replace(name=twin)))
        if other not in pretrained:
            continue
        by_seed = {seed: run for run, seed in pretrained[other].items()}
        pairs, methods = out.get(other, ({}, ()))
        for run, seed in pretrained.pop(key).items():
            if seed in by_seed:
                pairs = pairs | {by_seed[seed]: run}
            else:
                pretrained[other][run] = seed
        out[other] = pairs, (*methods, key.method)
    return out
