"""What a module was traced with, out of the archive's record of it, which is a pickle: read here, never run.

The record's instructions are followed by a machine that knows lists, tuples, numbers and text. What would be
a call becomes a plain note of it, so nothing in the record can do anything.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import Any

_MOST_INSTRUCTIONS = 100_000
_MARK = object()
_DTYPES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "BFloat16Storage": "bfloat16",
}  # fmt: skip
_LITERALS = frozenset("BININT BININT1 BININT2 LONG1 BINUNICODE BINFLOAT SHORT_BINUNICODE GLOBAL".split())
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def recorded(record: bytes, method: str) -> tuple[tuple[str, tuple[int, ...]] | None, ...]:
    """Type and shape of each input of a method at tracing, None for what is no tensor; empty where unknown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken text is reported by a warning too
            kept = _unwrapped(_followed(record))
        return tuple(_shape(item) for item in _unwrapped(kept[method]))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError):
        return ()


def _unwrapped(item: Any) -> Any:
    """A value without the note of its type that TorchScript puts around it."""
    while isinstance(item, tuple) and len(item) == 3 and item[0] == "call" and "restore_type_tag" in item[1]:
        item = item[2][0]
    return item


def _shape(item: Any) -> tuple[str, tuple[int, ...]] | None:
    is_tensor = isinstance(item, tuple) and len(item) == 3 and "_rebuild_tensor" in str(item[1])
    if not is_tensor:
        return None
    storage, _, sizes = item[2][:3]
    dtype = _DTYPES[str(storage[1][1]).split()[-1]]
    return dtype, tuple(int(size) for size in sizes)


def _followed(record: bytes) -> Any:
    """The value that the record's instructions build."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(record)):
        if count > _MOST_INSTRUCTIONS:
            raise ValueError("too long")
        if code.name == "STOP":
            break
        _follow(code.name, argument, stack, memo)
    return stack[-1]


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
    elif name in {"BINPUT", "LONG_BINPUT"}:
        memo[argument] = stack[-1]
    elif name in {"BINGET", "LONG_BINGET"}:
        stack.append(memo[argument])
    else:
        _combine(name, stack)


def _combine(name: str, stack: list[Any]) -> None:
    if name in {"EMPTY_LIST", "EMPTY_DICT", "MARK"}:
        stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "MARK": _MARK}[name])
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name == "APPENDS":
        items = _since_mark(stack)
        stack[-1].extend(items)
    elif name == "APPEND":
        item = stack.pop()
        stack[-1].append(item)
    elif name == "SETITEMS":
        pairs = _since_mark(stack)
        stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
    elif name == "SETITEM":
        key, item = stack[-2:]
        del stack[-2:]
        stack[-1][key] = item
    elif name in {"REDUCE", "BUILD"}:
        given = stack.pop()
        stack.append(("call", stack.pop(), given))
    elif name == "BINPERSID":
        stack.append(("storage", stack.pop()))
    elif name != "PROTO":
        raise ValueError(name)


def _since_mark(stack: list[Any]) -> list[Any]:
    place = max(at for at, item in enumerate(stack) if item is _MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items
