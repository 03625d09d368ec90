"""Look at a protobuf message without parsing it: which fields, and how large it would become in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# What one message, string or packed number costs once parsed; rounded up from protobuf's C implementation.
_MESSAGE_COST_BYTES = 256
_STRING_COST_BYTES = 64
_NUMBER_COST = 8
WORST_GROWTH = _MESSAGE_COST_BYTES // 2
"""No message grows by more than this when parsed: an empty one takes two bytes in a file."""

Buffer = bytes | memoryview | mmap.mmap


class Field(NamedTuple):
    """One field as it stands in the file; `stop` lies beyond the data where the file was cut."""

    number: int
    kind: int
    start: int
    stop: int


def fields(data: Buffer, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message in data[start:stop], in order of appearance.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    stop = len(data) if stop is None else stop
    while start < stop:
        tag, start = varint(data, start, stop)
        number, kind = tag >> 3, tag & 7
        end = _end(data, kind, start, stop)
        if number == 0:
            raise ValueError("field number 0")
        if kind == _BYTES:
            length, start = varint(data, start, stop)
            end = start + length
        yield Field(number, kind, start, end)
        start = end


def parsed_size_bytes(data: Buffer, descriptor: Any, start: int = 0, stop: int | None = None) -> int:
    """An upper estimate of the memory that parsing data[start:stop] as `descriptor` takes.

    Raises:
        ValueError: the bytes are no protobuf message, or a field is cut off.
    """
    stop = len(data) if stop is None else stop
    size = _MESSAGE_COST_BYTES
    for field in fields(data, start, stop):
        if field.stop > stop:
            raise ValueError("a field is cut off")
        known = descriptor.fields_by_number.get(field.number)
        length = field.stop - field.start
        if known is None or field.kind != _BYTES:
            size += _NUMBER_COST + length
        elif known.message_type is not None:
            size += parsed_size_bytes(data, known.message_type, field.start, field.stop)
        elif known.type in {known.TYPE_BYTES, known.TYPE_STRING, known.TYPE_FLOAT, known.TYPE_DOUBLE}:
            size += _STRING_COST_BYTES + length
        else:  # packed numbers of variable length, from one byte up
            size += _NUMBER_COST * length
    return size


def _end(data: Buffer, kind: int, start: int, stop: int) -> int:
    """Where a field of fixed or self-delimiting length ends."""
    if kind == _VARINT:
        return varint(data, start, stop)[1]
    if kind in {_FIXED64, _FIXED32}:
        return start + (8 if kind == _FIXED64 else 4)
    if kind != _BYTES:
        raise ValueError(f"wire type {kind}")
    return start


def varint(data: Buffer, start: int, stop: int | None = None) -> tuple[int, int]:
    """The number of variable length at `start`, and where it ends.

    Raises:
        ValueError: it is cut off at `stop` (by default, at the end of the data), or longer than ten bytes.
    """
    stop = len(data) if stop is None else stop
    value = shift = 0
    while start < stop and shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("a number is cut off or too long")
