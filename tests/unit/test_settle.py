"""What a model leaves open is settled, or the refusal says what to give."""

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from raceline.convert.example import model_from_text
from raceline.convert.readers import onnx as reader
from raceline.convert.settle import settle
from raceline.core.errors import BackendLostError, ShapeError
from raceline.ir import Values, check, run_reference


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


def test_an_input_that_is_spelt_out_as_absent_is_left_out(tmp_path):
    """ONNX Runtime dies of it."""
    weight = helper.make_tensor("s", TensorProto.FLOAT, [3], [1.0, 1.0, 1.0])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "s", ""], ["y"], axis=-1),
    ]
    model = saved(tmp_path, nodes, [floats("x", ["n", 3])], [floats("y", ["n", 3])], [weight])
    assert [len(node.inputs) for node in model.program.graph] == [1, 2]
    model, _ = settle(model)
    assert model.signature.batch_axis == "n"


def test_an_engine_that_dies_takes_only_its_child_along(tmp_path, monkeypatch):
    def dies(path, cases, runtime, **_):
        raise BackendLostError("the child was killed by SIGSEGV")

    monkeypatch.setattr("raceline.convert.runtimes.run", dies)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], np.arange(6, dtype=np.float32))
    model = saved(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])],
                  [floats("x", ["n", 3])], [floats("y", ["n", 2])], [weight])  # fmt: skip
    assert settle(model)[0].signature.batch_axis == "n"


@pytest.fixture
def rated(tmp_path):
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [])
    nodes = [helper.make_node("Cast", ["rate"], ["r"], to=1), helper.make_node("Mul", ["x", "r"], ["y"])]
    return saved(tmp_path, nodes, [floats("x", [1, 3]), rate], [floats("y", [1, 3])])


def test_a_range_that_the_caller_gives_is_kept(rated):
    model, _ = settle(rated, values={"rate": Values(8000, 16000, (8000, 16000))})
    assert model.signature.input("rate").values.choices == (8000, 16000)


def test_a_number_fixes_an_input(rated):
    model, _ = settle(rated, values={"rate": 16000})
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    assert any("'rate' at 16000" in step for step in model.provenance.steps)
    check(model)
    x = np.float32([[1, 2, 3]])
    np.testing.assert_array_equal(run_reference(model, {"x": x})["y"], x * 16000)
    assert len(rated.signature.inputs) == 2, "the model that was given stays"


@pytest.mark.parametrize("number", [0.5, 2.0**70])
def test_a_number_that_the_input_cannot_hold_is_refused(rated, number):
    with pytest.raises(ShapeError, match="'rate' cannot be"):
        settle(rated, values={"rate": number})


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


def squeezing(tmp_path):
    """What exporters make of `squeeze(-1)`: a branch by the size of an axis."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        main (float[n, 2, w] x, int64[1] last, int64[1] one) => (float[a, 2] y) {
            sizes = Shape(x)
            size = Gather(sizes, last)
            alone = Equal(size, one)
            y = If (alone) <
                then_branch = squeezed () => (float[b, 2] s) { s = Squeeze(x, last) },
                else_branch = summed () => (float[c, 2] t) {
                    t = ReduceSum<keepdims = 0>(x, last)
                }
            >
        }"""
    return model_from_text(text, last=np.array([-1]), one=np.array([1]))


@pytest.mark.parametrize("width", [1, 5])
def test_sizes_that_the_caller_gives_settle_branches(tmp_path, width):
    source = squeezing(tmp_path)
    model, sizes = settle(source, shapes={"x": (1, 2, width)})
    assert [node.op_type for node in model.program.graph] == ["Squeeze" if width == 1 else "ReduceSum"]
    assert model.signature.inputs[0].shape[1:] == (2, width)
    assert model.signature.batch_axis is not None and set(sizes) == {model.signature.batch_axis}
    assert any("branches" in step for step in model.provenance.steps)
    check(model)
    x = np.random.default_rng(0).standard_normal((3, 2, width)).astype(np.float32)
    np.testing.assert_array_equal(run_reference(model, {"x": x})["y"], run_reference(source, {"x": x})["y"])


def test_sizes_that_were_only_tried_settle_nothing(tmp_path):
    model, _ = settle(squeezing(tmp_path))
    assert "If" in [node.op_type for node in model.program.graph]
