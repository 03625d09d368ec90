"""What looks like a pass's pattern and must be left alone, and the sentence that says why."""

import numpy as np
import pytest
from pass_traps import MORE, Trap, f32
from test_passes import PASSES, error, feeds, rewrites

from raceline.convert import Refusal, optimise

CONV = {"w": (4, 4, 3, 3), "b": (4,)}
NORM = {"scale": (4,), "offset": (4,), "mean": (4,), "variance": f32(1, 2, 3, 4)}
GELU = {"r": f32(np.sqrt(2)), "one": f32(1), "half": f32(0.5)}

CLASSES = np.arange(3).reshape(1, 3)
ONE_HOT = (
    "(int64[N,1] x, int64[1,3] classes, float[3,2] w) => (float[N,2] y) "
    "{ e = Equal(x, classes) h = Cast<to = 1>(e) y = MatMul(h, w) }"
)

TRAPS = [
    Trap(
        "inline_functions", "no function but the fused ones", "(float[2] x) => (float[2] y) { y = Relu(x) }"
    ),
    Trap(
        "lift_constants",
        "an output must be computed",
        "() => (float[1] y) { y = Constant<value_floats=[1.0]>() }",
    ),
    Trap(
        "merge_constants",
        "minus zero is not zero",
        "(float[N,2] x, float[2] a, float[2] b) => (float[N,2] y) { t = Div(x, a) y = Div(t, b) }",
        weights={"a": f32(0.0, 1.0), "b": f32(-0.0, 1.0)},
    ),
    Trap(
        "merge_constants",
        "another type",
        "(float[N,2] x, float[1] a, int64[1] b) => (float[N,2] y) { t = Mul(x, a) y = Unsqueeze(t, b) }",
        weights={"a": np.zeros(1, np.float32), "b": np.zeros(1, np.int64)},
    ),
    Trap("remove_dead_code", "all is needed", "(float[2] x) => (float[2] y) { t = Exp(x) y = Relu(t) }"),
    # fold_constants
    Trap(
        "fold_constants",
        "weights must not grow",
        "(float[512] x, float[1,1] w, int64[2] s) => (float[512,512] y) { t = Expand(w, s) y = Mul(x, t) }",
        "more than the 65536 it replaces",
        {"w": (1, 1), "s": np.array([512, 512])},
    ),
    Trap(
        "fold_constants",
        "quantised weights stay quantised",
        "(float[N,2] x, int8[2,2] q, float s) => (float[N,2] y) { w = DequantizeLinear(q, s) y = "
        "MatMul(x, w) }",
        "undo the quantisation",
        {"q": np.array([[1, 2], [3, 4]], np.int8), "s": f32(0.1)},
    ),
    Trap(
        "fold_constants",
        "an output must be computed",
        "(float[2] x, float[2] w) => (float[2] y, float[2] z) { y = Relu(x) z = Relu(w) }",
        "'z' is an output",
        {"w": (2,)},
    ),
    Trap(
        "fold_constants",
        "a random draw is not constant",
        "(float[2] x, float[2] w) => (float[2] y) { r = RandomNormalLike<seed = 1.0>(w) z = Mul(r, w) "
        "y = Mul(x, w) }",
        weights={"w": (2,)},
    ),
    Trap(
        "fold_constants",
        "the batch is open",
        "(float[N,3] x, int64 first) => (int64 y) { s = Shape(x) y = Gather(s, first) }",
        weights={"first": np.array(0)},
    ),
    # remove_identity
    Trap(
        "remove_identity",
        "an input cannot be called like an output",
        "(float[2] x) => (float[2] y) { y = Identity(x) }",
        "both names must stay",
    ),
    Trap(
        "remove_identity",
        "two outputs need two values",
        "(float[2] x) => (float[2] y, float[2] z) { y = Exp(x) z = Identity(y) }",
        "both outputs",
    ),
    Trap(
        "remove_identity",
        "a cast that changes the type",
        "(float[2] x) => (int64[2] y) { y = Cast<to = 7>(x) }",
    ),
    Trap(
        "remove_identity",
        "a transpose that moves axes",
        "(float[2,2] x) => (float[2,2] y) { t = Transpose<perm=[1,0]>(x) y = Exp(t) }",
    ),
    Trap(
        "remove_identity",
        "times one may add an axis",
        "(float[2] x, float[1,1] one) => (float[1,2] y) { t = Mul(x, one) y = Exp(t) }",
        weights={"one": f32([[1.0]])},
    ),
    Trap(
        "remove_identity",
        "plus zero makes 0.0 of -0.0",
        "(float[2] x, float zero) => (float[2] y) { t = Add(x, zero) y = Reciprocal(t) }",
        weights={"zero": f32(0.0)},
    ),
    Trap(
        "remove_identity",
        "the reshape's target fits by size alone",
        "(float[2,6] x, int64[2] s) => (float[6,2] y) { t = Reshape(x, s) y = Exp(t) }",
        weights={"s": np.array([6, 2])},
    ),
    Trap(
        "remove_identity",
        "expanding an open axis that may be 1",
        "(float[N,3] x, int64[2] s) => (float[2,3] y) { t = Expand(x, s) y = Exp(t) }",
        weights={"s": np.array([2, 3])},
    ),
    Trap(
        "remove_identity",
        "dropout in training",
        "(float[2] x, float p, bool on) => (float[2] y) { t = Dropout(x, p, on) y = Exp(t) }",
        weights={"p": f32(0.0), "on": np.array(True)},
    ),
    Trap(
        "remove_identity",
        "a slice that leaves out the end",
        "(float[4] x, int64[1] a, int64[1] b) => (float[3] y) { t = Slice(x, a, b) y = Exp(t) }",
        weights={"a": np.array([0]), "b": np.array([-1])},
    ),
    # merge_common_subexpressions
    Trap(
        "merge_common_subexpressions",
        "other attributes",
        "(float[2,2] x) => (float[2,2] y) { a = Softmax<axis=0>(x) b = Softmax<axis=1>(x) y = Add(a, b) }",
    ),
    Trap(
        "merge_common_subexpressions",
        "the other way round",
        "(float[2] a, float[2] b) => (float[2] y) { s = Sub(a, b) t = Sub(b, a) y = Mul(s, t) }",
    ),
    Trap(
        "merge_common_subexpressions",
        "two outputs need two values",
        "(float[2] x) => (float[2] y, float[2] z) { y = Exp(x) z = Exp(x) }",
        "both outputs",
    ),
    Trap(
        "merge_common_subexpressions",
        "two draws differ",
        "(float[2] x, float[2] q) => (float[2] y) { a = RandomNormalLike<seed=1.0>(x) "
        "b = RandomNormalLike<seed=1.0>(x) c = Mul(a, q) d = Mul(b, q) e = Sub(c, d) z = Mul(e, q) y = "
        "Mul(x, q) }",
        weights={"q": np.zeros(2, np.float32)},
    ),
    # simplify_reshape, simplify_transpose
    Trap(
        "simplify_reshape",
        "two open dimensions that are not in place",
        "(float[N,M,3] x, int64[2] turned) => (float[M,N,3] y) { s = Shape(x) a = Gather(s, turned) "
        "b = Shape<start=2>(x) t = Concat<axis=0>(a, b) y = Reshape(x, t) }",
        "only known at run time",
        {"turned": np.array([1, 0])},
    ),
    Trap(
        "simplify_reshape",
        "a zero refers to the shape before",
        "(float[N,6] x, int64[3] a, int64[2] b) => (float[N,6] y) { t = Reshape(x, a) y = Reshape(t, b) }",
        "has a 0",
        {"a": np.array([-1, 2, 3]), "b": np.array([0, -1])},
    ),
    Trap(
        "simplify_transpose",
        "the first is needed too",
        "(float[2,3] x) => (float[2,3] y, float[3,2] z) { z = Transpose<perm=[1,0]>(x) "
        "y = Transpose<perm=[1,0]>(z) }",
        "used elsewhere",
    ),
    Trap(
        "simplify_transpose",
        "the reshape back does not swap rows and columns",
        "(float[2,2,3,4] x, int64[3] a, int64[4] b) => (float[2,2,6,2] y) { s = Reshape(x, a) "
        "t = Transpose<perm=[0,2,1]>(s) y = Reshape(t, b) }",
        "change more than the order",
        {"a": np.array([-1, 3, 4]), "b": np.array([2, 2, 6, 2])},
    ),
    # fold_batch_norm
    *(
        Trap("fold_batch_norm", why, body, reason, {**CONV, **NORM, **extra}, opset)
        for why, body, reason, extra, opset in [
            (
                "the convolution's result is needed too",
                "(float[1,4,5,5] x, float[4,4,3,3] w, float[4] b, float[4] scale, float[4] offset, "
                "float[4] mean, "
                "float[4] variance) => (float[1,4,3,3] y, float[1,4,3,3] z) { c = Conv(x, w, b) z = Relu(c) "
                "y = BatchNormalization(c, scale, offset, mean, variance) }",
                "used elsewhere",
                {},
                17,
            ),
            (
                "the convolution's result is an output",
                "(float[1,4,5,5] x, float[4,4,3,3] w, float[4] b, float[4] scale, float[4] offset, "
                "float[4] mean, "
                "float[4] variance) => (float[1,4,3,3] y, float[1,4,3,3] c) { c = Conv(x, w, b) "
                "y = BatchNormalization(c, scale, offset, mean, variance) }",
                "used elsewhere",
                {},
                17,
            ),
            (
                "a negative variance",
                "(float[1,4,5,5] x, float[4,4,3,3] w, float[4] b, float[4] scale, float[4] offset, "
                "float[4] mean, "
                "float[4] variance) => (float[1,4,3,3] y) { c = Conv(x, w, b) "
                "y = BatchNormalization(c, scale, offset, mean, variance) }",
                "negative",
                {"variance": f32(1, -2, 3, 4)},
                17,
            ),
        ]
    ),
    Trap(
        "fold_batch_norm",
        "the statistics come from outside",
        "(float[1,4,5,5] x, float[4] mean, float[4,4,3,3] w, float[4] scale, float[4] offset, float[4] "
        "variance) => "
        "(float[1,4,3,3] y) { c = Conv(x, w) y = BatchNormalization(c, scale, offset, mean, variance) }",
        "mean of",
        {key: value for key, value in {**CONV, **NORM}.items() if key not in {"b", "mean"}},
    ),
    Trap(
        "fold_batch_norm",
        "half precision",
        "(float16[1,4,5,5] x, float16[4,4,3,3] w, float16[4] scale, float16[4] offset, float16[4] mean, "
        "float16[4] variance) => (float16[1,4,3,3] y) { c = Conv(x, w) "
        "y = BatchNormalization(c, scale, offset, mean, variance) }",
        "lose precision",
        {"w": np.ones((4, 4, 3, 3), np.float16)}
        | {key: np.ones(4, np.float16) for key in ("scale", "offset", "mean", "variance")},
    ),
    Trap(
        "fold_batch_norm",
        "a bias for each row",
        "(float[2,3] x, float[3,4] w, float[2,4] b, float[4] scale, float[4] offset, float[4] mean, "
        "float[4] variance) => (float[2,4] y) { c = Gemm(x, w, b) y = BatchNormalization(c, scale, "
        "offset, mean, variance) }",
        "row to row",
        {**NORM, "w": (3, 4), "b": (2, 4)},
    ),
    # fold_affine
    Trap(
        "fold_affine",
        "one number a column, not a channel",
        "(float[1,4,6,6] x, float[4,4,3,3] w, float[4] s) => (float[1,4,4,4] y) { c = Conv(x, w) y = "
        "Mul(c, s) }",
        "not one number for each channel",
        {"w": (4, 4, 3, 3), "s": (4,)},
    ),
    Trap(
        "fold_affine",
        "a division by zero",
        "(float[1,4,6,6] x, float[4,4,3,3] w, float[4,1,1] s) => (float[1,4,4,4] y) { c = Conv(x, w) y = "
        "Div(c, s) }",
        "not finite",
        {"w": (4, 4, 3, 3), "s": f32(1, 2, 0, 4).reshape(4, 1, 1)},
    ),
    Trap(
        "fold_affine",
        "the constant is divided",
        "(float[1,4,6,6] x, float[4,4,3,3] w, float s) => (float[1,4,4,4] y) { c = Conv(x, w) y = Div(s, "
        "c) }",
        weights={"w": (4, 4, 3, 3), "s": f32(2)},
    ),
    Trap(
        "fold_affine",
        "weights from outside",
        "(float[1,4,6,6] x, float[4,4,3,3] w, float s) => (float[1,4,4,4] y) { c = Conv(x, w) y = Mul(c, "
        "s) }",
        "are not constant",
        {"s": f32(2)},
    ),
    # activations
    Trap(
        "fuse_silu",
        "the gate is needed too",
        "(float[2] x) => (float[2] y, float[2] s) { s = Sigmoid(x) y = Mul(x, s) }",
        "is an output",
    ),
    Trap(
        "fuse_silu",
        "the gate of another value",
        "(float[2] x, float[2] z) => (float[2] y) { s = Sigmoid(z) y = Mul(x, s) }",
    ),
    Trap(
        "fuse_gelu",
        "scaled by something else",
        "(float[2] x, float r, float one, float half) => (float[2] y) { a = Div(x, r) b = Erf(a) c = "
        "Add(b, one) "
        "d = Mul(x, c) y = Mul(d, half) }",
        weights={**GELU, "r": f32(1.5)},
    ),
    Trap(
        "fuse_gelu",
        "the product is needed too",
        "(float[2] x, float r, float one, float half) => (float[2] y, float[2] z) { a = Div(x, r) b = Erf(a) "
        "c = Add(b, one) d = Mul(x, c) y = Mul(d, half) z = Exp(d) }",
        "is also used by Exp",
        GELU,
    ),
    Trap(
        "fuse_hard_swish",
        "clipped at another place",
        "(float[2] x, float three, float low, float six) => (float[2] y) { a = Add(x, three) b = Clip(a, "
        "low, three) "
        "c = Mul(x, b) y = Div(c, six) }",
        weights={"three": f32(3), "low": f32(0), "six": f32(6)},
    ),
    # fuse_layer_norm
    *(
        Trap("fuse_layer_norm", why, body, reason, {"two": f32(2), "epsilon": f32(1e-5)} | extra)
        for why, body, reason, extra in [
            (
                "mean and variance over different axes",
                "(float[2,3,4] x, float two, float epsilon) => (float[2,3,4] y) { "
                "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) s = Pow(c, two) v = ReduceMean<axes=[1]>(s) "
                "e = Add(v, epsilon) d = Sqrt(e) y = Div(c, d) }",
                "the variance over [1]",
                {},
            ),
            (
                "cubed",
                "(float[2,3,4] x, float two, float epsilon) => (float[2,3,4] y) { "
                "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) s = Pow(c, two) v = ReduceMean<axes=[-1]>(s) "
                "e = Add(v, epsilon) d = Sqrt(e) y = Div(c, d) }",
                "does not square",
                {"two": f32(4)},
            ),
            (
                "the centred values are an output",
                "(float[2,3,4] x, float two, float epsilon) => (float[2,3,4] y, float[2,3,4] c) { "
                "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) s = Pow(c, two) v = ReduceMean<axes=[-1]>(s) "
                "e = Add(v, epsilon) d = Sqrt(e) y = Div(c, d) }",
                "is an output",
                {},
            ),
            (
                "no small number under the root",
                "(float[2,3,4] x, float two, float epsilon) => (float[2,3,4] y) { "
                "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) s = Pow(c, two) v = ReduceMean<axes=[-1]>(s) "
                "e = Add(v, epsilon) d = Sqrt(e) y = Div(c, d) }",
                "not a small constant",
                {"epsilon": f32(5)},
            ),
        ]
    ),
    # fuse_attention
    Trap(
        "fuse_attention",
        "softmax along the queries",
        "(float[2,3,4] q, float[2,3,4] k, float[2,3,4] v) => (float[2,3,4] y) { t = "
        "Transpose<perm=[0,2,1]>(k) "
        "s = MatMul(q, t) w = Softmax<axis=1>(s) y = MatMul(w, v) }",
        "not along the keys",
    ),
    Trap(
        "fuse_attention",
        "the weights are an output",
        "(float[2,3,4] q, float[2,3,4] k, float[2,3,4] v) => (float[2,3,4] y, float[2,3,3] w) { "
        "t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) w = Softmax(s) y = MatMul(w, v) }",
        "is an output",
    ),
    Trap(
        "fuse_attention",
        "scores by weights are a layer",
        "(float[2,3,4] x, float[4,5] w, float[2,5,6] v) => (float[2,3,6] y) { s = MatMul(x, w) p = "
        "Softmax(s) "
        "y = MatMul(p, v) }",
        "product by weights",
        {"w": (4, 5)},
    ),
    # epilogues
    Trap(
        "fuse_conv_activation",
        "two users",
        "(float[1,4,5,5] x, float[4,4,3,3] w, float[4] b) => (float[1,4,3,3] y, float[1,4,3,3] z) { c = "
        "Conv(x, w, b) "
        "y = Relu(c) z = Exp(c) }",
        "is used by Relu",
        CONV,
    ),
    Trap(
        "fuse_conv_activation",
        "the result is an output",
        "(float[1,4,5,5] x, float[4,4,3,3] w, float[4] b) => (float[1,4,3,3] y, float[1,4,3,3] c) { c = "
        "Conv(x, w, b) "
        "y = Relu(c) }",
        "is an output",
        CONV,
    ),
    Trap(
        "fuse_conv_activation",
        "the residual stretches the result",
        "(float[1,4,3,3] x, float[4,4,3,3] w, float[4] b, float[1,4,5,5] r) => (float[1,4,5,5] y) { c = "
        "Conv(x, w, b) "
        "y = Add(c, r) }",
        "another shape",
        CONV,
    ),
    Trap(
        "fuse_conv_activation",
        "the gate of a squeeze-and-excite block",
        "(float[1,4,1,1] x, float[4,4,1,1] w, float[4] b, float[1,4,5,5] r) => (float[1,4,5,5] y) { c = "
        "Conv(x, w, b) "
        "y = Mul(r, c) }",
        "another shape",
        {"w": (4, 4, 1, 1), "b": (4,)},
    ),
    Trap(
        "fuse_conv_activation",
        "weights from outside",
        "(float[1,4,5,5] x, float[4,4,3,3] w) => (float[1,4,3,3] y) { c = Conv(x, w) y = Relu(c) }",
    ),
    Trap(
        "fuse_gemm_activation",
        "softmax is not element-wise",
        "(float[2,3] x, float[3,4] w) => (float[2,4] y) { c = Gemm(x, w) y = Softmax(c) }",
        weights={"w": (3, 4)},
    ),
    Trap(
        "fuse_matmul_add",
        "the bias adds an axis",
        "(float[2,3] x, float[3,4] w, float[5,1,1] b) => (float[5,2,4] y) { c = MatMul(x, w) y = Add(c, b) }",
        "another shape",
        {"w": (3, 4), "b": (5, 1, 1)},
    ),
    Trap(
        "fuse_matmul_add",
        "scores, not a layer",
        "(float[2,3] x, float[3,4] w, float[4] b) => (float[2,4] y) { c = MatMul(x, w) y = Add(c, b) }",
        weights={"b": (4,)},
    ),
    # fuse_elementwise_chain
    Trap(
        "fuse_elementwise_chain",
        "stretched afterwards",
        "(float[64,1] x, float[64,64] z) => (float[64,64] y) { e = Exp(x) y = Mul(e, z) }",
        "is stretched",
    ),
    Trap(
        "fuse_elementwise_chain",
        "needed elsewhere",
        "(float[64,64] x, float[64,64] z) => (float[64,64] y, float[64,64] s) { e = Exp(x) y = Mul(e, z) "
        "s = Softmax(e) }",
        "is also used by Softmax",
    ),
    Trap(
        "fuse_elementwise_chain",
        "too small to matter",
        "(float[4] x, float[4] z) => (float[4] y) { e = Exp(x) y = Mul(e, z) }",
    ),
    # widen_convolution
    Trap(
        "widen_convolution",
        "a size only known at run time",
        "(float[1,24,H,22] x, float[1,24,3,1] w) => (float[1,1,H,22] y) { y = Conv<pads = [1,0,1,0]>(x, w) }",
        "only known at run time",
        {"w": (1, 24, 3, 1)},
    ),
    Trap(
        "widen_convolution",
        "dilated",
        "(float[1,24,16,22] x, float[1,24,5,5] w) => (float[1,1,8,14] y) "
        "{ y = Conv<dilations = [2,2]>(x, w) }",
        "is dilated",
        {"w": (1, 24, 5, 5)},
    ),
    Trap(
        "widen_convolution",
        "padded at run time",
        "(float[1,24,16,22] x, float[1,24,5,5] w) => (float[1,1,16,22] y) "
        '{ y = Conv<auto_pad = "SAME_UPPER">(x, w) }',
        "padding",
        {"w": (1, 24, 5, 5)},
    ),
    Trap(
        "widen_convolution",
        "a bias from outside",
        "(float[1,24,16,22] x, float[1,24,5,5] w, float[1] b) => (float[1,1,12,18] y) { y = Conv(x, w, b) }",
        "the bias",
        {"w": (1, 24, 5, 5)},
    ),
    Trap(
        "widen_convolution",
        "so few products that moving the results costs more",
        "(float[1,2,16,22] x, float[1,2,1,1] w) => (float[1,1,16,22] y) { y = Conv(x, w) }",
        weights={"w": (1, 2, 1, 1)},
    ),
    Trap(
        "widen_convolution",
        "channels enough",
        "(float[1,24,16,22] x, float[16,24,5,5] w) => (float[1,16,12,18] y) { y = Conv(x, w) }",
        weights={"w": (16, 24, 5, 5)},
    ),
    # fold_one_hot
    Trap(
        "fold_one_hot",
        "infinity times zero is NaN",
        ONE_HOT,
        "NaN or infinity",
        {"classes": CLASSES, "w": f32(*[[np.inf, 1.0]] * 3)},
    ),
    Trap(
        "fold_one_hot",
        "a matrix from outside",
        ONE_HOT,
        "is not constant",
        {"classes": CLASSES},
    ),
    Trap(
        "fold_one_hot",
        "classes out of order",
        ONE_HOT,
        weights={"classes": CLASSES[:, ::-1].copy(), "w": (3, 2)},
    ),
    # fold_table
    Trap(
        "fold_table",
        "rows treated in different ways",
        "(bool[4,3] x, float[2,5] t, float[4,1,1] b) => (float[4,3,5] y) { i = Cast<to = 7>(x) "
        "r = Gather(t, i) y = Add(r, b) }",
        "differs from row to row",
        {"t": (2, 5), "b": (4, 1, 1)},
    ),
    Trap(
        "fold_table",
        "a table shared with another layer",
        "(bool[4] x, float[2,5] t, float[4,2] z) => (float[4,5] y, float[4,5] u) { i = Cast<to = 7>(x) "
        "r = Gather(t, i) y = Tanh(r) u = MatMul(z, t) }",
        "is used elsewhere too",
        {"t": (2, 5)},
    ),
    # hoist_transpose
    Trap(
        "hoist_transpose",
        "more than the stacked axis moves",
        "(float[N,4,6,1] a, float[N,4,6,1] b) => (float[N,2,6,4] y) { s = Concat<axis = -1>(a, b) "
        "y = Transpose<perm = [0,3,2,1]>(s) }",
        "moves more than the axis",
    ),
    Trap(
        "hoist_transpose",
        "the stack is needed as it is",
        "(float[N,4,6,1] a, float[N,4,6,1] b) => (float[N,2,4,6] y, float[N,4,6,2] z) { "
        "s = Concat<axis = -1>(a, b) y = Transpose<perm = [0,3,1,2]>(s) z = Relu(s) }",
        "is used elsewhere too",
    ),
    Trap(
        "hoist_transpose",
        "parts wider than one",
        "(float[N,4,6,2] a, float[N,4,6,1] b) => (float[N,3,4,6] y) { s = Concat<axis = -1>(a, b) "
        "y = Transpose<perm = [0,3,1,2]>(s) }",
    ),
]


TRAPS += MORE


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.author}: {trap.why}")
def test_is_left_alone(trap):
    model = trap.model()
    result, report = optimise(model, passes=[trap.author])
    assert not rewrites(report)
    refusals = [item for item in report if isinstance(item, Refusal)]
    assert all(item.reason and item.nodes and item.pass_name == trap.author for item in refusals)
    if trap.reason:
        assert any(trap.reason in item.reason for item in refusals), [str(item) for item in refusals]
        assert str(refusals[0]).startswith(f"{trap.author} left ")
    else:
        assert not refusals
    with np.errstate(all="ignore"):
        assert error(model, result, feeds(model)) == 0 or trap.why in {
            "a negative variance",
            "a division by zero",
        }


def test_every_pass_has_a_trap():
    assert {trap.author for trap in TRAPS} == set(PASSES)
