"""Prints what evaluations cost here: a step, a crop, and from these the paper's full frozen evaluation of one backbone.

    python benchmarks/evaluation.py                                   ours alone, ViT-XS and ViT-S
    python benchmarks/evaluation.py --published ~/ECG-JEPA            beside the published loop
    python benchmarks/evaluation.py --quick                           seconds: does it run?
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from jepa_step import now
from published import Published
from rich.console import Console
from rich.table import Table

from bench.api import open_workspace
from bench.core.errors import UserError, unknown
from bench.core.files import write_text
from bench.data.corpora import CorpusFolder, Recording
from bench.data.ingest.prepare import prepare
from bench.data.loader import Crops
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.encoders import vit
from bench.evaluation import finetune, heads, tasks
from bench.evaluation.job import Job
from bench.evaluation.protocols import load_evaluation_config
from bench.evaluation.reader import Reader
from bench.evaluation.stack import HeadPredictor, Stack, list_points
from bench.runs import results as record
from bench.runs.config import run_id
from bench.runs.layers import overrides_of
from bench.runs.provenance import provenance
from bench.runs.workspace import Workspace
from bench.training import optim

RATE_HZ, SECONDS = 500, 10
TASKS = {"all": (71, 17_418, 2_183), "diagnostic": (44, 17_084, 2_146), "subdiagnostic": (23, 17_084, 2_146),
         "superdiagnostic": (5, 17_084, 2_146), "form": (19, 7_197, 901), "rhythm": (12, 16_832, 2_100),
         "ST-MEM": (5, 12_957, 1_637)}  # PTB-XL 1.0.3: classes, training and validation records
TEST, PER_RECORD = 2_198, 7  # test records; crops of 2.5 s at a stride of 1.25 s
SEEDS, STEPS, VALIDATIONS, BATCH, CLASSES = 10, 5_000, 50, 128, 71
PER_CLASS = 25  # records to one that a class has: PTB-XL's have 2.8 of 71 statements
TARGETS = {"exact": 250, "cached": 1_000, "finetune": 2}  # times the published speed


def crops_needed() -> float:
    """How many random crops one pass encodes, at most: in each epoch what the tasks that still train use of 17,418 records."""
    epochs = {name: STEPS / (n // BATCH) for name, (_, n, _) in TASKS.items()}
    return sum(min(TASKS["all"][1], sum(n * min(max(epochs[name] - e, 0), 1) for name, (_, n, _) in TASKS.items()))
               for e in range(int(max(epochs.values())) + 1))


def noise_store(folder: Path, records: int) -> Store:
    """White noise; every record is labelled, training and validation are the same records."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"record_id": [f"{i:05d}" for i in range(records)], "patient_id": "", "fold": 0})
    noise = rng.integers(-2000, 2000, (len(LEADS), SECONDS * RATE_HZ + records), dtype=np.int16)

    def read(row: Any) -> Recording:
        first = int(row.record_id)
        return Recording(RATE_HZ, noise[:, first: first + SECONDS * RATE_HZ], np.full(len(LEADS), 1000.0), np.zeros(len(LEADS)))

    return prepare(CorpusFolder("noise", "1", RATE_HZ, "mV", 0.001, table, {}, read), folder)


class Ours:
    """The parts of our evaluations of one backbone, each measured in seconds by a method of its name."""

    def __init__(self, size: str, precision: str, store: Store, there: Workspace, records: int):
        self.there, self.rows = there, np.arange(records)
        place = np.add.outer(self.rows, np.arange(CLASSES))
        labels = (place % min(PER_CLASS, records) == 0).astype(np.float32)
        split = tasks.Split(self.rows, labels)
        self.task = tasks.TrainingTask("multi-label", [str(i) for i in range(CLASSES)], split, split)
        given = overrides_of({"evaluation.precision": precision, "evaluation.batch": min(BATCH, records)})
        configs = [load_evaluation_config("linear", "all", "", store, seed, overrides=given) for seed in range(SEEDS)]
        settings = configs[0].evaluation
        self.crops = Crops(store, round(settings.crop_seconds * RATE_HZ), there.device)
        self.stride = round(settings.stride_seconds * RATE_HZ)
        torch.manual_seed(0)
        encoder = vit.Encoder(vit.SIZES[size]).to(there.device)
        job = Job(configs, {run_id(config): self.task for config in configs}, encoder, self.crops, self.stride, precision,
                  self.rows, there.work, None, there, lambda: 0)
        self.reader = Reader(job)
        self.reader.cached = True
        self.crop_tokens = self.reader.collect_tokens(self.rows, "crops")
        self.stack = Stack(job, configs, list_points(settings)[0])
        self.labels = torch.from_numpy(labels[: BATCH]).to(there.device)
        self.config = load_evaluation_config("finetune", "all", "", store, 0, overrides=given)
        self.tokens = self.read_tokens()
        torch.manual_seed(0)
        tuned = vit.Encoder(vit.SIZES[size], dropout=0.05)
        self.model = heads.Classifier(tuned, heads.build("register", tuned, CLASSES), False).to(there.device)
        self.optimiser = optim.adamw(self.model, self.config.evaluation)

    def read_tokens(self) -> torch.Tensor:
        rows = self.rows[np.arange(min(BATCH, len(self.rows)))]
        parts = np.array_split(rows, max(1, len(rows) // self.reader.chunk))
        return torch.cat([self.reader.encode_crops(part, part % 3000) for part in parts])

    def seconds(self, what: str) -> float:
        began = now(self.there.device)
        count = getattr(self, what)()
        return (now(self.there.device) - began) / count

    def crop(self) -> int:
        """A random crop: read, normalised, encoded."""
        return len(self.read_tokens())

    def cached_crop(self) -> int:
        """A crop whose tokens are in memory: gathered."""
        return len(self.crop_tokens.take(np.random.default_rng(0).integers(len(self.crop_tokens.rows), size=BATCH)))

    def step(self) -> int:
        """A step of the ten heads of the largest task."""
        self.stack.step(self.tokens, self.labels)
        return 1

    def validation_crop(self) -> int:
        """A crop through the ten heads."""
        HeadPredictor(self.stack.head, self.task, self.stack.settings).predict(self.crop_tokens, self.rows)
        return len(self.crop_tokens.rows)

    def selection(self) -> int:
        """The validation score of one head of 71 classes on as many records as fold 9 has."""
        n = TASKS["all"][2]
        tasks.selection("multi-label", self.task.train.labels[np.arange(n) % len(self.rows)],
                        np.random.default_rng(0).random((n, CLASSES)))
        return 1

    def tuned_crop(self) -> int:
        """A validation crop of fine-tuning."""
        finetune.predict(self.model, self.task, (self.rows, self.crops), self.stride, self.config.evaluation)
        return len(self.crop_tokens.rows)

    def tuned_step(self) -> int:
        """A training step of fine-tuning: data, forward, backward, optimiser."""
        rows = self.rows[: BATCH]
        x = self.crops.normalise(self.crops.raw(torch.from_numpy(rows), torch.from_numpy(rows % 3000)))
        optim.schedule_(self.optimiser, 1, self.config.evaluation)
        finetune.step(self.model, self.optimiser, self.task, (x, self.labels), self.config.evaluation)
        return 1


PARTS = ("crop", "cached_crop", "step", "validation_crop", "selection", "tuned_crop", "tuned_step")


def projected(s: dict[str, float]) -> dict[str, float]:
    """Seconds of the full frozen evaluation, exact and cached, from the parts."""
    fixed = PER_RECORD * (TASKS["all"][2] + TEST) * s["crop"]
    training = STEPS * len(TASKS) * s["step"]
    validating = VALIDATIONS * sum(PER_RECORD * n * s["validation_crop"] + SEEDS * classes / CLASSES * s["selection"]
                                   for classes, _, n in TASKS.values())
    rest = fixed + training + validating
    return {"exact": crops_needed() * s["crop"] + rest, "heads": training + validating,
            "cached": PER_RECORD * TASKS["all"][1] * s["crop"] + crops_needed() * s["cached_crop"] + rest}


def published_seconds(step: float, crop: float) -> float:
    """Seconds of the published loop for the same: a run for every task and seed, all fold 9 encoded at each validation."""
    return SEEDS * sum(STEPS * step + VALIDATIONS * PER_RECORD * n * crop for _, _, n in TASKS.values())


def measure(size: str, precision: str, store: Store, there: Workspace, rounds: int, published: Published | None,
            records: int, console: Console) -> dict[str, Any]:
    ours = Ours(size, precision, store, there, records)
    spent: dict[str, list[float]] = {part: [] for part in PARTS}
    theirs: dict[str, list[float]] = {"step": [], "crop": [], "tuned_step": [], "tuned_crop": []}
    shape = vit.SIZES[size]
    for protocol in ("linear", "finetune") if published else ():
        published("classifier", key=protocol, width=shape.width, depth=shape.depth, heads=shape.heads,  # type: ignore[misc]
                  protocol=protocol, classes=CLASSES, batch=BATCH, samples=ours.crops.samples)
    for part in PARTS:
        ours.seconds(part)
    for _ in range(rounds):
        for part in PARTS:
            spent[part].append(ours.seconds(part))
        for prefix, protocol in (("", "linear"), ("tuned_", "finetune")) if published else ():
            theirs[f"{prefix}step"].append(published("classify", key=protocol))  # type: ignore[misc]
            theirs[f"{prefix}crop"].append(published("validate", key=protocol, crops=BATCH * PER_RECORD))  # type: ignore[misc]
    s = {part: median(values) for part, values in spent.items()}
    whole, tuning = projected(s), s["tuned_step"] + PER_RECORD * TASKS["all"][2] / 100 * s["tuned_crop"]
    out: dict[str, Any] = {"seconds": spent, "published_seconds": theirs, "projected_seconds": whole}
    table = Table(f"{size} {precision}", "ms", "published, ms")
    rows = {"crop": "crop", "cached_crop": None, "step": "step", "validation_crop": "crop", "selection": None,
            "tuned_step": "tuned_step", "tuned_crop": "tuned_crop"}
    for part, beside in rows.items():
        p = f"{1000 * median(theirs[beside]):,.2f}" if beside and published else "-"
        table.add_row((getattr(Ours, part).__doc__ or "").rstrip("."), f"{1000 * s[part]:,.3f}", p)
    console.print(table)
    n_val, scored = (sum(column) for column in ([n for _, _, n in TASKS.values()], [c for c, _, _ in TASKS.values()]))
    console.print(
        f"{len(TASKS)} tasks x {SEEDS} seeds x {STEPS:,} steps of {BATCH}\n"
        f"  exact:  {crops_needed():,.0f} + {PER_RECORD * (TASKS['all'][2] + TEST):,} crops x {1000 * s['crop']:.2f} ms + "
        f"{STEPS * len(TASKS):,} steps x {1000 * s['step']:.1f} ms + {VALIDATIONS} x ({PER_RECORD * n_val:,} crops x "
        f"{1000 * s['validation_crop']:.3f} ms + {SEEDS} x {scored} / {CLASSES} x {1000 * s['selection']:.1f} ms) = "
        f"{whole['exact']:,.0f} s\n"
        f"  cached: {PER_RECORD * (TASKS['all'][1] + TASKS['all'][2] + TEST):,} crops encoded, {crops_needed():,.0f} gathered at "
        f"{1000 * s['cached_crop']:.3f} ms, the same heads = {whole['cached']:,.0f} s (heads {whole['heads']:,.0f} s)")
    if published:
        step, crop = median(theirs["step"]), median(theirs["crop"])
        total = published_seconds(step, crop)
        their_tuning = median(theirs["tuned_step"]) + PER_RECORD * TASKS["all"][2] / 100 * median(theirs["tuned_crop"])
        ratios = {"exact": total / whole["exact"], "cached": total / whole["cached"], "finetune": their_tuning / tuning}
        console.print(
            f"  published: {SEEDS * len(TASKS)} runs: {STEPS:,} steps x {step:.2f} s + {VALIDATIONS} x fold 9 x {PER_RECORD} "
            f"crops x {1000 * crop:.1f} ms = {total:,.0f} s\n"
            f"  fine-tuning, a step and its share of validation: {tuning:.2f} s, published {their_tuning:.2f} s\n  " + ", ".join(
                f"{name}: {ratio:,.1f} x (target {TARGETS[name]:,})" for name, ratio in ratios.items()))
        out |= {"published_projected_seconds": total, "ratios": ratios}
    width, tokens = shape.width, 1 + ours.crops.samples // 25
    exact, cached = (PER_RECORD * n * tokens * width * wide / 2**30 for n, wide in (
        (TASKS["all"][2], 2 if precision == "bfloat16" else 4), (TASKS["all"][1], 2)))
    console.print(f"  tokens kept: of the validation crops {exact:.2f} GiB, of cached training crops {cached:.2f} GiB more")
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--published", type=Path, metavar="DIR", help="a checkout of kweimann/ECG-JEPA")
    add("--sizes", nargs="+", default=["xs", "s"], metavar="SIZE")
    add("--precisions", nargs="+", default=[], metavar="P", help="default: float32, and bfloat16 where the device computes in it")
    add("--rounds", type=int, default=3)
    add("--records", type=int, default=BATCH, help=f"of the store that is measured on (default: {BATCH})")
    add("--device", default="cpu")
    add("--threads", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="write every number there")
    add("--quick", action="store_true", help="a tiny ViT on few records: does it run?")
    given = parser.parse_args(arguments)
    published = None
    try:
        if given.quick:
            given.sizes, given.rounds, given.records, given.precisions = ["tiny"], 1, 16, ["float32"]
        for size in given.sizes:
            if size not in vit.SIZES:
                raise unknown("size", size, vit.SIZES)
        device = open_workspace(device=given.device, threads=given.threads).device
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
        origin = provenance(device)
        console.print(f"{origin['device']}, {origin['threads']} threads, torch {origin['torch']}")
        if given.published:
            published = Published(given.published, given.device, torch.get_num_threads())
        numbers, began = {}, time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            there = Workspace(Path(folder), Path(folder), device)
            store = noise_store(Path(folder) / "stores", given.records)
            for size in given.sizes:
                for precision in given.precisions or ["float32"] + ["bfloat16"] * optim.has_bfloat16(device):
                    numbers[f"{size} {precision}"] = measure(size, precision, store, there, given.rounds, published,
                                                             given.records, console)
                    print(f"{size} {precision}: {time.monotonic() - began:.0f} s so far", file=sys.stderr)
        if given.json:
            write_text(given.json, record.dumps({"provenance": origin, "rows": numbers}))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        if published:
            published.close()


if __name__ == "__main__":
    main()
