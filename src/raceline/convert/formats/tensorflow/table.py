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
from raceline.convert.formats.tensorflow.control import Control
from raceline.convert.formats.tensorflow.values import guarded
from raceline.convert.lower import Rule, merged

_TAKES_ALL = frozenset(
    {*shape.PASSING, *lists.rules.table, *signal.SPECIAL, "ReadVariableOp", "ResourceGather"}
    | {"ResourceGatherNd", "VariableShape", "If", "StatelessIf", "Case", "StatelessCase", "While"}
    | {"StatelessWhile", "LookupTableFindV2"}
)


def rules(context: Context) -> dict[str, Rule]:
    """The rules for one model; they are also put into the context, for functions inside it."""
    plain = merged(
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
    table = signal.with_complex(plain) | Control(context).rules()
    context.rules = guarded(table, _TAKES_ALL)
    return context.rules
