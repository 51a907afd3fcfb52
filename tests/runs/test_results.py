"""A result is written once, whole, and holds what happened without rounding."""

import json
import math
import os
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.runs.results import check_writable, dumps, load_result, result_exists, write_result

RUN = {"kind": "pretrain", "run_id": "0123456789ab", "config": {"seed": 0}, "result": {"loss": 0.1 + 0.2}}


def test_a_result_is_written_once(tmp_path: Path) -> None:
    assert not result_exists(tmp_path, RUN["run_id"])
    with pytest.raises(UserError, match=r"no result of run 0123456789ab: .*0123456789ab\.json does not exist"):
        load_result(tmp_path, RUN["run_id"])
    path = write_result(tmp_path, RUN)
    assert result_exists(tmp_path, RUN["run_id"])
    with pytest.raises(UserError, match="already holds this run; delete it to run again"):
        write_result(tmp_path, {**RUN, "result": {}})
    assert json.loads(path.read_text()) == {"schema": 1, **RUN}
    assert [p.name for p in tmp_path.iterdir()] == ["0123456789ab.json"]


def test_the_text_rounds_no_float_and_does_not_depend_on_the_order_of_keys() -> None:
    values = [0.1 + 0.2, 1 / 3, 1e-17, 123456789.123456789]
    assert json.loads(dumps({"values": values}))["values"] == values
    assert dumps({"b": {}, "a": [1, 2]}) == dumps({"a": [1, 2], "b": {}}) == '{\n "a": [1, 2],\n "b": {}\n}\n'


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), ({"x": [-math.inf]}, ValueError), (0.5, OSError)])
def test_a_number_that_is_not_finite_or_a_full_disk_leaves_no_trace(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, error: type[Exception]) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match="JSON|No space left"):
        write_result(tmp_path, {**RUN, "result": value})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_into_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write into .*file"):
        check_writable(tmp_path / "file")
    with pytest.raises(UserError, match=r"study\.parquet is a packed study.*ecgssl results unpack"):
        check_writable(tmp_path / "study.parquet")
    check_writable(tmp_path / "new")
    assert not any((tmp_path / "new").iterdir())
