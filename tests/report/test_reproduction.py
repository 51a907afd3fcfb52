"""Two runs of one sweep: what is equal to the bit, and how far apart the rest is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from results_fixture import Runs, two_methods

from bench.report.reproduction import Agreement, compare_studies
from bench.runs.packing import pack


def agreements(first: Path, second: Path) -> dict[str, Agreement]:
    return {each.kind: each for each in compare_studies(first, second).agreements}


def evaluations(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.json")) if json.loads(p.read_text())["kind"] == "evaluate"]


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Path, Path]:
    runs = two_methods(Runs())
    return runs.write(tmp_path / "first"), runs.write(tmp_path / "second")


def test_time_memory_and_machine_are_no_difference(twice: tuple[Path, Path]) -> None:
    for path in twice[1].glob("*.json"):
        record = json.loads(path.read_text())
        record["provenance"] = {"commit": "another"}
        record["result"] |= {"seconds": 99.0, "peak_memory_mb": 1e6, "together": 5}
        record["result"].get("curves", {})["records_per_second"] = [1.0]
        path.write_text(json.dumps(record))
    found = compare_studies(pack(twice[0]), twice[1])
    assert found.first_alone == found.second_alone == found.skipped == ()
    assert all(each.both == each.equal and not each.largest for each in found.agreements)
    assert found.agreements[0].kind == "pretrain"


def test_a_score_that_moved_is_counted_and_measured_and_anything_else_that_moved_is_not_equal(twice: tuple[Path, Path]) -> None:
    before = agreements(*twice)["linear"]
    for path, key, shift in zip(evaluations(twice[1]), ("macro_auroc", "best_step"), (0.25, 7), strict=False):
        record = json.loads(path.read_text())
        record["result"][key] = record["result"].get(key, 0) + shift
        path.write_text(json.dumps(record))
    after = agreements(*twice)["linear"]
    assert (after.both, after.equal) == (before.both, before.both - 2)
    assert (after.largest, after.mean) == (pytest.approx(0.25), pytest.approx(0.25 / before.both))



def test_the_sd_is_over_pretrainings_and_none_where_there_is_one(tmp_path: Path) -> None:
    runs = Runs()
    for seed, values in ((0, (0.5, 0.7)), (1, (0.6, 1.0))):
        run = runs.pretrain("mae", seed)
        for head, value in enumerate(values):
            runs.evaluate(run, [value, value], seed=head, auroc=value)
            if not seed:
                runs.evaluate(run, [value, value], seed=head, auroc=value, task="rhythm")
    runs.evaluate(runs.pretrain("random"), [0.5, 0.5], protocol="knn")
    folder = runs.write(tmp_path / "results")
    found = agreements(folder, folder)
    assert found["linear"].sd == pytest.approx((0.8 - 0.6) / 2**0.5)
    assert found["knn"].sd is None
    assert found["pretrain"].largest == 0


def test_the_command_ends_with_1_where_a_run_is_alone_and_2_where_nothing_compares(
        twice: tuple[Path, Path], command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (twice[0] / "notes.txt").touch()
    code, said, skipped = command("repeat", *twice)
    assert (code, "bit for bit" in said, "alone" in said, "notes.txt" in said + skipped) == (0, True, False, True)
    lost = evaluations(twice[1])[0]
    lost.unlink()
    code, said, _ = command("repeat", *twice)
    assert (code, f"1 runs are in {twice[0]} alone: {lost.stem}" in said.replace("\n", "")) == (1, True)
    other = Runs()
    other.pretrain("vicreg")
    code, _, said = command("repeat", twice[0], other.write(tmp_path / "other"))
    assert code == 2 and "share no run" in said
