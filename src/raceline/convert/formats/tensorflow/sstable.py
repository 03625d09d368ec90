"""Read a sorted table of strings, LevelDB's format (google/leveldb, doc/table_format.md): a checkpoint's index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np

from raceline.convert.formats.tensorflow.snappy import decompress
from raceline.ir.wire import varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: how it is compressed, and its checksum
_MOST_BLOCK_BYTES = 1 << 28
_MOST_GROWTH = 64
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK_DELTA = 0xA282EAD8

_Words = np.ndarray[Any, np.dtype[np.uint32]]


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
        _, place = varint(footer, place)
    offset, place = varint(footer, place)
    size, _ = varint(footer, place)
    budget = _MOST_GROWTH * len(data) + _MOST_GROWTH * 1024
    for _, handle in _block(_contents(data, offset, size)):
        offset, place = varint(handle, 0)
        size, _ = varint(handle, place)
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
        shared, place = varint(contents, place)
        fresh, place = varint(contents, place)
        length, place = varint(contents, place)
        if shared > len(key) or place + fresh + length > end:
            raise ValueError("an entry is broken")
        key = key[:shared] + contents[place : place + fresh]
        place += fresh
        yield key, contents[place : place + length]
        place += length


def masked(crc: int) -> int:
    """The checksum as it is stored."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of some bytes; long ones are cut into lanes that NumPy works on side by side."""
    crc = 0
    if len(data) >= _MOST_LANES:
        width = 64 * (
            len(data) // (64 * _MOST_LANES) | 1
        )  # odd, as caches hold few lines a power of two apart
        num_lanes = len(data) // width
        content = np.frombuffer(data, "<u4", num_lanes * width // 4).reshape(num_lanes, width // 4)
        crc = _joined(_lanes(content), width)
        data = data[num_lanes * width :]
    table, crc = _tables()[0], crc ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


_MOST_LANES = 4096


@cache
def _tables() -> tuple[list[int], _Words, _Words]:
    """What one byte does to a checksum; and what the low and the high half of a word do in four steps."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    single = np.array(table, np.uint32)
    halves = np.arange(1 << 16, dtype=np.uint32)

    def step(crc: _Words) -> _Words:
        result: _Words = single[crc & 255] ^ crc >> np.uint32(8)
        return result

    high = step(step(halves))
    return table, step(step(high)), high


def _lanes(content: _Words) -> list[int]:
    """The checksum of each row of words."""
    _, low, high = _tables()
    crc = np.full(len(content), 0xFFFFFFFF, np.uint32)
    for place in range(content.shape[1]):
        crc = crc ^ content[:, place]
        crc = low[crc & np.uint32(0xFFFF)] ^ high[crc >> np.uint32(16)]
    return [int(c) for c in crc ^ np.uint32(0xFFFFFFFF)]


def _joined(crcs: list[int], width: int) -> int:
    """The checksum of lanes one after another: zeros are shifted in by a linear map over GF(2)."""
    one, two, three, four = _shift_tables(width)
    crc = crcs[0]
    for lane in crcs[1:]:
        crc = one[crc & 255] ^ two[crc >> 8 & 255] ^ three[crc >> 16 & 255] ^ four[crc >> 24] ^ lane
    return crc


@lru_cache(maxsize=64)
def _shift_tables(width: int) -> list[list[int]]:
    """What a lane of zero bytes makes of each byte of a checksum."""
    table = _tables()[0]
    power = [table[1 << bit & 255] ^ (1 << bit) >> 8 for bit in range(32)]  # of one zero byte
    columns = [1 << bit for bit in range(32)]
    while width:
        if width & 1:
            columns = [_times(power, column) for column in columns]
        power = [_times(power, column) for column in power]
        width >>= 1
    return [[_times(columns, byte << start) for byte in range(256)] for start in range(0, 32, 8)]


def _times(columns: list[int], vector: int) -> int:
    """A matrix of bits by a vector of bits."""
    total = 0
    for bit in range(vector.bit_length()):
        if vector >> bit & 1:
            total ^= columns[bit]
    return total
