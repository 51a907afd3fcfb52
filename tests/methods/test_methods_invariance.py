"""MoCo v3, BYOL, VICReg, Barlow Twins, DINO and CMSC, each against a loop over its paper's equation."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import configs
import pytest
import torch
from test_methods import BATCH, make, now
from torch import Tensor, nn

from bench.data import views
from bench.method import Method
from bench.parts import info_nce
from methods.barlow import standardised
from methods.cmsc import contrast
from methods.moco import normalised
from methods.vicreg import covariance, variance

FAMILY = ["moco", "byol", "vicreg", "barlow", "dino", "cmsc"]
COPIES = {  # EMA copy -> what it follows
    "moco": {"key_encoder": "encoder", "key_projector": "projector"},
    "byol": {"target_encoder": "encoder", "target_projector": "projector"},
    "dino": {"teacher": "encoder", "teacher_head": "head"},
}


def apart(built: Method) -> Method:
    """The method with its EMA copies a little away from what they follow, as after some steps."""
    torch.manual_seed(3)
    with torch.no_grad():
        for copied in COPIES.get(built.__class__.__name__.lower(), {}):
            for p in getattr(built, copied).parameters():
                p.add_(0.05 * torch.randn_like(p))
    return built


def loss_of(name: str, change: Callable[[list[Tensor]], list[Tensor]], order: Any = slice(None)) -> float:
    """The loss of the method on its views, changed; records and patients in the given order."""
    built, batch = make(name)
    step = now(0)
    step = replace(step, patients=step.patients[order])
    return apart(built)([view[order] for view in change(batch)], step)[0].item()


def vectors(name: str, *heads: str, encoder: str = "encoder") -> tuple[Method, list[Tensor]]:
    """The method and what these heads make of the mean token of each of its views, (B, out) float64."""
    built, batch = make(name)
    apart(built)
    return built, [through(built, view, *heads, encoder=encoder) for view in batch]


@torch.no_grad()
def through(built: Method, view: Tensor, *heads: str, encoder: str = "encoder") -> Tensor:
    h = getattr(built, encoder)(view).mean(1)
    for head in heads:
        h = getattr(built, head)(h)
    return h.double()


def cos(a: Tensor, b: Tensor) -> float:
    return ((a @ b) / (a.norm() * b.norm())).item()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# All of them


@pytest.mark.parametrize("name", FAMILY)
def test_the_order_of_the_records_does_not_matter(name: str) -> None:
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert loss_of(name, lambda v: v, order) == pytest.approx(loss_of(name, lambda v: v), rel=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_which_view_is_first_does_not_matter(name: str) -> None:
    swaps: dict[str, Callable] = {"cmsc": lambda v: [v[0].roll(500, 2)],  # its two halves
                                  "dino": lambda v: [v[1], v[0], *v[:1:-1]]}
    swapped = loss_of(name, swaps.get(name, lambda v: v[::-1]))
    assert swapped == pytest.approx(loss_of(name, lambda v: v), rel=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_pairs_of_views_of_one_record_matter(name: str) -> None:
    def shuffled(v: list[Tensor]) -> list[Tensor]:
        if name == "cmsc":
            a, b = v[0].chunk(2, 2)
            return [torch.cat([a, b.roll(2, 0)], 2)]
        return [v[0], v[1].roll(2, 0), *v[2:]]

    assert abs(loss_of(name, shuffled) - loss_of(name, lambda v: v)) > 1e-5


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constant_records_give_a_finite_loss_and_finite_gradients(name: str, value: float) -> None:
    built, batch = make(name)
    loss, scalars = built([torch.full_like(view, value) for view in batch], now(0))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(bool(p.grad.isfinite().all()) for p in built.parameters() if p.grad is not None)
    assert all(math.isfinite(v.item()) for v in scalars.values())


@pytest.mark.parametrize("name", COPIES)
def test_ema_copies_start_equal_and_move_along_half_a_cosine(name: str) -> None:
    built, _ = make(name, momentum=0.6)
    for copied, source in COPIES[name].items():
        for p, q in zip(getattr(built, copied).parameters(), getattr(built, source).parameters(), strict=True):
            assert torch.equal(p, q)
            assert not p.requires_grad
    before = {k: v.clone() for k, v in apart(built).state_dict().items()}
    built.after_step(now(1))  # 1 of 4 steps: 1 - .4 (1 + cos(pi / 4)) / 2
    share = 1 - 0.4 * (1 + math.sqrt(0.5)) / 2
    for copied, source in COPIES[name].items():
        for key, p in getattr(built, copied).named_parameters():
            expected = share * before[f"{copied}.{key}"] + (1 - share) * before[f"{source}.{key}"]
            assert torch.allclose(p, expected, atol=1e-6), key
    after = {k: v.clone() for k, v in built.state_dict().items()}
    built.after_step(now(4))  # momentum 1
    assert all(torch.equal(v, after[k]) for k, v in built.state_dict().items())


@pytest.mark.parametrize("name", COPIES)
def test_the_momentum_of_the_next_move_is_logged(name: str) -> None:
    built, batch = make(name, momentum=0.5)
    logged = [built(batch, now(i))[1]["momentum"].item() for i in (0, 2, 4)]
    assert logged == pytest.approx([0.5, 0.75, 1.0])


@pytest.mark.parametrize(("name", "part"), [("moco", "encoder"), ("byol", "encoder"), ("vicreg", "encoder"),
                                            ("barlow", "encoder"), ("dino", "teacher"), ("cmsc", "encoder")])
def test_what_is_evaluated_is_what_the_paper_evaluates(name: str, part: str) -> None:
    built, _ = make(name)
    assert built.backbone() is getattr(built, part)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("rate_hz", "patch"), [(500, 25), (100, 10)])
def test_views_divide_into_patches_at_both_rates(name: str, rate_hz: int, patch: int) -> None:
    made = configs.load(name)
    views.check(made["views"], rate_hz, made["data"]["crop_seconds"], patch)


# MoCo v3


def test_moco_is_the_loop_of_its_algorithm() -> None:
    """Algorithm 1: 2 t (CE(q1 k2 / t) + CE(q2 k1 / t)), the keys those of the batch."""
    built, q = vectors("moco", "projector", "predictor")
    _, k = vectors("moco", "key_projector", encoder="key_encoder")
    t, total = 0.2, 0.0
    for queries, keys in ((q[0], k[1]), (q[1], k[0])):
        for i in range(BATCH):
            similar = [math.exp(cos(queries[i], keys[j]) / t) for j in range(BATCH)]
            total -= 2 * t * math.log(similar[i] / sum(similar)) / BATCH
    _, batch = make("moco")
    assert built(batch, now(0))[0].item() == pytest.approx(total, rel=1e-5)


def test_mocos_heads_are_three_and_two_layers_that_all_end_in_batch_norm() -> None:
    built, _ = make("moco")
    for head, layers in (("projector", 3), ("predictor", 2)):
        parts = list(getattr(built, head))
        assert [isinstance(p, nn.Linear) for p in parts].count(True) == layers
        assert [isinstance(p, nn.BatchNorm1d) for p in parts].count(True) == layers
    last = normalised(nn.Sequential(nn.Linear(5, 3)), 3)
    z = last(7 + 3 * torch.randn(400, 5))
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(z.std(0), torch.ones(3), atol=1e-2)
    assert list(last[-1].parameters()) == []


# BYOL


def test_byol_is_the_squared_distance_of_unit_vectors_in_both_directions() -> None:
    """Equation 2 of arXiv 2006.07733 and the same with the views exchanged."""
    built, q = vectors("byol", "projector", "predictor")
    _, z = vectors("byol", "target_projector", encoder="target_encoder")
    total = 0.0
    for a, b in ((q[0], z[1]), (q[1], z[0])):
        for i in range(BATCH):
            total += sum((x / a[i].norm() - y / b[i].norm()).item() ** 2 for x, y in zip(a[i], b[i], strict=True)) / BATCH
    _, batch = make("byol")
    assert built(batch, now(0))[0].item() == pytest.approx(total, rel=1e-5)


# VICReg


def test_vicreg_is_the_loop_of_its_equations() -> None:
    """Equations 1-6 of arXiv 2105.04906, with the mean over the features in the invariance of algorithm 1."""
    built, (a, b) = vectors("vicreg", "projector")
    d = a.shape[1]
    total = 25 * sum((a[i, k] - b[i, k]).item() ** 2 for i in range(BATCH) for k in range(d)) / (BATCH * d)
    for z in (a, b):
        mean = [sum(z[i, k].item() for i in range(BATCH)) / BATCH for k in range(d)]
        c = [[sum((z[i, k].item() - mean[k]) * (z[i, m].item() - mean[m]) for i in range(BATCH)) / (BATCH - 1)
              for m in range(d)] for k in range(d)]
        total += 25 * sum(max(0.0, 1 - math.sqrt(c[k][k] + 1e-4)) for k in range(d)) / d
        total += sum(c[k][m] ** 2 for k in range(d) for m in range(d) if k != m) / d
    _, batch = make("vicreg")
    assert built(batch, now(0))[0].item() == pytest.approx(total, rel=1e-5)


def test_vicregs_variance_asks_for_an_sd_of_one_and_no_more() -> None:
    assert variance(torch.zeros(8, 3)).item() == pytest.approx(1 - 0.01)
    z = normal(400, 3)
    z = (z - z.mean(0)) / z.std(0)
    assert variance(0.5 * z).item() == pytest.approx(0.5, abs=1e-3)
    assert variance(2 * z).item() == 0


def test_vicregs_covariance_is_that_of_different_features_alone() -> None:
    z, _ = torch.linalg.qr(normal(64, 4) - normal(64, 4).mean(0))
    z = (z - z.mean(0)) * 8
    assert covariance(torch.cat([z[:, :1], z[:, :1] * 0], 1)).item() == pytest.approx(0, abs=1e-9)
    doubled = covariance(torch.cat([z[:, :1], z[:, :1]], 1)).item()
    assert doubled == pytest.approx(z[:, 0].var().item() ** 2)


# Barlow Twins


def test_barlow_is_the_loop_of_its_equations() -> None:
    """Equations 1 and 2 of arXiv 2103.03230."""
    built, (a, b) = vectors("barlow", "projector")
    d = a.shape[1]
    a, b = ((z - z.mean(0)) / (((z - z.mean(0)) ** 2).mean(0) + 1e-5).sqrt() for z in (a, b))
    total = 0.0
    for k in range(d):
        for m in range(d):
            c = sum((a[i, k] * b[i, m]).item() for i in range(BATCH)) / BATCH
            total += (1 - c) ** 2 if k == m else 0.0051 * c ** 2
    _, batch = make("barlow")
    assert built(batch, now(0))[0].item() == pytest.approx(total, rel=1e-5)


def test_barlows_features_have_mean_0_and_sd_1_whatever_their_level_and_gain() -> None:
    z = normal(50, 4)
    assert torch.allclose(standardised(z).square().mean(0), torch.ones(4, dtype=z.dtype), atol=1e-4)
    assert torch.allclose(standardised(3 * z + 7), standardised(z), atol=1e-4)


# DINO


def naive_dino(built: Method, batch: list[Tensor], centre: Tensor, temperature: float) -> float:
    """Algorithm 1 of arXiv 2104.14294 with multi-crop (its equation 3): pairs of a global and any other view."""
    students = [through(built, view, "head") for view in batch]
    teachers = [through(built, view, "teacher_head", encoder="teacher") for view in batch[:2]]
    total, pairs = 0.0, 0
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            if i == j:
                continue
            pairs += 1
            for t, s in zip(teacher, student, strict=True):
                target = ((t - centre) / temperature).exp()
                target = target / target.sum()
                guess = (s / 0.1).exp()
                total -= sum(p.item() * math.log((g / guess.sum()).item()) for p, g in zip(target, guess, strict=True))
    return total / (pairs * BATCH)


def test_dino_is_the_loop_over_pairs_of_different_views() -> None:
    built, batch = make("dino")
    apart(built)
    torch.manual_seed(4)
    built.centre += 0.02 * torch.randn_like(built.centre)
    expected = naive_dino(built, batch, built.centre.double(), 0.04)
    assert len(batch) == 6
    assert built(batch, now(0))[0].item() == pytest.approx(expected, rel=1e-4)


def test_dinos_teacher_sees_global_views_alone_and_the_student_all(monkeypatch: pytest.MonkeyPatch) -> None:
    built, batch = make("dino")
    seen: dict[str, list[int]] = {"teacher": [], "encoder": []}
    for part, lengths in seen.items():
        module = getattr(built, part)
        monkeypatch.setattr(module, "forward", lambda x, f=module.forward, to=lengths: to.append(x.shape[2]) or f(x))
    built(batch, now(0))
    assert seen == {"teacher": [250, 250], "encoder": [250, 250, 100, 100, 100, 100]}


def test_dinos_centre_follows_the_teachers_mean() -> None:
    built, batch = make("dino")
    apart(built)
    mean = torch.cat([through(built, view, "teacher_head", encoder="teacher") for view in batch[:2]]).mean(0).float()
    built(batch, now(0))
    assert torch.allclose(built.centre, 0.1 * mean, atol=1e-6)
    built(batch, now(0))
    assert torch.allclose(built.centre, 0.19 * mean, atol=1e-6)


@pytest.mark.parametrize(("index", "temperature"), [(0, 0.04), (5, 0.055), (10, 0.07), (60, 0.07)])
def test_dinos_teacher_is_sharp_first_and_softer_after_the_warm_up(index: int, temperature: float) -> None:
    built, batch = make("dino")
    apart(built)
    expected = naive_dino(built, batch, built.centre.double(), temperature)
    assert built(batch, now(index, 100))[0].item() == pytest.approx(expected, rel=1e-4)


def test_dinos_last_layer_is_blind_to_the_length_of_its_prototypes() -> None:
    built, _ = make("dino")
    h = torch.randn(BATCH, 16)
    before = built.head(h)
    with torch.no_grad():
        built.head.prototypes.weight.mul_(torch.linspace(0.1, 9, 32)[:, None])
    assert torch.allclose(built.head(h), before, atol=1e-6)
    assert before.abs().max() <= 1


# CMSC


def naive_cmsc(a: Tensor, b: Tensor, patients: list[int], t: float) -> float:
    """Equations 1-3 of arXiv 2005.13249: terms of the diagonal and of other pairs of a patient, in both directions."""
    n = len(a)

    def term(x: Tensor, y: Tensor, i: int, j: int) -> float:
        return -math.log(math.exp(cos(x[i], y[j]) / t) / sum(math.exp(cos(x[i], y[k]) / t) for k in range(n)))

    same = [term(x, y, i, i) for x, y in ((a, b), (b, a)) for i in range(n)]
    other = [term(x, y, i, j) for x, y in ((a, b), (b, a)) for i in range(n) for j in range(n)
             if i != j and patients[i] == patients[j]]
    means = [sum(terms) / len(terms) for terms in (same, other) if terms]
    return sum(means) / len(means)


@pytest.mark.parametrize("patients", [[0, 0, 1, 1, 2, 2], [7, -3, 7, 7, 5, -3], [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]])
def test_cmsc_is_the_loop_over_pairs_of_a_patient(patients: list[int]) -> None:
    a, b = normal(BATCH, 8), normal(BATCH, 8, seed=1)
    assert contrast(a, b, torch.tensor(patients), 0.1).item() == pytest.approx(naive_cmsc(a, b, patients, 0.1))


def test_cmsc_of_different_patients_is_symmetric_info_nce_of_adjacent_halves() -> None:
    built, (x,) = make("cmsc")
    a, b = (through(built, half) for half in (x[..., :500], x[..., 500:]))
    expected = (info_nce(a, b, 0.1) + info_nce(b, a, 0.1)) / 2
    step = replace(now(0), patients=torch.tensor([4, 9, -2, 0, 3, 1]))
    assert built([x], step)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cmsc_pulls_the_records_of_a_patient_together() -> None:
    a, b = normal(BATCH, 8), normal(BATCH, 8, seed=1)
    a.requires_grad_()

    def pull(patients: list[int]) -> float:
        """How much nearer a step brings a_0 to b_1."""
        (gradient,) = torch.autograd.grad(contrast(a, b, torch.tensor(patients), 0.1), a)
        return -(gradient[0] @ b[1] / b[1].norm()).item()

    assert pull([0, 0, 1, 2, 3, 4]) > max(0.0, pull([0, 1, 2, 3, 4, 5]))
