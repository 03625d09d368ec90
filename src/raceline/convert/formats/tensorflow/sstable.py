"""Read a sorted table of strings, LevelDB's format (google/leveldb, doc/table_format.md): a checkpoint's index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from raceline.convert.formats.tensorflow.snappy import decompress

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: how it is compressed, and its checksum
_MOST_BLOCK_BYTES = 1 << 28
_MOST_GROWTH = 64
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK_DELTA = 0xA282EAD8


def looks_like_table(data: bytes) -> bool:
    """Whether the bytes end as such a table does."""
    return len(data) >= _FOOTER_BYTES and int.from_bytes(data[-8:], "little") == _MAGIC


def entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys with their values, in order.

    Raises:
        ValueError: the table is cut off or broken.
    """
    if not looks_like_table(data):
        raise ValueError("it does not end as a table does: it is cut off, or no table")
    footer = data[-_FOOTER_BYTES:]
    place = 0
    for _ in range(2):  # where the index of meta blocks is
        _, place = _varint(footer, place)
    offset, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    budget = _MOST_GROWTH * len(data) + _MOST_GROWTH * 1024
    for _, handle in _block(_contents(data, offset, size)):
        offset, place = _varint(handle, 0)
        size, _ = _varint(handle, place)
        contents = _contents(data, offset, size)
        budget -= len(contents)
        if budget < 0:
            raise ValueError("its blocks are larger than the file can hold")
        yield from _block(contents)


def _contents(data: bytes, offset: int, size: int) -> bytes:
    """A block's bytes, checked and decompressed."""
    end = offset + size
    if size > _MOST_BLOCK_BYTES or end + _TRAILER_BYTES > len(data):
        raise ValueError("a block lies beyond the file")
    kind = data[end]
    if masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise ValueError("a block does not match its checksum")
    if kind == 0:
        return data[offset:end]
    if kind == 1:
        return decompress(data[offset:end], _MOST_BLOCK_BYTES)
    raise ValueError(f"a block is compressed in the unknown way {kind}")


def _block(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of one block: each key shares its beginning with the one before."""
    if len(contents) < 4:
        raise ValueError("a block is cut off")
    num_restarts = int.from_bytes(contents[-4:], "little")
    end = len(contents) - 4 - 4 * num_restarts
    if end < 0:
        raise ValueError("a block is cut off")
    place, key = 0, b""
    while place < end:
        shared, place = _varint(contents, place)
        fresh, place = _varint(contents, place)
        length, place = _varint(contents, place)
        if shared > len(key) or place + fresh + length > end:
            raise ValueError("an entry is broken")
        key = key[:shared] + contents[place : place + fresh]
        place += fresh
        yield key, contents[place : place + length]
        place += length


def masked(crc: int) -> int:
    """The checksum as it is stored."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


@cache
def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_LANE_BYTES = 1024


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of some bytes; long ones are cut into lanes that NumPy works on side by side."""
    num_lanes = len(data) // _LANE_BYTES
    crc = 0
    if num_lanes >= 16:
        crc = _joined(_lanes(np.frombuffer(data, np.uint8, num_lanes * _LANE_BYTES)))
        data = data[num_lanes * _LANE_BYTES :]
    table, crc = _table(), crc ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _lanes(content: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[int]:
    """The checksum of each lane."""
    table = np.array(_table(), np.uint32)
    columns = np.ascontiguousarray(content.reshape(-1, _LANE_BYTES).T)
    crc = np.full(columns.shape[1], 0xFFFFFFFF, np.uint32)
    for column in columns:
        crc = table[(crc ^ column) & 255] ^ crc >> np.uint32(8)
    return [int(c) for c in crc ^ np.uint32(0xFFFFFFFF)]


def _joined(crcs: list[int]) -> int:
    """The checksum of lanes one after another: zeros are shifted in by a linear map over GF(2)."""
    rows = _shift_tables()
    crc = crcs[0]
    for lane in crcs[1:]:
        shifted = rows[0][crc & 255] ^ rows[1][crc >> 8 & 255] ^ rows[2][crc >> 16 & 255] ^ rows[3][crc >> 24]
        crc = shifted ^ lane
    return crc


@cache
def _shift_tables() -> list[list[int]]:
    """What a lane of zero bytes makes of each byte of a checksum."""
    table = _table()

    def through(crc: int) -> int:
        for _ in range(_LANE_BYTES):
            crc = table[crc & 255] ^ crc >> 8
        return crc

    bits = [through(1 << bit) for bit in range(32)]
    rows = []
    for start in range(0, 32, 8):
        row = []
        for byte in range(256):
            total = 0
            for bit in range(8):
                if byte >> bit & 1:
                    total ^= bits[start + bit]
            row.append(total)
        rows.append(row)
    return rows


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("a number is cut off")
