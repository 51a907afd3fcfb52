"""Finds results that must not stand in one report: different rules, different data of one name, different or uncommitted code."""

from collections.abc import Sequence
from typing import Any

from bench.core.errors import UserError
from bench.report.names import fingerprints
from bench.report.results import Pretraining, Results

LISTED = 20  # run_ids in a message


def footnotes(results: Results) -> list[str]:
    """Sentences that say why these results should not stand in one report; empty if they may."""
    values: dict[str, list[tuple[Any, str]]] = {}
    for run, config in [*((each.run_id, each.config) for each in results.all), *results.configs.items()]:
        values.setdefault("protocol", []).append((config.protocol, run))
        for store, fingerprint in fingerprints(config).items():
            values.setdefault(f"the fingerprint of {store}", []).append((fingerprint, run))
    notes = [f"Results differ in {what}: {sets}." for what, pairs in sorted(values.items()) if (sets := by_value(pairs))]
    notes += _other_source(results)
    dirty = sorted(each.run_id for each in results.all if each.provenance.get("dirty"))
    return notes + ([f"Computed by code with uncommitted changes: {list_runs(dirty)}."] if dirty else [])


def _other_source(results: Results) -> list[str]:
    """A sentence for each method whose pre-trainings, or whose evaluations, were computed by different code."""
    sources: dict[tuple[str, str], list[tuple[Any, str]]] = {}
    for each in results.all:
        kind, config = ("pre-trainings", each.config) if isinstance(each, Pretraining) else ("evaluations", each.pretrain_config)
        if source := each.provenance.get("source"):
            sources.setdefault((config.method.name, kind), []).append((source, each.run_id))
    return [f"The {kind} of {method} were computed by different code (hash of the source: runs): {sets}."
            for (method, kind), pairs in sorted(sources.items()) if (sets := by_value(pairs))]


def refuse(notes: Sequence[str]) -> None:
    """UserError if there are footnotes."""
    if notes:
        raise UserError(f"{' '.join(notes)} Move one set to another results folder, or write --allow for a footnote")


def by_value(pairs: Sequence[tuple[Any, str]]) -> str:
    """The text "1: run, run; 2: run" for (value, run_id) pairs; "" if all pairs have the same value."""
    runs: dict[str, set[str]] = {}
    for value, run in pairs if len({value for value, _ in pairs}) > 1 else ():
        runs.setdefault(str(value), set()).add(run)
    return "; ".join(f"{value}: {list_runs(sorted(ids))}" for value, ids in sorted(runs.items()))


def list_runs(runs: Sequence[str]) -> str:
    """A text with the first run_ids and the number of further ones."""
    more = f" and {len(runs) - LISTED:,} more" if len(runs) > LISTED else ""
    return ", ".join(f"`{run}`" for run in runs[:LISTED]) + more
