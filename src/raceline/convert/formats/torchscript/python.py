"""TorchScript's Python: numbers, text, lists and dictionaries, followed while translating."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raceline.convert.formats.torchscript.values import Memory, Scalar, Tensor
from raceline.convert.lower import UnsupportedError

NUMPY: Mapping[type, Any] = {int: np.int64, float: np.float64, bool: np.bool_}
NOTHING = object()
"""What `apply` returns where the operation is none of Python's."""

_MOST_ELEMENTS = 1_000_000
_CONTAINERS = (list, tuple, dict, str)


def apply(op: str, arguments: list[Any], memory: Memory, dynamic: bool) -> Any:
    """What an operation gives, if it needs no tensors; `NOTHING` otherwise.

    Args:
        op: with its namespace.
        arguments: may be changed in place, as lists are.
        memory: says which lists may change.
        dynamic: whether an argument holds what only a run knows.
    """
    if arguments and isinstance(arguments[0], _CONTAINERS) and op in _ON_CONTAINERS:
        if op in _CHANGING:
            memory.may_change(arguments[0])
        return _ON_CONTAINERS[op](*arguments)
    if op in _IDENTITY:
        return _IDENTITY[op](*arguments[:2])
    if dynamic or op not in _ON_NUMBERS:
        return NOTHING
    if any(isinstance(item, list | tuple) for item in arguments) and op not in _TAKES_LISTS:
        return NOTHING
    return _ON_NUMBERS[op](*arguments)


def passes_parts(op: str, arguments: list[Any]) -> bool:
    """Whether an operation only moves parts of a container, so that one lost part loses nothing else."""
    return op in _MOVING and bool(arguments) and isinstance(arguments[0], _CONTAINERS)


def is_a(item: Any, kind: str) -> bool:
    """Whether a value is of TorchScript's type of this name."""
    if kind == "Tensor":
        return isinstance(item, Tensor)
    if kind in {"int", "float", "bool"}:
        own = item.kind if isinstance(item, Scalar) else type(item)
        return bool(own.__name__ == kind)
    name = kind.split("[")[0]
    plain: Mapping[str, Any] = {
        "str": str,
        "List": list,
        "Tuple": tuple,
        "Dict": dict,
        "NoneType": type(None),
    }
    if name not in plain:
        raise UnsupportedError(f"a test for type {kind}")
    if name in {"List", "Tuple", "Dict"} and isinstance(item, plain[name]) and item:
        raise UnsupportedError(f"a test for type {kind}")
    return isinstance(item, plain[name])


def _format(text: Any, *items: Any) -> str:
    shown = [item if isinstance(item, str | int | float | bool | None) else "?" for item in items]
    return str(text).format(*shown) if isinstance(text, str) else "?"


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def _extend(items: list[Any], more: list[Any]) -> list[Any]:
    items.extend(more)
    return items


def _insert(items: list[Any], place: int, item: Any) -> None:
    items.insert(place, item)


def _set_item(items: Any, place: Any, item: Any) -> Any:
    if isinstance(place, Scalar):
        raise UnsupportedError("the place in a list is only known at run time")
    items[place] = item
    return items


def _item(items: Any, place: Any) -> Any:
    if isinstance(place, Scalar | Tensor):
        raise UnsupportedError("the place in a list is only known at run time")
    return items[place]


def _slice(items: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if any(isinstance(item, Scalar) for item in (start, end, step)):
        raise UnsupportedError("the places in a list are only known at run time")
    return items[slice(start, end, step)]


def _times(items: Any, count: Any) -> Any:
    if isinstance(count, list | tuple | str):
        items, count = count, items
    if not isinstance(count, int) or len(items) * max(count, 0) > _MOST_ELEMENTS:
        raise UnsupportedError(f"a list of more than {_MOST_ELEMENTS:,} elements")
    return items * count


def _range_length(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


def _range(*bounds: int) -> list[int]:
    found = range(*bounds)
    if len(found) > _MOST_ELEMENTS:
        raise UnsupportedError(f"a list of more than {_MOST_ELEMENTS:,} elements")
    return list(found)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) > 64 and abs(base) > 1:
        raise UnsupportedError("a number beyond 64 bits")
    return base**exponent


def _bounded(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Integers stay within 64 bits, as in TorchScript; what runs over is refused rather than wrapped."""

    def bounded(*arguments: Any) -> Any:
        if any(not isinstance(item, int | float) for item in arguments):
            if all(isinstance(item, str) for item in arguments):
                return compute(*arguments)
            return NOTHING
        result = compute(*arguments)
        if isinstance(result, int) and not -(2**63) <= result < 2**63:
            raise UnsupportedError("a number beyond 64 bits")
        return result

    return bounded


def _add(left: Any, right: Any, alpha: Any = 1) -> Any:
    return left + right if isinstance(left, str) else left + right * alpha


def _subtract(left: Any, right: Any, alpha: Any = 1) -> Any:
    return left - right * alpha


def _divide(left: Any, right: Any, rounding: Any = None) -> Any:
    if rounding == "floor":
        return left // right
    return int(left / right) if rounding == "trunc" else left / right


def _round(item: Any, digits: Any = None) -> Any:
    return float(round(item)) if digits is None else round(item, digits)


def _least(*items: Any) -> Any:
    return min(items[0]) if len(items) == 1 and isinstance(items[0], list) else min(items)


def _most(*items: Any) -> Any:
    return max(items[0]) if len(items) == 1 and isinstance(items[0], list) else max(items)


def _is(left: Any, right: Any) -> bool:
    return left is right or (left is None and right is None)


def _has(items: Any, item: Any) -> bool:
    if isinstance(item, Scalar | Tensor):
        raise UnsupportedError("whether a list holds it is only known at run time")
    return item in items


def _same_lists(left: Any, right: Any) -> Any:
    if isinstance(left, str) or isinstance(right, str):
        return left == right
    pairs = list(zip(left, right, strict=False))
    if len(left) != len(right):
        return False
    for a, b in pairs:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            raise UnsupportedError("it compares lists of tensors")
        if isinstance(a, Scalar) or isinstance(b, Scalar):
            same = isinstance(a, Scalar) and isinstance(b, Scalar) and a.dim and a.dim == b.dim
            if not same:
                raise UnsupportedError("it compares sizes that are only known at run time")
        elif a != b:
            return False
    return True


def _different_lists(left: Any, right: Any) -> Any:
    return not _same_lists(left, right)


def _join(separator: str, items: list[str]) -> str:
    return separator.join(items)


def _items(mapping: dict[Any, Any]) -> list[Any]:
    return list(mapping.items())


def _any_of(items: Any) -> Any:
    if any(isinstance(item, Scalar | Tensor) for item in items):
        return NOTHING
    return any(items)


def _all_of(items: Any) -> Any:
    if any(isinstance(item, Scalar | Tensor) for item in items):
        return NOTHING
    return all(items)


def _add_lists(left: Any, right: Any, *_: Any) -> Any:
    return left + right if type(left) is type(right) else NOTHING


def _get_or(mapping: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return mapping.get(key, default)


def _pop(items: Any, place: Any = -1, *default: Any) -> Any:
    return items.pop(place, *default)


def _clear(items: Any) -> None:
    items.clear()


def _reverse(items: list[Any]) -> None:
    items.reverse()


def _delete(items: Any, place: Any) -> None:
    del items[place]


def _update(items: dict[Any, Any], more: dict[Any, Any]) -> None:
    items.update(more)


_ON_CONTAINERS: Mapping[str, Callable[..., Any]] = {
    "aten::len": len,
    "aten::__getitem__": _item,
    "prim::TupleIndex": _item,
    "aten::slice": _slice,
    "aten::append": _append,
    "aten::extend": _extend,
    "aten::insert": _insert,
    "aten::_set_item": _set_item,
    "aten::pop": _pop,
    "aten::clear": _clear,
    "aten::reverse": _reverse,
    "aten::Delete": _delete,
    "aten::update": _update,
    "aten::copy": lambda items: items.copy() if isinstance(items, list | dict) else items,
    "aten::list": list,
    "aten::add": _add_lists,
    "aten::add_": _extend,
    "aten::mul": _times,
    "aten::__contains__": _has,
    "aten::eq": _same_lists,
    "aten::ne": _different_lists,
    "aten::format": _format,
    "aten::percentFormat": lambda text, *items: str(text),
    "aten::join": _join,
    "aten::keys": list,
    "aten::values": lambda mapping: list(mapping.values()),
    "aten::items": _items,
    "aten::get": _get_or,
    "aten::any": _any_of,
    "aten::all": _all_of,
    "aten::lower": str.lower,
    "aten::upper": str.upper,
    "aten::startswith": lambda text, start, *_: text.startswith(start),
    "aten::endswith": lambda text, end, *_: text.endswith(end),
}

_CHANGING = frozenset(
    "aten::append aten::extend aten::insert aten::_set_item aten::pop aten::clear aten::reverse aten::Delete "
    "aten::update aten::add_".split()
)
_MOVING = _CHANGING | frozenset(
    "aten::len aten::__getitem__ prim::TupleIndex aten::slice aten::list aten::copy aten::add aten::format".split()
)

_IDENTITY: Mapping[str, Callable[..., Any]] = {
    "aten::__is__": _is,
    "aten::__isnot__": lambda left, right: not _is(left, right),
}

_TAKES_LISTS = frozenset("prim::min prim::max aten::format aten::str aten::sum".split())

_ON_NUMBERS: Mapping[str, Callable[..., Any]] = {
    "aten::add": _bounded(_add),
    "aten::sub": _bounded(_subtract),
    "aten::mul": _bounded(operator.mul),
    "aten::div": _divide,
    "aten::floordiv": operator.floordiv,
    "aten::floor_divide": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::fmod": math.fmod,
    "aten::neg": operator.neg,
    "aten::abs": abs,
    "prim::abs": abs,
    "aten::pow": _bounded(_power),
    "aten::sqrt": math.sqrt,
    "aten::exp": math.exp,
    "aten::log": lambda item, *base: math.log(item, *base),
    "aten::log2": math.log2,
    "aten::log10": math.log10,
    "aten::sin": math.sin,
    "aten::cos": math.cos,
    "aten::floor": math.floor,
    "aten::ceil": math.ceil,
    "aten::trunc": math.trunc,
    "aten::round": _round,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::__xor__": operator.xor,
    "aten::__lshift__": lambda item, bits: item << min(bits, 64),
    "aten::__rshift__": operator.rshift,
    "aten::__not__": operator.not_,
    "aten::str": str,
    "aten::format": _format,
    "prim::min": _least,
    "prim::max": _most,
    "aten::__range_length": _range_length,
    "aten::__derive_index": lambda index, start, step: start + index * step,
    "aten::range": _range,
    "aten::is_floating_point": lambda item: isinstance(item, float),
    "aten::is_scripting": lambda: True,
    "aten::Complex": lambda *_: NOTHING,
    "aten::bitwise_not": operator.invert,
    "aten::sum": lambda items, *_: sum(items) if isinstance(items, list) else NOTHING,
    "aten::device": lambda name, *_: name,
}
