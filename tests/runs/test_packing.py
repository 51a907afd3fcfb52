"""A finished study is one Parquet file: the same bytes for the same results, and back to the same files."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results_fixture import Runs

from bench.core.errors import UserError
from bench.runs import packing
from bench.runs.packing import pack, unpack
from bench.runs.results import check_packed_beside, dumps, load_result, newest_results, plain, read_results, result_exists

Command = Callable[..., tuple[int, str, str]]


def study_of(folder: Path, number: int = 6) -> Path:
    """A folder of results as they are written: two pre-trainings, of one evaluations that differ in what they hold."""
    rng, runs = np.random.default_rng(0), Runs()
    first, _ = runs.pretrain("jepa"), runs.pretrain("random")
    for seed in range(number - 2):
        values = np.round(rng.uniform(0.4, 0.9, 100), 6).tolist()
        result = runs.evaluate(first, values, seed, auroc=float(rng.random()))["result"]
        result |= {"interval": [0.1, 0.2], "calibration": {"n": [1, 2], "ece": 0.5}, "undefined": {},
                   "curve": {"step": [1, 2], "loss": [1.5, 1 / 3]}, "chosen": {"lr": 1e-05}, "seconds": 3}
        result["per_class"]["AB"] = {"auroc": 1 / 3, "positives": 3, "f1": 0.5, "threshold": 1e-17}
    for result in runs.made:
        result["saw"] = {"a": {"records": None, "version": "1.0"}}
    every = [result["result"] for result in runs.made if result["kind"] == "evaluate"]
    every[0]["replicates"][0] = 1 / 3  # more digits than float32 holds
    every[1]["per_class"]["AB"]["ece"] = None  # no number
    every[2] |= {"replicates": [1, 0.5, -0.0], "n": 2**70}  # not the text that the numbers give
    runs.write(folder)
    for path in folder.glob("*.json"):
        path.write_text(dumps(json.loads(path.read_text())))
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study whose Parquet file has two row groups."""
    monkeypatch.setattr(packing, "GROUP", 4)
    return study_of(tmp_path / "study")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_unpacking_gives_every_file_back_to_the_byte(study: Path, tmp_path: Path) -> None:
    path = min(study.iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))  # as nothing here writes it
    before = content(study)
    packed = pack(study)
    assert packed == tmp_path / "study.parquet"
    assert pq.ParquetFile(packed).num_row_groups == 2
    columns = pq.read_table(packed).schema
    assert columns.field("replicates").type == pa.list_(pa.float32())  # six digits take four bytes each
    assert content(study) == before
    assert content(unpack(packed, tmp_path / "again")) == before
    for path in study.iterdir():
        path.unlink()
    assert content(unpack(packed)) == before  # into the folder of its name, which is empty


def test_the_same_results_give_the_same_bytes_whatever_the_order_and_the_time_of_their_files(study: Path, tmp_path: Path) -> None:
    first = pack(study).read_bytes()
    assert pack(study).read_bytes() == first
    other = tmp_path / "other" / "study"
    other.mkdir(parents=True)
    names = sorted(content(study).items())
    random.Random(1).shuffle(names)
    for i, (name, data) in enumerate(names):
        (other / name).write_bytes(data)
        os.utime(other / name, (i, i))
    (other / "README.md").touch()
    assert pack(other).read_bytes() == first


def test_a_folder_and_its_parquet_file_give_equal_results(study: Path) -> None:
    packed = pack(study)
    (ones, skipped), (others, skipped_too) = read_results(study), read_results(packed)
    assert [plain(r) for r in ones] == [plain(r) for r in others] == [json.loads(p.read_text()) for p in sorted(study.iterdir())]
    assert skipped == skipped_too == []
    for one, other in zip(ones, others, strict=True):
        assert load_result(study, one["run_id"]) == load_result(packed, one["run_id"]) == plain(other)
        assert result_exists(packed, one["run_id"])
    assert not result_exists(packed, "f" * 12)
    assert len(list(newest_results(packed, 3, frozenset([ones[0]["run_id"]])))) == 3


def damage(path: Path, how: str) -> None:
    table = pq.read_table(path)
    if how in ("empty", "truncated"):
        path.write_bytes({"empty": b"", "truncated": path.read_bytes()[:-9]}[how])
        return
    ids = table["run_id"].to_pylist()
    tables = {"no row": table.slice(0, 0), "another table": pa.table({"a": [1]}),
              "two of one run": pa.concat_tables([table, table]),
              "a path": table.set_column(0, "run_id", pa.array(["../../../etc", *ids[1:]])),
              "another type": table.set_column(0, "run_id", pa.array(range(len(ids))))}
    pq.write_table(tables[how], path)


@pytest.mark.parametrize(("how", "words"), [
    ("empty", "is no Parquet file, or is damaged"), ("truncated", "is no Parquet file, or is damaged"),
    ("no row", "holds no result"), ("another table", "is no file of results: its columns are a;"),
    ("another type", "is no file of results"), ("two of one run", "more than one result of run"),
    ("a path", r"run_id '../../../etc' is not 12 hex digits")])
def test_a_file_that_is_not_of_results_is_one_line_and_leaves_nothing(study: Path, tmp_path: Path, how: str, words: str) -> None:
    packed = pack(study)
    damage(packed, how)
    for use in (lambda: [plain(r) for r in read_results(packed)[0]], lambda: unpack(packed, tmp_path / "new")):
        with pytest.raises(UserError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value) and str(packed) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.parquet"]


def test_packing_and_unpacking_lose_nothing(study: Path, tmp_path: Path) -> None:
    before = pack(study).read_bytes()
    for target in (study, min(study.iterdir())):
        with pytest.raises(UserError, match="is not empty"):
            unpack(tmp_path / "study.parquet", target)
    (study / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt .*nothing was packed"):
        pack(study)
    (study / "notes.txt").unlink()
    path = min(study.iterdir())
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=rf"{path.name} is no result.*nothing was packed"):
        pack(study)
    path.unlink()
    with pytest.raises(UserError, match=rf"holds 1 runs that .*study lacks, among them {path.stem}"):
        pack(study)
    assert (tmp_path / "study.parquet").read_bytes() == before
    with pytest.raises(UserError):
        pack(tmp_path / "absent")


def test_a_folder_of_which_only_the_parquet_file_is_there_is_said(study: Path) -> None:
    packed = pack(study)
    gone = study.rename(study.with_name("elsewhere"))
    for read in (lambda: read_results(study), lambda: load_result(study, "0" * 12)):
        with pytest.raises(UserError, match=rf"study is packed: write {packed}"):
            read()
    check_packed_beside(gone)


def test_a_packing_that_is_killed_leaves_the_old_file_or_none_and_the_next_one_works(tmp_path: Path) -> None:
    study, target = study_of(tmp_path / "study", 40), tmp_path / "study.parquet"
    code = ("import sys, time; from pathlib import Path; from bench.runs import packing; packing.GROUP = 1\n"
            "row = packing._row\n"
            "def slow(name, data):\n    print('row', flush=True); time.sleep(0.02); return row(name, data)\n"
            "packing._row = slow\n"
            "packing.pack(Path(sys.argv[1]))")

    def kill_after(rows: int) -> None:
        process = subprocess.Popen([sys.executable, "-c", code, str(study)], stdout=subprocess.PIPE)
        assert process.stdout
        for _ in range(rows):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    kill_after(20)
    assert not target.exists()
    whole = pack(study).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.parquet"]
    kill_after(30)
    assert target.read_bytes() == whole


def test_the_commands_pack_and_unpack(study: Path, tmp_path: Path, command: Command) -> None:
    packed = tmp_path / "study.parquet"
    for arguments in (("pack", study), ("unpack", packed, "--to", tmp_path / "new")):
        code, out, err = command("results", *arguments)
        assert (code, "6 results" in out + err) == (0, True)
    assert content(tmp_path / "new") == content(study)
