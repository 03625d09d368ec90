"""Read HDF5 that is not to be trusted, from memory: no links to other files, no plug-ins, no claimed sizes.

Arrays that lie in one piece are views of the file's bytes; nothing is allocated before its size is known to be
covered by the file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, RacelineError
from raceline.core.units import format_bytes
from raceline.ir.limits import Limits
from raceline.ir.load import root_cause

Array = np.ndarray[Any, Any]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # registered numbers of the filters that are built into the library
_MOST_DEFLATED = 1032  # zlib never shrinks by more
_MOST_PARTS = 64  # depth of a path
_MOST_PIECES = 10_000  # attributes that one list of names was cut into
_SIZED = frozenset("iufb")


class Hdf5:
    """An HDF5 file in memory; use it in a `with` block.

    Args:
        data: the file.
        source: its name, for messages.
        limits: bound what is unpacked from it.

    Raises:
        BadModelError: it is no whole HDF5 file.
    """

    def __init__(self, data: bytes, source: str, limits: Limits) -> None:
        import h5py

        self._data = data
        self._source = source
        self._limits = limits
        self._unpacked_bytes = 0
        with self._guarded("the file"):
            self._file = h5py.File(io.BytesIO(data), "r")

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def text(self, path: str, attribute: str) -> str | None:
        """An attribute that holds text; None where there is none."""
        value = self._attribute(path, attribute)
        if value is None:
            return None
        if isinstance(value, bytes | np.bytes_):
            return bytes(value).decode("utf-8", "replace")
        if not isinstance(value, str):
            raise BadModelError(f"{self._source} is broken", f"attribute {attribute!r} is no text")
        return value

    def names(self, path: str, attribute: str) -> list[str] | None:
        """An attribute that lists names; Keras cuts long lists into attribute0, attribute1 and so on."""
        whole = self._attribute(path, attribute)
        pieces = [whole] if whole is not None else list(self._pieces(path, attribute))
        if not pieces:
            return None
        found: list[str] = []
        for piece in pieces:
            with self._guarded(f"attribute {attribute!r}"):
                found += [t.decode("utf-8") if isinstance(t, bytes) else str(t) for t in np.asarray(piece).ravel()]
        return found

    def has_group(self, path: str) -> bool:
        """Whether there is a group of this path."""
        import h5py

        return isinstance(self._object(path), h5py.Group)

    def num_members(self, path: str) -> int | None:
        """How many members a group has; None where there is no such group."""
        import h5py

        group = self._object(path)
        return len(group) if isinstance(group, h5py.Group) else None

    def array(self, path: str) -> Array | None:
        """A data set; None where there is none.

        Raises:
            BadModelError: it lies outside of the file, claims more than the file holds, or is no numbers.
        """
        import h5py

        dataset = self._object(path)
        if dataset is None:
            return None
        with self._guarded(f"data set {path!r}"):
            if not isinstance(dataset, h5py.Dataset):
                raise BadModelError(f"{self._source} is broken", f"{path!r} is no data set")
            return self._values(dataset, path)

    def _values(self, dataset: Any, path: str) -> Array:
        """What a data set holds, once its claims are known to be true."""
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None or dtype.kind not in _SIZED or len(shape) > self._limits.max_rank:
            raise BadModelError(f"{self._source} is broken", f"data set {path!r} holds no plain numbers")
        size_bytes = math.prod(shape) * dtype.itemsize
        if size_bytes == 0:
            return np.empty(shape, dtype)
        properties = dataset.id.get_create_plist()
        self._refuse_foreign(properties, path)
        offset = dataset.id.get_offset()
        stored_bytes = dataset.id.get_storage_size()
        if offset is not None and not properties.get_nfilters():
            if offset + size_bytes > len(self._data) or stored_bytes < size_bytes:
                raise self._claims(path, size_bytes)
            flat = np.frombuffer(self._data, dtype, math.prod(shape), offset)
            return flat.reshape(shape)
        if size_bytes > max(stored_bytes, 1) * _MOST_DEFLATED or stored_bytes > len(self._data):
            raise self._claims(path, size_bytes)
        self._unpacked_bytes += size_bytes
        if self._unpacked_bytes > self._limits.max_model_bytes:
            raise BadModelError(
                f"{self._source} is too large",
                f"its data sets are over the limit of {format_bytes(self._limits.max_model_bytes)}",
            )
        return np.asarray(dataset[()])

    def _refuse_foreign(self, properties: Any, path: str) -> None:
        """Refuse data that lies in other files, or that needs code from elsewhere to unpack."""
        import h5py

        if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
            raise BadModelError(
                f"{self._source} is refused", f"data set {path!r} lies in another file", "Save the model again."
            )
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        strange = [number for number in filters if number not in {_DEFLATE, _SHUFFLE, _FLETCHER32}]
        if strange:
            raise BadModelError(
                f"{self._source} is refused",
                f"data set {path!r} is packed with the foreign filter {strange[0]}",
                "Save it with gzip or without compression.",
            )

    def _claims(self, path: str, size_bytes: int) -> BadModelError:
        why = f"data set {path!r} claims {format_bytes(size_bytes)}, more than the file holds"
        return BadModelError(f"{self._source} is broken", why, "Download or save it again.")

    def _object(self, path: str) -> Any:
        """A group or data set, reached through hard links only; None where there is none."""
        import h5py

        here: Any = self._file
        parts = [part for part in path.split("/") if part]
        if len(parts) > _MOST_PARTS:
            raise BadModelError(f"{self._source} is broken", f"{path[:200]!r} is too deep")
        with self._guarded(f"{path!r}"):
            for part in parts:
                if not isinstance(here, h5py.Group) or part == "." or part not in here:
                    return None
                if not isinstance(here.get(part, getlink=True), h5py.HardLink):
                    raise BadModelError(
                        f"{self._source} is refused", f"{path!r} is a link that leads elsewhere"
                    )
                here = here[part]
        return here

    def _attribute(self, path: str, attribute: str) -> Any:
        """The value of an attribute; None where there is none."""
        holder = self._object(path)
        if holder is None:
            return None
        with self._guarded(f"attribute {attribute!r}"):
            if attribute not in holder.attrs:
                return None
            found = holder.attrs.get_id(attribute)
            size_bytes = math.prod(found.shape) * found.dtype.itemsize
            if size_bytes > len(self._data):
                raise self._claims(f"{path} {attribute}", size_bytes)
            return holder.attrs[attribute]

    def _pieces(self, path: str, attribute: str) -> Iterator[Any]:
        for number in range(_MOST_PIECES):
            piece = self._attribute(path, f"{attribute}{number}")
            if piece is None:
                return
            yield piece

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Turn whatever the library raises on damaged files into one error."""
        try:
            yield
        except RacelineError:
            raise
        except Exception as error:  # noqa: BLE001  the library raises nearly anything on damaged files
            raise BadModelError(
                f"{self._source} is no whole HDF5 file",
                f"{what}: {root_cause(error)}",
                "Download or save it again.",
            ) from error
