"""Two runs of one sweep: what is equal to the bit, and how far apart the rest is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from results_fixture import Runs, two_methods

from bench import cli
from bench.core.errors import UserError
from bench.report.aggregate import make_report
from bench.report.reproduction import Agreement, compare_studies
from bench.report.results import load_results
from bench.runs.packing import pack
from paper.tables import table


def agreements(first: Path, second: Path) -> dict[str, Agreement]:
    return {each.kind: each for each in compare_studies(first, second).agreements}


def change(path: Path, **values: Any) -> None:
    record = json.loads(path.read_text())
    record["result"].update(values)
    path.write_text(json.dumps(record))


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
    found = compare_studies(*twice)
    assert found.first_alone == found.second_alone == found.skipped == ()
    assert all(each.both == each.equal and not each.largest for each in found.agreements)
    assert found.agreements[0].kind == "pretrain"


def test_a_score_that_moved_is_counted_and_measured_and_anything_else_that_moved_is_not_equal(twice: tuple[Path, Path]) -> None:
    before = agreements(*twice)["linear"]
    one, other, *_ = evaluations(twice[1])
    change(one, macro_auroc=json.loads(one.read_text())["result"]["macro_auroc"] + 0.25)
    change(other, best_step=7)
    after = agreements(*twice)["linear"]
    assert (after.both, after.equal) == (before.both, before.both - 2)
    assert (after.largest, after.mean) == (pytest.approx(0.25), pytest.approx(0.25 / before.both))


def test_a_folder_and_the_parquet_file_of_it_are_equal_and_give_the_same_tables(twice: tuple[Path, Path]) -> None:
    packed = pack(twice[0])
    found = compare_studies(packed, twice[1])
    assert [(each.both, each.equal) for each in found.agreements] == [(each.both, each.both) for each in found.agreements]
    one, other = (make_report(load_results(path)[0]) for path in (packed, twice[1]))
    assert table(one) == table(other)


def test_two_sweeps_are_no_repetition(twice: tuple[Path, Path], tmp_path: Path) -> None:
    other = Runs()
    other.pretrain("vicreg")
    with pytest.raises(UserError, match="share no run"):
        compare_studies(twice[0], other.write(tmp_path / "other"))


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
        twice: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*folders: Path) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", "repeat", *map(str, folders)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    (twice[0] / "notes.txt").touch()
    code, text = run(*twice)
    assert (code, "bit for bit" in text, "alone" in text, "notes.txt" in text) == (0, True, False, True)
    lost = evaluations(twice[1])[0]
    lost.unlink()
    code, text = run(*twice)
    assert (code, f"1 runs are in {twice[0]} alone: {lost.stem}" in text.replace("\n", "")) == (1, True)
    assert run(twice[0], tmp_path)[0] == 2
