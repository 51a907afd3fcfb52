"""Print what the loader, masks and JEPA steps cost on this machine, alone or beside the published implementation."""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from jepa_step import KEEP, PARTS, WARM_KEEP, Ours, attention, find_attention, gflop, now, peak
from published import WARM, Published
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.api import open_workspace
from bench.core.errors import UserError, unknown
from bench.core.files import write_text
from bench.core.rng import seeded
from bench.data.corpora import CorpusFolder, Recording
from bench.data.ingest.prepare import prepare
from bench.data.loader import PREFETCH, Loader
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.encoders import vit
from bench.parts import draw_block_mask
from bench.runs.config import load_pretrain_config
from bench.runs.layers import Override
from bench.runs.provenance import provenance
from bench.runs.results import dumps
from bench.training import optim

RATE_HZ, PATCH, BLOCK = 500, 25, 10  # published configurations
WORKERS = 2  # of the published loader
LOADER, MASKS, STEP, COMPILED = 4.0, 50.0, 2.0, 2.3  # targets: times the published rate; the last two on a CPU
SECTIONS = ("loader", "masks", "attention", "step")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    device: torch.device
    rounds: int
    sizes: list[str]
    step_batches: list[int]
    precisions: list[str]
    compiled: list[bool]
    steps: int  # in a timing
    records: int = 3000
    samples: int = 5000  # of a record
    batch: int = 2048  # of loader and masks
    batches: int = 4  # of the loader in a timing
    sides: tuple[int, ...] = (1024, 2048, 4096)  # of the square matrices whose product may be the peak

    @property
    def tokens(self) -> int:
        return self.samples // PATCH

    def aim(self, target: float, here: bool = True) -> float | None:
        """The target, if this plan measures what the target is about."""
        return target if here and (self.batch, self.tokens) == (2048, 200) else None


@dataclass
class Row:
    """Rates by round, and the published ones of the same rounds."""

    what: str
    ours: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    target: float | None = None
    gflop: float = 0.0  # a record
    peak: float = 0.0  # GFLOP/s of a matrix product

    @property
    def ratio(self) -> float | None:
        """Median over the rounds."""
        return median(a / b for a, b in zip(self.ours, self.published, strict=True)) if self.published else None


def noise_store(folder: Path, records: int, samples: int) -> Store:
    table = pd.DataFrame({"record_id": [f"{i:05d}" for i in range(records)], "patient_id": "", "fold": 0})
    rng = np.random.default_rng(0)
    noise = rng.integers(-2000, 2000, (len(LEADS), samples + records), dtype=np.int16)

    def read(row: Any) -> Recording:
        first = int(row.record_id)
        return Recording(RATE_HZ, noise[:, first:first + samples], np.full(len(LEADS), 1000.0), np.zeros(len(LEADS)))

    return prepare(CorpusFolder("noise", "1", RATE_HZ, "mV", 0.001, table, {}, read), folder)


def loader_rows(plan: Plan, store: Store, published: Published | None) -> list[Row]:
    """records/s of batches with their masks: on one thread, and as training draws them."""
    loader = Loader([store], [1.0], folds=[], seconds=plan.samples / RATE_HZ, batch=plan.batch, seed=0,
                    device=plan.device)
    rng = seeded(0, plan.batch, plan.device)

    def rate(batches: Iterator[Tensor]) -> float:
        began = 0.0
        for i, _ in enumerate(itertools.islice(batches, WARM + plan.batches)):
            if i == WARM:
                began = now(plan.device)
            draw_block_mask(plan.tokens, round(KEEP * plan.tokens), BLOCK, rng)
        return plan.batches * plan.batch / (now(plan.device) - began)

    threads = torch.get_num_threads()
    alone, ahead = Row("loader + masks, one thread"), Row("loader + masks, gathering ahead", target=plan.aim(LOADER))
    for _ in range(plan.rounds):
        torch.set_num_threads(1)
        alone.ours.append(rate(map(loader.batch_at, itertools.count())))
        torch.set_num_threads(threads)
        ahead.ours.append(rate(loader.batches(0, WARM + plan.batches + PREFETCH + 1)))  # still gathering at the end
        if published:
            seconds = published("loader", records=plan.records, samples=plan.samples, batch=plan.batch,
                                batches=plan.batches, workers=WORKERS)
            for row in (alone, ahead):
                row.published.append(plan.batches * plan.batch / seconds)
    return [alone, ahead]


def mask_rows(plan: Plan, published: Published | None) -> list[Row]:
    """records/s of masks alone."""
    row = Row(f"masks, {plan.batch} x {plan.tokens}", target=plan.aim(MASKS))
    visible, repeat = round(KEEP * plan.tokens), 10
    rng = seeded(0, plan.batch, plan.device)
    draw_block_mask(plan.tokens, visible, BLOCK, rng)
    for _ in range(plan.rounds):
        began = now(plan.device)
        for _ in range(repeat):
            draw_block_mask(plan.tokens, visible, BLOCK, rng)
        row.ours.append(repeat * plan.batch / (now(plan.device) - began))
        if published:
            row.published.append(plan.batch / published("masks", batch=plan.batch, tokens=plan.tokens))
    return [row]


def step_rows(plan: Plan, store: Store, name: str, batch: int, precision: str, best: float,
              published: Published | None) -> tuple[list[Row], dict[str, Ours]]:
    """records/s of steps without their data, and the models that took them, by row."""
    size = vit.SIZES[name]
    rows: list[Row] = []
    ours: dict[str, Ours] = {}
    for compiled in plan.compiled:
        what = f"step {name} {batch} {precision}{' compiled' * compiled}"
        settings = load_pretrain_config("jepa", [Override(*each) for each in [
            ("encoder.size", name), ("encoder.patch", PATCH), ("optim.batch", batch), ("optim.precision", precision),
            ("optim.compile", compiled), ("method.block", BLOCK), ("data.rate_hz", RATE_HZ),
            ("data.crop_seconds", plan.samples / RATE_HZ), ("views", [{"seconds": plan.samples / RATE_HZ}])]])
        ours[what] = Ours(settings, store, plan.device)
        rows.append(Row(what, target=plan.aim(
            COMPILED if compiled else STEP, plan.device.type == "cpu" and precision == plan.precisions[-1])))
        if published:
            published("prepare", key=what, width=size.width, depth=size.depth, heads=size.heads, batch=batch,
                      samples=plan.samples, precision=precision, compile=compiled, shares=WARM_KEEP)
    for _ in range(plan.rounds):
        for row in rows:
            row.ours.append(batch / ours[row.what].seconds(plan.steps))
            if published:
                row.published.append(batch / published("step", key=row.what, steps=plan.steps))
    if len(rows) > 1 and published:
        rows.append(Row(f"{rows[1].what}, published not", rows[1].ours, rows[0].published, rows[1].target))
    for row in rows:
        row.gflop, row.peak = gflop(size, plan.tokens, round(KEEP * plan.tokens)), best
    return rows, ours


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{number(median(values))} ({number(min(values))} - {number(max(values))})" if values else ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def rate_table(rows: list[Row]) -> Table:
    table = Table("records/s: median (range)", "ours", "published", "ratio", "target", "GFLOP/s", "of peak",
                  "ratio at peak", box=box.SIMPLE)
    for row in rows:
        target = "" if row.target is None else f">= {row.target:g}"
        if row.ratio is not None and row.target is not None:
            target += " met" if row.ratio >= row.target else " MISSED"
        done = row.gflop * median(row.ours)
        table.add_row(row.what, spread(row.ours), spread(row.published), "" if row.ratio is None else f"{row.ratio:.2f}",
                      target, f"{done:.0f}" if done else "", f"{done / row.peak:.0%}" if done else "",
                      f"{row.peak / row.gflop / median(row.published):.2f}" if done and row.published else "")
    return table


def part_table(ours: dict[str, Ours]) -> Table:
    def cell(one: Ours, part: str) -> str:
        whole = sum(median(seconds) for name, seconds in one.parts.items() if name != "data")
        seconds = one.parts[part]
        return f"{spread([1000 * s for s in seconds])} {median(seconds) / whole:.0%}"

    table = Table("ms: median (range), share of the step", *ours, box=box.SIMPLE)
    for part in PARTS:
        table.add_row(part, *(cell(one, part) for one in ours.values()))
    table.add_row("first three steps", *(f"{one.warm_seconds:.1f} s" for one in ours.values()))
    return table


def attention_table(measured: dict[str, dict[str, list[float]]], chosen: str) -> Table:
    table = Table("ms of a block: median (range)", "fused", "plain", "faster", "bench takes", box=box.SIMPLE)
    for what, seconds in measured.items():
        table.add_row(what, *(spread([1000 * s for s in seconds[way]]) for way in ("fused", "plain")),
                      min(seconds, key=lambda way: median(seconds[way])), chosen)
    return table


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--published", type=Path, metavar="PATH", help="a checkout of kweimann/ECG-JEPA to compare with")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... or auto (default: cpu)")
    add("--threads", type=int, default=0, help="CPU threads of both sides; 0: torch's choice")
    add("--rounds", type=int, default=5, help="how often everything is measured, ours and the published one in turn (default: 5)")
    add("--steps", type=int, default=0, help="steps per timing (default: 1, on a GPU 20)")
    add("--only", nargs="+", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    add("--sizes", nargs="+", default=["xs", "s"], metavar="SIZE", help="sizes of the ViT (default: xs s)")
    add("--batches", nargs="+", type=int, default=[32, 64], metavar="B", help="batch sizes of the steps (default: 32 64)")
    add("--precisions", nargs="+", default=["float32", "bfloat16"], metavar="P", help="float32, bfloat16 (default: both)")
    add("--compile", action="store_true", help="measure steps compiled, too")
    add("--force-bf16", action="store_true", help="measure bfloat16 on a CPU that only emulates it, too")
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    add("--json", type=Path, metavar="FILE", help="write every number into this file")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan of the options. Sets torch's threads."""
    for kind, values, known in (("size", options.sizes, vit.SIZES), ("section", options.only, SECTIONS)):
        for value in values:
            if value not in known:
                raise unknown(kind, value, known)
    device = open_workspace(device=options.device, threads=options.threads).device
    available = ["float32"] + ["bfloat16"] * (optim.has_bfloat16(device) or options.force_bf16)
    precisions = [p for p in available if p in options.precisions]
    if not precisions:
        raise unknown("precision", options.precisions[0], available)
    compiled = [False, True] if options.compile else [False]
    cuda = device.type == "cuda"
    if options.quick:
        return Plan(device, 1, ["tiny"], [2], precisions, compiled, 1, records=8, samples=500, batch=8, batches=1,
                    sides=(64,))
    return Plan(device, options.rounds, options.sizes, options.batches, precisions, compiled,
                options.steps or (20 if cuda else 1), sides=(4096, 8192, 16384) if cuda else (1024, 2048, 4096))


def measure(plan: Plan, sections: list[str], published: Published | None, folder: Path,
            console: Console) -> dict[str, Any]:
    """Measure and print one section after the other. All the numbers come back."""
    rows: list[Row] = []
    out: dict[str, Any] = {"peak_gflops": {}, "parts_seconds": {}, "warm_seconds": {}, "attention_seconds": {}}

    def show(new: list[Row]) -> None:
        rows.extend(new)
        console.print(rate_table(new))

    store = noise_store(folder, plan.records if "loader" in sections else max(plan.step_batches), plan.samples)
    if "loader" in sections:
        show(loader_rows(plan, store, published))
    if "masks" in sections:
        show(mask_rows(plan, published))
    for precision in plan.precisions:
        out["peak_gflops"][precision] = peak(plan.device, precision, [(n, n, n) for n in plan.sides])
        console.print(f"  peak of a {precision} matrix product: {out['peak_gflops'][precision]:,.0f} GFLOP/s")
    if not optim.has_bfloat16(plan.device) and "bfloat16" not in plan.precisions:
        console.print("  this CPU has no bfloat16 arithmetic: not measured (--force-bf16 does)")
    for name in plan.sizes if "attention" in sections else ():
        for precision in plan.precisions:
            measured = attention(vit.SIZES[name], plan.step_batches[0], plan.tokens, plan.device, precision,
                                 plan.rounds, 3 * plan.steps)
            new = {f"{name} {plan.step_batches[0]} {precision} {place}": ways for place, ways in measured.items()}
            console.print(attention_table(new, find_attention(plan.device, precision)))
            out["attention_seconds"] |= new
    for name, batch in itertools.product(plan.sizes, plan.step_batches if "step" in sections else ()):
        ours: dict[str, Ours] = {}
        for precision in plan.precisions:
            new, models = step_rows(plan, store, name, batch, precision, out["peak_gflops"][precision], published)
            show(new)
            ours |= models
        console.print(part_table(ours))
        out["parts_seconds"] |= {what: one.parts for what, one in ours.items()}
        out["warm_seconds"] |= {what: one.warm_seconds for what, one in ours.items()}
    return {"records_per_second": [{**asdict(row), "ratio": row.ratio} for row in rows], **out}


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure and print what the options ask for."""
    published = None
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        cache = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}  # empty: compiling costs what it costs at first
        undo.enter_context(patch.dict(os.environ, cache | os.environ))
        plan = plan_of(options)
        if options.published:
            published = Published(options.published, str(plan.device), torch.get_num_threads())
            undo.callback(published.close)
        origin = provenance(plan.device)
        console.print(f"{origin['device']}, {origin['threads']} threads, torch {origin['torch']}, {plan.rounds} rounds")
        numbers = measure(plan, options.only, published, Path(folder), console)
        if options.json:
            write_text(options.json, dumps({"provenance": origin, "rounds": plan.rounds, **numbers}))


def main(arguments: list[str] | None = None) -> None:
    console = Console(highlight=False)
    try:
        run(parse_options(arguments), console if console.is_terminal else Console(highlight=False, width=150))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
