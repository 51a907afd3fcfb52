"""The evaluations of a study as a data frame."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report.names import differing, leaves, text_of
from bench.report.results import OTHER_SCORES, Evaluation, PretrainRecipe, Results, load_results

if TYPE_CHECKING:  # whoever makes tables need not wait for pandas
    import pandas as pd

NAMED = {"encoder.size": "size", "encoder.tokens": "tokens", "encoder.patch": "patch", "data.rate_hz": "rate_hz",
         "optim.steps": "steps", "optim.batch": "batch", "data.mix": "mix", "method.name": "method", "protocol": "rules"}
OF_EVALUATION = ("at", "fraction", "shuffle_labels", "task", "data.store", "evaluation.name", "protocol", "pretrain", "seed")


def load_results_frame(results: str | Path, *, controls: bool = False) -> "pd.DataFrame":
    """The evaluations in a folder or Parquet file of results as a tidy table, see frame_of; warns of each skipped file.

    controls: with the evaluations whose labels were shuffled.
    """
    loaded, skipped = load_results(Path(results), controls=controls)
    for line in skipped:
        warnings.warn(f"skipped: {line}", stacklevel=2)
    return frame_of(loaded)


def frame_of(results: Results) -> "pd.DataFrame":
    """A row per evaluation, sorted by run_id; None or NaN where a result does not say it.

    run_id, seed                            of the evaluation
    pretrain, pretrain_seed                 the pre-training's run_id and seed
    method, recipe                          its method; what all its seeds share, a number
    size, tokens, patch, rate_hz            of the backbone: encoder.size, .tokens, .patch (samples), data.rate_hz
    steps, batch, mix                       of the pre-training: optimiser steps, records a step, {store: weight} as JSON
    store, fingerprint, external            trained and tested on; the store that was tested on instead, or ""
    task, protocol, at, fraction            protocol: linear, finetune, ...; checkpoint and labels, shares
    shuffle_labels                          0; of a control, the number of the order in which its labels were shuffled
    rules                                   `protocol` of the config: version of the benchmark's rules
    metric, score, lower, upper             macro_auroc or r2; score and percentiles of its resamples on the test records
    macro_average_precision ... pearson_r   other scores, as in results/README.md; the value alone
    n_train, n_validation, n_test           records
    best_step, seconds, together            the step that was chosen; of the group, and how many evaluations it was
    peak_memory_mb                          of the evaluation
    pretrain_seconds, pretrain_records_per_second, pretrain_peak_memory_mb
    parameters                              of the pre-training, where its result is there; parameters: those it trained
    commit, dirty, device, slurm_job        of the evaluation: code, whether it had uncommitted changes, where it ran
    pretrain_commit, pretrain_dirty         of the pre-training, where its result is there
    pretrain.KEY, KEY                       every other setting that varies, e.g. pretrain.optim.lr, evaluation.lr,
                                            pretrain.views.0.seconds: of the pre-training, of the evaluation
    """
    import pandas as pd

    recipes = sorted({PretrainRecipe.of(config).identity for config in results.configs.values()})
    number = {run: recipes.index(PretrainRecipe.of(config).identity) for run, config in results.configs.items()}
    trained = _varying({run: leaves(config) for run, config in results.configs.items()}, tuple(NAMED), "pretrain.")
    evaluated = _varying({each.recipe.identity: leaves(each.recipe.config) for each in results.evaluations}, OF_EVALUATION, "")
    return pd.DataFrame([_line(each, results, number[each.config.pretrain]) | trained[each.config.pretrain]
                         | evaluated[each.recipe.identity] for each in results.evaluations])


def _varying(settings: Mapping[str, Mapping[str, Any]], named: Sequence[str], prefix: str) -> dict[str, dict[str, Any]]:
    """Of each, {prefix + key: value} of the settings that are not the same in all and have no column of their own."""
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
