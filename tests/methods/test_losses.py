"""Each loss against a loop written from the equations of its paper, and JEPA's against the published implementation."""

import cmath
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import BATCH, TRAINED, adamw, make, record_calls, step, train
from torch import Tensor

import methods.data2vec
import methods.jepa
from bench.backbones import import_published as published
from bench.encoders import vit
from bench.method import Method, step_at
from bench.parts import MaskedDecoder
from methods.cmsc import contrast
from methods.jepa import JEPA
from methods.st_mem import LeadWiseDecoder

GATHERED = ["simclr", "lejepa", "moco", "byol", "vicreg", "barlow", "dino", "cmsc"]


def normalise(patch: Tensor) -> Tensor:
    mean = patch.mean()
    return (patch - mean) / (((patch - mean) ** 2).sum() / (len(patch) - 1) + 1e-6).sqrt()


def cos(a: Tensor, b: Tensor) -> float:
    return ((a @ b) / (a.norm() * b.norm())).item()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def embed(built: Method, view: Tensor, *heads: str, encoder: str = "encoder") -> Tensor:
    """What these heads give for the mean token of a view, (B, out) float64."""
    h = getattr(built, encoder)(view).mean(1)
    for head in heads:
        h = getattr(built, head)(h)
    return h.double()


def move(built: Method, *parts: str) -> None:
    """Move these parts a little, as after some steps."""
    torch.manual_seed(3)
    with torch.no_grad():
        for part in parts:
            for p in getattr(built, part).parameters():
                p.add_(0.05 * torch.randn_like(p))


def rows(built: Method, batch: list[Tensor], own: slice, **changes: Any) -> Tensor:
    """The loss in a process that has these rows of the batch."""
    now = step_at(0, 0, 4, torch.device("cpu"), BATCH, rows=own)
    return built([view[own] for view in batch], dataclasses.replace(now, **changes))[0]


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in GATHERED and name != "mine"])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(name: str) -> None:
    built, batch = make(name)
    whole, a, b = (rows(built, batch, own) for own in (slice(0, 6), slice(0, 2), slice(2, 6)))
    assert (2 * a + 4 * b).item() / 6 == pytest.approx(whole.item(), rel=1e-5)


def test_every_process_computes_the_loss_of_the_whole_batch() -> None:
    built, batch = make("lejepa", hidden=32)
    whole = built(batch, step(0))[0].item()
    for own in (slice(0, 3), slice(3, 6)):
        queue = [built.encoder(view).mean(1) for view in batch]
        assert rows(built, batch, own, gather=lambda h, q=queue: q.pop(0)).item() == pytest.approx(whole, rel=1e-5)


# Contrast and agreement of two views


def naive_simclr() -> Iterator[tuple[float, float]]:
    """Equation 1 of arXiv 2002.05709: mean over both directions of -log(exp(s_ij / t) / sum_k!=i exp(s_ik / t))."""
    built, batch = make("simclr", temperature=0.2)
    with torch.no_grad():  # batch norm over both views at once
        z = built.projector(torch.cat([built.encoder(view).mean(1) for view in batch])).double()
    n, total = BATCH, 0.0
    for i in range(2 * n):
        similar = [math.exp(cos(z[i], z[k]) / 0.2) for k in range(2 * n)]
        total -= math.log(similar[(i + n) % (2 * n)] / sum(similar[k] for k in range(2 * n) if k != i))
    loss, scalars = built(batch, step(0))
    yield loss.item(), total / (2 * n)
    yield scalars["alignment"].item(), F.cosine_similarity(z[:n], z[n:]).mean().item()


def naive_moco() -> Iterator[tuple[float, float]]:
    """Algorithm 1 of arXiv 2104.02057: 2 t (CE(q1 k2 / t) + CE(q2 k1 / t)), the keys those of the batch."""
    built, batch = make("moco")
    move(built, "key_encoder", "key_projector")
    q = [embed(built, view, "projector", "predictor") for view in batch]
    k = [embed(built, view, "key_projector", encoder="key_encoder") for view in batch]
    total = 0.0
    for queries, keys in ((q[0], k[1]), (q[1], k[0])):
        for i in range(BATCH):
            similar = [math.exp(cos(queries[i], keys[j]) / 0.2) for j in range(BATCH)]
            total -= 2 * 0.2 * math.log(similar[i] / sum(similar)) / BATCH
    yield built(batch, step(0))[0].item(), total


def naive_byol() -> Iterator[tuple[float, float]]:
    """Equation 2 of arXiv 2006.07733 and the same with the views exchanged."""
    built, batch = make("byol")
    move(built, "target_encoder", "target_projector")
    q = [embed(built, view, "projector", "predictor") for view in batch]
    z = [embed(built, view, "target_projector", encoder="target_encoder") for view in batch]
    pairs = ((q[0], z[1]), (q[1], z[0]))
    yield built(batch, step(0))[0].item(), sum(
        ((a[i] / a[i].norm() - b[i] / b[i].norm()) ** 2).sum().item() / BATCH for a, b in pairs for i in range(BATCH))


def naive_vicreg() -> Iterator[tuple[float, float]]:
    """Equations 1-6 of arXiv 2105.04906, with the mean over the features in the invariance of algorithm 1."""
    built, batch = make("vicreg")
    a, b = (embed(built, view, "projector") for view in batch)
    d = a.shape[1]
    total = 25 * sum((a[i, k] - b[i, k]).item() ** 2 for i in range(BATCH) for k in range(d)) / (BATCH * d)
    for z in (a, b):
        mean = [sum(z[i, k].item() for i in range(BATCH)) / BATCH for k in range(d)]
        c = [[sum((z[i, k].item() - mean[k]) * (z[i, m].item() - mean[m]) for i in range(BATCH)) / (BATCH - 1)
              for m in range(d)] for k in range(d)]
        total += 25 * sum(max(0.0, 1 - math.sqrt(c[k][k] + 1e-4)) for k in range(d)) / d
        total += sum(c[k][m] ** 2 for k in range(d) for m in range(d) if k != m) / d
    yield built(batch, step(0))[0].item(), total


def naive_barlow() -> Iterator[tuple[float, float]]:
    """Equations 1 and 2 of arXiv 2103.03230."""
    built, batch = make("barlow")
    a, b = (embed(built, view, "projector") for view in batch)
    a, b = ((z - z.mean(0)) / (((z - z.mean(0)) ** 2).mean(0) + 1e-5).sqrt() for z in (a, b))
    total = 0.0
    for k in range(a.shape[1]):
        for m in range(a.shape[1]):
            c = sum((a[i, k] * b[i, m]).item() for i in range(BATCH)) / BATCH
            total += (1 - c) ** 2 if k == m else 0.0051 * c ** 2
    yield built(batch, step(0))[0].item(), total


@pytest.mark.parametrize("naive", [naive_simclr, naive_moco, naive_byol, naive_vicreg, naive_barlow])
def test_a_loss_of_two_views_is_the_loop_of_its_equations(naive: Any) -> None:
    for value, expected in naive():
        assert value == pytest.approx(expected, rel=1e-5)


# DINO


def naive_dino(built: Method, batch: list[Tensor], centre: Tensor, temperature: float) -> float:
    """Algorithm 1 of arXiv 2104.14294 with multi-crop (its equation 3): pairs of a global and any other view."""
    students = [embed(built, view, "head") for view in batch]
    teachers = [embed(built, view, "teacher_head", encoder="teacher") for view in batch[:2]]
    losses = []
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            for t, s in zip(teacher, student, strict=True):
                target, guess = ((t - centre) / temperature).exp(), (s / 0.1).exp()
                losses += [-(target / target.sum() * (guess / guess.sum()).log()).sum().item()] * (i != j)
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("index", "temperature"), [(0, 0.04), (5, 0.055), (10, 0.07), (60, 0.07)])
def test_dino_is_the_loop_over_pairs_of_views_with_a_teacher_that_softens_and_a_centre_that_follows(index, temperature) -> None:
    built, batch = make("dino")
    move(built, "teacher", "teacher_head")
    built.centre += 0.02 * torch.randn(built.centre.shape, generator=torch.Generator().manual_seed(4))
    before = built.centre.clone()
    expected = naive_dino(built, batch, before.double(), temperature)
    mean = torch.cat([embed(built, view, "teacher_head", encoder="teacher") for view in batch[:2]]).mean(0).float()
    assert len(batch) == 6 and [view.shape[2] for view in batch] == [250, 250, 100, 100, 100, 100]
    assert built(batch, step(index, 100))[0].item() == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(built.centre, 0.9 * before + 0.1 * mean, atol=1e-6)


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


# Reconstruction of samples


@pytest.mark.parametrize(("name", "tokens"), [("mae", 40), ("mlae", 480), ("st_mem", 480)])
def test_a_masked_autoencoder_is_the_loop_over_its_hidden_patches(name, tokens, monkeypatch) -> None:
    built, (x,) = make(name)
    masks = record_calls(monkeypatch, built, "draw_mask")
    loss = built([x], step(0))[0].item()
    [(visible, hidden)] = masks
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(tokens).expand(BATCH, -1))
    assert visible.shape == (BATCH, tokens // 4)
    with torch.no_grad():
        predicted = built.decoder(built.encoder(x, visible), visible, hidden)
    errors = []
    for b in range(BATCH):
        for m, place in enumerate(hidden[b].tolist()):
            lead, time = (slice(None), place) if name == "mae" else divmod(place, 40)
            target = normalise(x[b, lead, time * 25: (time + 1) * 25].double().flatten())  # lead after lead
            errors.append(((predicted[b, m] - target) ** 2).mean().item())
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    leads = visible // 40
    if name == "st_mem":  # 10 patches of every lead, at other times in each
        assert torch.equal(leads, torch.arange(12).repeat_interleave(10).expand(BATCH, -1))
        assert len({tuple(sorted(t)) for t in (visible % 40).view(-1, 10).tolist()}) == BATCH * 12
    if name == "mlae":  # three whole leads, others in each record
        assert all(len(set(row)) == 3 for row in leads.tolist())
        assert len({tuple(sorted(set(row))) for row in leads.tolist()}) > 1


def test_st_mem_decodes_each_lead_from_its_own_tokens_with_the_plain_decoder() -> None:
    built, _ = make("st_mem")
    assert isinstance(built.decoder, LeadWiseDecoder) and "decoder.lead" not in built.state_dict()
    visible, hidden = built.draw_mask(480, step(0))
    tokens = torch.randn(BATCH, 120, 16)
    with torch.no_grad():
        predicted = built.decoder(tokens, visible, hidden)
        for lead in range(12):
            own, rest = slice(10 * lead, 10 * lead + 10), slice(30 * lead, 30 * lead + 30)
            alone = MaskedDecoder.forward(built.decoder, tokens[:, own], visible[:, own] % 40, hidden[:, rest] % 40)
            assert (predicted[:, rest] - alone).abs().max() < 1e-5


# Prediction of tokens: JEPA and data2vec


def test_jepa_loss_is_that_of_the_published_implementation(shared: Path) -> None:
    io = np.load(shared / "golden" / "reference_a_io.npz")
    given = published.read_published(shared / "golden" / "reference_a_pretrain.pt")
    size = {"width": given.config.pred_dim, "depth": given.config.pred_depth, "heads": given.config.pred_num_heads}
    built = JEPA(vit.build(given.config.encoder()), keep=[0.2, 0.3], block=3, momentum=[0.998, 0.9995],
                 predictor=size)
    for part in ("encoder", "target_encoder", "predictor"):
        getattr(built, part).load_state_dict(given.weights[part])
    x, keep, predict = (torch.from_numpy(io[k]) for k in ("x", "keep", "predict"))
    assert abs(built.loss(x, keep, predict).item() - io["loss"].item()) < 1e-6
    assert io["loss"].item() > 0.1


def naive_target(built: Method, x: Tensor, top: int) -> Tensor:
    """Mean over the teacher's last `top` blocks of what the MLP adds: each feature less its mean over the tokens, over its sd."""
    added: list[Tensor] = []
    hooks = [block.fc2.register_forward_hook(lambda _m, _i, out: added.append(out.double())) for block in built.teacher.blocks]
    with torch.no_grad():
        built.teacher(x)
    for hook in hooks:
        hook.remove()
    h = torch.stack(added[-top:])[:, :, 1:]  # a register comes first
    centred = h - h.mean(2, keepdim=True)
    return (centred / ((centred**2).mean(2, keepdim=True) + 1e-5).sqrt()).mean(0)


@pytest.mark.parametrize(("name", "top", "blocks"), [
    ("jepa", None, 0), *(("data2vec", *top) for top in ((1.0, 2), (0.5, 1), (0.667, 1), (0.1, 1)))])
def test_a_prediction_of_tokens_is_the_mean_error_at_hidden_places(name, top, blocks, monkeypatch) -> None:
    built, (x,) = make(name, **({"top": top} if top else {}))
    train(built, [x], adamw(built), [0])  # the teacher differs from the student
    masks = record_calls(monkeypatch, methods.jepa if name == "jepa" else methods.data2vec, "draw_block_mask")
    loss = built([x], step(0))[0].item()
    [(visible, hidden)] = masks
    with torch.no_grad():
        target = built.target_encoder(x) if name == "jepa" else naive_target(built, x, blocks)
        decoder = built.predictor if name == "jepa" else built.decoder
        predicted = decoder(built.encoder(x, visible), visible, hidden)
    power = 1 if name == "jepa" else 2
    errors = [((predicted[b, m] - target[b, place]).abs() ** power).mean().item()
              for b in range(BATCH) for m, place in enumerate(hidden[b].tolist())]
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_one_number_of_visible_patches_per_batch_is_uniform_in_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("jepa")
    masks = record_calls(monkeypatch, methods.jepa, "draw_block_mask")
    monkeypatch.setattr(built, "loss", lambda x, visible, hidden: visible.shape[1])
    lengths = [built([x], step(i, 300))[0] for i in range(300)]
    assert set(lengths) == {math.ceil(40 * u) for u in (0.1501, 0.18, 0.2, 0.2249, 0.2499)} == {7, 8, 9, 10}
    assert all(abs(lengths.count(k) - 75) < 40 for k in set(lengths)) and len(masks) == 300


# LeJEPA


def naive_statistic(x: list[float], points: int = 2001) -> float:
    """B times the integral over [-3, 3] of |phi_B(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), by rectangles."""
    total, width = 0.0, 6 / points
    for i in range(points):
        t = -3 + (i + 0.5) * width
        empirical = sum(cmath.exp(1j * t * v) for v in x) / len(x)
        total += abs(empirical - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2) * width
    return len(x) * total


def test_lejepa_is_invariance_and_the_mean_statistic_of_random_slices() -> None:
    built, batch = make("lejepa", slices=3, knots=301, weight=0.3, hidden=32)
    loss, scalars = built(batch, step(1))
    with torch.no_grad():
        z = built.projector(torch.cat([built.encoder(view).mean(1) for view in batch])).double().view(2, BATCH, -1)
    directions = torch.randn(z.shape[2], built.slices, generator=step(1).rng.generator).double()
    invariance = sum(((z[v, b] - (z[0, b] + z[1, b]) / 2) ** 2).mean().item() for v in (0, 1) for b in range(BATCH)) / (2 * BATCH)
    statistics = [naive_statistic((z[v] @ directions[:, s] / directions[:, s].norm()).tolist(), 301)
                  for v in (0, 1) for s in range(built.slices)]
    sigreg = sum(statistics) / len(statistics)
    assert scalars["invariance"].item() == pytest.approx(invariance, rel=1e-4)
    assert scalars["sigreg"].item() == pytest.approx(sigreg, rel=1e-3)
    assert loss.item() == pytest.approx(0.7 * invariance + 0.3 * sigreg, rel=1e-3)


# CPC


def naive_cpc(built: Method, x: Tensor, past: int, other: Tensor) -> float:
    """Mean over records and steps of -log(exp(z_p W c) / sum over p and the negatives)."""
    losses = []
    with torch.no_grad():
        for b in range(len(x)):
            c = built.encoder(x[b: b + 1, :, : past * 25])[0, -1].double()  # the encoder gets nothing but the past
            z = [built.encoder.embed.weight.double() @ x[b, :, t * 25: (t + 1) * 25].flatten().double() for t in range(40)]
            for k in range(built.ahead):
                w = built.predictor.weight.double()[16 * k: 16 * (k + 1)]
                places = [past + k, *(p + (p >= past + k) for p in other[b, k].tolist())]
                scores = [math.exp((z[p] @ w @ c).item()) for p in places]
                losses.append(-math.log(scores[0] / sum(scores)))
    return sum(losses) / len(losses)


def test_cpc_is_the_loop_over_records_and_steps_of_its_equation_and_its_context_sees_the_past_alone() -> None:
    built, (x,) = make("cpc", ahead=3, negatives=5)
    for index in range(3):
        now = step(index)
        past = 2 + int(now.uniform(0, 36))
        other = (now.rng.rand(3, 5) * 39).long()
        assert built([x], step(index))[0].item() == pytest.approx(naive_cpc(built, x, past, other), rel=1e-4)
