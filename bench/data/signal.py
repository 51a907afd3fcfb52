"""Functions on the signal of one record, (leads, samples): order the leads, fill gaps, filter, resample, convert to int16."""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import fft
from scipy import signal as dsp

from bench.core.errors import UserError, unknown

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")  # the order of every store
EINTHOVEN = 0.05  # largest allowed sd of I + III - II, in sd of II. 575 real records have at most 0.01; LUDB's headers give 0.5
LARGEST = 32767  # largest number of steps in a store; WFDB marks a gap by -32768


def lead_order(names: Sequence[str]) -> list[int]:
    """Index of each of the 12 leads in names (any case, any order); UserError if names are not these 12."""
    position = {str(name).strip().casefold(): i for i, name in enumerate(names)}
    missing = [lead for lead in LEADS if lead.casefold() not in position]
    if missing or len(names) != len(LEADS):
        raise UserError(f"has leads {', '.join(map(str, names)).strip()!r:.200}; the 12 leads {', '.join(LEADS)} are needed")
    return [position[lead.casefold()] for lead in LEADS]


def fill_gaps(signal: np.ndarray) -> tuple[np.ndarray, int]:
    """(the signal with NaN interpolated linearly per lead, at the ends by the nearest value; the number of leads with gaps).

    UserError if a lead has no value at all.
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
    """Whether lead I + lead III differs from lead II. Then the gains or the order of the leads are wrong. NaN are ignored."""
    i, ii, iii = signal[:3, ~np.isnan(signal[:3]).any(axis=0)]
    return bool(len(ii)) and bool(np.std(i + iii - ii) > EINTHOVEN * np.std(ii) > 0)


def high_pass(signal: np.ndarray, rate_hz: float, cut_hz: float) -> np.ndarray:
    """The signal without frequencies below cut_hz. Butterworth filter of order 4, forwards and backwards (arXiv 2410.13867)."""
    return np.asarray(dsp.sosfiltfilt(_high_pass(rate_hz, cut_hz), signal, axis=1))


SHORTEST = 16  # samples that high_pass needs: scipy's sosfiltfilt extends each end by 15


@functools.cache
def _high_pass(rate_hz: float, cut_hz: float) -> np.ndarray:
    return np.asarray(dsp.butter(4, cut_hz, "highpass", fs=rate_hz, output="sos"))


RESAMPLERS = ("fourier", "periodic")


def resample(signal: np.ndarray, from_hz: int, to_hz: int, method: str = "fourier") -> np.ndarray:
    """(leads, T) at from_hz -> (leads, round(T to / from)) at to_hz, float32.

    "periodic" is scipy.signal.resample, which the paper used. It treats the first sample as the neighbour of the last, so the
    ends of a drifting signal ring. "fourier" first subtracts the straight line between the first and the last sample, so that
    both ends are 0. It then does the same, and adds the line again.
    """
    if method not in RESAMPLERS:
        raise unknown("resampling method", method, RESAMPLERS)
    length, samples = signal.shape[1], round(signal.shape[1] * to_hz / from_hz)
    signal = signal.astype(np.float32)
    if method == "periodic":
        return np.asarray(dsp.resample(signal, samples, axis=1))
    first, rise = signal[:, 0].copy(), (signal[:, -1] - signal[:, 0]) / max(1, length - 1)
    place = np.arange(length, dtype=np.float32)
    for lead, a, b in zip(signal, first, rise, strict=True):  # one lead at a time stays in the cache
        lead -= a + b * place
    spectrum = fft.rfft(signal, axis=1, norm="forward", overwrite_x=True)
    if (half := min(length, samples)) % 2 == 0 and length != samples:  # both halves of the spectrum share this frequency
        spectrum[:, half // 2] *= 0.5 if samples > length else 2
    out = fft.irfft(spectrum, samples, axis=1, norm="forward", overwrite_x=True)
    place = np.arange(samples, dtype=np.float32) * np.float32(length / samples)
    for lead, a, b in zip(out, first, rise, strict=True):
        lead += a + b * place
    return np.asarray(out)


def to_int16(signal: np.ndarray, scale: float) -> tuple[np.ndarray, int]:
    """(round(signal / scale) as int16, the number of samples that were clipped because int16 cannot hold them)."""
    steps = np.rint(signal * (1 / scale))
    clipped = int(np.count_nonzero(np.abs(steps) > LARGEST))
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int16), clipped
