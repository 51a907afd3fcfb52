"""Checkpoints: written atomically, safe to read, the same bytes for the same state. RunCheckpoints manages those of a run."""

import json
import pickle
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.files import replace_file
from bench.runs.workspace import checkpoint_name

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A flat dict of tensors by name, and a dict of JSON values for the rest: config, statistics, leads, rate, units."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint into path, whole or not at all.

    The file holds a flat, sorted dict of tensors and one text. Pickle then finds no shared object to refer back to, so
    equal states give equal bytes.
    """
    tensors = {k: checkpoint.tensors[k].detach().cpu().contiguous().clone() for k in sorted(checkpoint.tensors)}
    text = json.dumps({"format": FORMAT, **checkpoint.meta}, sort_keys=True)
    with replace_file(path) as f:
        torch.save({"meta": text, "tensors": tensors}, f)


def load(path: Path) -> Checkpoint:
    """The checkpoint in path; UserError if the file is not a checkpoint or is damaged."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            broken = archive.testzip()
        if broken:
            raise ValueError(f"checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(type(content).__name__)
        meta = json.loads(content["meta"])
        version = meta.pop("format")
        tensors = dict(content["tensors"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no checkpoint of ecgssl, or is damaged ({type(error).__name__})") from None
    if version != FORMAT:
        raise UserError(f"{path} has checkpoint format {version!r}, this version reads {FORMAT}")
    return Checkpoint(tensors, meta)


def remove_partial(*folders: Path) -> None:
    """Remove the partial files of a killed process. Only the process that holds the lock of the folders may call this."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            path.unlink()


def flatten(module: nn.Module, optimiser: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """A flat dict of tensors by name: weights, buffers and, if an optimiser is given, its state."""
    out = {f"model/{k}": v for k, v in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in (optimiser.state if optimiser else {}).get(parameter, {}).items():
            out[f"optimiser/{name}/{key}"] = value
    return out


def restore_(module: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of flatten, in place."""
    module.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    optimiser.state.clear()
    for name, parameter in module.named_parameters():
        prefix = f"optimiser/{name}/"
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:  # AdamW expects `step` on the CPU unless the optimiser is fused
            fused = optimiser.defaults.get("fused")
            optimiser.state[parameter] = {
                k: v.clone() if k == "step" and not fused else v.to(parameter.device, copy=True)
                for k, v in state.items()}


def fill_(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load these weights into the module, as float32. UserError names the first that is missing, unknown or misshapen.

    The module may be on the meta device; it then takes the tensors themselves. what: begins the error.
    """
    own = module.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        if key not in tensors:
            raise UserError(f"{what} lacks {key}")
        if key not in own:
            raise UserError(f"{what} holds {key}, but the model of its config has no such weights")
        if tensors[key].shape != own[key].shape:
            raise UserError(f"{what}: {key} has shape {tuple(tensors[key].shape)}, its config needs {tuple(own[key].shape)}")
        if not tensors[key].is_floating_point() or not tensors[key].isfinite().all():
            raise UserError(f"{what}: {key} holds values that are not finite numbers")
    module.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)


class RunCheckpoints:
    """The checkpoints of one pre-training, in work/runs/<run_id>.

    checkpoints/step-*.pt are states to continue from; the newest few are kept. at-<share>.pt and final.pt are backbones to
    evaluate. The trainer says what a state holds and when it is saved.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.states, self.keep = folder, folder / "checkpoints", keep
        self.final = folder / checkpoint_name()

    def find_newest(self) -> Path | None:
        """The newest readable checkpoint from which the run can continue. Newer ones that are damaged are removed."""
        for path in [self.final, *reversed(self.list_states())]:
            if not path.is_file():
                continue
            try:
                load(path)
                return path
            except UserError as error:
                print(f"{error}; going back to the one before", file=sys.stderr)
                path.unlink()
        return None

    def list_states(self) -> list[Path]:
        """The files of states, the oldest first."""
        return sorted(self.states.glob("step-*.pt"))

    def save_final(self, checkpoint: Checkpoint) -> None:
        """Write final.pt."""
        save(self.final, checkpoint)

    def save_share(self, at: float, checkpoint: Checkpoint) -> None:
        """Write the backbone after the share `at` of the steps."""
        save(self.folder / checkpoint_name(at), checkpoint)

    def save_state(self, step: int, checkpoint: Checkpoint) -> None:
        """Write the state after `step` steps, and remove all but the newest `keep` states."""
        save(self.states / f"step-{step:08d}.pt", checkpoint)
        for path in self.list_states()[:-self.keep]:
            path.unlink()
