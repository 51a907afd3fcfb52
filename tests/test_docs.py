"""What the documentation shows runs as it stands, and what it lists is there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.cli.schemas import SCHEMAS, write_schema
from bench.core.files import ROOT


def test_the_study_in_python_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 30
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "(200, 128)"
    assert (tmp_path / "report" / "table.md").is_file()


def test_every_function_of_the_api_is_listed_and_documented() -> None:
    listed = set(re.findall(r"^\| `bench\.(\w+)`", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE))
    assert listed == set(bench.__all__)
    assert all(getattr(bench, name).__doc__ for name in bench.__all__)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_those_of_the_models(name: str) -> None:
    path = ROOT / "docs" / "schema" / f"{name}.json"
    assert path.read_text() == write_schema(name), f"python -m bench.cli.schemas writes {path}"


def test_a_shipped_yaml_file_names_its_schema_in_its_first_line() -> None:
    for path in (ROOT / "slurm").glob("*/*.yaml"):
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", path.read_text().splitlines()[0])
        assert match and json.loads((path.parent / match[1]).read_text())["type"] == "object", path


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text()):
            assert (path.parent / target).exists(), (path, target)
