"""Results with typed configs, as the report and the paper use them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from bench.core.errors import UserError
from bench.core.models import canonical, validate
from bench.runs.config import EvaluationConfig, PretrainConfig
from bench.runs.results import METRICS as METRICS
from bench.runs.results import read_results

RANDOM = "random"  # the method that trains nothing
SCRATCH, FINETUNE, AFTER_LINEAR = "scratch", "finetune", "finetune-after-linear"  # protocols that train the encoder
OTHER_SCORES = {"macro_auroc": ("macro_average_precision", "macro_f1", "f_max", "macro_brier", "macro_ece"),
                "r2": ("mae", "rmse", "pearson_r")}  # metric -> the scores that a result has beside it


@dataclass(frozen=True)
class PretrainRecipe:
    """What all seeds of a pre-training share: the key of a row. Recipes are equal if their configs differ in the seed only."""

    identity: str  # canonical JSON of the config without its seed
    config: PretrainConfig = field(compare=False, repr=False)

    @classmethod
    def of(cls, config: PretrainConfig) -> "PretrainRecipe":
        """The recipe of a pre-training."""
        config = config.replace(seed=0)
        return cls(canonical(config), config)

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.config.method.name


@dataclass(frozen=True)
class EvaluationRecipe:
    """What evaluations of many backbones and seeds share: the key of a column.

    Training from scratch is fine-tuning of an untrained backbone, so both have one recipe. Controls with differently shuffled
    labels also have one recipe: from one order of the labels, a head learns something by chance, which changes its score by some
    .05. Only the mean over many orders is informative.
    """

    identity: str  # canonical JSON of the config without its seed and its pre-training
    config: EvaluationConfig = field(compare=False, repr=False)  # seed 0, no pre-training; scratch is finetune

    @classmethod
    def of(cls, config: EvaluationConfig) -> "EvaluationRecipe":
        """The recipe of an evaluation."""
        head = config.evaluation.replace(name=FINETUNE) if config.evaluation.name == SCRATCH else config.evaluation
        config = config.replace(seed=0, pretrain="", evaluation=head, shuffle_labels=min(config.shuffle_labels, 1))
        return cls(canonical(config), config)

    def at_checkpoint(self, share: float) -> "EvaluationRecipe":
        """The same recipe on the checkpoint after this share of the pre-training's steps."""
        return EvaluationRecipe.of(self.config.replace(at=share))

    @property
    def protocol(self) -> str:
        """The protocol: linear, knn, finetune, ..."""
        return self.config.evaluation.name

    @property
    def task(self) -> str:
        """The task."""
        return self.config.task

    @property
    def store(self) -> str:
        """The store that the head was trained on. It was also tested there, unless there is an external store."""
        return self.config.data.store

    @property
    def external(self) -> str:
        """The external store that was tested on instead of the test folds; "" if there is none."""
        return self.config.external.store

    @property
    def at(self) -> float:
        """The checkpoint: the share of the pre-training's steps."""
        return self.config.at

    @property
    def fraction(self) -> float:
        """The share of the patients whose labels train."""
        return self.config.fraction

    @property
    def control(self) -> bool:
        """Whether the labels were shuffled, so that nothing could be learned from them."""
        return bool(self.config.shuffle_labels)

    @property
    def whole(self) -> bool:
        """Whether the last checkpoint is evaluated and all labels train."""
        return self.at == self.fraction == 1

    @property
    def table(self) -> tuple[bool, str, str, str]:
        """The table of the column: (control, tested store, training store or "" if it is the same, task). Tables sort by it."""
        return self.control, self.external or self.store, self.store if self.external else "", self.task


@dataclass(frozen=True, eq=False)
class Pretraining:
    """The result of a pre-training."""

    run_id: str
    config: PretrainConfig
    result: Mapping[str, Any]  # results/README.md says what it holds
    provenance: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of an evaluation."""

    run_id: str
    config: EvaluationConfig
    recipe: EvaluationRecipe
    pretrain_config: PretrainConfig
    result: Mapping[str, Any]  # results/README.md says what it holds
    provenance: Mapping[str, Any]
    saw: Mapping[str, Any]  # store -> what the pre-training saw of it

    @property
    def metric(self) -> str:
        """The metric, a key of METRICS."""
        return str(self.result.get("metric", "macro_auroc"))

    @property
    def score(self) -> float:
        """The metric's value on the test records."""
        return float(self.result[self.metric])

    @property
    def untrained(self) -> bool:
        """Whether the backbone learned nothing."""
        return self.pretrain_config.method.name == RANDOM


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a folder or a study, each kind sorted by run_id."""

    pretrainings: tuple[Pretraining, ...]
    evaluations: tuple[Evaluation, ...]

    @cached_property
    def all(self) -> list["Pretraining | Evaluation"]:
        """Pre-trainings, then evaluations."""
        return [*self.pretrainings, *self.evaluations]

    @cached_property
    def by_run(self) -> dict[str, Pretraining]:
        """run_id -> the pre-training's result."""
        return {each.run_id: each for each in self.pretrainings}

    @cached_property
    def configs(self) -> dict[str, PretrainConfig]:
        """run_id -> config of every pre-training that has a result here, or of which an evaluation has one."""
        return {each.config.pretrain: each.pretrain_config for each in self.evaluations} | {
            each.run_id: each.config for each in self.pretrainings}

    def without_controls(self) -> "Results":
        """The same results without the evaluations on shuffled labels."""
        return Results(self.pretrainings, tuple(each for each in self.evaluations if not each.recipe.control))


def load_results(path: Path, *, controls: bool = False) -> tuple[Results, list[str]]:
    """(the results of a folder or a Parquet file; for each skipped file, a line with the reason).

    controls: include evaluations whose labels were shuffled. UserError if there is no result.
    """
    read, skipped = read_results(path)
    results, bad = parse_results(read)
    skipped += [f"{path}, run {name} {why}" if path.is_file() else f"{path / name}.json {why}" for name, why in bad]
    if not results.all:
        raise UserError(f"{path} holds no result of this version; {skipped[0]}")
    return results if controls else results.without_controls(), skipped


def parse_results(values: Iterable[Mapping[str, Any]]) -> tuple[Results, list[tuple[str, str]]]:
    """(the typed results; (run_id, reason) of those whose config is not valid). values: results in the shape of their JSON."""
    parser = _Parser()
    pretrainings, evaluations, bad = list[Pretraining](), list[Evaluation](), list[tuple[str, str]]()
    for each in values:
        try:
            if each["kind"] == "evaluate":
                evaluations.append(parser.evaluation(each))
            else:
                config = validate(PretrainConfig, each["config"])
                pretrainings.append(Pretraining(each["run_id"], config, each["result"], each["provenance"]))
        except UserError as error:
            bad.append((each["run_id"], f"is not a result of this version ({error}); remove it and run that run again"))
    return Results(tuple(sorted(pretrainings, key=lambda each: each.run_id)),
                   tuple(sorted(evaluations, key=lambda each: each.run_id))), bad


class _Parser:
    """Parses a config that many results share only once: 100,000 evaluations have some hundred recipes."""

    def __init__(self) -> None:
        self.recipes: dict[bytes, tuple[EvaluationConfig, EvaluationRecipe]] = {}
        self.pretrainings: dict[str, PretrainConfig] = {}

    def evaluation(self, result: Mapping[str, Any]) -> Evaluation:
        values = result["config"]
        shared = orjson.dumps({key: value for key, value in values.items() if key not in ("seed", "pretrain")},
                              option=orjson.OPT_SORT_KEYS)
        if shared not in self.recipes:
            config = validate(EvaluationConfig, values)
            self.recipes[shared] = config, EvaluationRecipe.of(config)
        config, recipe = self.recipes[shared]
        if type(values["seed"]) is not int or not isinstance(values["pretrain"], str):
            raise UserError("seed must be a whole number and pretrain a run_id")
        run = values["pretrain"]
        if run not in self.pretrainings:
            self.pretrainings[run] = validate(PretrainConfig, result["pretrain_config"])
        return Evaluation(result["run_id"], config.replace(seed=values["seed"], pretrain=run), recipe, self.pretrainings[run],
                          result["result"], result["provenance"], result.get("saw") or {})
