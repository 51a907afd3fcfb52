"""All weights train, end to end: one evaluation at a time. The test fold is not here."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from bench.core.errors import UserError
from bench.core.interrupt import Interrupted
from bench.data.loader import Crops
from bench.evaluation import heads
from bench.evaluation.crops import Epochs, grid, places
from bench.evaluation.frozen import Visible, chunk
from bench.runs.config import EvaluationConfig, HeadConfig, run_id
from bench.runs.workspace import Workspace
from bench.training import checkpoint, optim
from bench.training.checkpoint import Checkpoint

DROPOUT = 103  # stream of random numbers drawn from an evaluation's seed


def fit(config: EvaluationConfig, task: Visible, model: heads.Classifier, crops: Crops, stride: int, state: Checkpoint | None,
        folder: Path, where: Workspace, asked: Callable[[], int]) -> dict[str, Any]:
    """Train the classifier and leave the weights with the best validation in it; gives what the record says of that."""
    settings, seed = config["evaluation"], config["seed"]
    optimiser = optim.adamw(model, settings)
    taken, best = 0, {"step": 0, "value": -math.inf}
    curve: dict[str, list] = {"step": [], "loss": [], task.metric: []}
    pending, window = list[Tensor](), list[float]()  # losses since the last validation: on the device, here
    kept = copy.deepcopy(model.state_dict())
    if state:
        checkpoint.restore_(model, optimiser, state.tensors)
        kept = {k.removeprefix("kept/"): v for k, v in state.tensors.items() if k.startswith("kept/")}
        taken, best, curve, window = (state.meta[k] for k in ("taken", "best", "curve", "window"))

    def settle() -> None:
        """Take the pending losses from the device; UserError where one is no number."""
        window.extend(torch.stack(pending).tolist() if pending else ())
        pending.clear()
        for i, value in enumerate(window):
            if not math.isfinite(value):
                raise UserError(f"the loss of step {taken - len(window) + i} is {value}: evaluation stopped; lower evaluation.lr")

    def save() -> None:
        settle()
        tensors = checkpoint.flatten(model, optimiser) | {f"kept/{k}": v for k, v in kept.items()}
        checkpoint.save(folder / "state.pt", Checkpoint(
            tensors, {"members": [run_id(config)], "taken": taken, "best": best, "curve": curve, "window": window}))

    rows, batch = task.train.rows, min(settings["batch"], len(task.train.rows))
    epochs, room = Epochs(rows, seed), crops.length[rows].numpy() - crops.samples + 1
    labels = torch.from_numpy(task.train.labels).to(where.device)
    title = f"{settings['name']} {config['task']} {run_id(config)}"
    saved_at = time.monotonic()
    with progress.bar(title, settings["steps"], taken) as bar:
        while taken < settings["steps"] and taken - best["step"] < settings["patience"]:
            epoch, position = divmod(taken, len(rows) // batch)
            here = epochs.order(epoch)[position * batch: (position + 1) * batch]
            x = crops.normalise(crops.raw(torch.from_numpy(rows[here]), torch.from_numpy(epochs.starts(epoch, room)[here])))
            optim.schedule_(optimiser, taken, settings)
            torch.manual_seed(optim.derive(seed, DROPOUT, taken))
            pending.append(step(model, optimiser, task, x, labels[torch.from_numpy(here).to(where.device)], settings))
            taken += 1
            if taken % settings["validate_every"] == 0 or taken == settings["steps"]:
                settle()
                value = task.score(predict(model, task, task.validation.rows, crops, stride, settings))
                curve["step"].append(taken)
                curve["loss"].append(sum(window) / len(window))
                curve[task.metric].append(value)
                window.clear()
                if value > best["value"]:
                    best = {"step": taken, "value": value}
                    kept = copy.deepcopy(model.state_dict())
                bar(taken, f"validation {value:.4f}, best {best['value']:.4f}")
            signum = asked()
            if signum or time.monotonic() - saved_at > 60 * where.save_minutes:
                save()
                saved_at = time.monotonic()
                if signum:
                    raise Interrupted(signum, f"evaluation {run_id(config)} at step {taken} of {settings['steps']}")
    save()
    model.load_state_dict(kept)
    return {task.metric: best["value"], "best_step": best["step"], "steps": taken, "curve": curve}


def step(model: heads.Classifier, optimiser: torch.optim.Optimizer, task: Visible, x: Tensor, y: Tensor,
         settings: HeadConfig) -> Tensor:
    """One optimiser step on crops (B, 12, T) and their labels (B, C), in place; gives the loss."""
    model.train()
    with optim.autocast(x.device, settings["precision"]):
        logits = model(x)
    loss = task.loss(logits, y)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if settings["clip"]:
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    optimiser.step()
    return loss.detach()


def predict(model: heads.Classifier, task: Visible, rows: np.ndarray, crops: Crops, stride: int,
            settings: HeadConfig) -> np.ndarray:
    """(n, C) probabilities of the rows (n,) from their crops at every stride."""
    fixed = grid(crops, rows, stride)
    owner = torch.from_numpy(places(fixed.rows, rows)[1])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        size = chunk(crops.device)
        yield from zip(fixed.batches(crops, size), owner.split(size), strict=True)

    model.eval()
    return heads.predict(model, batches(), len(rows), task.chances, settings)
