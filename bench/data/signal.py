"""Pure functions on arrays of one record's signal, (leads, samples)."""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import fft
from scipy import signal as dsp

from bench.core.errors import UserError, unknown

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")  # the order of every store
EINTHOVEN = 0.05  # sd of I + III - II, in sd of II; up to 0.01 in 575 records of the corpora, 0.5 in LUDB's headers; ours
LARGEST = 32767  # steps; -32768 is WFDB's mark of a gap


def lead_order(names: Sequence[str]) -> list[int]:
    """Index of each of the 12 leads in names (any case, any order); UserError when they are not those 12."""
    position = {str(name).strip().casefold(): i for i, name in enumerate(names)}
    missing = [lead for lead in LEADS if lead.casefold() not in position]
    if missing or len(names) != len(LEADS):
        raise UserError(f"has leads {', '.join(map(str, names)).strip()!r:.200}; the 12 leads {', '.join(LEADS)} are needed")
    return [position[lead.casefold()] for lead in LEADS]


def fill_gaps(signal: np.ndarray) -> tuple[np.ndarray, int]:
    """Signal with NaN interpolated linearly per lead (ends: nearest value), and how many leads had gaps.

    A lead without any value is a UserError.
    """
    gaps = np.isnan(signal)
    leads = np.flatnonzero(gaps.any(axis=1))
    if len(leads):
        signal = signal.copy()
    for i in leads:
        known = np.flatnonzero(~gaps[i])
        if not len(known):
            raise UserError(f"lead {LEADS[i]} holds no value at all")
        signal[i, gaps[i]] = np.interp(np.flatnonzero(gaps[i]), known, signal[i, known])
    return signal, len(leads)


def breaks_einthoven(signal: np.ndarray) -> bool:
    """Whether lead I + lead III is not lead II: gains, or the order of the leads, are wrong. NaN are left out."""
    i, ii, iii = signal[:3, ~np.isnan(signal[:3]).any(axis=0)]
    return bool(len(ii)) and bool(np.std(i + iii - ii) > EINTHOVEN * np.std(ii) > 0)


def high_pass(signal: np.ndarray, rate_hz: float, cut_hz: float) -> np.ndarray:
    """The signal without what is slower than cut_hz: Butterworth of order 4, forwards and backwards (arXiv 2410.13867)."""
    return dsp.sosfiltfilt(_high_pass(rate_hz, cut_hz), signal, axis=1)


SHORTEST = 16  # samples that it can be given: it continues each end by 15 (scipy's sosfiltfilt)


@functools.cache
def _high_pass(rate_hz: float, cut_hz: float) -> np.ndarray:
    return dsp.butter(4, cut_hz, "highpass", fs=rate_hz, output="sos")


RESAMPLERS = ("fourier", "periodic")


def resample(signal: np.ndarray, from_hz: int, to_hz: int, method: str = "fourier") -> np.ndarray:
    """(leads, T) at from_hz -> (leads, round(T to / from)) at to_hz, float32.

    periodic: scipy.signal.resample, what the paper used. It takes the first sample for the last one's neighbour, so the
    ends of a signal that drifts ring. fourier: the same of what the line between the ends leaves, which is 0 at both.
    """
    if method not in RESAMPLERS:
        raise unknown("resampling method", method, RESAMPLERS)
    length, samples = signal.shape[1], round(signal.shape[1] * to_hz / from_hz)
    signal = signal.astype(np.float32)
    if method == "periodic":
        return dsp.resample(signal, samples, axis=1)
    first, rise = signal[:, 0].copy(), (signal[:, -1] - signal[:, 0]) / max(1, length - 1)
    place = np.arange(length, dtype=np.float32)
    for lead, a, b in zip(signal, first, rise, strict=True):  # one at a time: what is between stays in the cache
        lead -= a + b * place
    spectrum = fft.rfft(signal, axis=1, norm="forward", overwrite_x=True)
    if (half := min(length, samples)) % 2 == 0 and length != samples:  # the frequency that two halves of the spectrum share
        spectrum[:, half // 2] *= 0.5 if samples > length else 2
    out = fft.irfft(spectrum, samples, axis=1, norm="forward", overwrite_x=True)
    place = np.arange(samples, dtype=np.float32) * np.float32(length / samples)
    for lead, a, b in zip(out, first, rise, strict=True):
        lead += a + b * place
    return out


def to_int16(signal: np.ndarray, scale: float) -> tuple[np.ndarray, int]:
    """round(signal / scale) as int16, and how many samples were clipped because int16 does not hold them."""
    steps = np.rint(signal * (1 / scale))
    clipped = int(np.count_nonzero(np.abs(steps) > LARGEST))
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int16), clipped
