"""Read safetensors checkpoints whose architecture is known, by name or by the config.json beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.safetensors import file, model
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model

description = "safetensors checkpoints (.safetensors, or a Hugging Face folder) of known architectures"
extensions = (".safetensors", file.INDEX)
extra = ""

_HEAD_BYTES = 1 << 20


def recognises(path: Path) -> bool:
    """Whether the file, or the checkpoint of the folder, begins as a safetensors file or is an index of some."""
    try:
        where = model.weights_of(path)
        if where.name.endswith(file.INDEX):
            return where.is_file() and b'"weight_map"' in _head(where)
        return where.is_file() and file.looks_like_safetensors(where)
    except (OSError, ValueError, BadModelError):
        return False


def read(path: Path, *, architecture: str | None = None, limits: Limits | None = None) -> Model:
    """Read a checkpoint and build its network as standard ONNX.

    Args:
        path: the file, the index of several files, or their folder.
        architecture: such as "bert", "llama" or "resnet"; None to take the word of the config.json beside the
            file, or else of the weights' names. Sizes come from the config.json in any case.
        limits: what the files may ask of this machine.

    Raises:
        BadModelError: a file is damaged, or weights are missing, unexpected or of another shape: all of them.
        UnknownNameError: there is no such architecture; the message lists those there are.
    """
    return model.read(path, architecture, limits or Limits())


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(_HEAD_BYTES)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: a ResNet with two channels."""
    path = folder / "example.safetensors"
    path.write_bytes(file.serialised(model.example_arrays()))
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"logits": model.example_answer(inputs["x"])}
