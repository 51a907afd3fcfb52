"""Runs evaluations: groups those that run at once, locks, resumes and writes results. frozen.py and finetune.py train."""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.core.files import lock_file, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.models import canonical
from bench.data import leak
from bench.data.loader import Crops
from bench.data.store import Store
from bench.evaluation import artifacts, finetune, frozen, metrics, regression
from bench.evaluation.inputs import build_encoder, check_unseen, load_pretrained, open_task
from bench.evaluation.job import STATE, HeldOut, Job, Outcome
from bench.evaluation.protocols import derive_linear
from bench.evaluation.tasks import Task
from bench.evaluation.train_heads import describe_task
from bench.runs import results
from bench.runs.config import EvaluationConfig, PretrainConfig, find_methods, run_id
from bench.runs.provenance import provenance
from bench.runs.workspace import Workspace, evaluation_folder
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint
from bench.training.log import peak_memory_mb

MEMBERS = "members.json"  # in a group's folder: the run_ids of its evaluations


def evaluate(configs: Sequence[EvaluationConfig], store: Store, workspace: Workspace, external: Store | None = None) -> list[str]:
    """Run the evaluations that have no result yet, all on these stores. Returns the run_ids of all configs.

    After a kill, the same call continues from the last save and ends with the same weights, predictions and scores.
    """
    after = [c for c in configs if c.after and not results.result_exists(workspace.results, run_id(c))]
    for config in after:  # refuse a wrong backbone before the linear evaluation runs, not after it
        load_pretrained(workspace.work, config)
    for group in group_configs([*map(derive_linear, after), *configs]):
        if all(results.result_exists(workspace.results, run_id(c)) for c in group):
            continue
        results.check_writable(workspace.results)
        pretrained = load_pretrained(workspace.work, group[0])
        seeds = sorted({c.seed for c in group})
        # a random backbone is drawn from the evaluation's seed, so every seed has its own backbone and its own group
        parts = [[c for c in group if c.seed == s] for s in seeds] if pretrained.meta["step"] == 0 else [group]
        for part in parts:
            GroupRun(part, pretrained, store, external, workspace).run()
    return [run_id(c) for c in configs]


def group_configs(configs: Sequence[EvaluationConfig]) -> list[list[EvaluationConfig]]:
    """Group the evaluations that run at once: all that read the same crops of one frozen backbone. Fine-tuning runs alone.

    The groups are in the order to run them: a finetune-after-linear comes after its linear evaluation.
    """
    groups: dict[str, dict[str, EvaluationConfig]] = {}
    for config in configs:
        settings, name = config.evaluation, run_id(config)
        shared = [config.pretrain, config.at, config.data.to_json(), config.external.to_json(), config.folds.train,
                  settings.features, settings.precision, settings.crop_seconds, settings.stride_seconds]
        groups.setdefault(canonical(shared) if settings.frozen else name, {})[name] = config
    return sorted((list(group.values()) for group in groups.values()), key=lambda group: not group[0].evaluation.frozen)


@dataclass
class GroupRun:
    """Runs one group. Each result is written as soon as it is computed; after the last one the saved state is removed."""

    configs: Sequence[EvaluationConfig]
    pretrained: Checkpoint
    store: Store
    external: Store | None
    workspace: Workspace

    def __post_init__(self) -> None:
        self.names = {run_id(c): c for c in self.configs}
        key = "group-" + hashlib.sha256(" ".join(sorted(self.names)).encode()).hexdigest()[:12]
        self.folder = self._folder_of(key if len(self.names) > 1 else next(iter(self.names)))
        self.pretrain_config = PretrainConfig.model_validate(self.pretrained.meta["config"])

    def _folder_of(self, name: str) -> Path:
        return evaluation_folder(self.workspace.work, self.configs[0].pretrain, name)

    def run(self) -> None:
        """Run the evaluations of the group that have no result, while the locks of all are held."""
        with contextlib.ExitStack() as stack:
            for name in sorted(self.names):
                stack.enter_context(lock_file(self._folder_of(name) / "lock", f"evaluation {name}"))
            missing = [name for name in self.names if not results.result_exists(self.workspace.results, name)]
            for name in missing:
                stack.enter_context(results.save_error(self._folder_of(name)))
            if missing:
                self._run_missing(missing)

    def _run_missing(self, missing: list[str]) -> None:
        checkpoint.remove_partial(self.folder, *(self._folder_of(name) for name in missing))
        state = read_state(self.folder / STATE)
        if state and not set(missing) <= set(state.meta["members"]):
            state = None
        members = [self.names[name] for name in (state.meta["members"] if state else missing)]
        origin = provenance(self.workspace.device, find_methods().get(self.pretrain_config.method.name))  # no file: imported
        tasks = self._open_tasks(members)
        for name in missing:
            write_text(self._folder_of(name) / "config.json", json.dumps(self.names[name].to_json(), indent=1, sort_keys=True))
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(self.names) > 1:
            write_text(self.folder / MEMBERS, json.dumps(sorted(self.names)))
        began = time.monotonic()
        with watch_signals() as read_signal:
            job, held_out = self._prepare(members, tasks, state, read_signal)
            protocol = frozen if job.settings.frozen else finetune
            for outcome in protocol.evaluate(job, held_out):
                name = run_id(outcome.config)
                if name not in missing:
                    continue
                artifacts.write_artifacts(self._folder_of(name), outcome, self.pretrain_config, tasks[name], self.store)
                cost = {"seconds": time.monotonic() - began, "together": len(members),
                        "peak_memory_mb": peak_memory_mb(self.workspace.device)}
                self._write_result(outcome, tasks[name], {**cost, "precision": job.precision}, origin)
                missing.remove(name)
                if missing and (signum := read_signal()):
                    raise Interrupted(signum, f"all but {len(missing)} of {len(members)} evaluations")
            (self.folder / STATE).unlink(missing_ok=True)  # knn saves no state
            remove_finished_groups(self.folder.parent, self.workspace.results)
            if signum := read_signal():
                raise Interrupted(signum, f"{len(members)} evaluations, which are complete")

    def _open_tasks(self, members: Sequence[EvaluationConfig]) -> dict[str, Task]:
        """run_id -> task, one object for all seeds and heads of a task; UserError if pre-training saw its held-out records."""
        opened: dict[str, Task] = {}
        seen = {kind: self.pretrained.tensors[f"seen/{kind}"] for kind in leak.KINDS}
        for config in members:
            key = describe_task(config)
            if key not in opened:
                opened[key] = open_task(config, self.pretrain_config, self.store, self.external)
                check_unseen(seen, opened[key], self.store)
        return {run_id(config): opened[describe_task(config)] for config in members}

    def _prepare(self, members: list[EvaluationConfig], tasks: Mapping[str, Task], state: Checkpoint | None,
                 read_signal: Callable[[], int]) -> tuple[Job, HeldOut]:
        """(the job, whose tasks have no test folds; the test records)."""
        settings, device, store = members[0].evaluation, self.workspace.device, self.store
        precision = optim.resolve_precision(device, settings.precision)
        optim.warn_if_slow(device, precision)
        samples, stride = (round(s * store.rate_hz) for s in (settings.crop_seconds, settings.stride_seconds))
        crops = Crops(store, samples, device)
        rows = np.flatnonzero(np.isin(store.index["fold"], members[0].folds.train) & (store.index["length"] >= samples))
        job = Job(
            configs=members, tasks={name: task.without_test() for name, task in tasks.items()},
            encoder=build_encoder(self.pretrained, members[0].seed, settings.dropout).to(device), crops=crops, stride=stride,
            precision=precision, train_rows=rows, folder=self.folder, state=state, workspace=self.workspace,
            read_signal=read_signal)
        tested_on = next(iter(tasks.values())).tested_on
        test_crops = Crops(tested_on, samples, device) if tested_on else crops
        return job, HeldOut({name: task.test.rows for name, task in tasks.items()}, test_crops)

    def _write_result(self, outcome: Outcome, task: Task, cost: dict[str, Any], origin: dict[str, Any]) -> None:
        store, meta = self.store, self.pretrained.meta
        results.write_result(self.workspace.results, {
            "kind": "evaluate", "run_id": run_id(outcome.config), "config": outcome.config.to_json(),
            "pretrain_config": meta["config"], "saw": meta["saw"], "provenance": origin,
            "result": {
                **summarise(task, outcome), "task": task.facts,
                "records": {part: len(getattr(task, part).rows) for part in ("train", "validation", "test")},
                **outcome.choice, **cost,
                "normalisation": {"mean": store.mean.tolist(), "sd": store.sd.tolist(), "units": store.manifest["units"]}}})


def summarise(task: Task, outcome: Outcome) -> dict[str, Any]:
    """The scores of a result, from the predictions of all classes."""
    if task.kind == "regression":
        return regression.summarise(task.test.labels, outcome.p_test)
    y_validation, p_validation, p_test = (
        a[:, task.columns] for a in (task.validation.labels, outcome.p_validation, outcome.p_test))
    return {"metric": "macro_auroc", **metrics.summarise(task.scored, y_validation, p_validation, task.test.labels, p_test)}


def read_state(path: Path) -> Checkpoint | None:
    """The state of an interrupted group; None if there is none, or if it is damaged."""
    if not path.is_file():
        return None
    try:
        return checkpoint.load(path)
    except UserError as error:
        print(f"{error}; starting again", file=sys.stderr)
        path.unlink()
        return None


def remove_finished_groups(evaluations: Path, folder: Path) -> None:
    """Remove the folders of all groups, of this call or of others, whose members all have a result in `folder`."""
    for path in evaluations.glob(f"group-*/{MEMBERS}"):
        with contextlib.suppress(OSError, ValueError):  # another process is at work there
            if all(results.result_exists(folder, name) for name in json.loads(path.read_text())):
                shutil.rmtree(path.parent)
