"""Element-wise operations, reductions and products: each against OpenVINO itself."""

import itertools

import numpy as np
import pytest
from openvino import opset1, opset13, opset15, opset16
from openvino_oracle import answers, compare, parameters_for, saved

from raceline.convert.readers import openvino as reader
from raceline.ir import run_reference

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(2, 3, 4, 5)) * 3).astype(np.float32)
Y = (RNG.normal(size=(2, 3, 4, 5)) * 3).astype(np.float32)
WHOLE = RNG.integers(-9, 9, (2, 3, 4, 5)).astype(np.int32)
DIVISORS = np.where(WHOLE == 0, 3, WHOLE[::-1, ::-1].copy() * 2 + 1).astype(np.int32)
B = RNG.integers(0, 2, (2, 3, 4)).astype(bool)
o = opset13


def c(value, dtype=np.int64):
    return o.constant(np.array(value, dtype))


UNARY = {
    name: getattr(opset13, name)
    for name in (
        "abs acos asin atan ceiling cos cosh erf exp floor negative relu sigmoid sign sin sinh tan tanh "
        "hswish hsigmoid mish softplus softsign is_nan is_inf is_finite asinh"
    ).split()
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("opened", [False, True])
def test_unary(tmp_path, name, opened):
    x = X / 10 if name in {"acos", "asin", "cosh", "sinh"} else X
    compare(tmp_path, UNARY[name], x, opened=opened)


@pytest.mark.parametrize("name", ["log", "sqrt", "acosh", "atanh"])
def test_unary_of_part_of_the_line(tmp_path, name):
    x = np.abs(X) + 1.5 if name != "atanh" else np.tanh(X) * 0.9
    compare(tmp_path, getattr(o, name), x.astype(np.float32))


UNUSUAL = np.array([np.inf, -np.inf, np.nan, 1, 0, -0.5, 0.5, 1.5, 2.5, -2.5, 0.49999997], np.float32)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: o.is_inf(x, {"detect_negative": False, "detect_positive": True}),
        lambda x: o.is_inf(x, {"detect_negative": True, "detect_positive": False}),
        o.is_nan,
        o.is_finite,
    ],
)
def test_numbers_that_are_none(tmp_path, build):
    compare(tmp_path, build, UNUSUAL)


@pytest.mark.parametrize("mode", ["half_to_even", "half_away_from_zero"])
def test_rounding(tmp_path, mode):
    numbers = np.concatenate(
        [UNUSUAL[3:-1], X.reshape(-1)]
    )  # OpenVINO is wrong on the last, next to one half
    compare(tmp_path, lambda x: opset13.round(x, mode), numbers)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: o.clamp(x, -1.5, 2),
        lambda x: o.elu(x, 0.7),
        lambda x: o.gelu(x, "erf"),
        lambda x: o.gelu(x, "tanh"),
        lambda x: o.selu(x, c(1.6, np.float32), c(1.1, np.float32)),
        lambda x: o.swish(x),
        lambda x: o.swish(x, c(0.7, np.float32)),
        lambda x: o.hard_sigmoid(x, c(0.3, np.float32), c(0.4, np.float32)),
        lambda x: o.prelu(x, c([0.1, 0.2, -0.3], np.float32)),
        lambda x: o.prelu(x, c([0.25], np.float32)),
        lambda x: o.softmax(x, 1),
        lambda x: o.softmax(x, -1),
        lambda x: o.log_softmax(x, 2),
        lambda x: o.grn(x, 0.3) if hasattr(o, "grn") else o.relu(x),
        lambda x: o.normalize_l2(x, c([1, 2]), 1e-2, "add"),
        lambda x: o.normalize_l2(x, c([1]), 30.0, "max"),
        lambda x: o.mvn(x, c([2, 3]), True, 1e-3, "inside_sqrt"),
        lambda x: o.mvn(x, c([1, 2, 3]), True, 0.5, "outside_sqrt"),
        lambda x: o.mvn(x, c([-1]), False, 1e-3, "inside_sqrt"),
        lambda x: opset1.mvn(x, True, True, 1e-3) if hasattr(opset1, "mvn") else o.relu(x),
        lambda x: o.lrn(x, c([1]), 0.7, 0.6, 2.0, 3),
        lambda x: o.lrn(x, c([2, 3]), 0.7, 0.6, 2.0, 3),
        lambda x: o.group_normalization(x, c([1, 2, 3], np.float32), c([0.1, 0, 3], np.float32), 3, 1e-3),
        lambda x: o.batch_norm_inference(
            x, c([1, 2, 3], np.float32), c([0.1, 0, 3], np.float32), c([1, 0, 2], np.float32),
            c([0.5, 1, 2], np.float32), 1e-3,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("opened", [False, True])
def test_activations_and_norms(tmp_path, build, opened):
    compare(tmp_path, build, X, opened=opened)


BINARY = (
    "add subtract multiply maximum minimum divide squared_difference equal not_equal greater "
    "greater_equal less less_equal floor_mod mod"
).split()


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("pair", [(X, Y), (X, Y[0, :, :1]), (Y[:1, :, :, 0:1], X)])
def test_binary(tmp_path, name, pair):
    compare(tmp_path, getattr(o, name), *pair)


@pytest.mark.parametrize("name", sorted(set(BINARY) - {"divide"}))  # division has a test of its own
def test_binary_of_whole_numbers(tmp_path, name):
    compare(tmp_path, getattr(o, name), WHOLE, DIVISORS)


def test_powers_and_logic(tmp_path):
    compare(tmp_path, o.power, np.abs(X), Y)
    compare(tmp_path, lambda x: o.power(x, c(2, np.float32)), X)
    for name in ("logical_and", "logical_or", "logical_xor"):
        compare(tmp_path, getattr(o, name), B, B[:, ::-1].copy())
    compare(tmp_path, o.logical_not, B)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        compare(tmp_path, getattr(o, name), WHOLE, DIVISORS)
    compare(tmp_path, o.bitwise_not, WHOLE)
    shift = np.abs(WHOLE).astype(np.uint8) % 5
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        compare(tmp_path, getattr(opset15, name), np.abs(DIVISORS).astype(np.uint8), shift)


def test_division_of_whole_numbers(tmp_path):
    """Rounded down or towards zero, as the attribute says; OpenVINO's CPU plug-in does the latter in both cases."""
    for python, expected in ((False, np.trunc(WHOLE / DIVISORS)), (True, WHOLE // DIVISORS)):
        parameters = parameters_for([WHOLE, DIVISORS])
        node = o.divide(*parameters)
        node.set_attribute("m_pythondiv", python)
        model = reader.read(saved(tmp_path, [node], parameters))
        (found,) = run_reference(model, {"in0": WHOLE, "in1": DIVISORS}).values()
        np.testing.assert_array_equal(found, expected.astype(np.int32))


@pytest.mark.parametrize(
    "axis, shape", [(1, (3,)), (1, (3, 4)), (0, (2, 3)), (-1, (4, 5)), (2, (4,)), (3, (5,))]
)
def test_the_other_broadcast(tmp_path, axis, shape):
    y = RNG.normal(size=shape).astype(np.float32)
    path = with_broadcast(tmp_path, y, axis)
    (found,) = run_reference(reader.read(path), {"in0": X, "in1": y}).values()
    start = axis if axis >= 0 else 4 - y.ndim
    np.testing.assert_allclose(found, X + y.reshape(*y.shape, *[1] * (4 - start - y.ndim)), rtol=1e-6)
    np.testing.assert_allclose(found, answers(path, [X, y])[0], rtol=1e-6)


def with_broadcast(folder, y, axis):
    """A sum in whose file the broadcast is PaddlePaddle's; Python cannot ask for the axis."""
    parameters = parameters_for([X, X])
    path = saved(folder, [o.add(*parameters)], parameters)
    text = path.read_text()
    text = text.replace(
        'auto_broadcast="numpy"', f'auto_broadcast="pdpd" auto_broadcast.auto_broadcast_axis="{axis}"'
    )
    head, marker, tail = text.partition('name="in1"')
    tail = tail.replace('shape="2,3,4,5"', f'shape="{",".join(map(str, y.shape))}"', 1)
    squeezed = "".join((head + marker + tail).split("\n"))
    start = squeezed.index("<dim>", squeezed.index('name="in1"'))
    stop = squeezed.index("</port>", start)
    ports = squeezed[:start] + "".join(f"<dim>{d}</dim>" for d in y.shape) + squeezed[stop:]
    path.write_text(ports)
    return path


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "l1", "l2"])
@pytest.mark.parametrize(
    "axes, keep",
    [*itertools.product([[1], [-1, 0], [0, 1, 2, 3]], [True, False]), ([], True)],
)  # OpenVINO itself cannot run no axes without keeping them
def test_reductions(tmp_path, name, axes, keep):
    compare(tmp_path, lambda x: getattr(o, f"reduce_{name}")(x, c(axes), keep), X, tolerance=2e-5)


@pytest.mark.parametrize("name", ["and", "or"])
def test_logical_reductions(tmp_path, name):
    compare(tmp_path, lambda x: getattr(o, f"reduce_logical_{name}")(x, c([1]), False), B)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_running_sums(tmp_path, exclusive, reverse):
    compare(tmp_path, lambda x: o.cum_sum(x, c(2), exclusive, reverse), X)


@pytest.mark.parametrize(
    "a, b, ta, tb",
    [
        ((3, 4), (4, 5), False, False),
        ((4, 3), (5, 4), True, True),
        ((2, 3, 4), (4, 5), False, False),
        ((2, 1, 4, 3), (3, 4, 5), True, False),
        ((4,), (4, 5), True, False),
        ((3, 4), (4,), False, True),
        ((4,), (4,), False, False),
        ((7, 3, 4), (7, 5, 4), False, True),
    ],
)
def test_products(tmp_path, a, b, ta, tb):
    x, y = (RNG.normal(size=shape).astype(np.float32) for shape in (a, b))
    compare(tmp_path, lambda p, q: o.matmul(p, q, ta, tb), x, y)
    compare(tmp_path, lambda p, q: o.matmul(p, q, ta, tb), x, y, opened=True)


def test_einsum(tmp_path):
    compare(tmp_path, lambda x, y: o.einsum([x, y], "bhij,bhkj->bhik"), X, Y)


@pytest.mark.parametrize("to", ["f32", "f16", "i32", "u8", "i64", "boolean", "i8"])
@pytest.mark.parametrize("source", [X, WHOLE, B])
def test_conversions(tmp_path, to, source):
    compare(tmp_path, lambda x: o.convert(x, to), np.abs(source) if source is not B else B)


def test_select(tmp_path):
    compare(tmp_path, o.select, B[..., None], X, Y[:, :1])
    compare(tmp_path, lambda x, y: o.convert_like(x, y), WHOLE, X)


COMPLEX = RNG.normal(size=(3, 8, 6, 2)).astype(np.float32)


@pytest.mark.parametrize("name", ["dft", "idft"])
@pytest.mark.parametrize(
    "axes, sizes", [([1], None), ([0, 1], None), ([-1], None), ([1], [5]), ([1, 2], [10, -1])]
)
def test_fourier_of_complex_numbers(tmp_path, name, axes, sizes):
    more = () if sizes is None else (c(sizes),)
    compare(tmp_path, lambda x: getattr(o, name)(x, c(axes), *more), COMPLEX)


@pytest.mark.parametrize(
    "axes, sizes", [([1], None), ([0, 1], None), ([2], None), ([1], [5]), ([2, 1], [6, 7])]
)
def test_fourier_of_real_numbers(tmp_path, axes, sizes):
    more = () if sizes is None else (c(sizes),)
    compare(tmp_path, lambda x: o.rdft(x, c(axes), *more), COMPLEX[..., 0])
    compare(tmp_path, lambda x: o.irdft(x, c(axes), *more), COMPLEX)


@pytest.mark.parametrize("frames_first", [True, False])
@pytest.mark.parametrize("shape", [(2, 64), (64,)])
def test_short_fourier(tmp_path, frames_first, shape):
    window = np.hanning(12).astype(np.float32)
    x = RNG.normal(size=shape).astype(np.float32)
    compare(
        tmp_path,
        lambda s: opset15.stft(s, c(window, np.float32), c(16), c(8), frames_first),
        x,
    )


def test_attention(tmp_path):
    q, k, v = (RNG.normal(size=(2, 3, n, 8)).astype(np.float32) for n in (5, 7, 7))
    mask = RNG.normal(size=(2, 1, 5, 7)).astype(np.float32)
    keep = RNG.integers(0, 2, (5, 7)).astype(bool)
    keep[:, 0] = True
    attend = o.scaled_dot_product_attention
    compare(tmp_path, lambda *a: attend(*a), q, k, v)
    compare(tmp_path, lambda *a: attend(*a, causal=True), q, k, v)
    compare(tmp_path, lambda *a: attend(*a), q, k, v, mask)
    compare(tmp_path, lambda *a: attend(*a), q, k, v, keep)
    compare(tmp_path, lambda *a: attend(*a, scale=c(0.3, np.float32)), q, k, v, mask)


def test_the_newest_sets(tmp_path):
    compare(tmp_path, opset16.identity, X)
