"""Any framework in, an optimised and measured Bundle out."""

from raceline.convert.rewrite import Refusal, Rewrite, optimise
from raceline.convert.translate import IRTranslator

__all__ = ["IRTranslator", "Refusal", "Rewrite", "optimise"]
