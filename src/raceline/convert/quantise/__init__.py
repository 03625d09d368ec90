"""Fewer bits: calibrated 8-bit quantisation that is kept only where it is faster and as accurate as asked."""

from raceline.convert.quantise.insert import Plan, plan, quantise
from raceline.convert.quantise.judge import METRICS, Budget, Judge, apart, budget_of, doubt
from raceline.convert.quantise.mixed import AnyScheme, Quantised, Study, within_budget
from raceline.convert.quantise.ranges import METHODS, Observed
from raceline.convert.quantise.runner import Runner
from raceline.convert.quantise.samples import (
    GENERATED,
    Samples,
    from_arrays,
    from_file,
    generated,
    samples_for,
)
from raceline.convert.quantise.scheme import RUNS_QDQ, RUNS_STORED, Scheme, scheme_for, schemes_for
from raceline.convert.quantise.stored import Shelf, Stored, shelf

__all__ = [
    "GENERATED",
    "METHODS",
    "METRICS",
    "RUNS_QDQ",
    "RUNS_STORED",
    "AnyScheme",
    "Budget",
    "Judge",
    "Observed",
    "Plan",
    "Quantised",
    "Runner",
    "Samples",
    "Scheme",
    "Shelf",
    "Stored",
    "Study",
    "apart",
    "budget_of",
    "doubt",
    "from_arrays",
    "from_file",
    "generated",
    "plan",
    "quantise",
    "samples_for",
    "scheme_for",
    "shelf",
    "within_budget",
    "schemes_for",
]
