"""Checkpoints are whole or absent, safe to read, and equal states are equal bytes."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.backbones.import_published import read_published
from bench.core.errors import UserError
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

NUMBERS = torch.arange(600.0).view(20, 30)
SMALL = Checkpoint({"b": NUMBERS, "a": torch.tensor(3)}, {"step": 3, "config": {"lr": 0.1}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds SMALL."""
    checkpoint.save(tmp_path / "x.pt", SMALL)
    return tmp_path / "x.pt"


def test_a_checkpoint_comes_back_as_it_was(path: Path) -> None:
    back = checkpoint.load(path)
    assert back.meta == SMALL.meta
    assert back.tensors.keys() == SMALL.tensors.keys()
    for key, value in back.tensors.items():
        assert torch.equal(value, SMALL.tensors[key])
        assert value.dtype == SMALL.tensors[key].dtype


def test_equal_states_are_equal_bytes_whatever_path_led_to_them(path: Path) -> None:
    part = torch.cat([NUMBERS, torch.zeros(1, 30)])[:20]  # a view of a larger storage
    equal = Checkpoint({"a": torch.tensor(3), "b": part}, {"config": {"lr": 0.1}, "step": 3})
    for name, state in (("y.pt", equal), ("z.pt", checkpoint.load(path))):
        checkpoint.save(path.with_name(name), state)
        assert path.with_name(name).read_bytes() == path.read_bytes()


def test_a_missing_checkpoint_and_one_of_another_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.pt does not exist"):
        checkpoint.load(tmp_path / "no.pt")
    checkpoint.save(tmp_path / "x.pt", Checkpoint({}, {"format": 99}))
    with pytest.raises(UserError, match="has checkpoint format 99, this version reads 2"):
        checkpoint.load(tmp_path / "x.pt")


def flip(path: Path) -> None:
    """Flip one bit among the weights."""
    raw = bytearray(path.read_bytes())
    at = raw.find(NUMBERS.numpy().tobytes()[:64])
    assert at > 0
    raw[at + 40] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [flip, *(
    lambda path, share=share: os.truncate(path, int(path.stat().st_size * share)) for share in (0.0, 0.5, 0.999))])
def test_a_damaged_checkpoint_is_refused_in_one_line(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    with pytest.raises(UserError, match="no checkpoint of ecgssl, or is damaged") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


class Nasty:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("was-here",)


@pytest.mark.parametrize("write", [
    lambda path: torch.save({"meta": "{}", "tensors": Nasty()}, path),
    lambda path: path.write_bytes(pickle.dumps(Nasty(), protocol=2)),
    lambda path: torch.save({"meta": "{", "tensors": {}}, path),
    lambda path: path.write_text("not a checkpoint"),
])
def test_a_file_that_is_something_else_is_refused_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  write: Callable[[Path], None]) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt")
    for read, name in ((checkpoint.load, "ecgssl"), (read_published, "the published implementation")):
        with pytest.raises(UserError, match=f"no checkpoint of {name}"):
            read(tmp_path / "x.pt")
    assert not (tmp_path / "was-here").exists()
