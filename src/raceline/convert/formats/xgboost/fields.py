"""Take typed fields out of a parsed file that is not to be believed; what is wrong raises ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def mapping(holder: Any, key: str) -> Mapping[str, Any]:
    """An object inside another."""
    found = field(holder, key)
    if not isinstance(found, dict):
        raise ValueError(f"{key!r} is no object")
    return found


def field(holder: Any, key: str) -> Any:
    """A field that must be there."""
    if not isinstance(holder, dict) or key not in holder:
        raise ValueError(f"there is no {key!r}")
    return holder[key]


def text(holder: Any, key: str) -> str:
    """A text that must be there."""
    found = field(holder, key)
    if not isinstance(found, str):
        raise ValueError(f"{key!r} is no text")
    return found


def whole(holder: Any, key: str, default: int | None = None) -> int:
    """A whole number that is not negative; XGBoost writes most of them as text."""
    found = field(holder, key) if default is None else holder.get(key, default)
    number = int(found) if isinstance(found, str | int) and len(str(found)) < 20 else -1
    if number < 0:
        raise ValueError(f"{key!r} is {str(found)[:50]!r}, which is no count")
    return number


def floats(holder: Any, key: str, size: int | None = None, *, finite: bool = True) -> Array:
    """A list of numbers, as float32.

    Args:
        holder: the object that has it.
        key: its name there.
        size: how many there must be; None for any.
        finite: whether infinity and NaN are refused.
    """
    found = _flat(field(holder, key), key, size)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{key!r} holds more than numbers")
    with np.errstate(over="ignore"):
        result = found.astype(np.float32)
    if finite and not np.isfinite(result).all():
        raise ValueError(f"{key!r} holds numbers that are not finite")
    return result


def integers(holder: Any, key: str, size: int | None = None, *, low: int, stop: int) -> Array:
    """A list of whole numbers of low <= n < stop, as int64; see `floats`."""
    found = _flat(field(holder, key), key, size)
    if found.size == 0:
        return found.astype(np.int64)
    if found.dtype.kind not in "iub":
        raise ValueError(f"{key!r} holds more than whole numbers")
    if found.min() < low or found.max() >= stop:
        raise ValueError(
            f"{key!r} holds {int(found.min())} to {int(found.max())}, outside of {low} to {stop - 1}"
        )
    return found.astype(np.int64)


def _flat(found: Any, key: str, size: int | None) -> Array:
    if not isinstance(found, list | np.ndarray):
        raise ValueError(f"{key!r} is no list")
    array = np.asarray(found)
    if array.ndim != 1:
        raise ValueError(f"{key!r} is no flat list")
    if size is not None and array.size != size:
        raise ValueError(f"{key!r} has {array.size} elements where {size} belong")
    return array
