"""Killed at any moment and started again, a run ends with the same bytes as one that was never killed.

Run as a program this file is the driver: it imports everything once and forks one process per attempt.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import NANO
from pretraining import Pretraining, fork, run_driver, warm_up

from bench.data.store import open_by_name
from bench.encoders import vit
from bench.runs.config import PretrainConfig, run_id
from bench.runs.workspace import Workspace, run_folder
from bench.training import monitor, trainer

STEPS = 60


def place(work: Path) -> Workspace:
    return Workspace(work, work / "results", torch.device("cpu"), save_steps=2, keep=2)


def start(config: PretrainConfig, stores: Path, work: Path) -> int:
    """The process id of a child that runs the pre-training in work."""
    return fork(lambda: trainer.pretrain(config, [open_by_name(stores, "tiny")], place(work)))


def cpu_seconds(pid: int) -> float:
    """What the process has used so far: unlike the time on the wall it does not depend on who else is running."""
    return time.clock_gettime((~pid << 3) | 2)  # Linux: the CPU clock of another process


def wait(pid: int, done: Callable[[], bool]) -> int | None:
    """Poll until done; the exit status if the child ended before."""
    while not done():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.0005)
    return None


def newest(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(p.stem.split("-")[1]) for p in folder.glob("checkpoints/step-*.pt")), default=0)


def drive(config: PretrainConfig, stores: Path, work: Path, kills: int, seed: int) -> list[int]:
    """Run once in work/straight and once, killed `kills` times, in work/killed; gives the steps where the kills fell."""
    draw, folder = random.Random(seed), run_folder(work / "killed", run_id(config))
    pid = start(config, stores, work / "straight")
    straight = run_folder(work / "straight", run_id(config))
    wait(pid, lambda: newest(straight) > 0)  # what an attempt needs to come one checkpoint further
    setup = cpu_seconds(pid)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit("the run without kills failed")
    loop = usage.ru_utime + usage.ru_stime - setup

    at: list[int] = []
    while True:
        left = kills - len(at)
        share = (1 - newest(folder) / STEPS) / (left + 1)  # what remains, shared among the kills that remain
        limit = draw.uniform(0.1, 1.9) * (setup + share * loop) if left else float("inf")
        pause = draw.uniform(0, 0.004)  # so that a kill may fall while the disk is written to
        pid = start(config, stores, work / "killed")
        status = wait(pid, lambda pid=pid, limit=limit: cpu_seconds(pid) >= limit)
        if status is None:
            time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            at.append(newest(folder))
        elif status:
            raise SystemExit("an attempt failed")
        elif not left:
            return at
        else:  # it ended before its kill came: start again, for the kills that are left
            same(config, stores, work)
            shutil.rmtree(work / "killed")


def same(config: PretrainConfig, stores: Path, work: Path) -> None:
    """AssertionError unless both runs left the same."""
    store = open_by_name(stores, "tiny")
    straight, killed = (Pretraining(config, store, place(work / name)).left for name in ("straight", "killed"))
    for key, value in straight.items():
        assert killed[key] == value, f"{key} differs"


def killed(configs: list[PretrainConfig], stores: Path, work: Path, kills: int) -> list[list[int]]:
    """Drive each config in a process of its own and check what they left."""
    work.mkdir(exist_ok=True)
    task = {"configs": [c.to_json() for c in configs], "stores": str(stores), "kills": kills}
    (work / "task.json").write_text(json.dumps(task))
    said = run_driver(__file__, work)
    for config in configs:
        same(config, stores, work / run_id(config))
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_of_each_method_change_no_byte(configure: Callable[..., PretrainConfig], stores: Path, tmp_path: Path,
                                             kills: int) -> None:
    configs = [configure(name, f"optim.steps={STEPS}") for name in ("jepa", "simclr", "mae")]
    for steps in killed(configs, stores, tmp_path / "runs", kills):
        assert len(steps) == kills
        assert len(set(steps)) >= kills // 4  # they fell all over the run


def main(work: Path) -> None:
    torch.set_num_threads(1)
    vit.SIZES["nano"] = NANO
    monitor.BATCH = 16  # as in the tests' own process
    trainer.LOG_POINTS = 12  # so that most kills fall between two lines
    task = json.loads((work / "task.json").read_text())
    configs = [PretrainConfig.model_validate(each) for each in task["configs"]]
    warm_up(configs[0])
    print(json.dumps([drive(config, Path(task["stores"]), work / run_id(config), task["kills"], seed)
                      for seed, config in enumerate(configs)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
