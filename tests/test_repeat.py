"""Two runs of one sweep: what is equal to the bit, and how far apart the rest is."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import Runs, two_methods

from bench import repeat
from bench.errors import UserError


def told(found: list[repeat.Agreement]) -> dict[str, repeat.Agreement]:
    return {each.kind: each for each in found}


def changed(path: Path, **values: Any) -> None:
    made = json.loads(path.read_text())
    made["result"].update(values)
    path.write_text(json.dumps(made))


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Path, Path]:
    runs = Runs()
    two_methods(runs)
    return runs.write(tmp_path / "first"), runs.write(tmp_path / "second")


def evaluations(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.json")) if json.loads(p.read_text())["kind"] == "evaluate"]


def test_time_memory_and_machine_are_no_difference(twice: tuple[Path, Path]) -> None:
    for path in twice[1].glob("*.json"):
        made = json.loads(path.read_text())
        made["provenance"] = {"commit": "another"}
        made["result"] |= {"seconds": 99.0, "peak_memory_mb": 1e6, "together": 5}
        made["result"].get("curves", {})["records_per_second"] = [1.0]
        path.write_text(json.dumps(made))
    found, *alone = repeat.repeated(*twice, pytest.fail)
    assert alone == [[], []]
    assert all(each.both == each.equal and not each.largest for each in found)
    assert found[0].kind == "pretrain"


def test_a_score_that_moved_is_counted_and_measured(twice: tuple[Path, Path]) -> None:
    before = told(repeat.repeated(*twice, pytest.fail)[0])["linear"]
    path = evaluations(twice[1])[0]
    changed(path, macro_auroc=json.loads(path.read_text())["result"]["macro_auroc"] + 0.25)
    after = told(repeat.repeated(*twice, pytest.fail)[0])["linear"]
    assert (after.both, after.equal) == (before.both, before.both - 1)
    assert (after.largest, after.mean) == (pytest.approx(0.25), pytest.approx(0.25 / before.both))


def test_what_differs_beside_the_score_is_not_equal(twice: tuple[Path, Path]) -> None:
    changed(evaluations(twice[1])[0], best_step=7)
    after = told(repeat.repeated(*twice, pytest.fail)[0])["linear"]
    assert (after.equal, after.largest) == (after.both - 1, 0)


def test_what_one_folder_lacks_is_named(twice: tuple[Path, Path]) -> None:
    lost = evaluations(twice[1])[0]
    lost.unlink()
    assert repeat.repeated(*twice, pytest.fail)[1:] == ([lost.stem], [])


def test_two_sweeps_are_no_repetition(twice: tuple[Path, Path]) -> None:
    for path in twice[1].glob("*.json"):
        made = json.loads(path.read_text())
        name = made["run_id"][::-1].replace("0", "f")
        (twice[1] / f"{name}.json").write_text(json.dumps(made | {"run_id": name}))
        path.unlink()
    with pytest.raises(UserError, match="share no run"):
        repeat.repeated(*twice, pytest.fail)
