"""Read ONNX: any IR version, any opset the standard has defined, weights inside or beside the file."""

from __future__ import annotations

import mmap
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.onnx_file import read_onnx
from raceline.ir import wire
from raceline.ir.limits import Limits
from raceline.ir.model import Model
from raceline.ir.operators import CONTRIB_DOMAIN, CONTRIB_OPERATORS

description = "ONNX models (.onnx), with their weights inside or in files beside them"
extensions = (".onnx",)
extra = ""

_GRAPH, _IR_VERSION, _OPSETS = 7, 1, 8  # fields of ModelProto
_MOST_FIELDS = 64  # enough to meet the graph in any file; a model has a handful before it


def recognises(path: Path) -> bool:
    """Whether the file looks like an ONNX model: a protobuf message with a version and a graph.

    Reads a few bytes at any file size; a file that was cut off inside its graph is still recognised.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _looks_like_model(data)
    except (OSError, ValueError):  # unreadable or empty
        return False


def read(path: Path, *, limits: Limits | None = None) -> Model:
    """Read and check a model; see `onnx_file.read_onnx`.

    Args:
        path: the model file.
        limits: what the file may ask of this machine.
    """
    return read_onnx(path, limits=limits)


def operators() -> list[str]:
    """The operators of all domains that mean something to the IR, which is ONNX itself."""
    import onnx

    known = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas() if not schema.deprecated}
    known |= {(CONTRIB_DOMAIN, name) for name in CONTRIB_OPERATORS}
    training = "ai.onnx.preview.training"
    return sorted(f"{domain}.{name}" if domain else name for domain, name in known if domain != training)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = Relu(x w), two items or more at once."""
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2) - 2, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 3), ("y", 2))
    )
    graph = helper.make_graph(nodes, "example", [x], [y], [weight])
    path = folder / "example.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="raceline"), path)
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
    return {"y": np.maximum(inputs["x"] @ weight, 0)}


def _looks_like_model(data: mmap.mmap) -> bool:
    seen: set[int] = set()
    for count, field in enumerate(wire.fields(data)):
        # Only the last field of a whole file ends at its end; nothing may lie before it but known fields.
        if (field.number == _IR_VERSION and field.kind != 0) or count > _MOST_FIELDS:
            return False
        seen.add(field.number)
        if _GRAPH in seen and seen & {_IR_VERSION, _OPSETS}:
            return True
    return False
