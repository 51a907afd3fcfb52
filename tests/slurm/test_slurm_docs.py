"""docs/slurm.md, every command of it, on the test cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_slurm import slurm

from bench.core.files import ROOT

pytestmark = pytest.mark.slurm
__all__ = ["slurm"]  # a fixture


def test_every_command_of_the_guide_works(slurm: None, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "slurm.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "first.yaml").write_text(next(body for language, body in blocks if language == "yaml"))
    mine = yaml.safe_load((ROOT / "slurm" / "clusters" / "test.yaml").read_text()) | {"work": "work", "results": "results"}
    (tmp_path / "my-cluster.yaml").write_text(yaml.safe_dump(mine))
    (tmp_path / "ecgssl").write_text(f'#!/bin/sh\nexec {sys.executable} -c "from bench.cli import main; main()" "$@"\n')
    (tmp_path / "ecgssl").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "200",
           "ECGSSL_WORK": str(tmp_path / "work")}
    output: dict[str, str] = {}
    for line in "".join(body for language, body in blocks if language == "console").splitlines():
        command = line.partition("  #")[0].strip()
        if not command:
            continue
        if "RUN_ID" in command:
            command = command.replace("RUN_ID", sorted(p.stem for p in (tmp_path / "results").glob("*.json"))[0])
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        key = " ".join(command.split()[:3])
        output[key] = output.get(key, "") + done.stdout
    assert {f"ecgssl sweep {name}" for name in ("plan", "submit", "status", "logs", "cancel", "retry", "run")} <= output.keys()
    assert "each after its pre-training" in output["ecgssl sweep submit"]
    assert output["ecgssl sweep submit"].endswith("nothing to submit\n")
    assert re.search(r"9 runs: 9 done", output["ecgssl sweep status"])
    assert (tmp_path / "status.html").read_text().startswith("<!doctype html>")
    assert "jepa" in (tmp_path / "report" / "table.md").read_text()
