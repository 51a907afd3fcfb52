"""Old names of bench/runs/results.py, until bench/report imports the new ones. Delete this file then."""

from bench.runs.results import metric_of as metric_of
from bench.runs.results import read_results as read  # noqa: F401
from bench.runs.values import METRICS as METRICS
from bench.runs.values import Classes as Classes
from bench.runs.values import Result as Record  # noqa: F401
