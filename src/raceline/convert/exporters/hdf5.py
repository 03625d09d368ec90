"""List what an HDF5 file holds, in a child process: the library hangs or dies on some damaged files.

Reads {path, folder, answer, most_bytes, skip} and answers

    {"groups": {path: number of members}, "attributes": {path: {name: text or list of texts}},
     "arrays": {path: {"shape", "dtype", "offset", "packed"}}, "refused": {path: why}}

Offsets are into the file, or, where `packed`, into `unpacked.bin` in the folder.
"""

import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SPARE_BYTES = 1 << 30  # for the interpreter, the library, and all but the array at hand
BYTES_A_SECOND = 20_000_000
LEAST_S = 5
MOST_OBJECTS = 1_000_000
MOST_DEPTH = 64
MOST_DEFLATED = 1032  # zlib never shrinks by more
FILTERS = {1, 2, 3}  # deflate, shuffle and Fletcher's sum: built into the library, no plug-ins


class Listing:
    """Collects the answer."""

    def __init__(self, path: Path, folder: Path, most_bytes: int, skip: list[str]) -> None:
        self.size_bytes = path.stat().st_size
        self.most_bytes = most_bytes
        self.skip = set(skip)
        self.answer: dict[str, dict[str, Any]] = {"groups": {}, "attributes": {}, "arrays": {}, "refused": {}}
        self.seen: set[Any] = set()
        self.unpacked = (folder / "unpacked.bin").open("wb")

    def group(self, group: Any, path: str, depth: int) -> None:
        """A group and all below it, each group once."""
        self.answer["groups"][path] = len(group)
        self.attributes(group, path)
        for name in group:
            here = f"{path}/{name}".lstrip("/")
            if here in self.skip or name == ".":
                continue
            if depth > MOST_DEPTH or len(self.answer["groups"]) + len(self.answer["arrays"]) > MOST_OBJECTS:
                raise ValueError("too many groups, or too deep")
            try:
                self.member(group, name, here, depth)
            except Exception as error:  # noqa: BLE001  the library raises nearly anything on damaged files
                self.answer["refused"][here] = f"{type(error).__name__}: {str(error)[:200]}"

    def member(self, group: Any, name: str, here: str, depth: int) -> None:
        """A group or an array, if it lies in this file."""
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError("a link that leads elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            where = h5py.h5o.get_info(item.id).addr
            if where in self.seen:
                raise ValueError("a group that is also elsewhere")
            self.seen.add(where)
            self.group(item, here, depth + 1)
        elif isinstance(item, h5py.Dataset):
            self.attributes(item, here)
            self.answer["arrays"][here] = self.array(item)

    def attributes(self, holder: Any, path: str) -> None:
        """Attributes that are text; others are left out."""
        found: dict[str, Any] = {}
        for name in holder.attrs:
            if name in {"training_config", "optimizer_config"}:
                continue
            known = holder.attrs.get_id(name)
            if math.prod(known.shape) * known.dtype.itemsize > self.size_bytes:
                raise ValueError(f"attribute {name!r} claims more than the file holds")
            value = holder.attrs[name]
            if isinstance(value, (str, bytes)):
                found[name] = text(value)
            elif isinstance(value, np.ndarray) and value.dtype.kind in "SOU":
                found[name] = [text(item) for item in value.ravel()]
            elif isinstance(value, np.ndarray) and value.size == 0:
                found[name] = []
        if found:
            self.answer["attributes"][path] = found

    def array(self, dataset: Any) -> dict[str, Any]:
        """Where an array's elements are, once its claims are known to be true."""
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None or dtype.kind not in "iufb" or len(shape) > MOST_DEPTH:
            raise ValueError("no plain numbers")
        properties = dataset.id.get_create_plist()
        if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
            raise ValueError("its elements lie in another file")
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if not set(filters) <= FILTERS:
            raise ValueError(f"packed with foreign filters {filters}")
        size_bytes = math.prod(shape) * dtype.itemsize
        offset, stored_bytes = dataset.id.get_offset(), dataset.id.get_storage_size()
        entry = {"shape": list(shape), "dtype": dtype.str, "offset": offset, "packed": False}
        if size_bytes == 0 or (offset is not None and not filters):
            if size_bytes and (offset + size_bytes > self.size_bytes or stored_bytes < size_bytes):
                raise ValueError(f"claims {size_bytes} bytes, more than the file holds")
            return entry | {"offset": offset or 0}
        if size_bytes > stored_bytes * MOST_DEFLATED or stored_bytes > self.size_bytes:
            raise ValueError(f"claims {size_bytes} bytes, more than the file holds")
        self.most_bytes -= size_bytes
        if self.most_bytes < 0:
            raise ValueError("all together over the limit of a model's size")
        entry |= {"offset": self.unpacked.tell(), "packed": True}
        bound_memory(4 * size_bytes)  # the array, a chunk of its size while it is unpacked, and the copy
        self.unpacked.write(np.ascontiguousarray(dataset[()]).tobytes())
        bound_memory(0)
        return entry


def bound_memory(more_bytes: int) -> None:
    """Let the process take so much more than it always needs; a text or chunk that claims more fails."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = SPARE_BYTES + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def text(value: Any) -> str:
    """Text without what cannot be written."""
    found = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return found.encode("utf-8", "replace").decode("utf-8")


def main() -> None:
    """List one file."""
    asked = json.load(sys.stdin)
    path, answer = Path(asked["path"]), Path(asked["answer"])
    most_bytes = int(asked["most_bytes"])
    bound_memory(0)
    seconds = LEAST_S + path.stat().st_size // BYTES_A_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with h5py.File(path, "r") as file:
            listing = Listing(path, Path(asked["folder"]), most_bytes, asked["skip"])
            listing.group(file, "", 0)
            listing.unpacked.close()
        found: dict[str, Any] = listing.answer
    except Exception as error:  # noqa: BLE001  the library raises nearly anything on damaged files
        found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    answer.write_text(json.dumps(found), encoding="utf-8")


main()
