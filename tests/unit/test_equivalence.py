"""A failure is seen, says who is at fault, and names the right node."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from raceline.convert import equivalence
from raceline.convert.equivalence import Equivalence, differences, first_divergence, verify
from raceline.convert.ties import are_ties
from raceline.engines import Tolerance, load
from raceline.ir import Candidate, Model, Reference, Values, signature_of

TIGHT = Tolerance(1e-6, 1e-5)
REFERENCE = Candidate("reference")


def chain(*operators):
    """x -> operators one after the other, each naming its value after itself -> y, with a batch axis."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    value, nodes = x, []
    for index, operator in enumerate(operators):
        node = ir.node(operator, [value], name=f"n{index}")
        value = node.outputs[0]
        value.name = f"v{index}"
        nodes.append(node)
    value.name, value.type, value.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 4])
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 18}, name="chain")
    program = ir.Model(graph, ir_version=10)
    return Model(program, signature_of(program))


CASES = [{"batch": 1}, {"batch": 3}]


def test_equal_graphs_are_equal():
    verdict = verify(chain("Abs", "Exp"), chain("Abs", "Exp"), REFERENCE, CASES, seeds=(0, 1))
    assert verdict.ok and verdict.divergence is None
    assert verdict.outputs[0].max_abs == 0 and verdict.outputs[0].scale > 1


def test_a_wrong_pass_is_blamed_at_the_first_node_that_differs():
    verdict = verify(
        chain("Abs", "Exp", "Neg", "Tanh"), chain("Abs", "Sqrt", "Neg", "Tanh"), REFERENCE, CASES
    )
    assert not verdict.ok
    assert (verdict.divergence.blame, verdict.divergence.node) == ("passes", "n1")
    assert verdict.divergence.operator == "Sqrt"
    assert len(verdict.divergence.expected) == 4 and verdict.divergence.expected != verdict.divergence.got


class Broken:
    """An engine whose `operator` is off by a factor."""

    def __init__(self, model, operator):
        self.model = model.clone()
        for node in list(self.model.program.graph):
            if node.op_type == operator:
                wrong = ir.node("Mul", [node.outputs[0], node.outputs[0]])
                node.outputs[0].replace_all_uses_with(wrong.outputs[0], replace_graph_outputs=True)
                wrong.replace_input_with(0, node.outputs[0])
                wrong.replace_input_with(1, node.outputs[0])
                name = node.outputs[0].name
                node.outputs[0].name, wrong.outputs[0].name = f"{name}_right", name
                wrong.outputs[0].type, wrong.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
                self.model.program.graph.insert_after(node, wrong)
        from raceline.engines import Options

        self.session = load("reference").load(self.model, Options())

    def run(self, inputs):
        return self.session.run(inputs)

    def close(self):
        self.session.close()


@pytest.mark.parametrize(("operator", "node"), [("Abs", "n0"), ("Exp", "n1"), ("Tanh", "n3")])
def test_a_wrong_engine_is_blamed_at_the_right_node(monkeypatch, operator, node):
    monkeypatch.setattr(equivalence, "prepare", lambda model, *_, **__: Broken(model, operator))
    model = chain("Abs", "Exp", "Sigmoid", "Tanh")
    verdict = verify(model, model, REFERENCE, CASES)
    assert not verdict.ok
    assert (verdict.divergence.blame, verdict.divergence.node) == ("engine", node)
    assert node in str(verdict.divergence)


def test_a_value_that_a_pass_scaled_is_no_fault_of_the_passes(monkeypatch):
    monkeypatch.setattr(equivalence, "prepare", lambda model, *_, **__: Broken(model, "Tanh"))
    source, model = chain("Abs", "Neg", "Neg", "Tanh"), chain("Abs", "Identity", "Identity", "Tanh")
    verdict = verify(source, model, REFERENCE, CASES)
    assert (verdict.divergence.blame, verdict.divergence.node) == ("engine", "n3")


def test_a_graph_that_gives_nothing_finite_is_not_proven_and_is_itself_at_fault():
    model = chain("Exp", "Neg", "Log", "Tanh")
    verdict = verify(model, model, REFERENCE, CASES)
    assert not verdict.ok and "no finite element" in verdict.outputs[0].why
    assert (verdict.divergence.blame, verdict.divergence.node) == ("source", "n2")
    assert "original graph" in str(verdict.divergence) and "n2" in str(verdict.divergence)


@pytest.mark.parametrize(
    ("value", "why"), [(0.0, "the same"), (2.0, "the same"), ([1e-7, 2e-7], "tolerance"), ([1, 2], "")]
)
def test_a_weak_proof_is_told(value, why):
    y = np.zeros(2, np.float32) + np.array(value, np.float32)
    (found,) = differences({"y": y}, {"y": y.copy()}, TIGHT)
    assert found.ok and why in found.why and bool(found.why) == bool(why)


def test_a_slice_is_held_against_its_own_magnitude():
    right = np.stack([np.full(20, 300.0), np.full(20, 0.01)]).astype(np.float32)
    wrong = right * np.array([[1], [1.1]], np.float32)
    (found,) = differences({"y": right}, {"y": wrong}, TIGHT)
    assert not found.ok and "index 1 of axis 0" in found.why
    assert differences({"y": right}, {"y": right * np.float32(1 + 1e-6)}, TIGHT)[0].ok


def test_a_fault_that_hides_when_all_values_are_looked_at_is_found_by_bisection():
    names = [f"v{i}" for i in range(20)]
    expected = {name: np.ones(3, np.float32) for name in names}
    looks = []

    def expose(wanted):
        looks.append(len(wanted))
        hidden = len(wanted) > 1
        return {n: np.full(3, 1.0 if hidden or int(n[1:]) < 13 else 2.0, np.float32) for n in wanted}

    name, got = first_divergence(names, expected, expose, TIGHT)
    assert name == "v13" and got["v13"][0] == 2.0
    assert len(looks) < 8


@pytest.mark.parametrize(
    ("got", "why"),
    [
        (np.zeros((2, 2), np.float32), "shape"),
        (np.zeros(3, np.float64), "float64 instead of float32"),
        (np.array([0, np.nan, 0], np.float32), "not finite on one side"),
        (None, "missing"),
    ],
)
def test_what_cannot_be_compared_differs_and_says_why(got, why):
    (found,) = differences({"y": np.zeros(3, np.float32)}, {} if got is None else {"y": got}, TIGHT)
    assert not found.ok and why in found.why and found.max_abs is None


def test_nan_and_infinity_agree_with_themselves():
    same = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    (found,) = differences({"y": same}, {"y": same.copy()}, TIGHT)
    assert found.ok and found.max_abs == 0 and found.scale == 1


def test_tolerance_is_relative_to_the_largest_magnitude():
    expected = np.array([1000.0, 1.0], np.float32)
    near, far = expected + np.float32(5e-3), expected + np.float32(2e-2)
    assert differences({"y": expected}, {"y": near}, TIGHT)[0].ok
    assert not differences({"y": expected}, {"y": far}, TIGHT)[0].ok


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, object])
def test_integers_booleans_and_text_must_be_equal(dtype):
    expected = np.array([0, 1, 1]).astype(dtype)
    other = np.array([0, 1, 0]).astype(dtype)
    assert differences({"y": expected}, {"y": expected.copy()}, TIGHT)[0].ok
    (found,) = differences({"y": expected}, {"y": other}, TIGHT)
    assert not found.ok and found.max_abs == 1 and "1 elements" in found.why


def test_the_verdict_survives_json():
    verdict = verify(chain("Abs", "Exp"), chain("Abs", "Sqrt"), REFERENCE, CASES)
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert Equivalence.from_json(json.loads(text)) == verdict
    assert json.loads(text)["ok"] is False


def test_half_precision_is_allowed_its_own_roundings():
    one = np.ones(3, np.float16)
    assert differences({"y": one}, {"y": one + np.float16(0.002)}, TIGHT)[0].ok
    assert not differences({"y": one}, {"y": one + np.float16(0.02)}, TIGHT)[0].ok


def positions(operator="ArgMax", keepdims=1):
    """x (batch, 4) -> the position of its largest element, squeezed and cast."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = [ir.node(operator, [x], {"axis": -1, "keepdims": keepdims}, name="n0")]
    nodes.append(ir.node("Flatten" if keepdims else "Identity", [nodes[0].outputs[0]], name="n1"))
    nodes.append(ir.node("Cast", [nodes[1].outputs[0]], {"to": ir.DataType.INT32}, name="n2"))
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"v{index}"
    y = nodes[-1].outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.INT32)
    y.shape = ir.Shape(["batch", 1] if keepdims else ["batch"])
    graph = ir.Graph([x], [y], nodes=nodes, opset_imports={"": 18}, name="positions")
    program = ir.Model(graph, ir_version=10)
    return Model(program, signature_of(program))


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("answer", "tied"),
    [([2, 0], True), ([1, 0], True), ([3, 0], False), ([0, 0], False), ([4, 0], False), ([-1, 0], False)],
)
def test_another_position_is_right_where_its_element_is_as_large(operator, keepdims, answer, tied):
    x = np.array([[0.5, 2.0, 2.0 + 1e-6, 1.999], [9.0, 1.0, 1.0, 1.0]], np.float32)
    x = -x if operator == "ArgMin" else x
    got = np.array(answer, np.int32).reshape((2, 1) if keepdims else (2,))
    reference = Reference(positions(operator, keepdims))
    assert are_ties(reference, {"x": x}, "y", got, TIGHT) == tied


def test_other_whole_numbers_have_no_ties():
    reference = Reference(positions())
    x = {"x": np.ones((1, 4), np.float32)}
    assert are_ties(reference, x, "y", np.array([[3]], np.int32), TIGHT)
    assert not are_ties(reference, x, "y", np.array([[3], [3]], np.int32), TIGHT)
    assert not are_ties(reference, x, "x", np.array([[3]], np.int32), TIGHT)


@pytest.mark.parametrize(("shift", "ok"), [(1, True), (5, False)])
def test_ties_pass_and_are_told(monkeypatch, shift, ok):
    class Shifted:
        def __init__(self, model):
            self.reference = Reference(model)

        def run(self, inputs):
            return {name: array + np.int32(shift) for name, array in self.reference.run(inputs).items()}

        def close(self):
            pass

    monkeypatch.setattr(equivalence, "prepare", lambda model, *_, **__: Shifted(model))
    model = positions()
    flat = tuple(replace(s, values=Values(1.0, 1.0, (1.0,))) for s in model.signature.inputs)
    model = replace(model, signature=replace(model.signature, inputs=flat))  # every element is 1
    verdict = verify(model, model, REFERENCE, CASES)
    assert verdict.ok == ok
    assert ("ties" in verdict.outputs[0].why) == ok
