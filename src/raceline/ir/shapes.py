"""Shapes of every tensor once the inputs' shapes are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, ShapeError
from raceline.ir import structure
from raceline.ir.infer import TensorInfo, infer_node, small
from raceline.ir.model import Model
from raceline.ir.reference import Reference
from raceline.ir.signature import Shapes

_MOST_FOLDED_BYTES = 64 * 1024**2
_NEVER_GROWING = frozenset("Compress NonZero Unique".split())  # whose size only a run tells


@dataclass
class ShapeTable:
    """What is known of every value in the inlined main graph.

    Attributes:
        known: name -> element type and shape.
        constants: name -> value of what depends on shapes and weights alone and is small.
        unknown: values whose shape only a run can tell, in graph order.
    """

    known: dict[str, TensorInfo] = field(default_factory=dict)
    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def infer_shapes(model: Model, shapes: Shapes, reference: Reference | None = None) -> ShapeTable:
    """Derive the shape of every value from concrete input shapes, without computing the model.

    Each node is inferred by ONNX's own rules; whatever depends on shapes and small constants alone is
    computed, so that graphs which calculate their shapes are followed through.

    Args:
        model: stays as it is.
        shapes: input name -> shape; all inputs.
        reference: the same model prepared before, to save the work.

    Raises:
        ShapeError: a node cannot take the shapes that reach it, or an input's shape does not fit.
        UnsupportedOperatorError: operators without a definition.
    """
    reference = reference or Reference(model)
    table = ShapeTable()
    for spec in model.signature.inputs:
        if not spec.fits(shapes[spec.name]) or 0 in shapes[spec.name]:
            raise ShapeError(
                f"input {spec.name!r} cannot have shape {list(shapes[spec.name])}", f"it is {spec}"
            )
    for item in reference.proto.graph.input:
        if item.name in shapes:
            table.known[item.name] = TensorInfo(item.type.tensor_type.elem_type, tuple(shapes[item.name]))
    for name in reference.constants():
        value = reference.constant(name)
        if value is not None:
            _learn(table, name, value)
    _walk(table, reference.proto.graph.node, reference.kernels, reference.opsets)
    return table


def complete(table: ShapeTable, reference: Reference, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Fill in what inference could not tell from one run on `inputs`.

    Raises:
        BadModelError: the run fails.
    """
    missing = set(table.unknown)
    if not missing:
        return
    for name, value in reference.steps(inputs):
        if name in missing and isinstance(value, np.ndarray):
            table.known[name] = TensorInfo.of(value)
    table.unknown = [name for name in table.unknown if name not in table.known]


def _learn(table: ShapeTable, name: str, value: np.ndarray[Any, Any]) -> None:
    table.known[name] = TensorInfo.of(value)
    if small(value):
        table.constants[name] = value


def _walk(table: ShapeTable, nodes: Sequence[Any], kernels: Sequence[Any], opsets: Mapping[str, int]) -> None:
    """Infer nodes in order; compute those that read nothing but small constants."""
    for node, kernel in zip(nodes, kernels, strict=True):
        if node.op_type == "If":
            _choose(table, node, kernel, opsets)
        elif not _shape_of(table, node) and not _fold(table, node, kernel, opsets):
            table.known.update(infer_node(node, table.known, table.constants, opsets))
        table.unknown += [name for name in node.output if name and name not in table.known]


def _choose(table: ShapeTable, node: Any, kernel: Any, opsets: Mapping[str, int]) -> None:
    """Follow both branches of an `If`, or the one that a known condition takes."""
    branches = [kernel.then_branch, kernel.else_branch]
    condition = table.constants.get(node.input[0])
    if condition is not None:
        branches = [branches[0 if condition.reshape(-1)[0] else 1]]
    failures, possible = [], []
    for branch in branches:
        try:
            for name, value in branch.rt_inits_.items():
                _learn(table, name, value)
            _walk(table, branch.nodes_, branch.rt_nodes_, opsets)
            possible.append(branch)
        except ShapeError as error:  # these shapes never take this branch, if the other one suits them
            failures.append(error)
    if not possible:
        raise failures[0]
    _join(table, node, possible)


def _join(table: ShapeTable, node: Any, branches: Sequence[Any]) -> None:
    """What an `If` writes, where all its possible branches agree."""
    for place, name in enumerate(node.output):
        ends = [branch.output_names[place] for branch in branches]
        infos = {table.known.get(end) for end in ends}
        info = infos.pop()
        if info is not None and not infos:
            table.known[name] = info
            if len(ends) == 1 and ends[0] in table.constants:
                table.constants[name] = table.constants[ends[0]]


def _shape_of(table: ShapeTable, node: Any) -> bool:
    """Handle `Shape` and `Size`, which read no elements."""
    if node.op_type not in {"Shape", "Size"} or node.input[0] not in table.known:
        return False
    shape = np.array(table.known[node.input[0]].shape, np.int64)
    options = {a.name: a.i for a in node.attribute}
    part = shape[options.get("start", 0) : options.get("end", len(shape))]
    _learn(table, node.output[0], part if node.op_type == "Shape" else np.array(shape.prod(), np.int64))
    return True


def _fold(table: ShapeTable, node: Any, kernel: Any, opsets: Mapping[str, int]) -> bool:
    """Compute a node whose inputs are all small constants and whose outputs stay small."""
    inputs = [name for name in node.input if name]
    if structure.subgraphs(node) or node.op_type.startswith("Random"):
        return False
    if not all(name in table.constants for name in inputs):
        return False
    try:
        promised = infer_node(node, table.known, table.constants, opsets)
        bounded = node.op_type in _NEVER_GROWING or all(name in promised for name in node.output if name)
        if not bounded or sum(info.nbytes for info in promised.values()) > _MOST_FOLDED_BYTES:
            return False
        with np.errstate(all="ignore"):
            computed = kernel.run(*(table.constants.get(name) for name in node.input))
    except (BadModelError, ShapeError, *_FOLD_FAILURES):
        return False
    for name, value in zip(node.output, computed, strict=False):
        if name and isinstance(value, np.ndarray):
            _learn(table, name, value)
    return all(name in table.known for name in node.output if name)


# What a kernel raises on values that do not suit it; inference then gives the better message.
_FOLD_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
