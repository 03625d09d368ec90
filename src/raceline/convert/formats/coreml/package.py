"""Find the message and the weights: in a package's folder, or a single file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raceline.convert.files import content, inside, parsed
from raceline.core.errors import BadModelError
from raceline.core.protos import message_class
from raceline.ir import Limits, wire

_MANIFEST = "Manifest.json"
_MOST_MANIFEST_BYTES = 1 << 20
_VERSION, _DESCRIPTION, _PROGRAM = 1, 2, 502  # fields of Model
KINDS = {
    200: "a pipeline classifier", 201: "a pipeline regressor", 202: "a pipeline", 300: "a linear regressor",
    301: "a support vector regressor", 302: "a tree ensemble regressor", 303: "a neural network regressor",
    400: "a linear classifier", 401: "a support vector classifier", 402: "a tree ensemble classifier",
    403: "a neural network classifier", 404: "a nearest neighbour classifier", 500: "a neural network",
    _PROGRAM: "an ML program", 555: "a custom model", 610: "a non-maximum suppression", 900: "an identity",
}  # fmt: skip
"""What a model may be, by its field's number."""


@dataclass
class Source:
    """A model as it lies on disk.

    Attributes:
        name: of the package or file, for messages.
        message: the parsed message.
        folder: where `@model_path` points to; None for a single file.
        files: everything that was read.
        limits: what it may ask of this machine.
    """

    name: str
    message: Any
    folder: Path | None
    files: list[Path]
    limits: Limits
    _blobs: dict[str, bytes] = field(default_factory=dict)

    def blob(self, name: str) -> bytes:
        """A file of weights, named relative to the model.

        Raises:
            BadModelError: it is absent, outside the package or too large.
        """
        if name not in self._blobs:
            prefix = "@model_path/"
            if self.folder is None or not name.startswith(prefix):
                raise BadModelError(f"{self.name} is incomplete", f"it has no weights {name[:200]!r}")
            path = inside(self.folder, name.removeprefix(prefix))
            self._blobs[name] = content(path, self.limits)
            self.files.append(path)
        return self._blobs[name]


def model_class() -> Any:
    """The message class, in a pool of its own: coremltools may be in the same process."""
    return message_class("raceline.convert.formats.coreml", "coreml.binpb", "raceline.coreml.Model")


def model_file(path: Path, limits: Limits) -> Path:
    """The file with the message: the path itself, or what the package's manifest names.

    Raises:
        BadModelError: the manifest is broken or leads outside the package.
    """
    if not path.is_dir():
        return path
    manifest = inside(path, _MANIFEST)
    if manifest.stat().st_size > _MOST_MANIFEST_BYTES:
        raise BadModelError(
            f"{path.name} is refused", f"{_MANIFEST} is larger than {_MOST_MANIFEST_BYTES} bytes"
        )
    try:
        table = json.loads(content(manifest, limits))
        entry = table["itemInfoEntries"][table["rootModelIdentifier"]]
        return inside(path / "Data", str(entry["path"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadModelError(
            f"{path.name} is broken", f"{_MANIFEST}: {type(error).__name__} {error}"
        ) from error


def load(path: Path, limits: Limits) -> Source:
    """Read the message; weights are read when they are asked for.

    Raises:
        BadModelError: it is no Core ML model, broken, or beyond the limits.
    """
    file = model_file(path, limits)
    data = content(file, limits)
    kinds = kinds_in(data)
    if not kinds:
        raise BadModelError(f"{path.name} is no Core ML model", "the message has no model in it")
    message = parsed(model_class(), data, path.name, "Core ML model", limits)
    if kinds != [_PROGRAM]:
        raise BadModelError(
            f"{path.name} is {KINDS[kinds[0]]}",
            "only ML programs can be read",
            "Convert it again with coremltools, convert_to='mlprogram'.",
        )
    folder = file.parent if path.is_dir() else None
    found = [file, path / _MANIFEST] if path.is_dir() else [file]
    return Source(path.name, message, folder, found, limits)


def kinds_in(data: wire.Buffer) -> list[int]:
    """Fields of Model that hold a model, where the bytes look like one; empty for all else."""
    seen: list[int] = []
    try:
        for item in wire.fields(data):
            if not seen and (item.number, item.kind) != (_VERSION, 0):
                return []
            seen.append(item.number)
            if len(seen) == 2 and item.number != _DESCRIPTION or len(seen) > 16:
                return []
    except ValueError:
        return []
    return [number for number in seen[2:] if number in KINDS]
