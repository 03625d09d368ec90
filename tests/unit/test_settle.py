"""What a model leaves open is settled, or the refusal says what to give."""

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from raceline.convert.readers import onnx as reader
from raceline.convert.settle import settle
from raceline.core.errors import ShapeError


def saved(tmp_path, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, tmp_path / "m.onnx")
    return reader.read(tmp_path / "m.onnx")


def floats(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_independent_items_get_a_batch_axis(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], np.arange(6, dtype=np.float32))
    model = saved(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])],
                  [floats("x", [None, 3])], [floats("y", [None, 2])], [weight])  # fmt: skip
    model, sizes = settle(model)
    assert model.signature.batch_axis in sizes and list(sizes.values()) == [1]


def test_items_that_see_each_other_get_none(tmp_path):
    model = saved(tmp_path, [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
                  [floats("x", ["n", 3])], [floats("y", ["n", 3])])  # fmt: skip
    model, sizes = settle(model)
    assert model.signature.batch_axis is None and sizes == {"n": 1}


def test_a_value_that_the_caller_gives_is_kept(tmp_path):
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [])
    nodes = [helper.make_node("Cast", ["rate"], ["r"], to=1), helper.make_node("Mul", ["x", "r"], ["y"])]
    model = saved(tmp_path, nodes, [floats("x", [1, 3]), rate], [floats("y", [1, 3])])
    model, _ = settle(model, values={"rate": 16000})
    assert model.signature.input("rate").values.choices == (16000,)


def test_unknown_names_and_wrong_shapes_are_refused_with_what_fits(tmp_path):
    model = saved(
        tmp_path, [helper.make_node("Relu", ["x"], ["y"])], [floats("x", ["n", 3])], [floats("y", ["n", 3])]
    )
    with pytest.raises(ShapeError, match="no input 'z'.*x: float32"):
        settle(model, values={"z": 1})
    with pytest.raises(ShapeError, match="scalars only"):
        settle(model, values={"x": 1})
    with pytest.raises(ShapeError, match=r"cannot have shape \[1, 4\]"):
        settle(model, shapes={"x": (1, 4)})
