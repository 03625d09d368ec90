"""Decompress Snappy's raw format (google/snappy, format_description.txt), which checkpoints' tables may use."""

from __future__ import annotations

from raceline.ir.wire import varint


def decompress(data: bytes, most_bytes: int) -> bytes:
    """The original bytes.

    Args:
        data: one compressed block.
        most_bytes: more is refused before it is allocated.

    Raises:
        ValueError: the block is broken, or larger than allowed.
    """
    size, place = varint(data, 0)
    if size > most_bytes:
        raise ValueError("a block is too large")
    out = bytearray()
    while place < len(data):
        tag = data[place]
        if tag & 3 == 0:
            length, place = _literal_length(data, place)
            if place + length > len(data):
                raise ValueError("a literal is cut off")
            out += data[place : place + length]
            place += length
        else:
            length, offset, place = _copy(data, place, tag)
            if not 0 < offset <= len(out):
                raise ValueError("a copy starts before the data")
            _append_copy(out, offset, length)
        if len(out) > size:
            raise ValueError("a block is larger than it says")
    if len(out) != size:
        raise ValueError("a block is smaller than it says")
    return bytes(out)


def _append_copy(out: bytearray, offset: int, length: int) -> None:
    """Append bytes that are there already; they may overlap what they make."""
    start = len(out) - offset
    while length > 0:
        piece = out[start : start + min(length, len(out) - start)]
        out += piece
        length -= len(piece)


def _literal_length(data: bytes, place: int) -> tuple[int, int]:
    length = data[place] >> 2
    place += 1
    if length >= 60:
        width = length - 59
        if place + width > len(data):
            raise ValueError("a length is cut off")
        length = int.from_bytes(data[place : place + width], "little")
        place += width
    return length + 1, place


def _copy(data: bytes, place: int, tag: int) -> tuple[int, int, int]:
    """Length and offset of a copy, and where it ends."""
    width = (0, 1, 2, 4)[tag & 3]
    end = place + 1 + width
    if end > len(data):
        raise ValueError("a copy is cut off")
    offset = int.from_bytes(data[place + 1 : end], "little")
    if width == 1:
        return 4 + (tag >> 2 & 7), (tag >> 5) << 8 | offset, end
    return 1 + (tag >> 2), offset, end
