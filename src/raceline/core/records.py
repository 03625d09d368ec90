"""Frozen dataclasses from JSON, strictly: a wrong file is refused, and the message names the field."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_origin

from raceline.core.errors import ConfigError

T = TypeVar("T")


def from_json(kind: type[T], data: object, where: str = "") -> T:
    """Build a `kind` (a dataclass) from what `json.load` gave, its `dataclasses.asdict` turned to JSON.

    Fields may be int, float, str, bool, a Literal, another dataclass, a tuple of one type, a string-keyed dict,
    or one of these or None. Every field must be there unless it has a default; no other may be.

    Args:
        kind: the dataclass.
        data: a JSON value.
        where: the path of `data` in the file, for messages.

    Raises:
        ConfigError: a field is missing, unknown or of the wrong type; the message names it.
    """
    if not isinstance(data, dict):
        raise _wrong(where or "the file", "an object", data)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in data:
        if name not in fields:
            raise ConfigError(f"there is no field {prefix}{name}", f"the fields are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in data and field.default is dataclasses.MISSING:
            raise ConfigError(f"the field {prefix}{name} is missing")
    return kind(**{name: _value(hints[name], value, prefix + name) for name, value in data.items()})


def _value(kind: Any, value: object, where: str) -> Any:
    """`value` as a `kind`."""
    origin = get_origin(kind)
    if origin in {types.UnionType, typing.Union}:
        (inner,) = (k for k in get_args(kind) if k is not type(None))
        return None if value is None else _value(inner, value, where)
    if origin is typing.Literal:
        if value not in get_args(kind):
            raise _wrong(where, f"one of {', '.join(map(repr, get_args(kind)))}", value)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, "a list", value)
        return tuple(_value(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _value(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type[Any], kind), value, where)
    return _plain(kind, value, where)


def _plain(kind: Any, value: object, where: str) -> Any:
    """`value` if it is a `kind`; an integer passes for a float, and nothing else for anything else."""
    checks: dict[Any, tuple[str, Callable[[Any], bool]]] = {
        bool: ("true or false", lambda v: isinstance(v, bool)),
        int: (
            "an integer of 64 bits",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63,
        ),
        str: ("text", lambda v: isinstance(v, str)),
        float: (
            "a finite number",
            lambda v: isinstance(v, int | float) and not isinstance(v, bool) and -1e308 < v < 1e308,
        ),
    }
    name, fits = checks[kind]
    if not fits(value):
        raise _wrong(where, name, value)
    return float(typing.cast(float, value)) if kind is float else value


def _wrong(where: str, expected: str, value: object) -> ConfigError:
    shown = repr(value)
    return ConfigError(f"{where} must be {expected}", f"it is {shown[:60]}{'...' if len(shown) > 60 else ''}")
