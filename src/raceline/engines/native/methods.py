"""The fastest ways of convolving, kept between processes: measured once for a CPU, its kernels and this build.

A cache decides about time alone: whatever it says, only ways that a layer has are used, and all of them are right.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from pathlib import Path

from raceline import _native
from raceline.core.paths import recall, store

_FORMAT = 1
_WIDTH = 6  # numbers that make a way
_MOST_BITS = 31

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_stored: set[str] | None = None  # what the file is known to hold; None before it was read


def learn() -> None:
    """Take what earlier processes measured, once; a damaged file is told in the log, and measured anew."""
    global _stored
    with _lock:
        if _stored is None:
            found = _read()
            _native.learn_net_methods(found)
            _stored = set(found)


def keep() -> None:
    """Store what this process measured since, beside what others have stored meanwhile."""
    global _stored
    with _lock:
        known = _native.net_methods()
        if _stored is not None and not known.keys() - _stored:
            return
        _stored = set(known)
        both = _read() | known
        store(_name(), json.dumps({"format": _FORMAT, "methods": both}, separators=(",", ":")))


def _read() -> dict[str, _native._Method]:
    text = recall(_name())
    if text is None:
        return {}
    try:
        data = json.loads(text)
        if data["format"] != _FORMAT:
            raise ValueError("another format")  # noqa: TRY301 - told in one place
        return {str(key): _method(row) for key, row in data["methods"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("the remembered choices of the native kernels are damaged, measuring again: %s", error)
        return {}


def _method(row: object) -> _native._Method:
    if not isinstance(row, list) or len(row) != _WIDTH:
        raise ValueError("no way of convolving")
    for number in row:
        if not isinstance(number, int) or number.bit_length() > _MOST_BITS:
            raise ValueError("no way of convolving")
    kind, blocks, pixels, outside, side, chunk = row
    return kind, blocks, pixels, bool(outside), side, chunk


@functools.cache
def _name() -> str:
    """Another for every CPU and every build of the kernels."""
    from raceline.ir.probe import describe

    build = hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()[:12]
    return f"native/{describe().key}-{build}.json"
