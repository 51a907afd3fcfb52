"""The evaluations of a study as a data frame."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report.names import differing, leaves, text_of
from bench.report.results import OTHER_SCORES, Evaluation, PretrainRecipe, Results, load_results

if TYPE_CHECKING:  # importing pandas takes time, and tables do not need it
    import pandas as pd

NAMED = {"encoder.size": "size", "encoder.tokens": "tokens", "encoder.patch": "patch", "data.rate_hz": "rate_hz",
         "optim.steps": "steps", "optim.batch": "batch", "data.mix": "mix", "method.name": "method", "protocol": "rules"}
OF_EVALUATION = ("at", "fraction", "shuffle_labels", "task", "data.store", "evaluation.name", "protocol", "pretrain", "seed")


def load_results_frame(results: str | Path, *, controls: bool = False) -> "pd.DataFrame":
    """The evaluations in a folder or Parquet file of results as a data frame, see frame_of; warns of each skipped file.

    controls: include the evaluations whose labels were shuffled.
    """
    loaded, skipped = load_results(Path(results), controls=controls)
    for line in skipped:
        warnings.warn(f"skipped: {line}", stacklevel=2)
    return frame_of(loaded)


def frame_of(results: Results) -> "pd.DataFrame":
    """A table with a row per evaluation, sorted by run_id. A value that a result does not hold is None or NaN. Its columns:

    run_id, seed                            of the evaluation
    pretrain, pretrain_seed                 run_id and seed of the pre-training
    method, recipe                          its method; a number that all seeds of a pre-training's recipe share
    size, tokens, patch, rate_hz            of the backbone: encoder.size, .tokens, .patch (samples), data.rate_hz
    steps, batch, mix                       of the pre-training: optimiser steps, records per step, {store: weight} as JSON
    store, fingerprint                      of the store that the evaluation trained on, and tested on unless `external` is set
    external                                the store that was tested on instead, or ""
    task, protocol                          the task; linear, finetune, ...
    at, fraction                            share of the pre-training's steps at the checkpoint; share of the labels
    shuffle_labels                          0; for a control, the number of the order in which its labels were shuffled
    rules                                   `protocol` of the config: version of the benchmark's rules
    metric                                  macro_auroc or r2
    score, lower, upper                     the score on the test records and the percentiles of its resamples
    macro_average_precision ... pearson_r   other scores, as in results/README.md, without their intervals
    n_train, n_validation, n_test           numbers of records
    best_step                               the step whose weights were chosen
    seconds, together                       time of the group of evaluations that trained at once; number of evaluations in it
    peak_memory_mb                          of the evaluation
    commit, dirty, device, slurm_job        of the evaluation: code, whether it had uncommitted changes, machine
    pretrain_commit, pretrain_dirty         of the pre-training, if its result is there, as are the next four
    pretrain_seconds, pretrain_records_per_second, pretrain_peak_memory_mb
    parameters                              number of parameters that the pre-training trained
    pretrain.KEY                            every other setting of the pre-training that varies, e.g. pretrain.optim.lr
    KEY                                     every other setting of the evaluation that varies, e.g. evaluation.lr
    """
    import pandas as pd

    recipes = sorted({PretrainRecipe.of(config).identity for config in results.configs.values()})
    number = {run: recipes.index(PretrainRecipe.of(config).identity) for run, config in results.configs.items()}
    trained = _varying({run: leaves(config) for run, config in results.configs.items()}, tuple(NAMED), "pretrain.")
    evaluated = _varying({each.recipe.identity: leaves(each.recipe.config) for each in results.evaluations}, OF_EVALUATION, "")
    return pd.DataFrame([_line(each, results, number[each.config.pretrain]) | trained[each.config.pretrain]
                         | evaluated[each.recipe.identity] for each in results.evaluations])


def _varying(settings: Mapping[str, Mapping[str, Any]], named: Sequence[str], prefix: str) -> dict[str, dict[str, Any]]:
    """For each name: {prefix + key: value} of those settings that differ between the names and are not in `named`."""
    keys = [key for key in differing(settings.values()) if key not in named]
    return {name: {f"{prefix}{key}": _scalar(each.get(key)) for key in keys} for name, each in settings.items()}


def _scalar(value: Any) -> Any:
    return text_of(value) if isinstance(value, dict | list) else value


def _line(each: Evaluation, results: Results, recipe: int) -> dict[str, Any]:
    """The columns that every frame has."""
    config, result, before = each.config, each.result, each.pretrain_config
    first = results.by_run.get(config.pretrain)
    cost, origin = (first.result, first.provenance) if first else ({}, {})
    lower, upper = result.get("interval", (None, None))
    others = {name: value.get("value") if isinstance(value := result.get(name), dict) else value
              for names in OTHER_SCORES.values() for name in names}
    return {
        "run_id": each.run_id, "seed": config.seed, "pretrain": config.pretrain, "pretrain_seed": before.seed,
        "method": before.method.name, "recipe": recipe, "size": before.encoder.size, "tokens": before.encoder.tokens,
        "patch": before.encoder.patch, "rate_hz": before.data.rate_hz, "steps": before.optim.steps, "batch": before.optim.batch,
        "mix": text_of(before.data.mix), "store": config.data.store, "fingerprint": config.data.fingerprint,
        "external": config.external.store, "task": config.task, "protocol": config.evaluation.name, "at": config.at,
        "fraction": config.fraction, "shuffle_labels": config.shuffle_labels, "rules": config.protocol,
        "metric": each.metric, "score": each.score, "lower": lower, "upper": upper, **others,
        **{f"n_{part}": result["records"].get(part) for part in ("train", "validation", "test")},
        **{key: result.get(key) for key in ("best_step", "seconds", "together", "peak_memory_mb")},
        **{f"pretrain_{key}": cost.get(key) for key in ("seconds", "records_per_second", "peak_memory_mb")},
        "parameters": cost.get("parameters", {}).get("trained"),
        **{key: each.provenance.get(key) for key in ("commit", "dirty", "device", "slurm_job")},
        **{f"pretrain_{key}": origin.get(key) for key in ("commit", "dirty")}}
