"""Progress of long work is data for whoever watches from outside."""

from pathlib import Path

import pytest

from bench.core import progress


def test_the_file_of_the_environment_says_how_far_the_work_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "work.progress"
    monkeypatch.setenv(progress.FILE, str(path))
    monkeypatch.setattr(progress, "FILE_SECONDS", 0.0)
    with progress.bar("train", 10, 2) as update:
        first = progress.read_progress(path)
        assert first and (first.title, first.done, first.total, first.seconds_left) == ("train", 2, 10, None)
        update(6, "")
        half = progress.read_progress(path)
        assert half and half.done == 6 and half.seconds_left == pytest.approx(half.seconds)
        update(10, "")
        last = progress.read_progress(path)
        assert last and last.done == 10 and last.seconds_left == 0 and last.per_second is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_text("{")  # damaged
    assert progress.read_progress(path) is progress.read_progress(tmp_path / "absent") is None
    assert "train: 2/10" in capfd.readouterr().err  # and the log says it, too
