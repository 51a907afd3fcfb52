"""Draws what a method's encoder sees of a record: its views, its masks and, for masked autoencoders, the reconstruction."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bench.core.errors import UserError, unknown
from bench.core.rng import VIEWS, Rng, generator
from bench.data import views
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.encoders.vit import Encoder
from bench.method import Method, build_model, step_at
from bench.parts import MaskedAutoencoder
from bench.plot.ecg import Signal, check_leads
from bench.plot.records import find_row, read_normalised
from bench.plot.style import COLOURS, TEXT, image_format, save_as, styled
from bench.runs.config import PretrainConfig
from bench.runs.workspace import checkpoint_path
from bench.training import checkpoint


@dataclass(frozen=True)
class Panel:
    """One input of an encoder: a view of a record, (12, T), leads in the order of LEADS."""

    name: str
    signal: Signal  # in sd
    visible: Signal  # bool: whether the encoder sees the sample
    rebuilt: Signal | None = None  # what a decoder predicts for the hidden samples, NaN at the visible ones


def draw_method(store: Store, record_id: str | None, out: Path, config: PretrainConfig,
                weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Write to out what a method's encoder sees of a record in the first step of a pre-training with this config.

    weights: weights of a trained method; with them the picture also shows what the decoder predicts. record_id: None is the
    store's first record. UserError if the store's rate is not that of the config, or if the method does not train.
    """
    image_format(out)
    name, rate_hz = config.method.name, config.data.rate_hz
    if rate_hz != store.rate_hz:
        raise UserError(f"store {store.name} has {store.rate_hz} Hz, {name} is configured for {rate_hz} Hz")
    if not config.optim.steps:
        raise UserError(f"method {name} takes no step: there is nothing to draw")
    row, model = find_row(store, record_id), build_model(config)
    views.check(config.views, rate_hz, config.data.crop_seconds, config.encoder.patch)
    if weights:
        model.load_state_dict(weights)
    crop = read_normalised(store, row, config.data.crop_seconds)
    panels = record_inputs(model, config, crop, rebuild=bool(weights))
    title = f"{name}: what its encoder sees of {store.name} {store.records.record_id[row]}"
    if any(panel.rebuilt is not None for panel in panels):
        title += "; blue: reconstructed, with the mean and sd of each patch"
    return save_as(plot_masks(panels, rate_hz, title), out)


def draw_run(store: Store, record_id: str | None, out: Path, work: Path, run: str) -> Path:
    """Write to out what the encoder of a finished pre-training sees of a record, and what its decoder predicts (draw_method)."""
    path = checkpoint_path(work, run)
    if not path.is_file():
        raise unknown("finished run", run, sorted(p.parent.name for p in (work / "runs").glob(f"*/{path.name}")))
    trained = checkpoint.load(path)
    weights = {k.removeprefix("model/"): v for k, v in trained.tensors.items() if k.startswith("model/")}
    return draw_method(store, record_id, out, PretrainConfig.model_validate(trained.meta["config"]), weights)


@torch.no_grad()
def record_inputs(model: Method, config: PretrainConfig, x: torch.Tensor, rebuild: bool) -> list[Panel]:
    """The inputs of the method's encoder in the first step on a batch that holds the crop x (1, 12, T) twice.

    If none of them is the whole crop, the crop comes first. rebuild: whether the panels hold the decoder's predictions.
    """
    inputs: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    decoded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_encoder(_: Any, args: Any, kwargs: Any) -> None:
        bound = inspect.signature(model.encoder.forward).bind(*args, **kwargs).arguments
        inputs.append((bound["x"], bound.get("visible")))

    model.eval()
    model.encoder.register_forward_pre_hook(on_encoder, with_kwargs=True)
    if rebuild and isinstance(model, MaskedAutoencoder):
        model.decoder.register_forward_hook(lambda _, args, out: decoded.append((args[2][0], out[0])))
    seed, device, rate_hz = config.seed, x.device, config.data.rate_hz
    rng = Rng(generator(device, seed, VIEWS, 0), 2)
    step = step_at(seed, 0, config.optim.steps, device, 2, patients=torch.arange(2))
    model(views.make(x.expand(2, -1, -1), config.views, rate_hz, rng), step)

    panels = []
    for i, (view, visible) in enumerate(inputs):
        name = f"view {i + 1}" if len(inputs) > 1 else "the record" if torch.equal(view[0], x[0]) else "the view"
        panels.append(make_panel(model.encoder, name, view[0], None if visible is None else visible[0],
                                 decoded=decoded[i] if decoded else None))
    if not any(panel.signal.shape == x[0].shape for panel in panels):
        panels.insert(0, Panel("the record", x[0].numpy(), np.ones(x[0].shape, bool)))
    return panels


def make_panel(encoder: Encoder, name: str, view: torch.Tensor, visible: torch.Tensor | None, *,
               decoded: tuple[torch.Tensor, torch.Tensor] | None) -> Panel:
    """The panel of a view (12, T) of which the encoder sees the tokens `visible` (K,), all if None.

    decoded: the hidden tokens (M,) and the samples that the decoder predicts for them, (M, patch_width), or None.
    """
    samples = encoder.patchify(torch.arange(view.numel()).view(1, *view.shape))[0]  # (N, patch_width): the samples of each token
    mask, rebuilt = torch.full((view.numel(),), visible is None), None
    if visible is not None:
        mask[samples[visible].flatten()] = True
        name = f"{len(visible)} of {len(samples)} tokens, {mask.float().mean():.0%} of the samples"
    if decoded:
        hidden, predicted = decoded
        target = view.flatten()[samples[hidden]]
        predicted = predicted * target.std(1, keepdim=True) + target.mean(1, keepdim=True)
        rebuilt = torch.full((view.numel(),), torch.nan)
        rebuilt[samples[hidden].flatten()] = predicted.flatten()
    return Panel(name, view.numpy(), mask.view(view.shape).numpy(), None if rebuilt is None else rebuilt.view(view.shape).numpy())


@styled
def plot_masks(panels: Sequence[Panel], rate_hz: float, title: str = "", spacing: float = 6.0) -> Figure:
    """All leads of each panel, side by side on one scale of time and `spacing` sd apart. Visible samples are black, hidden ones
    grey, predicted ones blue."""
    figure = Figure(figsize=(TEXT, 4.6))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[p.signal.shape[1] for p in panels])[0]
    baselines = -spacing * np.arange(len(LEADS))
    for axes, panel in zip(grid, panels, strict=True):
        check_leads(panel.signal, LEADS)
        seconds = np.arange(panel.signal.shape[1]) / rate_hz
        for base, trace, visible in zip(baselines, panel.signal, panel.visible, strict=True):
            edges = np.flatnonzero(np.diff(np.r_[True, visible, True])) / rate_hz  # start, end, start, ... of hidden parts
            axes.broken_barh(list(zip(edges[::2], np.diff(edges)[::2], strict=True)), (base - spacing / 2, spacing),
                             color="0.93", linewidth=0)
            axes.plot(seconds, base + trace, color="0.7", linewidth=0.6)
            axes.plot(seconds, base + np.where(visible, trace, np.nan), color="black", linewidth=0.7)
        if panel.rebuilt is not None:
            axes.plot(seconds, (baselines[:, None] + panel.rebuilt).T, color=COLOURS[1], linewidth=1.0)
        axes.set_title(panel.name, fontsize=7)
        axes.set_xticks(np.arange(0, seconds[-1] + 1.5 / rate_hz, 1 if seconds[-1] < 5 else 2))
        axes.margins(x=0)
    grid[0].set_yticks(baselines, LEADS)
    grid[0].set_ylim(baselines[-1] - spacing, spacing)
    figure.supxlabel("seconds", fontsize=7)
    figure.suptitle(title, fontsize=8)
    return figure
