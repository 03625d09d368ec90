"""What a trap for a pass is, and those for control flow, decoders, quantisation and layers behind a factor."""

from dataclasses import dataclass, field

import numpy as np

from raceline.convert.example import model_from_text


@dataclass(frozen=True)
class Trap:
    """A model on which a pass must do nothing.

    `reason` is a part of the refusal; empty where not even the pattern may fit.
    """

    author: str
    why: str
    body: str
    reason: str = ""
    weights: dict = field(default_factory=dict)
    opset: int = 17

    def model(self):
        return model_from_text(
            f'<ir_version: 8, opset_import: ["": {self.opset}]> main {self.body}', **self.weights
        )


def f32(*numbers):
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.float32)


RATE = {"rate": np.array(8), "want": np.array(8)}
QUANTISED = {"s": f32(0.1), "z": np.array(3, np.int8)}
BY_CHANNEL = {"s": f32(0.1, 0.2), "z": np.array([0, 0], np.int8)}
MANY = {"turns": np.array(5000), "yes": np.array(True)}
HALVES = {"zero": np.array([0]), "half": np.array([2]), "end": np.array([4]), "last": np.array([-1])}
ROTARY = (
    "(float[N,4] x, float[4] c, float[4] s, int64[1] zero, int64[1] half, int64[1] end, int64[1] last) => "
    "(float[N,4] y) {{ low = Slice(x, zero, half, last) high = Slice(x, half, end, last) back = Neg({negated}) "
    "t = Concat<axis = -1>(back, {kept}) a = Mul(x, c) b = Mul(t, s) y = Add(a, b) }}"
)

MORE = [
    Trap(
        "fold_if",
        "a condition that is computed",
        "(float[2] x, bool c) => (float[2] y) { y = If (c) <then_branch = a () => (float[2] p) { p = Neg(x) }, "
        "else_branch = b () => (float[2] q) { q = Abs(x) }> }",
    ),
    Trap(
        "unroll_loop",
        "thousands of turns",
        "(float[2] x, int64 turns, bool yes) => (float[2] y) { y = Loop (turns, yes, x) <body = turn "
        "(int64 i, bool go, float[2] h) => (bool on, float[2] k) { on = Identity(go) k = Add(h, x) }> }",
        "more than 2000",
        MANY,
    ),
    Trap(
        "unroll_loop",
        "a condition that may end it",
        "(float[2] x, int64 turns, bool yes) => (float[2] y) { y = Loop (turns, yes, x) <body = turn "
        "(int64 i, bool go, float[2] h) => (bool on, float[2] k) { on = Not(go) k = Add(h, x) }> }",
        weights={"turns": np.array(3), "yes": np.array(True)},
    ),
    Trap(
        "fold_into_next",
        "an offset that padding does not have",
        "(float[N,4,6,6] x, float[4,1,1] o, float[4,4,3,3] w) => (float[N,4,6,6] y) "
        "{ h = Add(x, o) y = Conv<pads = [1,1,1,1]>(h, w) }",
        "pads with zeros",
        {"o": (4, 1, 1), "w": (4, 4, 3, 3)},
    ),
    Trap(
        "fold_into_next",
        "a factor that differs from place to place",
        "(float[N,4,6,6] x, float[6] f, float[4,4,3,3] w) => (float[N,4,4,4] y) { h = Mul(x, f) y = Conv(h, w) }",
        "not one constant for each channel",
        {"f": (6,), "w": (4, 4, 3, 3)},
    ),
    Trap(
        "fold_into_next",
        "a result that others read",
        "(float[N,4] x, float[4] f, float[4,3] w) => (float[N,3] y, float[N,4] z) "
        "{ h = Mul(x, f) y = Gemm(h, w) z = Relu(h) }",
        weights={"f": (4,), "w": (4, 3)},
    ),
    Trap(
        "fold_into_next",
        "a division by zero",
        "(float[N,4] x, float[4] f, float[4,3] w) => (float[N,3] y) { h = Div(x, f) y = Gemm(h, w) }",
        "not finite",
        {"f": f32(1, 0, 1, 1), "w": (4, 3)},
    ),
    Trap(
        "fold_into_next",
        "a transposed input",
        "(float[4,N] x, float[4,1] f, float[4,3] w) => (float[N,3] y) { h = Mul(x, f) y = Gemm<transA = 1>(h, w) }",
        "transposes its input",
        {"f": (4, 1), "w": (4, 3)},
    ),
    Trap(
        "fold_into_next",
        "a factor that lifts weights over the largest float",
        "(float[N,4] x, float[4] f, float[4,3] w) => (float[N,3] y) { h = Mul(x, f) y = Gemm(h, w) }",
        "over the largest float32",
        {"f": f32([1e30] * 4), "w": f32([[1e10] * 3] * 4)},
    ),
    Trap(
        "fold_affine",
        "a factor that pushes weights under the smallest float",
        "(float[N,4] x, float[3] f, float[4,3] w) => (float[N,3] y) { h = Gemm(x, w) y = Mul(h, f) }",
        "under the smallest float32",
        {"f": f32([1e-30] * 3), "w": f32([[1e-10] * 3] * 4)},
    ),
    Trap(
        "fold_batch_norm",
        "factors that lift weights over the largest float",
        "(float[N,3,4,4] x, float[3,3,1,1] w, float[3] s, float[3] b, float[3] m, float[3] v) => "
        "(float[N,3,4,4] y) { h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) }",
        "over the largest float32",
        {
            "w": np.full((3, 3, 1, 1), 1e10, np.float32),
            "s": f32([1e30] * 3),
            "b": (3,),
            "m": (3,),
            "v": f32([1.0] * 3),
        },
    ),
    Trap(
        "fuse_rms_norm",
        "a mean over another axis that is dropped",
        "(float[4,4] x, float e) => (float[4,4] y) { s = Mul(x, x) m = ReduceMean<axes = [0], keepdims = 0>(s) "
        "a = Add(m, e) r = Sqrt(a) y = Div(x, r) }",
        "drops the axis",
        {"e": f32(1e-5)},
    ),
    Trap(
        "fuse_rms_norm",
        "a cube",
        "(float[4,4] x, float p, float e) => (float[4,4] y) { s = Pow(x, p) m = ReduceMean<axes = [1]>(s) "
        "t = Abs(m) a = Add(t, e) r = Sqrt(a) y = Div(x, r) }",
        weights={"p": f32(3), "e": f32(1e-5)},
    ),
    Trap(
        "fuse_rotary",
        "halves the other way round",
        ROTARY.format(negated="low", kept="high"),
        "two halves",
        {"c": (4,), "s": (4,), **HALVES},
    ),
    Trap(
        "fuse_rotary",
        "one half twice",
        ROTARY.format(negated="high", kept="high"),
        "two halves",
        {"c": (4,), "s": (4,), **HALVES},
    ),
    Trap(
        "fuse_skip_layer_norm",
        "a sum that others read",
        "(float[N,4] x, float[N,4] k, float[4] g) => (float[N,4] y, float[N,4] z) "
        "{ s = Add(x, k) y = LayerNormalization(s, g) z = Relu(s) }",
        "also used",
        {"g": (4,)},
    ),
    Trap(
        "fuse_skip_layer_norm",
        "a sum that stretches both",
        "(float[4,1] x, float[1,4] k, float[4] g) => (float[4,4] y) { s = Add(x, k) y = LayerNormalization(s, g) }",
        "is stretched",
        {"g": (4,)},
    ),
    Trap(
        "move_quantisation",
        "a scale for each channel",
        "(int8[2,4] q, float[2] s, int8[2] z) => (float[4,2] y) "
        "{ x = DequantizeLinear<axis = 0>(q, s, z) y = Transpose<perm = [1,0]>(x) }",
        "each channel",
        BY_CHANNEL,
    ),
    Trap(
        "move_quantisation",
        "floats that others read",
        "(int8[2,4] q, float s, int8 z) => (float[4,2] y, float[2,4] w) "
        "{ x = DequantizeLinear(q, s, z) y = Transpose<perm = [1,0]>(x) w = Relu(x) }",
        "also used elsewhere",
        QUANTISED,
    ),
    Trap(
        "move_quantisation",
        "padding has the lowest float, not the lowest integer",
        "(int8[1,1,4] q, float s, int8 z) => (float[1,1,4] y) "
        "{ x = DequantizeLinear(q, s, z) y = MaxPool<kernel_shape = [3], pads = [1,1]>(x) }",
        "pads",
        QUANTISED,
    ),
    Trap(
        "cancel_quantisation",
        "another scale",
        "(int8[2,4] q, float s, int8 z, float t) => (int8[2,4] y) "
        "{ x = DequantizeLinear(q, s, z) y = QuantizeLinear(x, t, z) }",
        "rounds anew",
        {**QUANTISED, "t": f32(0.2)},
    ),
    Trap(
        "move_quantisation",
        "a negative scale turns the order round",
        "(int8[1,1,4] q, float s, int8 z) => (float[1,1,2] y) "
        "{ x = DequantizeLinear(q, s, z) y = MaxPool<kernel_shape = [2], strides = [2]>(x) }",
        "each channel",
        {**QUANTISED, "s": f32(-0.1)},
    ),
    Trap(
        "cancel_quantisation",
        "a scale so large that products overflow",
        "(int8[2,4] q, float s, int8 z) => (int8[2,4] y) "
        "{ x = DequantizeLinear(q, s, z) y = QuantizeLinear(x, s, z) }",
        "rounds anew",
        {**QUANTISED, "s": f32(3e38)},
    ),
    Trap(
        "fold_into_next",
        "a factor that makes channels",
        "(float[N,1,5,5] x, float[3,1,1] c, float[4,3,3,3] w) => (float[N,4,3,3] y) "
        "{ h = Mul(x, c) y = Conv(h, w) }",
        "stretches",
        {"c": (3, 1, 1), "w": (4, 3, 3, 3)},
    ),
    Trap(
        "fold_table",
        "a constant with more axes than the rows",
        "(bool[6] x, float[2,4] t, float[1,1,1,4] b) => (float[1,1,6,4] y) { i = Cast<to = 7>(x) "
        "r = Gather(t, i) y = Add(r, b) }",
        "more axes",
        {"t": (2, 4), "b": (1, 1, 1, 4)},
    ),
    *(
        Trap(
            "fold_one_hot",
            f"one more than the last class would wrap in {kind}",
            f"({kind}[N,1] x, {kind}[1,{top}] classes, float[{top},2] w) => (float[N,2] y) "
            "{ e = Equal(x, classes) h = Cast<to = 1>(e) y = MatMul(h, w) }",
            "nothing can be looked up",
            {"classes": np.arange(top, dtype=kind).reshape(1, top), "w": (top, 2)},
        )
        for kind, top in (("int8", 128), ("int16", 5))
    ),
    Trap(
        "unroll_loop",
        "thousands of nodes inside a branch",
        "(float[2] x, int64 turns, bool yes, bool c) => (float[2] y) { y = Loop (turns, yes, x) <body = turn "
        "(int64 i, bool go, float[2] h) => (bool on, float[2] k) { on = Identity(go) k = If (c) <then_branch = a "
        "() => (float[2] p) { p = Neg(h) }, else_branch = b () => (float[2] q) { q = Abs(h) }> }> }",
        "more than 2000",
        {"turns": np.array(600), "yes": np.array(True)},
    ),
]
