"""Write out a short loop whose number of turns is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op, operand
from raceline.convert.splice import splice, stand_in
from raceline.core.units import counted
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Replace a Loop of few turns, all known beforehand, by its turns one after another"
after: tuple[str, ...] = ("fold_if",)
tolerance = 0.0

MOST_NODES = 2000
"""A loop that would become more nodes than this stays: engines take long to load them and win little."""


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A Loop with a constant number of turns that nothing ends early."""
    if not is_op(node, "Loop"):
        return None
    turns, goes_on = constant(operand(node, 0)), operand(node, 1)
    starts = goes_on is None or _is_true(goes_on)
    body = node.attributes["body"].as_graph()
    if turns is None or turns.size != 1 or not starts or not _never_ends(body):
        return None
    return Match((node,), {"turns": int(turns.reshape(-1)[0]), "body": body})


def check(match: Match, scope: Scope) -> str:
    """It must turn at all, and not too often."""
    turns, body = match.values["turns"], match.values["body"]
    if turns < 1:
        return "it never turns, and what it would have collected has no known shape"
    nodes = turns * max(1, sum(1 for _ in body.all_nodes()))
    return f"written out it would be {nodes} nodes, more than {MOST_NODES}" if nodes > MOST_NODES else ""


def rewrite(match: Match, scope: Scope) -> str:
    """One copy of the body for each turn; what the turns collect is joined at the end."""
    (node,) = match.nodes
    turns, body = match.values["turns"], match.values["body"]
    carried = [value for value in node.inputs[2:] if value is not None]
    collected: list[list[ir.Value]] = [[] for _ in range(len(node.outputs) - len(carried))]
    true = scope.add_constant(f"{node.name}_goes_on", np.array(True))
    for turn in range(turns):
        count = scope.add_constant(f"{node.name}_turn_{turn}", np.array(turn, np.int64))
        _, *results = splice(scope, body, [count, true, *carried], node)
        carried, scans = results[: len(carried)], results[len(carried) :]
        for list_of, value in zip(collected, scans, strict=True):
            list_of.append(_with_axis(scope, value, node))
    joined = [scope.add_node("Concat", values, node, axis=0) for values in collected]
    for old, new in zip(node.outputs, [*carried, *joined], strict=True):
        stand_in(scope, old, new, node)
    scope.remove(match.nodes)
    return (
        f"it always turns {counted(turns, 'time')}, so that engines need no control flow and see through it"
    )


def _with_axis(scope: Scope, value: ir.Value, before: ir.Node) -> ir.Value:
    """The value with a new axis 0."""
    if scope.opset < 13:
        return scope.add_node("Unsqueeze", [value], before, axes=[0])
    axes = scope.add_constant(f"{before.name}_axis", np.array([0], np.int64))
    return scope.add_node("Unsqueeze", [value, axes], before)


def _never_ends(body: ir.Graph) -> bool:
    """Whether the condition that a body gives back is true, or the one it was given."""
    value = body.outputs[0]
    while (node := value.producer()) is not None and is_op(node, "Identity") and node.inputs[0] is not None:
        value = node.inputs[0]
    return value is body.inputs[1] or _is_true(value)


def _is_true(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and bool(array.reshape(-1)[0])


def example() -> Model:
    """Three turns that each double a sum and collect it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, int64 turns, bool yes) => (float[N, 4] y, float[3, N, 4] all) {
            y, all = Loop (turns, yes, x) <
                body = turn (int64 i, bool go, float[N, 4] h) => (bool on, float[N, 4] k, float[N, 4] z) {
                    on = Identity(go)
                    step = Cast<to = 1>(i)
                    z = Add(h, step)
                    k = Add(z, x)
                }
            >
        }""",
        turns=np.array(3, np.int64),
        yes=np.array(True),
    )
