"""Georgia 12-lead ECG Challenge Database, of 10,344 records."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "georgia", "georgia", "Georgia 12-lead ECG Challenge Database",
    "Perez Alday et al. 2020, Physiol Meas 41:124003 (doi 10.1088/1361-6579/abc960)",
    records=10_292, seconds=102_920, size_gb=1.2, dropped=challenge.SHORT)

open_folder = functools.partial(challenge.open_folder, CORPUS, min_seconds=challenge.SHORTEST)
