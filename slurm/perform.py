"""The process that does the work of a task, with torch. slurm/worker.py, which runs without torch, watches it.

    python -m slurm.perform SUBMISSION INDEX RUN...
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.core import processes
from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.core.processes import World
from bench.data.store import Store, open_by_name
from bench.evaluation import runner as evaluation
from bench.runs.config import Config, EvaluationConfig, PretrainConfig, run_id
from bench.runs.workspace import Workspace
from bench.training import trainer
from slurm.worker import Task, say


def perform(folder: Path, index: int, names: Sequence[str]) -> int:
    """Run these runs of a task. If one fails, its reason is noted and the next one follows. Returns the exit code."""
    task = Task(folder, index)
    torch.set_num_threads(task.submission.cpus)
    world = processes.join_processes()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device(f"cuda:{world.local}" if world.size > 1 else "cuda")
    workspace = Workspace(task.shared.work, task.shared.results, device, save_minutes=task.submission.save_minutes)
    for unit in task.units:
        wanted = unit.keys() & {*names}
        # finished members are included: a group is identified by its members and so continues from its saved state
        configs = [config for name, config in unit.items() if name in wanted | task.done(unit)]
        try:
            if wanted:
                perform_unit(configs, workspace, world)
        except Interrupted as stop:
            say(str(stop))
            return stop.exit_code
        except Exception as error:  # any error concerns this unit alone, and the other units follow
            note_failure(task, configs, error, world)
            if world.size > 1:
                return 1
    processes.leave_processes()
    return 0


def note_failure(task: Task, configs: Sequence[Config], error: Exception, world: World) -> None:
    """Note the error as the reason why the unit's runs without a result failed."""
    if not isinstance(error, UserError):
        traceback.print_exc()
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    say(f"failed: {reason}")
    names = {run_id(config) for config in configs}
    for name in sorted(names - task.done(names)) if world.first else ():
        task.note_failure(name, reason)


def perform_unit(configs: Sequence[Config], workspace: Workspace, world: World) -> None:
    """Run a pre-training, or evaluations at once; UserError if a store has changed since the submission."""
    first = configs[0]
    if isinstance(first, PretrainConfig):
        trainer.pretrain(first, open_unchanged(workspace, first.data.fingerprints), workspace, world)
    else:
        (store,) = open_unchanged(workspace, {first.data.store: first.data.fingerprint})
        evaluation.evaluate([config for config in configs if isinstance(config, EvaluationConfig)], store, workspace)


def open_unchanged(workspace: Workspace, fingerprints: dict[str, str]) -> list[Store]:
    """The stores of these names; UserError if a fingerprint differs."""
    stores = [open_by_name(workspace.work / "stores", name) for name in fingerprints]
    for store in stores:
        if store.fingerprint != fingerprints[store.name]:
            raise UserError(f"store {store.name} has changed since this was submitted: its fingerprint is "
                            f"{store.fingerprint}, not {fingerprints[store.name]}; submit again")
    return stores


if __name__ == "__main__":
    sys.exit(perform(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
