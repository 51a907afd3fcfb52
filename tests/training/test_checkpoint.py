"""Checkpoints are whole or absent, safe to read, and equal states are equal bytes."""

import os
import pickle
from pathlib import Path

import configs
import pytest
import torch

from bench.backbones import import_published as published
from bench.core.errors import UserError
from bench.encoders import vit
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint


def some() -> Checkpoint:
    tensors = {"b": torch.arange(600.0).view(20, 30), "a": torch.tensor(3, dtype=torch.int64)}
    return Checkpoint(tensors, {"step": 3, "config": {"lr": 0.1}})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", some())
    back = checkpoint.load(tmp_path / "x.pt")
    assert back.meta == some().meta
    assert back.tensors.keys() == some().tensors.keys()
    for key, value in back.tensors.items():
        assert torch.equal(value, some().tensors[key])
        assert value.dtype == some().tensors[key].dtype


def test_equal_states_are_equal_bytes_whatever_path_led_to_them(tmp_path: Path) -> None:
    big = torch.arange(1200.0).view(20, 60)
    shared = {"a": torch.tensor(3), "b": big[:, :30].clone().add_(0)}
    shared["b"] = torch.cat([torch.arange(600.0).view(20, 30), torch.zeros(1, 30)])[:20]  # a view of a larger storage
    checkpoint.save(tmp_path / "x.pt", some())
    checkpoint.save(tmp_path / "y.pt", Checkpoint(shared, {"config": {"lr": 0.1}, "step": 3}))
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "y.pt").read_bytes()
    again = checkpoint.load(tmp_path / "x.pt")
    checkpoint.save(tmp_path / "z.pt", again)
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "z.pt").read_bytes()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.pt does not exist"):
        checkpoint.load(tmp_path / "no.pt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, some())
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(UserError, match="no checkpoint of ecgssl, or is damaged") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_among_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, some())
    raw = bytearray(path.read_bytes())
    at = raw.find(torch.arange(600.0).numpy().tobytes()[:64])
    assert at > 0
    raw[at + 40] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.load(path)


class Nasty:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("was-here",)


@pytest.mark.parametrize("write", [
    lambda path: torch.save({"meta": "{}", "tensors": Nasty()}, path),
    lambda path: path.write_bytes(pickle.dumps(Nasty(), protocol=2)),
    lambda path: torch.save([1, 2], path),
    lambda path: torch.save({"meta": "[]", "tensors": {}}, path),
    lambda path: torch.save({"meta": "{", "tensors": {}}, path),
    lambda path: torch.save({"tensors": {}}, path),
    lambda path: path.write_text("not a checkpoint"),
])
def test_a_file_that_is_something_else_is_refused_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  write: object) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt")  # type: ignore[operator]
    with pytest.raises(UserError, match="no checkpoint of ecgssl"):
        checkpoint.load(tmp_path / "x.pt")
    assert not (tmp_path / "was-here").exists()
    with pytest.raises(UserError, match="no checkpoint of the published implementation"):
        published.read_published(tmp_path / "x.pt")
    assert not (tmp_path / "was-here").exists()


def test_another_format_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", Checkpoint({}, {"format": 99}))
    with pytest.raises(UserError, match="has checkpoint format 99, this version reads 2"):
        checkpoint.load(tmp_path / "x.pt")


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, some())
    before = path.read_bytes()

    def full(content: object, f: object) -> None:
        f.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, some())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def trained(steps: int) -> tuple[vit.Encoder, torch.optim.AdamW]:
    torch.manual_seed(0)
    encoder = vit.Encoder(vit.Size(16, 1, 2))
    encoder.registers.requires_grad_(False)
    settings = configs.load("jepa").optim
    optimiser = optim.adamw(encoder, settings)
    optim.schedule_(optimiser, 20_000, settings)
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        encoder(torch.randn(2, 12, 50)).square().mean().backward()
        optimiser.step()
    return encoder, optimiser


def test_weights_and_optimiser_come_back_exactly(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", Checkpoint(checkpoint.flatten(*trained(3)), {}))
    encoder, optimiser = trained(1)
    checkpoint.restore_(encoder, optimiser, checkpoint.load(tmp_path / "x.pt").tensors)
    expected, other = checkpoint.flatten(*trained(3)), checkpoint.flatten(encoder, optimiser)
    assert expected.keys() == other.keys()
    assert all(torch.equal(v, other[k]) for k, v in expected.items())
    assert sum(k.startswith("optimiser/") for k in expected) == 3 * sum(p.requires_grad for p in encoder.parameters())


def test_restoring_copies_so_that_training_on_leaves_the_checkpoint_alone() -> None:
    tensors = checkpoint.flatten(*trained(2))
    kept = {k: v.detach().clone() for k, v in tensors.items()}
    loaded = {k: v.detach().clone() for k, v in tensors.items()}
    encoder, optimiser = trained(0)
    checkpoint.restore_(encoder, optimiser, loaded)
    encoder(torch.randn(2, 12, 50)).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(kept[k], v) for k, v in loaded.items())


def test_partial_files_of_a_killed_process_are_forgotten(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", some())
    (tmp_path / ".x.pt.abc.tmp").write_bytes(b"half")
    checkpoint.remove_partial(tmp_path, tmp_path / "absent")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
