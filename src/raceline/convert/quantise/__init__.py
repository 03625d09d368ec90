"""Fewer bits: calibrated 8-bit quantisation that is kept only where it is faster and as accurate as asked."""

from raceline.convert.quantise.insert import Plan, plan, quantise
from raceline.convert.quantise.judge import METRICS, Budget, Judge, apart, budget_of
from raceline.convert.quantise.mixed import Quantised, Study, within_budget
from raceline.convert.quantise.ranges import METHODS, Observed
from raceline.convert.quantise.runner import Runner
from raceline.convert.quantise.samples import Samples, from_arrays, from_file, generated, samples_for
from raceline.convert.quantise.scheme import RUNS_QDQ, Scheme, scheme_for

__all__ = [
    "METHODS",
    "METRICS",
    "RUNS_QDQ",
    "Budget",
    "Judge",
    "Observed",
    "Plan",
    "Quantised",
    "Runner",
    "Samples",
    "Scheme",
    "Study",
    "apart",
    "budget_of",
    "from_arrays",
    "from_file",
    "generated",
    "plan",
    "quantise",
    "samples_for",
    "scheme_for",
    "within_budget",
]
