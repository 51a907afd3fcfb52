"""Turns a corpus into a store, in parallel and in little memory. If it is stopped, it continues. It reports refused and changed
records."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UserError, unknown
from bench.core.files import lock_file, read_json, sync_folder, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.models import canonical
from bench.data.corpora import CorpusFolder, Refusal
from bench.data.ingest.convert import Conversion, convert_all
from bench.data.ingest.finish import write_tables
from bench.data.ingest.journal import Tally, UnfinishedStore
from bench.data.signal import RESAMPLERS
from bench.data.store import FORMAT, Store, open_store

REFUSALS_IN_ERROR = 3  # refused records that an error names

Progress = Callable[[int, int], None]  # (records done, records in all)


def prepare(corpus: CorpusFolder, stores: Path, *, name: str | None = None, rate_hz: int | None = None,
            resampling: str = "fourier", workers: int = 1, skip_bad: bool = False, drop_duplicates: bool = False,
            not_in: Sequence[Store] = (), progress: Progress = lambda done, total: None) -> Store:
    """Write the corpus to stores/<name> at rate_hz (None: the rate of the corpus) and open that store.

    If it is killed and called again with the same arguments, it continues and ends with the same bytes. Records that the corpus
    drops by rule are left out and reported. If other records cannot be used, a UserError lists them once all records are read;
    with skip_bad they are left out and reported, too. drop_duplicates leaves out records whose samples an earlier record has.
    not_in leaves out records that these stores hold.
    """
    name, rate_hz = name or corpus.name, corpus.rate_hz if rate_hz is None else rate_hz
    _check(corpus, name, rate_hz, resampling)
    plan = {
        "format": FORMAT, "corpus": corpus.name, "version": corpus.version, "origin": corpus.origin, "rate_hz": rate_hz,
        "resampling": resampling, "scale": corpus.scale, "units": corpus.units, "highpass_hz": corpus.highpass_hz,
        "gaps": corpus.gaps, "constant": corpus.constant, "min_seconds": corpus.min_seconds, "tasks": corpus.tasks,
        "kinds": corpus.kinds, "stats_folds": sorted(corpus.stats_folds), "drop_duplicates": drop_duplicates,
        "not_in": {store.name: store.fingerprint for store in not_in}, "records": _hash(corpus.records)}
    target, partial = stores / name, stores / f".{name}.partial"
    stores.mkdir(parents=True, exist_ok=True)
    with lock_file(stores / f".{name}.lock", f"store {name}"):
        if target.exists():
            raise UserError(f"{target} exists already; remove it, or choose another name with --to")
        _write_plan(partial, plan)
        unfinished = UnfinishedStore(partial, retry_refused=not skip_bad)
        duplicates = Duplicates(not_in, unfinished.tally if drop_duplicates else None)
        conversions = convert_all(corpus, rate_hz, resampling, first=unfinished.rows, workers=workers)
        with contextlib.closing(conversions):
            _append(unfinished, conversions, duplicates, corpus, progress)
        tally = unfinished.tally
        _check_refusals(name, tally, skip_bad)
        if not tally.samples:
            folds = f" in folds {plan['stats_folds']}" if tally.row else ""
            raise UserError(f"{name}: no usable record{folds}; remove {partial} before other options are tried")
        write_tables(corpus, name, partial, tally, plan)
        for leftover in ("journal.jsonl", "plan.json"):
            (partial / leftover).unlink()
        os.rename(partial, target)
        sync_folder(stores)
    return open_store(target, verify=False)  # its bytes were written a moment ago


def _check(corpus: CorpusFolder, name: str, rate_hz: int, resampling: str) -> None:
    """UserError if a store cannot have this name, this rate or these texts."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        raise UserError(f"store name {name!r} must be lower-case letters, digits and dashes")
    if rate_hz <= 0:
        raise UserError(f"rate {rate_hz} Hz must be positive")
    if resampling not in RESAMPLERS:
        raise unknown("resampling method", resampling, RESAMPLERS)
    for column in ("record_id", "patient_id", *corpus.tasks):
        strange = next((text for text in corpus.records[column].tolist() if not text.isprintable()), None)
        if strange is not None:
            raise UserError(f"{name}: {column} {strange!r:.80} holds a line break or another character that cannot be printed")


def _hash(records: pd.DataFrame) -> str:
    """SHA-256 of a table's values."""
    return hashlib.sha256(pd.util.hash_pandas_object(records, index=False).to_numpy().tobytes()).hexdigest()


def _write_plan(partial: Path, plan: dict[str, Any]) -> None:
    """Begin the unfinished store, or check that it was begun with this plan."""
    partial.mkdir(exist_ok=True)
    if not (partial / "plan.json").exists():
        (partial / "journal.jsonl").unlink(missing_ok=True)  # its plan is not known
        write_text(partial / "plan.json", canonical(plan))
    elif read_json(partial / "plan.json", "unfinished store") != json.loads(canonical(plan)):
        raise UserError(f"{partial} is the unfinished store of other records or options; finish it with those, or "
                        f"remove it")


class Duplicates:
    """Refuses records whose published samples another record has."""

    def __init__(self, not_in: Sequence[Store], tally: Tally | None):
        """not_in: stores whose records are refused. tally: records whose duplicates are refused; None refuses no duplicate."""
        self.store_of = {digest: store.name for store in not_in for digest in store.index["digest"].tolist() if digest}
        self.seen = None if tally is None else set(tally.digest)

    def refusal(self, conversion: Conversion) -> Refusal | None:
        """The reason to refuse the record; None if its samples are new."""
        digest = conversion.digest
        if digest in self.store_of:
            return Refusal(f"in {self.store_of[digest]}", "the store has a record of the same samples", by_rule=True)
        if self.seen is not None and digest:
            if digest in self.seen:
                return Refusal("duplicate", "an earlier record has the same samples", by_rule=True)
            self.seen.add(digest)
        return None


def _append(unfinished: UnfinishedStore, conversions: Iterator[tuple[Any, Conversion]], duplicates: Duplicates,
            corpus: CorpusFolder, progress: Progress) -> None:
    """Append every conversion to the store. If the process receives a signal, save and raise Interrupted."""
    count, for_statistics = len(corpus.records), set(corpus.stats_folds)
    progress(unfinished.rows, count)
    with unfinished, watch_signals() as received_signal:
        for row, conversion in conversions:
            refusal = conversion.refusal or duplicates.refusal(conversion)
            if refusal:
                unfinished.refuse(row.record_id, refusal)
            else:
                unfinished.accept(row.record_id, conversion, not for_statistics or row.fold in for_statistics)
            signum = received_signal()
            if unfinished.is_due or signum:
                unfinished.save()
            progress(unfinished.rows, count)
            if signum:
                raise Interrupted(signum, f"{unfinished.rows:,} of {count:,} records of {unfinished.signals.parent}")
        unfinished.save()


def _check_refusals(name: str, tally: Tally, skip_bad: bool) -> None:
    """UserError if records were refused for other reasons than a rule of the corpus."""
    bad = {reason: group["records"] for reason, group in tally.refused.items() if not group["by_rule"]}
    if not bad or skip_bad:
        return
    counts = ", ".join(f"{len(records)} {reason}" for reason, records in bad.items())
    every = [f"record {i}: {text}" for records in bad.values() for i, text in records.items()]
    some = "; ".join(every[:REFUSALS_IN_ERROR]) + ("; ..." if len(every) > REFUSALS_IN_ERROR else "")
    raise UserError(f"{name}: {len(every):,} of {tally.rows:,} records cannot be used ({counts}): {some}. Mend them and "
                    f"run again, or --skip-bad leaves them out and lists them")
