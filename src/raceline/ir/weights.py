"""The constant tensors of a program: their bytes, their digest, and whether all elements are numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_CHUNK_BYTES = 16 * 1024**2
_DIGEST = "raceline.sha256"
_NON_FINITE = "raceline.non_finite"


def initializers(program: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Every initializer that has a value, of the main graph and all graphs inside it."""
    for graph in program.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def attribute_tensors(program: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr]]:
    """Every tensor attribute (of `Constant` nodes above all), functions included."""
    import onnx_ir as ir

    holders: list[Any] = [program.graph, *program.functions.values()]
    for holder in holders:
        for node in holder.all_nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield node, attribute


def named_tensors(program: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every constant tensor with the name of the value it gives."""
    for value, tensor in initializers(program):
        yield value.name or "", tensor
    for node, attribute in attribute_tensors(program):
        yield (node.outputs[0].name if node.outputs else None) or node.name or "", attribute.as_tensor()


def numbers(program: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """As `named_tensors`, without those in which NaN is meant.

    It stands between the sets of a TreeEnsemble, and jax.numpy chooses a lone one by `Where` where a result is
    undefined, as the variance of nothing is.
    """
    meant = {
        id(attribute.as_tensor())
        for node, attribute in attribute_tensors(program)
        if node.op_type == "TreeEnsemble" and attribute.name == "membership_values"
    }
    for value, tensor in initializers(program):
        if tensor.size == 1 and _is_chosen(value):
            meant.add(id(tensor))
    yield from ((name, tensor) for name, tensor in named_tensors(program) if id(tensor) not in meant)


def _is_chosen(value: ir.Value) -> bool:
    """Whether nothing but `Where` reads it, as what it chooses, at most spread out before."""
    uses = value.uses()
    return bool(uses) and all(
        use.idx > 0
        if use.node.op_type == "Where"
        else use.node.op_type == "Expand" and use.idx == 0 and _is_chosen(use.node.outputs[0])
        for use in uses
    )


def total_bytes(program: ir.Model) -> int:
    """Bytes of all constant tensors, each counted once."""
    seen = {id(tensor): int(tensor.nbytes) for _, tensor in named_tensors(program)}
    return sum(seen.values())


def chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The tensor's bytes as ONNX stores them, little endian, without a copy of the whole where possible."""
    import onnx_ir as ir

    if tensor.dtype == ir.DataType.STRING:
        for text in _strings(tensor):
            yield len(text).to_bytes(8, "little") + text
        return
    if tensor.dtype.bitwidth < 8:  # numpy() would unpack to a byte each
        yield tensor.tobytes()
        return
    flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
    data = flat.view(np.uint8).data
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


def digest(tensor: ir.TensorProtocol) -> str:
    """SHA-256 of element type, shape and bytes; computed once, for tensors never change."""
    known = tensor.meta.get(_DIGEST)
    if known is None:
        sha = hashlib.sha256(f"{tensor.dtype.name} {list(tensor.shape.numpy())}\n".encode())
        for chunk in chunks(tensor):
            sha.update(chunk)
        known = tensor.meta[_DIGEST] = sha.hexdigest()
    return str(known)


def non_finite(tensor: ir.TensorProtocol) -> tuple[int, int]:
    """How many elements are NaN, and how many infinite; computed once."""
    known: tuple[int, int] | None = tensor.meta.get(_NON_FINITE)
    if known is None:
        known = tensor.meta[_NON_FINITE] = _count_non_finite(tensor)
    return known


def _count_non_finite(tensor: ir.TensorProtocol) -> tuple[int, int]:
    if not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 8:
        return 0, 0
    nan = infinite = 0
    flat = tensor.numpy().reshape(-1)
    step = _CHUNK_BYTES // flat.dtype.itemsize
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            if not np.isfinite(part).all():
                nans = int(np.isnan(part).sum())
                nan += nans
                infinite += int((~np.isfinite(part)).sum()) - nans
    return nan, infinite


def _strings(tensor: Any) -> list[bytes]:
    found = tensor.string_data() if hasattr(tensor, "string_data") else tensor.numpy().reshape(-1)
    return [text.encode() if isinstance(text, str) else bytes(text) for text in found]
