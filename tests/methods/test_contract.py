"""Every method, of this repository and of the folders in ECGSSL_METHODS, honours the contract of bench/method.py."""

import contextlib
import copy
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import configs
import pytest
import torch
from tiny import BATCH, RATE_HZ, TOTAL, TRAINED, adamw, encoder, make, step, train
from torch import Tensor

from bench import method
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.data import views
from bench.encoders import vit
from bench.method import Step, find_class, hyperparameters
from bench.runs.config import MethodConfig, find_methods

ORDER = torch.tensor([3, 1, 5, 0, 4, 2])
PAIRS = ["simclr", "lejepa", "moco", "byol", "vicreg", "barlow", "dino", "cmsc"]  # methods that compare views of a record
COPIES = {  # EMA copy -> what it follows
    "moco": {"key_encoder": "encoder", "key_projector": "projector"},
    "byol": {"target_encoder": "encoder", "target_projector": "projector"},
    "dino": {"teacher": "encoder", "teacher_head": "head"},
    "jepa": {"target_encoder": "encoder"},
    "data2vec": {"teacher": "encoder"},
}
EVALUATED = {"jepa": "target_encoder", "dino": "teacher"}  # the encoder that the paper evaluates, if it is an EMA copy


@pytest.fixture(params=TRAINED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_loss_is_a_finite_scalar_what_is_logged_is_detached_and_after_step_moves_no_trainable_parameter(name: str) -> None:
    built, batch = make(name)
    loss, scalars = built(batch, step(0))
    assert loss.shape == () and math.isfinite(loss.item()) and loss.requires_grad
    assert [key for key, value in scalars.items() if value.shape != () or value.requires_grad] == []
    train(built, batch, adamw(built), [0])
    before = {n: p.clone() for n, p in built.named_parameters() if p.requires_grad}
    built.after_step(step(2))
    assert all(torch.equal(p, before[n]) for n, p in built.named_parameters() if p.requires_grad)


def test_every_trainable_parameter_gets_a_gradient_and_forward_changes_no_parameter_and_no_view(name: str) -> None:
    built, batch = make(name)
    before, inputs = copy.deepcopy(list(built.parameters())), copy.deepcopy(batch)
    built(batch, step(0))[0].backward()
    assert [n for n, p in built.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    assert [n for n, p in built.named_parameters() if not p.requires_grad and p.grad is not None] == []
    assert all(map(torch.equal, before, built.parameters()))
    assert all(map(torch.equal, inputs, batch))


def test_constant_records_give_a_finite_loss_and_finite_gradients(name: str) -> None:
    built, batch = make(name)
    loss, scalars = built([torch.zeros_like(view) for view in batch], step(0))
    loss.backward()
    assert all(math.isfinite(value.item()) for value in (loss, *scalars.values()))
    assert all(bool(p.grad.isfinite().all()) for p in built.parameters() if p.grad is not None)


class ShapesOnly:
    """An Rng on the meta device, which has shapes and no values: an attempt to read a value raises."""

    device, generator, batch, rows = torch.device("meta"), None, BATCH, slice(None)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(BATCH, *shape, device=self.device)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, device=self.device)


def test_a_step_reads_nothing_back_from_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built, _ = make(name)
    built.to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know the meta device
    rng: Any = ShapesOnly()
    batch = views.make(torch.randn(BATCH, 12, 1000, device="meta"), configs.load(name).views, RATE_HZ, rng)
    now = Step(0, TOTAL, rng, torch.Generator().manual_seed(0), torch.zeros(BATCH, dtype=torch.int64, device="meta"))
    loss, _ = built(batch, now)
    loss.backward()
    built.after_step(now)
    with pytest.raises(RuntimeError, match="meta"):  # this is how a read would fail
        loss.item()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch itself looks at it
def test_a_compiled_step_is_not_compiled_again_after_three(name: str) -> None:
    built, batch = make(name)
    for part in built.children():
        part.compile(backend="eager")  # traced and guarded as with any backend, without generating code
    torch.compiler.reset()
    states = set()
    for index in range(5):
        with torch.compiler.set_stance("default" if index < 3 else "fail_on_recompile"):
            now = step(index)
            built(batch, now)[0].backward()
        states.add(now.host.get_state().sum().item())
    assert len(states) == 5  # the numbers that decide shapes were drawn anew in each step
    torch.compiler.reset()


def test_a_step_is_a_function_of_its_number_alone(name: str) -> None:
    built, batch = make(name)
    steps = [step(i) for i in (3, 3, 5)]
    generators = steps[0].rng.generator, steps[0].host
    start = [g.get_state() for g in generators]
    torch.manual_seed(0)
    first, again, other = (copy.deepcopy(built)(batch, now)[0].item() for now in steps)  # copies, as buffers move
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(()))  # nothing was drawn from the global generator
    assert first == again
    draws = not all(torch.equal(g.get_state(), s) for g, s in zip(generators, start, strict=True))
    assert (first != other) == draws


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
    before = [built(batch, step(0))[0].item() for _ in range(20 if list(built.buffers()) else 1)][-1]  # buffers have settled
    train(built, batch, adamw(built), [0] * 20)
    assert built(batch, step(0))[0].item() < before


def test_bfloat16_gives_nearly_the_same_loss(name: str) -> None:
    built, batch = make(name)
    expected = copy.deepcopy(built)(batch, step(0))[0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = built(batch, step(0))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.03, abs=0.01)  # a loss may lie near 0


@pytest.mark.parametrize("any_name", find_methods())
def test_the_backbone_is_the_encoder_that_the_paper_evaluates_and_gives_tokens(any_name: str) -> None:
    built, _ = make(any_name)
    backbone = built.backbone()
    if find_methods()[any_name].parent == ROOT / "methods":
        assert backbone is getattr(built, EVALUATED.get(any_name, "encoder"))
    leads = 12 if built.encoder.tokens == "lead-time" else 1
    assert isinstance(backbone, vit.Encoder)
    assert backbone(torch.randn(2, 12, 250)).shape == (2, leads * 10, 16)


@pytest.mark.parametrize("any_name", find_methods())
def test_an_unknown_hyperparameter_is_named_and_every_known_one_is_explained(any_name: str) -> None:
    with pytest.raises(UserError, match=r"unknown key 'method\.tempreature'"):
        make(any_name, tempreature=0.1)
    cls = find_class(any_name)
    assert [key for key in hyperparameters(cls) if not re.search(rf"^\W*.*\b{key}\b.*: ", inspect.getdoc(cls) or "", re.M)] == []


@pytest.mark.parametrize(("build", "words"), [
    (lambda: method.build_method(MethodConfig.model_validate({"name": "mae", "keep": 0.5}), encoder()),
     "method.decoder is missing in methods/mae.yaml; MAE needs it"),
    (lambda: method.build_method(configs.load("st_mem").method, encoder()), "needs encoder.tokens lead-time, got time"),
    (lambda: make("data2vec", ramp=0.0), r"method\.top and method\.ramp must be shares"),
    (lambda: make("random")[0]([torch.randn(2, 12, 1000)], step(0)), r"optim\.steps must be 0"),
])
def test_a_method_that_cannot_be_built_or_trained_says_what_to_write(build: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()


@pytest.mark.parametrize("name", [name for name in find_methods() if find_class(name).twin])
def test_a_twin_computes_the_same_from_the_same_settings(name: str) -> None:
    twin = find_class(name).twin
    assert twin is not None
    (a, batch), settings = make(name), configs.load(name).method.arguments
    b, _ = make(twin, **{key: value for key, value in settings.items() if key != "decoder"})
    assert a(batch, step(0))[0].item() == b(batch, step(0))[0].item()
    assert hyperparameters(find_class(name)).keys() == hyperparameters(find_class(twin)).keys()


def loss_of(name: str, change: Callable[[list[Tensor]], list[Tensor]] = lambda views: views, order: Any = slice(None)) -> float:
    """The loss of the method on its changed views, records and patients in this order."""
    built, batch = make(name)
    torch.manual_seed(3)
    with torch.no_grad():
        for part in COPIES.get(name, {}):  # as after some steps
            for p in getattr(built, part).parameters():
                p.add_(0.05 * torch.randn_like(p))
    now = step(0)
    assert now.patients is not None
    return built([view[order] for view in change(batch)], replace(now, patients=now.patients[order]))[0].item()


@pytest.mark.parametrize("name", PAIRS)
def test_only_which_views_are_of_one_record_matters_not_their_order_or_the_records_order(name: str) -> None:
    def swap(batch: list[Tensor]) -> list[Tensor]:
        return [batch[0].roll(500, 2)] if name == "cmsc" else [batch[1], batch[0], *batch[:1:-1]]  # cmsc: its two halves

    def mix(batch: list[Tensor]) -> list[Tensor]:
        if name == "cmsc":
            a, b = batch[0].chunk(2, 2)
            return [torch.cat([a, b.roll(2, 0)], 2)]
        return [batch[0], batch[1].roll(2, 0), *batch[2:]]

    loss = loss_of(name)
    assert loss_of(name, order=ORDER) == pytest.approx(loss, rel=1e-4)
    assert loss_of(name, swap) == pytest.approx(loss, rel=1e-4)
    assert abs(loss_of(name, mix) - loss) > 1e-5


@pytest.mark.parametrize(("name", "settings", "share"), [  # its momentum at step 1 of 4: half a cosine or a line
    *((name, {"momentum": 0.6}, 1 - 0.4 * (1 + math.sqrt(0.5)) / 2) for name in ("moco", "byol", "dino")),
    ("jepa", {"momentum": [0.6, 1.0]}, 0.7), ("data2vec", {"momentum": [0.6, 1.0], "ramp": 0.5}, 0.8)])
def test_ema_copies_start_equal_and_move_along_a_momentum_that_ends_at_1(name, settings, share) -> None:
    built, _ = make(name, **settings)
    for part, source in COPIES[name].items():
        for p, q in zip(getattr(built, part).parameters(), getattr(built, source).parameters(), strict=True):
            assert torch.equal(p, q) and not p.requires_grad
            p.data.add_(0.1)
    before = {k: v.clone() for k, v in built.state_dict().items()}
    built.after_step(step(1))
    for part, source in COPIES[name].items():
        for key, p in getattr(built, part).named_parameters():
            expected = share * before[f"{part}.{key}"] + (1 - share) * before[f"{source}.{key}"]
            assert torch.allclose(p, expected, atol=1e-6), key
    after = {k: v.clone() for k, v in built.state_dict().items()}
    built.after_step(step(4))  # momentum 1
    assert all(torch.equal(v, after[k]) for k, v in built.state_dict().items())
