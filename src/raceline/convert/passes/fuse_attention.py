"""Recognise scaled dot-product attention around its softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    constant,
    escape,
    is_op,
    only_user,
    producer,
    rank,
    scalar,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = (
    "Fuse softmax(q k / scale + mask) v, with the transposes and reshapes that make and join its heads"
)
after: tuple[str, ...] = ("merge_common_subexpressions", "simplify_transpose")
tolerance = 0.0

LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Expand", "Tile")
LONGEST = 6  # scale, mask and what else stands between the two products


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A product of softmaxed scores with values; scores are a product, scaled and masked or not."""
    weights = _weights(node.inputs[0]) if is_op(node, "MatMul") else ()
    if not weights or constant(node.inputs[1]) is not None:
        return None
    softmax = weights[0]
    scores = _scores(softmax.inputs[0])
    if scores is None:
        return None
    product, between = scores
    group = {node, *weights, product, *between, *_scaled(product, scope)}
    core = scope.in_order(group)
    if problem := escape(core):
        return Match(core, obstacle=problem)
    nodes = scope.in_order(_with_layout(group, node, scope))
    return Match(nodes, {"softmax": softmax, "product": product, "last": node})


def check(match: Match, scope: Scope) -> str:
    """Softmax must go along the keys, and the operands must be computed: a product by weights is a layer."""
    softmax, product = match.values["softmax"], match.values["product"]
    axes = rank(softmax.inputs[0])
    axis = attribute(softmax, "axis", -1 if scope.opset >= 13 else 1)
    if axis != -1 and (axes is None or axis != axes - 1):
        return f"its softmax goes along axis {axis}, not along the keys"
    if any(constant(value) is not None for value in product.inputs):
        return "its scores are a product by weights"
    return escape(match.nodes)


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    count = sum(is_op(node, *LAYOUT) for node in match.nodes)
    fuse(scope, match, "Attention", {})
    moved = f" and {count} changes of layout" if count else ""
    return f"scores and weights of every head{moved} stay in the cache of a kernel that goes block by block"


def _weights(value: ir.Value | None) -> tuple[ir.Node, ...]:
    """The softmax that gives a value, and what sets rows to zero behind it in which every key is masked."""
    guard = producer(value, "Where")
    test = producer(guard.inputs[0], "IsNaN") if guard is not None else None
    if guard is None or test is None:
        softmax = producer(value, "Softmax")
        return () if softmax is None else (softmax,)
    softmax = producer(guard.inputs[2], "Softmax")
    if softmax is None or test.inputs[0] is not guard.inputs[2] or scalar(guard.inputs[1]) is None:
        return ()
    return softmax, guard, test


def _scores(value: ir.Value | None) -> tuple[ir.Node, list[ir.Node]] | None:
    """The product behind softmax's input, and the nodes that scale and mask it on the way, the last first."""
    between: list[ir.Node] = []
    while value is not None and len(between) <= LONGEST:
        node = value.producer()
        if is_op(node, "MatMul") and node is not None:
            return node, between
        if node is None or not is_op(node, "Mul", "Div", "Add", "Sub", "Where", "Max"):
            return None
        between.append(node)
        value = _towards_product(node)
    return None


def _towards_product(node: ir.Node) -> ir.Value | None:
    """The operand through which the scores come: behind it, whatever scales and masks, stands a product."""
    for value in node.inputs[1:] if is_op(node, "Where") else node.inputs:
        feeder = value.producer() if value is not None else None
        for _ in range(LONGEST):
            if feeder is None or is_op(feeder, "MatMul"):
                break
            if not is_op(feeder, "Mul", "Div", "Add", "Sub", "Where", "Max"):
                feeder = None
                break
            inner = next((v for v in feeder.inputs if v is not None and v.producer() is not None), None)
            feeder = inner.producer() if inner is not None else None
        if is_op(feeder, "MatMul"):
            return value
    return None


def _scaled(product: ir.Node, scope: Scope) -> set[ir.Node]:
    """Nodes that multiply the queries or the keys by a number before their product."""
    found = set()
    for value in product.inputs:
        node = producer(value, "Mul", "Div")
        if node is None or node.graph is not scope.graph:
            continue
        numbers = [scalar(operand) for operand in node.inputs]
        if any(number is not None for number in numbers) and only_user(node.outputs[0]) is product:
            found.add(node)
    return found


def _with_layout(group: set[ir.Node], last: ir.Node, scope: Scope) -> set[ir.Node]:
    """The group with the changes of layout that only it reads, and those its result goes through."""
    group, grown = set(group), True
    while grown:
        feeders = {p for node in group for v in node.inputs if (p := producer(v, *LAYOUT)) and p not in group}
        taken = {node for node in feeders if node.graph is scope.graph and _belongs(node, group)}
        group |= taken
        grown = bool(taken)
    while (follower := only_user(last.outputs[0])) is not None and is_op(follower, "Transpose", "Reshape"):
        if follower.inputs[0] is not last.outputs[0]:
            break
        group.add(follower)
        last = follower
    return group


def _belongs(node: ir.Node, group: set[ir.Node]) -> bool:
    """Whether a node changes the layout of computed values by constants or sizes, for the group alone."""
    if constant(node.inputs[0]) is not None:
        return False
    if any(v is not None and constant(v) is None and not _is_sizes(v) for v in node.inputs[1:]):
        return False
    return all(not v.is_graph_output() and set(v.consumers()) <= group for v in node.outputs)


def _is_sizes(value: ir.Value) -> bool:
    """Whether a value is a short vector of integers, by which an open axis keeps its size."""
    return value.dtype is not None and value.dtype.name == "INT64" and rank(value) == 1


def example() -> Model:
    """Two heads as torch's exporter writes them."""
    import numpy as np

    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2, 3, 4] q, float[N, 2, 3, 4] k, float[N, 2, 3, 4] v, float scale)
            => (float[N, 2, 3, 4] y) {
            turned = Transpose<perm = [0, 1, 3, 2]>(k)
            scores = MatMul(q, turned)
            scaled = Div(scores, scale)
            weights = Softmax<axis = -1>(scaled)
            y = MatMul(weights, v)
        }""",
        scale=np.array(2.0, np.float32),
    )
