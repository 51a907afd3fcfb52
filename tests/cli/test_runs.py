"""What a pre-training has logged reaches TensorBoard and Weights & Biases as it is."""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

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


def test_wandb_gets_every_line_and_the_config_and_offline_nothing_is_sent(work, tmp_path, monkeypatch) -> None:
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    cli.runs_wandb(["r"], offline=True, out=tmp_path / "out", work=work)
    run, settings = wandb.init.return_value.__enter__.return_value, wandb.init.call_args.kwargs
    assert [{**call.args[0], **call.kwargs} for call in run.log.call_args_list] == LINES
    assert (settings["mode"], settings["id"], settings["config"]["seed"]) == ("offline", "r", 0)


@pytest.mark.parametrize(("name", "module", "command"), [
    ("TensorBoard", "torch.utils.tensorboard", cli.runs_tensorboard), ("Weights & Biases", "wandb", cli.runs_wandb)])
def test_a_package_that_is_not_installed_is_named(name, module, command, work, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{name} is not installed; .*pip install 'ecg-ssl-bench\["):
        command(["r"], out=tmp_path, work=work)
