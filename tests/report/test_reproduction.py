"""Two runs of one sweep: what is equal to the bit, and how far apart the rest is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_report import Runs, two_methods

from bench import cli
from bench.core.errors import UserError
from bench.report import reproduction as repeat


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
    found = told(repeat.repeated(folder, folder, pytest.fail)[0])
    assert found["linear"].sd == pytest.approx((0.8 - 0.6) / 2**0.5)
    assert found["knn"].sd is None
    assert found["pretrain"].largest == 0


def test_what_is_no_record_is_said(twice: tuple[Path, Path]) -> None:
    (twice[0] / "notes.txt").touch()
    said: list[str] = []
    repeat.repeated(*twice, said.append)
    assert len(said) == 1
    assert "notes.txt" in said[0]


def test_the_command_ends_with_1_where_a_run_is_alone_and_2_where_nothing_compares(
        twice: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    def ends(*folders: Path) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", "repeat", *map(str, folders)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out + said.err

    code, said = ends(*twice)
    assert (code, "bit for bit" in said, "alone" in said) == (0, True, False)
    lost = evaluations(twice[1])[0]
    lost.unlink()
    code, said = ends(*twice)
    assert (code, f"1 runs are in {twice[0]} alone: {lost.stem}" in said.replace("\n", "")) == (1, True)
    assert ends(twice[0], tmp_path)[0] == 2
