"""Paddle's program file (.pdmodel, __model__): a protobuf message, read without Paddle.

The messages are those of protos/paddle_program.proto in a pool of their own; program.binpb is that file compiled
(`make protos`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from raceline.convert.files import parsed
from raceline.core.errors import BadModelError
from raceline.core.protos import message_class
from raceline.core.units import counted
from raceline.ir import Limits, wire

DTYPES: Mapping[int, Any] = {
    0: np.dtype(bool), 1: np.dtype(np.int16), 2: np.dtype(np.int32), 3: np.dtype(np.int64),
    4: np.dtype(np.float16), 5: np.dtype(np.float32), 6: np.dtype(np.float64), 20: np.dtype(np.uint8),
    21: np.dtype(np.int8), 22: np.dtype(ml_dtypes.bfloat16), 32: np.dtype(ml_dtypes.float8_e4m3fn),
    33: np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
"""VarType.Type -> NumPy, for tensors that hold numbers."""

_ATTRIBUTE_FIELDS = {
    0: "i", 1: "f", 2: "s", 3: "ints", 4: "floats", 5: "strings", 6: "b", 7: "bools", 8: "block_idx", 9: "l",
    10: "blocks_idx", 11: "longs", 12: "float64s", 13: "var_name", 14: "vars_name", 15: "float64",
    16: "scalar", 17: "scalars",
}  # fmt: skip
_TENSOR = 7  # of VarType.Type; feed and fetch lists, scopes and arrays have other numbers
_SCALAR_FIELDS = {1: "b", 2: "i", 3: "r"}
_AGAIN = "Export the model again."


@dataclass(frozen=True)
class Operator:
    """One operation of a program.

    Attributes:
        type: the operator's name.
        inputs: parameter -> names of the variables it reads.
        outputs: parameter -> names of the variables it writes.
        attributes: settings, as plain Python values.
    """

    type: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Variable:
    """What a program declares of a variable; a size of -1 is open."""

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    persistable: bool


@dataclass(frozen=True)
class Block:
    """A list of operations with the variables they share; the first one of a program is its main one."""

    variables: Mapping[str, Variable]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Program:
    """A whole program.

    Attributes:
        blocks: the main one, then those of branches and loops.
        version: Paddle's, as 2006001 for 2.6.1; 0 for development builds.
    """

    blocks: tuple[Block, ...]
    version: int = 0


def message(name: str) -> Any:
    """The class of one message, for example `message("Program")`."""
    return message_class("raceline.convert.formats.paddle", "program.binpb", f"raceline.paddle.{name}")


def looks_like_program(data: wire.Buffer) -> bool:
    """Whether the bytes begin as a program does: a block with number 0 and a parent of -1.

    Looks at a few bytes only; a file that was cut off inside its first block is still recognised.
    """
    try:
        first = next(wire.fields(data))
        if (first.number, first.kind) != (1, 2):
            return False
        block = wire.fields(data, first.start, min(first.stop, len(data)))
        idx, parent, variable = next(block), next(block), next(block)
        minus_one = data[parent.start : parent.stop] in {b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f"}
        return (
            (idx.number, parent.number) == (1, 2)
            and idx.kind == parent.kind == 0
            and minus_one
            and (data[idx.start] == 0 and variable.number in {3, 4} and variable.kind == 2)
        )
    except (StopIteration, ValueError, IndexError):
        return False


def parse(data: bytes, source: str, limits: Limits) -> Program:
    """The program in a file's bytes.

    Raises:
        BadModelError: it is none, damaged, or beyond the limits.
    """
    if not looks_like_program(data):
        why = "its bytes are no ProgramDesc"
        raise BadModelError(f"{source} is no Paddle program", why, "Name the .pdmodel file.")
    proto = parsed(message("Program"), data, source, "Paddle program", limits)
    num_operators = sum(len(block.ops) for block in proto.blocks)
    if num_operators > limits.max_nodes:
        raise BadModelError(
            f"{source} is too large",
            f"it has {counted(num_operators, 'node')}, over the limit of {limits.max_nodes}",
        )
    try:
        blocks = tuple(_block(block, source, limits) for block in proto.blocks)
    except UnicodeError as error:
        raise BadModelError(f"{source} is damaged", str(error), _AGAIN) from error
    return Program(blocks, proto.version.version)


def _block(proto: Any, source: str, limits: Limits) -> Block:
    variables: dict[str, Variable] = {}
    for var in proto.vars:
        if _text(var.name) in variables:
            raise BadModelError(f"{source} is broken", f"two variables are named {var.name[:200]!r}", _AGAIN)
        if len(var.name) > limits.max_name_chars:
            raise BadModelError(f"{source} is broken", "a variable's name is longer than the limit", _AGAIN)
        tensor = var.type.lod_tensor.tensor
        variables[var.name] = Variable(
            var.name,
            DTYPES.get(tensor.data_type) if var.type.type == _TENSOR else None,
            tuple(tensor.dims),
            var.persistable,
        )
    return Block(variables, tuple(_operator(op) for op in proto.ops))


def _operator(proto: Any) -> Operator:
    return Operator(
        _text(proto.type),
        {_text(slot.parameter): tuple(map(_text, slot.arguments)) for slot in proto.inputs},
        {_text(slot.parameter): tuple(map(_text, slot.arguments)) for slot in proto.outputs},
        {_text(attr.name): _attribute(attr) for attr in proto.attrs},
    )


def _text(found: Any) -> str:
    """A name; protobuf hands over bytes where it is no UTF-8."""
    if not isinstance(found, str):
        raise UnicodeError(f"the name {found[:100]!r} is no text")
    return found


def _attribute(proto: Any) -> Any:
    """An attribute's value; text as str where it is text."""
    name = _ATTRIBUTE_FIELDS.get(proto.type)
    if name is None:
        return f"attribute of type {proto.type}"
    value = getattr(proto, name)
    if name == "scalar":
        return _scalar(value)
    if name == "scalars":
        return [_scalar(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str | bool | int | float):
        return value
    return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value]


def _scalar(proto: Any) -> Any:
    return getattr(proto, _SCALAR_FIELDS.get(proto.type, "r"))
