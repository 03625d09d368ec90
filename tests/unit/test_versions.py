"""Opsets: every way up and down keeps the numbers, by ONNX Runtime on both sides; what has no way is listed."""

import numpy as np
import onnx
import onnxruntime
import pytest

from raceline.convert.example import model_from_text
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import make_inputs, to_proto

# name, opset, text of inputs -> outputs and body, weights, opsets to go to
HALF = np.array([1.5, 0.5], np.float32)
ZOOM = np.array([1, 1, 1.5, 2], np.float32)
CASES = {
    "reduce_axes": (21, """(float[n, 3, 4] x, int64[2] a) => (float[n] y) {
                    y = ReduceMean<keepdims = 0>(x, a) }""", {"a": np.array([1, 2])}, (13, 17, 24)),
    "reduce_sum": (21, "(float[n, 3] x, int64[1] a) => (float[n, 1] y) { y = ReduceSum(x, a) }",
                   {"a": np.array([1])}, (11, 17)),
    "squeeze": (21, "(float[n, 1, 3] x, int64[1] a) => (float[n, 3] y) { y = Squeeze(x, a) }",
                {"a": np.array([1])}, (11, 13, 24)),
    "unsqueeze": (11, "(float[n, 3] x) => (float[n, 1, 3] y) { y = Unsqueeze<axes = [1]>(x) }", {}, (13, 21)),
    "add": (21, "(float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }", {}, (13, 24)),
    "identity": (21, "(float[n, 3] x) => (float[n, 3] y) { z = Relu(x) y = Identity(z) }", {}, (13, 24)),
    "softmax_old": (11, "(float[n, 3, 4] x) => (float[n, 3, 4] y) { y = Softmax<axis = 1>(x) }", {}, (13, 21)),
    "softmax_default": (11, "(float[n, 3, 4] x) => (float[n, 3, 4] y) { y = Softmax(x) }", {}, (13, 21)),
    "softmax_new": (21, "(float[n, 4] x) => (float[n, 4] y) { y = Softmax<axis = -1>(x) }", {}, (11, 24)),
    "log_softmax": (11, """(float[n, 3, 4] x) => (float[n, 3, 4] y) {
                    y = LogSoftmax<axis = 1>(x) }""", {}, (13, 21)),
    "upsample": (9, "(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 6, 8] y) { y = Upsample(x, s) }",
                 {"s": ZOOM}, (13, 21)),
    "upsample_linear": (9, """(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 6, 8] y) {
                        y = Upsample<mode = "linear">(x, s) }""", {"s": ZOOM}, (10, 11, 13, 21)),
    "resize_old": (10, """(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 6, 8] y) {
                   y = Resize<mode = "linear">(x, s) }""", {"s": ZOOM}, (11, 13, 21)),
    "resize_old_nearest": (10, "(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 6, 8] y) { y = Resize(x, s) }",
                           {"s": ZOOM}, (11, 13, 21)),
    "resize": (17, """(float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 6, 8] y) {
               y = Resize<mode = "linear">(x, , s) }""", {"s": ZOOM}, (13, 21)),
    "batch_norm": (17, """(float[n, 2, 3] x, float[2] a, float[2] b, float[2] c, float[2] d) => (float[n, 2, 3] y)
                   { y = BatchNormalization(x, a, b, c, d) }""", dict.fromkeys("abcd", HALF), (13, 9, 21)),
    "batch_norm_old": (7, """(float[n, 2, 3] x, float[2] a, float[2] b, float[2] c, float[2] d)
                       => (float[n, 2, 3] y) { y = BatchNormalization(x, a, b, c, d) }""",
                       dict.fromkeys("abcd", HALF), (13, 21)),
    "clip_old": (7, "(float[n, 3] x) => (float[n, 3] y) { y = Clip<min = -0.5, max = 0.5>(x) }", {}, (13, 21)),
    "dropout": (9, "(float[n, 3] x) => (float[n, 3] y) { y = Dropout<ratio = 0.5>(x) }", {}, (13, 21)),
    "slice_old": (9, """(float[n, 5] x) => (float[n, 2] y) {
                  y = Slice<starts = [1], ends = [3], axes = [1]>(x) }""", {}, (13, 21)),
    "pad_old": (9, """(float[n, 3] x) => (float[n, 5] y) {
                y = Pad<pads = [0, 1, 0, 1], value = 2.0>(x) }""", {}, (13, 21)),
    "shape": (17, "(float[n, 3] x) => (int64[2] y) { y = Shape(x) }", {}, (13, 21)),
    "reshape": (21, "(float[n, 4] x, int64[3] s) => (float[n, 2, 2] y) { y = Reshape(x, s) }",
                {"s": np.array([0, 2, 2])}, (13, 24)),
    "layer_norm": (17, "(float[n, 4] x, float[4] s) => (float[n, 4] y) { y = LayerNormalization(x, s) }",
                   {"s": np.array([1, 2, 3, 4], np.float32)}, (16, 13, 21)),
    "gelu": (20, "(float[n, 4] x) => (float[n, 4] y) { y = Gelu(x) }", {}, (17, 13, 24)),
    "gelu_tanh": (20, '(float[n, 4] x) => (float[n, 4] y) { y = Gelu<approximate = "tanh">(x) }', {}, (17,)),
    "hard_swish": (17, "(float[n, 4] x) => (float[n, 4] y) { y = HardSwish(x) }", {}, (13, 21)),
    "mish": (18, "(float[n, 4] x) => (float[n, 4] y) { y = Mish(x) }", {}, (17, 13)),
    "quantise": (21, """(float[n, 3] x, float s, int8 z) => (float[n, 3] y) {
                 q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
                 {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}, (13, 19, 24)),
    "cast": (21, "(float[n, 3] x) => (int64[n, 3] y) { y = Cast<to = 7>(x) }", {}, (13, 24)),
    "conv": (22, "(float[1, 1, 5] x, float[2, 1, 3] w) => (float[1, 2, 3] y) { y = Conv(x, w) }",
             {"w": np.arange(6, dtype=np.float32).reshape(2, 1, 3)}, (11, 13, 21)),
    "grid_sample": (16, """(float[1, 1, 3, 3] x, float[1, 2, 2, 2] g) => (float[1, 1, 2, 2] y) {
                    y = GridSample<mode = "bilinear">(x, g) }""",
                    {"g": np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 2, 2, 2)}, (20, 21)),
    "if": (21, """(float[3] x, bool c) => (float[3] y) {
           y = If(c) <then_branch = t () => (float[3] a) { i = Identity(x) a = Add(i, x) },
                      else_branch = e () => (float[3] b) { b = Mul(x, x) }> }""", {}, (13, 17, 24)),
    "window": (17, "(int64 x) => (float[m] y) { y = HannWindow(x) }", {}, (13,)),
    "dft": (17, "(float[1, 8, 1] x) => (float[1, 8, 2] y) { y = DFT(x) }", {}, (20, 21)),
    "average_pool": (11, """(float[1, 1, 5] x) => (float[1, 1, 3] y) {
             y = AveragePool<kernel_shape = [3], strides = [2], pads = [1, 1], count_include_pad = 1>(x) }""",
                     {}, (13, 19, 22)),
    "max_pool": (22, """(float[1, 1, 5] x) => (float[1, 1, 2] y) {
                 y = MaxPool<kernel_shape = [3], strides = [2]>(x) }""", {}, (11, 13)),
    "lstm": (15, """(float[4, n, 3] x, float[1, 8, 3] w, float[1, 8, 2] r) => (float[4, 1, n, 2] y) {
             y = LSTM<hidden_size = 2>(x, w, r) }""",
             {"w": np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 8, 3),
              "r": np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 8, 2)}, (13, 21)),
    "unknown_rank": (17, """(float[3] x, int64[n] s) => (float[1] y, float[3] z) {
                     r = Reshape(x, s) m = ReduceMean<axes = [0], keepdims = 1>(r) f = Flatten<axis = 0>(m)
                     o = Constant<value_ints = [-1]>() y = Reshape(f, o) z = Relu(x) }""", {}, (21,)),
}  # fmt: skip


def build(name):
    opset, text, weights, targets = CASES[name]
    return model_from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> main {text}', **weights), targets


def feeds(model):
    if not model.signature.inputs[0].shape:
        return {"x": np.array(8)}
    if model.signature.inputs[-1].name == "s":
        return {"x": np.array([1, 2, 4], np.float32), "s": np.array([3, 1])}
    sizes = dict.fromkeys(model.signature.dynamic_axes, 2)
    return make_inputs(model.signature, model.signature.concrete(sizes), seed=0)


def run(model, inputs):
    proto = to_proto(model)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_stay(name):
    model, targets = build(name)
    inputs = feeds(model)
    expected = run(model, inputs)
    for opset in targets:
        changed = with_opset(model, opset)
        assert changed.program.opset_imports[""] == opset
        assert changed.signature == model.signature
        onnx.checker.check_model(to_proto(changed), full_check=True)
        for one, other in zip(run(changed, inputs), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_large_weight_never_passes_through_the_converter():
    weight = np.zeros((64, 64), np.float32)
    model = model_from_text(
        '<ir_version: 8, opset_import: ["" : 21]> main (float[n, 64] x, float[64, 64] w) => (float[n, 64] y) '
        "{ h = Gemm(x, w) y = Add(h, w) }".replace("Add(h, w)", "Relu(h)"),
        w=weight,
    )
    changed = with_opset(model, 11)
    held = changed.program.graph.initializers["w"].const_value
    assert held is model.program.graph.initializers["w"].const_value


@pytest.mark.parametrize(("op", "opset", "other"), [("Hardmax", 11, 13), ("Hardmax", 21, 11)])
def test_what_the_converter_would_get_wrong_is_refused(op, opset, other):
    text = f"(float[n, 3, 4] x) => (float[n, 3, 4] y) {{ y = {op}(x) }}"
    model = model_from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> main {text}')
    with pytest.raises(UnsupportedOperatorError, match="another meaning"):
        with_opset(model, other)


@pytest.mark.parametrize(("axis", "fits"), [(-1, True), (2, True), (1, False), (0, False)])
def test_softmax_goes_back_along_the_last_axis_only(axis, fits):
    text = f"(float[n, 3, 4] x) => (float[n, 3, 4] y) {{ y = Softmax<axis = {axis}>(x) }}"
    model = model_from_text(f'<ir_version: 8, opset_import: ["" : 17]> main {text}')
    if fits:
        np.testing.assert_allclose(
            run(with_opset(model, 11), feeds(model)), run(model, feeds(model)), rtol=1e-5
        )
    else:
        with pytest.raises(UnsupportedOperatorError, match="along this axis alone"):
            with_opset(model, 11)


def test_all_that_has_no_way_is_listed_at_once():
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 21]> main (float[2, 4] x, int64[2] a) => (float[4] y, float[2] z) {
        [one] s = Reshape<allowzero = 1>(x, a)
        [two] l, r = Split<num_outputs = 2>(s)
        [three] y = Flatten(l) [four] z = StringConcat(x, x) }""".replace(
            " [four] z = StringConcat(x, x)", " [four] z = Gelu(r)"
        ),
        a=np.array([2, 4]),
    )
    with pytest.raises(UnsupportedOperatorError) as told:
        with_opset(model, 13)
    assert "allowzero = 1 is newer (one)" in str(told.value)
    assert "Split" in str(told.value) and "two" in str(told.value)


@pytest.mark.parametrize("opset", [-1, 0, 6, 10_000])
def test_opsets_that_do_not_exist(opset):
    model, _ = build("add")
    with pytest.raises(BadModelError, match="there is no opset"):
        with_opset(model, opset)


def test_types_that_the_older_definition_lacks_are_refused():
    model = model_from_text(
        '<ir_version: 10, opset_import: ["" : 16]> main (int8[3] x) => (int8[3] y) { y = Add(x, x) }'
    )
    with pytest.raises(UnsupportedOperatorError, match=r"tensor\(int8\)"):
        with_opset(model, 13)


def test_the_model_itself_stays():
    model, _ = build("reduce_axes")
    before = to_proto(model).SerializeToString(deterministic=True)
    with_opset(model, 17)
    assert to_proto(model).SerializeToString(deterministic=True) == before
    assert with_opset(model, 21) is model
