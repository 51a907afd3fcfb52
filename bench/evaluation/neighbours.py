"""Nearest neighbours: a record's classes are those of the training records with the most similar features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.evaluation.job import Validations
from bench.evaluation.reader import CropTokens, Reader
from bench.evaluation.tasks import TrainingTask
from bench.runs.config import NeighboursConfig


@dataclass(frozen=True)
class NeighbourPredictor:
    """Predicts the mean label of the k training records with the most similar features, by cosine, weighted by
    exp(cosine / temperature) (Wu et al. 2018, arXiv 1805.01978; k and temperature as in arXiv 2104.14294)."""

    reader: Reader
    features: Tensor  # (N, D) float32 of the training records, of length 1
    labels: Tensor  # (N, C)
    temperature: float
    k: int
    seeds: int  # how often predictions are repeated; neighbours do not depend on a seed

    def predict(self, tokens: CropTokens, rows: np.ndarray) -> np.ndarray:
        """(seeds, n, C) probabilities of the rows (n,), or values of a regression in their unit."""
        x = F.normalize(self.reader.average_features(tokens.batches(rows), len(rows))).float()
        cosine, nearest = (x @ self.features.T).topk(self.k)
        weights = (cosine / self.temperature).softmax(1)
        mean = torch.einsum("nk,nkc->nc", weights.double(), self.labels[nearest].double())
        p = mean.clamp(float(self.labels.min()), float(self.labels.max())).numpy()  # the mean may be outside by rounding
        return np.repeat(p[None], self.seeds, axis=0)


def choose_k(predictor: NeighbourPredictor, settings: NeighboursConfig, task: TrainingTask,
             validation: CropTokens) -> tuple[int, dict[str, Any]]:
    """(the k with the best score on the validation records, the result's part about the choice)."""
    metric, rows = task.metric, task.validation.rows
    tried = []
    for k in dict.fromkeys(min(k, len(predictor.features)) for k in settings.k):
        candidate = NeighbourPredictor(predictor.reader, predictor.features, predictor.labels, predictor.temperature, k, 1)
        tried.append({"k": k, metric: task.score(candidate.predict(validation, rows)[0])})
    best = max(tried, key=lambda point: point[metric])
    facts = Validations(metric, best_value=best[metric]).describe(0)
    return int(best["k"]), {**facts, "chosen": {"k": best["k"]}, "grid": tried}
