"""An output that is the position of the largest element has two right answers where two are nearly equal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.engines import Tolerance
from raceline.ir import Reference
from raceline.ir.near import allowed

Array = np.ndarray[Any, Any]

_POSITIONS = frozenset({"ArgMax", "ArgMin"})
_PASSES_ON = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
)  # in the same order


@dataclass(frozen=True)
class _Positions:
    """What gave an output: the elements, the positions along an axis of them, and that axis, kept as size 1."""

    elements: Array
    right: Array
    axis: int


def are_ties(
    reference: Reference, inputs: Mapping[str, Array], name: str, got: Array, tolerance: Tolerance
) -> bool:
    """Whether all that differs in a whole-number output are positions of elements that are equal.

    The output is followed to the ArgMax or ArgMin that gives it, through operators that only change its shape
    or type. Equal are elements within the tolerance of an engine, beside the
    largest of those they are chosen from. Outputs of other operators have no ties.

    Args:
        reference: of the model that was run.
        inputs: what it was run with.
        name: the output.
        got: what the engine computed for it.
        tolerance: the engine's.
    """
    found = _positions(reference, inputs, name)
    if found is None or found.right.size != got.size:
        return False
    answered = got.reshape(found.right.shape).astype(np.int64)
    size = found.elements.shape[found.axis]
    if np.any((answered < 0) | (answered >= size)):
        return False
    picked, best = (
        np.take_along_axis(found.elements, index, found.axis).astype(np.float64)
        for index in (answered, found.right)
    )
    scale = np.max(np.abs(found.elements), axis=found.axis, keepdims=True).astype(np.float64)
    near = allowed(scale, atol=tolerance.atol, rtol=tolerance.rtol)
    return bool(np.all(np.abs(picked - best) <= near))


def _positions(reference: Reference, inputs: Mapping[str, Array], name: str) -> _Positions | None:
    producers = {output: node for node in reference.proto.graph.node for output in node.output}
    node = producers.get(name)
    while node is not None and node.op_type in _PASSES_ON:
        node = producers.get(node.input[0])
    if node is None or node.op_type not in _POSITIONS:
        return None
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    values = reference.run(inputs, outputs=[node.input[0], node.output[0]])
    elements, right = values[node.input[0]], values[node.output[0]]
    axis = attributes.get("axis", 0) % elements.ndim
    if not attributes.get("keepdims", 1):
        right = np.expand_dims(right, axis)
    return _Positions(elements, right, axis) if np.issubdtype(elements.dtype, np.floating) else None
