"""Crops and augmentations, batched on the device: pure functions of (batch, settings, random numbers).

x is (B, C, T), normalised. Every function draws its own numbers per record and returns a new tensor. If a docstring names no
paper, the settings in the YAML files are choices of this benchmark.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.core.rng import Rng


def _between(rng: Rng, low: float, high: float, *shape: int) -> Tensor:
    """(B, *shape) uniform in [low, high)."""
    return low + (high - low) * rng.rand(*shape)


def _interpolate(x: Tensor, position: Tensor) -> Tensor:
    """x (B, C, T) at positions (B, S), linearly interpolated -> (B, C, S)."""
    left = position.floor().long().clamp_(0, x.shape[2] - 1)
    right = (left + 1).clamp_(max=x.shape[2] - 1)
    part = (position - left)[:, None]
    expand = (-1, x.shape[1], -1)
    return torch.lerp(x.gather(2, left[:, None].expand(expand)), x.gather(2, right[:, None].expand(expand)), part)


def crop(x: Tensor, samples: int, rng: Rng) -> Tensor:
    """A window of `samples` at a random position of each record -> (B, C, samples)."""
    if samples == x.shape[2]:
        return x
    start = (rng.rand() * (x.shape[2] - samples + 1)).long()
    return x.unfold(2, samples, 1)[torch.arange(len(x), device=x.device), :, start]


def resized_crop(x: Tensor, samples: int, rng: Rng, share: list[float]) -> Tensor:
    """A random window of a random share [low, high] of `samples`, stretched to `samples` (arXiv 2103.12676)."""
    length = _between(rng, share[0], share[1]) * samples
    start = rng.rand() * (x.shape[2] - length)
    steps = torch.linspace(0, 1, samples, device=x.device)
    return _interpolate(x, start[:, None] + steps * (length - 1).clamp(min=0)[:, None])


def time_out(x: Tensor, rng: Rng, share: list[float]) -> Tensor:
    """x with a random window set to zero; the window has a random share [low, high] of the time (arXiv 2103.12676)."""
    length = _between(rng, share[0], share[1]) * x.shape[2]
    start = rng.rand() * (x.shape[2] - length)
    t = torch.arange(x.shape[2], device=x.device)
    hidden = (t >= start[:, None]) & (t < (start + length)[:, None])
    return x.masked_fill(hidden[:, None], 0.0)


def gaussian_noise(x: Tensor, rng: Rng, sd: float) -> Tensor:
    """x plus white noise of the given sd (in sd of the lead)."""
    return x + sd * rng.randn(*x.shape[1:])


def baseline_wander(x: Tensor, rng: Rng, rate_hz: int, amplitude: float) -> Tensor:
    """x plus a slow drift per lead: three sinusoids of 0.05-0.5 Hz, at most `amplitude` in sum (in sd of the lead)."""
    frequency = _between(rng, 0.05, 0.5, 1, 3, 1)
    phase = 2 * math.pi * rng.rand(1, 3, 1)
    weight = amplitude / 3 * _between(rng, -1, 1, x.shape[1], 3, 1)
    t = torch.arange(x.shape[2], device=x.device) / rate_hz
    return x + (weight * torch.sin(2 * math.pi * frequency * t + phase)).sum(2)


def mains_hum(x: Tensor, rng: Rng, rate_hz: int, amplitude: float) -> Tensor:
    """x plus mains hum of 50 or 60 Hz: one phase per record, a strength per lead of at most `amplitude` (in sd of the lead).

    Above half the sampling rate the hum appears at a lower frequency, as it does in a device that samples without a filter. At
    100 Hz, a hum of 50 Hz alternates from sample to sample.
    """
    mains = torch.where(rng.rand(1, 1) < 0.5, 50.0, 60.0)
    phase = 2 * math.pi * rng.rand(1, 1)
    weight = amplitude * rng.rand(x.shape[1], 1)
    t = torch.arange(x.shape[2], device=x.device) / rate_hz
    return x + weight * torch.sin(2 * math.pi * mains * t + phase)


def lead_dropout(x: Tensor, rng: Rng, probability: float) -> Tensor:
    """x with each lead set to zero with the given probability; at least one lead remains."""
    u = rng.rand(x.shape[1])
    dropped = (u < probability) & (u < u.amax(1, keepdim=True))
    return x.masked_fill(dropped[..., None], 0.0)


def amplitude_scale(x: Tensor, rng: Rng, factor: list[float]) -> Tensor:
    """x with every record multiplied by a factor drawn from [low, high]."""
    return x * _between(rng, factor[0], factor[1], 1, 1)


VIEWS: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (
    resized_crop, time_out, gaussian_noise, baseline_wander, mains_hum, lead_dropout, amplitude_scale)}

LARGEST = {"share": 1.0, "probability": 1.0, "sd": math.inf, "amplitude": math.inf, "factor": math.inf}  # setting -> maximum


def check(spec: Sequence[dict[str, Any]], rate_hz: int, crop_seconds: float, patch: int) -> None:
    """UserError if the views of a config's section `views` cannot be cut from crops of crop_seconds."""
    for i, view in enumerate(spec):
        if not isinstance(view, dict) or not isinstance(view.get("seconds"), int | float):
            raise UserError(f"views[{i}] must be a mapping with `seconds`, got {view!r}")
        if not 0 < view["seconds"] <= crop_seconds:
            raise UserError(f"views[{i}].seconds is {view['seconds']}, data.crop_seconds is {crop_seconds}")
        samples = round(view["seconds"] * rate_hz)
        if not samples or samples % patch:
            raise UserError(f"views[{i}] of {view['seconds']} s at {rate_hz} Hz does not divide into patches of "
                            f"{patch} samples; change encoder.patch or seconds")
        for name in view:
            if name != "seconds" and name not in VIEWS:
                raise unknown(f"key in views[{i}]:", name, ["seconds", *VIEWS])
            if name != "seconds":
                _setting(name, view[name], f"views[{i}]")


def _setting(name: str, value: Any, section: str) -> str:
    """The parameter of an augmentation that the value sets; UserError if the value does not fit the parameter."""
    parameter = list(inspect.signature(VIEWS[name]).parameters.values())[-1]
    pair = parameter.annotation == list[float]
    items = value if pair and isinstance(value, list) and len(value) == 2 else [value]
    if (pair and len(items) != 2) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in items):
        raise UserError(f"{section}.{name} must be {'two numbers [low, high]' if pair else 'a number'}, got {value!r}")
    most = LARGEST[parameter.name]
    if not all(0 <= v <= most and math.isfinite(v) for v in items) or items != sorted(items):
        bounds = "0 or more" if most == math.inf else "0 to 1"
        raise UserError(f"{section}.{name} must be {'low <= high, ' if pair else ''}{bounds}, got {value!r}")
    return parameter.name


def make(x: Tensor, spec: Sequence[dict[str, Any]], rate_hz: int, rng: Rng) -> list[Tensor]:
    """One (B, C, T) tensor per view of the spec. Augmentations are applied in the order in which the spec lists them."""
    out = []
    for view in spec:
        samples = round(view["seconds"] * rate_hz)
        y = x if "resized_crop" in view else crop(x, samples, rng)
        for name, value in view.items():
            if name == "seconds":
                continue
            needs = inspect.signature(VIEWS[name]).parameters
            extra = {k: v for k, v in (("samples", samples), ("rate_hz", rate_hz)) if k in needs}
            y = VIEWS[name](y, rng=rng, **extra, **{_setting(name, value, "views"): value})
        out.append(y)
    return out
