"""The smallest useful models, written without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.tensorflow.messages import message

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
"""Of both: y = Relu(x WEIGHT)."""

_FLOAT = 1


def write_graph_def(path: Path) -> Path:
    """Write a frozen graph; returns its path."""
    graph = message("GraphDef")()
    _placeholder(graph.node.add(), "x")
    _layer(graph.node, "x", "h")
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path


def write_saved_model(folder: Path) -> Path:
    """Write a SavedModel whose signature calls a function; returns its folder."""
    saved = message("SavedModel")(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    graph = meta.graph_def
    _placeholder(graph.node.add(), "serving_x")
    call = graph.node.add(name="call", op="PartitionedCall", input=["serving_x"])
    call.attr["f"].func.name = "layer"
    function = graph.library.function.add()
    function.signature.name = "layer"
    function.signature.input_arg.add(name="x", type=_FLOAT)
    function.signature.output_arg.add(name="y", type=_FLOAT)
    _layer(function.node_def, "x", "h:product:0")
    function.ret["y"] = "y:activations:0"
    signature = meta.signature_def["serving_default"]
    for side, key, tensor, size in (
        (signature.inputs, "x", "serving_x:0", 3),
        (signature.outputs, "y", "call:0", 2),
    ):
        side[key].name, side[key].dtype = tensor, _FLOAT
        _shape(side[key].tensor_shape, size)
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString(deterministic=True))
    return folder


def _layer(nodes: Any, x: str, product: str) -> None:
    weight = nodes.add(name="w", op="Const")
    weight.attr["dtype"].type = _FLOAT
    tensor = weight.attr["value"].tensor
    tensor.dtype, tensor.tensor_content = _FLOAT, WEIGHT.tobytes()
    for size in WEIGHT.shape:
        tensor.tensor_shape.dim.add(size=size)
    nodes.add(name="h", op="MatMul", input=[x, "w" if product == "h" else "w:output:0"])
    nodes.add(name="y", op="Relu", input=[product])


def _placeholder(node: Any, name: str) -> None:
    node.name, node.op = name, "Placeholder"
    node.attr["dtype"].type = _FLOAT
    _shape(node.attr["shape"].shape, 3)


def _shape(proto: Any, size: int) -> None:
    proto.dim.add(size=-1)
    proto.dim.add(size=size)
