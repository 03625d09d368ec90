"""The many ways in which exporters write one thing: each is found, and keeps its numbers."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from raceline.convert import Rewrite, optimise
from raceline.convert.example import model_from_text
from raceline.ir import run_reference


@dataclass(frozen=True)
class Spelling:
    """A graph, and the operators that must be left once all passes have run."""

    why: str
    body: str
    left: tuple[str, ...]
    weights: dict = field(default_factory=dict)
    opset: int = 17
    rtol: float = 0.0

    def model(self):
        return model_from_text(
            f'<ir_version: 8, opset_import: ["": {self.opset}]> main {self.body}', **self.weights
        )


def f32(*numbers):
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.float32)


def i64(*numbers):
    return np.array(numbers)


SQRT2, HALF, ONE, CUBE, TANH = f32(2**0.5), f32(0.5), f32(1), f32(0.044715), f32((2 / np.pi) ** 0.5)
VECTOR = "(float[N,64] x, {}) => (float[N,64] y) {{ {} }}"


def gelu(why, names, body, left="Gelu", **weights):
    head = ", ".join(f"float {name}" for name in names.split())
    return Spelling(f"gelu: {why}", VECTOR.format(head, body), (left,), weights)


GELUS = [
    gelu(
        "halved first",
        "r one half",
        "a = Div(x, r) e = Erf(a) s = Add(one, e) h = Mul(half, x) y = Mul(h, s)",
        r=SQRT2,
        one=ONE,
        half=HALF,
    ),
    gelu(
        "halved inside",
        "r one half",
        "a = Mul(x, r) e = Erf(a) s = Add(e, one) h = Mul(s, half) y = Mul(x, h)",
        r=f32(0.5**0.5),
        one=ONE,
        half=HALF,
    ),
    gelu(
        "divided by two",
        "r one two",
        "a = Mul(r, x) e = Erf(a) s = Add(e, one) h = Mul(s, x) y = Div(h, two)",
        r=f32(0.5**0.5),
        one=ONE,
        two=f32(2),
    ),
    gelu(
        "tanh, cubed",
        "c three k one half",
        "p = Pow(x, three) a = Mul(p, c) b = Add(x, a) d = Mul(b, k) t = Tanh(d) s = Add(t, one) h = "
        "Mul(x, half) "
        "y = Mul(h, s)",
        "GeluTanh",
        c=CUBE,
        three=f32(3),
        k=TANH,
        one=ONE,
        half=HALF,
    ),
    gelu(
        "tanh, by products",
        "c k one half",
        "p = Mul(c, x) q = Mul(x, p) a = Mul(x, q) b = Add(x, a) d = Mul(k, b) t = Tanh(d) s = Add(one, t) "
        "h = Mul(half, s) y = Mul(x, h)",
        "GeluTanh",
        c=CUBE,
        k=TANH,
        one=ONE,
        half=HALF,
    ),
    gelu("sigmoid", "k", "a = Mul(x, k) s = Sigmoid(a) y = Mul(x, s)", "QuickGelu", k=f32(1.702)),
]

GATES = [
    Spelling("silu", "(float[N,64] x) => (float[N,64] y) { s = Sigmoid(x) y = Mul(s, x) }", ("Silu",)),
    Spelling(
        "silu with Paddle's factor of one",
        "(float[N,64] x, float[1] one) => (float[N,64] y) { a = Mul(x, one) s = Sigmoid(a) y = Mul(x, s) }",
        ("Silu",),
        {"one": f32([1.0])},
    ),
    Spelling(
        "mish", "(float[N,64] x) => (float[N,64] y) { p = Softplus(x) t = Tanh(p) y = Mul(x, t) }", ("Mish",)
    ),
    Spelling(
        "hard swish by an operator with its own slope",
        "(float[N,64] x) => (float[N,64] y) { g = HardSigmoid<alpha = 0.16666667>(x) y = Mul(x, g) }",
        ("HardSwish",),
    ),
    Spelling(
        "hard swish, divided inside, bounds as attributes",
        "(float[N,64] x, float three, float six) => (float[N,64] y) { a = Add(x, three) "
        "c = Clip<min = 0.0, max = 6.0>(a) g = Div(c, six) y = Mul(x, g) }",
        ("HardSwish",),
        {"three": f32(3), "six": f32(6)},
        opset=10,
    ),
    Spelling(
        "hard sigmoid by clip",
        "(float[N,64] x, float three, float zero, float six) => (float[N,64] y) { a = Add(x, three) "
        "c = Clip(a, zero, six) y = Div(c, six) }",
        ("HardSigmoid",),
        {"three": f32(3), "zero": f32(0), "six": f32(6)},
    ),
]

NORM = {"two": f32(2), "epsilon": f32(1e-5)}
SCALED = {"scale": (64,), "bias": (64,)}
ROWS = (
    "(float[N,3,64] x, float two, float epsilon, float[64] scale, float[64] bias) => "
    "(float[N,3,64] y) {{ {} }}"
)
NORMS = [
    Spelling(
        "layer norm without scale",
        "(float[N,64] x, float two, float epsilon) => (float[N,64] y) { m = ReduceMean<axes=[1]>(x) c = "
        "Sub(x, m) "
        "s = Pow(c, two) v = ReduceMean<axes=[1]>(s) e = Add(epsilon, v) d = Sqrt(e) y = Div(c, d) }",
        ("LayerNorm",),
        NORM,
    ),
    Spelling(
        "layer norm, squared by a product, a reciprocal, axes as an input",
        "(float[N,3,64] x, int64[1] last, float epsilon, float[64] scale, float[64] bias) => "
        "(float[N,3,64] y) { "
        "m = ReduceMean(x, last) c = Sub(x, m) s = Mul(c, c) v = ReduceMean(s, last) e = Add(v, epsilon) "
        "d = Sqrt(e) "
        "r = Reciprocal(d) n = Mul(r, c) p = Mul(n, scale) y = Add(p, bias) }",
        ("LayerNorm",),
        {"last": i64(-1), "epsilon": f32(1e-5), **SCALED},
        opset=18,
    ),
    Spelling(
        "layer norm, computed from the mean twice",
        ROWS.format(
            "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) m2 = ReduceMean<axes=[-1]>(x) c2 = Sub(x, m2) s = "
            "Pow(c2, two) "
            "v = ReduceMean<axes=[-1]>(s) e = Add(v, epsilon) d = Sqrt(e) n = Div(c, d) p = Mul(scale, n) "
            "y = Add(bias, p)"
        ),
        ("LayerNorm",),
        {**NORM, **SCALED},
    ),
    Spelling(
        "layer norm as TensorFlow writes it",
        "(float[N,3,64] x, float epsilon, float[64] scale, float[64] bias) => (float[N,3,64] y) { "
        "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) s = Mul(c, c) v = ReduceMean<axes=[-1]>(s) e = Add(v, "
        "epsilon) "
        "d = Sqrt(e) r = Reciprocal(d) f = Mul(r, scale) a = Mul(x, f) b = Mul(m, f) o = Sub(bias, b) y = "
        "Add(a, o) }",
        ("LayerNorm",),
        {"epsilon": f32(1e-5), **SCALED},
    ),
    Spelling(
        "layer norm as JAX writes it",
        "(float[N,64] x, float share, float zero, int64[1] axis, int64[2] row, float epsilon, float[64] "
        "scale, "
        "float[64] bias) => (float[N,64] y) { t = ReduceSum<keepdims=0>(x, axis) m = Mul(t, share) q = "
        "Mul(x, x) "
        "u = ReduceSum<keepdims=0>(q, axis) n = Mul(u, share) k = Mul(m, m) w = Sub(n, k) v = Max(zero, w) "
        "v2 = Reshape(v, row) e = Add(v2, epsilon) d = Sqrt(e) r = Reciprocal(d) f = Mul(r, scale) "
        "m2 = Reshape(m, row) c = Sub(x, m2) a = Mul(c, f) y = Add(a, bias) }",
        ("LayerNorm",),
        {
            "share": f32(1 / 64),
            "zero": f32(0),
            "axis": i64(1),
            "row": i64(-1, 1),
            "epsilon": f32(1e-5),
            **SCALED,
        },
    ),
    Spelling(
        "a norm over the channels of a picture is named for what it is",
        "(float[N,8,4,4] x, float two, float epsilon) => (float[N,8,4,4] y) { m = ReduceMean<axes=[1]>(x) "
        "c = Sub(x, m) "
        "s = Pow(c, two) v = ReduceMean<axes=[1]>(s) e = Add(v, epsilon) d = Sqrt(e) y = Div(c, d) }",
        ("AxisNorm",),
        NORM,
    ),
]

HEADS = "(float[N,2,6,8] q, float[N,2,6,8] k, float[N,2,6,8] v, {}) => (float[N,2,6,8] y) {{ {} }}"
ATTENTION = [
    Spelling(
        "attention, scale on both sides, mask added",
        HEADS.format(
            "float[N,1,1,6] mask, float r",
            "t = Transpose<perm=[0,1,3,2]>(k) a = Mul(q, r) b = Mul(t, r) s = MatMul(a, b) m = Add(s, mask) "
            "p = Softmax<axis=-1>(m) y = MatMul(p, v)",
        ),
        ("Attention",),
        {"r": f32(0.6)},
    ),
    Spelling(
        "attention, masked by Where",
        HEADS.format(
            "bool[N,1,1,6] mask, float r, float low",
            "t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) a = Div(s, r) m = Where(mask, a, low) "
            "p = Softmax<axis=3>(m) y = MatMul(p, v)",
        ),
        ("Attention",),
        {"r": f32(2.8), "low": f32(-1e9)},
    ),
    Spelling(
        "attention, rows that are masked whole set to zero, as torch exports boolean masks",
        HEADS.format(
            "bool[N,1,6,6] mask, float low, float none",
            "t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) m = Where(mask, s, low) p = Softmax<axis=-1>(m) "
            "b = IsNaN(p) w = Where(b, none, p) y = MatMul(w, v)",
        ),
        ("Attention",),
        {"low": f32(-np.inf), "none": f32(0)},
    ),
    Spelling(
        "attention with the heads' layout around it, as BERT is exported",
        "(float[N,6,16] x, float[16,16] wq, float[16,16] wk, float[16,16] wv, int64[4] split, int64[3] "
        "join, float r) "
        "=> (float[N,6,16] y) { q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) qs = Reshape(q, split) "
        "ks = Reshape(k, split) vs = Reshape(v, split) qh = Transpose<perm=[0,2,1,3]>(qs) "
        "kh = Transpose<perm=[0,2,3,1]>(ks) vh = Transpose<perm=[0,2,1,3]>(vs) s = MatMul(qh, kh) a = "
        "Div(s, r) "
        "p = Softmax(a) c = MatMul(p, vh) o = Transpose<perm=[0,2,1,3]>(c) y = Reshape(o, join) }",
        ("Attention", "MatMul", "MatMul", "MatMul"),
        {
            "wq": (16, 16),
            "wk": (16, 16),
            "wv": (16, 16),
            "split": i64(0, 0, 2, 8),
            "join": i64(0, 0, 16),
            "r": f32(2.8),
        },
    ),
    Spelling(
        "attention of one packed tensor, as ViT is exported",
        "(float[2,6,48] x, int64[5] split, int64[1] i0, int64[1] i1, int64[1] i2, int64[1] i3, int64[3] "
        "batch, "
        "int64[4] back, float r) => (float[2,2,6,8] y) { s = Reshape(x, split) t = "
        "Transpose<perm=[2,0,3,1,4]>(s) "
        "a = Slice(t, i0, i1, i0) q = Squeeze(a, i0) b = Slice(t, i1, i2, i0) k = Squeeze(b, i0) "
        "c = Slice(t, i2, i3, i0) v = Squeeze(c, i0) k2 = Reshape(k, batch) k3 = Transpose<perm=[0,2,1]>(k2) "
        "k4 = Reshape(k3, back) qs = Mul(q, r) ks = Mul(k4, r) w = MatMul(qs, ks) p = Softmax(w) y = "
        "MatMul(p, v) }",
        ("Attention",),
        {
            "split": i64(2, 6, 3, 2, 8),
            **{f"i{n}": i64(n) for n in range(4)},
            "batch": i64(-1, 6, 8),
            "back": i64(2, 2, 8, 6),
            "r": f32(0.6),
        },
    ),
]

BN = {"scale": (4,), "offset": (4,), "mean": (4,), "variance": f32(0.5, 1, 2, 3)}
BN_HEAD = "float[4] scale, float[4] offset, float[4] mean, float[4] variance"
BN_CALL = "BatchNormalization<epsilon = 0.001>(c, scale, offset, mean, variance)"


def folded(why, head, layer, result, left, **weights):
    body = f"({head}, {BN_HEAD}) => ({result}) {{ c = {layer} y = {BN_CALL} }}"
    return Spelling(f"batch norm after {why}", body, left, {**weights, **BN}, rtol=1e-5)


FOLDS = [
    folded(
        "a depthwise convolution",
        "float[N,4,5,5] x, float[4,1,3,3] w, float[4] b",
        "Conv<group = 4>(x, w, b)",
        "float[N,4,3,3] y",
        ("Conv",),
        w=(4, 1, 3, 3),
        b=(4,),
    ),
    folded(
        "a grouped convolution",
        "float[N,6,5,5] x, float[4,3,3,3] w",
        "Conv<group = 2>(x, w)",
        "float[N,4,3,3] y",
        ("Conv",),
        w=(4, 3, 3, 3),
    ),
    folded(
        "a convolution of signals",
        "float[N,6,9] x, float[4,6,3] w",
        "Conv(x, w)",
        "float[N,4,7] y",
        ("Conv",),
        w=(4, 6, 3),
    ),
    folded(
        "a grouped transposed convolution",
        "float[N,6,3,3] x, float[6,2,3,3] w, float[4] b",
        "ConvTranspose<group = 2, strides = [2, 2]>(x, w, b)",
        "float[N,4,7,7] y",
        ("ConvTranspose",),
        w=(6, 2, 3, 3),
        b=(4,),
    ),
    folded(
        "a dense layer",
        "float[N,5] x, float[5,4] w, float[4] b",
        "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)",
        "float[N,4] y",
        ("Gemm",),
        w=(5, 4),
        b=(4,),
    ),
    folded(
        "a turned dense layer without bias",
        "float[N,4] x, float[4,4] w",
        "Gemm<transB = 1>(x, w)",
        "float[N,4] y",
        ("Gemm",),
        w=(4, 4),
    ),
    Spelling(
        "Paddle's learned factors around a hard swish",
        "(float[N,4,8,8] x, float[4,4,3,3] w, float[1] f, float[1] g, float three, float low, float six, "
        "float[1] u, "
        "float[1] t) => (float[N,4,6,6] y) { c = Conv(x, w) p = Mul(f, c) a = Add(p, g) s = Add(a, three) "
        "k = Clip(s, low, six) m = Mul(a, k) h = Div(m, six) q = Mul(u, h) y = Add(q, t) }",
        ("ConvHardSwishMulAdd",),
        {
            "w": (4, 4, 3, 3),
            "f": (1,),
            "g": (1,),
            "three": f32(3),
            "low": f32(0),
            "six": f32(6),
            "u": (1,),
            "t": (1,),
        },
        rtol=1e-5,
    ),
    Spelling(
        "a negated layer, and a constant less a layer",
        "(float[N,4] x, float[4,4] w, float[4] s) => (float[N,4] y) { c = Gemm(x, w) n = Neg(c) y = "
        "Sub(s, n) }",
        ("Gemm",),
        {"w": (4, 4), "s": (4,)},
        rtol=1e-5,
    ),
]

EPILOGUES = [
    Spelling(
        "two settings of one name",
        "(float[N,4] x, float[4,4] w, float[4] b) => (float[N,4] y) { c = Gemm<alpha = 0.5>(x, w, b) "
        "y = LeakyRelu<alpha = 0.25>(c) }",
        ("GemmLeakyRelu",),
        {"w": (4, 4), "b": (4,)},
    ),
    Spelling(
        "an activation that brings a setting of its own",
        "(float[N,4,8,8] x, float[4,4,3,3] w) => (float[N,4,6,6] y) { c = Conv(x, w) "
        "g = HardSigmoid<alpha = 0.16666667>(c) y = Mul(c, g) }",
        ("ConvHardSwish",),
        {"w": (4, 4, 3, 3)},
    ),
    Spelling(
        "a residual on the left of an open size",
        "(float[N,4,H,W] x, float[4,4,3,3] w, float[4] b) => (float[N,4,H,W] y) { "
        "c = Conv<pads = [1,1,1,1]>(x, w, b) s = Add(x, c) y = Relu(s) }",
        ("ConvAddRelu",),
        {"w": (4, 4, 3, 3), "b": (4,)},
    ),
    Spelling(
        "bias, activation and residual of a linear layer",
        "(float[N,3,4] x, float[4,4] w, float[4] b, float r, float one, float half) => (float[N,3,4] y) { "
        "m = MatMul(x, w) a = Add(b, m) d = Div(a, r) e = Erf(d) f = Add(e, one) g = Mul(a, f) h = Mul(g, "
        "half) "
        "y = Add(h, x) }",
        ("MatMulAddGeluAdd",),
        {"w": (4, 4), "b": (4,), "r": SQRT2, "one": ONE, "half": HALF},
    ),
    Spelling(
        "clipped between two numbers",
        "(float[N,4,8,8] x, float[4,4,3,3] w, float low, float high) => (float[N,4,6,6] y) { c = Conv(x, w) "
        "y = Clip(c, low, high) }",
        ("ConvClip",),
        {"w": (4, 4, 3, 3), "low": f32(0), "high": f32(6)},
    ),
]

LAYOUTS = [
    Spelling(
        "transposes that together are another",
        "(float[2,3,4] x) => (float[4,2,3] y) { a = Transpose<perm=[1,2,0]>(x) y = "
        "Transpose<perm=[1,2,0]>(a) }",
        ("Transpose",),
    ),
    Spelling(
        "transposes without a permutation turn the axes round",
        "(float[2,3,4] x) => (float[3,4,2] y) { a = Transpose(x) y = Transpose<perm=[1,0,2]>(a) }",
        ("Transpose",),
    ),
    Spelling(
        "nothing comes of one, in any place that keeps the value",
        "(float[N,64] x, float one, float zero) => (float[N,64] y) { a = Mul(one, x) b = Div(a, one) c = "
        "Pow(b, one) "
        "d = Sub(c, zero) y = Exp(d) }",
        ("Exp",),
        {"one": ONE, "zero": f32(0)},
    ),
    Spelling(
        "one over a value is not the value",
        "(float[N,64] x, float one) => (float[N,64] y) { a = Div(one, x) y = Pow(one, a) }",
        ("DivPow",),
        {"one": ONE},
    ),
    Spelling(
        "unsqueezed, squeezed, reshaped twice",
        "(float[N,2,3] x, int64[1] one, int64[2] flat, int64[3] back) => (float[N,2,3] y) { a = "
        "Unsqueeze(x, one) "
        "b = Squeeze(a, one) c = Reshape(b, flat) d = Reshape(c, back) y = Exp(d) }",
        ("Exp",),
        {"one": i64(1), "flat": i64(-1, 6), "back": i64(-1, 2, 3)},
    ),
    Spelling(
        "the batch read off the input and put back",
        "(float[N,2,3] x, int64[1] rest) => (float[N,6] y) { s = Shape<end = 1>(x) t = Concat<axis=0>(s, "
        "rest) "
        "y = Reshape(x, t) }",
        ("Reshape",),
        {"rest": i64(6)},
    ),
    Spelling(
        "the batch put back beside a dimension to infer, where a zero would mean an empty axis",
        "(float[N,6] x, int64[1] first, int64[1] rest) => (float[N,2,3] y) { s = Shape<end = 1>(x) "
        "t = Concat<axis=0>(s, first, rest) y = Reshape<allowzero = 1>(x, t) }",
        ("Reshape",),
        {"first": i64(-1), "rest": i64(3)},
    ),
]

CONSTANTS = [
    Spelling(
        "softmax of old opsets, over all axes from one on",
        "(float[3,4] x, float[2,3,4] w) => (float[2,3,4] y) { s = Softmax<axis = 1>(w) y = Add(x, s) }",
        ("Add",),
        {"w": (2, 3, 4)},
        opset=11,
    ),
    Spelling(
        "a type taken from an input",
        "(float[3,4] x, int64[2] w, int64 place) => (float[3,4] y) { a = Gather(w, place) b = CastLike(a, x) "
        "c = Sqrt(b) y = Div(x, c) }",
        ("Div",),
        {"w": i64(9, 64), "place": np.array(1)},
    ),
    Spelling(
        "slices that together are the weight they are cut from",
        "(float[3,300] x, float[300,300] w, int64[1] a, int64[1] b, int64[1] c) => (float[3,150] y) { "
        "p = Slice(w, a, b) q = Slice(w, b, c) s = Transpose<perm=[1,0]>(p) t = Transpose<perm=[1,0]>(q) "
        "d = MatMul(x, s) e = MatMul(x, t) y = Mul(d, e) }",
        ("MatMul", "MatMulMul"),
        {"w": (300, 300), "a": i64(0), "b": i64(150), "c": i64(300)},
        rtol=1e-5,  # the library multiplies by a turned matrix in another order than by a stored one
    ),
    Spelling(
        "several results of one node",
        "(float[3,2] x, float[4,2] w) => (float[3,2] y) { a, b = Split<axis = 0>(w) c = "
        "ReduceSum<keepdims=1>(a) "
        "d = ReduceMax<keepdims=1>(b) e = Add(x, c) y = Mul(e, d) }",
        ("Add", "Mul"),
        {"w": (4, 2)},
    ),
]

GEMM = {"w": (4, 3), "b": f32(0.5)}
SCALARS = [
    Spelling(
        "a factor and an offset behind a layer whose bias is one number",
        "(float[N,4] x, float[4,3] w, float b, float[3] f) => (float[N,3] y) "
        "{ h = Gemm(x, w, b) t = Mul(h, f) y = Add(t, f) }",
        ("Gemm",),
        {**GEMM, "f": (3,)},
        rtol=1e-6,
    ),
    Spelling(
        "a factor and an offset before a layer whose bias is one number",
        "(float[N,4] x, float[4,3] w, float b, float[4] f) => (float[N,3] y) "
        "{ t = Mul(x, f) h = Add(t, f) y = Gemm(h, w, b) }",
        ("Gemm",),
        {**GEMM, "f": (4,)},
        rtol=1e-6,
    ),
]

EVERY = [*CONSTANTS, *GELUS, *GATES, *NORMS, *ATTENTION, *FOLDS, *EPILOGUES, *LAYOUTS, *SCALARS]


def feeds(model):
    sizes = dict(zip(model.signature.dynamic_axes, (3, 5, 6), strict=False))
    rng = np.random.default_rng(4)
    shapes = model.signature.concrete(sizes)
    kinds = {spec.name: spec.dtype for spec in model.signature.inputs}
    return {name: rng.standard_normal(shape).astype(kinds[name]) for name, shape in shapes.items()}


@pytest.mark.parametrize("spelling", EVERY, ids=lambda spelling: spelling.why)
def test_is_found_and_keeps_its_numbers(spelling):
    model = spelling.model()
    result, report = optimise(model)
    assert sorted(node.op_type for node in result.program.graph) == sorted(spelling.left), list(
        map(str, report)
    )
    inputs = feeds(model)
    for name, value in run_reference(model, inputs).items():
        after = run_reference(result, inputs)[name]
        if spelling.rtol:
            np.testing.assert_allclose(after, value, rtol=0, atol=spelling.rtol * np.abs(value).max())
        else:
            np.testing.assert_array_equal(after, value)
    assert not [item for item in optimise(result)[1] if isinstance(item, Rewrite)]


def test_a_norm_whose_means_drop_their_axis_is_left_alone():
    body = (
        "(float[64,64] x, float two, float epsilon) => (float[64,64] y) { m = ReduceMean<axes=[1], "
        "keepdims=0>(x) "
        "c = Sub(x, m) s = Pow(c, two) v = ReduceMean<axes=[1], keepdims=0>(s) e = Add(v, epsilon) d = "
        "Sqrt(e) "
        "y = Div(c, d) }"
    )
    model = Spelling("", body, (), NORM).model()
    result, report = optimise(model)
    assert "LayerNorm" not in {node.op_type for node in result.program.graph}
    assert any("drop the axis" in item.reason for item in report)
    np.testing.assert_array_equal(
        run_reference(result, feeds(model))["y"], run_reference(model, feeds(model))["y"]
    )
