import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.signal import LEADS, RESAMPLERS, high_pass, lead_order, resample, to_int16


@pytest.mark.parametrize("names", [LEADS[:11], (*LEADS[:11], "V5"), (*LEADS[:11], "X"), (*LEADS[:11], None)])
def test_any_other_leads_than_the_twelve_are_refused_with_the_list_of_them(names) -> None:
    with pytest.raises(UserError, match="the 12 leads I, II, III, aVR"):
        lead_order(names)


def test_int16_gives_back_every_number_that_it_can_hold() -> None:
    every = np.arange(-32767, 32768)
    for gain in (1000, 200, 306, 1716):
        np.testing.assert_array_equal(to_int16(every / gain, 1 / gain)[0], every)
    np.testing.assert_array_equal(to_int16(every * 0.001, 0.001)[0], every)


def band_limited(rate_hz: int, seconds: float, offset_s: float = 0.0) -> np.ndarray:
    """(12, T): sums of sines up to 40 Hz, the same signal at any rate."""
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz + offset_s
    rng = np.random.default_rng(0)
    return np.stack([sum(rng.normal() * np.sin(2 * np.pi * f * time_s + rng.uniform(0, 6)) for f in (1, 5, 13, 40))
                     for _ in LEADS])


@pytest.mark.parametrize("method", RESAMPLERS)
@pytest.mark.parametrize(("from_hz", "to_hz"), [(400, 500), (257, 500), (500, 100)])
def test_resampling_gives_the_same_signal_at_another_rate(from_hz, to_hz, method) -> None:
    given = resample(band_limited(from_hz, 20), from_hz, to_hz, method)
    want = band_limited(to_hz, 20)
    assert given.shape == want.shape and given.dtype == np.float32
    inner = slice(2 * to_hz, -2 * to_hz)  # the ends have neighbours that nobody knows
    tolerance = 0.01 if to_hz >= 257 else 0.1  # 40 Hz is near half of 100 Hz: the low-pass takes some
    np.testing.assert_allclose(given[:, inner], want[:, inner], atol=tolerance * want.std())


def test_the_ends_of_a_signal_that_drifts_do_not_ring() -> None:
    """But for the paper's method."""
    drift = np.linspace(0, 5, 4096)[None].repeat(12, 0)
    errors = {method: np.abs(resample(drift, 400, 500, method) - np.linspace(0, 5, 5120)).max() for method in RESAMPLERS}
    assert errors["fourier"] < 0.02 < 0.5 < errors["periodic"]


def test_a_high_pass_has_the_published_gain_and_no_phase() -> None:
    time_s = np.arange(60 * 500) / 500
    for f, gain in ((0.1, 0.0), (0.5, 0.5), (5.0, 1.0)):  # forwards and backwards: half at the corner
        sine = np.sin(2 * np.pi * f * time_s)
        out = high_pass(sine[None].repeat(12, 0), 500, 0.5)[0]
        inner = slice(20 * 500, 40 * 500)
        assert np.dot(out[inner], sine[inner]) / np.dot(sine[inner], sine[inner]) == pytest.approx(gain, abs=0.01)
