"""Any framework in, an optimised and measured Bundle out; or another format."""

from raceline.convert import quantise
from raceline.convert.catalogue import Format, formats_table, known_formats
from raceline.convert.comparing import Comparison, compare_models
from raceline.convert.equivalence import Difference, Divergence, Equivalence, differences, verify
from raceline.convert.explaining import Explanation, explain_model, explanation_of
from raceline.convert.inspecting import Inspection, inspect_model
from raceline.convert.journal import Stop, TuningLog
from raceline.convert.measure import Bench
from raceline.convert.opening import Hints, Opened, open_model
from raceline.convert.precision import Reduced, reduce, verify_accuracy
from raceline.convert.qdq import comes_quantised
from raceline.convert.recipes import RecipeBook, Recipes
from raceline.convert.rewrite import Refusal, Rewrite, optimise
from raceline.convert.settle import settle
from raceline.convert.shrinking import Shrunk, shrink
from raceline.convert.targets import TargetPlan, plan_for
from raceline.convert.translate import IRTranslator
from raceline.convert.truth import Truth
from raceline.convert.tune import tune
from raceline.convert.tuning_log import Log, best_of, read_log, seconds_to_within
from raceline.convert.writing import parsed_options, prove

__all__ = [
    "Bench",
    "Comparison",
    "Difference",
    "Divergence",
    "Equivalence",
    "Explanation",
    "Format",
    "Hints",
    "IRTranslator",
    "Inspection",
    "Log",
    "Opened",
    "RecipeBook",
    "Recipes",
    "Reduced",
    "Refusal",
    "Rewrite",
    "Shrunk",
    "Stop",
    "TargetPlan",
    "Truth",
    "TuningLog",
    "best_of",
    "comes_quantised",
    "compare_models",
    "differences",
    "explain_model",
    "explanation_of",
    "formats_table",
    "inspect_model",
    "known_formats",
    "open_model",
    "optimise",
    "parsed_options",
    "plan_for",
    "prove",
    "quantise",
    "read_log",
    "reduce",
    "seconds_to_within",
    "settle",
    "shrink",
    "tune",
    "verify",
    "verify_accuracy",
]
