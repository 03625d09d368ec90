"""All rules in one table, and which operators give views of what they read."""

from __future__ import annotations

from raceline.convert.formats.torchscript import (
    attention,
    create,
    index,
    math,
    neural,
    recurrent,
    reduce,
    resize,
    shape,
)
from raceline.convert.formats.torchscript.shape import ALIASES, VIEWS
from raceline.convert.lower import merged

RULES = merged(
    math.rules,
    shape.rules,
    create.rules,
    index.rules,
    reduce.rules,
    neural.rules,
    recurrent.rules,
    resize.rules,
    attention.rules,
)
"""torch operator -> rule; an operator that works in place has the rule of the one that does not."""

NUMBERS = frozenset(math.rules.table)
"""Operators to which a number may be given as a tensor without axes."""

__all__ = ["ALIASES", "NUMBERS", "RULES", "VIEWS"]
