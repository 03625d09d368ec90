"""Read HDF5 that is not to be trusted: a child process lists it, arrays are views of the file's bytes."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.exporting import exported
from raceline.core.errors import BackendLostError, BadModelError
from raceline.ir.limits import Limits

Array = np.ndarray[Any, Any]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TIMEOUT_S = 120.0
_SKIPPED = ["optimizer", "optimizer_weights"]  # of training, often larger than the model


class Hdf5:
    """An HDF5 file in memory.

    Args:
        data: the file.
        source: its name, for messages.
        limits: bound what is unpacked from it.

    Raises:
        BadModelError: it is no whole HDF5 file.
    """

    def __init__(self, data: bytes, source: str, limits: Limits) -> None:
        self._data = data
        self._source = source
        with tempfile.TemporaryDirectory(prefix="raceline-hdf5-") as place:
            path = Path(place) / "file.h5"
            path.write_bytes(data)
            asked = {"path": str(path), "most_bytes": limits.max_model_bytes, "skip": _SKIPPED}
            try:
                with exported("hdf5", asked, source=source, extra="", timeout_s=_TIMEOUT_S) as (
                    folder,
                    found,
                ):
                    self._unpacked = (folder / "unpacked.bin").read_bytes()
            except BackendLostError as error:
                raise self._damaged("the HDF5 library did not come to an end with it") from error
            except BadModelError as error:
                raise self._damaged(error.why) from error
        self._groups: dict[str, int] = found["groups"]
        self._attributes: dict[str, dict[str, Any]] = found["attributes"]
        self._arrays: dict[str, dict[str, Any]] = found["arrays"]
        self._refused: dict[str, str] = found["refused"]

    def text(self, path: str, attribute: str) -> str | None:
        """An attribute that holds text; None where there is none.

        Raises:
            BadModelError: it holds several.
        """
        value = self._attribute(path, attribute)
        if isinstance(value, list):
            raise BadModelError(f"{self._source} is broken", f"attribute {attribute!r} is no text")
        return None if value is None else str(value)

    def names(self, path: str, attribute: str) -> list[str] | None:
        """An attribute that lists names; Keras cuts long lists into attribute0, attribute1 and so on."""
        whole = self._attribute(path, attribute)
        if whole is not None:
            return [whole] if isinstance(whole, str) else whole
        found: list[str] = []
        number = 0
        while (piece := self._attribute(path, f"{attribute}{number}")) is not None:
            found += [piece] if isinstance(piece, str) else piece
            number += 1
        return found if number else None

    def num_members(self, path: str) -> int | None:
        """How many members a group has; None where there is no such group."""
        return self._groups.get(self._known(path))

    def array(self, path: str) -> Array | None:
        """An array; None where there is none.

        Raises:
            BadModelError: it lies outside of the file, claims more than the file holds, or is no numbers.
        """
        entry = self._arrays.get(self._known(path))
        if entry is None:
            return None
        dtype, shape = np.dtype(entry["dtype"]), entry["shape"]
        data = self._unpacked if entry["packed"] else self._data
        flat = np.frombuffer(data, dtype, math.prod(shape), entry["offset"] if math.prod(shape) else 0)
        return flat.reshape(shape)

    def _attribute(self, path: str, attribute: str) -> Any:
        return self._attributes.get(self._known(path), {}).get(attribute)

    def _known(self, path: str) -> str:
        """The path without needless strokes.

        Raises:
            BadModelError: it, or a group around it, was refused.
        """
        parts = [part for part in path.split("/") if part]
        for end in range(1, len(parts) + 1):
            around = "/".join(parts[:end])
            if around in self._refused:
                why = f"{around!r}: {self._refused[around]}"
                raise BadModelError(f"{self._source} is refused", why, "Download or save it again.")
        return "/".join(parts)

    def _damaged(self, why: str) -> BadModelError:
        return BadModelError(f"{self._source} is no whole HDF5 file", why, "Download or save it again.")
