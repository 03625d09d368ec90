"""Parse a .tflite file that is not to be trusted into plain records; weights stay views of its bytes.

The schema package's accessors follow offsets wherever they point. Here every failure they can have becomes one
error, no vector is believed to be longer than the file, and the elements read in all are counted: tables may share
each other, so that a small file can pretend to hold any number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

from raceline.convert.graph import Array
from raceline.core.errors import BadModelError
from raceline.ir import Limits
from raceline.ir.load import PARSE_FAILURES

IDENTIFIER = b"TFL3"
_CUSTOM = 32
_FREE_ELEMENTS = 1_000_000  # that any file may read; a large file may read more
_MOST_CHARS = 200


def _names(enumeration: type) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


OPERATORS = _names(tflite.BuiltinOperator)
TYPES = _names(tflite.TensorType)
_OPTIONS = _names(tflite.BuiltinOptions)
_OPTIONS_2 = _names(tflite.BuiltinOptions2)
_PARSE_FAILURES = (*PARSE_FAILURES, struct.error)


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero), for the whole tensor or for each slice along `axis`."""

    scale: Array
    zero: Array
    axis: int


@dataclass(frozen=True)
class Sparsity:
    """How a sparse tensor's dimensions are stored; see `data.densified`.

    Attributes:
        order: of the dimensions, blocks last.
        blocks: dimension that each block dimension splits.
        dims: for each dimension in that order its size, or (segments, indices) where it is compressed.
    """

    order: tuple[int, ...]
    blocks: tuple[int, ...]
    dims: tuple[int | tuple[Array, Array], ...]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        key: unique in its subgraph, and tells its name.
        name: as in the file, shortened.
        dtype: the schema's name of the element type.
        shape: -1 where an axis is open; None where even the rank may be unknown.
        data: the bytes of a constant; None for what is computed.
        quantisation: None for plain numbers.
        variable: whether it is state that is kept between calls.
        sparsity: None for dense data.
    """

    key: str
    name: str
    dtype: str
    shape: tuple[int, ...] | None
    data: Array | None
    quantisation: Quantisation | None
    variable: bool
    sparsity: Sparsity | None
    strange: str = ""


@dataclass(frozen=True)
class Operation:
    """One operator; -1 among the inputs stands for one that is left out."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]
    custom: bytes = b""


@dataclass(frozen=True)
class Subgraph:
    """Tensors, and operators in the order in which they run."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class SignatureDef:
    """Names that callers know: name -> tensor."""

    key: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class File:
    """What a .tflite file holds."""

    description: str
    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[SignatureDef, ...] = field(default=())


def parse(content: bytes, source: str, limits: Limits) -> File:
    """Read a whole file.

    Raises:
        BadModelError: it is no whole TensorFlow Lite model, or hostile.
    """
    if content[4:8] != IDENTIFIER:
        raise BadModelError(f"{source} is no TensorFlow Lite model", "it does not carry the identifier TFL3")
    try:
        return _Parser(content, source, limits).file()
    except _PARSE_FAILURES as error:
        why = f"the file is cut off or damaged ({type(error).__name__}: {str(error)[:200]})"
        raise BadModelError(f"{source} is broken", why, "Download or convert it again.") from error


class _Parser:
    def __init__(self, content: bytes, source: str, limits: Limits) -> None:
        self.content = content
        self.source = source
        self.limits = limits
        self.left = _FREE_ELEMENTS + len(content) // 4
        self.nodes_left = limits.max_nodes

    def file(self) -> File:
        model = tflite.Model.GetRootAs(self.content, 0)
        buffers = [self._buffer(buffer) for buffer in self._tables(model, "Buffers")]
        codes = [self._code(code) for code in self._tables(model, "OperatorCodes")]
        subgraphs = tuple(self._subgraph(g, codes, buffers) for g in self._tables(model, "Subgraphs"))
        if not subgraphs or not (subgraphs[0].operations or subgraphs[0].outputs):
            raise ValueError("it holds no graph")
        signatures = tuple(self._signature(s, subgraphs) for s in self._tables(model, "SignatureDefs"))
        return File(self._text(model.Description()), subgraphs, signatures)

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("its tables hold far more than the file has room for")

    def _tables(self, table: Any, vector: str, bytes_each: int = 4) -> Iterator[Any]:
        """The tables of a vector, each only when it is asked for."""
        count = int(getattr(table, f"{vector}Length")())
        if count * bytes_each > len(self.content):
            raise ValueError(f"{vector} claims {count} elements")
        self._spend(count)
        for index in range(count):
            yield getattr(table, vector)(index)

    def _numbers(self, table: Any, vector: str) -> Array:
        """A vector of numbers, as a view of the file."""
        found = getattr(table, f"{vector}AsNumpy")()
        return found if isinstance(found, np.ndarray) else np.zeros(0, np.int32)

    def _ints(self, table: Any, vector: str) -> tuple[int, ...]:
        array = self._numbers(table, vector)
        self._spend(array.size)
        return tuple(int(number) for number in array)

    def _text(self, text: bytes | None) -> str:
        raw = text or b""
        self._spend(min(len(raw), 2**16) // 4)
        return raw[: 2**16].decode("utf-8", "replace").replace("\0", " ")

    def _buffer(self, buffer: Any) -> Array | None:
        """A buffer's bytes; None for an empty one. Large files keep them behind the tables."""
        offset, size = int(buffer.Offset()), int(buffer.Size())
        if offset > 1:
            if size < 0 or offset + size > len(self.content):
                raise ValueError(f"a buffer of {size} bytes at {offset} leads outside of the file")
            return np.frombuffer(self.content, np.uint8, size, offset)
        found = buffer.DataAsNumpy()
        return found if isinstance(found, np.ndarray) and found.size else None

    def _code(self, code: Any) -> str:
        number = max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))
        if number == _CUSTOM:
            return f"CUSTOM {self._text(code.CustomCode())[:_MOST_CHARS]}"
        return OPERATORS.get(number, f"BUILTIN {number}")

    def _subgraph(self, graph: Any, codes: list[str], buffers: list[Array | None]) -> Subgraph:
        tensors = tuple(
            self._tensor(index, tensor, buffers)
            for index, tensor in enumerate(self._tables(graph, "Tensors"))
        )
        inputs, outputs = self._ints(graph, "Inputs"), self._ints(graph, "Outputs")
        self.nodes_left -= int(graph.OperatorsLength())
        if self.nodes_left < 0:
            raise BadModelError(
                f"{self.source} is too large", f"it has more than the limit of {self.limits.max_nodes} nodes"
            )
        operations = tuple(self._operation(op, codes) for op in self._tables(graph, "Operators"))
        used = {*inputs, *outputs, *(i for op in operations for i in (*op.inputs, *op.outputs) if i != -1)}
        if any(not 0 <= index < len(tensors) for index in used):
            raise ValueError("an operator names a tensor that does not exist")
        return Subgraph(self._text(graph.Name()), tensors, inputs, outputs, operations)

    def _tensor(self, index: int, tensor: Any, buffers: list[Array | None]) -> Tensor:
        name = self._text(tensor.Name()).rpartition(";")[2][:_MOST_CHARS]
        which = int(tensor.Buffer())
        if which >= len(buffers):
            raise ValueError(f"tensor {name!r} is in buffer {which}, which does not exist")
        shape: tuple[int, ...] | None = self._ints(tensor, "Shape")
        signature = self._ints(tensor, "ShapeSignature")
        if len(signature) == len(shape or ()):
            shape = signature or shape
        if not shape and buffers[which] is None and not tensor.HasRank():
            shape = None  # a scalar, or of unknown rank: the file does not tell
        if shape and (len(shape) > self.limits.max_rank or min(shape) < -1):
            raise ValueError(f"tensor {name!r} has the shape {list(shape[:10])}")
        scheme, strange = self._quantisation(tensor.Quantization())
        return Tensor(
            key=f"{index}:{name}",
            name=name,
            dtype=TYPES.get(int(tensor.Type()), f"type {tensor.Type()}"),
            shape=shape,
            data=buffers[which],
            quantisation=scheme,
            variable=bool(tensor.IsVariable()),
            sparsity=self._sparsity(tensor.Sparsity()),
            strange=strange,
        )

    def _quantisation(self, table: Any) -> tuple[Quantisation | None, str]:
        if table is None:
            return None, ""
        details = int(table.DetailsType())
        if details:
            return None, f"a quantisation scheme of its own (details {details})"
        scale = self._numbers(table, "Scale")
        zero = self._numbers(table, "ZeroPoint")
        if not scale.size:
            return None, ""
        if zero.size not in {0, 1, scale.size}:
            raise ValueError("scales and zero points differ in number")
        whole = np.zeros(1, np.int64) if not zero.size else zero.astype(np.int64)
        zeros = np.broadcast_to(whole, scale.shape)
        return Quantisation(scale.astype(np.float32), zeros, int(table.QuantizedDimension())), ""

    def _sparsity(self, table: Any) -> Sparsity | None:
        if table is None:
            return None
        dims = tuple(self._dimension(dim) for dim in self._tables(table, "DimMetadata"))
        return Sparsity(self._ints(table, "TraversalOrder"), self._ints(table, "BlockMap"), dims)

    def _dimension(self, dim: Any) -> int | tuple[Array, Array]:
        if int(dim.Format()) == tflite.DimensionType.DENSE:
            return int(dim.DenseSize())
        return (
            self._index_vector(dim.ArraySegments(), int(dim.ArraySegmentsType())),
            self._index_vector(dim.ArrayIndices(), int(dim.ArrayIndicesType())),
        )

    def _index_vector(self, table: Any, kind: int) -> Array:
        classes = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}
        vector = classes[kind]()
        vector.Init(table.Bytes, table.Pos)
        return self._numbers(vector, "Values").astype(np.int64)

    def _operation(self, op: Any, codes: list[str]) -> Operation:
        kind, union, table = int(op.BuiltinOptionsType()), _OPTIONS, op.BuiltinOptions()
        if not kind and op.BuiltinOptions2Type():
            kind, union, table = int(op.BuiltinOptions2Type()), _OPTIONS_2, op.BuiltinOptions2()
        options = self._options(table, union.get(kind, "")) if table is not None and kind else {}
        return Operation(
            op=codes[int(op.OpcodeIndex())],
            inputs=self._ints(op, "Inputs"),
            outputs=self._ints(op, "Outputs"),
            options=options,
            custom=self._custom(op),
        )

    def _custom(self, op: Any) -> bytes:
        offset, size = int(op.LargeCustomOptionsOffset()), int(op.LargeCustomOptionsSize())
        if offset > 1:
            if offset + size > len(self.content):
                raise ValueError("an operator's options lead outside of the file")
            return self.content[offset : offset + size]
        array = self._numbers(op, "CustomOptions")
        self._spend(array.size // 4)
        return array.tobytes()

    def _options(self, table: flatbuffers.table.Table, kind: str) -> dict[str, Any]:
        """All fields of an operator's options by their names in the schema; nested tables are left out."""
        schema = getattr(tflite, kind, None)
        if schema is None:
            return {"unknown_options": kind}
        view = schema()
        view.Init(table.Bytes, table.Pos)
        members = set(vars(schema))
        result: dict[str, Any] = {}
        for member in members:
            if f"{member}AsNumpy" in members:
                result[_snake(member)] = self._ints(view, member)
            elif member in _fields(members):
                value = getattr(view, member)()
                result[_snake(member)] = self._text(value) if isinstance(value, bytes) else value
        return result

    def _signature(self, signature: Any, subgraphs: tuple[Subgraph, ...]) -> SignatureDef:
        which = int(signature.SubgraphIndex())
        if which >= len(subgraphs):
            raise ValueError(f"a signature names subgraph {which}, which does not exist")
        count = len(subgraphs[which].tensors)
        maps = []
        for vector in ("Inputs", "Outputs"):
            named = {
                self._text(item.Name())[:_MOST_CHARS]: int(item.TensorIndex())
                for item in self._tables(signature, vector)
            }
            if any(index >= count for index in named.values()):
                raise ValueError("a signature names a tensor that does not exist")
            maps.append(named)
        return SignatureDef(self._text(signature.SignatureKey()), which, *maps)


def _fields(members: set[str]) -> set[str]:
    """Names of the plain fields among the members of a generated class."""
    helpers = {m for m in members if m.endswith(("Length", "IsNone", "AsNumpy", "HasIdentifier"))}
    vectors = {m for m in members if f"{m}Length" in members}
    return {m for m in members - helpers - vectors - {"Init"} if not m.startswith(("_", "GetRootAs"))}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
