"""The input of a pre-training: stores, which are checked against the config, and the rows of the batch per forward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bench.core.errors import UserError
from bench.core.processes import World
from bench.core.rng import DATA, MONITOR, derive
from bench.data.loader import Loader
from bench.data.store import Store
from bench.runs.config import PretrainConfig
from bench.runs.workspace import Workspace


def fill_fingerprints(config: PretrainConfig, stores: Mapping[str, Store]) -> PretrainConfig:
    """The config with the fingerprints of its stores; UserError if a store does not fit the config.

    stores: name -> store. It must hold at least the stores of data.mix.
    """
    data = config.data
    for name in data.mix:
        store, manifest = stores[name], stores[name].manifest
        if store.rate_hz != data.rate_hz:
            raise UserError(f"store {name} has {store.rate_hz} Hz, data.rate_hz is {data.rate_hz}; "
                            f"set data.rate_hz or prepare the store at that rate")
        if manifest["resampled"] and manifest["resampling"] != data.resampling:
            raise UserError(f"store {name} was resampled by {manifest['resampling']}, data.resampling is "
                            f"{data.resampling}; set it, or prepare the store with --resampling {data.resampling}")
        if data.fingerprints.get(name, store.fingerprint) != store.fingerprint:
            raise UserError(f"store {name} has changed: its fingerprint is {store.fingerprint}, the config says "
                            f"{data.fingerprints[name]}; load the config anew, or bring the store back")
    fingerprints = {name: stores[name].fingerprint for name in sorted(data.mix)}
    return config.replace(data=data.replace(fingerprints=fingerprints))


def open_loader(config: PretrainConfig, stores: Sequence[Store], workspace: Workspace, world: World) -> Loader:
    """The loader of this process's part of every batch. The order of `stores` does not matter."""
    data, stores = config.data, sorted(stores, key=lambda store: store.name)
    return Loader(stores, [data.mix[store.name] for store in stores], folds=data.folds, seconds=data.crop_seconds,
                  batch=config.optim.batch, device=workspace.device, place=workspace.place, seed=derive(config.seed, DATA),
                  rank=world.rank, world=world.size)


def read_fixed_batch(config: PretrainConfig, loader: Loader, records: int) -> Tensor:
    """(records, leads, samples) fixed crops on which the run looks for collapse; the same after a resume."""
    return Loader(loader.stores, loader.weights.tolist(), folds=config.data.folds, seconds=config.data.crop_seconds,
                  seed=config.seed, batch=records, device=loader.device, place="host").batch_at(MONITOR)


def list_corpora(loader: Loader) -> dict[str, dict[str, Any]]:
    """What the backbone has seen: store -> its corpus, its version, and the number of records that crops are drawn from."""
    return {store.name: {"source": store.corpus, "version": store.version, "records": len(rows)}
            for store, rows in zip(loader.stores, loader.eligible, strict=True)}


def split_batch(config: PretrainConfig, world: World) -> list[slice]:
    """The rows of the whole batch for each forward pass of this process: one slice, or several whose gradients accumulate.

    UserError if the batch does not divide evenly, or if dropout would be drawn for a part of it.
    """
    batch, parts = config.optim.batch, config.optim.accumulate * world.size
    if batch % parts:
        raise UserError(f"optim.batch {batch} does not divide into optim.accumulate {config.optim.accumulate} parts on each of "
                        f"{world.size} processes")
    if config.encoder.dropout and parts > 1:
        raise UserError("encoder.dropout is drawn for a whole batch: it needs one process and optim.accumulate 1")
    size, first = batch // parts, world.rank * config.optim.accumulate
    return [slice(i * size, (i + 1) * size) for i in range(first, first + config.optim.accumulate)]


def refuse_gather(x: Tensor) -> Tensor:
    """Raises UserError. It replaces Step.gather when a step has several micro-batches, none of which is the whole batch."""
    raise UserError("this method's loss compares the records of a whole batch: optim.accumulate must be 1; use a "
                    "smaller optim.batch, or more processes")
