"""From the bytes of an ONNX file to a program, with nothing believed before it is checked.

A model file is untrusted input: sizes are compared with what is really there before anything is allocated,
and paths of external data must stay inside the model's folder.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.core.units import format_bytes
from raceline.ir import operators, structure, wire
from raceline.ir.limits import Limits

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

FileSize = Callable[[str], int]
"""Bytes of an external file by its location in the model; raises BadModelError where it may not be used."""

_MOST_REPORTED = 20
_TERM = r"(?:[A-Za-z ]|\.\.\.)*"
_EQUATION = re.compile(rf"{_TERM}(?:,{_TERM})*(?:->{_TERM})?")
_FREE_TEXT = frozenset({"doc_string", "value"})  # notes and metadata, as long as they like
# What protobuf's and onnx_ir's parsers raise on messages that are well formed and still make no sense.
PARSE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass
class ExternalFiles:
    """The files of external data beside one model.

    Attributes:
        folder: the model's folder; nothing outside it may be read.
        used: location as the model spells it -> the file.
    """

    folder: Path
    used: dict[str, Path] = field(default_factory=dict)

    def size_bytes(self, location: str) -> int:
        """Bytes of the file at `location`.

        Raises:
            BadModelError: it is absent, no plain file, or outside the folder, by whatever way.
        """
        return _stat_plain_file(self.path(location)).st_size

    def path(self, location: str) -> Path:
        """The file at `location`, links resolved, once it is known to lie inside the folder."""
        if location not in self.used:
            self.used[location] = self._inside(location)
        return self.used[location]

    def _inside(self, location: str) -> Path:
        folder = self.folder.resolve()
        try:
            path = (folder / location).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
            raise _unusable(location, str(error)) from error
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
            raise _unusable(location, f"it leads outside the model's folder, to {path}")
        if _stat_plain_file(path).st_nlink > 1:
            raise _unusable(location, "it has several hard links, so its real place is unknown")
        return path


def parse(data: bytes | memoryview, source: str, limits: Limits) -> onnx.ModelProto:
    """Parse a model file's bytes.

    Raises:
        BadModelError: they are empty, cut off, no ONNX model, or beyond the limits.
    """
    import onnx
    from google.protobuf.message import DecodeError

    _refuse_growth(data, source, limits)
    proto = onnx.ModelProto()
    try:
        # One copy is made here at most; the parser wants bytes.
        proto.ParseFromString(data if isinstance(data, bytes) else bytes(data))
    except (DecodeError, *PARSE_FAILURES) as error:
        raise _not_onnx(source, "the file is cut off or is no protobuf message") from error
    if not proto.ir_version or not (proto.graph.node or proto.graph.output):
        raise _not_onnx(source, "it holds no graph")
    return proto


def check_proto(proto: onnx.ModelProto, source: str, limits: Limits, file_size: FileSize) -> None:
    """Check everything that could make building the program costly, dangerous or ambiguous.

    Raises:
        BadModelError: with every problem found.
        UnsupportedOperatorError: with every operator that has no meaning.
    """
    _check_counts(proto, source, limits)
    problems = _tensor_problems(proto, limits, file_size)
    problems += _unsupported_parts(proto)
    problems += _opset_problems(proto)
    problems += _einsum_problems(proto)
    problems += structure.problems(proto)
    if problems:
        raise BadModelError(f"{source} is broken", summary(problems), "Export the model again.")
    _check_nodes(structure.expanded_count(proto), "nodes once its functions are expanded", source, limits)
    unknown = structure.unsupported(proto)
    if unknown:
        raise UnsupportedOperatorError(
            source, unknown, "Express them in standard ONNX operators, or as model-local functions."
        )


def build(proto: onnx.ModelProto, source: str, folder: Path) -> ir.Model:
    """Turn a checked message into a program whose large tensors no longer depend on the message.

    Raises:
        BadModelError: the message is inconsistent after all.
    """
    import onnx_ir as ir

    try:
        program = ir.serde.deserialize_model(proto)
        ir.external_data.set_base_dir(program.graph, folder)
        _detach(program)
        _drop_absent_ends(program)
    except PARSE_FAILURES as error:
        raise BadModelError(f"{source} is broken", root_cause(error), "Export the model again.") from error
    return program


def _drop_absent_ends(program: ir.Model) -> None:
    """Drop inputs that are spelt out as left out behind a node's last one: they mean nothing, and engines stumble.

    ONNX Runtime 1.32 dies of LayerNormalization(x, scale, "").
    """
    graphs: list[Any] = [program.graph, *program.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():
            given = [place for place, value in enumerate(node.inputs) if value is not None]
            node.resize_inputs(given[-1] + 1 if given else 0)


def summary(problems: list[str]) -> str:
    """All problems in one line; the first twenty and how many more."""
    rest = len(problems) - _MOST_REPORTED
    return "; ".join(problems[:_MOST_REPORTED]) + (f"; and {rest} more" if rest > 0 else "")


def root_cause(error: BaseException, most_chars: int = 300) -> str:
    """What went wrong first, on one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most_chars else text[:most_chars] + "..."


def tensor_bytes(data_type: int, dims: list[int] | tuple[int, ...]) -> int | None:
    """Bytes of a tensor as ONNX stores it; None for strings and unknown element types."""
    import onnx_ir as ir

    if data_type not in {d.value for d in ir.DataType} - {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        return None
    return math.ceil(math.prod(dims) * ir.DataType(data_type).bitwidth / 8)


def all_tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Every tensor in the message with a name for reports."""
    for graph in structure.all_graphs(proto):
        for tensor in graph.initializer:
            yield f"initializer {tensor.name!r}", tensor
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in structure.all_nodes(nodes):
            for attribute in node.attribute:
                where = f"attribute {attribute.name!r} of node {structure.label(node)!r}"
                yield from ((where, t) for t in _attribute_tensors(attribute))
    for function in proto.functions:
        for attribute in function.attribute_proto:
            where = f"default {attribute.name!r} of function {function.name!r}"
            yield from ((where, t) for t in _attribute_tensors(attribute))


def _attribute_tensors(attribute: Any) -> list[Any]:
    return ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)


def _refuse_growth(data: bytes | memoryview, source: str, limits: Limits) -> None:
    """Refuse a message that is too large, or would become so once parsed."""
    if len(data) > limits.max_model_bytes:
        raise _too_large(source, len(data), limits)
    if len(data) * wire.WORST_GROWTH <= limits.max_model_bytes:
        return
    import onnx

    try:
        size = wire.parsed_size_bytes(data, onnx.ModelProto.DESCRIPTOR)
    except (ValueError, IndexError, RecursionError) as error:
        raise _not_onnx(source, f"the file is cut off or is no protobuf message ({error})") from error
    if size > limits.max_model_bytes:
        raise _too_large(source, size, limits)


def _check_counts(proto: onnx.ModelProto, source: str, limits: Limits) -> None:
    """Refuse more nodes or longer names than the limits allow, and text that is no text."""
    bodies = (proto.graph.node, *(function.node for function in proto.functions))
    num_nodes = sum(1 for nodes in bodies for _ in structure.all_nodes(nodes))
    _check_nodes(num_nodes, "nodes", source, limits)
    for message in _messages(proto):
        for name, text in _texts(message):
            if isinstance(text, bytes):  # what protobuf gives where the bytes are no UTF-8
                raise BadModelError(f"{source} is broken", f"{name} holds {text[:40]!r}, which is no UTF-8")
            if len(text) > limits.max_name_chars and name not in _FREE_TEXT:
                raise BadModelError(
                    f"{source} is broken", f"a {name} of {len(text)} characters: {text[:60]}..."
                )


def _check_nodes(count: int, what: str, source: str, limits: Limits) -> None:
    if count > limits.max_nodes:
        why = f"{count} {what}, more than the limit of {limits.max_nodes}"
        raise BadModelError(f"{source} is too large", why, "Raise max_nodes if you trust the file.")


def _messages(message: Any) -> Iterator[Any]:
    """The message and all messages inside it."""
    yield message
    for name, repeated in _fields(message.DESCRIPTOR)[1]:
        if repeated:
            for inner in getattr(message, name):
                yield from _messages(inner)
        elif message.HasField(name):
            yield from _messages(getattr(message, name))


def _texts(message: Any) -> Iterator[tuple[str, str | bytes]]:
    """Name and content of every text field."""
    for name, repeated in _fields(message.DESCRIPTOR)[0]:
        content = getattr(message, name)
        for text in content if repeated else (content,):
            yield name, text


@lru_cache(maxsize=256)
def _fields(descriptor: Any) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Names of a message type's text fields and of its message fields, each with whether it repeats."""
    texts = [(f.name, _repeats(f)) for f in descriptor.fields if f.type == f.TYPE_STRING]
    return texts, [(f.name, _repeats(f)) for f in descriptor.fields if f.message_type is not None]


def _repeats(field: Any) -> bool:
    return bool(getattr(field, "is_repeated", False) or getattr(field, "label", 0) == 3)


def _tensor_problems(proto: onnx.ModelProto, limits: Limits, file_size: FileSize) -> list[str]:
    """Tensors whose claims do not agree with the bytes that are there.

    Raises:
        BadModelError: all together are beyond the memory limit.
    """
    found, total = [], 0
    for where, tensor in all_tensors(proto):
        problem = _tensor_problem(tensor, limits, file_size)
        if problem:
            found.append(f"{where} {problem}")
        else:
            total += tensor_bytes(tensor.data_type, tensor.dims) or 0
    if total > limits.max_model_bytes and not found:
        raise _too_large("the model", total, limits)
    return found


def _tensor_problem(tensor: Any, limits: Limits, file_size: FileSize) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    dims = list(tensor.dims)
    if any(d < 0 for d in dims) or len(dims) > limits.max_rank:
        return f"has the impossible shape {dims[:8]}"
    if tensor.data_type == tensor.STRING:
        size, there = math.prod(dims), len(tensor.string_data)
        return "" if size == there and tensor.data_location == tensor.DEFAULT else "lacks its strings"
    needed = tensor_bytes(tensor.data_type, dims)
    if needed is None:
        return f"has the unknown element type {tensor.data_type}"
    if tensor.data_location == tensor.EXTERNAL:
        return _external_problem(tensor, needed, file_size)
    if tensor.HasField("raw_data"):
        there = len(tensor.raw_data)
        return "" if there == needed else f"of shape {dims} needs {needed} bytes and has {there}"
    return _typed_data_problem(tensor, math.prod(dims))


def _typed_data_problem(tensor: Any, count: int) -> str:
    """Whether the field for the tensor's element type, and no other, holds `count` elements."""
    import onnx
    import onnx_ir as ir

    dtype = ir.DataType(tensor.data_type)
    expected = math.ceil(count * dtype.bitwidth / 8) if dtype.bitwidth in {2, 4} else count
    name = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    if dtype in {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}:
        expected *= 2
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    if any(len(getattr(tensor, other)) for other in fields if other != name):
        return f"of type {dtype.name} keeps its data in a field of another type"
    there = len(getattr(tensor, name))
    if there != expected:
        return f"of shape {list(tensor.dims)} needs {expected} elements and has {there}"
    return ""


def _external_problem(tensor: Any, needed: int, file_size: FileSize) -> str:
    entries = {e.key: e.value for e in tensor.external_data}
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError:
        return f"has the external offset {entries.get('offset')!r} and length {entries.get('length')!r}"
    try:
        size = file_size(entries.get("location", ""))
    except BadModelError as error:
        return f"cannot be read: {error}"
    if length != needed:
        return f"of shape {list(tensor.dims)} needs {needed} bytes; its external length is {length}"
    if offset < 0 or offset + needed > size:
        return f"ends at byte {offset + needed} of {entries['location']!r}, which has {size}"
    return ""


def _unsupported_parts(proto: onnx.ModelProto) -> list[str]:
    """Parts of the format that a program cannot hold."""
    sparse = [graph for graph in structure.all_graphs(proto) if graph.sparse_initializer]
    found = [f"graph {graph.name!r} has sparse initializers; store them dense" for graph in sparse]
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in structure.all_nodes(nodes):
            for attribute in node.attribute:
                where = f"attribute {attribute.name!r} of node {structure.label(node)!r}"
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    found.append(f"{where} holds a sparse tensor; store it dense")
                if attribute.type == attribute.UNDEFINED:
                    found.append(f"{where} does not tell its type")
    return found


def equation_problem(equation: str) -> str:
    """Why an Einsum's equation is none; empty where it is one. onnx's shape inference never ends on some others."""
    return (
        ""
        if _EQUATION.fullmatch(equation)
        else f"its equation {equation[:60]!r} is none of letters and '...'"
    )


def _einsum_problems(proto: onnx.ModelProto) -> list[str]:
    """Einsum nodes, wherever they are, whose equation is none."""
    return [
        f"node {message.name!r} (Einsum): {problem}"
        for message in _messages(proto)
        if message.DESCRIPTOR.name == "NodeProto" and message.op_type == "Einsum"
        for attribute in message.attribute
        if attribute.name == "equation"
        and (problem := equation_problem(attribute.s.decode("utf-8", "replace")))
    ]


def _opset_problems(proto: onnx.ModelProto) -> list[str]:
    """Opsets that are missing, or newer than anything here can interpret."""
    opsets = structure.opsets(proto)
    if not opsets:
        return ["it imports no opset"]
    newest = operators.newest_opset()
    if not 1 <= opsets.get("", 1) <= newest:
        return [f"it imports opset {opsets['']}; the installed onnx package knows 1 to {newest}"]
    return []


def _detach(program: ir.Model) -> None:
    """Give every embedded tensor its own array: the message can be freed, and numpy() stops copying."""
    import onnx_ir as ir

    from raceline.ir import weights

    def owned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.TensorProtoTensor):
            return tensor
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)

    for value, tensor in weights.initializers(program):
        value.const_value = owned(tensor)
    for node, attribute in list(weights.attribute_tensors(program)):
        node.attributes.add(ir.AttrTensor(attribute.name, owned(attribute.as_tensor())))


def _stat_plain_file(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise _unusable(path.name, error.strerror or str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path.name, "it is no plain file")
    return found


def _unusable(location: str, why: str) -> BadModelError:
    return BadModelError(
        f"the external data file {location[:200]!r} cannot be used",
        why,
        "Put a copy of it beside the model and name it by its plain file name.",
    )


def _not_onnx(source: str, why: str) -> BadModelError:
    return BadModelError(f"{source} is not a whole ONNX model", why, "Download or export it again.")


def _too_large(source: str, size_bytes: int, limits: Limits) -> BadModelError:
    return BadModelError(
        f"{source} is too large",
        f"{format_bytes(size_bytes)}, more than the limit of {format_bytes(limits.max_model_bytes)}",
        "Use a machine with more memory, or raise the limit (max_model_bytes, --memory-limit).",
    )
