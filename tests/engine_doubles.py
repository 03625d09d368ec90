"""A small net, and a folder of engines that misbehave on purpose."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from raceline import engines
from raceline.convert.readers import onnx as reader
from raceline.ir import PlatformProfile, with_batch_axis

FOLDER = Path(__file__).parent / "engine_plugins"
"""Each file is an engine, as in raceline/engines."""

SHAPES = {"x": (1, 3, 8, 8)}

MACHINE = PlatformProfile(
    name="test", kind="cpu", model="test", architecture="x86_64", cores=2, engines=(), measured=False,
    source="made up", date="2026-01-01",
)  # fmt: skip


def add_engines(monkeypatch):
    """Let the engines in FOLDER be found beside the real ones, in this process and in workers."""
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(FOLDER)])


def net(folder):
    """Two convolutions and a dense layer on 8 by 8 pictures, with a batch axis."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["s2"], "sigmoid2"),
        helper.make_node("Flatten", ["s2"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "dense"),
    ]
    weights = [_weight("w1", 8, 3, 3, 3), _weight("w2", 4, 8, 3, 3), _weight("w3", 256, 5)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 5])],
        weights,
    )
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return with_batch_axis(reader.read(path), "batch")


def _weight(name, *shape):
    values = np.random.default_rng(len(shape)).standard_normal(shape) / np.prod(shape[1:]) ** 0.5
    return numpy_helper.from_array(values.astype(np.float32), name)
