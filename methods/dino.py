"""DINO (Caron et al. 2021, arXiv 2104.14294), with multi-crop."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.encoders.vit import Encoder
from bench.method import Method, Step
from bench.parts import cosine, ema_, frozen_copy, full_precision, mlp


class DINO(Method):
    """Predict, from every other view of the record, how an EMA teacher softly assigns one view to prototypes.

    The teacher sees the first two views, which are the long ones; the student sees all views.

    hidden: width of the two hidden layers of the head (published: 2048).
    bottleneck: features that are compared with the prototypes (published: 256).
    prototypes: number of soft clusters (published: 65,536).
    momentum: the EMA's momentum in the first step; it rises to 1 along half a cosine (published: 0.996).
    student_temperature: what the student's cosines are divided by (published: 0.1).
    teacher_temperature: the teacher's temperature at the start and after the warm-up, linear in the step (published: 0.04 to
        0.07).
    warmup: share of the run that the warm-up of teacher_temperature takes (published: 30 of 300 epochs).
    centre_momentum: momentum of the running mean that is subtracted from the teacher's cosines (published: 0.9).
    """

    centre: Tensor  # (prototypes,)

    def __init__(self, encoder: Encoder, *, hidden: int, bottleneck: int, prototypes: int, momentum: float,
                 student_temperature: float, teacher_temperature: list[float], warmup: float, centre_momentum: float):
        super().__init__(encoder)
        self.head = Head(encoder.width, hidden, bottleneck, prototypes)
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.warmup, self.momentum, self.centre_momentum = warmup, momentum, centre_momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        start, end = self.teacher_temperature
        temperature = start + (end - start) * min(1.0, step.progress / self.warmup)
        with torch.no_grad():
            cosines = torch.stack([self.teacher_head(step.gather(self.teacher(view).mean(1))) for view in views[:2]])
            targets = F.softmax((cosines - self.centre) / temperature, dim=2)
            self.centre.lerp_(cosines.mean((0, 1)), 1 - self.centre_momentum)
        students = [F.log_softmax(self.head(step.gather(self.encoder(view).mean(1))) / self.student_temperature, dim=1)
                    for view in views]
        pairs = [-(t * s).sum(1).mean() for i, t in enumerate(targets) for j, s in enumerate(students) if i != j]
        return torch.stack(pairs).mean(), {
            "teacher_entropy": torch.special.entr(targets).sum(2).mean(),
            "momentum": torch.tensor(cosine(self.momentum, 1.0, step.progress))}

    def after_step(self, step: Step) -> None:
        momentum = cosine(self.momentum, 1.0, step.progress)
        ema_(self.teacher, self.encoder, momentum)
        ema_(self.teacher_head, self.head, momentum)

    def backbone(self) -> Encoder:
        return self.teacher


class Head(nn.Module):
    """Cosines (B, prototypes) of the bottleneck of h (B, D) with each prototype; h must hold the whole batch.

    The published head ends in a normalised bottleneck and a weight-normalised layer whose gains stay 1: the same function.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = mlp(width, hidden, hidden, bottleneck)
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        z = F.normalize(self.mlp(h).float(), dim=1)
        with full_precision(z):
            return z @ F.normalize(self.prototypes.weight, dim=1).T
