"""A record is written once, whole, and holds what happened without rounding."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from bench.core.errors import UserError
from bench.runs import results as record

RUN = {"kind": "pretrain", "run_id": "0123456789ab", "config": {"seed": 0}, "result": {"loss": 0.1 + 0.2}}


def test_a_record_is_written_once(tmp_path: Path) -> None:
    assert not record.exists(tmp_path, RUN["run_id"])
    path = record.write(tmp_path, RUN)
    assert record.exists(tmp_path, RUN["run_id"])
    with pytest.raises(UserError, match="already holds this run; delete it to run again"):
        record.write(tmp_path, {**RUN, "result": {}})
    assert json.loads(path.read_text()) == {"schema": 1, **RUN}
    assert [p.name for p in tmp_path.iterdir()] == ["0123456789ab.json"]


def test_floats_are_not_rounded() -> None:
    values = [0.1 + 0.2, 1 / 3, 1e-17, 123456789.123456789]
    assert json.loads(record.dumps({"values": values}))["values"] == values


def test_the_text_does_not_depend_on_the_order_of_keys() -> None:
    assert record.dumps({"b": {"d": 1, "c": 2}, "a": [1, 2]}) == record.dumps({"a": [1, 2], "b": {"c": 2, "d": 1}})
    assert record.dumps({"a": [1, 2], "b": {}}) == '{\n "a": [1, 2],\n "b": {}\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], {"x": -math.inf}])
def test_a_number_that_is_none_is_refused_and_leaves_no_trace(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        record.write(tmp_path, {**RUN, "result": value})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        record.write(tmp_path, RUN)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_into_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write into .*file"):
        record.check_writable(tmp_path / "file")
    record.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_provenance_says_what_ran_and_is_json() -> None:
    made = record.provenance(torch.device("cpu"))
    assert json.loads(json.dumps(made)) == made
    assert made["torch"] == torch.__version__
    assert made["threads"] == torch.get_num_threads()
    assert made["device"].startswith("cpu (")
    assert made["commit"] is None or len(made["commit"]) == 40


def test_outside_a_git_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.provenance(torch.device("cpu"))["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert record.provenance(torch.device("cpu"))["commit"] is None


def test_a_failure_leaves_its_reason_and_a_success_removes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError), record.reason_kept(tmp_path):
        raise UserError("the loss is nan")
    assert (tmp_path / "error.txt").read_text() == "the loss is nan\n"
    with record.reason_kept(tmp_path):
        pass
    assert not (tmp_path / "error.txt").exists()
