"""Symmetric int8: what is rewritten keeps every bit; what cannot be had is listed, node by node."""

import numpy as np
import pytest

from raceline.convert.example import model_from_text
from raceline.convert.symmetric_qdq import fixed, symmetric
from raceline.core.errors import BadModelError, ShapeError, UnsupportedOperatorError
from raceline.ir import check, make_inputs, run_reference

F, U8, I8, I32 = np.float32, np.uint8, np.int8, np.int32
HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> net '


def build(text, **weights):
    return model_from_text(HEAD + text, **weights)


def assert_same_bits(model, other, sizes=None):
    sizes = sizes or dict.fromkeys(model.signature.dynamic_axes, 3)
    for seed in range(4):
        inputs = make_inputs(model.signature, model.signature.concrete(sizes), seed=seed)
        before, after = run_reference(model, inputs), run_reference(other, inputs)
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array)


def types(model):
    """Element types of all zero points and of what is quantised."""
    found = set()
    for node in model.program.graph:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
            found.add(None if zero is None else (zero.dtype.name, bool(np.any(zero.numpy()))))
    return found


CONV = """(float[n, 2, 6] x, {w} w, {s} sw, {z} zw, float sx, {zx} zx, int32[3] b, float[3] sb)
=> (float[n, 3, 4] y) {{
  q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx)
  v = DequantizeLinear<axis = {axis}>(w, sw, zw) c = DequantizeLinear<axis = 0>(b, sb)
  y = Conv(d, v, c) }}"""


def conv(weight, zero, activation_zero, *, axis=0, channels=3):
    rng = np.random.default_rng(0)
    kinds = {np.dtype(U8): "uint8", np.dtype(I8): "int8"}
    text = CONV.format(
        w=f"{kinds[weight.dtype]}[3, 2, 3]", s=f"float[{channels}]", z=f"{kinds[zero.dtype]}[{channels}]",
        zx=kinds[activation_zero.dtype], axis=axis,
    )  # fmt: skip
    return build(
        text, w=weight, sw=rng.uniform(0.01, 0.1, channels).astype(F), zw=zero, sx=np.array(0.05, F),
        zx=activation_zero, b=rng.integers(-900, 900, 3).astype(I32), sb=np.array([0.01, 0.02, 0.03], F),
    )  # fmt: skip


def whole(dtype, low, high):
    return np.random.default_rng(1).integers(low, high, (3, 2, 3)).astype(dtype)


@pytest.mark.parametrize(
    ("model", "types_then"),
    [
        (conv(whole(U8, 0, 256), np.full(3, 128, U8), np.array(128, U8)), {("INT8", False)}),
        (conv(whole(U8, 60, 140), np.array([60, 70, 80], U8), np.array(128, U8)), {("INT8", False)}),
        (conv(whole(I8, -100, 20), np.array([3, -7, 0], I8), np.array(0, I8)), {("INT8", False)}),
        (conv(whole(I8, -128, 128), np.zeros(3, I8), np.array(0, I8)), {("INT8", False)}),
    ],
    ids=["uint8", "uint8_asymmetric_weights", "int8_asymmetric_weights", "int8"],
)
def test_what_can_be_is_rewritten_bit_by_bit(model, types_then):
    made = symmetric(model)
    check(made)
    assert types(made) == types_then
    assert_same_bits(model, made)
    assert not any("INT32" in str(v.dtype) for v in made.program.graph.initializers.values())


def test_a_symmetric_model_stays_as_it_is():
    model = build(
        """(float[n, 3] x, float s, int8 z) => (float[n, 3] y) {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
        s=np.array(0.1, F), z=np.array(0, I8),
    )  # fmt: skip
    made = symmetric(model)
    assert made.provenance.steps == model.provenance.steps
    assert_same_bits(model, made)


S, Z128, Z7 = np.array(0.1, F), np.array(128, U8), np.array(7, U8)
PLAIN = """(float[n, 3] x, float s, {} z) => (float[n, 3] y) {{
  [q] q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }}"""
REFUSED = {
    "asymmetric activation": (
        PLAIN.format("uint8"),
        {"s": S, "z": Z7}, r"uint8 with zero point 7 is not symmetric \(q\)"),
    "no zero point is uint8": (
        "(float[n, 3] x, float s) => (float[n, 3] y) { [q] q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }",
        {"s": S}, r"uint8 with zero point 0 is not symmetric \(q\)"),
    "int16": (
        PLAIN.format("int16"),
        {"s": S, "z": np.array(0, np.int16)}, r"int16 with zero point 0"),
    "whole numbers computed with": (
        """(float[n, 3] x, float s, uint8 z) => (float[n, 3] y) {
        [q] q = QuantizeLinear(x, s, z) r = Max(q, q) y = DequantizeLinear(r, s, z) }""",
        {"s": S, "z": Z128}, r"Max reads its whole numbers"),
    "whole numbers given out": (
        "(float[n, 3] x, float s, int8 z) => (int8[n, 3] y) { [q] y = QuantizeLinear(x, s, z) }",
        {"s": S, "z": np.array(0, I8)}, r"an output of the model reads its whole numbers"),
    "zero points that differ": (
        """(float[n, 3] x, float s, uint8 z, uint8 t) => (float[n, 3] y) {
        q = QuantizeLinear(x, s, z) [d] y = DequantizeLinear(q, s, t) }""",
        {"s": S, "z": Z128, "t": Z7}, r"zero point 7 is not that of the QuantizeLinear it reads \(d\)"),
    "whole-numbered operator": (
        """(uint8[n, 3] x, uint8[3, 2] w) => (int32[n, 2] y) { [m] y = MatMulInteger(x, w) }""",
        {"w": np.ones((3, 2), U8)}, r"MatMulInteger: it computes with whole numbers.*\(m\)"),
    "contributed operator": (
        """(float[n, 3] x, float s, int8 z) => (float[n, 3] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) [g] y = com.microsoft.QuickGelu(d) }""",
        {"s": S, "z": np.array(0, I8)}, r"QuickGelu: the domain com.microsoft .*\(g\)"),
    "computed scale": (
        """(float[n, 3] x, float[1] t, int8 z) => (float[n, 3] y) {
        a = Constant<value_ints = [0, 1]>() m = ReduceMax<keepdims = 0>(x, a)
        [q] q = QuantizeLinear(x, m, z) y = DequantizeLinear(q, m, z) }""",
        {"t": np.ones(1, F), "z": np.array(0, I8)}, r"computed, not constant \(q"),
    "scale of zero": (
        PLAIN.format("int8"),
        {"s": np.array(0, F), "z": np.array(0, I8)}, r"a scale is not above zero \(q"),
    "scale that is no number": (
        PLAIN.format("int8"),
        {"s": np.array(np.nan, F), "z": np.array(0, I8)}, r"a scale is not above zero"),
    "an activation per channel": (
        """(float[n, 3] x, float[3] s, int8[3] z) => (float[n, 3] y) {
        [q] q = QuantizeLinear<axis = 1>(x, s, z) [d] y = DequantizeLinear<axis = 1>(q, s, z) }""",
        {"s": np.ones(3, F), "z": np.zeros(3, I8)}, r"an activation has one scale for each channel \(q\)"),
    "weights per input channel": (
        """(float[n, 3] x, int8[3, 2] w, float[3] s) => (float[n, 2] y) {
        [d] v = DequantizeLinear<axis = 0>(w, s) y = MatMul(x, v) }""",
        {"w": np.ones((3, 2), I8), "s": np.ones(3, F)}, r"axis 0, and .* of MatMul are axis 1 \(d\)"),
    "weights in blocks": (
        """(float[n, 4] x, int8[4, 2] w, float[2, 2] s) => (float[n, 2] y) {
        [d] v = DequantizeLinear<axis = 0, block_size = 2>(w, s) y = MatMul(x, v) }""",
        {"w": np.ones((4, 2), I8), "s": np.ones((2, 2), F)}, r"it quantises in blocks \(d\)"),
    "weights too far from their zero point": (
        """(float[n, 3] x, uint8[3, 2] w, float s, uint8 z) => (float[n, 2] y) {
        [d] v = DequantizeLinear(w, s, z) y = MatMul(x, v) }""",
        {"w": np.array([[0, 255], [1, 2], [3, 4]], U8), "s": S, "z": Z7}, r"weights reach -7 to 248"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_and_named(name):
    text, weights, told = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError, match=told):
        symmetric(build(text, **weights))


def test_all_refusals_come_at_once():
    model = build(
        """(float[n, 3] x, float s, uint8 z, uint8 t) => (float[n, 3] y, float[n, 3] w) {
        [one] q = QuantizeLinear(x, s, z) [two] y = DequantizeLinear(q, s, z)
        [three] r = QuantizeLinear(x, s, t) [four] w = DequantizeLinear(r, s, t) }""",
        s=S, z=Z7, t=np.array(9, U8),
    )  # fmt: skip
    with pytest.raises(UnsupportedOperatorError, match="one.*three"):
        symmetric(model)


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_gemm_follows_its_own_output_axis(transposed, axis):
    model = build(
        f"""(float[n, 3] x, int8[3, 3] w, float[3] s) => (float[n, 3] y) {{
        v = DequantizeLinear<axis = {axis}>(w, s) y = Gemm<transB = {transposed}>(x, v) }}""",
        w=np.arange(9, dtype=I8).reshape(3, 3), s=np.array([1, 2, 3], F),
    )  # fmt: skip
    assert_same_bits(model, symmetric(model))


def test_a_model_without_quantisation_is_told():
    with pytest.raises(BadModelError, match="not quantised"):
        symmetric(build("(float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"))


RESHAPED = """(float[n, 2, w] x, float s, int8 z) => (float[n, m] y) {
  q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
  shape = Shape(x) zero = Constant<value_ints = [0]>() n = Gather(shape, zero)
  rest = Constant<value_ints = [-1]>() to = Concat<axis = 0>(n, rest) y = Reshape(d, to) }"""


def test_axes_are_fixed_and_what_depends_on_them_is_computed():
    model = build(RESHAPED, s=S, z=np.array(0, I8))
    made = fixed(symmetric(model), {"n": 2, "w": 5})
    assert made.signature.dynamic_axes == ()
    assert [spec.shape for spec in (*made.signature.inputs, *made.signature.outputs)] == [(2, 2, 5), (2, 10)]
    assert {node.op_type for node in made.program.graph} == {"QuantizeLinear", "DequantizeLinear", "Reshape"}
    check(made)
    assert_same_bits(model, made, {"n": 2, "w": 5})


def test_an_axis_without_a_size_is_told():
    with pytest.raises(ShapeError, match="'w'"):
        fixed(build(RESHAPED, s=S, z=np.array(0, I8)), {"n": 2})


def test_shapes_that_depend_on_values_cannot_be_fixed():
    model = build(
        """(float[n] x, float s, int8 z) => (int64[1, m] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = NonZero(d) }""",
        s=S, z=np.array(0, I8),
    )  # fmt: skip
    with pytest.raises(BadModelError, match="depend on what the model computes"):
        fixed(model, {"n": 4})
