"""What values an input may hold, read off the graph: index bounds, comparisons, use as a size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raceline.ir.serialise import inlined
from raceline.ir.signature import Values

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators that hand their first input's values on, reordered or repeated but unchanged.
_PASS_THROUGH = frozenset(
    "Identity Cast Reshape Unsqueeze Squeeze Flatten Transpose Expand Tile Slice Gather Concat Split".split()
)
# (operator, input position): the input holds indices into axis 0 (or `axis`) of input 0.
_INDEX_OF = {("Gather", 1), ("GatherElements", 1)}
# (operator, input position): the input holds sizes or counts, which must be positive.
_COUNTS = {
    ("ConstantOfShape", 0),
    ("Expand", 1),
    ("Range", 1),
    ("Reshape", 1),
    ("Tile", 1),
    ("TopK", 1),
}
_MOST_CHOICES = 8
_MOST_COUNT = 4


@dataclass
class _Evidence:
    """What the graph tells of one input."""

    index_bounds: list[int] = field(default_factory=list)
    compared: set[float] = field(default_factory=set)
    spans: list[tuple[float, float]] = field(default_factory=list)
    is_count: bool = False


def infer_values(program: ir.Model) -> dict[str, Values]:
    """The values each input may hold, for those inputs of which the graph tells something.

    - An input that indexes a table of known length lies in [0, rows).
    - A scalar compared for equality with constants is one of them (a sample rate, a mode).
    - A tensor compared with a run of integers is spread over a one-hot code: it lies in that run.
    - An input used as a size or count is small and positive.
    - An 8-bit unsigned input is an image or bytes: it takes all its values.
    """
    copy = inlined(program)
    found = {}
    for value in copy.graph.inputs:
        if value.name is None or value.name in copy.graph.initializers:
            continue
        evidence = _Evidence()
        _follow(value, evidence, set())
        known = _conclude(value, evidence)
        if known is not None:
            found[value.name] = known
    return found


def _follow(value: ir.Value, evidence: _Evidence, seen: set[int]) -> None:
    """Collect evidence from every use of a value, through operators that keep its elements."""
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for use in current.uses():
            if use.node.domain in {"", "ai.onnx"}:
                _weigh(use.node, use.idx, evidence)
                if use.node.op_type in _PASS_THROUGH and _keeps(use.node, use.idx):
                    pending.extend(use.node.outputs)


def _keeps(node: ir.Node, position: int) -> bool:
    return position == 0 or node.op_type == "Concat"


def _weigh(node: ir.Node, position: int, evidence: _Evidence) -> None:
    """Learn from one use."""
    if (node.op_type, position) in _INDEX_OF:
        rows = _length(node.inputs[0], node.attributes.get_int("axis", 0))
        if rows is not None:
            evidence.index_bounds.append(rows)
    elif (node.op_type, position) == ("OneHot", 0):
        depth = _constant(node.inputs[1])
        if depth is not None:
            evidence.index_bounds.append(int(depth.reshape(-1)[0]))
    elif (node.op_type, position) in _COUNTS:
        evidence.is_count = True
    elif node.op_type == "Equal":
        _compare(_constant(node.inputs[1 - position]), evidence)


def _compare(constant: Any, evidence: _Evidence) -> None:
    if constant is None or not constant.size or constant.dtype.kind not in "biuf":
        return
    distinct = sorted({float(v) for v in constant.reshape(-1)[:100_000]})
    if len(distinct) > _MOST_CHOICES:
        evidence.spans.append((distinct[0], distinct[-1]))
    else:
        evidence.compared.update(distinct)


def _conclude(value: ir.Value, evidence: _Evidence) -> Values | None:
    """One range or set of choices from all evidence; the strictest evidence wins."""
    import onnx_ir as ir

    if evidence.index_bounds:
        return Values(0, min(evidence.index_bounds) - 1, source="graph")
    if evidence.spans:
        return Values(max(s[0] for s in evidence.spans), min(s[1] for s in evidence.spans), source="graph")
    if evidence.is_count:
        return Values(1, _MOST_COUNT, source="graph")
    if evidence.compared and _is_scalar(value):
        choices = tuple(sorted(evidence.compared))
        return Values(choices[0], choices[-1], choices, source="graph")
    if evidence.compared and value.dtype is not None and not value.dtype.is_floating_point():
        # A tensor compared with single values is a mask or holds marks; other values must occur too.
        return Values(min(0, *evidence.compared), max(1, *evidence.compared), source="graph")
    if value.dtype == ir.DataType.UINT8:
        return Values(0, 255, source="default")
    return None


def _is_scalar(value: ir.Value) -> bool:
    return value.shape is not None and all(size == 1 for size in value.shape)


def _length(value: ir.Value | None, axis: int) -> int | None:
    """Size of an axis that is fixed."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) and size > 0 else None


def _constant(value: ir.Value | None) -> Any:
    """The value of a weight or `Constant` node, reshaped or cast or not; None where it is computed."""
    for _ in range(8):  # deep enough for what exporters write around a constant
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.numpy()
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Constant":
            return _literal(node)
        if node.op_type not in _PASS_THROUGH or not node.inputs:
            return None
        value = node.inputs[0]
    return None


def _literal(node: ir.Node) -> Any:
    import numpy as np
    import onnx_ir as ir

    attribute = next(iter(node.attributes.values()), None)
    if attribute is None:
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    numbers = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT, ir.AttributeType.FLOATS)
    return np.array(attribute.value) if attribute.type in numbers else None
