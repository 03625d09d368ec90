"""What sentence-transformers does after the network, as modules.json lists it: pooling and normalising."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert import files
from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.file import json_file
from raceline.core.errors import BadModelError
from raceline.ir import Limits

if TYPE_CHECKING:
    import onnx_ir as ir

_MODES = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt", "pooling_mode_weightedmean_tokens": "weighted",
    "pooling_mode_lasttoken": "last",
}  # fmt: skip


def steps(folder: Path, limits: Limits) -> list[str]:
    """The steps after the network: names of poolings, and "normalize"; none without a modules.json.

    Raises:
        BadModelError: a step is of a kind that is not known.
    """
    if not (folder / "modules.json").is_file():
        return []
    text = files.content(folder / "modules.json", limits)
    files.refuse_growth(len(text), "modules.json", limits)
    listed = _modules(text)
    found: list[str] = []
    for module in listed:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            name = f"{module.get('path', '')}/config.json"
            settings = json_file(files.inside(folder, name), limits)
            modes = [mode for key, mode in _MODES.items() if settings.get(key)]
            if len(modes) != 1 or modes[0] not in {"cls", "mean", "max"}:
                raise BadModelError("the pooling of sentences cannot be built", f"{name} asks for {modes}")
            found += modes
        elif kind == "Normalize":
            found.append("normalize")
        elif kind != "Transformer":
            raise BadModelError("modules.json lists a step that is not known", f"it is {kind[:80]!r}")
    return found


def _modules(data: bytes) -> list[dict[str, Any]]:
    """The modules that a modules.json lists."""
    try:
        listed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadModelError("modules.json is damaged", str(error)) from error
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise BadModelError("modules.json is damaged", "it is no list of modules")
    return listed


def apply(b: Builder, states: ir.Value, mask: ir.Value, wanted: list[str]) -> ir.Value:
    """States (batch, positions, size) to one vector a sentence; padding does not count."""
    x: Any = states
    weight = b.op("Unsqueeze", b.cast(mask, np.float32), [2])
    for step in wanted:
        if step == "cls":
            x = b.op("Squeeze", b.op("Slice", x, [0], [1], [1]), [1])
        elif step == "mean":
            total = b.op("ReduceSum", b.op("Mul", x, weight), [1], keepdims=0)
            x = b.op("Div", total, b.op("Max", b.op("ReduceSum", weight, [1], keepdims=0), np.float32(1e-9)))
        elif step == "max":
            seen = b.op("Greater", weight, np.float32(0))
            x = b.op("ReduceMax", b.op("Where", seen, x, np.float32(-1e9)), [1], keepdims=0)
        else:
            length = b.op("ReduceL2", x, [-1], keepdims=1)
            x = b.op("Div", x, b.op("Max", length, np.float32(1e-12)))
    return x  # type: ignore[no-any-return]
