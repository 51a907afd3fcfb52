"""Synthetic 12-lead ECG from a moving cardiac dipole.

The model is McSharry et al. 2003 (IEEE TBME 50:289), waves as Gaussians in the phase of the beat, in three
dimensions as in Sameni et al. 2007 (EURASIP J Adv Signal Process 2007:43407): a wave is a Gaussian times a
dipole vector. Dower's lead vectors project the dipole (Dower et al. 1980, Clin Cardiol 3:87), so that records
without noise have rank 3 and obey Einthoven's and Goldberger's laws.

Dipole vectors, positions and widths are ours: chosen on Dower's lead vectors so that the leads meet the
criteria named beside each condition. AHA/ACCF/HRS 2009 is J Am Coll Cardiol 53: part III (976) for
conduction, part IV (982) for ST, T and QT, part V (992) for hypertrophy. UDMI is the Fourth Universal
Definition of Myocardial Infarction (Thygesen et al. 2018, Circulation 138:e618).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, next_fast_len, rfftfreq
from scipy.spatial.transform import Rotation

from bench.core.errors import unknown

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


class Wave(NamedTuple):
    """A Gaussian of the dipole: centre after R (P: after P onset; ST, T: at RR 1 s), sd and vector."""

    at_ms: float
    sd_ms: float
    left_mv: float
    foot_mv: float
    back_mv: float


# fmt: off
QRS_ONSET_MS = -48.0  # of the normal beat below
# P: right, then left atrium. QRS: septum, free wall, posterobasal wall, base (order: Durrer et al. 1970,
# Circulation 41:899). T as two Gaussians, which makes the slow rise and fast fall of the normal T.
NORMAL_BEAT: Mapping[str, Wave] = MappingProxyType({
    "P1": Wave(34, 15, 0.03, 0.06, -0.05),
    "P2": Wave(62, 17, 0.06, 0.06, 0.03),
    "Q": Wave(-24, 8.5, -0.14, -0.02, -0.34),
    "R": Wave(0, 11, 1.16, 0.74, 0.16),
    "S": Wave(18, 10.5, 0.02, -0.08, 0.90),
    "S2": Wave(33, 8, -0.24, -0.12, 0.06),
    "ST": Wave(110, 42, 0.01, 0.01, -0.03),
    "T1": Wave(215, 48, 0.15, 0.08, -0.13),
    "T2": Wave(268, 34, 0.21, 0.14, -0.19),
})
PVC_RIGHT = {  # from the right outflow tract: left bundle branch block shape, inferior axis
    "Q": Wave(-38, 20, 0.20, 0.60, 0.20), "R": Wave(0, 25, 0.55, 1.15, 0.75),
    "S": Wave(42, 20, 0.30, 0.35, 0.55),
    "T1": Wave(205, 55, -0.25, -0.35, -0.30), "T2": Wave(260, 40, -0.22, -0.35, -0.25),
}
PVC_LEFT = {  # from the left ventricle: right bundle branch block shape, superior axis
    "Q": Wave(-38, 20, -0.10, -0.40, -0.40), "R": Wave(0, 25, -0.45, -0.85, -0.85),
    "S": Wave(42, 20, -0.4, -0.3, -0.3),
    "T1": Wave(205, 55, 0.25, 0.30, 0.30), "T2": Wave(260, 40, 0.20, 0.25, 0.25),
}
# fmt: on


@dataclass(frozen=True)
class Condition:
    """What one PTB-XL statement does to the normal beat and rhythm; ranges are drawn uniformly per record."""

    name: str
    kind: str  # "diagnostic", "form", "rhythm" or "diagnostic form", as in PTB-XL's scp_statements.csv
    superclass: str = ""
    subclass: str = ""
    waves: Mapping[str, Wave] = field(default_factory=dict)  # in place of the normal beat's
    gain: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # prefix of wave names -> range
    pr_ms: tuple[float, float] | None = None
    rate_per_min: tuple[float, float] | None = None
    sokolow_mv: tuple[float, float] | None = None


SOKOLOW_LIMIT_MV = 3.5  # S V1 + larger R of V5, V6: Sokolow & Lyon 1949 (Am Heart J 37:161)
# fmt: off
# Applied in this order. Rates: sinus rhythm 60-100/min by convention; margins inside the limits are ours.
CONDITIONS: Mapping[str, Condition] = MappingProxyType({
    "NORM": Condition("normal ECG", "diagnostic", "NORM", "NORM"),
    # Q >= 0.03 s in two of II, III, aVF (UDMI), T inverted in the same leads.
    "IMI": Condition(
        "inferior myocardial infarction", "diagnostic", "MI", "IMI",
        {"Q": Wave(-24, 12, 0.10, -0.52, -0.18), "R": Wave(2, 11, 1.05, 0.40, 0.14),
         "ST": Wave(110, 42, 0, 0.03, 0),
         "T1": Wave(215, 48, 0.12, -0.06, -0.08), "T2": Wave(268, 34, 0.18, -0.16, -0.10)},
        {"T": (0.4, 1.2), "Q": (0.8, 1.2)},
    ),
    # Q or QS in V1-V3, loss of R to V4 (UDMI), T inverted there.
    "AMI": Condition(
        "anterior myocardial infarction", "diagnostic", "MI", "AMI",
        {"Q": Wave(-22, 11, 0.05, 0.04, 0.36), "R": Wave(0, 11, 0.55, 0.70, 0.55),
         "S": Wave(18, 10, 0, -0.1, 0.62), "ST": Wave(120, 42, 0, 0, -0.07),
         "T1": Wave(215, 48, 0.08, 0.06, 0.02), "T2": Wave(268, 34, 0.06, 0.13, 0.24)},
        {"ST": (0.0, 1.5), "T2": (0.5, 1.3)},
    ),
    # Voltage: drawn as the Sokolow-Lyon sum above its limit (AHA/ACCF/HRS 2009 part V).
    "LVH": Condition("left ventricular hypertrophy", "diagnostic", "HYP", "LVH", sokolow_mv=(3.8, 5.6)),
    # QRS >= 120 ms, broad notched R in I, V5, V6 without q, rS or QS in V1, discordant ST-T (part III).
    "CLBBB": Condition(
        "complete left bundle branch block", "diagnostic", "CD", "CLBBB",
        {"Q": Wave(-34, 14, 0.70, 0.30, 0.42), "R": Wave(-2, 15, 0.56, 0.12, 0.85),
         "S": Wave(34, 15, 0.78, -0.06, 0.80), "S2": Wave(58, 13, 0.30, -0.10, 0.42),
         "ST": Wave(130, 42, -0.10, -0.02, -0.18),
         "T1": Wave(215, 50, -0.17, -0.02, -0.25), "T2": Wave(272, 36, -0.22, -0.05, -0.30)},
    ),
    # QRS >= 120 ms, rsR' in V1, broad S in I and V6, T inverted in V1 (part III).
    "CRBBB": Condition(
        "complete right bundle branch block", "diagnostic", "CD", "CRBBB",
        {"S": Wave(17, 10, 0.05, -0.10, 0.42), "S2": Wave(57, 20, -0.60, 0.02, -0.70),
         "ST": Wave(130, 42, 0.02, 0.01, 0.04),
         "T1": Wave(215, 48, 0.16, 0.08, 0.06), "T2": Wave(268, 34, 0.22, 0.15, 0.14)},
        {"S2": (0.8, 1.3)},
    ),
    # PR > 200 ms (Kusumoto et al. 2019, Circulation 140:e382).
    "1AVB": Condition("first degree AV block", "diagnostic", "CD", "_AVB", pr_ms=(220, 310)),
    # Low or flat T, here below half of the normal one (part IV: low, flat T).
    "NDT": Condition(
        "non-diagnostic T abnormalities", "diagnostic form", "STTC", "STTC", gain={"T": (-0.15, 0.4)},
    ),
    # ST depression under 0.1 mV.
    "NST_": Condition(
        "non-specific ST changes", "diagnostic form", "STTC", "NST_",
        {"ST": Wave(120, 45, -0.07, -0.05, 0.03)}, {"ST": (0.8, 1.4), "T": (0.4, 0.9)},
    ),
    # Horizontal ST depression >= 0.05 mV in contiguous leads, T inverted (UDMI).
    "ISC_": Condition(
        "non-specific ischemic", "diagnostic", "STTC", "ISC_",
        {"ST": Wave(130, 48, -0.13, -0.09, 0.06),
         "T1": Wave(215, 45, -0.09, -0.05, 0.06), "T2": Wave(268, 32, -0.19, -0.10, 0.14)},
        {"ST": (0.7, 1.5), "T": (0.6, 1.6)},
    ),
    # Premature, wide, no P, discordant T, full compensatory pause: see PVC_RIGHT and PVC_LEFT.
    "PVC": Condition("ventricular premature complex", "form"),
    "SR": Condition("sinus rhythm", "rhythm", rate_per_min=(62, 97)),
    "SBRAD": Condition("sinus bradycardia", "rhythm", rate_per_min=(42, 57)),
    "STACH": Condition("sinus tachycardia", "rhythm", rate_per_min=(104, 135)),
    # No P, fibrillatory waves, irregular RR (January et al. 2014, Circulation 130:e199).
    "AFIB": Condition("atrial fibrillation", "rhythm", gain={"P": (0.0, 0.0)}, rate_per_min=(65, 130)),
})

# Weights are ours: a third normal, the rare more frequent than in PTB-XL, so that some hundred records teach.
STATEMENT_SETS: Mapping[tuple[str, ...], float] = MappingProxyType({
    ("NORM", "SR"): 24, ("NORM", "SBRAD"): 7, ("NORM", "STACH"): 5, ("PVC", "SR"): 4,
    ("AFIB",): 5, ("NDT", "AFIB"): 3, ("IMI", "SR"): 7, ("IMI", "PVC", "SR"): 2, ("IMI", "1AVB", "SBRAD"): 2,
    ("AMI", "SR"): 7, ("AMI", "ISC_", "STACH"): 2, ("LVH", "SR"): 5, ("LVH", "ISC_", "SR"): 4,
    ("LVH", "NDT", "SR"): 3,
    ("CLBBB", "SR"): 5, ("CRBBB", "SR"): 5, ("CRBBB", "1AVB", "SR"): 2, ("1AVB", "SR"): 4,
    ("NDT", "SR"): 5, ("NST_", "SR"): 5, ("ISC_", "SR"): 5,
})
# fmt: on


def draw_statements(rng: np.random.Generator) -> tuple[str, ...]:
    """One record's statements, drawn from STATEMENT_SETS by weight."""
    sets, weights = list(STATEMENT_SETS), np.array(list(STATEMENT_SETS.values()))
    return sets[rng.choice(len(sets), p=weights / weights.sum())]


@dataclass(frozen=True)
class Patient:
    """What a patient's records share. All spreads are ours."""

    heart: Rotation  # position of the heart in the chest
    recovery: Rotation  # T against QRS
    voltage: float  # body build
    qrs_width: float
    qt_ratio: float
    pr_ms: float
    shape: Mapping[str, np.ndarray]  # wave -> (3,) gain of its vector
    ectopic: Mapping[str, Wave]


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient without a condition."""

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


def record(
    condition: tuple[str, ...],
    rng: np.random.Generator,
    *,
    patient: Patient | None = None,
    rate_hz: int = 500,
    seconds: float = 10.0,
    noise: bool = True,
) -> np.ndarray:
    """(12, T) ECG in mV of this patient (None: a new one) with these statements, leads in a store's order."""
    patient = patient or draw_patient(rng)
    if strange := [name for name in condition if name not in CONDITIONS]:
        raise unknown("statement", strange[0], CONDITIONS)
    waves, rate_per_min, pr_ms = _beat(condition, patient, rng)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    breath_hz, breath_turn = rng.normal(0.25, 0.02), 2 * np.pi * rng.random()  # 0.25 Hz: McSharry 2003
    breath = 2 * np.pi * breath_hz * time_s + breath_turn
    at_s, ectopic = _beat_times(
        condition, rate_per_min, seconds, rng, breath_hz=breath_hz, breath_turn=breath_turn
    )

    centres, sds, vectors = [], [], []
    rr_s = np.diff(at_s, prepend=at_s[0] - 60 / rate_per_min)
    # Fridericia 1920: QT goes with the cube root of RR; the T wave follows the cycle before it.
    stretch = patient.qt_ratio * np.clip(rr_s, 0.4, 1.6) ** (1 / 3)
    for late, table in (
        (False, waves),
        (True, {n: _turned(w, n, patient) for n, w in patient.ectopic.items()}),
    ):
        beats = np.flatnonzero(ectopic == late)
        size = np.exp(0.03 * rng.standard_normal(len(beats)))  # beat-to-beat spread, ours
        for name, (at_ms, sd_ms, *vector_mv) in table.items():
            scale = stretch[beats] if name[0] == "T" or name == "ST" else np.ones(len(beats))
            shift_ms = QRS_ONSET_MS * patient.qrs_width - pr_ms if name[0] == "P" else 0.0
            width = np.exp(0.02 * rng.standard_normal(len(beats)))
            centres.append(at_s[beats] + (at_ms + shift_ms) * scale / 1000)
            sds.append(sd_ms * scale * width / 1000)
            vectors.append(size[:, None] * np.array(vector_mv))
    dipole = _gaussians(time_s, np.concatenate(centres), np.concatenate(sds), np.concatenate(vectors))
    if "AFIB" in condition:
        dipole += patient.heart.as_matrix() @ _fibrillation(time_s, rng)
    dipole = _breathe(dipole, breath, rng)
    eight = DOWER @ dipole
    if noise:
        eight = eight + _noise(time_s, breath, rate_hz, rng)
    return _twelve(eight)


def _twelve(eight: np.ndarray) -> np.ndarray:
    """(8, T) I, II, V1-V6 -> (12, T): III by Einthoven's law, aVR, aVL, aVF by Goldberger's."""
    one, two = eight[0], eight[1]
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *eight[2:]])


def _gaussians(
    time_s: np.ndarray, centre_s: np.ndarray, sd_s: np.ndarray, vector_mv: np.ndarray
) -> np.ndarray:
    """(3, T) dipole in mV: the sum of n Gaussians with (n, 3) vectors, each cut at 6 sd of the widest."""
    first, step = time_s[0], time_s[1] - time_s[0]
    reach = int(np.ceil(6 * sd_s.max() / step))
    near = np.rint((centre_s[:, None] - first) / step).astype(int) + np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * ((first + near * step - centre_s[:, None]) / sd_s[:, None]) ** 2)
    bell *= (near >= 0) & (near < len(time_s))
    near = near.clip(0, len(time_s) - 1).ravel()
    return np.stack([np.bincount(near, (bell * part[:, None]).ravel(), len(time_s)) for part in vector_mv.T])


def _turned(wave: Wave, name: str, patient: Patient) -> Wave:
    """The wave in this patient's chest."""
    vector = patient.heart.apply(np.array(wave[2:]) * patient.voltage * patient.shape[name])
    qrs = name[0] in "QRS" and name != "ST"
    if not qrs:
        vector = patient.recovery.apply(vector)
    width = patient.qrs_width if qrs else 1.0
    return Wave(wave.at_ms * width, wave.sd_ms * width, *vector.tolist())


def _beat(
    condition: tuple[str, ...], patient: Patient, rng: np.random.Generator
) -> tuple[dict[str, Wave], float, float]:
    """The patient's beat, rate (1/min) and PR (ms) under these statements."""
    waves, gain = dict(NORMAL_BEAT), dict.fromkeys(NORMAL_BEAT, 1.0)
    low, high = CONDITIONS["SR"].rate_per_min or (0, 0)
    pr_ms, sokolow_mv = patient.pr_ms, None
    for name, spec in CONDITIONS.items():
        if name not in condition:
            continue
        waves |= spec.waves
        for prefix, (least, most) in spec.gain.items():
            factor = rng.uniform(least, most)
            gain |= {wave: factor * gain[wave] for wave in gain if wave.startswith(prefix)}
        low, high = spec.rate_per_min or (low, high)
        pr_ms = rng.uniform(*spec.pr_ms) if spec.pr_ms else pr_ms
        sokolow_mv = rng.uniform(*spec.sokolow_mv) if spec.sokolow_mv else sokolow_mv
    beat = {name: _turned(wave, name, patient) for name, wave in waves.items()}
    qrs = [name for name in beat if name[0] in "QRS" and name != "ST"]
    index_mv = _sokolow(np.array([beat[name] for name in qrs]))
    factor = sokolow_mv / index_mv if sokolow_mv else min(1.0, (SOKOLOW_LIMIT_MV - 0.2) / index_mv)
    gain |= {name: factor * gain[name] for name in qrs}
    beat = {
        n: Wave(w.at_ms, w.sd_ms, *(gain[n] * np.array(w[2:])).tolist()) for n, w in beat.items() if gain[n]
    }
    return beat, rng.uniform(low, high), pr_ms


def _sokolow(qrs: np.ndarray) -> float:
    """S V1 + larger R of V5, V6, in mV, of the (n, 5) waves of a QRS complex."""
    leads = DOWER @ _gaussians(np.arange(-100.0, 150.0), qrs[:, 0], qrs[:, 1], qrs[:, 2:])
    return float(leads[6:].max() - leads[2].min())


def _beat_times(
    condition: tuple[str, ...],
    rate_per_min: float,
    seconds: float,
    rng: np.random.Generator,
    *,
    breath_hz: float,
    breath_turn: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) times of the R waves in s, a little beyond both ends, and (B,) whether the beat is ectopic."""
    mean_s = 60 / rate_per_min
    # Task Force 1996 (Circulation 93:1043): HF at the breath's rate, LF (Mayer waves) at 0.1 Hz. Sizes: ours.
    hf, lf, jitter = rng.uniform(0.01, 0.045), rng.uniform(0.005, 0.025), 0.006
    phase, spread = 2 * np.pi * rng.random(), rng.uniform(0.18, 0.27)
    times = [-rng.uniform(1.0, 2.0) * mean_s]
    while times[-1] < seconds + 1:
        now = times[-1]
        if "AFIB" in condition:  # independent gamma intervals; the floor is the node's refractory period
            rr_s = max(0.34, mean_s * rng.gamma(spread**-2, spread**2))
        else:
            tone = hf * np.sin(2 * np.pi * breath_hz * now + breath_turn)
            tone += lf * np.sin(2 * np.pi * 0.1 * now + phase)
            rr_s = mean_s * (1 + tone + jitter * rng.standard_normal())
        times.append(now + rr_s)
    at_s = np.array(times)
    ectopic = np.zeros(len(at_s), dtype=bool)
    if "PVC" in condition:
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
    phase = (
        2 * np.pi * rng.uniform(4.3, 8.7) * time_s
        + 2 * np.sin(2 * np.pi * 0.1 * time_s + turn[:, 0])
        + turn[:, 1]
    )
    swell = 1 + 0.35 * np.sin(2 * np.pi * 0.08 * time_s + turn[:, 1])
    return -size * swell * sum(2 / (i * np.pi) * np.sin(i * phase) for i in range(1, 6))


def _breathe(dipole: np.ndarray, breath: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, T) dipole turned in the frontal plane and swelled with the breath, which moves the axis
    (Moody et al. 1985, Comput Cardiol 12:113). Degrees and per cent are ours."""
    angle = np.radians(rng.uniform(1, 5)) * np.sin(breath)
    left, foot, back = dipole * (1 + rng.uniform(0.01, 0.06) * np.sin(breath + 0.6))
    return np.stack(
        [left * np.cos(angle) - foot * np.sin(angle), left * np.sin(angle) + foot * np.cos(angle), back]
    )


def _band(
    shape: tuple[int, int], rate_hz: int, low_hz: float, high_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """(C, T) Gaussian noise of unit sd with power in the band only, cut from 2 T so that the ends differ."""
    length = next_fast_len(2 * shape[1], real=True)
    hz = rfftfreq(length, 1 / rate_hz)
    inside = (hz >= low_hz) & (hz <= high_hz)
    spectrum = np.zeros((shape[0], len(hz)), dtype=complex)
    half = rng.standard_normal((2, shape[0], int(inside.sum())))
    spectrum[:, inside] = half[0] + 1j * half[1]
    return irfft(spectrum, length)[:, : shape[1]] * length / (2 * np.sqrt(max(1, int(inside.sum()))))


def _noise(time_s: np.ndarray, breath: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """(8, T) noise of I, II, V1-V6 in mV, made at the nine electrodes so that Einthoven's law still holds.

    Bands: wander 0.05-0.5 Hz, muscle 20-150 Hz, mains 50 Hz with its third harmonic (Sornmo & Laguna 2005,
    Bioelectrical Signal Processing, ch. 7). Levels are ours: clean to poor.
    """
    shape = (9, len(time_s))  # RA, LA, LL, V1-V6
    wander, muscle, mains = np.array([0.022, 0.007, 0.0025]) * np.exp(
        0.7 * np.clip(rng.standard_normal(3), -2, 2)
    )
    each = np.exp(0.4 * np.clip(rng.standard_normal((3, 9, 1)), -2, 2))  # electrode contact
    nyquist_hz = 0.45 * rate_hz
    drift = _band(shape, rate_hz, 0.05, 0.5, rng) + 0.7 * rng.standard_normal((9, 1)) * np.sin(breath)
    volts = wander * each[0] * drift
    effort = np.exp(0.4 * _band((1, shape[1]), rate_hz, 0.1, 0.5, rng))
    volts += muscle * each[1] * effort * _band(shape, rate_hz, 20, min(150.0, nyquist_hz), rng)
    hum = 2 * np.pi * (rng.normal(50, 0.03) * time_s + rng.random())
    for harmonic, part in ((1, 1.0), (3, 0.15)):
        if 50 * harmonic < nyquist_hz:
            volts += mains * part * each[2] * np.sin(harmonic * hum + 0.4 * rng.standard_normal((9, 1)))
    right, left, foot = volts[:3]
    return np.stack([left - right, foot - right, *(volts[3:] - volts[:3].mean(axis=0))])
