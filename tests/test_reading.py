"""Records are read whole or named, from the cache or from their files alike, however old they are."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import reading, report
from bench.errors import UserError
from paper import tables

RECORDS = Path(__file__).parent / "records"
VERSIONS = sorted(path.name for path in RECORDS.iterdir())


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six records that were written long ago."""
    monkeypatch.setattr(reading, "SETTLED_NS", 0)
    return shutil.copytree(RECORDS / "protocol-2", tmp_path / "results")


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read instead of taken from the cache."""
    names = []

    def parsed(name: str, data: bytes) -> reading.Record:
        names.append(name)
        return original(name, data)

    original = reading.parsed
    monkeypatch.setattr(reading, "parsed", parsed)
    return names


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(each) for each in value] if isinstance(value, list) else value


def files(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_every_protocol_so_far_are_read_tabulated_and_loaded(version: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDS / version, tmp_path / "results")
    records, skipped = report.read(folder)
    assert [r["run_id"] for r in records] == sorted(files(RECORDS / version))
    assert not skipped
    evaluations = [r for r in records if r["kind"] == "evaluate"]
    assert len(evaluations) >= 2
    rows = report.rows_of(records)
    assert tables.write(report.cells_of(records, rows), rows, records, tmp_path / "out")
    frame = report.load(folder)
    assert frame.score.tolist() == [r["result"][reading.metric_of(r)] for r in evaluations]
    assert {type(value) for value in frame.to_dict("list").values() for value in value} <= {str, int, float, bool, type(None)}
    assert frame[["lower", "upper", "n_test", "size", "batch", "pretrain_seconds", "parameters", "commit"]].notna().all(axis=None)


def test_there_are_records_of_every_protocol() -> None:
    found = {r["config"]["protocol"] for version in VERSIONS for r in files(RECORDS / version).values()}
    assert found == set(range(1, report.defaults("linear")["protocol"] + 1))


def test_a_record_is_what_its_file_says_from_the_file_and_from_the_cache(results: Path, files_read: list[str]) -> None:
    expected = files(results)
    for read in (6, 0):
        records, _ = report.read(results)
        assert len(files_read) == read
        assert {r["run_id"]: plain(r) for r in records} == expected
        files_read.clear()


def test_numbers_with_more_digits_and_classes_without_a_score_are_kept(results: Path) -> None:
    path = next(p for p in results.glob("*.json") if "per_class" in json.loads(p.read_text())["result"])
    record = json.loads(path.read_text())
    record["result"]["replicates"][0] = 1 / 3
    del next(iter(record["result"]["per_class"].values()))["ece"]
    path.write_text(json.dumps(record))
    [found] = [r for r in report.read(results)[0] if r["run_id"] == record["run_id"]]
    assert plain(found) == record


def test_only_files_that_are_new_or_have_changed_are_read_again(results: Path, files_read: list[str]) -> None:
    report.read(results)
    first, second, third, *_ = sorted(results.glob("*.json"))
    record = json.loads(first.read_text())
    first.write_text(json.dumps(record | {"provenance": {"dirty": "changed"}}))
    second.unlink()
    files_read.clear()
    records = {r["run_id"]: r for r in report.read(results)[0]}
    assert first.name in files_read
    assert third.stem in records and second.stem not in records
    assert records[first.stem]["provenance"] == {"dirty": "changed"}
    files_read.clear()
    report.read(results)
    assert not files_read


def test_a_file_that_changes_without_another_time_or_size_is_read_again_where_it_was_young(
    results: Path, monkeypatch: pytest.MonkeyPatch, files_read: list[str]
) -> None:
    monkeypatch.setattr(reading, "SETTLED_NS", 10**12)
    report.read(results)
    report.read(results)
    assert len(files_read) == 12


def test_files_one_by_one_leave_few_segments(results: Path, tmp_path: Path) -> None:
    for i, path in enumerate(sorted(results.glob("*.json"))):
        (tmp_path / "growing").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "growing")
        assert len(report.read(tmp_path / "growing")[0]) == i + 1
    assert len(list((tmp_path / "growing" / reading.CACHE).iterdir())) <= 2


@pytest.mark.parametrize("harm", ["delete", "truncate", "flip", "empty", "other code"])
def test_a_cache_that_is_gone_damaged_or_of_other_code_changes_nothing(
    results: Path, harm: str, monkeypatch: pytest.MonkeyPatch, files_read: list[str]
) -> None:
    report.read(results)
    [segment] = (results / reading.CACHE).iterdir()
    data = segment.read_bytes()
    if harm == "delete":
        shutil.rmtree(results / reading.CACHE)
    elif harm == "other code":
        monkeypatch.setattr(reading, "CODE", "another")
    else:
        middle = len(data) // 2
        segment.write_bytes({"truncate": data[:middle], "empty": b"",
                             "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]}[harm])
    files_read.clear()
    records, _ = report.read(results)
    assert len(files_read) == 6
    assert {r["run_id"]: plain(r) for r in records} == files(results)
    files_read.clear()
    report.read(results)
    assert not files_read


def test_records_stay_readable_when_the_cache_is_deleted(results: Path) -> None:
    report.read(results)
    records, _ = report.read(results)
    shutil.rmtree(results / reading.CACHE)
    assert {r["run_id"]: plain(r) for r in records} == files(results)


def test_a_folder_that_cannot_be_written_is_read(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / reading.CACHE).write_text("")  # a file where the folder would be: also root cannot make it
    records, _ = report.read(results)
    assert {r["run_id"]: plain(r) for r in records} == files(results)


def test_several_processes_read_what_one_reads(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MANY", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    records, _ = report.read(results)
    assert len(list((results / reading.CACHE).iterdir())) == 3
    assert {r["run_id"]: plain(r) for r in records} == files(results)


def test_a_broken_file_is_named_each_time_and_read_once(results: Path, files_read: list[str]) -> None:
    (results / "0123456789ab.json").write_text("{")
    for read in (7, 0):
        _, [why] = report.read(results)
        assert "0123456789ab.json is no record" in why
        assert len(files_read) == read
        files_read.clear()


def test_a_link_to_itself_and_a_pipe_are_named(results: Path) -> None:
    records, _ = reading.read(results)
    (results / f"{'f' * 12}.json").symlink_to(f"{'f' * 12}.json")
    os.mkfifo(results / f"{'e' * 12}.json")
    again, skipped = reading.read(results)
    assert len(again) == len(records)
    assert [line.removeprefix(f"{results}/")[:17] for line in skipped] == [f"{'e' * 12}.json", f"{'f' * 12}.json"]


def test_a_link_to_nothing_and_a_folder_without_any_record_are_named(tmp_path: Path) -> None:
    (tmp_path / "0123456789ab.json").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no record.*0123456789ab\.json cannot be read"):
        report.read(tmp_path)


def test_of_a_folder_of_other_things_a_few_are_named_and_the_others_counted(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(UserError, match=r"holds no record.*/0\.txt has not.*; and 47 more$"):
        report.read(tmp_path)
