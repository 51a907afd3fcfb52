"""St Petersburg INCART 12-lead Arrhythmia Database, as the Challenge 2021 publishes it. A record lasts 30 minutes."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "st-petersburg", "st_petersburg_incart", "St Petersburg INCART 12-lead Arrhythmia Database",
    "Tihonenko et al. 2008 (doi 10.13026/C2V88N)",
    records=74, seconds=133_200, size_gb=0.8, rate_hz=257, highpass_hz=0.5)

open_folder = functools.partial(challenge.open_folder, CORPUS, chunk=1)
