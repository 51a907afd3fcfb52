"""Noise of a recording: wander of the baseline, muscles, mains."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfftfreq


def band_noise(shape: tuple[int, int], rate_hz: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> np.ndarray:
    """(C, T) Gaussian noise of unit sd with power only in the band. It is cut from 2 T samples, so that its two ends differ."""
    length = next_fast_len(2 * shape[1], real=True)
    hz = rfftfreq(length, 1 / rate_hz)
    inside = (hz >= low_hz) & (hz <= high_hz)
    spectrum = np.zeros((shape[0], len(hz)), dtype=complex)
    half = rng.standard_normal((2, shape[0], int(inside.sum())))
    spectrum[:, inside] = half[0] + 1j * half[1]
    return np.asarray(irfft(spectrum, length)[:, : shape[1]] * length / (2 * np.sqrt(max(1, int(inside.sum())))))


def electrode_noise(time_s: np.ndarray, breath: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """(8, T) noise of I, II, V1-V6 in mV, added at the nine electrodes so that Einthoven's law still holds.

    Bands: wander 0.05-0.5 Hz, muscle 20-150 Hz, mains 50 Hz with its third harmonic (Sornmo & Laguna 2005,
    Bioelectrical Signal Processing, ch. 7). Levels, from clean to poor, are choices of this benchmark.
    """
    shape = (9, len(time_s))  # RA, LA, LL, V1-V6
    wander, muscle, mains = np.array([0.022, 0.007, 0.0025]) * np.exp(0.7 * np.clip(rng.standard_normal(3), -2, 2))
    each = np.exp(0.4 * np.clip(rng.standard_normal((3, 9, 1)), -2, 2))  # electrode contact
    nyquist_hz = 0.45 * rate_hz
    drift = band_noise(shape, rate_hz, 0.05, 0.5, rng) + 0.7 * rng.standard_normal((9, 1)) * np.sin(breath)
    volts = wander * each[0] * drift
    effort = np.exp(0.4 * band_noise((1, shape[1]), rate_hz, 0.1, 0.5, rng))
    volts += muscle * each[1] * effort * band_noise(shape, rate_hz, 20, min(150.0, nyquist_hz), rng)
    hum = 2 * np.pi * (rng.normal(50, 0.03) * time_s + rng.random())
    for harmonic, part in ((1, 1.0), (3, 0.15)):
        if 50 * harmonic < nyquist_hz:
            volts += mains * part * each[2] * np.sin(harmonic * hum + 0.4 * rng.standard_normal((9, 1)))
    right, left, foot = volts[:3]
    return np.stack([left - right, foot - right, *(volts[3:] - volts[:3].mean(axis=0))])
