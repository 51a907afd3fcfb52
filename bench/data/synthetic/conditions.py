"""The conditions of synthetic records: the waves of the normal beat, and what each diagnosis changes in them.

The dipole vectors, positions and widths are choices of this benchmark. With Dower's lead vectors they give leads that meet the
criteria named beside each condition. AHA/ACCF/HRS 2009 is J Am Coll Cardiol 53: part III (976) for conduction, part IV (982) for
ST, T and QT, part V (992) for hypertrophy. UDMI is the Fourth Universal Definition of Myocardial Infarction (Thygesen et al.
2018, Circulation 138:e618).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class Wave(NamedTuple):
    """A Gaussian of the dipole: its centre after R (of P: after P onset; of ST and T: at RR 1 s), its sd and its vector."""

    at_ms: float
    sd_ms: float
    left_mv: float
    foot_mv: float
    back_mv: float


# fmt: off
QRS_ONSET_MS = -48.0  # of the normal beat below
# P1 is the right atrium, P2 the left. Q to S2 are septum, free wall, posterobasal wall and base (order: Durrer et al. 1970,
# Circulation 41:899). T is two Gaussians, because the normal T rises slowly and falls fast.
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
    waves: Mapping[str, Wave] = field(default_factory=dict)  # waves that replace those of the normal beat
    gain: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # prefix of wave names -> range
    pr_ms: tuple[float, float] | None = None
    rate_per_min: tuple[float, float] | None = None
    sokolow_mv: tuple[float, float] | None = None


SOKOLOW_LIMIT_MV = 3.5  # S V1 + larger R of V5, V6: Sokolow & Lyon 1949 (Am Heart J 37:161)
# fmt: off
# Conditions are applied in this order. Sinus rhythm is 60-100/min by convention; rates keep a margin inside such limits, which is
# a choice of this benchmark.
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

# A choice of this benchmark: a third is normal, and rare diagnoses are more frequent than in PTB-XL, so that a few hundred
# records suffice.
STATEMENT_SETS: Mapping[tuple[str, ...], float] = MappingProxyType({
    ("NORM", "SR"): 24, ("NORM", "SBRAD"): 7, ("NORM", "STACH"): 5, ("PVC", "SR"): 4,
    ("AFIB",): 5, ("NDT", "AFIB"): 3, ("IMI", "SR"): 7, ("IMI", "PVC", "SR"): 2, ("IMI", "1AVB", "SBRAD"): 2,
    ("AMI", "SR"): 7, ("AMI", "ISC_", "STACH"): 2, ("LVH", "SR"): 5, ("LVH", "ISC_", "SR"): 4,
    ("LVH", "NDT", "SR"): 3,
    ("CLBBB", "SR"): 5, ("CRBBB", "SR"): 5, ("CRBBB", "1AVB", "SR"): 2, ("1AVB", "SR"): 4,
    ("NDT", "SR"): 5, ("NST_", "SR"): 5, ("ISC_", "SR"): 5,
})
# fmt: on
