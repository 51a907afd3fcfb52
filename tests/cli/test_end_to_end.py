"""Synthetic ECG -> store -> methods -> evaluations -> results -> table; run again: nothing runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import heads, reported

from bench import sweeps as sweep
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.synthetic import ptbxl_layout
from bench.runs.workspace import Workspace
from paper import figures

METHODS = ["random", "jepa"]
SPEC: dict[str, Any] = {
    "pretrain": {
        "methods": METHODS, "seeds": [0], "mix": {"synthetic": 1.0},
        "set": {"data.rate_hz": 100, "encoder.size": "nano", "optim.steps": 6, "optim.batch": 8, "optim.warmup_steps": 1},
        "per_method": {m: heads(m) for m in METHODS[1:]},
    },
    "evaluate": {
        "store": "synthetic", "tasks": ["superdiagnostic"], "protocols": ["linear", "finetune"], "seeds": [0],
        "set": {"evaluation.steps": 6, "evaluation.batch": 16, "evaluation.validate_every": 3,
                "evaluation.warmup_steps": 0},
    },
}


def test_from_records_of_a_corpus_to_a_table(tmp_path: Path, nano: object, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, work, out = tmp_path / "corpus", tmp_path / "work", tmp_path / "report"
    ptbxl_layout.write_ptbxl(corpus, records=200, seed=0)
    prepare(open_corpus("ptb-xl", corpus, 100), work / "stores", name="synthetic")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    where, said = Workspace(work, tmp_path / "results", torch.device("cpu")), list[str]()
    runs = sweep.run_sweep(tmp_path / "spec.yaml", where, said.append)
    assert said[0].startswith("spec.yaml: 2 pre-trainings, 4 evaluations; 0 of 6 ")
    reported(where.results, out)

    assert len((out / "table.csv").read_text().splitlines()) == 1 + 4
    text = (out / "table.md").read_text()
    assert all(f"\n| {method}" in text for method in METHODS)
    assert not re.search(r"\bnan\b", text.lower())
    assert all(p.stat().st_size > 1000 for p in (out / "figures").iterdir())

    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    again = sweep.run_sweep(tmp_path / "spec.yaml", where, said.append)
    assert "6 of 6" in said[1]
    assert [r.run_id for r in again] == [r.run_id for r in runs]
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()} == before
    monkeypatch.setattr(figures, "save", lambda *_: [])  # slow, and tested elsewhere
    reported(where.results, out)
    assert (out / "table.md").read_text() == text
