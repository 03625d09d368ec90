"""Write a model as ONNX for an engine, and name it by a digest of what it computes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from raceline.core.errors import BadModelError
from raceline.ir import structure, weights
from raceline.ir.model import Model

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

IR_VERSION_CAP = 13
"""Newest IR version that every engine takes: ONNX Runtime 1.31 stops there, OpenVINO 2026.4 at none."""
OPSET_CAP = 26
"""Newest opset of ONNX's own domain that every engine takes: ONNX Runtime 1.31 stops there (1.32 at 28),
OpenVINO 2026.4 and MNN 3.6 try any."""

_OLDEST_IR_VERSION = 8  # model-local functions, and initializers that are not inputs, need it
_LARGEST_MESSAGE_BYTES = 2_000_000_000  # protobuf ends at 2 GiB; the graph itself needs some room
ALWAYS_EMBEDDED_BYTES = 1024
"""Initializers up to this size (shapes, axes, scalars) stay in the message: engines read them at once."""
_PAGE_BYTES = 4096
_LINE_BYTES = 64  # a cache line, and the widest vector register


@dataclass(frozen=True)
class Extent:
    """Where one tensor lies in a weights file."""

    offset: int
    length: int


def inlined(program: ir.Model) -> ir.Model:
    """A copy of the program without functions: each call replaced by the function's body.

    Values that a call writes keep their names; nodes from a body carry the call's metadata.

    Raises:
        BadModelError: a function cannot be inlined.
    """
    from onnx_ir.passes import PassError
    from onnx_ir.passes.common import InlinePass

    copy = program.clone()
    if not copy.functions:
        return copy
    try:
        InlinePass()(copy)
    except (PassError, ValueError, TypeError) as error:
        raise BadModelError("a function of the model cannot be inlined", str(error)) from error
    return copy


def to_proto(model: Model, *, inline: bool = True, ir_version_cap: int = IR_VERSION_CAP) -> onnx.ModelProto:
    """The whole model as one message, weights embedded.

    Args:
        model: stays as it is.
        inline: replace every model-local function by its body.
        ir_version_cap: newest IR version to claim.

    Raises:
        BadModelError: the weights do not fit into one message (2 GB); use `write_onnx`.
    """
    size_bytes = weights.total_bytes(model.program)
    if size_bytes > _LARGEST_MESSAGE_BYTES:
        raise BadModelError(
            f"{model.name} does not fit into one ONNX message",
            f"its weights take {size_bytes} bytes",
            "Write it with external data (write_onnx).",
        )
    program = _copy(model.program, inline=inline, ir_version_cap=ir_version_cap)
    for value, tensor in weights.initializers(program):
        value.const_value = _embeddable(tensor)
    return serialised(program)


def bare_proto(program: ir.Model) -> onnx.ModelProto:
    """The graph without its large weights, which become typed inputs; small constants stay.

    What shape inference, the checker and the reference evaluator need, in little memory at any model size.
    """
    copy = program.clone()
    copy.ir_version = max(copy.ir_version, _OLDEST_IR_VERSION)
    graph = copy.graph
    for value, tensor in list(weights.initializers(copy)):
        if value.graph is graph and tensor.nbytes > ALWAYS_EMBEDDED_BYTES:
            _make_input(graph, value, tensor)
        else:
            value.const_value = _embeddable(tensor)
    return serialised(copy)


def write_onnx(
    model: Model,
    path: Path,
    *,
    inline_functions: bool = True,
    external_threshold_bytes: int | None = None,
    ir_version_cap: int = IR_VERSION_CAP,
) -> list[Path]:
    """Write the model as ONNX, streaming weights from where they are: no copy of them is held in memory.

    Args:
        model: stays as it is.
        path: the model file; external weights go into the file of that name plus `.data`. Weights that lie in
            a file of the same folder already are referred to there and not written again.
        inline_functions: replace every model-local function by its body.
        external_threshold_bytes: initializers larger than this go into the weights file. None embeds all
            while they fit into one message, and else moves those over 1 KiB.
        ir_version_cap: newest IR version to claim.

    Returns:
        the files written, the model first.

    Raises:
        BadModelError: the graph alone does not fit into one message.
    """
    program = _copy(model.program, inline=inline_functions, ir_version_cap=ir_version_cap)
    if external_threshold_bytes is None:
        fits = weights.total_bytes(program) <= _LARGEST_MESSAGE_BYTES
        external_threshold_bytes = _LARGEST_MESSAGE_BYTES if fits else ALWAYS_EMBEDDED_BYTES
    moved = _split(program, path.parent, external_threshold_bytes)
    data_path = _unused_data_path(program, path)
    if moved:
        with _replacing(data_path) as file:
            extents = write_weights([tensor for _, tensor in moved], file)
        refer(moved, extents, data_path.name)
    with _replacing(path) as file:
        file.write(message_bytes(serialised(program), model.name))
    return [path, data_path] if moved else [path]


def serialised(program: ir.Model) -> onnx.ModelProto:
    """The program as a message.

    Raises:
        BadModelError: something in it cannot be written.
    """
    import onnx_ir as ir

    try:
        return ir.serde.serialize_model(program)
    except (RuntimeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise BadModelError(f"{program.graph.name} cannot be written as ONNX", str(cause)[:300]) from error


def message_bytes(proto: onnx.ModelProto, name: str) -> bytes:
    """The message's bytes, always the same for the same message.

    Raises:
        BadModelError: it is over 2 GB.
    """
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except ValueError as error:  # what protobuf raises beyond 2 GiB
        why = "constants inside nodes take more than 2 GB; store them as initializers"
        raise BadModelError(f"{name} does not fit into one ONNX message", why) from error


def write_weights(tensors: Iterable[ir.TensorProtocol], file: BinaryIO, sha: Any = None) -> list[Extent]:
    """Write tensors one after another, so aligned that a memory map of the file can be used in place.

    A tensor of a page or more starts at a page, a smaller one at a cache line.

    Args:
        tensors: what to write, in order.
        file: written from its current position, which must be its start.
        sha: a hash object that is fed every byte written.

    Returns:
        where each tensor lies.
    """
    position, extents = 0, []

    def put(data: bytes | memoryview) -> None:
        nonlocal position
        file.write(data)
        if sha is not None:
            sha.update(data)
        position += len(data)

    for tensor in tensors:
        put(bytes(-position % (_PAGE_BYTES if tensor.nbytes >= _PAGE_BYTES else _LINE_BYTES)))
        start = position
        for chunk in weights.chunks(tensor):
            put(chunk)
        extents.append(Extent(start, position - start))
    return extents


def externalise(program: ir.Model, threshold_bytes: int) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """The initializers over a size, in graph order, as a weights file should hold them."""
    import onnx_ir as ir

    return [
        (value, tensor)
        for value, tensor in weights.initializers(program)
        if tensor.nbytes > threshold_bytes and tensor.dtype != ir.DataType.STRING
    ]


def refer(moved: list[tuple[ir.Value, ir.TensorProtocol]], extents: list[Extent], location: str) -> None:
    """Make initializers refer to the weights file at `location`, relative to the model's folder."""
    import onnx_ir as ir

    for (value, tensor), extent in zip(moved, extents, strict=True):
        value.const_value = ir.ExternalTensor(
            location,
            extent.offset,
            extent.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )


def structural_sha256(model: Model) -> str:
    """A digest of what the model computes: operators, connections, weights, inputs and outputs.

    Where its files lie, who wrote it and what its nodes are called does not change it. Weights are hashed
    once in their lifetime.
    """
    program = model.program.clone()
    for value, tensor in weights.initializers(program):
        value.const_value = _digest_in_place_of(tensor)
    proto = serialised(program)
    _forget_names_and_notes(proto)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def capped(program: ir.Model, ir_version_cap: int) -> ir.Model:
    """A copy that claims no newer IR version than `ir_version_cap`."""
    copy = program.clone()
    copy.ir_version = max(min(copy.ir_version, ir_version_cap), _OLDEST_IR_VERSION)
    return copy


def embed_rest(program: ir.Model, moved: list[tuple[ir.Value, ir.TensorProtocol]]) -> None:
    """Make every initializer that is not among `moved` part of the message."""
    chosen = {id(value) for value, _ in moved}
    for value, tensor in weights.initializers(program):
        if id(value) not in chosen:
            value.const_value = _embeddable(tensor)


def _copy(program: ir.Model, *, inline: bool, ir_version_cap: int) -> ir.Model:
    return capped(inlined(program) if inline else program, ir_version_cap)


def _split(program: ir.Model, folder: Path, threshold_bytes: int) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Embed the small tensors, keep references that hold, and return the initializers to be written."""
    large = externalise(program, threshold_bytes)
    embed_rest(program, large)
    return [pair for pair in large if not _lies_in(folder, pair[1])]


def _lies_in(folder: Path, tensor: ir.TensorProtocol) -> bool:
    """Whether the tensor's bytes are in a file of that folder, so that its reference stays true."""
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return False
    return os.path.samefile(tensor.base_dir or ".", folder)


def _unused_data_path(program: ir.Model, path: Path) -> Path:
    """A weights file for `path` that no tensor of the program refers to; overwriting one would destroy it."""
    import onnx_ir as ir

    external = (t for _, t in weights.initializers(program) if isinstance(t, ir.ExternalTensor))
    taken = {Path(t.path).resolve() for t in external}
    numbered = (
        path.with_name(f"{path.name}{suffix}.data") for suffix in ("", *map(".{}".format, range(1, 1000)))
    )
    return next(candidate for candidate in numbered if candidate.resolve() not in taken)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when all is written, and never if that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _embeddable(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor in a form that is written into the message."""
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _make_input(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    import onnx_ir as ir

    value.type = ir.TensorType(tensor.dtype)
    value.shape = ir.Shape(tensor.shape.numpy())
    graph.initializers.pop(value.name or "")
    value.const_value = None
    if value not in graph.inputs:
        graph.inputs.append(value)


def _digest_in_place_of(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    import onnx_ir as ir

    text = np.frombuffer(weights.digest(tensor).encode(), np.uint8)
    return ir.Tensor(text, name=tensor.name)


def _forget_names_and_notes(proto: onnx.ModelProto) -> None:
    for name in (
        "producer_name",
        "producer_version",
        "doc_string",
        "metadata_props",
        "model_version",
        "domain",
    ):
        proto.ClearField(name)
    proto.ClearField("ir_version")
    imports = sorted((o.domain, o.version) for o in proto.opset_import)
    proto.ClearField("opset_import")
    for domain, version in imports:
        proto.opset_import.add(domain=domain, version=version)
    for graph in structure.all_graphs(proto):
        for name in ("name", "doc_string", "metadata_props", "value_info"):
            graph.ClearField(name)
    for holder in (proto.graph, *proto.functions):
        for node in structure.all_nodes(holder.node):
            for name in ("name", "doc_string", "metadata_props"):
                node.ClearField(name)
            ordered = sorted(node.attribute, key=lambda a: a.name)
            copies = [type(a).FromString(a.SerializeToString(deterministic=True)) for a in ordered]
            node.ClearField("attribute")
            node.attribute.extend(copies)
    for function in proto.functions:
        for name in ("doc_string", "metadata_props", "value_info"):
            function.ClearField(name)
