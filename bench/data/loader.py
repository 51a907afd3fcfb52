"""Batches for the training device: the batch of step k is a pure function of (seed, k)."""

import queue
import threading
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.signal import LEADS
from bench.data.store import Store
from bench.errors import UserError

CLIP = 5.0  # standard deviations (arXiv 2410.13867)
PREFETCH = 2  # batches gathered ahead; ours


class Crops:
    """int16 crops of one store's records, gathered for a whole batch at once, normalised on the device."""

    def __init__(self, store: Store, samples: int, device: torch.device, on_device: bool):
        self.offset = torch.tensor(store.records.offset.to_numpy(np.int64) * len(LEADS))
        self.length = torch.tensor(store.records.length.to_numpy(np.int64))
        self.signals = store.signals.to(device) if on_device else store.signals
        self.windows = self.signals.unfold(0, samples, 1)  # a view: window i starts at sample i
        self.lead = torch.arange(len(LEADS))
        self.device = device
        scale = store.manifest["scale"]
        self.gain = torch.tensor(scale / store.sd, dtype=torch.float32, device=device)[:, None]
        self.shift = torch.tensor(-store.mean / store.sd, dtype=torch.float32, device=device)[:, None]

    def raw(self, record: Tensor, start: Tensor) -> Tensor:
        """Records (B,) from sample start (B,) -> (B, 12, T) int16, where the signals lie."""
        first = self.offset[record] + start
        return self.windows[(first[:, None] + self.lead * self.length[record][:, None]).to(self.signals.device)]

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, 12, T) int16 -> float32 on the device: z-scored per lead with the store's statistics, clipped."""
        x = raw.to(self.device, non_blocking=True).to(torch.float32)
        return x.mul_(self.gain).add_(self.shift).clamp_(-CLIP, CLIP)


class Loader:
    """Random crops of records drawn from several stores with given weights."""

    def __init__(self, stores: Sequence[Store], weights: Sequence[float], *, folds: Sequence[int], seconds: float,
                 batch: int, seed: int, device: torch.device, place: str = "auto"):
        """place: keep the stores on the device ("device"), on the disk ("host"), or wherever they fit ("auto")."""
        rates = {s.rate_hz for s in stores}
        if len(rates) != 1:
            raise UserError("stores of different rates: " + ", ".join(f"{s.name} {s.rate_hz} Hz" for s in stores)
                            + "; prepare them at one rate")
        self.samples = round(seconds * rates.pop())
        self.batch, self.seed, self.device = batch, seed, device
        self.weights = np.asarray(weights, float) / np.sum(weights)
        size = sum(s.signals.numel() * 2 for s in stores)
        on_device = place == "device" or (place == "auto" and device.type == "cuda"
                                          and size < torch.cuda.mem_get_info(device)[0] // 2)
        self.on_device = on_device and device.type != "cpu"
        self.eligible = []
        for store in stores:
            of_fold = ~store.records.fold.gt(0) | store.records.fold.isin(folds)
            rows = np.flatnonzero(of_fold & (store.records.length >= self.samples))
            if not len(rows):
                raise UserError(f"store {store.name} has no record of {seconds:g} s or more in folds {list(folds)}")
            self.eligible.append(rows)
        self.lengths = [s.records.length.to_numpy() for s in stores]
        self.crops = [Crops(s, self.samples, device, self.on_device) for s in stores]

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(store, record, start), (B,) each, of the batch of this step."""
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

    def gather(self, step: int) -> list[tuple[int, Tensor, Tensor]]:
        """(store, its rows of the batch, their int16 crops) for each store that the batch draws from."""
        store, record, start = self.draw(step)
        out = []
        for i in np.unique(store):
            own = np.flatnonzero(store == i)
            raw = self.crops[i].raw(torch.from_numpy(record[own]), torch.from_numpy(start[own]))
            if self.device.type == "cuda" and not self.on_device:
                raw = raw.pin_memory()
            out.append((int(i), torch.from_numpy(own), raw))
        return out

    def normalise(self, gathered: list[tuple[int, Tensor, Tensor]]) -> Tensor:
        """(B, 12, T) float32 on the device."""
        if len(gathered) == 1:
            i, _, raw = gathered[0]
            return self.crops[i].normalise(raw)
        x = torch.empty(self.batch, len(LEADS), self.samples, device=self.device)
        for i, own, raw in gathered:
            x[own.to(self.device)] = self.crops[i].normalise(raw)
        return x

    def batch_at(self, step: int) -> Tensor:
        """The batch of this step, (B, 12, T) float32."""
        return self.normalise(self.gather(step))

    def batches(self, first: int, end: int) -> Generator[Tensor, None, None]:
        """The batches of steps first ... end - 1; a thread gathers ahead when the stores lie on the host."""
        if self.on_device:
            yield from map(self.batch_at, range(first, end))
            return
        ready: queue.Queue[Any] = queue.Queue(PREFETCH)
        stop = threading.Event()

        def work() -> None:
            for step in range(first, end):
                item: Any
                try:
                    item = self.gather(step)
                except BaseException as error:  # raised again where the batch is awaited
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
        try:
            for _ in range(first, end):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield self.normalise(item)
        finally:
            stop.set()
            thread.join()
