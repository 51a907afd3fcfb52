"""The training loop: from a config and stores to a backbone and a result. `pretrain` runs it, `Trainer` has its parts."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError
from bench.core.files import lock_file, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.core.processes import ALONE, World
from bench.core.rng import DROPOUT, VIEWS, Rng, derive, generator
from bench.data import leak, views
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.method import Method, Step, build_model, step_at
from bench.runs.config import PretrainConfig, run_id
from bench.runs.provenance import provenance
from bench.runs.results import check_writable, result_exists, result_path, save_error, write_result
from bench.runs.workspace import Workspace, run_folder, set_aside
from bench.training import checkpoint, inputs, log, monitor, optim
from bench.training.checkpoint import Checkpoint, RunCheckpoints
from bench.training.inputs import fill_fingerprints
from bench.training.source import check_result, method_file, note_source, was_begun_by_other_code
from bench.training.summary import summarise

LOG_POINTS = 200  # lines of metrics in a run, whatever its length


@dataclass(frozen=True)
class Outcome:
    """What a call of `pretrain` returns."""

    run_id: str
    result: Path  # the file of the result
    ran: bool  # False: the result was there already, and nothing ran


@dataclass
class State:
    """The state of a run: a checkpoint holds it, and a resumed run continues from it."""

    model: Method
    optimiser: torch.optim.AdamW
    precision: str  # of matrix products: float32 or bfloat16
    taken: int = 0  # optimiser steps
    window: list[float] = field(default_factory=list)  # losses since the last line of metrics

    def restore(self, saved: Checkpoint) -> None:
        """Become the saved state."""
        checkpoint.restore_(self.model, self.optimiser, saved.tensors)
        self.taken, self.window, self.precision = saved.meta["step"], saved.meta["window"], saved.meta["precision"]


@dataclass(frozen=True)
class StepReport:
    """The numbers of one step, still on the device."""

    loss: Tensor  # mean over the micro-batches
    scalars: dict[str, Tensor]  # what the method logs, from the last micro-batch
    lr: float
    gradient_norm: Tensor | None  # before clipping; None if it is neither clipped nor logged


class Trainer:
    """One pre-training, which continues from its newest checkpoint. Several processes can train one model: see World."""

    def __init__(self, config: PretrainConfig, stores: Sequence[Store], workspace: Workspace, world: World = ALONE) -> None:
        self.config, self.workspace, self.world, self.device = config, workspace, world, workspace.device
        self.run_id, self.total, folder = run_id(config), config.optim.steps, run_folder(workspace.work, run_id(config))
        self.rows = inputs.split_batch(config, world)
        views.check(config.views, config.data.rate_hz, config.data.crop_seconds, config.encoder.patch)
        self.loader = inputs.open_loader(config, stores, workspace, world)
        self.checkpoints = RunCheckpoints(folder, workspace.keep)
        self.state = self._build_state()
        self.parameters = [p for p in self.state.model.parameters() if p.requires_grad]
        self.gather = world.gather if len(self.rows) == 1 else inputs.refuse_gather
        self.metrics = log.MetricsLog(folder) if world.first else None  # the first process writes
        self.fixed = inputs.read_fixed_batch(config, self.loader, monitor.BATCH) if self.total and world.first else None
        self.log_every, self.look_every = max(1, self.total // LOG_POINTS), max(1, self.total // monitor.POINTS)
        self.shares = {math.ceil(share * self.total): share for share in config.checkpoints.at}  # step -> share to keep
        self.pending: list[Tensor] = []  # losses not yet read from the device

    def _build_state(self) -> State:
        """The state at the start, or that of the newest checkpoint."""
        settings = self.config.optim
        model = build_model(self.config).to(self.device).train()
        state = State(model, optim.adamw(model, settings), optim.resolve_precision(self.device, settings.precision))
        path = self.world.broadcast(self.checkpoints.find_newest() if self.world.first else None)
        if path:
            state.restore(checkpoint.load(path))
        optim.warn_if_slow(self.device, state.precision)
        if settings.compile:
            for part in model.children():
                part.compile()
        return state

    def run(self) -> dict[str, Any]:
        """Train to the last step and save final.pt. Returns the key `result` of the result; {} except on the first process.

        Raises Interrupted, after saving, if a signal came; UserError if training diverged.
        """
        if self.metrics:
            self.metrics.drop_after(self.state.taken)
            if not self.state.taken:
                self._look_for_collapse()
        title = f"pretrain {self.config.method.name} {self.run_id}"
        bar = progress.bar(title, self.total, self.state.taken) if self.world.first else nullcontext(lambda done, text: None)
        self._train(bar)
        if not self.total and not self.checkpoints.final.is_file():
            self._save_final()
        if not self.metrics:
            return {}
        lines = self.metrics.read()
        return {**summarise(self.config, self.state.model, lines, self.device), "precision": self.state.precision,
                "saw": self._list_corpora()}

    def _train(self, bar: AbstractContextManager[progress.Update]) -> None:
        """Take the remaining steps; log, look for collapse and save whenever that is due."""
        self.speed = log.SpeedMeter(self.device, self.world, self.state.taken)
        self.saved_at = time.monotonic()
        with watch_signals() as received, bar as show:
            for batch in self.loader.batches(self.state.taken, self.total):
                report = self.step(batch)
                self.pending.append(report.loss)
                self.speed.update()
                signum, save = divmod(self.world.reduce_max(2 * received() + self._is_time_to_save()), 2)  # of all processes
                self._follow_up(report, show, save=bool(save or signum))
                if signum:
                    raise Interrupted(signum, f"run {self.run_id} at step {self.state.taken} of {self.total}")

    def step(self, batch: Tensor) -> StepReport:
        """Take one optimiser step with this process's part (B, leads, samples) of the batch."""
        state, config, seed = self.state, self.config, self.config.seed
        lr = optim.schedule_(state.optimiser, state.taken, config.optim)
        torch.manual_seed(derive(seed, DROPOUT, state.taken))
        patients = self.loader.patients(state.taken).to(self.device, non_blocking=True)
        rng = Rng(generator(self.device, seed, VIEWS, state.taken), config.optim.batch, self.loader.part)
        seen = views.make(batch, config.views, config.data.rate_hz, rng)
        state.optimiser.zero_grad(set_to_none=True)
        losses, scalars = [], dict[str, Tensor]()
        for rows in self.rows:
            loss, scalars = self._forward(seen, patients, rows)
            (loss / len(self.rows)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.world.mean_([p.grad for p in self.parameters if p.grad is not None])
        state.taken += 1
        norm = None
        if config.optim.clip or self._is_due(self.log_every):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.optim.clip or math.inf)
        state.optimiser.step()
        state.model.after_step(self._step_at(state.taken))
        return StepReport(torch.stack(losses).mean(), scalars, lr, norm)

    def _forward(self, seen: list[Tensor], patients: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, scalars) of these rows of the whole batch."""
        own = slice(rows.start - self.loader.part.start, rows.stop - self.loader.part.start)  # of this process's part
        step = self._step_at(self.state.taken, rows=rows, patients=patients[own], gather=self.gather)
        with optim.autocast(self.device, self.state.precision):
            loss, scalars = self.state.model([view[own] for view in seen], step)
        return loss, scalars

    def _step_at(self, taken: int, **more: Any) -> Step:
        return step_at(self.config.seed, taken, self.total, self.device, self.config.optim.batch, **more)

    def _is_due(self, every: int) -> bool:
        return self.state.taken % every == 0 or self.state.taken == self.total

    def _is_time_to_save(self) -> bool:
        return (self.state.taken % self.workspace.save_steps == 0
                or time.monotonic() - self.saved_at > 60 * self.workspace.save_minutes)

    def _follow_up(self, report: StepReport, show: progress.Update, *, save: bool) -> None:
        """Read the losses, log, look for collapse and save a checkpoint, if they are due after this step."""
        state = self.state
        log, look, share = self._is_due(self.log_every), self._is_due(self.look_every), self.shares.get(state.taken)
        if not (log or look or save or share):
            return
        state.window += self._read_losses()
        if log:
            self._log(report)
            show(state.taken, f"loss {sum(state.window) / len(state.window):.4f}")
            state.window.clear()
        if look:
            self._look_for_collapse()
        if state.taken == self.total:
            self._save_final()
            return
        if share and (backbone := self._checkpoint(resumable=False, evaluated=True)):
            self.checkpoints.save_share(share, backbone)
        if save:
            if current := self._checkpoint():
                self.checkpoints.save_state(state.taken, current)
            self.saved_at = time.monotonic()

    def _read_losses(self) -> list[float]:
        """The pending losses as numbers; a UserError names the first step whose loss is not finite."""
        losses = torch.stack(self.pending)
        self.pending.clear()
        self.world.mean_([losses])
        values: list[float] = losses.tolist()
        for step, value in enumerate(values, self.state.taken - len(values)):
            if not math.isfinite(value):
                raise self._diverged(f"the loss of step {step} is {value}")
        return values

    def _log(self, report: StepReport) -> None:
        """Write a line of metrics."""
        state, steps = self.state, len(self.state.window)
        seconds, watts = self.speed.measure(state.taken, steps)
        scalars = {key: value.float().to(self.device) for key, value in report.scalars.items()}
        self.world.mean_(list(scalars.values()))
        if self.metrics and report.gradient_norm is not None:
            self.metrics.write(
                step=state.taken, loss=sum(state.window) / steps, lr=report.lr, gradient_norm=report.gradient_norm.item(),
                seconds=seconds, records_per_second=steps * self.config.optim.batch / seconds,
                seconds_left=seconds / steps * (self.total - state.taken), memory_mb=log.peak_memory_mb(self.device),
                **watts, **{key: value.item() for key, value in scalars.items()})

    def _look_for_collapse(self) -> None:
        if self.metrics and self.fixed is not None:
            self.metrics.write(step=self.state.taken, **monitor.measure_collapse(self.state.model, self.fixed))

    def _save_final(self) -> None:
        if final := self._checkpoint(evaluated=True):
            self.checkpoints.save_final(final)

    def _checkpoint(self, *, resumable: bool = True, evaluated: bool = False) -> Checkpoint | None:
        """The state as a checkpoint; None except on the first process. UserError if a number in it is not finite.

        resumable: include the optimiser's state. evaluated: include the marks of the records seen, for the leak guard.
        """
        tensors = checkpoint.flatten(self.state.model, self.state.optimiser if resumable else None)
        if evaluated:
            marks = leak.training_marks(self.loader.stores if self.total else [], self.config.data.folds, self.loader.samples)
            tensors |= {f"seen/{kind}": mark for kind, mark in marks.items()}
        if not all(bool(t.isfinite().all()) for t in tensors.values()):  # a loss would show it only one step later
            raise self._diverged(f"step {self.state.taken - 1} left weights that are not finite")
        return Checkpoint(tensors, self._meta()) if self.world.first else None

    def _meta(self) -> dict[str, Any]:
        """The JSON values of a checkpoint."""
        stores = {s.name: {k: s.manifest[k] for k in ("mean", "sd", "units", "fingerprint")} for s in self.loader.stores}
        return {"config": self.config.to_json(), "run_id": self.run_id, "leads": list(LEADS),
                "rate_hz": self.config.data.rate_hz, "stores": stores, "saw": self._list_corpora(),
                "precision": self.state.precision, "step": self.state.taken, "window": self.state.window}

    def _list_corpora(self) -> dict[str, Any]:
        return inputs.list_corpora(self.loader) if self.total else {}

    def _diverged(self, what: str) -> UserError:
        last = max((path.name for path in self.checkpoints.list_states()), default="none yet")
        return UserError(f"{what}: training stopped; lower optim.lr or set optim.clip. Last good checkpoint: {last} in "
                         f"{self.checkpoints.folder}")


def pretrain(config: PretrainConfig, stores: Sequence[Store], workspace: Workspace, world: World = ALONE, *,
             again: bool = False) -> Outcome:
    """Run the pre-training, unless it has a result. A killed run continues from its newest checkpoint, bit for bit.

    If several processes call this, each with its World, they train one model, and the first process writes. UserError if
    the code of the method has changed since the run began or ended. again: first move the old run aside if it has a result
    or if other code began it.
    """
    config = fill_fingerprints(config, {store.name: store for store in stores})
    name = run_id(config)
    folder, result = run_folder(workspace.work, name), result_path(workspace.results, name)
    if not world.first:
        ran = bool(world.broadcast())
        if ran:
            Trainer(config, stores, workspace, world).run()
        return Outcome(name, result, ran)
    if again and (result_exists(workspace.results, name) or was_begun_by_other_code(config, folder)):
        set_aside(workspace, name)
    elif result_exists(workspace.results, name):
        check_result(config, workspace.results)
        world.broadcast(False)
        return Outcome(name, result, ran=False)
    check_writable(workspace.results)
    try:
        with lock_file(folder / "lock", f"run {name}"), save_error(folder):
            ran = world.broadcast(not result_exists(workspace.results, name))  # another process may have been faster
            if ran:
                _run_and_write(config, stores, workspace, world)
    except PermissionError as error:
        raise UserError(f"cannot write into {workspace.work} ({error.strerror}: {error.filename})") from None
    return Outcome(name, result, ran)


def _run_and_write(config: PretrainConfig, stores: Sequence[Store], workspace: Workspace, world: World) -> None:
    """Train and write the result. Only the first process, which holds the lock, may call this."""
    name = run_id(config)
    folder = run_folder(workspace.work, name)
    checkpoint.remove_partial(folder, folder / "checkpoints")
    origin = {**provenance(workspace.device, method_file(config)), "processes": world.size}
    note_source(config, folder)
    write_text(folder / "config.json", json.dumps(config.to_json(), indent=1, sort_keys=True))
    trainer = Trainer(config, stores, workspace, world)
    write_result(workspace.results, {"kind": "pretrain", "run_id": name, "config": config.to_json(), "result": trainer.run(),
                                     "provenance": origin})
