"""Ningbo First Hospital, as the Challenge 2021 publishes it. Records with a constant lead are used, and the report lists them."""

import functools

from bench.data.corpora import challenge

CORPUS = challenge.describe(
    "ningbo", "ningbo", "Ningbo First Hospital", "Zheng et al. 2020, Sci Rep 10:2898 (doi 10.1038/s41598-020-59821-7)",
    records=34_905, seconds=349_050, size_gb=4.2)

open_folder = functools.partial(challenge.open_folder, CORPUS)
