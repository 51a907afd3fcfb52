"""The last step of `prepare`: writes index, table, report and manifest of a store whose signals are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import replace_file, sha256, write_text
from bench.data.corpora import CorpusFolder, known_corpora
from bench.data.ingest.journal import Tally
from bench.data.signal import LEADS
from bench.data.store import FILES, FORMAT, INDEX, fingerprint, open_store


def write_tables(corpus: CorpusFolder, name: str, folder: Path, tally: Tally, plan: dict[str, Any]) -> None:
    """Write index.npy, records.csv, prepare.json and, last, manifest.json into the folder of the unfinished store."""
    mean, sd = _statistics(name, tally)
    accepted = corpus.records.iloc[np.array(tally.row)]
    index = np.zeros(len(accepted), INDEX)
    index["length"], index["digest"], index["stored"] = tally.length, tally.digest, tally.stored
    index["fold"] = accepted["fold"]
    index["offset"][1:] = index["length"][:-1].cumsum()
    with replace_file(folder / "index.npy") as f:
        np.save(f, index)
    with replace_file(folder / "records.csv") as f:
        accepted.to_csv(f, columns=["record_id", "patient_id", *corpus.tasks], index=False, lineterminator="\n", mode="wb")
    ids = accepted["record_id"].to_numpy(object)
    report = {**_counts(corpus, tally, index, plan), "duplicates": _duplicates(index, ids, folder.parent)}
    write_text(folder / "prepare.json", json.dumps(report, indent=1, sort_keys=True))
    manifest = {
        "format": FORMAT, "name": name, "corpus": corpus.name, "version": corpus.version, "rate_hz": plan["rate_hz"],
        "published_rate_hz": corpus.rate_hz, "resampled": tally.resampled, "resampling": plan["resampling"],
        "highpass_hz": corpus.highpass_hz, "leads": list(LEADS), "units": corpus.units, "scale": corpus.scale,
        "records": len(accepted), "samples": int(index["length"].sum()),
        "mean": (mean * corpus.scale).tolist(), "sd": (sd * corpus.scale).tolist(),
        "stats_folds": plan["stats_folds"], "tasks": corpus.tasks, "kinds": corpus.kinds,
        "files": {file: _about(folder / file) for file in FILES},
    }
    manifest["fingerprint"] = fingerprint(manifest)
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))


def _statistics(name: str, tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """(12,) mean and (12,) sd in steps; UserError if a lead is constant in all records."""
    count = tally.samples
    mean = np.array([total / count for total in tally.total])
    variance = [(count * squares - total**2) / count**2  # of integers, so nothing is rounded before the division
                for total, squares in zip(tally.total, tally.squares, strict=True)]
    flat = [lead for lead, v in zip(LEADS, variance, strict=True) if not v]
    if flat:
        raise UserError(f"{name}: lead {flat[0]} is constant in every record, it cannot be normalised")
    return mean, np.sqrt(variance)


def _about(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file. signals.i16 gets no SHA-256, because the index has a hash of every record of it."""
    size = {"bytes": path.stat().st_size}
    return size if path.name == "signals.i16" else {**size, "sha256": sha256(path)}


def _counts(corpus: CorpusFolder, tally: Tally, index: np.ndarray, plan: dict[str, Any]) -> dict[str, Any]:
    """The report's counts: records in the corpus, accepted, refused and changed, and how many the paper used."""
    refused = {reason: {**group, "count": len(group["records"])} for reason, group in tally.refused.items()}
    accepted = len(index)
    assert tally.rows == len(corpus.records) == accepted + sum(group["count"] for group in refused.values())
    training = np.isin(index["fold"], plan["stats_folds"]) if plan["stats_folds"] else np.ones(accepted, bool)
    published = known_corpora().get(corpus.name)
    return {
        "records": tally.rows, "accepted": accepted, "refused": refused, **tally.notes,
        "for_training": {"records": int(training.sum()),
                         "seconds": float(index["length"][training].sum() / plan["rate_hz"])},
        "paper": {"records": published.records, "seconds": published.seconds} if published and published.records else None,
    }


def _duplicates(index: np.ndarray, ids: np.ndarray, stores: Path) -> dict[str, Any]:
    """Groups of records with the same samples, and records whose samples another store holds."""
    _, inverse, times = np.unique(index["digest"], return_inverse=True, return_counts=True)
    groups: dict[int, list[str]] = {}
    for i in np.flatnonzero((times[inverse] > 1) & (index["digest"] != 0)):
        groups.setdefault(int(inverse[i]), []).append(ids[i])
    across, not_compared = {}, []
    for other in sorted(path.parent for path in stores.glob("[!.]*/manifest.json")):
        try:
            digests = open_store(other, verify=False).index["digest"]
        except UserError:  # of another version, or damaged
            not_compared.append(other.name)
            continue
        common = np.isin(index["digest"], digests) & (index["digest"] != 0)
        if common.any():
            across[other.name] = ids[common].tolist()
    return {"within": sorted(groups.values()), "across": across, "not_compared": not_compared}
