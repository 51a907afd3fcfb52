"""Protocols on a frozen encoder, linear heads and nearest neighbours, for many evaluations at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from bench.core.models import canonical
from bench.evaluation.crops import match_rows
from bench.evaluation.diagnostics import diagnose
from bench.evaluation.job import HeldOut, Job, Outcome, Weights, unite_rows
from bench.evaluation.neighbours import NeighbourPredictor, choose_k
from bench.evaluation.reader import CropTokens, Reader
from bench.evaluation.stack import HeadPredictor, Stack, list_points
from bench.evaluation.train_heads import HeadTrainer
from bench.runs.config import EvaluationConfig, run_id


class Predictor(Protocol):
    """The heads, or the neighbours, that S evaluations chose: predicts from tokens."""

    def predict(self, tokens: CropTokens, rows: np.ndarray) -> np.ndarray:
        """(S, n, C) predictions of the rows (n,)."""


@dataclass(frozen=True)
class Choice:
    """What S evaluations chose on the validation folds. The evaluations differ only in their seed."""

    configs: list[EvaluationConfig]
    predictor: Predictor
    p_validation: np.ndarray  # (S, n, C)
    facts: list[dict[str, Any]]  # the results' parts about training and choice
    weights: list[Weights]
    failures: list[str]  # why an evaluation has no outcome; "" where it has one


def evaluate(job: Job, held_out: HeldOut) -> Iterator[Outcome]:
    """Yield the outcome of each evaluation of the job. If some failed, a UserError follows after the other outcomes."""
    reader = Reader(job)
    choices = choose(job, reader)
    test = reader.collect_tokens(np.unique(np.concatenate(list(held_out.rows.values()))), "test crops", held_out.crops)
    failures = []
    for choice in choices:
        p_test = choice.predictor.predict(test, held_out.rows[run_id(choice.configs[0])])
        for s, config in enumerate(choice.configs):
            if choice.failures[s]:
                failures.append(choice.failures[s])
                continue
            weights = {f"head.{k}": v for k, v in choice.weights[s].items()}
            yield Outcome(config, choice.p_validation[s], p_test[s], choice.facts[s], weights)
    if failures:
        raise UserError("; ".join(failures))


def choose(job: Job, reader: Reader) -> list[Choice]:
    """Train the heads of all evaluations of the job and choose on the validation folds. It reads no test record."""
    recipes = group_by_recipe(job.configs)
    validation = reader.collect_tokens(unite_rows(job.task_of(recipe[0]).validation for recipe in recipes), "validation crops")
    stacks = [[Stack(job, recipe, point) for point in list_points(recipe[0].evaluation)] if has_head(recipe[0]) else []
              for recipe in recipes]
    if any(stacks):
        HeadTrainer(job, [stack for points in stacks for stack in points], reader, validation).train()
    nearest = [recipe for recipe in recipes if not has_head(recipe[0])]
    bank_rows = unite_rows(job.task_of(recipe[0]).train for recipe in nearest) if nearest else np.empty(0, np.int64)
    bank = FeatureBank(bank_rows, reader.collect_features(bank_rows) if nearest else torch.empty(0))
    choices, diagnoses = [], dict[bytes, dict[str, Any]]()  # diagnoses: by validation rows
    for recipe, points in zip(recipes, stacks, strict=True):
        choice = choose_point(points, validation) if points else choose_neighbours(job, recipe, reader, validation, bank)
        rows = job.task_of(recipe[0]).validation.rows
        if rows.tobytes() not in diagnoses:
            diagnoses[rows.tobytes()] = diagnose(reader.average_features(validation.batches(rows), len(rows)))
        facts = [{**each, "diagnostics": diagnoses[rows.tobytes()]} for each in choice.facts]
        choices.append(replace(choice, facts=facts))
    return choices


def has_head(config: EvaluationConfig) -> bool:
    return config.evaluation.head != "neighbours"


def group_by_recipe(configs: Sequence[EvaluationConfig]) -> list[list[EvaluationConfig]]:
    """Groups of configs that differ only in their seed, sorted by seed. The order of `configs` does not matter."""
    recipes: dict[str, list[EvaluationConfig]] = {}
    for config in sorted(configs, key=lambda config: (canonical(config.replace(seed=0)), config.seed)):
        recipes.setdefault(canonical(config.replace(seed=0)), []).append(config)
    return list(recipes.values())


def choose_point(stacks: list[Stack], validation: CropTokens) -> Choice:
    """Choose for each seed the grid point with the best validation score; in a tie, the first one."""
    configs, task, settings = list(stacks[0].configs), stacks[0].task, stacks[0].settings
    facts, weights, failures = [], [], []
    for s in range(len(configs)):
        heads = [stack.validations[s] for stack in stacks]
        failures.append(heads[0].failure if all(head.failure for head in heads) else "")
        tried = [{**stack.point, "failure": head.failure} if head.failure else
                 {**stack.point, "best_step": head.best_step, task.metric: head.best_value}
                 for stack, head in zip(stacks, heads, strict=True)]
        best = stacks[int(np.argmax([head.best_value for head in heads]))]
        facts.append({**best.validations[s].describe(best.last_step(s)), "chosen": best.point, "grid": tried})
        weights.append(best.weights_of(s))
    head = stacks[0].head
    head.load_state_dict({k: torch.stack([each[k] for each in weights]) for k in weights[0]})
    predictor = HeadPredictor(head, task, settings)
    return Choice(configs, predictor, predictor.predict(validation, task.validation.rows), facts, weights, failures)


@dataclass(frozen=True)
class FeatureBank:
    """Features (n, D) of training records, and the records' rows (n,) in the store."""

    rows: np.ndarray
    features: torch.Tensor


def choose_neighbours(job: Job, configs: list[EvaluationConfig], reader: Reader, validation: CropTokens,
                      bank: FeatureBank) -> Choice:
    """Choose the number k of nearest neighbours on the validation folds."""
    settings, task = configs[0].evaluation.neighbours, job.task_of(configs[0])
    features = F.normalize(bank.features[match_rows(task.train.rows, bank.rows)[1]]).float()
    predictor = NeighbourPredictor(reader, features, torch.from_numpy(task.train.labels), settings.temperature, 1, len(configs))
    k, facts = choose_k(predictor, settings, task, validation)
    predictor = replace(predictor, k=k)
    return Choice(configs, predictor, predictor.predict(validation, task.validation.rows), [facts] * len(configs),
                  [{}] * len(configs), [""] * len(configs))
