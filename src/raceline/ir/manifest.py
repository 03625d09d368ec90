"""`bundle.json`: what a bundle says of itself, read strictly, for it comes from outside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raceline.core.errors import BadModelError, ConfigError
from raceline.ir.profile import Profile
from raceline.ir.signature import Dim, Provenance, Signature, TensorSpec, Values

FORMAT = "raceline.bundle"
FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)  # 2 added `accuracy` to measurements; every manifest of 1 means the same in 2
NAME = "bundle.json"
MODEL = "model.onnx"
WEIGHTS = "weights.bin"

MOST_BYTES = 64 * 1024**2
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle as it must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """All that `bundle.json` holds.

    Attributes:
        signature: of the model.
        provenance: of the model.
        model_sha256: structural digest of the model, the key of measurements.
        files: name -> digest and size; plain names in the bundle's folder.
        profile: what was measured, if anything.
        equivalence: the report of how the model was compared with its source, as JSON.
    """

    signature: Signature
    provenance: Provenance
    model_sha256: str
    files: Mapping[str, FileEntry]
    profile: Profile | None = None
    equivalence: Mapping[str, Any] | None = field(default=None)


def to_text(manifest: Manifest) -> str:
    """The manifest as JSON. Numbers that JSON lacks (NaN, infinity) become null."""
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "signature": asdict(manifest.signature),
        "provenance": asdict(manifest.provenance),
        "model_sha256": manifest.model_sha256,
        "files": {name: asdict(entry) for name, entry in sorted(manifest.files.items())},
        "profile": None if manifest.profile is None else manifest.profile.to_json(),
        "equivalence": manifest.equivalence,
    }
    return json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"


def from_text(text: str | bytes, source: str) -> Manifest:
    """Read a manifest.

    Raises:
        BadModelError: it is no manifest, of a newer format, or says something impossible.
    """
    try:
        data = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _bad(source, f"it is no JSON ({error})") from error
    top = _object(data, {"format", "format_version", "signature", "provenance", "model_sha256", "files",
                         "profile", "equivalence"}, source) if _is_current(data, source) else {}  # fmt: skip
    try:
        return Manifest(
            signature=_signature(top["signature"], source),
            provenance=_provenance(top["provenance"], source),
            model_sha256=_matching(_SHA256, top["model_sha256"], source),
            files=_files(top["files"], source),
            profile=None
            if top["profile"] is None
            else _profile(top["profile"], top["format_version"], source),
            equivalence=None if top["equivalence"] is None else _is(dict, top["equivalence"], source),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _bad(source, f"{type(error).__name__}: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs; which of two equal names counts would depend on the reader."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(text: str) -> Any:
    """What Python reads and JSON does not have."""
    raise ValueError(f"{text} is no JSON")


def check_file_name(name: str, source: str) -> str:
    """A plain file name, of letters, digits, dot, dash and underscore.

    Raises:
        BadModelError: anything else, above all a path.
    """
    return _matching(_FILE_NAME, name, source)


def _is_current(data: Any, source: str) -> bool:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _bad(source, f"it does not say that it is a {FORMAT}")
    version = data.get("format_version")
    if type(version) is not int or version not in _READ_VERSIONS:  # to Python, true and 1.0 are 1 as well
        raise BadModelError(
            f"{source} cannot be read",
            f"its format version is {version!r}, and this release reads {' and '.join(map(str, _READ_VERSIONS))}",
            "Install the release of raceline that wrote it, or write it again with this one.",
        )
    return True


def _files(data: Any, source: str) -> dict[str, FileEntry]:
    found = {}
    for name, entry in _is(dict, data, source).items():
        row = _object(entry, {"sha256", "size_bytes"}, source)
        size = _is(int, row["size_bytes"], source)
        if size < 0:
            raise _bad(source, f"{name!r} has {size} bytes")
        found[check_file_name(name, source)] = FileEntry(_matching(_SHA256, row["sha256"], source), size)
    if MODEL not in found or NAME in found:
        raise _bad(source, f"its files are {sorted(found)}")
    return found


def _signature(data: Any, source: str) -> Signature:
    row = _object(data, {"inputs", "outputs", "batch_axis"}, source)
    axis = row["batch_axis"]
    return Signature(
        tuple(_spec(spec, source) for spec in _is(list, row["inputs"], source)),
        tuple(_spec(spec, source) for spec in _is(list, row["outputs"], source)),
        batch_axis=None if axis is None else _is(str, axis, source),
    )


def _spec(data: Any, source: str) -> TensorSpec:
    row = _object(data, {"name", "dtype", "shape", "values"}, source)
    shape = tuple(_dim(dim, source) for dim in _is(list, row["shape"], source))
    values = None if row["values"] is None else _values(row["values"], source)
    return TensorSpec(_is(str, row["name"], source), _is(str, row["dtype"], source), shape, values)


def _values(data: Any, source: str) -> Values:
    row = _object(data, {"low", "high", "choices", "source"}, source)
    choices = tuple(_number(choice, source) for choice in _is(list, row["choices"], source))
    low, high = _number(row["low"], source), _number(row["high"], source)
    if low > high:
        raise _bad(source, f"values from {low} to {high}")
    return Values(low, high, choices, _is(str, row["source"], source))


def _provenance(data: Any, source: str) -> Provenance:
    row = _object(data, {"source", "source_format", "source_sha256", "producer", "steps"}, source)
    texts = {key: _is(str, row[key], source) for key in row.keys() - {"steps"}}
    return Provenance(
        **texts, steps=tuple(_is(str, step, source) for step in _is(list, row["steps"], source))
    )


def _profile(data: Any, version: int, source: str) -> Profile:
    rows = data.get("measurements", []) if isinstance(data, dict) else []
    if version < 2 and any("accuracy" in row for row in rows if isinstance(row, dict)):
        raise _bad(source, "its profile has accuracies, which came with version 2")
    try:
        return Profile.from_json(data)
    except ConfigError as error:
        raise _bad(source, f"its profile is wrong: {error}") from error


def _dim(data: Any, source: str) -> Dim:
    if isinstance(data, str) and data:
        return data
    size: int = _is(int, data, source)
    if size < 1:
        raise _bad(source, f"an axis has size {size}")
    return size


def _number(data: Any, source: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise _bad(source, f"{data!r} is no number")
    return data


def _object(data: Any, keys: set[str], source: str) -> dict[str, Any]:
    """A JSON object with exactly those keys."""
    row: dict[str, Any] = _is(dict, data, source)
    if row.keys() != keys:
        raise _bad(source, f"expected the keys {sorted(keys)} and found {sorted(row)}")
    return row


def _is(kind: type, data: Any, source: str) -> Any:
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise _bad(source, f"{str(data)[:80]!r} is no {kind.__name__}")
    return data


def _matching(pattern: re.Pattern[str], data: Any, source: str) -> str:
    if not isinstance(data, str) or pattern.fullmatch(data) is None:
        raise _bad(source, f"{str(data)[:80]!r} is not allowed there")
    return data


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def _bad(source: str, why: str) -> BadModelError:
    return BadModelError(f"{source} is no valid manifest of a bundle", why, "Write the bundle again.")
