"""PTB Diagnostic ECG Database, as the Challenge 2021 publishes it: 12 leads at 1000 Hz, records of up to 2 minutes."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "ptb", "ptb", "PTB Diagnostic ECG Database",
    "Bousseljot et al. 1995, Biomed Tech 40(s1):317 (doi 10.1515/bmte.1995.40.s1.317)",
    records=516, seconds=57_150, size_gb=1.4, rate_hz=1000, dropped=challenge.SHORT)

open_folder = functools.partial(challenge.open_folder, CORPUS, min_seconds=challenge.SHORTEST, chunk=1)
