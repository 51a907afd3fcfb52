import re

import pytest
import torch
from torch import Generator, Tensor

from bench.core.errors import UserError
from bench.core.rng import Rng, seeded
from bench.data import views

B, C, T, RATE_HZ = 64, 12, 500, 100
SETTINGS = {"resized_crop": [0.5, 1.0], "time_out": [0.2, 0.4], "gaussian_noise": 0.3, "baseline_wander": 0.5,
            "mains_hum": 0.2, "lead_dropout": 0.5, "amplitude_scale": [0.5, 2.0]}


def rng(batch: int = B, seed: int = 0) -> Rng:
    return seeded(seed, batch)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, C, T, generator=Generator().manual_seed(99))


def view_of(x: Tensor, name: str, value, seed: int = 0, seconds: float = 5.0) -> Tensor:
    """The view of this transformation alone."""
    return views.make(x, [{"seconds": seconds, name: value}], RATE_HZ, rng(len(x), seed))[0]


@pytest.mark.parametrize("name", views.VIEWS)
def test_a_view_is_a_pure_function_of_batch_and_generator_and_each_record_draws_its_own_numbers(x, name) -> None:
    before = x.clone()
    view = view_of(x, name, SETTINGS[name])
    assert view.shape == x.shape and view.dtype == torch.float32 and view.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)
    assert torch.equal(view, view_of(x, name, SETTINGS[name]))
    assert not torch.equal(view, view_of(x, name, SETTINGS[name], seed=1))
    of_one_record = view_of(x[:1].expand(B, C, T), name, SETTINGS[name])
    assert len({row.numpy().tobytes() for row in of_one_record}) > B - 5  # few sets of dropped leads may meet


def test_a_crop_is_a_window_of_the_record_and_every_window_comes(x) -> None:
    ramp = torch.arange(T).float().expand(2000, C, T)
    view = views.crop(ramp, 490, rng(2000))
    assert torch.equal(view - view[:, :, :1], torch.arange(490.0).expand(2000, C, 490))
    assert set(view[:, 0, 0].tolist()) == set(range(11))


def test_a_resized_crop_stretches_a_share_of_its_length_and_stays_inside() -> None:
    ramp = torch.arange(T).float().expand(2000, C, T)
    view = views.resized_crop(ramp, 250, rng(), [0.5, 0.8])
    share = (view[:, 0, -1] - view[:, 0, 0] + 1) / 250
    assert share.min() >= 0.5 - 1e-3 and share.max() <= 0.8 + 1e-3
    assert share.min() < 0.51 and share.max() > 0.79
    assert view.min() >= 0 and view.max() <= T - 1
    steps = view.diff(dim=2)
    torch.testing.assert_close(steps, steps[:, :, :1].expand_as(steps), atol=1e-3, rtol=0)


def test_time_out_zeroes_one_window_of_the_asked_share_in_every_lead(x) -> None:
    hidden = view_of(x, "time_out", [0.2, 0.4]) == 0
    assert torch.equal(hidden.all(1), hidden.any(1))
    share = hidden[:, 0].float().mean(1)
    assert share.min() >= 0.2 - 1 / T and share.max() <= 0.4 + 1 / T and share.std() > 0.03
    edges = hidden[:, 0].float().diff(dim=1).abs().sum(1)
    assert (edges <= 2).all()  # one window
    seen = ~hidden
    assert torch.equal(view_of(x, "time_out", [0.2, 0.4])[seen], x[seen])


def test_gaussian_noise_is_white_and_of_its_sd(x) -> None:
    noise = view_of(x, "gaussian_noise", 0.3) - x
    assert abs(noise.std().item() - 0.3) < 0.005 and abs(noise.mean().item()) < 0.005
    assert (noise[..., 1:] * noise[..., :-1]).mean().abs() < 0.005
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 0.005


def test_baseline_wander_is_slow_and_bounded() -> None:
    drift = views.baseline_wander(torch.zeros(B, C, 6000), rng(), RATE_HZ, 0.7)
    assert 0.35 < drift.abs().max() <= 0.7 + 1e-5
    power = torch.fft.rfft(drift * torch.hann_window(6000)).abs().square()
    hz = torch.fft.rfftfreq(6000, 1 / RATE_HZ)
    assert power[..., hz > 0.6].sum() < 1e-4 * power.sum()
    assert not torch.equal(drift[:, 0], drift[:, 1])


@pytest.mark.parametrize(("rate_hz", "heard"), [(500, {50, 60}), (250, {50, 60}), (100, {50, 40})])
def test_mains_hum_is_50_or_60_hz_folded_where_the_rate_cannot_hold_it(rate_hz, heard) -> None:
    hum = views.mains_hum(torch.zeros(B, C, 10 * rate_hz), rng(), rate_hz, 0.2)
    assert hum.abs().max() <= 0.2 + 1e-6
    power = torch.fft.rfft(hum).abs().square()
    hz = power.sum(1).argmax(1).double() / 10  # bins of 0.1 Hz
    assert set(hz.tolist()) == heard
    assert (power.sum(1).amax(1) > 0.99 * power.sum((1, 2))).all()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1.0])
def test_lead_dropout_zeroes_whole_leads_with_its_probability_and_always_leaves_one(probability) -> None:
    view = views.lead_dropout(torch.ones(4000, C, 3), rng(4000), probability)
    dropped = (view == 0).all(2)
    assert torch.equal(dropped, (view == 0).any(2)) and not dropped.all(1).any()
    expected = probability - probability**C / C  # of twelve dropped leads one stays
    assert abs(dropped.float().mean().item() - expected) < 0.01


@pytest.mark.parametrize(("view", "message"), [
    ("crop", "views[0] must be a mapping with `seconds`"),
    ({"seconds": 11}, "views[0].seconds is 11, data.crop_seconds is 10.0"),
    ({"seconds": 2.53}, "does not divide into patches of 10 samples"),
    ({"seconds": 5, "timeout": [0.1, 0.2]}, "did you mean 'time_out'"),
    ({"seconds": 5, "time_out": [0.4, 0.2]}, "views[0].time_out must be low <= high, 0 to 1"),
    ({"seconds": 5, "gaussian_noise": float("nan")}, "views[0].gaussian_noise must be 0 or more"),
    ({"seconds": 5, "mains_hum": True}, "views[0].mains_hum must be a number"),
])
def test_views_that_cannot_be_made_are_refused_by_key(view, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        views.check([view], RATE_HZ, 10.0, 10)
