"""Any framework in, an optimised and measured Bundle out."""

from raceline.convert.equivalence import Difference, Divergence, Equivalence, differences, verify
from raceline.convert.measure import Bench
from raceline.convert.rewrite import Refusal, Rewrite, optimise
from raceline.convert.settle import settle
from raceline.convert.translate import IRTranslator
from raceline.convert.truth import Truth
from raceline.convert.tune import tune

__all__ = [
    "Bench",
    "Difference",
    "Divergence",
    "Equivalence",
    "IRTranslator",
    "Refusal",
    "Rewrite",
    "Truth",
    "differences",
    "optimise",
    "settle",
    "tune",
    "verify",
]
