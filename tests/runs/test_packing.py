"""A finished study is one Parquet file: the same bytes for the same results, and back to the same files."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import reported
from results_fixture import Runs

import bench
from bench import cli
from bench.core.errors import UserError
from bench.runs import packing
from bench.runs.packing import pack, unpack
from bench.runs.results import check_packed_beside, dumps, load_result, newest_results, plain, read_results, result_exists


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
def study(tmp_path: Path) -> Path:
    return study_of(tmp_path / "study")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_unpacking_gives_every_file_back_to_the_byte(study: Path, tmp_path: Path) -> None:
    path = min(study.iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))  # as nothing here writes it
    before = content(study)
    packed = pack(study)
    assert packed == tmp_path / "study.parquet"
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


def test_several_row_groups_hold_what_one_holds(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "GROUP", 2)
    packed = pack(study)
    assert pq.ParquetFile(packed).num_row_groups == 3
    assert content(unpack(packed, tmp_path / "again")) == content(study)
    assert [plain(r) for r in read_results(packed)[0]] == [plain(r) for r in read_results(study)[0]]


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


def test_a_folder_and_its_parquet_file_make_equal_tables(tmp_path: Path, fast: None) -> None:
    rng, runs = np.random.default_rng(0), Runs()
    for method, seed in (("random", 0), ("jepa", 0), ("jepa", 1), ("mae", 0), ("mae", 1)):
        run = runs.pretrain(method, seed)
        for task in ("form", "rhythm"):
            runs.evaluate(run, np.round(rng.uniform(0.4, 0.9, 50), 6).tolist(), task=task, auroc=float(rng.random()))
    study = runs.write(tmp_path / "study")
    reported(study, tmp_path / "ones")
    reported(pack(study), tmp_path / "others")
    ones, others = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
                    for out in (tmp_path / "ones", tmp_path / "others"))
    assert ones == others
    assert len(ones) > 10
    assert bench.load_results(study).equals(bench.load_results(tmp_path / "study.parquet"))


def test_numbers_are_arrays_and_what_is_alike_is_one_object(study: Path) -> None:
    for place in (study, pack(study)):
        evaluations = [r for r in read_results(place)[0] if r["kind"] == "evaluate"]
        assert all(r["result"]["replicates"].dtype == np.float64 for r in evaluations)
        assert len({id(r["pretrain_config"]) for r in evaluations}) == 1
        scores = [r["result"]["per_class"].scores["auroc"] for r in evaluations if hasattr(r["result"]["per_class"], "scores")]
        assert len(scores) == len(evaluations) - 1
        with pytest.raises(KeyError):
            evaluations[0]["result"]["curves"]


def test_six_digits_take_four_bytes_each(tmp_path: Path) -> None:
    runs = Runs()
    runs.evaluate(runs.pretrain("jepa"), np.round(np.random.default_rng(0).random(1000), 6).tolist())
    table = pq.read_table(pack(runs.write(tmp_path / "study")))
    single, double = (table[name].drop_null() for name in ("replicates", "replicates_float64"))
    assert (len(single), len(double), single.type) == (1, 0, pa.list_(pa.float32()))


def damage_bytes(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[:-9], "text": b"hello"}[how])


def test_no_damaged_byte_is_read_as_another_result(study: Path) -> None:
    packed = pack(study)
    data, expected = packed.read_bytes(), [plain(r) for r in read_results(packed)[0]]
    refused = 0
    for at in range(0, len(data), 61):
        packed.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            results, skipped = read_results(packed)
            assert ([plain(r) for r in results], skipped) == (expected, [])  # a byte that says nothing
        except UserError:
            refused += 1
    assert refused > len(data) / 61 / 2


def replace_table(path: Path, how: str) -> None:
    table = pq.read_table(path)
    ids = table["run_id"].to_pylist()
    rows = {"no row": table.slice(0, 0), "another table": pa.table({"a": [1]}),
            "two of one run": pa.concat_tables([table, table]),
            "a path": table.set_column(0, "run_id", pa.array(["../../../etc", *ids[1:]])),
            "no name": table.set_column(0, "run_id", pa.array([None, *ids[1:]], pa.string())),
            "another type": table.set_column(0, "run_id", pa.array(range(len(ids))))}
    pq.write_table(rows[how], path)


@pytest.mark.parametrize(("how", "words"), [
    ("empty", "is no Parquet file, or is damaged"), ("truncated", "is no Parquet file, or is damaged"),
    ("text", "is no Parquet file, or is damaged"), ("no row", "holds no result"),
    ("another table", "is no file of results: its columns are a;"), ("another type", "is no file of results"),
    ("two of one run", "more than one result of run"), ("a path", r"run_id '../../../etc' is not 12 hex digits"),
    ("no name", "run_id None is not 12 hex digits")])
def test_a_file_that_is_not_of_results_is_one_line_and_leaves_nothing(study: Path, tmp_path: Path, how: str, words: str) -> None:
    packed = pack(study)
    (damage_bytes if how in ("empty", "truncated", "text") else replace_table)(packed, how)
    for use in (lambda: [plain(r) for r in read_results(packed)[0]], lambda: unpack(packed, tmp_path / "new")):
        with pytest.raises(UserError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value) and str(packed) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.parquet"]


@pytest.mark.parametrize(("column", "value", "words"), [
    ("config", "{}", "its config was edited|lacks"), ("config", "{", "is no result"), ("result", "[]", "is no result"),
    ("result", '{"macro_auroc": "x"}', "is no result|lacks"), ("schema", 2, "schema must be 1"), ("provenance", None, "lacks"),
    ("result_bulky", "3", "is no result|lacks"), ("classes", "{", "is no result"), ("replicates", None, "is no result")])
def test_a_row_that_is_no_result_is_named_and_the_others_are_read(study: Path, tmp_path: Path, column: str, value: object,
                                                                  words: str) -> None:
    packed = pack(study)
    table = pq.read_table(packed)
    rows = table.to_pylist()
    row = next(r for r in rows if r["kind"] == "evaluate" and r["classes"] and r["replicates"])
    row[column] = value
    pq.write_table(pa.Table.from_pylist(rows, table.schema), packed)
    results, [why] = read_results(packed)
    assert len(results) == len(rows) - 1
    assert why.startswith(f"{packed}, run {row['run_id']} ")
    assert any(each in why for each in words.split("|"))
    with pytest.raises(UserError, match=row["run_id"]):
        unpack(packed, tmp_path / "new")
    with pytest.raises(UserError, match=row["run_id"]):
        load_result(packed, row["run_id"])
    assert not (tmp_path / "new").exists()


def test_unpacking_overwrites_nothing(study: Path) -> None:
    packed, before = pack(study), content(study)
    with pytest.raises(UserError, match="study is not empty; write --to"):
        unpack(packed)
    with pytest.raises(UserError, match="is not empty"):
        unpack(packed, min(study.iterdir()))
    assert content(study) == before


def test_packing_loses_nothing(study: Path, tmp_path: Path) -> None:
    before = pack(study).read_bytes()
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
    for wrong in (tmp_path / "absent", tmp_path / "study.parquet"):
        with pytest.raises(UserError):
            pack(wrong)


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

    for rows in (1, 20):
        kill_after(rows)
        assert not target.exists()
    whole = pack(study).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.parquet"]
    kill_after(30)
    assert target.read_bytes() == whole


def test_the_commands_pack_and_unpack(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    def ecgssl(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", "results", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    packed = tmp_path / "study.parquet"
    code, said = ecgssl("pack", study)
    assert (code, f"{packed}: 6 results" in said) == (0, True)
    code, said = ecgssl("unpack", packed, "--to", tmp_path / "new")
    assert (code, "6 results" in said) == (0, True)
    assert content(tmp_path / "new") == content(study)
    packed.write_bytes(b"")
    code, said = ecgssl("unpack", packed, "--to", tmp_path / "newer")
    assert (code, said.count("\n")) == (2, 1)
