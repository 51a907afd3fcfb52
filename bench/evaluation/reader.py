"""Computes tokens and features of crops with a frozen encoder, and stores tokens in memory or in a file."""

import copy
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import progress
from bench.core.files import name_in_errors
from bench.core.interrupt import Interrupted
from bench.data.loader import Crops
from bench.evaluation.crops import average_crops, lay_grid, match_rows
from bench.evaluation.job import Job
from bench.training import optim

CHUNK, CPU_CHUNK = 1024, 32  # crops per forward pass of the encoder; on a CPU as many as its cache holds
BLOCK = 512  # crops whose logits are computed at a time
IN_MEMORY = 2 << 30  # bytes; a larger tensor of tokens is stored in a file


def chunk_size(device: torch.device) -> int:
    """The number of crops per forward pass of an encoder."""
    return CPU_CHUNK if device.type == "cpu" else CHUNK


@dataclass(frozen=True)
class CropTokens:
    """Tokens (n, R + N, D) of n crops, and each crop's row in the store."""

    rows: np.ndarray
    tokens: Tensor
    device: torch.device  # on which they are used
    dtype: torch.dtype  # in which they are used

    def take(self, crops: np.ndarray) -> Tensor:
        """(B, R + N, D) tokens of the crops at these indices (B,)."""
        if len(crops) and crops[-1] - crops[0] == len(crops) - 1 and (np.diff(crops) == 1).all():  # adjacent: no copy
            return self.tokens[crops[0]: crops[-1] + 1].to(self.device, self.dtype)
        return self.tokens[torch.from_numpy(crops).to(self.tokens.device)].to(self.device, self.dtype)

    def crops_per_record(self, rows: np.ndarray) -> int:
        """The number of crops per row if it is the same for all rows; else 1."""
        counts = np.bincount(match_rows(self.rows, rows)[1], minlength=len(rows))
        return int(counts[0]) if len(counts) and (counts == counts[0]).all() else 1

    def batches(self, rows: np.ndarray, multiple: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs (tokens of crops of these rows, each crop's index in rows), about BLOCK crops at a time.

        The number of crops is a multiple of `multiple` in all batches except the last.
        """
        crops, owner = match_rows(self.rows, rows)
        block = max(1, BLOCK // multiple) * multiple
        for first in range(0, len(crops), block):
            part = slice(first, first + block)
            yield self.take(crops[part]), torch.from_numpy(owner[part])


class Reader:
    """The frozen encoder of a job: crops in, tokens (B, R + N, D) out."""

    def __init__(self, job: Job):
        self.encoder, self.crops, self.stride = copy.deepcopy(job.encoder).eval().requires_grad_(False), job.crops, job.stride
        self.folder, self.read_signal = job.folder, job.read_signal
        self.precision, self.device = job.precision, job.crops.device
        self.dtype: torch.dtype = getattr(torch, self.precision)
        self.cached = job.settings.features == "cached"
        self.chunk = chunk_size(self.device)
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear):
                part.to(self.dtype)  # once, because autocast would do it at each chunk

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, 12, T) normalised crops -> (B, R + N, D) tokens."""
        with optim.autocast(self.device, self.precision):
            tokens: Tensor = self.encoder(x, registers=True)
            return tokens.to(self.dtype)

    def encode_crops(self, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        """(B, R + N, D) tokens of one crop per row. rows (B,): of the store. starts (B,): the crops' first samples."""
        return self.encode(self.crops.normalise(self.crops.raw(torch.from_numpy(rows), torch.from_numpy(starts))))

    def encode_grid(self, rows: np.ndarray, title: str, crops: Crops) -> Iterator[tuple[int, Tensor]]:
        """Encode all crops of the rows, one per stride; yields (number of crops before, tokens). Interrupted at a signal."""
        grid, done = lay_grid(crops, rows, self.stride), 0
        with progress.bar(f"encode {title}", len(grid.rows)) as bar:
            for x in grid.batches(crops, self.chunk):
                if signum := self.read_signal():
                    raise Interrupted(signum, f"the training so far; the run was encoding {title}")
                yield done, self.encode(x)
                done += len(x)
                bar(done, "")

    def collect_tokens(self, rows: np.ndarray, title: str, crops: Crops | None = None) -> CropTokens:
        """Tokens of all crops of the rows, one per stride. crops: reads the rows; by default the job's.

        Tokens are stored in the run's precision, float32 or bfloat16. Only the cached features of a float32 run are stored
        in float16. If they take more than IN_MEMORY, they lie in an unnamed file, which vanishes when the process ends.
        """
        crops = crops or self.crops
        dtype = torch.float16 if self.cached and self.precision == "float32" else self.dtype
        owner, out = lay_grid(crops, rows, self.stride).rows, torch.empty(0)
        for done, tokens in self.encode_grid(rows, title, crops):
            if not done:
                out = self._allocate((len(owner), *tokens.shape[1:]), dtype)
            out[done: done + len(tokens)] = tokens.to(out.device, dtype)
        return CropTokens(owner, out, self.device, self.dtype)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the device, or in a file if it is larger than IN_MEMORY."""
        size = math.prod(shape) * dtype.itemsize
        if size <= IN_MEMORY:
            return torch.empty(shape, dtype=dtype, device=self.device)
        with name_in_errors(self.folder), tempfile.TemporaryFile(dir=self.folder) as f:
            os.posix_fallocate(f.fileno(), 0, size)  # a full disk raises an error here; once mapped it would crash
            return torch.frombuffer(mmap.mmap(f.fileno(), size), dtype=dtype).view(shape)

    def average_features(self, batches: Iterable[tuple[Tensor, Tensor]], n: int) -> Tensor:
        """(n, D) features of n records: the mean patch token, averaged over the crops."""
        registers = len(self.encoder.registers)
        return average_crops(((tokens[:, registers:].float().mean(1), owner) for tokens, owner in batches), n)

    def collect_features(self, rows: np.ndarray) -> Tensor:
        """(n, D) features of the rows, from all their crops, one per stride. No tokens are stored."""
        owner = torch.from_numpy(match_rows(lay_grid(self.crops, rows, self.stride).rows, rows)[1])
        return self.average_features(((tokens, owner[done: done + len(tokens)]) for done, tokens in self.encode_grid(
            rows, "the neighbours", self.crops)), len(rows))
