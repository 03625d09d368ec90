"""Universal Binary JSON as XGBoost writes it; typed arrays become NumPy arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MOST_DEPTH = 64
_NUMBERS = {b"i": "b", b"U": "B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_WORDS = {b"Z": None, b"T": True, b"F": False}


def parse(data: bytes) -> Any:
    """The value that the bytes hold.

    Raises:
        ValueError: they are no UBJSON, are cut off, nest too deep, or something follows.
    """
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.place != len(data):
        raise ValueError(f"{len(data) - reader.place} bytes follow the end")
    return value


class _Reader:
    """A place in the bytes that moves forward."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, size: int) -> bytes:
        """The next bytes; a size that the data cannot hold costs nothing."""
        if size < 0 or size > len(self.data) - self.place:
            raise ValueError(f"cut off at byte {self.place}, where {size} more are needed")
        self.place += size
        return self.data[self.place - size : self.place]

    def value(self, marker: bytes, depth: int) -> Any:
        """The value after its marker."""
        if depth > MOST_DEPTH:
            raise ValueError(f"it nests deeper than {MOST_DEPTH}")
        if marker in _NUMBERS:
            return self._number(marker)
        if marker in _WORDS:
            return _WORDS[marker]
        if marker == b"S":
            return self._text()
        if marker == b"C":
            return self.take(1).decode("latin-1")
        if marker == b"{":
            return self._object(depth)
        if marker == b"[":
            return self._array(depth)
        raise ValueError(f"unknown marker {marker!r} at byte {self.place - 1}")

    def _number(self, marker: bytes) -> Any:
        code = _NUMBERS[marker]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def _length(self) -> int:
        marker = self.take(1)
        if marker not in _NUMBERS or marker in b"dD":
            raise ValueError(f"a length of type {marker!r} at byte {self.place - 1}")
        length = int(self._number(marker))
        if length < 0:
            raise ValueError(f"a negative length at byte {self.place}")
        return length

    def _text(self) -> str:
        return self.take(self._length()).decode("utf-8")

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.place : self.place + 1] != b"}":
            key = self._text()
            if key in found:
                raise ValueError(f"the key {key[:100]!r} is there twice")
            found[key] = self.value(self.take(1), depth + 1)
        self.place += 1
        return found

    def _array(self, depth: int) -> Any:
        mark = self.data[self.place : self.place + 1]
        if mark == b"$":
            return self._typed_array()
        if mark == b"#":
            self.place += 1
            length = self._length()
            if length > len(self.data) - self.place:
                raise ValueError(f"an array claims {length} elements")
            return [self.value(self.take(1), depth + 1) for _ in range(length)]
        items = []
        while (marker := self.take(1)) != b"]":
            items.append(self.value(marker, depth + 1))
        return items

    def _typed_array(self) -> Any:
        self.place += 1
        marker = self.take(1)
        if marker not in _NUMBERS or self.take(1) != b"#":
            raise ValueError(f"an array of type {marker!r} at byte {self.place}")
        dtype = np.dtype(_NUMBERS[marker])
        length = self._length()
        return np.frombuffer(self.take(length * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
