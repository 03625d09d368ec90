"""A model cut anywhere and run part by part computes what it computes whole."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raceline.convert.example import model_from_text
from raceline.core.errors import BadModelError
from raceline.ir import make_inputs, run_reference
from raceline.ir.segments import Segments

HEAD = """<ir_version: 10, opset_import: ["": 17, "raceline": 1]>
    main (float[N, 4] x, float[N, 4] z, bool more, float[4, 4] w, float[4] b) => ({outputs}) {{ {body} }}
    <opset_import: ["": 17], domain: "raceline"> Twice (A) => (B) {{ B = Add(A, A) }}"""
STEPS = (
    "{out} = MatMul({a}, w)",
    "{out} = Add({a}, {b})",
    "{out} = Relu({a})",
    "{out} = raceline.Twice({a})",
    "{out}_k = Constant <value_float = 0.5> () {out} = Mul({a}, {out}_k)",
    "{out}_c = Sqrt(b) {out}_s = Abs({out}_c) {out} = Sub({a}, {out}_s)",
    "{out}_l, {out}_r = Split <axis = 1> ({a}) {out} = Concat <axis = 1> ({out}_r, {out}_l)",
    "{out}_n = Shape({a}) {out} = Reshape({b}, {out}_n)",
    "{out} = If (more) <then_branch = t () => (float[N, 4] {out}_t) {{ {out}_t = Mul({a}, {b}) }},"
    " else_branch = e () => (float[N, 4] {out}_e) {{ {out}_i = Neg({b}) {out}_e = MatMul({out}_i, w) }}>",
)


@st.composite
def graphs(draw):
    """Random graphs with connections that skip, several outputs, constants, calls and branches that capture."""
    values, lines = ["x", "z"], []
    for number in range(draw(st.integers(2, 9))):
        step = draw(st.sampled_from(STEPS))
        a, b = values[-1], draw(st.sampled_from(values))
        lines.append(step.format(out=f"v{number}", a=a, b=b))
        values.append(f"v{number}")
    inner = draw(st.lists(st.sampled_from(values[2:]), unique=True, max_size=2))
    outputs = ", ".join(f"float[N, 4] {name}" for name in dict.fromkeys([values[-1], *inner]))
    return model_from_text(
        HEAD.format(outputs=outputs, body=" ".join(lines)),
        w=(4, 4), b=np.float32([1, 2, 0.5, 3]),
    )  # fmt: skip


def run_parts(model, places, inputs, shapes):
    segments = Segments(model, shapes)
    values = dict(inputs)
    ends = [0, *places, segments.size]
    for start, stop in zip(ends, ends[1:], strict=False):
        part = segments.part(start, stop)
        names = [spec.name for spec in part.signature.inputs]
        assert set(names) == {value.name for value in part.program.graph.inputs}
        given = {name: values[name] for name in names}
        values |= run_reference(part, given)
    return {spec.name: values[spec.name] for spec in model.signature.outputs}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=graphs(), data=st.data())
def test_any_set_of_parts_gives_what_the_whole_gives(model, data):
    fixed = data.draw(st.booleans())
    shapes = {"x": (3, 4), "z": (3, 4), "more": ()}
    cuts = Segments(model, shapes if fixed else None).cuts(most_live=3)
    places = sorted({cut.place for cut in cuts if data.draw(st.booleans())})
    inputs = make_inputs(model.signature, shapes, seed=1)
    expected = run_reference(model, inputs)
    found = run_parts(model, places, inputs, shapes if fixed else None)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def skipping():
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, float[4, 4] w, int64[1] axis) => (float[N, 2] y, float[N, 4] early) {
            early = Relu(x) h = MatMul(early, w) s = Sigmoid(h) m = Mul(h, s) a = Add(m, early)
            two = Constant <value_ints = [0, -1, 2]> () r = Reshape(a, two)
            t = ReduceSum <keepdims = 0> (r, axis) y = Identity(t)
        }""",
        w=(4, 4),
        axis=np.array([1]),
    )


def test_cuts_are_where_few_tensors_cross():
    model = skipping()
    one = [cut.after for cut in Segments(model).cuts(most_live=1)]
    two = {cut.after: [spec.name for spec in cut.live] for cut in Segments(model).cuts(most_live=2)}
    assert one == ["early", "a", "two", "r", "t"]
    assert two["h"] == ["early", "h"] and two["m"] == ["early", "m"] and "s" not in two
    assert two["two"] == ["a"]  # a constant crosses nothing: each part has its own
    assert [spec.shape for spec in Segments(model, {"x": (3, 4)}).cuts()[0].live] == [(3, 4)]
    assert Segments(model, {"x": (3, 4)}).cuts()[0].live_bytes == 48


def test_a_part_takes_only_the_inputs_that_it_reads_and_shares_weights():
    model = skipping()
    segments = Segments(model)
    place = segments.place_after("a")
    head, tail = segments.part(0, place), segments.part(place, segments.size)
    assert [spec.name for spec in head.signature.inputs] == ["x"]
    assert [spec.name for spec in head.signature.outputs] == ["a", "early"]
    assert [spec.name for spec in tail.signature.inputs] == ["a"]
    assert [spec.name for spec in tail.signature.outputs] == ["y"]
    whole = model.program.graph.initializers["w"].const_value
    assert head.program.graph.initializers["w"].const_value is whole
    assert "w" not in tail.program.graph.initializers


def test_random_numbers_are_drawn_once():
    """A node that gives other values each time is no constant, though it reads none but constants."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) {
            noise = RandomNormal <shape = [2]> () a = Add(x, noise) b = Relu(a) y = Sub(b, noise) }"""
    )
    cut = next(cut for cut in Segments(model).cuts() if cut.after == "b")
    assert [spec.name for spec in cut.live] == ["noise", "b"]


def test_a_place_that_is_not_there_and_a_type_that_nobody_knows():
    model = skipping()
    with pytest.raises(BadModelError, match="nothing"):
        Segments(model).place_after("nothing")
    odd = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]> main (float[N] x, float[M] k) => (float[K] y) {
            p = NonZero(x) q = Squeeze(p) r = Cast <to = 1> (q) y = Relu(r) }"""
    )
    fixed = Segments(odd, {"x": (4,), "k": (2,)})
    assert "p" not in [cut.after for cut in fixed.cuts()]  # only a run tells its shape
    with pytest.raises(BadModelError, match="type is not known"):
        fixed.part(0, 1)


def test_outputs_that_no_node_writes_come_from_the_last_part():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[2] x, float[2] w) => (float[2] y, float[2] k) { a = Relu(x) y = Add(a, w) k = Identity(w) }""",
        w=(2,),
    )
    model.program.graph.outputs[1] = model.program.graph.initializers["w"]
    model.program.graph.remove(list(model.program.graph)[-1])
    assert isinstance(model.program.graph.outputs[1], ir.Value)
    segments = Segments(model)
    assert [spec.name for spec in segments.part(0, 1).signature.outputs] == ["a"]
    tail = segments.part(1, segments.size)
    assert [value.name for value in tail.program.graph.outputs] == ["y", "w"]
