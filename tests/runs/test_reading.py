"""A folder of results is read whole; what is damaged, edited or no result is named and skipped."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results_fixture import Runs

from bench.core.errors import UserError
from bench.runs.results import NoResultsError, load_result, plain, read_results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of three results."""
    runs = Runs()
    for seed in (0, 1):
        runs.evaluate(runs.pretrain("jepa"), [0.5, 0.625], seed)
    return runs.write(tmp_path / "results")


def evaluation(results: Path) -> Path:
    return next(p for p in sorted(results.glob("*.json")) if json.loads(p.read_text())["kind"] == "evaluate")


def test_a_result_is_what_its_file_says_with_arrays_for_its_numbers(results: Path) -> None:
    found, skipped = read_results(results)
    assert [plain(r) for r in found] == [json.loads(p.read_text()) for p in sorted(results.iterdir())]
    assert skipped == []
    values = next(r for r in found if r["kind"] == "evaluate")["result"]
    assert values["replicates"].tolist() == [0.5, 0.625]
    assert values["per_class"].scores["auroc"].dtype == np.float64
    assert set(values) == set(plain({"result": values})["result"]) and len(values) == len(list(values))


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2, "kind": "pretrain"}', "", "\udcff", "NaN"])
def test_a_damaged_file_is_named_and_the_others_are_read(results: Path, text: str) -> None:
    (results / "0123456789ab.json").write_text(text, errors="surrogateescape")
    found, [why] = read_results(results)
    assert len(found) == 3
    assert why.startswith(f"{results / '0123456789ab.json'} ") and "remove it and run that run again" in why


@pytest.mark.parametrize(("key", "value", "words"), [
    ("provenance", None, "lacks 'provenance'"), ("schema", 2, "schema must be 1"), ("config.seed", 9, "its config was edited"),
    ("result.macro_auroc", float("nan"), "is no result"), ("result.replicates", [], "no replicates"),
    ("result.per_class", {"MI": {}}, "lacks 'positives'"), ("result.metric", "f1", "'f1' is not macro_auroc or r2")])
def test_a_result_that_lacks_a_value_or_was_edited_is_named(results: Path, key: str, value: Any, words: str) -> None:
    path = evaluation(results)
    result = json.loads(path.read_text())
    *parents, leaf = key.split(".")
    part = result[parents[0]] if parents else result
    part.pop(leaf, None)
    part |= {} if value is None else {leaf: value}
    path.write_text(json.dumps(result))
    found, [why] = read_results(results)
    assert len(found) == 2
    assert str(path) in why and words in why
    with pytest.raises(UserError, match=path.name):
        load_result(results, path.stem)


@pytest.mark.parametrize("name", ["notes.txt", "notes.json", ".0123456789ab.json.x7_f.tmp", "ffffffffffff.json"])
def test_a_file_that_is_not_named_like_its_result_is_named(results: Path, name: str) -> None:
    (results / "README.md").touch()
    (results / "study.parquet").touch()  # beside the folder of that study
    (results / "study").mkdir()
    evaluation(results).rename(results / name)
    os.mkfifo(results / "0123456789ab.json")
    found, skipped = read_results(results)
    assert len(found) == 2 and len(skipped) == 2
    assert any(f"{results / name} is " in line for line in skipped)


def test_of_a_folder_without_a_result_a_few_files_are_named_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(NoResultsError, match="holds no result.*ecgssl pretrain"):
        read_results(tmp_path / "absent")
    for i in range(50):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(NoResultsError, match=r"holds no result.*/0\.txt is not.*; and 47 more$"):
        read_results(tmp_path)
