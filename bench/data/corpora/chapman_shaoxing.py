"""Chapman University and Shaoxing People's Hospital, as the Challenge 2021 publishes it."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "chapman-shaoxing", "chapman_shaoxing", "Chapman University and Shaoxing People's Hospital",
    "Zheng et al. 2020, Sci Data 7:48 (doi 10.1038/s41597-020-0386-x)",
    records=10_247, seconds=102_470, size_gb=1.2)

open_folder = functools.partial(challenge.open_folder, CORPUS)
