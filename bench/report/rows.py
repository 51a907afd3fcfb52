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
    pretrained: tuple[tuple[int, str], ...]  # (seed, run_id); empty where none has run
    twins: dict[str, str] = field(default_factory=dict)  # run_id -> that of the twin method's run with the same weights
    twin_methods: tuple[str, ...] = ()  # methods that compute the same by these settings, whose runs this row holds

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.key.method

    @property
    def config(self) -> PretrainConfig:
        """The recipe's config; its seed says nothing."""
        return self.key.config

    @property
    def untrained(self) -> bool:
        """Whether its backbones learned nothing."""
        return self.method == RANDOM


def backbone_of(config: PretrainConfig) -> str:
    """What a random backbone must share with a trained one to be compared with it: encoder and rate."""
    return canonical({"encoder": config.encoder.to_json(), "rate_hz": config.data.rate_hz})


def rows_of(results: Results) -> tuple[Row, ...]:
    """A row per recipe of pre-training. Random ones come first; every backbone has one, whether it has run or not."""
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
    """The recipe of the random backbone of a trained one; like: another recipe, from which it differs in nothing else."""
    data = like.data.replace(mix=trained.data.mix, rate_hz=trained.data.rate_hz)
    return PretrainRecipe.of(like.replace(method=MethodConfig(name=RANDOM), data=data, encoder=trained.encoder))


def _merge_twins(pretrained: dict[PretrainRecipe, dict[str, int]]
                 ) -> dict[PretrainRecipe, tuple[dict[str, str], tuple[str, ...]]]:
    """Move the runs of a recipe into that of its method's twin, if that has run; says what moved.

    Of a seed that both have run, the twin's run stands in where the other lacks an evaluation: it is no run more.
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
