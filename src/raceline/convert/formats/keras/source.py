"""Open a Keras file of either kind: what it says about itself, its configuration and its weights."""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raceline.convert.files import Archive, content, member_names, refuse_growth, refuse_strange, sha256
from raceline.convert.formats.keras.hdf5 import SIGNATURE, Hdf5
from raceline.core.errors import BadModelError
from raceline.ir.limits import Limits

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_DEEPEST_JSON = 250
_ZIP = b"PK\x03\x04"
_WAY_OUT = "Save the whole model again, with model.save('model.keras')."


@dataclass
class Source:
    """An open file.

    Attributes:
        name: of the file.
        config: of the model: class_name, config and so on.
        version: of the Keras that wrote it; empty where the file does not say.
        weights: the HDF5 part.
        whole: whether it is an old whole-model HDF5 file rather than an archive.
        sha256: of the file.
    """

    name: str
    config: dict[str, Any]
    version: str
    weights: Hdf5
    whole: bool
    sha256: str

    @property
    def major(self) -> int:
        """3 for Keras 3, else 2."""
        first = self.version.partition(".")[0]
        return 3 if first.isdigit() and int(first) >= 3 else 2


def is_keras(path: Path) -> bool:
    """Whether a file looks like a Keras archive, or an HDF5 file that holds a whole Keras model."""
    try:
        with path.open("rb") as file:
            head = file.read(len(SIGNATURE))
        if head.startswith(_ZIP):
            return {CONFIG, METADATA} <= set(member_names(path))
        if head != SIGNATURE:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"model_config") >= 0 or data.find(b"layer_names") >= 0
    except (OSError, ValueError):
        return False


def open_source(path: Path, limits: Limits) -> Source:
    """Open a file.

    Raises:
        BadModelError: it is neither kind of Keras file, damaged, or only weights.
    """
    refuse_strange(path, limits)
    with path.open("rb") as file:
        head = file.read(len(SIGNATURE))
    return _archive(path, limits) if head.startswith(b"PK") else _whole(path, limits)


def _archive(path: Path, limits: Limits) -> Source:
    with Archive(path, limits) as archive:
        config = _json(archive.read(CONFIG), path.name, CONFIG, limits)
        known = METADATA in archive.names()
        metadata = _json(archive.read(METADATA), path.name, METADATA, limits) if known else {}
        data = archive.read(WEIGHTS)
    weights = Hdf5(data, path.name, limits)
    version = str(metadata.get("keras_version", "3"))
    return Source(path.name, config, version, weights, False, sha256([path]))


def _whole(path: Path, limits: Limits) -> Source:
    data = content(path, limits)
    if not data.startswith(SIGNATURE):
        raise BadModelError(
            f"{path.name} is no Keras model", "it is neither a .keras archive nor an HDF5 file", _WAY_OUT
        )
    weights = Hdf5(data, path.name, limits)
    text = weights.text("", "model_config")
    if text is None:
        raise BadModelError(
            f"{path.name} holds no model",
            "it has weights at most, without the layers that use them",
            _WAY_OUT,
        )
    version = weights.text("", "keras_version") or weights.text("model_weights", "keras_version") or ""
    config = _json(text, path.name, "model_config", limits)
    return Source(path.name, config, version, weights, True, hashlib.sha256(data).hexdigest())


def _json(data: bytes | str, source: str, part: str, limits: Limits) -> dict[str, Any]:
    """An object in JSON.

    Raises:
        BadModelError: it is none, or too large.
    """
    refuse_growth(len(data), source, limits)
    try:
        found = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode()  # no name may hold what cannot be written
    except (ValueError, RecursionError) as error:
        raise BadModelError(f"{source} is broken", f"{part} is no JSON: {error}", _WAY_OUT) from error
    if not isinstance(found, dict):
        raise BadModelError(f"{source} is broken", f"{part} is no JSON object", _WAY_OUT)
    _refuse_deep(found, source, part)
    return found


def _refuse_deep(found: Any, source: str, part: str) -> None:
    """Refuse what is nested so deep that walking it would overflow the stack.

    Raises:
        BadModelError: it is.
    """
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > _DEEPEST_JSON:
            raise BadModelError(
                f"{source} is broken", f"{part} is nested deeper than {_DEEPEST_JSON} levels", _WAY_OUT
            )
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
