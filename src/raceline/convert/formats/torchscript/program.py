"""A TorchScript method as plain data: what the child process wrote, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError

DTYPES = (
    "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool qint8 quint8 "
    "qint32 bfloat16"
).split()
"""torch's element types by their number in a graph; names of complex and quantised ones are only for messages."""


@dataclass(frozen=True)
class Strange:
    """A value that has no meaning in a tensor graph, such as a custom class; its use is refused by name."""

    what: str


@dataclass(frozen=True)
class Module:
    """A submodule, by its path."""

    path: str


@dataclass(frozen=True)
class Port:
    """A value's name and type in a graph."""

    name: str
    type: str


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: with its namespace, such as `aten::add`.
        name: for messages and names of what is built.
        inputs: names of what it reads.
        outputs: what it writes.
        overload: of the operator, such as `Tensor`; empty for its first.
        attribute: path of the module's attribute that it reads or sets; empty for most.
        constant: what a constant holds, or an operator's own setting.
        blocks: branches, or a loop's body.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[Port, ...]
    overload: str
    attribute: str
    constant: Any
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Block:
    """Nodes in order, what they are given and what they give."""

    inputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A method, with all that it reads of its module.

    Attributes:
        block: its first input is the module itself.
        attributes: path -> array, number, text, list, `Module` or `Strange`.
    """

    block: Block
    attributes: dict[str, Any]


def load(folder: Path, source: str) -> Program:
    """Read what the child process wrote.

    Raises:
        BadModelError: a tensor's elements are not all there.
    """
    written = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    try:
        data = np.fromfile(folder / "tensors.bin", np.uint8)
        arrays = [_array(data, *row) for row in written["tensors"]]
        attributes = {path: _plain(value, arrays) for path, value in written["attributes"].items()}
        return Program(_block(written["block"], arrays), attributes)
    except (ValueError, OSError, LookupError, TypeError) as error:
        raise BadModelError(f"{source} is broken", f"its parts are not whole: {error}") from error


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's element type of torch's name."""
    if name == "bfloat16" or name.startswith("float8"):
        import ml_dtypes

        known = {"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "bfloat16"}
        if name not in known:
            raise ValueError(f"elements of type {name}")
        name = getattr(ml_dtypes, name)
    element: np.dtype[Any] = np.dtype(name)
    return element


def _array(data: np.ndarray[Any, Any], dtype: str, shape: list[int], offset: int) -> np.ndarray[Any, Any]:
    element = numpy_dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * element.itemsize
    return data[offset : offset + size].view(element).reshape(shape)


def _block(written: Mapping[str, Any], arrays: list[Any]) -> Block:
    nodes = tuple(_node(node, arrays) for node in written["nodes"])
    return Block(_ports(written["inputs"]), nodes, tuple(written["outputs"]))


def _node(written: Mapping[str, Any], arrays: list[Any]) -> Node:
    constant = _plain(written.get("value"), arrays)
    if "types" in written:
        constant = tuple(written["types"])
    return Node(
        op=written["op"],
        name=written["name"],
        inputs=tuple(written["inputs"]),
        outputs=_ports(written["outputs"]),
        overload=written.get("overload", ""),
        attribute=written.get("attribute", ""),
        constant=constant,
        blocks=tuple(_block(block, arrays) for block in written["blocks"]),
    )


def _ports(written: list[list[str]]) -> tuple[Port, ...]:
    return tuple(Port(name, kind) for name, kind in written)


def _plain(value: Any, arrays: list[Any]) -> Any:
    """A value from its JSON form."""
    if isinstance(value, list):  # a node's own setting
        return tuple(value)
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    return _FORMS[kind](held, arrays)


_FORMS: Mapping[str, Any] = {
    "float": lambda held, arrays: float(held),
    "tensor": lambda held, arrays: arrays[held],
    "module": lambda held, arrays: Module(held),
    "strange": lambda held, arrays: Strange(held),
    "tuple": lambda held, arrays: tuple(_plain(item, arrays) for item in held),
    "list": lambda held, arrays: [_plain(item, arrays) for item in held],
    "dict": lambda held, arrays: {_plain(key, arrays): _plain(item, arrays) for key, item in held},
}
