"""Reconstruction, prediction in latent space and CPC: each loss against a loop written from its equation."""

import cmath
import dataclasses
import math
from typing import Any

import configs
import pytest
import torch
from test_methods import BATCH, adamw, encoder, make, now, train
from torch import Tensor

from bench.core.errors import UserError
from bench.data import views
from bench.method import Method, build, step_at
from bench.parts import MaskedDecoder
from methods.lejepa import epps_pulley
from methods.st_mem import LeadWise

MINE = ["st_mem", "mtae", "mlae", "data2vec", "lejepa", "cpc"]
GATHERED = ["lejepa"]  # the others' losses are plain means over records


def rows(built: Method, batch: list[Tensor], own: slice, **step: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """What a process that has these rows of the batch computes."""
    shared = step_at(0, 0, 4, torch.device("cpu"), BATCH, own)
    return built([view[own] for view in batch], dataclasses.replace(shared, **step))


def masks_of(built: Method, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What split gives, as it is called."""
    drawn, split = [], built.split
    monkeypatch.setattr(built, "split", lambda *a: drawn.append(split(*a)) or drawn[-1])
    return drawn


def normalised(patch: Tensor) -> Tensor:
    mean = patch.mean()
    return (patch - mean) / (((patch - mean) ** 2).sum() / (len(patch) - 1) + 1e-6).sqrt()


@pytest.mark.parametrize("name", [m for m in MINE if m not in GATHERED])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(name: str) -> None:
    built, batch = make(name)
    whole, a, b = (rows(built, batch, own)[0] for own in (slice(0, 6), slice(0, 2), slice(2, 6)))
    assert (2 * a + 4 * b).item() / 6 == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("name", MINE)
def test_constant_leads_give_finite_loss_and_gradients(name: str) -> None:
    built, batch = make(name)
    loss, _ = built([torch.zeros_like(view) for view in batch], now(0))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "given", "needed"), [
    ("st_mem", "time", "lead-time"), ("mlae", "time", "lead-time"), ("cpc", "lead-time", "time")])
def test_a_method_refuses_tokens_that_it_is_not_made_for(name: str, given: str, needed: str) -> None:
    with pytest.raises(UserError, match=f"needs encoder.tokens {needed}, got {given}"):
        build(configs.load(name)["method"], encoder(tokens=given))


@pytest.mark.parametrize("name", ["st_mem", "mlae", "mtae"])
@pytest.mark.parametrize("rate_hz", [500, 100])
def test_a_patch_of_250_ms_divides_a_view_and_the_crops_of_the_evaluation(name: str, rate_hz: int) -> None:
    made = configs.load(name)
    patch = made["encoder"]["patch"] * rate_hz // made["data"]["rate_hz"]
    assert patch == rate_hz / 4
    views.check(made["views"], rate_hz, made["data"]["crop_seconds"], patch)
    assert round(2.5 * rate_hz) % patch == 0


# ST-MEM and its ablations


def test_st_mem_is_the_loop_over_the_hidden_patches_of_each_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("st_mem")
    drawn, patch, n = masks_of(built, monkeypatch), 25, 40
    loss = built([x], now(0))[0].item()
    keep, hidden = drawn[0]
    with torch.no_grad():
        tokens = built.encoder(x, keep)
    errors = []
    for b in range(BATCH):
        for lead in range(12):
            seen = [i for i, place in enumerate(keep[b].tolist()) if place // n == lead]
            away = [place for place in hidden[b].tolist() if place // n == lead]
            times = torch.tensor([[keep[b, i] % n for i in seen]]), torch.tensor([[place % n for place in away]])
            with torch.no_grad():  # this lead alone, by the plain decoder
                predicted = MaskedDecoder.forward(built.decoder, tokens[b: b + 1, seen], *times)[0]
            for m, place in enumerate(times[1][0].tolist()):
                target = normalised(x[b, lead, place * patch: (place + 1) * patch].double())
                errors.append(((predicted[m] - target) ** 2).mean().item())
    assert len(errors) == BATCH * 12 * 30
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_st_mem_keeps_as_many_patches_of_every_lead_at_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("st_mem")
    drawn = masks_of(built, monkeypatch)
    built([x], now(0))
    keep, hidden = drawn[0]
    assert torch.equal(torch.cat([keep, hidden], 1).sort(1).values, torch.arange(480).expand(BATCH, -1))
    assert torch.equal(keep // 40, torch.arange(12).repeat_interleave(10).expand(BATCH, -1))
    assert torch.equal(hidden // 40, torch.arange(12).repeat_interleave(30).expand(BATCH, -1))
    assert len({tuple(sorted(t)) for t in (keep % 40).view(-1, 10).tolist()}) == BATCH * 12


def test_a_lead_is_decoded_from_its_own_tokens_alone() -> None:
    built, _ = make("st_mem")
    keep, hidden = built.split(480, now(0))
    tokens = torch.randn(BATCH, 120, 16)
    other = tokens.clone()
    other[:, 30:40] += 1  # of lead 3
    assert isinstance(built.decoder, LeadWise)
    with torch.no_grad():
        changed = (built.decoder(tokens, keep, hidden) != built.decoder(other, keep, hidden)).any(2)
    assert torch.equal(changed, (torch.arange(360) // 30 == 3).expand(BATCH, -1))


def test_the_lead_wise_decoder_tells_leads_apart_by_their_tokens_alone() -> None:
    built, _ = make("st_mem")
    assert "decoder.lead" not in built.state_dict()
    assert built.encoder.lead.shape == (12, 16)


def test_mlae_hides_nine_whole_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("mlae")
    drawn = masks_of(built, monkeypatch)
    loss = built([x], now(0))[0].item()
    keep, hidden = drawn[0]
    assert torch.equal(torch.cat([keep, hidden], 1).sort(1).values, torch.arange(480).expand(BATCH, -1))
    seen = [sorted(set(leads)) for leads in (keep // 40).tolist()]
    assert all(len(leads) == 3 for leads in seen)
    assert keep.shape == (BATCH, 120)
    assert len(set(map(tuple, seen))) > 1  # records differ
    with torch.no_grad():
        predicted = built.decoder(built.encoder(x, keep), keep, hidden)
    errors = [((predicted[b, m] - normalised(x[b, place // 40, place % 40 * 25: (place % 40 + 1) * 25])) ** 2).mean().item()
              for b in range(BATCH) for m, place in enumerate(hidden[b].tolist())]
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_mtae_is_mae_with_longer_patches() -> None:
    mae, mtae = make("mae")[0], make("mtae")[0]
    x = make("mae")[1]
    assert mae(x, now(0))[0].item() == mtae(x, now(0))[0].item()
    longer = configs.load("mtae")["encoder"]["patch"]
    assert (longer, configs.load("mae")["encoder"]["patch"]) == (125, 25)
    assert configs.load("mtae")["method"] == {**configs.load("mae")["method"], "name": "mtae"}


# data2vec


def naive_target(built: Method, x: Tensor, top: int) -> Tensor:
    """Mean over the teacher's last `top` blocks of what the MLP adds: each feature less its mean over the tokens, over its sd."""
    seen: list[Tensor] = []
    hooks = [block.fc2.register_forward_hook(lambda _m, _i, out: seen.append(out.double())) for block in built.teacher.blocks]
    with torch.no_grad():
        built.teacher(x)
    for hook in hooks:
        hook.remove()
    total = torch.zeros(len(x), 40, 16, dtype=torch.double)
    for h in seen[-top:]:
        for b in range(len(x)):
            for d in range(16):
                feature = h[b, 1:, d]  # a register comes first
                centred = feature - feature.mean()
                total[b, :, d] += centred / ((centred**2).mean() + 1e-5).sqrt() / top
    return total


@pytest.mark.parametrize(("top", "blocks"), [(1.0, 2), (0.5, 1), (0.667, 1), (0.1, 1)])
def test_data2vecs_target_is_the_mean_of_the_teachers_normalised_top_blocks(top: float, blocks: int) -> None:
    built, (x,) = make("data2vec", top=top)
    assert (built.target(x) - naive_target(built, x, blocks)).abs().max() < 1e-5


def test_data2vec_is_the_mean_squared_distance_to_the_target_at_hidden_places(monkeypatch: pytest.MonkeyPatch) -> None:
    import methods.data2vec

    built, (x,) = make("data2vec", top=1.0)
    train(built, [x], adamw(built), [0])  # teacher and student apart
    drawn, split = [], methods.data2vec.block_split
    monkeypatch.setattr(methods.data2vec, "block_split", lambda *a: drawn.append(split(*a)) or drawn[-1])
    loss, scalars = built([x], now(0))
    keep, hidden = drawn[0]
    target = naive_target(built, x, 2)
    with torch.no_grad():
        predicted = built.decoder(built.encoder(x, keep), keep, hidden)
    errors = [((predicted[b, m] - target[b, place]) ** 2).mean().item()
              for b in range(BATCH) for m, place in enumerate(hidden[b].tolist())]
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert scalars["target_sd"].item() == pytest.approx(target.std(1).mean().item(), rel=1e-4)
    assert 40 - keep.shape[1] == hidden.shape[1] == len(errors) / BATCH


def test_data2vecs_teacher_moves_by_a_momentum_that_rises_and_then_stays() -> None:
    built, batch = make("data2vec", momentum=[0.6, 1.0], ramp=0.5)
    start = {k: v.clone() for k, v in built.teacher.state_dict().items()}
    loss, scalars = built(batch, now(1))
    loss.backward()
    assert scalars["momentum"].item() == pytest.approx(0.8)
    assert all(p.grad is None and not p.requires_grad for p in built.teacher.parameters())
    with torch.no_grad():
        for p in built.encoder.parameters():
            p.add_(1.0)
    built.after_step(now(1))  # half of the ramp: 0.8
    assert all(torch.allclose(v, start[k] + 0.2, atol=1e-6) for k, v in built.teacher.state_dict().items())
    assert [built.momentum_at(now(i)) for i in range(5)] == pytest.approx([0.6, 0.8, 1.0, 1.0, 1.0])
    assert built.backbone() is built.encoder


@pytest.mark.parametrize("extra", [{"top": 0.0}, {"top": 1.5}, {"ramp": 0.0}])
def test_data2vec_refuses_shares_that_are_none(extra: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"method\.top and method\.ramp are shares"):
        make("data2vec", **extra)


# LeJEPA

NULL = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)  # E of the statistic on N(0, 1), integral over all t


def naive_statistic(x: list[float], points: int = 2001) -> float:
    """B times the integral over [-3, 3] of |phi_B(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), by rectangles."""
    total, width = 0.0, 6 / points
    for i in range(points):
        t = -3 + (i + 0.5) * width
        empirical = sum(cmath.exp(1j * t * v) for v in x) / len(x)
        total += abs(empirical - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2) * width
    return len(x) * total


@pytest.mark.parametrize("kind", ["normal", "wide", "shifted", "collapsed"])
def test_the_statistic_is_the_integral_of_its_definition(kind: str) -> None:
    x = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    x = {"normal": x, "wide": 3 * x, "shifted": x + 1, "collapsed": 0 * x}[kind]
    expected = naive_statistic(x.tolist())
    assert epps_pulley(x[:, None], 17).item() == pytest.approx(expected, rel=0.02)  # the knots are 17
    assert epps_pulley(x[:, None], 1001).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("batch", [16, 256])
def test_on_normal_samples_the_statistic_has_its_null_value_whatever_their_number(batch: int) -> None:
    x = torch.randn(batch, 4000, generator=torch.Generator().manual_seed(0))
    statistic = epps_pulley(x, 17)
    assert statistic.mean().item() == pytest.approx(NULL, rel=0.04)
    for wrong in (0 * x, 3 * x, x + 1, x.sign(), 0.3 * x):
        assert epps_pulley(wrong, 17).mean().item() > 3 * NULL * batch / 256 + NULL


def test_on_collapsed_samples_the_statistic_grows_with_their_number() -> None:
    small, large = (epps_pulley(torch.zeros(batch, 1), 17).item() for batch in (10, 100))
    assert large == pytest.approx(10 * small, rel=1e-5)


def naive_lejepa(built: Method, batch: list[Tensor], index: int) -> tuple[float, float]:
    """(invariance, SIGReg) by loops over views, records and slices."""
    with torch.no_grad():
        z = built.projector(torch.cat([built.encoder(view).mean(1) for view in batch])).double().view(2, BATCH, -1)
    directions = torch.randn(z.shape[2], built.slices, generator=now(index).rng.generator).double()
    invariance = sum(((z[v, b] - (z[0, b] + z[1, b]) / 2) ** 2).mean().item() for v in (0, 1) for b in range(BATCH))
    slices = [naive_statistic((z[v] @ directions[:, s] / directions[:, s].norm()).tolist(), 301)
              for v in (0, 1) for s in range(built.slices)]
    return invariance / (2 * BATCH), sum(slices) / len(slices)


def test_lejepa_is_invariance_and_the_mean_statistic_of_random_slices() -> None:
    built, batch = make("lejepa", slices=3, knots=301, weight=0.3, hidden=32)
    loss, scalars = built(batch, now(1))
    invariance, sigreg = naive_lejepa(built, batch, 1)
    assert scalars["invariance"].item() == pytest.approx(invariance, rel=1e-4)
    assert scalars["sigreg"].item() == pytest.approx(sigreg, rel=1e-3)
    assert loss.item() == pytest.approx(0.7 * invariance + 0.3 * sigreg, rel=1e-3)


def test_lejepa_does_not_care_which_view_is_first_or_how_the_batch_is_ordered() -> None:
    built, batch = make("lejepa", hidden=32)
    loss = built(batch, now(0))[0].item()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert built(batch[::-1], now(0))[0].item() == pytest.approx(loss, rel=1e-4)
    assert built([view[order] for view in batch], now(0))[0].item() == pytest.approx(loss, rel=1e-4)
    assert abs(built([batch[0], batch[1][order]], now(0))[0].item() - loss) > 1e-4  # pairs do matter


def test_every_process_computes_lejepas_loss_of_the_whole_batch() -> None:
    built, batch = make("lejepa", hidden=32)
    whole = built(batch, now(0))[0].item()
    for own in (slice(0, 3), slice(3, 6)):
        queue = [built.encoder(view).mean(1) for view in batch]
        assert rows(built, batch, own, gather=lambda h, q=queue: q.pop(0))[0].item() == pytest.approx(whole, rel=1e-5)


def test_lejepa_has_no_teacher_and_no_stopped_gradient() -> None:
    built, batch = make("lejepa", hidden=32)
    assert {name.split(".")[0] for name in built.state_dict()} == {"encoder", "projector"}
    for view in batch:
        view.requires_grad_()
    built(batch, now(0))[0].backward()
    assert all(view.grad is not None and view.grad.any() for view in batch)


# CPC


def naive_cpc(built: Method, x: Tensor, past: int, other: Tensor) -> float:
    """Mean over records and steps of -log(exp(z_p W c) / sum over p and the negatives)."""
    losses = []
    with torch.no_grad():
        for b in range(len(x)):
            c = built.encoder(x[b: b + 1, :, : past * 25])[0, -1].double()  # nothing but the past is given
            z = [built.encoder.embed.weight.double() @ x[b, :, t * 25: (t + 1) * 25].flatten().double() for t in range(40)]
            for k in range(built.ahead):
                w = built.predictor.weight.double()[16 * k: 16 * (k + 1)]
                places = [past + k, *(p + (p >= past + k) for p in other[b, k].tolist())]
                scores = [math.exp((z[p] @ w @ c).item()) for p in places]
                losses.append(-math.log(scores[0] / sum(scores)))
    return sum(losses) / len(losses)


def test_cpc_is_the_loop_over_records_and_steps_of_its_equation() -> None:
    built, (x,) = make("cpc", ahead=3, negatives=5)
    for index in range(3):
        step = now(index)
        past = 2 + int(step.uniform(0, 36))
        other = (step.rng.rand(3, 5) * 39).long()
        assert built([x], now(index))[0].item() == pytest.approx(naive_cpc(built, x, past, other), rel=1e-4)


def test_cpcs_context_does_not_see_the_future() -> None:
    built, (x,) = make("cpc")
    seen: list[Tensor] = []
    built.predictor.register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
    past = 2 + int(now(0).uniform(0, 27))
    changed = x.clone()
    changed[:, :, past * 25:] += 1
    built([x], now(0))
    built([changed], now(0))
    assert 1 < past < 28
    assert torch.equal(seen[0], seen[1])


def test_cpcs_cut_lies_where_a_past_and_all_steps_ahead_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("cpc", ahead=36)
    lengths = []
    forward = built.encoder.forward
    monkeypatch.setattr(built.encoder, "forward", lambda x, keep: lengths.append(keep.shape[1]) or forward(x, keep))
    for index in range(40):
        built([x], now(index, 40))
    assert set(lengths) == {2, 3, 4}


def test_a_view_too_short_for_cpc_is_refused() -> None:
    built, (x,) = make("cpc")
    with pytest.raises(UserError, match="a view of 13 patches has no 12 after a first two"):
        built([x[:, :, : 13 * 25]], now(0))
    assert built([x[:, :, : 14 * 25]], now(0))[0].isfinite()
