"""Print what bootstrap intervals of a frozen evaluation's ten seeds cost, beside a loop over sklearn's roc_auc_score.

    python benchmarks/bootstrap.py                              2,198 records x 71 classes as rare as PTB-XL's, 10 seeds
    python benchmarks/bootstrap.py --sklearn 20 --rounds 5

On one thread. The loop is measured on --sklearn resamples of one seed and scaled up; each of them has to agree.
"""

import argparse
import os
import time
from statistics import median

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from bench.evaluation import metrics
from bench.runs.provenance import cpu_name

RECORDS, CLASSES, SEEDS = 2198, 71, 10  # PTB-XL 1.0.3, fold 10, task `all`


def synthetic(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """y (RECORDS, CLASSES), positives from 1 to 1,678 with a median near 20; p (SEEDS, RECORDS, CLASSES), with ties."""
    positives = np.geomspace(1, 400, CLASSES).astype(int)
    positives[-2:] = 964, 1678
    y = np.stack([rng.permutation(np.arange(RECORDS) < k) for k in positives], 1).astype(np.int64)
    logits = rng.normal(size=(SEEDS, RECORDS, CLASSES)) + 1.5 * y
    return y, (1 / (1 + np.exp(-logits))).round(6)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=metrics.RESAMPLES)
    parser.add_argument("--sklearn", type=int, default=10, help="resamples that sklearn scores (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    options = parser.parse_args(arguments)
    y, p = synthetic(np.random.default_rng(0))
    seconds: dict[str, list[float]] = {"draw": [], "score": [], "sklearn": []}
    for _ in range(options.rounds):
        times = [time.process_time()]
        weights = metrics.draw_resamples(y, options.resamples)
        times.append(time.process_time())
        aurocs = [metrics.auroc(y, each, weights) for each in p]
        times.append(time.process_time())
        worst = 0.0
        for row, ours in list(zip(weights, aurocs[0], strict=True))[: options.sklearn]:
            ids = np.repeat(np.arange(RECORDS), row)
            worst = max(worst, np.abs(roc_auc_score(y[ids], p[0][ids], average=None) - ours).max())
        times.append(time.process_time())
        for name, took in zip(seconds, np.diff(times), strict=True):
            seconds[name].append(took)
    console = Console(highlight=False)
    console.print(f"{cpu_name()}, one thread, {options.resamples:,} resamples of {RECORDS:,} x {CLASSES}, {SEEDS} seeds")
    table = Table("what", "CPU seconds (range)")
    scaled = [s * SEEDS * options.resamples / options.sklearn for s in seconds["sklearn"]]
    for name, values in (("drawing complete resamples, once", seconds["draw"]), ("scoring ten seeds", seconds["score"]),
                         ("both", [a + b for a, b in zip(seconds["draw"], seconds["score"], strict=True)]),
                         (f"scoring with sklearn, from {options.sklearn} resamples", scaled)):
        table.add_row(name, f"{median(values):,.2f} ({min(values):,.2f}-{max(values):,.2f})")
    console.print(table)
    console.print(f"largest difference to sklearn: {worst:.1e}")


if __name__ == "__main__":
    main()
