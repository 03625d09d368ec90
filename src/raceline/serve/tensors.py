"""Tensors on the wire: KServe's element types and contents to NumPy arrays and back.

Every message names the tensor. Nothing here knows gRPC; the messages are those of `messages.message(...)`.
"""

import struct
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from raceline.core.errors import ShapeError
from raceline.ir import TensorSpec

Array = np.ndarray[Any, Any]

_NUMPY_OF = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
_WIRE_OF = {numpy: wire for wire, numpy in _NUMPY_OF.items()}

# Where typed contents of each element type travel; FP16 and BF16 have no place there, by the protocol.
_FIELD_OF = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def wire_name(dtype: str) -> str:
    """KServe's name of an element type that the signature calls `dtype`.

    Raises:
        ShapeError: the protocol has no such type (complex numbers, 4-bit integers).
    """
    if dtype not in _WIRE_OF:
        raise ShapeError(
            f"element type {dtype} cannot travel over KServe v2", f"it has {', '.join(_WIRE_OF)}"
        )
    return _WIRE_OF[dtype]


@cache  # NumPy builds a type's name anew each time it is asked for it
def wire_of(dtype: "np.dtype[Any]") -> str:
    """KServe's name of the element type of an array.

    Raises:
        ShapeError: the protocol has no such type.
    """
    return wire_name("object" if dtype.kind in "OSU" else dtype.name)


@cache
def numpy_dtype(wire: str) -> "np.dtype[Any]":
    """The NumPy element type of a KServe type that exists."""
    if wire == "BF16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(_NUMPY_OF[wire])


def read_inputs(request: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The arrays of a ModelInferRequest by name; read-only views of the message where it carries raw bytes.

    Shapes are checked against the contents here, and against the signature by `Signature.validate`.

    Raises:
        ShapeError: a name, type, shape or content that does not fit; it names the input.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ShapeError(
            f"{len(request.inputs)} inputs came with {len(raw)} raw contents",
            next_step="Send raw_input_contents for every input, in the order of inputs, or for none.",
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        _check_declaration(tensor, specs, arrays)
        if raw and tensor.HasField("contents"):
            raise ShapeError(
                f"input {tensor.name!r} came as raw and as typed contents", "one of them is wrong"
            )
        arrays[tensor.name] = _from_raw(tensor, raw[index]) if raw else _from_typed(tensor)
    return arrays


def _check_declaration(tensor: Any, specs: Mapping[str, TensorSpec], seen: Mapping[str, Array]) -> None:
    """Refuse what cannot be read before reading it."""
    name = tensor.name
    if name in seen:
        raise ShapeError(f"input {name!r} came twice")
    if name not in specs:
        raise ShapeError(
            f"there is no input {name!r}", f"the inputs are {', '.join(map(str, specs.values()))}"
        )
    expected = wire_name(specs[name].dtype)
    if tensor.datatype != expected:
        raise ShapeError(f"input {name!r} is {tensor.datatype or 'of no type'}", f"it must be {expected}")
    if "shared_memory_region" in tensor.parameters:
        raise ShapeError(
            f"input {name!r} refers to shared memory",
            "this server has no shared-memory regions",
            "Send the contents in the message.",
        )
    if any(size < 1 for size in tensor.shape):
        raise ShapeError(f"input {name!r} has shape {list(tensor.shape)}", "every axis must be at least 1")


def _count(tensor: Any) -> int:
    """Number of elements; exact, however large the sizes a hostile message gives."""
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _from_raw(tensor: Any, data: bytes) -> Array:
    if tensor.datatype == "BYTES":
        return _strings(tensor, list(_split(tensor.name, data)))
    dtype = numpy_dtype(tensor.datatype)
    expected = _count(tensor) * dtype.itemsize
    if len(data) != expected:
        raise ShapeError(
            f"input {tensor.name!r} has {len(data)} bytes of raw contents",
            f"shape {list(tensor.shape)} of {tensor.datatype} takes {expected}",
        )
    if tensor.datatype == "BOOL":  # any byte may come, and engines know only 0 and 1
        return np.frombuffer(data, np.uint8).reshape(tuple(tensor.shape)).astype(bool)
    return np.frombuffer(data, dtype).reshape(tuple(tensor.shape))


def _from_typed(tensor: Any) -> Array:
    field = _FIELD_OF.get(tensor.datatype)
    if field is None:
        raise ShapeError(
            f"input {tensor.name!r} is {tensor.datatype}",
            "the protocol has no typed contents for it",
            "Send it in raw_input_contents.",
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([field], []):
        raise ShapeError(
            f"input {tensor.name!r} is {tensor.datatype}",
            f"its contents must be in {field}, but {', '.join(filled)} is filled",
        )
    values = getattr(tensor.contents, field)
    if len(values) != _count(tensor):
        raise ShapeError(
            f"input {tensor.name!r} has {len(values)} values",
            f"shape {list(tensor.shape)} takes {_count(tensor)}",
            "Send raw_input_contents, or contents of that many values.",
        )
    if tensor.datatype == "BYTES":
        return _strings(tensor, values)
    return _narrow(tensor, np.array(values)).reshape(tuple(tensor.shape))


def _narrow(tensor: Any, wide: Array) -> Array:
    """Typed contents travel in wider fields: refuse what the declared type cannot hold."""
    dtype = numpy_dtype(tensor.datatype)
    if dtype.kind in "iu" and wide.size:
        bounds = np.iinfo(dtype)
        if int(wide.min()) < bounds.min or int(wide.max()) > bounds.max:
            raise ShapeError(
                f"input {tensor.name!r} is {tensor.datatype}", f"values reach {wide.min()} to {wide.max()}"
            )
    narrow: Array = wide.astype(dtype)
    return narrow


def _split(name: str, data: bytes) -> Iterable[bytes]:
    """The elements of a raw BYTES tensor: each a little-endian uint32 length, then that many bytes."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ShapeError(f"input {name!r} ends inside the length of an element", f"at byte {at}")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise ShapeError(
                f"input {name!r} ends inside an element", f"{length} bytes announced at byte {at - 4}"
            )
        yield data[at : at + length]
        at += length


def _strings(tensor: Any, elements: Iterable[bytes]) -> Array:
    """An object array of str: string tensors are UTF-8 in every framework we serve."""
    try:
        texts = [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise ShapeError(f"input {tensor.name!r} holds an element that is not UTF-8", str(error)) from error
    if len(texts) != _count(tensor):
        raise ShapeError(
            f"input {tensor.name!r} has {len(texts)} elements",
            f"shape {list(tensor.shape)} takes {_count(tensor)}",
        )
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array.reshape(tuple(tensor.shape))


def to_raw(array: Array) -> bytes:
    """The raw contents of a tensor."""
    if array.dtype.kind not in "OSU":
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.ravel():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)
