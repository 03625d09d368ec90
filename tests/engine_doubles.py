"""Small models, and engines that misbehave on purpose, for the tests of engines, tuning and equivalence."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from raceline.convert.readers import onnx as reader
from raceline.ir import with_batch_axis

ENGINES = Path(__file__).parent / "engine_doubles"


def info(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name, *shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


def constant(name, values, dtype):
    return numpy_helper.from_array(np.array(values, dtype), name)


def read(folder, nodes, inputs, outputs, weights=(), *, opset=17, batch_axis=None, functions=()):
    """A Model of helper nodes, by way of a file, as a user's would come."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    domains = {"": opset, **{f.domain: 1 for f in functions}}
    opsets = [helper.make_opsetid(name, version) for name, version in domains.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return with_batch_axis(reader.read(path), batch_axis)


def net(folder):
    """Three convolutions and a dense layer on 8 by 8 pictures; batches of any size."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["s2"], "sigmoid2"),
        helper.make_node("Conv", ["s2", "w3"], ["c3"], "conv3", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c3"], ["r3"], "relu3"),
        helper.make_node("Flatten", ["r3"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w4"], ["y"], "dense"),
    ]
    weights = [weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3, seed=1), weight("w3", 4, 8, 3, 3, seed=2),
               weight("w4", 256, 5, seed=3)]  # fmt: skip
    inputs, outputs = [info("x", ["batch", 3, 8, 8])], [info("y", ["batch", 5])]
    return read(folder, nodes, inputs, outputs, weights, batch_axis="batch")


NET_SHAPES = {"x": (1, 3, 8, 8)}


def with_node_changed(model, name, op_type, attributes=()):
    """A copy in which the node of that name is another operator."""
    import onnx_ir

    changed = model.clone()
    for node in changed.program.graph:
        if node.name == name:
            node.op_type = op_type
            node.attributes.clear()
            for key, value in dict(attributes).items():
                node.attributes[key] = onnx_ir.AttrInt64(key, value)
    return changed


def with_weight_scaled(model, name, factor):
    """A copy in which an initializer is `factor` times itself."""
    import onnx_ir

    changed = model.clone()
    value = changed.program.graph.initializers[name]
    value.const_value = onnx_ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return changed
