"""Print what preparing, resampling, opening and reading records cost on this machine, each beside what it replaces."""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
import wfdb
from rich.console import Console
from rich.table import Table

from bench.core.errors import UserError
from bench.core.files import sha256, write_text
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.loader import Loader
from bench.data.signal import LEADS, fill_gaps, resample
from bench.data.store import FILES, FORMAT, INDEX, fingerprint, open_store
from bench.data.synthetic.ptbxl_layout import write_ptbxl
from bench.runs.provenance import provenance
from bench.runs.results import dumps

SECTIONS = ("prepare", "transform", "scale", "reads")
SAMPLES, BATCH = 5000, 2048
MANY = 6  # times that every record is prepared: what is done once per corpus is not what is measured
CPU = torch.device("cpu")


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def on_cores(cores: int, work: Callable[[], Any]) -> float:
    """Seconds of work on the first `cores` cores of those allowed."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        return timed(work)
    finally:
        os.sched_setaffinity(0, allowed)


def print_table(console: Console, title: str, heads: list[str], rows: list[list[str]]) -> None:
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def spread(values: list[float]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


def challenge_like(corpus: Path, folder: Path) -> Path:
    """The 500 Hz records of a corpus in PTB-XL's layout, as the Challenge stores them: 24 bytes, then the samples."""
    folder.mkdir()
    for i, path in enumerate(sorted(corpus.glob("records500/*/*.dat"))):
        name = f"E{i:05d}"
        (folder / f"{name}.mat").write_bytes(bytes(24) + path.read_bytes())
        head, *lines = path.with_suffix(".hea").read_text().splitlines()
        lines = [line.replace(f"{path.name} 16 ", f"{name}.mat 16x1+24 ") for line in lines if not line.startswith("#")]
        (folder / f"{name}.hea").write_text("\n".join([head.replace(path.stem, name), *lines, "# Dx: 426783006", ""]))
    return folder


def measure_prepare(console: Console, corpus: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """records/s from published files to a finished store, against a loop that reads the same files with wfdb."""
    out = {}
    for kind, folder_of_kind in (("ptb-xl", corpus), ("georgia", challenge_like(corpus, folder / "georgia"))):
        few = open_corpus(kind, folder_of_kind, 500)
        source = dataclasses.replace(few, records=pd.concat([few.records] * MANY, ignore_index=True))
        stems = [str(p.with_suffix("")) for p in sorted(folder_of_kind.rglob("*.hea")) if "records100" not in p.parts]
        rates: dict[str, list[float]] = {}
        for _ in range(rounds):
            plain = len(stems) / on_cores(1, lambda s=stems: [wfdb.rdrecord(stem) for stem in s])
            rates.setdefault("wfdb.rdrecord in a loop, one core", []).append(plain)
            for cores in (1, 2):
                store = folder / f"stores-{cores}"
                seconds = on_cores(cores, lambda s=source, c=cores, f=store: prepare(s, f, workers=c))
                rates.setdefault(f"prepare, {cores} core{'s' * (cores > 1)}", []).append(len(source.records) / seconds)
                shutil.rmtree(store)
        base = rates["wfdb.rdrecord in a loop, one core"]
        ratio = {what: median(a / b for a, b in zip(r, base, strict=True)) for what, r in rates.items()}
        targets = {"prepare, 1 core": ">= 12", "prepare, 2 cores": ">= 20"}
        print_table(console, f"{kind}, {len(stems)} records of 12 x {SAMPLES}", ["", "records/s", "times wfdb", "target"],
              [[what, spread(r), f"{ratio[what]:.1f}", targets.get(what, "")] for what, r in rates.items()])
        out[kind] = {"records_per_second": rates, "ratio": ratio}
    return out


PUBLISHED = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from data import transforms
spec = json.loads(sys.argv[2])
x = np.load(spec["file"])
mean, sd = np.load(spec["statistics"])
def work():
    for record in x.copy():
        record = transforms.interpolate_NaNs_(record)
        record = transforms.resample(record, spec["samples"])
        transforms.normalize_(record, (mean.astype(record.dtype), sd.astype(record.dtype)))
        record.clip(-5, 5, out=record)
work()
for _ in range(spec["rounds"]):
    began = time.perf_counter(); work(); print(time.perf_counter() - began, flush=True)
"""


def measure_transform(console: Console, published: Path | None, rounds: int, folder: Path) -> dict[str, Any]:
    """records/s of filling gaps, resampling to 500 Hz, normalising and clipping on one thread, beside the published one."""
    out: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    rows = []
    for rate_hz, samples in ((400, 4096), (1000, 38400), (257, 46260)):
        x = rng.normal(size=(max(2, 400_000 // samples), samples, 12)).cumsum(1)
        x -= x.mean(1, keepdims=True)
        x[0, 100:140, 3] = np.nan
        target = round(samples * 500 / rate_hz)
        mean, sd = np.nanmean(x, (0, 1)), np.nanstd(x, (0, 1))
        scale, shift = (1 / sd).astype(np.float32)[:, None], (-mean / sd).astype(np.float32)[:, None]
        leads_first = np.ascontiguousarray(x.transpose(0, 2, 1))

        def ours(method: str, leads_first: np.ndarray = leads_first, rate_hz: int = rate_hz, scale: np.ndarray = scale,
                 shift: np.ndarray = shift) -> None:
            for signal in leads_first:
                y = resample(fill_gaps(signal)[0], rate_hz, 500, method)
                np.clip(np.add(np.multiply(y, scale, out=y), shift, out=y), -5, 5, out=y)

        seconds: dict[str, list[float]] = {m: [] for m in ("fourier", "periodic")}
        for method, timings in seconds.items():
            ours(method)
            timings += [on_cores(1, lambda m=method: ours(m)) for _ in range(rounds)]
        if published:
            np.save(folder / "x.npy", x.astype(np.float16))
            np.save(folder / "statistics.npy", np.stack([mean, sd]))
            spec = {"file": str(folder / "x.npy"), "statistics": str(folder / "statistics.npy"), "samples": target,
                    "rounds": rounds}
            command = [sys.executable, "-c", PUBLISHED, str(published), json.dumps(spec)]
            one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one)
            if done.returncode:
                raise UserError(f"the published transform of {published} failed: {done.stderr.strip().splitlines()[-1]}")
            seconds["published"] = [float(line) for line in done.stdout.split()]
        a, b = (resample(leads_first[1], rate_hz, 500, m) for m in ("fourier", "periodic"))
        inner = slice(500, -500)
        error = float(np.sqrt(np.mean((a - b)[:, inner] ** 2)) / b[:, inner].std())
        for what, timings in seconds.items():
            ratio = median(seconds["published"]) / median(timings) if published else None
            rows.append([f"{rate_hz} Hz, {samples} samples", what, spread([len(x) / s for s in timings]),
                         f"{ratio:.1f}" if ratio else "-", ">= 3.5" if what == "fourier" else ""])
        out[str(rate_hz)] = {"seconds": seconds, "records": len(x), "rms_difference": error}
    print_table(console, "to 500 Hz, gaps filled, normalised, clipped; one thread",
          ["from", "resampling", "records/s", "times published", "target"], rows)
    return out


def sparse_store(folder: Path, records: int) -> Path:
    """A store of this many records of zeros whose signals take no room on the disk."""
    folder.mkdir()
    with (folder / "signals.i16").open("wb") as f:
        f.truncate(2 * records * len(LEADS) * SAMPLES)
    index = np.zeros(records, INDEX)
    index["length"], index["offset"], index["digest"] = SAMPLES, np.arange(records) * SAMPLES, np.arange(records)
    np.save(folder / "index.npy", index)
    rows = "".join(f"{i:07d},{i // 3}\n" for i in range(records))
    write_text(folder / "records.csv", "record_id,patient_id\n" + rows)
    write_text(folder / "prepare.json", "{}")

    def entry(name: str) -> dict[str, Any]:
        digest = {"sha256": sha256(folder / name)} if name != "signals.i16" else {}
        return {"bytes": (folder / name).stat().st_size, **digest}

    manifest: dict[str, Any] = {
        "format": FORMAT, "name": folder.name, "corpus": "sparse", "version": "1", "kinds": {}, "rate_hz": 500,
        "leads": list(LEADS),
        "units": "mV", "scale": 0.001, "records": records, "samples": records * SAMPLES, "mean": [0.0] * 12, "sd": [1.0] * 12,
        "stats_folds": [], "tasks": {}, "files": {name: entry(name) for name in FILES}}
    manifest["fingerprint"] = fingerprint(manifest)
    write_text(folder / "manifest.json", json.dumps(manifest))
    return folder


SCALE = """
import json, resource, sys, time
from pathlib import Path
import torch
from bench.data.loader import Loader
from bench.data.store import open_store

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

def timed(work):
    began = time.perf_counter(); out = work()
    return out, time.perf_counter() - began

before = resident()
store, opening = timed(lambda: open_store(Path(sys.argv[1]), verify=False))
opened = resident() - before
loader, making = timed(lambda: Loader([store], [1.0], folds=[], seconds=10.0, batch=2048, seed=0, device=torch.device("cpu"),
                                      place="host"))
loader.draw(0)
drawing = min(timed(lambda k=k: loader.draw(k))[1] for k in range(1, 6))
print(json.dumps({"open_s": opening, "open_mib": opened, "loader_s": making, "draw_ms": 1000 * drawing,
                  "all_mib": resident() - before}))
"""


def measure_scale(console: Console, folder: Path) -> dict[str, Any]:
    """Time and memory of opening a store and drawing a batch at 10^4, 10^5 and 10^6 records, each in a process of its own."""
    out = {}
    for records in (10**4, 10**5, 10**6):
        store = sparse_store(folder / f"sparse-{records}", records)
        done = subprocess.run([sys.executable, "-c", SCALE, str(store)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"opening {records:,} records failed: {done.stderr.strip().splitlines()[-1]}")
        out[str(records)] = json.loads(done.stdout)
        shutil.rmtree(store)
    print_table(console, f"a store of records of 12 x {SAMPLES}: opened (target at 10^6: < 1 s, < 300 MiB), {BATCH} drawn",
          ["records", "open (s)", "memory (MiB)", "loader (s)", "draw (ms)", "memory of both (MiB)"],
          [[f"{int(n):,}", *(f"{r[k]:.3g}" for k in ("open_s", "open_mib", "loader_s", "draw_ms", "all_mib"))]
           for n, r in out.items()])
    return out


def measure_reads(console: Console, records: int, rounds: int, folder: Path) -> dict[str, Any]:
    """records/s of batches of 512 from a store out of and in the page cache: mapped, and read at positions."""
    store = sparse_store(folder / "reads", records)
    rng = np.random.default_rng(0)
    with (store / "signals.i16").open("wb") as f:
        for _ in range(records):
            f.write(rng.integers(-2000, 2000, (len(LEADS), SAMPLES), dtype=np.int16).data)
        f.flush()
        os.fsync(f.fileno())
    opened = open_store(store, verify=False)
    rates: dict[tuple[str, str], list[float]] = {}
    for k in range(rounds):
        for state in ("cold", "warm"):
            for place in ("device", "host"):
                loader = Loader([opened], [1.0], folds=[], seconds=10.0, batch=512, seed=k, device=CPU, place=place)
                if state == "cold":
                    with (store / "signals.i16").open("rb") as f:
                        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    loader.gather(0)
                rates.setdefault((state, place), []).append(512 / timed(lambda x=loader: x.gather(0)))
    rows = []
    for state, target in (("cold", ">= 6"), ("warm", ">= 0.9")):
        mapped, read = rates[state, "device"], rates[state, "host"]
        ratio = median(a / b for a, b in zip(read, mapped, strict=True))
        rows.append([state, spread(mapped), spread(read), f"{ratio:.2f}", target])
    size = (store / "signals.i16").stat().st_size / 2**30
    print_table(console, f"records/s, {records:,} records of 12 x {SAMPLES} ({size:.1f} GiB), batches of 512",
          ["page cache", "memory map", "positioned reads", "ratio", "target"], rows)
    shutil.rmtree(store)
    return {f"{state} {place}": r for (state, place), r in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--corpus", type=Path, help="PTB-XL's layout with records500/; synthetic records by default")
    parser.add_argument("--published", type=Path, help="checkout of kweimann/ECG-JEPA, for its transforms")
    parser.add_argument("--records", type=int, default=12_000, help="of the store that is read cold (12,000: 1.3 GiB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where temporary files go: the disk that is measured")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    origin = provenance(CPU)
    console.print(f"{origin['device']}, {os.cpu_count()} cores, {options.rounds} rounds; median (range)")
    out: dict[str, Any] = {"provenance": origin, "rounds": options.rounds}
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            if "prepare" in options.only:
                corpus = options.corpus
                if corpus is None:
                    write_ptbxl(folder / "synthetic", records=300)
                    corpus = folder / "synthetic"
                out["prepare"] = measure_prepare(console, corpus, options.rounds, folder)
            if "transform" in options.only:
                out["transform"] = measure_transform(console, options.published, options.rounds, folder)
            if "scale" in options.only:
                out["scale"] = measure_scale(console, folder)
            if "reads" in options.only:
                out["reads"] = measure_reads(console, options.records, options.rounds, folder)
            out["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if options.json:
            write_text(options.json, dumps(out))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
