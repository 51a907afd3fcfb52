"""Pure functions on arrays of one record's signal, (leads, samples)."""

from collections.abc import Sequence

import numpy as np

from bench.errors import UserError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")  # the order of every store


def lead_order(names: Sequence[str]) -> list[int]:
    """Index of each of the 12 leads in names (any case, any order); UserError when they are not those 12."""
    position = {str(name).strip().casefold(): i for i, name in enumerate(names)}
    missing = [lead for lead in LEADS if lead.casefold() not in position]
    if missing or len(names) != len(LEADS):
        raise UserError(f"has leads {', '.join(map(str, names)) or 'none'}; the 12 leads {', '.join(LEADS)} are needed")
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


def constant_leads(signal: np.ndarray) -> list[str]:
    """Names of the leads that never change."""
    flat = signal.min(axis=1) == signal.max(axis=1)
    return [lead for lead, is_flat in zip(LEADS, flat, strict=True) if is_flat]


def to_int16(signal: np.ndarray, scale: float) -> np.ndarray:
    """round(signal / scale) as int16; UserError when a value does not fit."""
    units = np.rint(signal / scale)
    if np.abs(units).max(initial=0) > 32767:
        raise UserError(f"reaches {np.abs(signal).max():.4g}, more than int16 holds at {scale:g} per unit")
    return units.astype(np.int16)
