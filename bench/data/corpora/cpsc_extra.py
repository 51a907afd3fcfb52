"""China Physiological Signal Challenge 2018, the 3,453 records that it did not use, as the Challenge 2021 publishes it."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "cpsc-extra", "cpsc_2018_extra", "China Physiological Signal Challenge 2018, unused records",
    "Liu et al. 2018, J Med Imaging Health Inform 8:1368 (doi 10.1166/jmihi.2018.2442)",
    records=3_441, seconds=54_819, size_gb=0.7, dropped=challenge.SHORT)

open_folder = functools.partial(challenge.open_folder, CORPUS, min_seconds=challenge.SHORTEST)
