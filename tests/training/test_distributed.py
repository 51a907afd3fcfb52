"""Several processes train one model as one process would: the law of bench/core/processes.py, for every method.

Run as a program this file is the driver: it imports everything once and forks the processes.
"""

import ast
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import configs
import pytest
import torch
from conftest import NANO, heads
from corpora import noise, store
from pretraining import fork, run_driver, warm_up

from bench.core import processes
from bench.core.errors import UserError
from bench.core.processes import ALONE, World
from bench.data.store import open_store
from bench.encoders import vit
from bench.runs.config import PretrainConfig, find_methods, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint, monitor, trainer
from bench.training.inputs import fill_fingerprints

TRAINED = [name for name in find_methods() if configs.load(name).optim.steps]
STEPS, KILLED, BATCH = 5, 3, 8
LIMIT = 120  # seconds that one set of processes may take


def configure(name: str, folder: Path, *overrides: str) -> PretrainConfig:
    """Five steps of a nano encoder on the store in folder/stores."""
    nano = ["encoder.size=nano", "data.rate_hz=100", "data.mix={mine: 1.0}", "optim.precision=float32", f"optim.steps={STEPS}",
            f"optim.batch={BATCH}", "optim.warmup_steps=1", *heads(name).items(), *overrides]
    return fill_fingerprints(configs.load(name, nano), {"mine": open_store(folder / "stores" / "mine")})


def perform(runs: list[tuple[str, PretrainConfig]], world: World = ALONE) -> None:
    """Run each config in its work folder, in this process of world."""
    for work, config in runs:
        workspace = Workspace(Path(work), Path(work) / "results", torch.device("cpu"), save_steps=KILLED)
        trainer.pretrain(config, [open_store(Path(work).parent / "stores" / "mine")], workspace, world)


def perform_in(size: int, runs: list[tuple[str, PretrainConfig]]) -> None:
    """Perform the runs in `size` processes, forked from this one; SystemExit if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def act(rank: int) -> None:
        signal.alarm(LIMIT)  # a gather in one branch alone would wait for ever
        os.environ["RANK"] = str(rank)
        perform(runs, processes.join_processes())
        processes.leave_processes()

    children = [fork(lambda rank=rank: act(rank)) for rank in range(size)]
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    if failed:
        raise SystemExit(f"{size} processes failed")


def main(folder: Path) -> None:
    """The runs of the fixture `runs`. No backward before the last fork: its threads do not survive one."""
    torch.set_num_threads(1)
    vit.SIZES["nano"], monitor.BATCH, monitor.POINTS = NANO, 8, 1
    configs = [PretrainConfig.model_validate(each) for each in json.loads((folder / "configs.json").read_text())]
    warm_up(configs[0])
    perform_in(2, [(str(folder / "2"), config) for config in configs])
    shutil.copytree(folder / "2" / "runs", folder / "2-4" / "runs", ignore=shutil.ignore_patterns("final.pt"))
    perform_in(4, [(str(folder / "2-4"), config) for config in configs])
    perform([(str(folder / "1"), config) for config in configs])


@pytest.fixture(autouse=True)
def _nano(nano: vit.Size) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Folder of the work folders 1, 2 (by that many processes) and 2-4 (killed under 2, continued under 4).

    They hold a run of each method that a selected test names.
    """
    folder = tmp_path_factory.mktemp("runs")
    tests = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = sorted({item.callspec.params["name"] for item in tests})
    store(folder / "stores", noise(12, 12, 1000))  # so few that a batch holds some of them twice
    (folder / "configs.json").write_text(json.dumps([configure(name, folder).to_json() for name in names]))
    run_driver(__file__, folder)
    return folder


def lines(runs: Path, work: str, name: str) -> list[dict[str, Any]]:
    folder = run_folder(runs / work, run_id(configure(name, runs)))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def tensors(runs: Path, work: str, name: str) -> dict[str, torch.Tensor]:
    folder = run_folder(runs / work, run_id(configure(name, runs)))
    return checkpoint.load(folder / "final.pt").tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """AssertionError unless weights differ by rounding alone, and Adam's means of the gradients for their size."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        far = (other[key].double() - value.double()).abs().max().item()
        assert far <= (1e-6 if key.startswith("model/") else 1e-4 * value.abs().max().item()), key


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("work", ["2", "2-4"])
def test_every_step_and_what_is_left_are_those_of_one_process_after_a_kill_too(runs: Path, name: str, work: str) -> None:
    one, several = ([m for m in lines(runs, w, name) if "loss" in m] for w in ("1", work))
    assert [m["step"] for m in one] == [m["step"] for m in several] == list(range(1, STEPS + 1))
    for key in ("loss", "gradient_norm"):
        assert [m[key] for m in several] == pytest.approx([m[key] for m in one], rel=1e-5), key
    same(tensors(runs, "1", name), tensors(runs, work, name))
    before, after = ([m for m in lines(runs, w, name) if m["step"] <= KILLED] for w in ("2", work))
    assert before == after  # to the second that a step took: it did not start anew


def gathers(path: Path) -> bool:
    """Whether the code in path, comments aside, calls step.gather."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) == "step.gather" for node in nodes)


@pytest.mark.parametrize("name", TRAINED)
def test_micro_batches_give_the_run_of_the_whole_batch_or_are_refused(runs: Path, name: str, workspace: Workspace) -> None:
    config = configure(name, runs, "optim.accumulate=2")
    stores = [open_store(runs / "stores" / "mine")]
    if gathers(find_methods()[name].with_suffix(".py")):
        with pytest.raises(UserError, match="optim.accumulate must be 1"):
            trainer.pretrain(config, stores, workspace)
        return
    trainer.pretrain(config, stores, workspace)
    same(tensors(runs, "1", name), checkpoint.load(run_folder(workspace.work, run_id(config)) / "final.pt").tensors)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
