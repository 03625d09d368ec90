"""Fewer bits: calibrated 8-bit quantisation that is kept only where it is faster and as accurate as asked."""

from raceline.convert.quantise.insert import Plan, plan, quantise
from raceline.convert.quantise.judge import METRICS, Budget, Judge, Score
from raceline.convert.quantise.mixed import Quantised, within_budget
from raceline.convert.quantise.ranges import METHODS, Observed
from raceline.convert.quantise.samples import Samples, from_arrays, from_file, generated
from raceline.convert.quantise.scheme import Scheme, scheme_for

__all__ = [
    "METHODS",
    "METRICS",
    "Budget",
    "Judge",
    "Observed",
    "Plan",
    "Quantised",
    "Samples",
    "Scheme",
    "Score",
    "from_arrays",
    "from_file",
    "generated",
    "plan",
    "quantise",
    "scheme_for",
    "within_budget",
]
