"""China Physiological Signal Challenge 2018, the 6,877 records of its training set, as the Challenge 2021 publishes it."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "cpsc", "cpsc_2018", "China Physiological Signal Challenge 2018",
    "Liu et al. 2018, J Med Imaging Health Inform 8:1368 (doi 10.1166/jmihi.2018.2442)",
    records=6_867, seconds=109_585, size_gb=1.3, dropped=challenge.SHORT)

open_folder = functools.partial(challenge.open_folder, CORPUS, min_seconds=challenge.SHORTEST)
