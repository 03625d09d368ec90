"""The safetensors file: 8 bytes of length, a JSON header, then every tensor's elements without gaps."""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from raceline.convert import files
from raceline.core.errors import BadModelError
from raceline.core.units import counted
from raceline.ir import Limits

Array = np.ndarray[Any, Any]
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32), "U32": np.dtype(np.uint32), "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64), "I64": np.dtype(np.int64), "U64": np.dtype(np.uint64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
INDEX = ".safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000  # the format's own bound
_MOST_JSON_BYTES = 64_000_000
_AGAIN = "Download it again."


def looks_like_safetensors(path: Path) -> bool:
    """Whether the file begins with a length that it can hold, and a JSON object behind it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    if len(head) < 9 or head[8:] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= min(_MOST_HEADER_BYTES, max(size, 2)) and not _is_other_text(head)


def _is_other_text(head: bytes) -> bool:
    """Eight printable characters are text, not a length."""
    return all(32 <= byte < 127 for byte in head)


def tensors(path: Path, limits: Limits) -> dict[str, Array]:
    """All tensors of a file by name, mapped and not copied.

    Raises:
        BadModelError: it is no whole safetensors file; offsets overlap, leave gaps or lead out of it; a name is
            there twice; or an element type is unknown.
    """
    size = files.refuse_strange(path, limits)
    if size < 10:
        raise BadModelError(f"{path.name} is no safetensors file", f"it has {size} bytes", _AGAIN)
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    (length,) = struct.unpack_from("<Q", data)
    if not 2 <= length <= min(_MOST_HEADER_BYTES, size - 8) or data[8] != ord("{"):
        why = f"its header would have {length} bytes, of {size} in all"
        raise BadModelError(f"{path.name} is no safetensors file, or cut off", why, _AGAIN)
    header = parsed(bytes(data[8 : 8 + length]), path.name, limits)
    header.pop("__metadata__", None)
    if len(header) > limits.max_nodes:
        raise BadModelError(
            f"{path.name} is too large", f"it has {counted(len(header), 'tensor')}, over the limit"
        )
    body = data[8 + length :]
    spans = {name: _span(name, entry, path.name) for name, entry in header.items()}
    _check_order(spans, len(body), path.name)
    return {
        name: np.frombuffer(body, dtype, math.prod(shape), start).reshape(shape)
        for name, (dtype, shape, start, _) in spans.items()
    }


def parsed(data: bytes, source: str, limits: Limits) -> dict[str, Any]:
    """A JSON object in which no name is there twice.

    Raises:
        BadModelError: it is none, or too large.
    """
    files.refuse_growth(len(data), source, limits)
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadModelError(f"{source} is damaged", f"its JSON cannot be read: {error}", _AGAIN) from error
    if not isinstance(found, dict):
        raise BadModelError(f"{source} is damaged", "its JSON is no object", _AGAIN)
    return found


def json_file(path: Path, limits: Limits) -> dict[str, Any]:
    """A small file that holds a JSON object."""
    if files.refuse_strange(path, limits) > _MOST_JSON_BYTES:
        raise BadModelError(f"{path.name} is refused", f"it is larger than {_MOST_JSON_BYTES} bytes")
    return parsed(files.content(path, limits), path.name, limits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _span(name: str, entry: Any, source: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Element type, shape, and where the elements begin and end."""
    broken = BadModelError(
        f"{source} is damaged", f"the entry of tensor {name[:200]!r} makes no sense", _AGAIN
    )
    try:
        kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise broken from error
    numbers = [*shape, start, stop]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or not isinstance(kind, str):
        raise broken
    if kind not in DTYPES:
        why = f"tensor {name[:200]!r} has element type {kind[:40]!r}"
        raise BadModelError(f"{source} cannot be read", why, f"Known are {', '.join(DTYPES)}.")
    if len(shape) > 16 or stop - start != math.prod(shape) * DTYPES[kind].itemsize:
        raise broken
    return DTYPES[kind], shape, start, stop


def _check_order(spans: Mapping[str, tuple[Any, Any, int, int]], size: int, source: str) -> None:
    place = 0
    for name, (_, _, start, stop) in sorted(spans.items(), key=lambda item: (item[1][2], item[1][3])):
        if start != place:
            what = "overlaps another" if start < place else "leaves a gap before it"
            raise BadModelError(f"{source} is damaged", f"tensor {name[:200]!r} {what}", _AGAIN)
        place = stop
    if place != size:
        why = f"its tensors take {place} bytes, the file has {size}"
        raise BadModelError(f"{source} is damaged or cut off", why, _AGAIN)


def sharded(index: Path, limits: Limits) -> tuple[dict[str, Array], list[Path]]:
    """All tensors of the files that an index lists, and these files.

    Raises:
        BadModelError: a file is absent or leads outside the folder, or does not hold what the index says.
    """
    table = json_file(index, limits).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise BadModelError(f"{index.name} is no index of weights", "it has no weight_map", _AGAIN)
    paths = {name: files.inside(index.parent, name) for name in sorted(set(table.values()))}
    total = sum(path.stat().st_size for path in paths.values())
    if total > limits.max_model_bytes:
        raise files.too_large(index.name, total, limits)
    found: dict[str, Array] = {}
    for name, path in paths.items():
        part = tensors(path, limits)
        wrong = sorted(
            {t for t in part if table.get(t) != name}
            | {t for t, n in table.items() if n == name and t not in part}
        )
        if wrong:
            why = f"it and {name!r} disagree on {', '.join(wrong[:5])}"
            raise BadModelError(f"{index.name} does not fit its files", why, _AGAIN)
        found |= part
    return found, list(paths.values())


def serialised(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors file with these tensors."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, place = {}, 0
    for name, array in arrays.items():
        span = [place, place + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": span}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values())
