"""A checkpoint in the tensor bundle format: an index of tensors, and their bytes in files beside it, mapped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.files import content, inside, refuse_strange
from raceline.convert.formats.tensorflow import sstable
from raceline.convert.formats.tensorflow.messages import parse
from raceline.convert.formats.tensorflow.tensors import STRING, dtype_of, shape_of_proto
from raceline.convert.graph import Array
from raceline.convert.lower import UnsupportedError
from raceline.core.errors import BadModelError
from raceline.ir import Limits

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MOST_SHARDS = 100_000


class Checkpoint:
    """The tensors of `PREFIX.index` and `PREFIX.data-*`.

    Args:
        folder: where they are.
        prefix: usually "variables".
        limits: what they may take.

    Raises:
        BadModelError: the index is absent or broken.
    """

    def __init__(self, folder: Path, prefix: str, limits: Limits) -> None:
        self.source = f"{folder.name}/{prefix}.index"
        self._folder, self._prefix, self._limits = folder, prefix, limits
        self._maps: dict[int, Array] = {}
        index = inside(folder, f"{prefix}.index")
        self.files = [index]
        try:
            self._entries = dict(sstable.entries(content(index, limits)))
        except ValueError as error:
            raise self._broken(str(error)) from error
        header = parse("BundleHeaderProto", self._entries.pop(b"", b""), self.source, limits)
        if header.endianness:
            raise self._broken("its numbers are big-endian")
        self._num_shards = header.num_shards
        if not 0 < self._num_shards <= _MOST_SHARDS:
            raise self._broken(f"it has {self._num_shards} data files")

    def names(self) -> list[str]:
        """Of all tensors."""
        return [key.decode("utf-8", "replace") for key in self._entries if not key.startswith(b"\0")]

    def read(self, name: str, spec: str = "") -> Array:
        """A tensor, mapped where it lies in one piece.

        Args:
            name: its name.
            spec: the part that is wanted, as `RestoreV2` has it: the whole shape, then `start,length` or `-` of
                each axis, colons between them; empty for all.

        Raises:
            BadModelError: there is none, or its bytes are not all there.
        """
        entry = self._entry(name)
        whole = self._assembled(name, entry) if entry.slices else self._plain(name, entry)
        return whole[_part_of(spec, whole.shape)] if spec.strip() else whole

    def text(self, name: str) -> bytes | None:
        """A scalar string; None where there is none."""
        if name.encode() not in self._entries:
            return None
        entry = self._entry(name)
        if entry.dtype != STRING:
            return None
        data = self._bytes(name, entry).tobytes()
        length = shift = place = 0
        while place < len(data) and shift < 64:  # the length as a varint, its checksum, the text
            length |= (data[place] & 127) << shift
            shift += 7
            place += 1
            if data[place - 1] < 128:
                break
        return data[place + 4 : place + 4 + length]

    def _entry(self, name: str) -> Any:
        data = self._entries.get(name.encode())
        if data is None:
            raise self._broken(f"it has no tensor {name!r}")
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Any:
        entry = parse("BundleEntryProto", data, self.source, self._limits)
        shape = shape_of_proto(entry.shape)
        if shape is None or any(size < 0 for size in shape) or len(shape) > self._limits.max_rank:
            raise self._broken("a tensor has no proper shape")
        return entry

    def _bytes(self, name: str, entry: Any) -> Array:
        """A tensor's bytes in its data file."""
        shard = self._shard(entry.shard_id)
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > shard.size:
            raise self._broken(f"{name!r} lies beyond its data file: it is cut off")
        piece = shard[entry.offset : entry.offset + entry.size]
        if entry.dtype != STRING and sstable.masked(sstable.crc32c(piece.data)) != entry.crc32c:
            raise self._broken(f"{name!r} does not match its checksum")
        return piece

    def _shard(self, number: int) -> Array:
        if number not in self._maps:
            if not 0 <= number < self._num_shards:
                raise self._broken(f"there is no data file {number}")
            name = f"{self._prefix}.data-{number:05d}-of-{self._num_shards:05d}"
            path = inside(self._folder, name)
            if refuse_strange(path, self._limits) == 0:
                self._maps[number] = np.zeros(0, np.uint8)
            else:
                self._maps[number] = np.memmap(path, np.uint8, "r").view(np.ndarray)
            self.files.append(path)
        return self._maps[number]

    def _plain(self, name: str, entry: Any) -> Array:
        shape = shape_of_proto(entry.shape) or []
        try:
            dtype = dtype_of(entry.dtype)
        except UnsupportedError as error:
            raise self._broken(f"{name!r}: {error}") from error
        if dtype.kind == "O" or math.prod(shape) * dtype.itemsize != entry.size:
            raise self._broken(f"{name!r} has {entry.size} bytes for the shape {shape} of {dtype}")
        return self._bytes(name, entry).view(dtype).reshape(shape)

    def _assembled(self, name: str, entry: Any) -> Array:
        """A tensor that is stored in slices."""
        shape = shape_of_proto(entry.shape) or []
        dtype = dtype_of(entry.dtype)
        if math.prod(shape) * dtype.itemsize > self._limits.max_model_bytes:
            raise self._broken(f"{name!r} of shape {shape} is over the limit")
        parts = [self._slice(name, extents) for extents in entry.slices]
        covered = sum(part.size for _, part in parts)
        if covered != math.prod(shape):  # before anything of that size is made
            raise self._broken(f"the slices of {name!r} do not cover it")
        whole = np.zeros(shape, dtype)
        for place, part in parts:
            if whole[place].shape != part.shape:
                raise self._broken(f"a slice of {name!r} has another shape than its place")
            whole[place] = part
        return whole

    def _slice(self, name: str, extents: Any) -> tuple[tuple[slice, ...], Array]:
        """Where a slice belongs, and its array."""
        key = _slice_key(name, extents)
        if key not in self._entries:
            raise self._broken(f"a slice of {name!r} is absent")
        place = tuple(
            slice(e.start, e.start + e.length) if e.HasField("length") else slice(None)
            for e in extents.extent
        )
        return place, self._plain(name, self._parsed(self._entries[key]))

    def _broken(self, why: str) -> BadModelError:
        return BadModelError(f"{self.source} is broken", why, "Export the model again.")


def full_names(checkpoint: Checkpoint, limits: Limits) -> dict[str, str]:
    """A variable's own name -> its tensor in the checkpoint, by the graph of objects that TensorFlow 2 saves."""
    data = checkpoint.text(OBJECT_GRAPH)
    if not data:
        return {}
    graph = parse("TrackableObjectGraph", data, checkpoint.source, limits)
    attributes = [item for node in graph.nodes for item in node.attributes]
    return {item.full_name: item.checkpoint_key for item in attributes if item.full_name}


def _part_of(spec: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a tensor that a slice specification names."""
    *sizes, extents = spec.split()
    if [int(size) for size in sizes] != list(shape):
        raise BadModelError(f"a slice {spec!r} is of another shape than its tensor's {list(shape)}")
    places = []
    for extent in extents.split(":"):
        start, _, length = extent.partition(",")
        places.append(slice(None) if extent == "-" else slice(int(start), int(start) + int(length)))
    return tuple(places)


def _slice_key(name: str, extents: Any) -> bytes:
    """The key of a slice: an ordered code of 0, the name, the number of axes, and start and length of each."""
    key = _code_number(0) + _code_text(name.encode()) + _code_number(len(extents.extent))
    for extent in extents.extent:
        has_length = extent.HasField("length")
        key += _code_signed(extent.start) + _code_signed(extent.length if has_length else -1)
    return key


def _code_number(number: int) -> bytes:
    """How many bytes, then the bytes, high ones first."""
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _code_text(text: bytes) -> bytes:
    return text.replace(b"\0", b"\0\xff") + b"\0\1"  # UTF-8 has no byte 255, which would be escaped too


def _code_signed(number: int) -> bytes:
    """Signed numbers in an order of bytes: the first bits tell sign and length."""
    magnitude = ~number if number < 0 else number
    if magnitude < 64:
        return bytes([(0x80 ^ number) & 0xFF])
    width = next(n for n in range(2, 11) if magnitude < 1 << (7 * n - 1))
    content = (number & ((1 << 80) - 1)).to_bytes(10, "big")[-width:]
    header = _SIGNED_HEADERS[width]
    return bytes([content[0] ^ header[0], content[1] ^ header[1]]) + content[2:]


_SIGNED_HEADERS = {
    2: (0xC0, 0), 3: (0xE0, 0), 4: (0xF0, 0), 5: (0xF8, 0), 6: (0xFC, 0),
    7: (0xFE, 0), 8: (0xFF, 0), 9: (0xFF, 0x80), 10: (0xFF, 0xC0),
}  # fmt: skip
