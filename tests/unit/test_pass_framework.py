"""The framework keeps its promises whoever writes the passes."""

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from raceline.convert import Rewrite, optimise, rewrite
from raceline.convert.example import model_from_text
from raceline.convert.graph import PROBES, Match, constant, is_op
from raceline.core.errors import ConfigError, InvariantError, UnknownNameError
from raceline.ir import Model, run_reference
from raceline.ir.axes import signature_of

RELU = "(float[N,4] x) => (float[N,4] y) { t = Exp(x) y = Relu(t) }"


def a_model(body=RELU, **weights):
    return model_from_text(f'<ir_version: 8, opset_import: ["": 17]> main {body}', **weights)


def author(rewrite, op="Relu", check=lambda match, scope: ""):
    """A pass that does what it is told to each node of one operator."""
    return SimpleNamespace(
        description="for this test",
        after=(),
        tolerance=0.0,
        pattern=lambda node, scope: Match((node,)) if is_op(node, op) else None,
        check=check,
        rewrite=rewrite,
    )


@pytest.fixture
def only(monkeypatch):
    """Make the framework see these passes and no others."""

    def install(**authors):
        monkeypatch.setattr(rewrite, "load", authors.__getitem__)
        monkeypatch.setattr(rewrite, "_waves", lambda: [sorted(authors)])

    return install


def test_order_follows_what_passes_declare():
    assert rewrite.waves({"c": ("a",), "b": ("a",), "a": (), "d": ("b", "c")}) == [["a"], ["b", "c"], ["d"]]


def test_a_pass_that_waits_for_a_stranger_is_told_so():
    with pytest.raises(UnknownNameError, match="'nobody'"):
        rewrite.waves({"a": ("nobody",)})


def test_passes_that_wait_for_each_other_are_told_so():
    with pytest.raises(ConfigError, match="a -> b -> a|b -> a -> b"):
        rewrite.waves({"a": ("b",), "b": ("a",)})


def test_an_unknown_pass_is_refused():
    with pytest.raises(UnknownNameError, match="fold_constants"):
        optimise(a_model(), passes=["fold_constant"])


def test_passes_that_undo_each_other_are_stopped(only):
    def swap(match, scope):
        output = scope.add_node(
            "Relu" if match.nodes[0].op_type == "Abs" else "Abs", match.nodes[0].inputs, match.nodes[0]
        )
        scope.replace(match.result, output)
        scope.remove(match.nodes)
        return "back and forth"

    only(there=author(swap, "Relu"), back=author(swap, "Abs"))
    with pytest.raises(InvariantError, match="never settle"):
        optimise(a_model())


def rename_an_output(match, scope):
    match.result.name = "other"
    return "broken"


def forget_the_producer(match, scope):
    node = ir.node("Relu", [ir.val("from_nowhere")], name="odd")
    scope.graph.insert_before(match.nodes[0], node)
    return "broken"


def use_before_it_is_computed(match, scope):
    first = next(iter(scope.graph))
    first.replace_input_with(0, match.result)
    return "broken"


def name_two_alike(match, scope):
    copy = ir.node("Exp", match.nodes[0].inputs, name="copy")
    copy.outputs[0].name = "t"
    scope.graph.insert_before(match.nodes[0], copy)
    return "broken"


def call_what_is_not_there(match, scope):
    call = ir.Node("raceline", "Nothing", match.nodes[0].inputs, name="call")
    scope.graph.insert_before(match.nodes[0], call)
    return "broken"


def change_a_type(match, scope):
    match.result.type = ir.TensorType(ir.DataType.INT64)
    return "broken"


@pytest.mark.parametrize(
    ("vandal", "told"),
    [
        (rename_an_output, "outputs were"),
        (change_a_type, "outputs were"),
        (forget_the_producer, "'from_nowhere', which nothing before it computes"),
        (use_before_it_is_computed, "'y', which nothing before it computes"),
        (name_two_alike, "two values are named 't'"),
        (call_what_is_not_there, "'Nothing', which the model does not define"),
    ],
)
def test_an_author_who_breaks_the_graph_is_named(only, vandal, told):
    only(vandal=author(vandal))
    with pytest.raises(InvariantError, match="pass 'vandal' broke the graph") as caught:
        optimise(a_model())
    assert told in str(caught.value)


def test_refusals_are_those_that_stand_at_the_end(only):
    seen = []
    only(shy=author(None, check=lambda match, scope: seen.append(match) or "not today"))
    report = optimise(a_model())[1]
    assert [str(item) for item in report] == ["shy left Relu 'Relu_1': not today"]


def test_a_weight_that_a_caller_may_override_is_no_constant():
    model = a_model("(float[N,4] x, float[4] w) => (float[N,4] y) { t = Neg(w) y = Add(x, t) }", w=(4,))
    graph = model.program.graph
    graph.inputs.append(graph.initializers["w"])
    assert constant(graph.initializers["w"]) is None
    assert not [item for item in optimise(model)[1] if isinstance(item, Rewrite)]


def test_equal_bodies_are_one_function_and_others_are_numbered():
    body = (
        "(float[1,4,9,9] x, float[4,4,3,3] a, float[4] b, float[4,4,3,3] c, float[4] d, float[4,4,3,3] e) => "
        "(float[1,4,2,2] y) { p = Conv(x, a, b) q = Relu(p) r = Conv<strides = [2, 2]>(q, c, d) s = Relu(r) "
        "t = Conv<pads = [0,0,1,1]>(s, e) y = Relu(t) }"
    )
    result, _ = optimise(a_model(body, a=(4, 4, 3, 3), b=(4,), c=(4, 4, 3, 3), d=(4,), e=(4, 4, 3, 3)))
    assert [node.op_type for node in result.program.graph] == ["ConvRelu", "ConvRelu", "ConvRelu_2"]
    first, second, third = result.program.graph
    assert list(first.attributes["strides"].value) == [1, 1]  # spelt out, so that both look alike
    assert list(second.attributes["strides"].value) == [2, 2]
    assert [len(node.inputs) for node in (first, second, third)] == [3, 3, 2]
    functions = {function.name: function for function in result.program.functions.values()}
    assert set(functions) == {"ConvRelu", "ConvRelu_2"}
    assert [value.name for value in functions["ConvRelu"].inputs] == ["x", "weight", "bias"]
    assert [node.op_type for node in functions["ConvRelu"]] == ["Conv", "Relu"]
    assert functions["ConvRelu"].opset_imports == {"": 17}


def test_nested_fusions_leave_one_flat_function():
    gated = "c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s)"
    body = f"(float[1,4,9,9] x, float[4,4,3,3] w) => (float[1,4,7,7] y) {{ {gated} }}"
    result, _ = optimise(a_model(body, w=(4, 4, 3, 3)))
    (function,) = result.program.functions.values()
    assert function.name == "ConvSilu" and [node.op_type for node in function] == ["Conv", "Sigmoid", "Mul"]


def test_dynamic_axes_stay_open():
    body = (
        "(float[N,3,H,W] x, float[4,3,3,3] w, int64[1] rest) => (float[N,M] y) { c = Conv<pads = "
        "[1,1,1,1]>(x, w) "
        "r = Relu(c) s = Shape<end = 1>(r) t = Concat<axis = 0>(s, rest) y = Reshape(r, t) }"
    )
    model = a_model(body, w=(4, 3, 3, 3), rest=np.array([-1]))
    result, report = optimise(model)
    assert (
        any("more than one of its dimensions" in item.reason for item in report)
        or len(result.program.graph) == 2
    )
    for shape in ((1, 3, 4, 4), (3, 3, 5, 7)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        before, after = run_reference(model, {"x": x}), run_reference(result, {"x": x})
        np.testing.assert_array_equal(after["y"], before["y"])
    assert not any(PROBES in value.meta for node in result.program.graph for value in node.outputs)


BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
main (float[4] x, bool c, float[4] w) => (float[4] y) {
    k = Exp(w)
    a = Abs(x)
    y = If (c) <
        then_branch = left () => (float[4] l) { s = Sigmoid(a) m = Mul(a, s) i = Identity(m) l = Add(i, k) },
        else_branch = right () => (float[4] r) { r = Identity(a) }
    >
}"""


def test_branches_are_optimised_in_place():
    model = model_from_text(BRANCHES, w=(4,))
    result, report = optimise(model)
    inside = [node.op_type for graph in result.program.graph.subgraphs() for node in graph]
    assert inside == ["Silu", "Add", "Identity"]
    assert [node.op_type for node in result.program.graph] == ["Abs", "If"]
    assert any("belongs to an enclosing graph" in item.reason for item in report)
    for choice in (True, False):
        inputs = {"x": np.array([1, -2, 3, -4], np.float32), "c": np.array(choice)}
        np.testing.assert_array_equal(run_reference(result, inputs)["y"], run_reference(model, inputs)["y"])


def test_nodes_without_names_get_some():
    result, _ = optimise(a_model(), passes=[])
    assert [node.name for node in result.program.graph] == ["Exp_0", "Relu_1"]


def test_progress_names_the_passes_at_work():
    class Watch:
        def __init__(self):
            self.notes = []

        def step(self, name, total=None):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, amount=1.0, note=""):
            self.notes.append(note)

    watch = Watch()
    optimise(a_model(), progress=watch)
    assert ", ".join(watch.notes).split(", ") == rewrite.names()


def test_a_report_of_many_nodes_is_short():
    item = Rewrite("some_pass", tuple(f"Constant 'c{n}'" for n in range(100)), (), "they go")
    assert str(item).endswith("'c11' and 88 more: they go")


def test_an_empty_graph_is_left_alone():
    value = ir.val("x", ir.DataType.FLOAT, (2,))
    program = ir.Model(ir.Graph([value], [value], nodes=[], opset_imports={"": 17}, name="g"), ir_version=8)
    assert optimise(Model(program, signature_of(program)))[1] == []


def test_a_chain_of_hundreds_settles():
    lines = "".join(f"a{i + 1} = Relu(a{i}) " for i in range(500))
    model = model_from_text(
        f'<ir_version: 8, opset_import: ["": 17]> main (float[N, 4] a0) => (float[N, 4] a500) {{ {lines} }}'
    )
    result, _ = optimise(model)
    assert len(list(result.program.graph)) == -(-500 // 16)
