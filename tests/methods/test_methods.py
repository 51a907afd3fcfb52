"""Every methods/*.yaml honours the contract of bench/method.py by existing; then each loss against its equation."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import configs
import pytest
import torch
from conftest import small
from torch import Tensor

from bench import method
from bench.backbones import import_published as published
from bench.core.errors import UserError
from bench.core.rng import seeded
from bench.data import views
from bench.encoders import vit
from bench.method import Method, Step, step_at
from bench.runs.config import find_methods
from bench.training import optim
from methods.jepa import JEPA
from methods.mae import MAE
from methods.simclr import SimCLR

RATE_HZ, TOTAL, BATCH = 100, 4, 6

TRAINED = [name for name in find_methods() if configs.load(name)["optim"]["steps"]]


def encoder(**settings: Any) -> vit.Encoder:
    torch.manual_seed(0)
    return vit.Encoder(vit.Size(16, 2, 2), **settings)


def make(name: str, **extra: Any) -> tuple[Method, list[Tensor]]:
    """The method as its yaml says around a small encoder, and a batch of its views."""
    made = configs.load(name)
    built = method.build({**made["method"], **small(made["method"]), **extra}, encoder(tokens=made["encoder"]["tokens"]))
    batch = torch.randn(BATCH, 12, 1000, generator=torch.Generator().manual_seed(1))
    return built.train(), views.make(batch, made["views"], RATE_HZ, seeded(2, BATCH))


def now(index: int, total: int = TOTAL) -> Step:
    """The step of that number; every patient has two records."""
    return step_at(0, index, total, torch.device("cpu"), BATCH, patients=torch.arange(BATCH) // 2)


def adamw(built: Method) -> torch.optim.Optimizer:
    settings = configs.load("jepa")["optim"]
    optimiser = optim.adamw(built, settings)
    optim.schedule_(optimiser, 0, {**settings, "warmup_steps": 0})
    return optimiser


def train(built: Method, batch: list[Tensor], optimiser: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    for index in steps:
        optimiser.zero_grad()
        built(batch, now(index))[0].backward()
        optimiser.step()
        built.after_step(now(index + 1))


@pytest.fixture(params=TRAINED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_suite_holds_both_families_and_the_random_backbone() -> None:
    assert {"jepa", "simclr", "mae"} <= set(TRAINED)
    assert set(find_methods()) - set(TRAINED) == {"random"}


def test_loss_is_a_finite_scalar_and_what_is_logged_is_detached(name: str) -> None:
    built, batch = make(name)
    loss, scalars = built(batch, now(0))
    assert loss.shape == ()
    assert math.isfinite(loss.item())
    assert loss.requires_grad
    for key, value in scalars.items():
        assert value.shape == (), key
        assert not value.requires_grad, key


def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    built, batch = make(name)
    built(batch, now(0))[0].backward()
    assert [n for n, p in built.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    assert [n for n, p in built.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_forward_changes_no_parameter_and_no_view(name: str) -> None:
    built, batch = make(name)
    before, inputs = copy.deepcopy(list(built.parameters())), copy.deepcopy(batch)
    built(batch, now(0))[0].backward()
    assert all(map(torch.equal, before, built.parameters()))
    assert all(map(torch.equal, inputs, batch))


def test_after_step_moves_no_trainable_parameter(name: str) -> None:
    built, batch = make(name)
    train(built, batch, adamw(built), [0])
    before = {n: p.clone() for n, p in built.named_parameters() if p.requires_grad}
    built.after_step(now(2))
    assert all(torch.equal(p, before[n]) for n, p in built.named_parameters() if p.requires_grad)


class Nowhere:
    """Random numbers on the device that has shapes and no values: whatever would read one back raises there."""

    device, generator, batch, rows = torch.device("meta"), None, BATCH, slice(None)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(BATCH, *shape, device=self.device)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, device=self.device)


def test_a_step_reads_nothing_back_from_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built, _ = make(name)
    built.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it knows no such device
    patients = torch.zeros(BATCH, dtype=torch.int64, device="meta")
    for index in range(2):
        seen = views.make(torch.randn(BATCH, 12, 1000, device="meta"), configs.load(name)["views"], RATE_HZ,
                          Nowhere())  # type: ignore[arg-type]
        step = Step(index, TOTAL, Nowhere(), torch.Generator().manual_seed(index), patients)  # type: ignore[arg-type]
        loss, _ = built(seen, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(built.parameters(), 1.0)
        built.after_step(step)
    with pytest.raises(RuntimeError, match="meta"):  # what this test stands on
        loss.item()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_a_compiled_step_is_not_compiled_again_after_three(name: str) -> None:
    built, batch = make(name)
    for part in built.children():
        part.compile(backend="eager")  # traced and guarded as ever, without the minutes of a code generator
    torch.compiler.reset()
    shares = set()
    for index in range(12):
        with torch.compiler.set_stance("default" if index < 3 else "fail_on_recompile"):
            step = now(index)
            built(batch, step)[0].backward()
        shares.add(step.host.get_state().sum().item())
    assert len(shares) == 12  # what decides shapes was drawn anew in each
    torch.compiler.reset()


def test_a_step_is_a_function_of_its_number_alone(name: str) -> None:
    built, batch = make(name)
    steps = [now(i) for i in (3, 3, 5)]
    generators = steps[0].rng.generator, steps[0].host
    start = [g.get_state() for g in generators]
    first, again, other = (copy.deepcopy(built)(batch, step)[0].item() for step in steps)  # buffers move
    assert first == again
    drew = not all(torch.equal(g.get_state(), s) for g, s in zip(generators, start, strict=True))
    assert (first != other) == drew  # all other randomness is in the views


def test_no_method_draws_from_the_global_generator(name: str) -> None:
    built, batch = make(name)
    torch.manual_seed(0)
    built(batch, now(0))
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(()))


def test_resuming_is_bitwise_identical(name: str) -> None:
    straight, batch = make(name)
    train(straight, batch, adamw(straight), range(4))
    first, _ = make(name)
    optimiser = adamw(first)
    train(first, batch, optimiser, range(2))
    resumed, _ = make(name)
    resumed.load_state_dict(first.state_dict())
    again = adamw(resumed)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    train(resumed, batch, again, range(2, 4))
    for (key, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_few_steps_on_one_batch_lower_the_loss(name: str) -> None:
    built, batch = make(name)
    before = [built(batch, now(0))[0].item() for _ in range(30)][-1]  # buffers have settled
    train(built, batch, adamw(built), [0] * 30)
    assert built(batch, now(0))[0].item() < before


@pytest.mark.parametrize("any_name", find_methods())
def test_backbone_maps_records_to_tokens_and_is_an_encoder(any_name: str) -> None:
    built, _ = make(any_name)
    assert isinstance(built.backbone(), vit.Encoder)
    leads = 12 if built.encoder.tokens == "lead-time" else 1
    assert built.backbone()(torch.randn(2, 12, 250)).shape == (2, leads * 10, 16)


@pytest.mark.parametrize("any_name", find_methods())
def test_an_unknown_hyperparameter_is_named(any_name: str) -> None:
    with pytest.raises(UserError, match=r"unknown key 'method\.tempreature'"):
        make(any_name, tempreature=0.1)


def test_bfloat16_gives_nearly_the_same_loss(name: str) -> None:
    built, batch = make(name)
    expected = copy.deepcopy(built)(batch, now(0))[0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = built(batch, now(0))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("section", "words"), [
    ({"name": "simlcr"}, r"unknown method\.name 'simlcr'; did you mean 'simclr'"), ({}, r"unknown method\.name 'None'"),
    ({"name": "mae", "keep": 0.5}, "method.decoder is missing in methods/mae.yaml; MAE needs it"),
])
def test_a_wrong_method_section_says_what_to_write(section: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method.build(section, encoder())


def test_random_has_no_pretraining() -> None:
    built, _ = make("random")
    with pytest.raises(UserError, match=r"optim\.steps must be 0"):
        built([torch.randn(2, 12, 1000)], now(0))
    assert built.backbone() is built.encoder


def test_progress_runs_from_0_to_1_and_host_numbers_lie_in_their_interval() -> None:
    assert (now(0).progress, now(1).progress, now(4).progress) == (0.0, 0.25, 1.0)
    drawn = [now(i, 1000).uniform(0.15, 0.25) for i in range(400)]
    assert all(0.15 <= u < 0.25 for u in drawn)
    assert sum(drawn) / 400 == pytest.approx(0.2, abs=0.006)


# SimCLR


def naive_ntxent(z: Tensor, temperature: float) -> float:
    """Equation 1 of arXiv 2002.05709: mean over both directions of -log(exp(s_ij / t) / sum_k!=i exp(s_ik / t))."""
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        similar = [math.exp((z[i] @ z[k] / (z[i].norm() * z[k].norm())).item() / temperature) for k in range(2 * n)]
        j = i + n if i < n else i - n
        total -= math.log(similar[j] / sum(similar[k] for k in range(2 * n) if k != i))
    return total / (2 * n)


def test_simclr_is_the_double_loop_of_its_equation() -> None:
    built, batch = make("simclr", temperature=0.2)
    loss, scalars = built(batch, now(0))
    with torch.no_grad():
        z = built.projector(torch.cat([built.encoder(view).mean(1) for view in batch])).double()
    assert loss.item() == pytest.approx(naive_ntxent(z, 0.2), abs=1e-5)
    cosine = torch.nn.functional.cosine_similarity(z[:BATCH], z[BATCH:]).mean().item()
    assert scalars["alignment"].item() == pytest.approx(cosine, abs=1e-5)


def test_simclr_does_not_care_which_view_is_first_or_how_the_batch_is_ordered() -> None:
    built, batch = make("simclr")
    loss = built(batch, now(0))[0].item()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert built(batch[::-1], now(0))[0].item() == pytest.approx(loss, abs=1e-5)
    assert built([view[order] for view in batch], now(0))[0].item() == pytest.approx(loss, abs=1e-5)
    assert abs(built([batch[0], batch[1][order]], now(0))[0].item() - loss) > 1e-4  # pairs do matter


# MAE


def test_mae_is_the_loop_over_hidden_patches_of_its_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    built, (x,) = make("mae")
    masks, split = [], built.split
    monkeypatch.setattr(built, "split", lambda *a: masks.append(split(*a)) or masks[-1])
    loss = built([x], now(0))[0].item()
    (keep, hidden), patch = masks[0], built.encoder.patch
    assert keep.shape == (BATCH, 10)
    with torch.no_grad():
        predicted = built.decoder(built.encoder(x, keep), keep, hidden)
    errors = []
    for b in range(BATCH):
        for m, place in enumerate(hidden[b].tolist()):
            target = x[b, :, place * patch: (place + 1) * patch].double().flatten()  # lead after lead
            mean = target.mean()
            variance = ((target - mean) ** 2).sum() / (len(target) - 1)
            errors.append(((predicted[b, m] - (target - mean) / (variance + 1e-6).sqrt()) ** 2).mean().item())
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_mae_does_not_care_about_the_level_and_gain_of_a_patch() -> None:
    built, (x,) = make("mae")
    with torch.no_grad():
        for p in built.encoder.parameters():
            p.zero_()  # what it sees is then the same
        level, other, turned = (built([view], now(0))[0].item() for view in (x, 3 * x + 1, x.flip(2)))
    assert level == pytest.approx(other, abs=2e-6)
    assert abs(level - turned) > 1e-5


# JEPA


def jepa(golden_config: Any) -> JEPA:
    size = {"width": golden_config.pred_dim, "depth": golden_config.pred_depth,
            "heads": golden_config.pred_num_heads}
    return JEPA(vit.build(golden_config.encoder()), keep=[0.2, 0.3], block=3, momentum=[0.998, 0.9995],
                predictor=size)


def test_jepa_loss_is_that_of_the_published_implementation(shared: Any) -> None:
    import numpy as np

    io = np.load(shared / "golden" / "reference_a_io.npz")
    given = published.read_published(shared / "golden" / "reference_a_pretrain.pt")
    built = jepa(given.config)
    for part in ("encoder", "target_encoder", "predictor"):
        getattr(built, part).load_state_dict(given.weights[part])
    x, keep, predict = (torch.from_numpy(io[k]) for k in ("x", "keep", "predict"))
    assert abs(built.loss(x, keep, predict).item() - io["loss"].item()) < 1e-6
    assert io["loss"].item() > 0.1


def test_jepa_is_the_mean_distance_to_the_targets_tokens() -> None:
    built, (x,) = make("jepa")
    keep, hidden = torch.arange(8).expand(BATCH, -1), torch.arange(8, 40).expand(BATCH, -1)
    train(built, [x], adamw(built), [0])  # target and encoder apart
    with torch.no_grad():
        predicted, target = built.predictor(built.encoder(x, keep), keep, hidden), built.target_encoder(x)
    errors = [(predicted[b, m, d] - target[b, 8 + m, d]).abs().item() for b in range(BATCH) for m in range(32)
              for d in range(16)]
    assert built.loss(x, keep, hidden).item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_jepas_target_gets_no_gradient_and_moves_in_after_step_alone_by_the_schedules_momentum() -> None:
    built, batch = make("jepa", momentum=[0.6, 1.0])
    optimiser = adamw(built)
    start = {k: v.clone() for k, v in built.target_encoder.state_dict().items()}
    built(batch, now(0))[0].backward()
    optimiser.step()
    assert all(p.grad is None and not p.requires_grad for p in built.target_encoder.parameters())
    assert all(torch.equal(v, start[k]) for k, v in built.target_encoder.state_dict().items())
    built.after_step(now(2))  # half way: 0.8
    moved = 0
    for key, value in built.target_encoder.state_dict().items():
        online = built.encoder.state_dict()[key]
        assert torch.allclose(value, 0.8 * start[key] + 0.2 * online, atol=1e-7), key
        moved += int(not torch.equal(value, start[key]))
    assert moved == len(start)
    built.after_step(now(4))
    assert all(torch.allclose(v, 0.8 * start[k] + 0.2 * built.encoder.state_dict()[k], atol=1e-7)
               for k, v in built.target_encoder.state_dict().items())
    assert built.backbone() is built.target_encoder


def test_jepa_keeps_one_number_of_patches_per_batch_uniform_in_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    import methods.jepa

    built, (x,) = make("jepa")
    seen: list[tuple] = []
    split: Callable = methods.jepa.block_split
    monkeypatch.setattr(methods.jepa, "block_split", lambda *a: seen.append(a[:3]) or split(*a))
    monkeypatch.setattr(built, "loss", lambda x, keep, hidden: keep.shape[1])
    lengths = [built([x], now(i, 300))[0] for i in range(300)]
    assert set(lengths) == {math.ceil(40 * u) for u in (0.1501, 0.18, 0.2, 0.2249, 0.2499)} == {7, 8, 9, 10}
    assert all(abs(lengths.count(k) - 75) < 40 for k in set(lengths))
    assert {(n, block) for n, _, block in seen} == {(40, 10)}


def test_simclr_and_mae_are_what_is_tested_here() -> None:
    assert isinstance(make("simclr")[0], SimCLR)
    assert isinstance(make("mae")[0], MAE)
