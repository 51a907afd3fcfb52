"""What a pre-training has logged reaches TensorBoard and Weights & Biases as it is."""

import contextlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import configs
import pytest

from bench.cli import runs as cli
from bench.core.errors import UserError

LINES = [{"step": 0, "rankme": 3.0}, {"step": 2, "loss": 0.5, "lr": 0.25}]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder in which the run `r` has logged LINES."""
    folder = tmp_path / "work" / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(configs.load("jepa").to_json()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path / "work"


class Logged(contextlib.AbstractContextManager[Any]):
    """Stands for a run of wandb."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.lines = settings, list[dict[str, Any]]()

    def __exit__(self, *_: object) -> None:
        self.lines.append({"finished": True})

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append({"step": step, **values})


def test_wandb_gets_every_line_and_the_config_and_offline_nothing_is_sent(
        work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Logged] = []
    stub = types.SimpleNamespace(init=lambda **settings: runs.append(Logged(**settings)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", stub)  # type: ignore[arg-type]
    cli.runs_wandb(["r"], offline=True, out=tmp_path / "out", work=work)
    [run] = runs
    assert run.lines == [*LINES, {"finished": True}]
    assert (run.settings["mode"], run.settings["id"], run.settings["config"]["seed"]) == ("offline", "r", 0)


@pytest.mark.parametrize(("name", "module", "command"), [
    ("TensorBoard", "torch.utils.tensorboard", cli.runs_tensorboard), ("Weights & Biases", "wandb", cli.runs_wandb)])
def test_a_package_that_is_not_installed_is_named(name: str, module: str, command: Any, work: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{name} is not installed; .*pip install 'ecg-ssl-bench\["):
        command(["r"], out=tmp_path, work=work)
