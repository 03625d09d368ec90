"""Element type and shape of what one node writes, from those of what it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.core.errors import ShapeError
from raceline.ir import operators, structure

if TYPE_CHECKING:
    import onnx

MOST_CONSTANT_ELEMENTS = 4096
"""Constants up to this size (shapes, axes, scales) take part in inference by value."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its elements.

    Attributes:
        data_type: ONNX's number of the element type.
        shape: sizes of all axes.
    """

    data_type: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes as ONNX stores it; eight an element for strings."""
        import onnx_ir as ir

        if self.data_type == ir.DataType.STRING:
            return 8 * self.size
        return math.ceil(self.size * ir.DataType(self.data_type).bitwidth / 8)

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> TensorInfo:
        """What an array is."""
        import onnx_ir as ir

        dtype = ir.DataType.STRING if array.dtype.kind in "OSU" else ir.DataType.from_numpy(array.dtype)
        return cls(int(dtype), tuple(array.shape))


def infer_node(
    node: onnx.NodeProto,
    known: Mapping[str, TensorInfo],
    constants: Mapping[str, np.ndarray[Any, Any]],
    opsets: Mapping[str, int],
) -> dict[str, TensorInfo]:
    """What a node writes, as far as ONNX's own rules tell.

    Args:
        node: of an operator that has a schema; a node without one tells nothing.
        known: at least what the node reads.
        constants: values of what it reads, where they are known and small.
        opsets: domain -> version.

    Returns:
        name -> info of every output whose shape is fully known.

    Raises:
        ShapeError: what the node reads does not fit together.
    """
    import onnx

    domain = operators.normal_domain(node.domain)
    schema = operators.schema(domain, node.op_type, opsets.get(domain, 0))
    needed = structure.reads(node)
    if schema is None or not needed <= known.keys():
        return {}
    types = {name: _type(known[name]) for name in needed}
    data = {name: _tensor(constants[name]) for name in needed if name in constants}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except (
        onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError,
    ) as error:  # fmt: skip
        seen = ", ".join(f"{name} {list(known[name].shape)}" for name in node.input if name in known)
        what = f"node {structure.label(node)!r} ({node.op_type}) cannot take {seen or 'these attributes'}"
        raise ShapeError(what, str(error).strip().splitlines()[-1][-300:]) from error
    return {name: info for name, kind in found.items() if (info := _info(kind)) is not None}


def small(array: Any) -> bool:
    """Whether a value is an array of numbers small enough to take part in inference."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        return False
    return array.size <= MOST_CONSTANT_ELEMENTS


def _type(info: TensorInfo) -> Any:
    import onnx

    return onnx.helper.make_tensor_type_proto(info.data_type, info.shape)


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(array)


def _info(kind: Any) -> TensorInfo | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if not kind.tensor_type.elem_type or any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims):
        return None
    return TensorInfo(kind.tensor_type.elem_type, tuple(int(d.dim_value) for d in dims))
