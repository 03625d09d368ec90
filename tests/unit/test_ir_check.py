"""`check`: every way in which a model can disagree with itself."""

from dataclasses import replace

import ir_models as m
import numpy as np
import onnx_ir
import pytest
from onnx import helper

from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Signature, TensorSpec, Values, check, infer_values, signature_of, with_batch_axis


@pytest.fixture
def model(tmp_path):
    return m.read(m.perceptron(), tmp_path)


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def test_sound_models_pass(model, tmp_path):
    check(model)
    check(m.read(m.fused(), tmp_path))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (Signature((), (spec("y", "batch", 3),)), "inputs are"),
        (Signature((spec("x", "batch", 4),), (spec("z", "batch", 3),)), "outputs are"),
        (Signature((spec("x", "batch", 5),), (spec("y", "batch", 3),)), "an axis of 5 by the signature"),
        (Signature((spec("x", 4),), (spec("y", "batch", 3),)), "1 axes by the signature and 2"),
        (
            Signature((spec("x", "batch", 4, dtype="int8"),), (spec("y", "batch", 3),)),
            "int8 by the signature",
        ),
        (
            Signature((spec("x", "n", 4),), (spec("y", "k", 3),), batch_axis="n"),
            "'y' lacks the batch axis 'n'",
        ),
    ],
)
def test_a_signature_that_differs_from_the_graph_is_told(model, signature, message):
    with pytest.raises(BadModelError, match=message):
        check(replace(model, signature=signature))


def test_a_pass_that_forgets_a_node_is_caught(model):
    graph = model.program.graph
    add = next(node for node in graph if node.op_type == "Add")
    add.outputs[0].replace_all_uses_with(onnx_ir.Value(name="lost"))
    graph.remove(add)
    with pytest.raises(BadModelError, match="reads 'lost' which nothing writes"):
        check(model)


def test_a_pass_that_writes_a_name_twice_is_caught(model):
    first, second = list(model.program.graph)[:2]
    second.outputs[0].name = first.outputs[0].name
    with pytest.raises(BadModelError, match="which exists already"):
        check(model)


def test_a_pass_that_breaks_a_shape_is_caught(model):
    weight = model.program.graph.initializers["w"]
    weight.const_value = onnx_ir.Tensor(np.ones((5, 3), np.float32), name="w")
    weight.shape = onnx_ir.Shape([5, 3])
    with pytest.raises(BadModelError, match="do not fit together"):
        check(model)


def test_a_pass_that_divides_by_zero_is_caught(model):
    model.program.graph.initializers["b"].const_value = onnx_ir.Tensor(
        np.full(3, np.nan, np.float32), name="b"
    )
    with pytest.raises(BadModelError, match="'b' holds 3 NaN"):
        check(model)
    check(model, allow_nan=True)


def test_an_unresolved_function_is_caught(tmp_path):
    model = m.read(m.fused(), tmp_path)
    model.program.functions.clear()
    with pytest.raises(UnsupportedOperatorError) as caught:
        check(model)
    assert caught.value.uses == {"raceline.Layer at opset 1": ["layer"]}


# The batch axis ---------------------------------------------------------------------------------------------


def test_naming_the_batch_axis_keeps_graph_and_signature_together(tmp_path):
    relu = helper.make_node("Relu", ["x"], ["y"])
    model = m.read(m.proto([relu], [m.info("x", ["n", 2])], [m.info("y", ["k", 2])]), tmp_path)
    named = with_batch_axis(model, "items")
    assert named.signature.batch_axis == "items"
    assert [s.shape for s in (*named.signature.inputs, *named.signature.outputs)] == [("items", 2)] * 2
    assert model.signature.batch_axis is None
    check(named)
    assert with_batch_axis(model, None) is model


def test_a_fixed_axis_is_no_batch_axis(tmp_path):
    relu = helper.make_node("Relu", ["x"], ["y"])
    model = m.read(m.proto([relu], [m.info("x", [1, 2])], [m.info("y", [1, 2])]), tmp_path)
    with pytest.raises(BadModelError, match="no batch axis"):
        with_batch_axis(model, "n")


def test_the_signature_can_be_derived_again_after_a_pass(model):
    assert signature_of(model.program) == model.signature


# Values -----------------------------------------------------------------------------------------------------


def values_of(tmp_path, nodes, inputs, weights, *, opset=17):
    outputs = [m.info(name, None, dtype) for name, dtype in nodes[-1][1]]
    made = m.proto([n for n, _ in nodes], inputs, outputs, weights, opset=opset)
    return m.read(made, tmp_path).signature.input("x").values


def test_an_index_stays_inside_its_table(tmp_path):
    nodes = [
        (helper.make_node("Cast", ["x"], ["i"], to=7), []),
        (helper.make_node("Unsqueeze", ["i", "one"], ["u"]), []),
        (helper.make_node("Gather", ["table", "u"], ["y"]), [("y", 1)]),
    ]
    weights = [m.tensor("table", np.zeros((30, 2))), m.tensor("one", [1], np.int64)]
    assert values_of(tmp_path, nodes, [m.info("x", ["n"], 6)], weights) == Values(0, 29, source="graph")


def test_the_smallest_table_bounds_an_index(tmp_path):
    nodes = [
        (helper.make_node("Gather", ["large", "x"], ["a"]), []),
        (helper.make_node("Gather", ["small", "x"], ["b"], axis=1), []),
        (helper.make_node("Concat", ["a", "a"], ["y"], axis=0), [("y", 1), ("b", 1)]),
    ]
    weights = [m.tensor("large", np.zeros((30, 2))), m.tensor("small", np.zeros((90, 12)))]
    assert values_of(tmp_path, nodes, [m.info("x", ["n"], 7)], weights) == Values(0, 11, source="graph")


def test_a_scalar_is_one_of_what_it_is_compared_with(tmp_path):
    nodes = [
        (helper.make_node("Equal", ["x", "low"], ["a"]), []),
        (helper.make_node("Equal", ["high", "x"], ["b"]), []),
        (helper.make_node("Or", ["a", "b"], ["y"]), [("y", 9)]),
    ]
    weights = [m.tensor("low", 8000, np.int64), m.tensor("high", 16000, np.int64)]
    found = values_of(tmp_path, nodes, [m.info("x", [], 7)], weights)
    assert found == Values(8000, 16000, (8000, 16000), source="graph")


def test_a_one_hot_code_spans_its_classes(tmp_path):
    node = [(helper.make_node("Equal", ["x", "classes"], ["y"]), [("y", 9)])]
    weights = [m.tensor("classes", np.arange(257).reshape(1, 257), np.int32)]
    assert values_of(tmp_path, node, [m.info("x", ["n", 1], 6)], weights) == Values(0, 256, source="graph")


def test_a_size_is_small_and_positive(tmp_path):
    node = [(helper.make_node("ConstantOfShape", ["x"], ["y"]), [("y", 1)])]
    assert values_of(tmp_path, node, [m.info("x", [2], 7)], []) == Values(1, 4, source="graph")


def test_evidence_inside_functions_counts(tmp_path):
    body = [helper.make_node("Gather", ["t", "i"], ["o"])]
    function = helper.make_function(
        "raceline", "Look", ["t", "i"], ["o"], body, [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Look", ["table", "x"], ["y"], domain="raceline")
    table = m.tensor("table", np.zeros((9, 2)))
    ends = [m.info("x", ["n"], 7)], [m.info("y", ["n", 2])]
    made = m.proto([call], *ends, [table], functions=[function], domains=["raceline"])
    assert m.read(made, tmp_path).signature.input("x").values == Values(0, 8, source="graph")


def test_nothing_is_known_of_plain_floats_and_all_of_bytes(model, tmp_path):
    assert infer_values(model.program) == {}
    cast = helper.make_node("Cast", ["x"], ["y"], to=1)
    picture = m.read(m.proto([cast], [m.info("x", [2], 2)], [m.info("y", [2])]), tmp_path)
    assert picture.signature.input("x").values == Values(0, 255)


def test_real_values(tmp_path):
    assert m.read_real("magika").signature.inputs[0].values == Values(0, 256, source="graph")
    assert m.read_real("silero").signature.input("sr").values.choices == (16000,)
