"""Print what a training step of every method costs on this machine: seconds, records/s, memory, share of the matrix peak.

    python benchmarks/steps.py                                    every method, ViT-XS, float32 and, if the CPU has it, bfloat16
    python benchmarks/steps.py --methods jepa mae --sizes xs s b --batch 32 --compile
    python benchmarks/steps.py --device cuda --batch 512

Each row is measured in a process of its own: its memory is that of the method.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jepa_step import now, peak
from rich.console import Console
from rich.table import Table

from bench import catalogue
from bench.api import open_workspace
from bench.core.errors import UserError, unknown
from bench.core.files import write_text
from bench.core.rng import seeded
from bench.data import views
from bench.data.signal import LEADS
from bench.encoders import vit
from bench.method import build_model, step_at
from bench.runs.config import find_methods, load_pretrain_config
from bench.runs.layers import overrides_of
from bench.runs.provenance import provenance
from bench.runs.results import dumps
from bench.training import optim
from bench.training.log import peak_memory_mb

SIDES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}  # of the square matrices whose product may be the peak


def one(name: str, size: str, batch: int, precision: str, compiled: bool, device: torch.device, steps: int) -> dict[str, Any]:
    """Steps as the trainer takes them, views included, on a batch that is already there; the first three warm up."""
    config = load_pretrain_config(name, overrides_of(
        {"encoder.size": size, "optim.batch": batch, "optim.precision": precision}))
    settings, data = config.optim, config.data
    model = build_model(config).to(device).train()
    optimiser = optim.adamw(model, settings)
    if compiled:
        for part in model.children():
            part.compile()
    x = torch.randn(batch, len(LEADS), round(data.crop_seconds * data.rate_hz), device=device)
    patients = torch.arange(batch, device=device)
    seconds, warm = [], now(device)
    for taken in range(3 + steps):
        if taken == 3:
            warm = now(device) - warm
        began = now(device)
        optim.schedule_(optimiser, taken, settings)
        seen = views.make(x, config.views, data.rate_hz, seeded(taken, batch, device))
        optimiser.zero_grad(set_to_none=True)
        at = step_at(0, taken, settings.steps, device, batch, patients=patients)
        with optim.autocast(device, precision):
            loss, _ = model(seen, at)
        loss.backward()
        optimiser.step()
        model.after_step(step_at(0, taken + 1, settings.steps, device, batch))
        seconds.append(now(device) - began)
    return {"method": name, "size": size, "precision": precision, "compiled": compiled, "batch": batch,
            "seconds": seconds[3:], "warm_seconds": warm, "gflop_per_record": catalogue.count_gflop(config),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "memory_mb": peak_memory_mb(device)}


def measure(options: argparse.Namespace, combination: tuple[Any, ...]) -> dict[str, Any]:
    """One row, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(combination), "--device", options.device, "--threads",
               str(options.threads), "--steps", str(options.steps), "--batch", str(options.batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(map(str, combination))} failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    trained = [name for name in find_methods() if load_pretrain_config(name).optim.steps]
    add("--methods", nargs="+", default=trained, metavar="METHOD")
    add("--sizes", nargs="+", default=["xs"], metavar="SIZE", help="sizes of the ViT (default: xs)")
    add("--batch", type=int, default=16, help="records per step (default: 16)")
    add("--steps", type=int, default=5, help="steps that are timed (default: 5)")
    add("--compile", action="store_true", help="measure compiled steps, too")
    add("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    add("--threads", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="write every number into this file")
    add("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        for kind, values, known in (("method", options.methods, trained), ("size", options.sizes, vit.SIZES)):
            for value in values:
                if value not in known:
                    raise unknown(kind, value, known)
        device = open_workspace(device=options.device, threads=options.threads).device
        if options.one:
            name, size, precision, compiled = json.loads(options.one)
            print(json.dumps(one(name, size, options.batch, precision, compiled, device, options.steps)))
            return
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
        origin = provenance(device)
        console.print(f"{origin['device']}, {origin['threads']} threads, torch {origin['torch']}, batch {options.batch}, "
                      f"12 x 5000")
        precisions = ["float32"] + ["bfloat16"] * optim.has_bfloat16(device)
        peaks = {p: peak(device, p, [(n, n, n) for n in SIDES[device.type]]) for p in precisions}
        console.print("matrix peak: " + ", ".join(f"{p} {v:,.0f} GFLOP/s" for p, v in peaks.items()))
        rows = []
        table = Table("method", "size", "precision", "s/step (range)", "records/s", "GFLOP a record", "of peak", "memory (MB)",
                      "warm-up (s)")
        began = time.monotonic()
        combinations = [(m, s, p, c) for s in options.sizes for p in precisions for c in [False, True][: 1 + options.compile]
                        for m in options.methods]
        for i, combination in enumerate(combinations, 1):
            row = measure(options, combination)
            rows.append(row)
            seconds = median(row["seconds"])
            rate = options.batch / seconds
            table.add_row(row["method"], row["size"], row["precision"] + " compiled" * row["compiled"],
                          f"{seconds:.3f} ({min(row['seconds']):.3f}-{max(row['seconds']):.3f})", f"{rate:,.1f}",
                          f"{row['gflop_per_record']:.2f}",
                          f"{rate * row['gflop_per_record'] / peaks[row['precision']]:.0%}",
                          f"{row['memory_mb']:,.0f}", f"{row['warm_seconds']:.1f}")
            print(f"{i}/{len(combinations)} {' '.join(map(str, combination))}: {seconds:.3f} s, "
                  f"{time.monotonic() - began:.0f} s so far", file=sys.stderr)
        console.print(table)
        if options.json:
            write_text(options.json, dumps({"provenance": origin, "peak_gflops": peaks, "rows": {
                f"{r['method']} {r['size']} {r['precision']}{' compiled' * r['compiled']}": r for r in rows}}))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
