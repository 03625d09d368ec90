"""All rules together."""

from __future__ import annotations

from raceline.convert.formats.tensorflow import (
    detection,
    image,
    lists,
    math,
    matrices,
    neural,
    quantise,
    select,
    shape,
    signal,
)
from raceline.convert.formats.tensorflow.context import Context
from raceline.convert.formats.tensorflow.control import CONTROLLED, Control
from raceline.convert.formats.tensorflow.values import guarded
from raceline.convert.lower import Rule, merged

_TAKES_ALL = frozenset(
    {*shape.PASSING, *lists.rules.table, *signal.SPECIAL, "ReadVariableOp", "ResourceGather"}
    | {"ResourceGatherNd", "VariableShape", "If", "StatelessIf", "Case", "StatelessCase", "While"}
    | {"StatelessWhile", "LookupTableFindV2"}
)


def known_operators() -> list[str]:
    """Operators that have a rule; those that write variables have one that refuses them."""
    return sorted({*_plain(), *CONTROLLED})


def _plain() -> dict[str, Rule]:
    return merged(
        math.rules,
        shape.rules,
        neural.rules,
        select.rules,
        matrices.rules,
        image.rules,
        detection.rules,
        signal.rules,
        quantise.rules,
        lists.rules,
    )


def rules(context: Context) -> dict[str, Rule]:
    """The rules for one model; they are also put into the context, for functions inside it."""
    table = signal.with_complex(_plain()) | Control(context).rules()
    context.rules = guarded(table, _TAKES_ALL)
    return context.rules
