"""The files that an evaluation leaves in its folder: its predictions, and the weights that it chose with the settings
that their use needs."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import replace_file
from bench.data.store import Store
from bench.evaluation.job import Outcome, Weights
from bench.evaluation.tasks import Task
from bench.runs import results
from bench.runs.config import EvaluationConfig, PretrainConfig, run_id
from bench.runs.workspace import Workspace, evaluation_folder
from bench.training import checkpoint
from bench.training.checkpoint import Checkpoint

WEIGHTS, PREDICTIONS = "weights.pt", "predictions.npz"
NEEDED = {"config", "pretrain_config", "classes", "rate_hz", "leads", "units", "mean", "sd"}  # in the meta of WEIGHTS


@dataclass(frozen=True)
class EvaluationWeights:
    """The weights that an evaluation chose, and the settings that turn a signal into input and logits into predictions."""

    config: EvaluationConfig
    pretrain_config: PretrainConfig
    head: Weights
    encoder: Weights  # empty if the encoder was frozen, because its weights are the backbone's
    kind: str
    classes: list[str]
    moments: tuple[float, float]  # see Task
    rate_hz: int
    leads: list[str]
    units: str
    mean: list[float]  # of each lead
    sd: list[float]


def find_weights(work: Path) -> dict[str, Path]:
    """run_id -> file of weights, for all evaluations in the work folder that left one."""
    return {path.parent.name: path for path in sorted((work / "runs").glob(f"*/evaluations/*/{WEIGHTS}"))}


def write_weights(path: Path, weights: EvaluationWeights) -> None:
    """Write the weights, whole or not at all."""
    tensors: dict[str, Tensor] = {
        f"{part}.{k}": v for part in ("head", "encoder") for k, v in getattr(weights, part).items()}
    checkpoint.save(path, Checkpoint(tensors, {
        "config": weights.config.to_json(), "pretrain_config": weights.pretrain_config.to_json(),
        **{key: getattr(weights, key) for key in ("kind", "classes", "moments", "rate_hz", "leads", "units", "mean", "sd")}}))


def read_weights(path: Path) -> EvaluationWeights:
    """The weights in path; UserError where the file holds none."""
    content = checkpoint.load(path)
    meta = content.meta
    if not meta.keys() >= NEEDED:
        raise UserError(f"{path} does not hold the weights of an evaluation; remove it, and run the evaluation again")
    head, encoder = ({k.removeprefix(part): v for k, v in content.tensors.items() if k.startswith(part)}
                     for part in ("head.", "encoder."))
    mean, sd = meta.get("moments", (0.0, 1.0))
    return EvaluationWeights(
        EvaluationConfig.model_validate(meta["config"]), PretrainConfig.model_validate(meta["pretrain_config"]), head, encoder,
        meta.get("kind", "multi-label"), moments=(mean, sd),
        **{key: meta[key] for key in ("classes", "rate_hz", "leads", "units", "mean", "sd")})


def read_linear_head(config: EvaluationConfig, workspace: Workspace) -> Weights:
    """The weights of the head that a linear evaluation chose; UserError where the file is gone."""
    name = run_id(config)
    path = evaluation_folder(workspace.work, config.pretrain, name) / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} is missing, though the linear evaluation {name} has a result; remove "
                        f"{results.result_path(workspace.results, name)} to run it again")
    return read_weights(path).head


def write_artifacts(folder: Path, outcome: Outcome, pretrained: PretrainConfig, task: Task, store: Store) -> None:
    """Write predictions.npz of an evaluation into its folder, and weights.pt if the evaluation trained a head."""
    if outcome.weights:
        head, encoder = ({k.removeprefix(part): v for k, v in outcome.weights.items() if k.startswith(part)}
                         for part in ("head.", "encoder."))
        write_weights(folder / WEIGHTS, EvaluationWeights(
            outcome.config, pretrained, head, encoder, task.kind, task.classes, task.moments, store.rate_hz,
            store.manifest["leads"], store.manifest["units"], store.mean.tolist(), store.sd.tolist()))
    arrays: dict[str, Any] = {"classes": np.array(task.classes), "scored": np.array(task.scored)}
    for part, split, p, home in (("validation", task.validation, outcome.p_validation, store),
                                 ("test", task.test, outcome.p_test[:, task.columns], task.tested_on or store)):
        arrays |= {f"y_{part}": split.labels if task.kind == "regression" else split.labels.astype(np.uint8),
                   f"p_{part}": p, f"record_id_{part}": home.records.record_id.to_numpy(str)[split.rows]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with replace_file(folder / PREDICTIONS) as f:
        f.write(buffer.getvalue())
