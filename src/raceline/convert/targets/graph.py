"""A model as a runtime elsewhere will see it: standard nodes that are left once constants are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.ir import Model, Reference, infer_shapes, make_inputs, structure
from raceline.ir.flops import multiply_add_flops, other_flops
from raceline.ir.infer import TensorInfo
from raceline.ir.operators import normal_domain
from raceline.ir.shapes import complete

# They rename a tensor, or stand for arithmetic in few bits that the device does inside its neighbours.
FREE = frozenset("Dropout DequantizeLinear Flatten Identity QuantizeLinear Reshape Squeeze Unsqueeze".split())


@dataclass(frozen=True)
class Step:
    """One node that is computed in every run.

    Attributes:
        node: the operator and its attributes.
        operator: its name, with its domain unless that is ONNX's own.
        name: the node's, or what it writes.
        flops: arithmetic, two for a multiply-add, at the sizes of the facts.
        reads: names of the tensors it reads that are no constants.
        weights: names of the constants it reads.
        writes: names of what it writes.
    """

    node: Any
    operator: str
    name: str
    flops: int
    reads: tuple[str, ...]
    weights: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What plans are made from.

    Attributes:
        name: the model's.
        steps: nodes that remain once constants are folded, in order.
        infos: type and shape of every tensor.
        constants: values of small constants.
        inputs: shapes at batch 1.
        outputs: names.
        batch_axes: place of the batch axis in each input that has it; empty where items are not independent.
        batch_axis: its name; None where items are not known to be independent.
        dynamic_axes: names of open axes.
        sizes: of the open axes, at one item.
        opset: of ONNX's own domain.
        quantised: whether activations are quantised (QDQ).
    """

    name: str
    steps: tuple[Step, ...]
    infos: Mapping[str, TensorInfo]
    constants: Mapping[str, np.ndarray[Any, Any]]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    batch_axes: Mapping[str, int]
    batch_axis: str | None
    dynamic_axes: tuple[str, ...]
    sizes: Mapping[str, int]
    opset: int
    quantised: bool

    @property
    def flops(self) -> int:
        """Arithmetic of one item."""
        return sum(step.flops for step in self.steps)

    def size_bytes(self, name: str, width: int) -> int:
        """Bytes of a tensor whose float32 numbers are held in `width` bytes each."""
        info = self.infos.get(name)
        if info is None:
            return 0
        return info.size * width if info.data_type == _FLOAT else info.nbytes

    def weight_bytes(self, width: int) -> int:
        """Bytes of all constants that are read in a run, each once."""
        return sum(self.size_bytes(name, width) for name in {n for step in self.steps for n in step.weights})


_FLOAT = 1  # ONNX's number of float32


def facts_of(model: Model, sizes: Mapping[str, int]) -> Facts:
    """Derive the facts.

    Args:
        model: stays as it is.
        sizes: the size of every dynamic axis; the batch axis's is 1.

    Raises:
        ShapeError: a size is missing, or the model cannot take these.
        UnsupportedOperatorError: operators without a definition.
    """
    shapes = model.signature.concrete(sizes)
    reference = Reference(model)
    table = infer_shapes(model, shapes, reference)
    if table.unknown:
        complete(table, reference, make_inputs(model.signature, shapes, seed=0))
    fixed = set(table.constants) | set(reference.constants()) | {""}
    steps = []
    for node in reference.proto.graph.node:
        outputs = [name for name in node.output if name]
        reads = list(dict.fromkeys(_read(node)))
        if _is_constant(node, reads, fixed):
            fixed |= set(outputs)
        elif not all(name in fixed for name in outputs):
            steps.append(_step(node, reads, fixed, table.known))
    return Facts(
        name=model.name,
        steps=tuple(steps),
        infos=table.known,
        constants=table.constants,
        inputs={name: tuple(shape) for name, shape in shapes.items()},
        outputs=tuple(value.name for value in reference.proto.graph.output),
        batch_axes=_batch_axes(model),
        batch_axis=model.signature.batch_axis,
        dynamic_axes=model.signature.dynamic_axes,
        sizes=dict(sizes),
        opset=reference.opsets.get("", 0),
        quantised=any(step.operator == "QuantizeLinear" for step in steps),
    )


def _is_constant(node: Any, reads: Sequence[str], fixed: set[str]) -> bool:
    return not node.op_type.startswith("Random") and all(name in fixed for name in reads)


def _read(node: Any) -> Sequence[str]:
    """What a node reads, and what the graphs inside it read from outside."""
    names = [name for name in node.input if name]
    for graph in structure.subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            names += [name for name in _read(inner) if name not in own]
            own |= set(inner.output)
    return names


def _step(node: Any, reads: Sequence[str], fixed: set[str], known: Mapping[str, TensorInfo]) -> Step:
    infos = [known.get(name) for name in node.input]
    written = [known.get(name) for name in node.output]
    domain = normal_domain(node.domain)
    return Step(
        node=node,
        operator=f"{domain}.{node.op_type}" if domain else node.op_type,
        name=structure.label(node),
        flops=multiply_add_flops(node, infos, written) + other_flops(node, infos, written),
        reads=tuple(name for name in reads if name not in fixed),
        weights=tuple(name for name in reads if name in fixed),
        writes=tuple(name for name in node.output if name),
    )


def _batch_axes(model: Model) -> dict[str, int]:
    axis = model.signature.batch_axis
    if axis is None:
        return {}
    return {spec.name: spec.shape.index(axis) for spec in model.signature.inputs if axis in spec.shape}
