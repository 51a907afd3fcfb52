"""Batches for the training device: the batch of step k is a pure function of (seed, k)."""

import functools
import os
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.data import leak
from bench.data.signal import LEADS
from bench.data.store import Store, eligible, explain_none_eligible

CLIP = 5.0  # standard deviations (arXiv 2410.13867)
PREFETCH = 2  # batches gathered ahead
IN_CACHE = 8  # records that a CPU normalises at a time, so that they stay in its cache during the four operations
READERS = 8  # threads of positioned reads; benchmarks/data.py measures them
PLACES = ("auto", "device", "host")


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS)


class Crops:
    """int16 crops of one store's records, gathered for a whole batch at once and normalised on the device."""

    def __init__(self, store: Store, samples: int, device: torch.device, place: str = "host"):
        """place: the memory from which the signals are gathered. "host" reads each record at its position in the file. This is
        several times as fast as a memory map, whether the file is in the page cache or not (benchmarks/data.py). "device" copies
        the whole file to the device; on a CPU this is a memory map."""
        self.offset = torch.from_numpy(store.index["offset"] * len(LEADS))
        self.length = torch.from_numpy(store.index["length"].astype(np.int64))
        self.samples, self.device = samples, device
        self.file = os.open(store.folder / "signals.i16", os.O_RDONLY) if place == "host" else None
        self.signals = store.signals.to(device) if place == "device" else store.signals
        self.windows = self.signals.unfold(0, samples, 1)  # a view: window i starts at sample i
        self.lead = torch.arange(len(LEADS))
        scale = store.manifest["scale"]
        self.gain = torch.tensor(scale / store.sd, dtype=torch.float32, device=device)[:, None]
        self.shift = torch.tensor(-store.mean / store.sd, dtype=torch.float32, device=device)[:, None]

    def __del__(self) -> None:
        if (file := getattr(self, "file", None)) is not None:
            os.close(file)

    def raw(self, record: Tensor, start: Tensor) -> Tensor:
        """The crops (B, 12, T), int16, of records (B,) from samples start (B,) on; on the device or host that `place` names."""
        if self.file is not None:
            return self._read(record.numpy(), start.numpy())
        first = self.offset[record] + start
        return self.windows[(first[:, None] + self.lead * self.length[record][:, None]).to(self.signals.device)]

    def _read(self, record: np.ndarray, start: np.ndarray) -> Tensor:
        out = np.empty((len(record), len(LEADS), self.samples), np.int16)
        offset, length = self.offset.numpy()[record], self.length.numpy()[record]

        def rows(part: np.ndarray) -> None:
            for i in part:
                position, n, crop = 2 * int(offset[i]), int(length[i]), out[i]
                if n == self.samples:
                    read_exactly(self.file, crop, position)
                elif n <= 4 * self.samples:  # one read of all leads costs less than twelve
                    block = np.empty((len(LEADS), n), np.int16)
                    read_exactly(self.file, block, position)
                    crop[:] = block[:, start[i]: start[i] + self.samples]
                else:
                    for lead in range(len(LEADS)):
                        read_exactly(self.file, crop[lead], position + 2 * (lead * n + int(start[i])))

        parts = np.array_split(np.argsort(offset), READERS)
        list(_readers().map(rows, parts))
        return torch.from_numpy(out)

    def normalise(self, raw: Tensor, out: Tensor | None = None) -> Tensor:
        """(B, 12, T) int16 -> float32 on the device: z-scored per lead with the store's statistics, and clipped.

        out: a tensor to write the result into; only used on a CPU.
        """
        if self.device.type != "cpu":
            x = raw.to(self.device, non_blocking=True).to(torch.float32)
            return x.mul_(self.gain).add_(self.shift).clamp_(-CLIP, CLIP)
        out = torch.empty(raw.shape, dtype=torch.float32) if out is None else out
        for first in range(0, len(raw), IN_CACHE):
            few = slice(first, first + IN_CACHE)
            out[few].copy_(raw[few]).mul_(self.gain).add_(self.shift).clamp_(-CLIP, CLIP)
        return out


def read_exactly(file: int | None, out: np.ndarray, position: int) -> None:
    """Fill `out` with the bytes of the file from `position` on; UserError if the file ends too early."""
    view = out.data.cast("B")
    assert file is not None
    while view:
        count = os.preadv(file, [view], position)
        if not count:
            raise UserError("a store's signals.i16 ends before its last record; `ecgssl data verify` names the store")
        view, position = view[count:], position + count


class Loader:
    """Random crops of records drawn from several stores with given weights.

    Several processes share a step's batch: each gathers the contiguous part of its rank.
    """

    def __init__(self, stores: Sequence[Store], weights: Sequence[float], *, folds: Sequence[int], seconds: float,
                 batch: int, seed: int, device: torch.device, place: str = "auto", rank: int = 0, world: int = 1):
        """place: as in Crops; "auto" is "device" on a GPU with memory for twice the stores, else "host"."""
        rates = {s.rate_hz for s in stores}
        if len(rates) != 1:
            raise UserError("stores of different rates: " + ", ".join(f"{s.name} {s.rate_hz} Hz" for s in stores)
                            + "; prepare them at one rate")
        if not 0 <= rank < world or batch % world:
            raise UserError(f"rank {rank} of {world}, batch {batch}: the ranks share a batch in equal parts")
        self.samples = round(seconds * rates.pop())
        self.batch, self.seed, self.device = batch, seed, device
        self.part = slice(rank * batch // world, (rank + 1) * batch // world)
        self.weights = np.asarray(weights, float) / np.sum(weights)
        size = sum(s.signals.numel() * 2 for s in stores)
        if place == "auto":
            room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
            place = "device" if 2 * size < room else "host"
        self.place = place
        self.eligible = [eligible(s, folds, self.samples) for s in stores]
        for store, rows in zip(stores, self.eligible, strict=True):
            if not len(rows):
                raise explain_none_eligible(store, folds, self.samples)
        self.stores = stores
        self.lengths = [s.index["length"] for s in stores]
        self.crops = [Crops(s, self.samples, device, place) for s in stores]

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole batch of this step: (store, record, first sample) of each crop, (B,) each."""
        rng = np.random.default_rng((self.seed, step))
        store = rng.choice(len(self.crops), self.batch, p=self.weights)
        u, v = rng.random((2, self.batch))
        count = np.array([len(e) for e in self.eligible])
        record = np.zeros(self.batch, np.int64)
        start = np.zeros(self.batch, np.int64)
        for i, rows in enumerate(self.eligible):
            own = store == i
            record[own] = rows[(u[own] * count[i]).astype(np.int64)]
            start[own] = (v[own] * (self.lengths[i][record[own]] - self.samples + 1)).astype(np.int64)
        return store, record, start

    @functools.cached_property
    def _patients(self) -> list[np.ndarray]:
        """For each store, the patient's number of each record. A record of an unknown patient has a number of its own."""
        out = []
        for i, store in enumerate(self.stores):
            known = leak.marks(store, np.arange(len(store.index)))["patients"]
            out.append(np.where(known == 0, -1 - i - len(self.stores) * np.arange(len(known)), known))
        return out

    def patients(self, step: int) -> Tensor:
        """The patients' numbers of the rank's part of this step, (B / world,) int64: equal for two records of one patient."""
        store, record, _ = (drawn[self.part] for drawn in self.draw(step))
        out = np.empty(len(store), np.int64)
        for i in np.unique(store):
            own = store == i
            out[own] = self._patients[i][record[own]]
        return torch.from_numpy(out)

    def gather(self, step: int) -> list[tuple[int, Tensor, Tensor]]:
        """For each store in the rank's part of this step: (store, places in the part, their int16 crops)."""
        store, record, start = (drawn[self.part] for drawn in self.draw(step))
        out = []
        for i in np.unique(store):
            own = np.flatnonzero(store == i)
            raw = self.crops[i].raw(torch.from_numpy(record[own]), torch.from_numpy(start[own]))
            if self.device.type == "cuda" and self.place != "device":
                raw = raw.pin_memory()
            out.append((int(i), torch.from_numpy(own), raw))
        return out

    def normalise(self, gathered: list[tuple[int, Tensor, Tensor]], out: Tensor | None = None) -> Tensor:
        """The crops that `gather` returned, (B / world, 12, T) float32 on the device; written into `out` if it is given."""
        if len(gathered) == 1:
            i, _, raw = gathered[0]
            return self.crops[i].normalise(raw, out)
        x = self.empty() if out is None else out
        for i, own, raw in gathered:
            x[own.to(self.device)] = self.crops[i].normalise(raw)
        return x

    def empty(self) -> Tensor:
        """An uninitialised tensor for the rank's part of a batch."""
        return torch.empty(self.part.stop - self.part.start, len(LEADS), self.samples, device=self.device)

    def batch_at(self, step: int) -> Tensor:
        """The rank's part of the batch of this step, (B / world, 12, T) float32."""
        return self.normalise(self.gather(step))

    def batches(self, first: int, end: int) -> Generator[Tensor, None, None]:
        """The batches of steps first ... end - 1; a thread gathers ahead unless the stores are on the device.

        On a CPU every batch overwrites the previous one, because allocating memory for a batch takes longer than filling it. Copy
        a batch that you need for longer.
        """
        if self.place == "device":
            yield from map(self.batch_at, range(first, end))
            return
        ready: queue.Queue[Any] = queue.Queue(PREFETCH)
        stop = threading.Event()

        def work() -> None:
            for step in range(first, end):
                item: Any
                try:
                    item = self.gather(step)
                except BaseException as error:  # raised again in the loop that waits for the batch
                    item = error
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set() or isinstance(item, BaseException):
                    return

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        out = self.empty() if self.device.type == "cpu" else None
        try:
            for _ in range(first, end):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield self.normalise(item, out)
        finally:
            stop.set()
            thread.join()
