"""What the parts of one JEPA step cost: seconds, arithmetic, the device's peak, and which form of attention is faster."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.rng import seeded
from bench.data import views
from bench.data.loader import Loader
from bench.data.store import Store
from bench.encoders import vit
from bench.method import build_model, step_at
from bench.parts import draw_block_mask
from bench.runs.config import PretrainConfig
from bench.training import optim
from methods.jepa import JEPA

PARTS = ("data", "masks", "target encoder", "encoder", "predictor", "backward", "optimiser", "EMA")
KEEP = 0.2  # share of visible tokens, the middle of the published [0.15, 0.25]: so every timed step costs the same
WARM_KEEP = [0.15, 0.25, KEEP]  # after these a compiled step meets no new shape


def now(device: torch.device) -> float:
    """Seconds on a clock, after all work of the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device: torch.device, precision: str, shapes: list[tuple[int, int, int]]) -> float:
    """GFLOP/s of the best of several matrix products (m, k) @ (k, n)."""
    best = 0.0
    for m, k, n in shapes:
        a, b = (torch.rand(shape, device=device).to(getattr(torch, precision)) for shape in ((m, k), (k, n)))
        for _ in range(4):
            began = now(device)
            a @ b
            best = max(best, 2e-9 * m * k * n / (now(device) - began))
    return best


def gflop(size: vit.Size, tokens: int = 200, visible: int = 40, inputs: int = 12 * 25, registers: int = 1) -> float:
    """GFLOP per record of a JEPA step: its matrix products, forward once, backward twice where it has gradients."""
    def blocks(n: int, d: int) -> int:
        return size.depth * (24 * n * d**2 + 4 * n**2 * d)  # qkv, proj, fc1, fc2; scores and weighted sum

    d, p = size.width, size.width // 2
    target = blocks(tokens + registers, d) + 2 * tokens * inputs * d
    encoder = 3 * blocks(visible + registers, d) + 2 * 2 * visible * inputs * d  # the signal has no gradient
    predictor = 3 * (blocks(tokens, p) + 2 * visible * d * p + 2 * (tokens - visible) * p * d)
    return (target + encoder + predictor) * 1e-9


class Clock:
    """Adds up the seconds of each part of a step, on the clock `time`."""

    def __init__(self, time: Callable[[], float]):
        self.time, self.spent = time, dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = self.time()
        yield
        self.spent[part] += self.time() - began


def step(model: JEPA, optimiser: torch.optim.Optimizer, config: PretrainConfig, x: Tensor, keep: float, taken: int,
         clock: Clock) -> Tensor:
    """One training step, with the parts of JEPA.forward timed one by one. Changes the model; the loss comes back."""
    settings, n = config.optim, x.shape[2] // config.encoder.patch
    optim.schedule_(optimiser, taken, settings)
    at = step_at(config.seed, taken, settings.steps, x.device, len(x))
    optimiser.zero_grad(set_to_none=True)
    with clock("masks"):
        visible, hidden = draw_block_mask(n, round(keep * n), model.block, at.rng)
    with optim.autocast(x.device, settings.precision):
        with clock("target encoder"), torch.no_grad():
            target = vit.take(model.target_encoder(x), hidden)
        with clock("encoder"):
            tokens = model.encoder(x, visible)
        with clock("predictor"):
            loss = (model.predictor(tokens, visible, hidden) - target).abs().mean()
    with clock("backward"):
        loss.backward()
    with clock("optimiser"):
        optimiser.step()
    with clock("EMA"):
        model.after_step(step_at(config.seed, taken + 1, settings.steps, x.device, len(x)))
    return loss.detach()


@dataclass
class Ours:
    """A JEPA of ours in training, and what its steps cost."""

    config: PretrainConfig
    store: Store
    device: torch.device
    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})  # seconds

    def __post_init__(self) -> None:
        model = build_model(self.config).to(self.device).train()
        assert isinstance(model, JEPA)
        self.model, self.optimiser, self.taken = model, optim.adamw(model, self.config.optim), 0
        if self.config.optim.compile:
            torch.compiler.reset()  # or the sizes before would count against its limit of recompilations
            for part in model.children():
                part.compile()
        self.loader = Loader([self.store], [1.0], folds=[], seconds=self.config.data.crop_seconds,
                             batch=self.config.optim.batch, seed=0, device=self.device)
        began, x = now(self.device), self.batch()
        for keep in WARM_KEEP:
            self.step(x, keep, Clock(time.perf_counter))
        self.warm_seconds = now(self.device) - began

    def batch(self) -> Tensor:
        rng = seeded(self.taken, self.config.optim.batch, self.device)
        (x,) = views.make(self.loader.batch_at(self.taken), self.config.views, self.config.data.rate_hz, rng)
        return x

    def step(self, x: Tensor, keep: float, clock: Clock) -> None:
        step(self.model, self.optimiser, self.config, x, keep, self.taken, clock)
        self.taken += 1

    def seconds(self, steps: int) -> float:
        """Seconds of a step without its data, which training loads ahead. The seconds of its parts are added to `parts`."""
        clock = Clock(lambda: now(self.device))
        with clock("data"):
            x = self.batch()
        whole = clock if self.device.type == "cpu" else Clock(time.perf_counter)  # parts of a GPU's step overlap
        began = now(self.device)
        for _ in range(steps):
            self.step(x, KEEP, whole)
        seconds = (now(self.device) - began) / steps
        for _ in range(steps if whole is not clock else 0):
            self.step(x, KEEP, clock)
        for part, spent in clock.spent.items():
            self.parts[part].append(spent if part == "data" else spent / steps)
        return seconds


def plain(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention as two matrix products with a softmax between them."""
    return F.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1), dropout) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention as the one operation that torch has for it."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def attention(size: vit.Size, batch: int, tokens: int, device: torch.device, precision: str, rounds: int,
              repeat: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a block, {place: {"fused": ..., "plain": ...}}, in the target encoder, encoder and predictor."""
    places = {"target encoder": (size.width, tokens + 1, False),  # width, tokens, gradients
              "encoder": (size.width, round(KEEP * tokens) + 1, True),
              "predictor": (size.width // 2, tokens, True)}
    out: dict[str, dict[str, list[float]]] = {}
    for place, (width, n, gradients) in places.items():
        block: nn.Module = vit.Block(width, size.heads).to(device)
        x = torch.randn(batch, n, width, device=device, requires_grad=gradients)
        out[place] = {"fused": [], "plain": []}
        for i in range(1 + rounds):  # the first is not counted
            for way in (fused, plain):
                with (patch.object(vit, "attend", way), torch.set_grad_enabled(gradients),
                      optim.autocast(device, precision)):
                    began = now(device)
                    for _ in range(repeat):
                        y = block(x)
                        if gradients:
                            y.float().sum().backward()
                    if i:
                        out[place][way.__name__].append((now(device) - began) / repeat)
    return out


def find_attention(device: torch.device, precision: str) -> str:
    """The form of attention that the encoder uses there: "fused" or "plain"."""
    q = torch.zeros(1, 1, 2, 8, device=device, dtype=getattr(torch, precision))
    with patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as called:
        vit.attend(q, q, q)
    return "fused" if called.called else "plain"
