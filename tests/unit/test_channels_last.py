"""Channels-last helpers against direct sums."""

import itertools

import numpy as np
import pytest

from raceline.convert.build import Builder
from raceline.convert.channels_last import conv, conv_transpose, pads, pool, resize
from raceline.engines import Options, load
from raceline.ir import Provenance, run_reference

RNG = np.random.default_rng(0)


def computed(x, make, shape=None):
    b = Builder("m")
    b.output(make(b, b.input("x", "float32", shape or x.shape)), "y")
    return run_reference(b.model(Provenance()), {"x": x})["y"]


def same(size, k, s, d):
    """TensorFlow's rule for SAME, as its documentation gives it: output size, padding before, after."""
    out = -(-size // s)
    total = max(0, (out - 1) * s + (k - 1) * d + 1 - size)
    return out, total // 2, total - total // 2


def direct_conv(x, w, s, d):
    """SAME convolution of one axis: x (batch, width, in), w (out, in, k)."""
    out, before, after = same(x.shape[1], w.shape[2], s, d)
    padded = np.pad(x, ((0, 0), (before, after), (0, 0)))
    y = np.zeros((x.shape[0], out, w.shape[0]), np.float32)
    for place, tap in itertools.product(range(out), range(w.shape[2])):
        y[:, place] += padded[:, place * s + tap * d] @ w[:, :, tap].T
    return y


@pytest.mark.parametrize(
    "size, k, s, d", [(9, 3, 1, 1), (9, 3, 2, 1), (10, 3, 2, 1), (9, 4, 3, 1), (9, 3, 1, 2)]
)
@pytest.mark.parametrize("open_size", [False, True])
def test_same_padding_is_tensorflows(size, k, s, d, open_size):
    x = RNG.standard_normal((2, size, 3)).astype(np.float32)
    w = RNG.standard_normal((4, 3, k)).astype(np.float32)

    def make(b, value):
        return conv(b, value, b.constant(w), strides=[s], padding="SAME", dilations=[d])

    found = computed(x, make, ["n", "t", 3] if open_size else None)
    np.testing.assert_allclose(found, direct_conv(x, w, s, d), rtol=1e-5, atol=1e-5)


def test_averages_do_not_count_padding():
    x = RNG.standard_normal((1, 5, 5, 2)).astype(np.float32)

    def make(b, value):
        return pool(b, value, "AveragePool", kernel=[3, 3], strides=[2, 2], padding="SAME")

    found = computed(x, make)
    assert found.shape == (1, 3, 3, 2)
    np.testing.assert_allclose(found[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[0, 1, 1], x[0, 1:4, 1:4].mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("out, k, s", [(9, 3, 2), (10, 3, 2), (8, 2, 2), (9, 2, 3), (7, 4, 1)])
def test_the_gradient_undoes_the_shape_and_is_the_adjoint(out, k, s, padding):
    """<conv(a), g> = <a, conv_transpose(g)> for every a and g: that is what a gradient is."""
    w = RNG.standard_normal((4, 3, k)).astype(np.float32)  # of the convolution: 3 channels in, 4 out
    a = RNG.standard_normal((2, out, 3)).astype(np.float32)

    def forward(b, value):
        return conv(b, value, b.constant(w), strides=[s], padding=padding, dilations=[1])

    y = computed(a, forward)
    g = RNG.standard_normal(y.shape).astype(np.float32)

    def backward(b, value):
        return conv_transpose(b, value, b.constant(w), strides=[s], padding=padding, output=[out])

    back = computed(g, backward)
    assert back.shape == a.shape
    assert np.vdot(y, g) == pytest.approx(np.vdot(a, back), rel=1e-4)


def test_explicit_padding_is_kept():
    assert pads([5, 5], [3, 3], [1, 1], [1, 1], [(1, 0), (2, 3)]) == {"pads": [1, 2, 0, 3]}


def gradient(padding, kernel, stride, size, out, *, is_computed):
    """A transposed convolution to `out` elements, told as a number or computed by the model."""
    b = Builder("m")
    random = np.random.default_rng(kernel * 10 + stride)
    x = b.input("x", "float32", ["n", "h" if is_computed else size, size, 3])
    weight = b.constant(random.standard_normal((3, 2, kernel, kernel)).astype(np.float32))
    wanted = b.input("wanted", "int64", [2]) if is_computed else None
    y = conv_transpose(
        b, x, weight, bias=b.constant(np.float32([1, -1])), strides=[stride, stride], padding=padding,
        output=[None, None] if is_computed else [out, out], computed=wanted,
    )  # fmt: skip
    b.output(y, "y")
    model = b.model(Provenance())
    feeds = {"x": random.standard_normal((2, size, size, 3)).astype(np.float32)}
    return run_reference(model, feeds | ({"wanted": np.array([out, out])} if is_computed else {}))["y"]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_computed_size_gives_what_the_number_gives(padding, kernel, stride):
    size = 4
    longest = size * stride if padding == "SAME" else (size - 1) * stride + kernel + stride - 1
    for out in range(longest - stride + 1, longest + 1):
        one, other = (gradient(padding, kernel, stride, size, out, is_computed=c) for c in (False, True))
        assert one.shape == (2, out, out, 2)
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_onnx_runtime_takes_two_pictures_of_one():
    """By axes it loses their sizes where it moves them past the transpositions."""
    b = Builder("m")
    x = b.input("x", "float32", ["n", 6, 6, 3])
    for name, size in (("y", [9, 10]), ("z", [7, 5]), ("twice", [12, 12])):
        scaled = resize(b, x, b.constant(np.array(size)), mode="linear")
        b.output(scaled, name)
    model = b.model(Provenance())
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)}
    found = load("onnxruntime").load(model, Options()).run(feeds)
    for name, expected in run_reference(model, feeds).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    assert found["twice"].shape == (2, 12, 12, 3)
