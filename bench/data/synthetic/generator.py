"""Synthetic 12-lead ECG from a moving cardiac dipole.

The model is that of McSharry et al. 2003 (IEEE TBME 50:289), in which waves are Gaussians in the phase of the beat, extended to
three dimensions as in Sameni et al. 2007 (EURASIP J Adv Signal Process 2007:43407): a wave is a Gaussian times a dipole vector.
Dower's lead vectors project the dipole to the leads (Dower et al. 1980, Clin Cardiol 3:87). So records without noise have rank 3
and obey Einthoven's and Goldberger's laws. The waves of each diagnosis are in conditions.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from bench.core.errors import unknown
from bench.data.synthetic.conditions import (
    CONDITIONS,
    NORMAL_BEAT,
    PVC_LEFT,
    PVC_RIGHT,
    QRS_ONSET_MS,
    SOKOLOW_LIMIT_MV,
    STATEMENT_SETS,
    Wave,
)
from bench.data.synthetic.noise import electrode_noise

# Dower et al. 1980; Edenbrandt & Pahlm 1988 (J Electrocardiol 21:361). Axes: left, foot, back.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],  # V6
    ]
)


def draw_statements(rng: np.random.Generator) -> tuple[str, ...]:
    """Draw the statements of one record from STATEMENT_SETS by weight."""
    sets, weights = list(STATEMENT_SETS), np.array(list(STATEMENT_SETS.values()))
    return sets[rng.choice(len(sets), p=weights / weights.sum())]


@dataclass(frozen=True)
class Patient:
    """What the records of a patient share. All spreads are choices of this benchmark."""

    heart: Rotation  # position of the heart in the chest
    recovery: Rotation  # rotation of T against QRS
    voltage: float  # factor of all voltages, by body build
    qrs_width: float
    qt_ratio: float
    pr_ms: float
    shape: Mapping[str, np.ndarray]  # wave -> (3,) gain of its vector
    ectopic: Mapping[str, Wave]


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient without a condition."""

    def rotation(sd_degrees: Sequence[float]) -> Rotation:
        return Rotation.from_euler("zyx", np.clip(rng.standard_normal(3), -2, 2) * sd_degrees, degrees=True)

    return Patient(
        heart=rotation((14, 10, 7)),
        recovery=rotation((7, 7, 5)),
        voltage=float(np.exp(0.2 * rng.standard_normal())),
        qrs_width=float(np.clip(1 + 0.07 * rng.standard_normal(), 0.9, 1.12)),
        qt_ratio=float(np.clip(1 + 0.04 * rng.standard_normal(), 0.92, 1.1)),
        pr_ms=float(rng.uniform(130, 190)),  # normal 120-200 ms
        shape={name: np.exp(0.14 * rng.standard_normal(3)) for name in NORMAL_BEAT},
        ectopic=(PVC_RIGHT, PVC_LEFT)[rng.integers(2)],
    )


def draw_record(statements: tuple[str, ...], rng: np.random.Generator, *, patient: Patient | None = None,
                rate_hz: int = 500, seconds: float = 10.0, noise: bool = True) -> np.ndarray:
    """(12, T) ECG in mV of this patient (None: a new one) with these statements, leads in the order of a store."""
    patient = patient or draw_patient(rng)
    if strange := [name for name in statements if name not in CONDITIONS]:
        raise unknown("statement", strange[0], CONDITIONS)
    waves, rate_per_min, pr_ms = _beat(statements, patient, rng)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    breath_hz, breath_turn = rng.normal(0.25, 0.02), 2 * np.pi * rng.random()  # 0.25 Hz: McSharry 2003
    breath = 2 * np.pi * breath_hz * time_s + breath_turn
    at_s, ectopic = _beat_times(statements, rate_per_min, seconds, rng, breath_hz=breath_hz, breath_turn=breath_turn)
    rr_s = np.diff(at_s, prepend=at_s[0] - 60 / rate_per_min)
    # Fridericia 1920: QT goes with the cube root of RR; the T wave follows the cycle before it.
    stretch = patient.qt_ratio * np.clip(rr_s, 0.4, 1.6) ** (1 / 3)
    premature = {name: _turn(wave, name, patient) for name, wave in patient.ectopic.items()}
    centres, sds, vectors = [], [], []
    for late, table in ((False, waves), (True, premature)):
        beats = np.flatnonzero(ectopic == late)
        size = np.exp(0.03 * rng.standard_normal(len(beats)))  # spread from beat to beat, a choice of this benchmark
        for name, (at_ms, sd_ms, *vector_mv) in table.items():
            scale = stretch[beats] if name[0] == "T" or name == "ST" else np.ones(len(beats))
            shift_ms = QRS_ONSET_MS * patient.qrs_width - pr_ms if name[0] == "P" else 0.0
            width = np.exp(0.02 * rng.standard_normal(len(beats)))
            centres.append(at_s[beats] + (at_ms + shift_ms) * scale / 1000)
            sds.append(sd_ms * scale * width / 1000)
            vectors.append(size[:, None] * np.array(vector_mv))
    dipole = _gaussians(time_s, np.concatenate(centres), np.concatenate(sds), np.concatenate(vectors))
    if "AFIB" in statements:
        dipole += patient.heart.as_matrix() @ _fibrillation(time_s, rng)
    dipole = _breathe(dipole, breath, rng)
    eight = DOWER @ dipole
    if noise:
        eight = eight + electrode_noise(time_s, breath, rate_hz, rng)
    return _twelve(eight)


def _twelve(eight: np.ndarray) -> np.ndarray:
    """(8, T) I, II, V1-V6 -> (12, T): III by Einthoven's law, aVR, aVL, aVF by Goldberger's."""
    one, two = eight[0], eight[1]
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *eight[2:]])


def _gaussians(time_s: np.ndarray, centre_s: np.ndarray, sd_s: np.ndarray, vector_mv: np.ndarray) -> np.ndarray:
    """(3, T) dipole in mV: the sum of n Gaussians with (n, 3) vectors, each cut at 6 sd of the widest."""
    first, step = time_s[0], time_s[1] - time_s[0]
    reach = int(np.ceil(6 * sd_s.max() / step))
    near = np.rint((centre_s[:, None] - first) / step).astype(int) + np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * ((first + near * step - centre_s[:, None]) / sd_s[:, None]) ** 2)
    bell *= (near >= 0) & (near < len(time_s))
    near = near.clip(0, len(time_s) - 1).ravel()
    return np.stack([np.bincount(near, (bell * part[:, None]).ravel(), len(time_s)) for part in vector_mv.T])


def _turn(wave: Wave, name: str, patient: Patient) -> Wave:
    """The wave with the position of this patient's heart."""
    vector = patient.heart.apply(np.array(wave[2:]) * patient.voltage * patient.shape[name])
    qrs = name[0] in "QRS" and name != "ST"
    if not qrs:
        vector = patient.recovery.apply(vector)
    width = patient.qrs_width if qrs else 1.0
    return Wave(wave.at_ms * width, wave.sd_ms * width, *vector.tolist())


def _beat(statements: tuple[str, ...], patient: Patient,
          rng: np.random.Generator) -> tuple[dict[str, Wave], float, float]:
    """The patient's beat, rate (1/min) and PR (ms) under these statements."""
    waves, gain = dict(NORMAL_BEAT), dict.fromkeys(NORMAL_BEAT, 1.0)
    low, high = CONDITIONS["SR"].rate_per_min or (0, 0)
    pr_ms, sokolow_mv = patient.pr_ms, None
    for name, spec in CONDITIONS.items():
        if name not in statements:
            continue
        waves |= spec.waves
        for prefix, (least, most) in spec.gain.items():
            factor = rng.uniform(least, most)
            gain |= {wave: factor * gain[wave] for wave in gain if wave.startswith(prefix)}
        low, high = spec.rate_per_min or (low, high)
        pr_ms = rng.uniform(*spec.pr_ms) if spec.pr_ms else pr_ms
        sokolow_mv = rng.uniform(*spec.sokolow_mv) if spec.sokolow_mv else sokolow_mv
    beat = {name: _turn(wave, name, patient) for name, wave in waves.items()}
    qrs = [name for name in beat if name[0] in "QRS" and name != "ST"]
    index_mv = _sokolow(np.array([beat[name] for name in qrs]))
    factor = sokolow_mv / index_mv if sokolow_mv else min(1.0, (SOKOLOW_LIMIT_MV - 0.2) / index_mv)
    gain |= {name: factor * gain[name] for name in qrs}
    beat = {n: Wave(w.at_ms, w.sd_ms, *(gain[n] * np.array(w[2:])).tolist()) for n, w in beat.items() if gain[n]}
    return beat, rng.uniform(low, high), pr_ms


def _sokolow(qrs: np.ndarray) -> float:
    """S V1 + larger R of V5, V6, in mV, of the (n, 5) waves of a QRS complex."""
    leads = DOWER @ _gaussians(np.arange(-100.0, 150.0), qrs[:, 0], qrs[:, 1], qrs[:, 2:])
    return float(leads[6:].max() - leads[2].min())


def _beat_times(statements: tuple[str, ...], rate_per_min: float, seconds: float, rng: np.random.Generator, *,
                breath_hz: float, breath_turn: float) -> tuple[np.ndarray, np.ndarray]:
    """(B,) times of the R waves in s, a little beyond both ends, and (B,) whether the beat is ectopic."""
    mean_s = 60 / rate_per_min
    # Task Force 1996 (Circulation 93:1043): HF at the breath's rate, LF (Mayer waves) at 0.1 Hz. The benchmark chose the sizes.
    hf, lf, jitter = rng.uniform(0.01, 0.045), rng.uniform(0.005, 0.025), 0.006
    phase, spread = 2 * np.pi * rng.random(), rng.uniform(0.18, 0.27)
    times = [-rng.uniform(1.0, 2.0) * mean_s]
    while times[-1] < seconds + 1:
        now = times[-1]
        if "AFIB" in statements:  # independent gamma intervals; the floor is the node's refractory period
            rr_s = max(0.34, mean_s * rng.gamma(spread**-2, spread**2))
        else:
            tone = hf * np.sin(2 * np.pi * breath_hz * now + breath_turn)
            tone += lf * np.sin(2 * np.pi * 0.1 * now + phase)
            rr_s = mean_s * (1 + tone + jitter * rng.standard_normal())
        times.append(now + rr_s)
    at_s = np.array(times)
    ectopic = np.zeros(len(at_s), dtype=bool)
    if "PVC" in statements:
        inside = np.flatnonzero((at_s > 1) & (at_s < seconds - 1))[rng.integers(2) :: 2]
        ectopic[rng.choice(inside, min(len(inside), int(rng.integers(1, 4))), replace=False)] = True
        # The sinus node is not reset: the beat after the premature one comes on time, after a full pause.
        early = np.flatnonzero(ectopic)
        at_s[early] = at_s[early - 1] + rng.uniform(0.62, 0.74, len(early)) * (at_s[early] - at_s[early - 1])
    return at_s, ectopic


def _fibrillation(time_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, T) dipole of f waves in mV: five harmonics of a wandering sawtooth (Stridh & Sornmo 2001, IEEE TBME
    48:105), 4-9 Hz, largest towards V1; the phase differs between the axes."""
    size = np.array([0.02, 0.035, 0.06])[:, None] * rng.uniform(0.6, 1.6)
    turn = 2 * np.pi * rng.random((3, 2, 1))
    phase = 2 * np.pi * rng.uniform(4.3, 8.7) * time_s + 2 * np.sin(2 * np.pi * 0.1 * time_s + turn[:, 0]) + turn[:, 1]
    swell = 1 + 0.35 * np.sin(2 * np.pi * 0.08 * time_s + turn[:, 1])
    return np.asarray(-size * swell * sum(2 / (i * np.pi) * np.sin(i * phase) for i in range(1, 6)))


def _breathe(dipole: np.ndarray, breath: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, T) dipole turned in the frontal plane and swelled with the breath, which moves the axis
    (Moody et al. 1985, Comput Cardiol 12:113). Degrees and per cent are choices of this benchmark."""
    angle = np.radians(rng.uniform(1, 5)) * np.sin(breath)
    left, foot, back = dipole * (1 + rng.uniform(0.01, 0.06) * np.sin(breath + 0.6))
    return np.stack([left * np.cos(angle) - foot * np.sin(angle), left * np.sin(angle) + foot * np.cos(angle), back])
