"""Converts published records to the samples that a store holds, in one process or in several."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque, namedtuple
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.data.corpora import GAP, CorpusFolder, Recording, Refusal
from bench.data.signal import LEADS, SHORTEST, fill_gaps, high_pass, resample, to_int16
from bench.data.store import short_hash

EXACT = 1 << 20  # so many squares of 16-bit samples add up to less than 2**53, so a float64 holds their sum exactly
LONG_RECORD_WORKERS = 2  # largest number of workers for long records: a worker needs 100 MiB or more to resample one


@dataclass(frozen=True)
class Conversion:
    """The outcome of converting one record: its signal, or why it is refused."""

    signal: np.ndarray | None  # (12, samples) int16; None: the record is refused
    refusal: Refusal | None = None
    digest: int = 0  # short_hash of the samples as published; 0 if the record is flat, as all flat records are equal
    stored: int = 0  # short_hash of the signal
    gaps: int = 0  # number of leads whose gaps were filled
    constant: Sequence[str] = ()  # leads that never change
    clipped: int = 0  # number of clipped samples
    total: Sequence[int] = ()  # sum of the samples per lead; integers, so the order of records does not matter
    squares: Sequence[int] = ()  # sum of the squared samples per lead
    resampled: bool = False


def convert(corpus: CorpusFolder, row: Any, rate_hz: int, resampling: str) -> Conversion:
    """Read the record of a row and convert it to the store's rate and steps."""
    try:
        recording = corpus.read(row)
        seconds = recording.samples.shape[1] / recording.rate_hz
        if seconds < corpus.min_seconds:
            raise Refusal(f"shorter than {corpus.min_seconds:g} s", f"lasts {seconds:g} s", by_rule=True)
        if recording.samples.shape[1] < (SHORTEST if corpus.highpass_hz else 1) or not round(seconds * rate_hz):
            raise Refusal("too short", f"holds {recording.samples.shape[1]} samples")
        digest = short_hash(np.ascontiguousarray(recording.samples))
        if _is_stored_as_published(corpus, recording, rate_hz):
            samples, gaps, clipped = np.ascontiguousarray(recording.samples), 0, 0
        else:
            samples, gaps, clipped = _process(corpus, recording, rate_hz, resampling)
        samples = np.ascontiguousarray(samples, "<i2")
        total, squares = _sums(samples)
        constant = [lead for lead, a, b in zip(LEADS, total, squares, strict=True) if a * a == samples.shape[1] * b]
        if corpus.constant == "refuse" and constant:
            raise Refusal("constant leads", f"has constant leads ({', '.join(constant)})")
        return Conversion(samples, None, digest if len(constant) < len(LEADS) else 0, short_hash(samples), gaps, constant,
                          clipped, total, squares, resampled=recording.rate_hz != rate_hz)
    except Refusal as refusal:
        return Conversion(None, refusal)


def _is_stored_as_published(corpus: CorpusFolder, recording: Recording, rate_hz: int) -> bool:
    """Whether the store holds the integers of the recording unchanged."""
    return bool(
        recording.rate_hz == rate_hz and not corpus.highpass_hz
        and recording.gain is not None and recording.baseline is not None
        and (recording.gain == 1 / corpus.scale).all() and not recording.baseline.any() and recording.samples.min() > GAP)


def _process(corpus: CorpusFolder, recording: Recording, rate_hz: int, resampling: str) -> tuple[np.ndarray, int, int]:
    """The recording filled, filtered and resampled: ((12, samples) int16, number of leads with gaps, of clipped samples)."""
    physical = recording.physical()
    missing = np.isnan(physical)
    if corpus.gaps == "refuse" and missing.any():
        raise Refusal("gaps", "has gaps (NaN)")
    if missing.all(axis=1).any():
        raise Refusal("empty lead", f"lead {LEADS[missing.all(axis=1).argmax()]} holds no value at all")
    if np.isinf(physical).any():
        raise Refusal("infinite values", "holds infinite values")
    physical, gaps = fill_gaps(physical)
    if corpus.highpass_hz:
        physical = high_pass(physical, recording.rate_hz, corpus.highpass_hz)
    if recording.rate_hz != rate_hz:
        physical = resample(physical, recording.rate_hz, rate_hz, resampling)
    samples, clipped = to_int16(physical, corpus.scale)
    return samples, gaps, clipped


def _sums(samples: np.ndarray) -> tuple[list[int], list[int]]:
    """Per lead, the exact sum of the samples and of their squares."""
    total, squares = np.zeros((2, len(samples)), np.int64)
    for first in range(0, samples.shape[1], EXACT):
        part = samples[:, first: first + EXACT].astype(np.float64)
        total += part.sum(axis=1).astype(np.int64)
        squares += np.einsum("ij,ij->i", part, part).astype(np.int64)
    return total.tolist(), squares.tolist()


def convert_all(corpus: CorpusFolder, rate_hz: int, resampling: str, *, first: int = 0,
                workers: int = 1) -> Generator[tuple[Any, Conversion], None, None]:
    """(row, conversion) of the corpus's records from row `first` on, in order; at most a few hundred are held in memory."""
    columns = corpus.records.columns.tolist()
    Row = namedtuple("Row", columns, rename=True)  # type: ignore[misc]
    rows = corpus.records.iloc[first:].itertuples(index=False, name=None)
    if corpus.chunk == 1:
        workers = min(workers, LONG_RECORD_WORKERS)
    if workers == 1:
        for values in rows:
            yield Row._make(values), convert(corpus, Row._make(values), rate_hz, resampling)
        return
    chunks = iter(lambda: list(itertools.islice(rows, corpus.chunk)), [])
    pending: deque[tuple[list[tuple[Any, ...]], Future[list[Conversion]]]] = deque()

    def oldest() -> Iterator[tuple[Any, Conversion]]:
        chunk, future = pending.popleft()
        for values, conversion in zip(chunk, future.result(), strict=True):
            yield Row._make(values), conversion

    with _pool(workers, lambda values: convert(corpus, Row._make(values), rate_hz, resampling)) as pool:
        for chunk in chunks:
            if len(pending) == 2 * workers:
                yield from oldest()
            pending.append((chunk, pool.submit(_convert_chunk, chunk)))
        while pending:
            yield from oldest()


@contextlib.contextmanager
def _pool(workers: int, convert_row: Callable[[tuple[Any, ...]], Conversion]) -> Iterator[ProcessPoolExecutor]:
    """A context with worker processes; UserError if one is killed. The workers are forked, so they need not pickle the corpus and
    its read function."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (convert_row,))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it warns of forking with threads; no worker needs these threads
            pool.submit(int).result()  # the first task starts every worker
        yield pool
    except BrokenProcessPool:
        raise UserError("a worker was killed, perhaps because memory ran out; run again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(convert_row: Callable[[tuple[Any, ...]], Conversion]) -> None:
    global _convert_row
    _convert_row = convert_row
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent has been killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_convert_row: Callable[[tuple[Any, ...]], Conversion]


def _convert_chunk(chunk: list[tuple[Any, ...]]) -> list[Conversion]:
    return [_convert_row(values) for values in chunk]
