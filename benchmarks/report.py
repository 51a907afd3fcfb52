"""Prints seconds and memory of 100,000 results: packing them, reading their folder, making tables of their Parquet file.

Their numbers are drawn at random; their configs, sizes and counts are those of a benchmark of all methods.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.files import write_text
from bench.evaluation.protocols import load_defaults
from bench.report import checks
from bench.report.aggregate import make_report
from bench.report.results import RANDOM, load_results
from bench.runs.config import find_methods, load_pretrain_config, run_id
from bench.runs.layers import overrides_of
from bench.runs.mixtures import load_mixture
from bench.runs.packing import pack
from bench.runs.results import dumps, read_results
from paper import tables

TARGETS = {"seconds": 30.0, "memory_mb": 2048.0}  # of reading and tables together, of 100,000 results
CLASSES = {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12,
           "superdiagnostic-single": 5}  # of PTB-XL's tasks
SIZES, MIXES = ("xs", "s", "b"), ("ptb-xl", "all")
RECIPES = [("linear", 1.0, fraction) for fraction in (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)] + [
    ("linear", at, 1.0) for at in (0.1, 0.25, 0.5)] + [
    ("finetune", 1.0, fraction) for fraction in (1.0, 0.25, 0.1, 0.01)] + [
    (name, 1.0, 1.0) for name in ("linear-mean", "knn", "finetune-after-linear")]
ALMOST = np.nextafter(1, 0)


def pretrainings(seeds: int) -> Iterator[dict[str, Any]]:
    """The config of every seed of every method at every size on every mixture; a random backbone has one."""
    fingerprints = {name: f"{i:016x}" for i, name in enumerate(load_mixture("all"))}
    for method, size, mix in itertools.product(find_methods(), SIZES, MIXES):
        learns = method != RANDOM
        for seed in range(seeds if learns else 1):
            if learns or mix == MIXES[0]:
                made = load_pretrain_config(method, overrides_of({"encoder.size": size, "data.mix": mix}))
                data = made.data.replace(fingerprints={name: fingerprints[name] for name in made.data.mix})
                yield made.replace(data=data, seed=seed).to_json()


def evaluations(run: str, learns: bool, seeds: int) -> Iterator[dict[str, Any]]:
    for name, at, fraction in RECIPES if learns else [r for r in RECIPES if r[1] == 1 and r[0] != "finetune-after-linear"]:
        defaults = load_defaults(name if learns or name != "finetune" else "scratch").value
        made = {key: value for key, value in (defaults | {"after": defaults["after"] or None}).items() if value is not None}
        made |= {"pretrain": run, "at": at, "fraction": fraction, "data": {"store": "ptb-xl", "fingerprint": f"{2:016x}"}}
        for task in CLASSES:
            for seed in range(1 if learns else seeds):
                yield made | {"task": task, "seed": seed}


def trained(rng: np.random.Generator) -> dict[str, Any]:
    """A pre-training's result."""
    names = ("loss", "lr", "gradient_norm", "records_per_second", "memory_mb", "target_sd", "momentum")
    return {"curves": {"step": list(range(0, 100_000, 500)), **{name: rng.random(200).tolist() for name in names}},
            "monitor": {name: rng.random(21).tolist() for name in ("step", "rankme", "feature_sd")},
            "records_per_second": 2000.0, "seconds": 1e5, "peak_memory_mb": 30000.0,
            "parameters": {"trained": 10**7, "backbone": 10**7}, "saw": {}}


def evaluated(task: str, rng: np.random.Generator) -> dict[str, Any]:
    """An evaluation's result: 1,000 replicates, nine scores of every class."""
    n = CLASSES[task]
    scores = ("auroc", "lower", "upper", "average_precision", "brier", "ece", "f1", "threshold")
    score = float(rng.uniform(0.8, 0.95))
    per_class = {f"C{i:02}": dict(zip(scores, row, strict=True)) | {"positives": 10 + i}
                 for i, row in enumerate(rng.random((n, len(scores))).tolist())}
    bins = {"bins": 15, "bin": list(range(15)), "n": rng.integers(1, 999, 15).tolist(),
            "predicted": rng.random(15).tolist(), "observed": rng.random(15).tolist(), "ece": 0.1}
    return {"metric": "macro_auroc", "macro_auroc": score, "interval": [score - 0.01, score + 0.01],
            "replicates": np.round(np.clip(rng.normal(score, 0.005, 1000), 0, ALMOST), 6).tolist(),
            "bootstrap": {"resamples": 1000, "percentiles": [2.5, 97.5], "seed": 20241014, "kind": "class-complete"},
            **{f"macro_{name}": float(rng.random()) for name in ("average_precision", "f1", "brier", "ece")},
            "f_max": 0.8, "f_max_threshold": 0.3, "calibration": bins, "n": 2198, "per_class": per_class, "undefined": {},
            "records": {"train": 17418, "validation": 2183, "test": 2198}, "validation_macro_auroc": score,
            "task": {"kind": "multi-label", "train_patients": 15000, "left_out": {"train": 0, "validation": 0, "test": 0}},
            "best_step": 3000, "steps": 5000, "chosen": {"lr": 1e-3, "weight_decay": 0.1}, "grid": [],
            "curve": {"step": list(range(100, 5001, 100)), **{k: rng.random(50).tolist() for k in ("loss", "macro_auroc")}},
            "diagnostics": {"n": 2183, "rankme": 100.0, "sd": rng.random(192).tolist()},
            "seconds": 1000.0, "together": 70, "peak_memory_mb": 3000.0,
            "normalisation": {"mean": [0.0] * 12, "sd": [1.0] * 12, "units": "mV"}}


def generate(folder: Path, seeds: int) -> tuple[int, int]:
    """(results written, their bytes)"""
    rng, count, size = np.random.default_rng(0), 0, 0
    about = {"commit": "0" * 40, "dirty": False, "python": "3.11", "torch": "2.13", "device": "a GPU", "threads": 1}

    def write(kind: str, made: dict[str, Any], result: dict[str, Any], **more: Any) -> str:
        nonlocal count, size
        name = run_id(made)
        text = dumps({"schema": 1, "kind": kind, "run_id": name, "config": made, "result": result,
                      "provenance": about | {"slurm_job": str(count // 30)}, **more}).encode()
        (folder / f"{name}.json").write_bytes(text)
        count, size = count + 1, size + len(text)
        return name

    for made in pretrainings(seeds):
        run = write("pretrain", made, trained(rng))
        for each in evaluations(run, made["method"]["name"] != RANDOM, seeds):
            write("evaluate", each, evaluated(each["task"], rng), pretrain_config=made, saw={})
    return count, size


def pack_study(results: Path) -> Any:
    """Packs; gives nothing to measure but time and memory."""
    pack(results)
    return {}


def read_only(results: Path) -> Any:
    """Reads every result."""
    results_, skipped = read_results(results)
    assert not skipped
    return {"results": len(results_)}


def read_and_tabulate(results: Path) -> Any:
    """Reads every result and makes the tables of `ecgssl report`."""
    began = time.perf_counter()
    loaded, skipped = load_results(results)
    read = time.perf_counter()
    notes = checks.footnotes(loaded)
    report = make_report(loaded)
    grouped = time.perf_counter()
    tables.write(report, results.parent / "tables")
    assert not notes and not skipped
    return {"reading": read - began, "cells": grouped - read, "tables": time.perf_counter() - grouped,
            "number of cells": len(report.cells)}


def run_measured(work: Callable[[Path], Any], results: Path, end: Any) -> None:
    """Sends what the work gives, and the seconds and peak memory of this process."""
    began = time.perf_counter()
    numbers = work(results)
    over = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    end.send({**numbers, "seconds": over - began, "CPU seconds": used.ru_utime + used.ru_stime,
              "memory_mb": used.ru_maxrss / 1024})


def measure(work: Callable[[Path], Any], results: Path) -> dict[str, float]:
    """The numbers of the work in a new process."""
    context = multiprocessing.get_context("spawn")
    end, other = context.Pipe()
    process = context.Process(target=run_measured, args=(work, results, other))
    process.start()
    other.close()
    numbers: dict[str, float] = end.recv()
    process.join()
    return numbers


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=100_000, help="about how many")
    parser.add_argument("--folder", type=Path, help="where they lie meanwhile, 4 GB; else the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder, packed = Path(name) / "study", Path(name) / "study.parquet"
        folder.mkdir()
        each = len(RECIPES) * len(CLASSES) + 1
        count, size = generate(folder, max(1, round(given.results / (each * len(find_methods()) * len(SIZES) * len(MIXES)))))
        print(f"{count:,} results, {size / 2**20:,.0f} MB")
        numbers: dict[str, Any] = {"results": count, "megabytes": size / 2**20}
        for what, work, place in (("pack", pack_study, folder), ("read folder", read_only, folder),
                                  ("tables of Parquet", read_and_tabulate, packed)):
            numbers[what] = measure(work, place)
            for key, value in numbers[what].items():
                limited = key in TARGETS and work is read_and_tabulate and count >= 90_000
                print(f"{what:>17} {key:<15} {value:10,.1f}" + (f"  (target {TARGETS[key]:,.0f})" if limited else ""))
        numbers["packed_mb"] = packed.stat().st_size / 2**20
        print(f"{'packed':>17} MB {numbers['packed_mb']:23,.1f}")
    if given.json:
        write_text(given.json, json.dumps(numbers))


if __name__ == "__main__":
    main()
