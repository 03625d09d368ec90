"""Matrix products, attention, layer norm and activations of our own agree with NumPy in double precision."""

import itertools
import math

import numpy as np
import pytest

from raceline import _native

KERNELS = _native.dense_kernels()
WIDEST = {"avx512": 4, "avx2": 3, "plain": 2}


def draw(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def blank(*shape):
    """What is not written would be seen."""
    return np.full(shape, np.nan, np.float32)


def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


ACTIVATIONS = {"": lambda x: x, "relu": lambda x: np.maximum(x, 0), "gelu": gelu, "gelu_tanh": gelu_tanh,
               "silu": silu}  # fmt: skip


def layer_norm(x, scale, shift, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + shift


def softmax_product(q, k, v, mask, scale):
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(float), k.astype(float)) * scale
    if mask is not None:
        scores = scores + mask
    with np.errstate(invalid="ignore", over="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v.astype(float)


def assert_near(got, expected, relative=2e-6):
    """Within `relative` of the largest; a sum of k products in floats errs by less than that here."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max(initial=0) <= relative * max(1, np.abs(expected).max(initial=0))


def test_the_plain_kernels_are_always_there_and_the_last():
    assert KERNELS[-1] == "plain"
    assert ("avx2" in KERNELS) == {"avx2", "fma"}.issubset(_native.instruction_sets())


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [1, 2, 13, 15, 33])
def test_products_of_odd_shapes(kernels, rows):
    depths, widths = [1, 15, 16, 17, 66], [1, 15, 17, 31, 50, 64, 130]
    for k, n, vectors in itertools.product(depths, widths, range(1, WIDEST[kernels] + 1)):
        x, weight, bias = draw(rows, k), draw(k, n, seed=1), draw(n, seed=2)
        expected = x.astype(float) @ weight + bias
        for strassen in {False, k % 2 == n % 2 == 0}:
            linear = _native.Linear(weight, bias, rows=rows, kernels=kernels, plan=(vectors, 20, strassen))
            out = blank(rows, n)
            linear.run(x, out)
            assert_near(out, expected)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("strassen", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_fused_around_a_product(kernels, strassen, activation):
    rows, k, n = 37, 66, 70
    x, weight, bias, residual = (
        draw(rows, k),
        draw(k, n, seed=1, scale=0.2),
        draw(n, seed=2),
        draw(rows, n, seed=3),
    )
    before, after = (draw(k, seed=4), draw(k, seed=5), 1e-5), (draw(n, seed=6), draw(n, seed=7), 1e-12)
    linear = _native.Linear(weight, bias, rows=rows, kernels=kernels, plan=(2, 12, strassen))
    for use in itertools.product([False, True], repeat=3):
        expected = layer_norm(x.astype(float), *before) if use[0] else x.astype(float)
        expected = ACTIVATIONS[activation](expected @ weight + bias) + (residual if use[1] else 0)
        expected = layer_norm(expected, *after) if use[2] else expected
        given = {"before": before if use[0] else None, "after": after if use[2] else None}
        out = [blank(rows, n), residual.copy() if use[1] else blank(rows, n)]
        linear.run(x, out[0], residual=residual if use[1] else None, activation=activation, **given)
        assert_near(out[0], expected, 5e-6)
        # In place of the residual, and on three threads: the same to the bit.
        linear.run(x, out[1], residual=out[1] if use[1] else None, activation=activation, threads=3, **given)
        np.testing.assert_array_equal(out[1], out[0])


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_plan_found_by_timing_gives_the_same_numbers(kernels):
    x, weight = draw(40, 128), draw(128, 96, seed=1)
    expected = x.astype(float) @ weight
    for exact in (True, False):
        linear = _native.Linear(weight, rows=40, kernels=kernels, exact=exact, seconds=0.01)
        out = blank(40, 96)
        linear.run(x, out)
        assert_near(out, expected, 5e-6)
        assert not (exact and linear.plan[2])
        assert linear.size_bytes >= weight.nbytes


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_and_columns_may_lie_apart(kernels):
    wide_x, wide_weight, wide_out = draw(9, 40), draw(20, 90, seed=1), np.zeros((9, 70), np.float32)
    x, weight, out = wide_x[:, 5:25], wide_weight[:, 3:53], wide_out[:, 10:60]
    _native.Linear(weight, rows=9, kernels=kernels, plan=(2, 4, False)).run(x, out)
    assert_near(out, x.astype(float) @ weight)
    assert not wide_out[:, :10].any() and not wide_out[:, 60:].any()


@pytest.mark.parametrize("kernels", KERNELS)
def test_nothing_to_multiply(kernels):
    out = blank(3, 4)
    _native.Linear(np.zeros((0, 4), np.float32), np.ones(4, np.float32), rows=3, kernels=kernels).run(
        blank(3, 0), out
    )
    np.testing.assert_array_equal(out, np.ones((3, 4), np.float32))
    _native.Linear(blank(4, 0), rows=3, kernels=kernels).run(blank(3, 4), blank(3, 0))
    _native.Linear(blank(4, 4), rows=0, kernels=kernels).run(blank(0, 4), blank(0, 4))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(kernels, bad):
    x, weight = draw(20, 34), draw(34, 40, seed=1)
    x[7, 33] = bad
    with np.errstate(invalid="ignore"):
        expected = x.astype(float) @ weight
    out = blank(20, 40)
    _native.Linear(weight, rows=20, kernels=kernels, plan=(2, 112, False)).run(x, out)
    np.testing.assert_array_equal(np.isfinite(out), np.isfinite(expected))
    np.testing.assert_array_equal(out[7], expected[7].astype(np.float32))


def test_what_does_not_fit_is_refused():
    weight = draw(8, 6)
    linear = _native.Linear(weight, rows=4)
    good, out = draw(4, 8), blank(4, 6)
    refused = [
        lambda: _native.Linear(draw(8), rows=4),
        lambda: _native.Linear(weight, draw(5), rows=4),
        lambda: _native.Linear(weight, rows=4, plan=(9, 112, False)),
        lambda: _native.Linear(weight, rows=4, plan=(1, 0, False)),
        lambda: _native.Linear(draw(7, 6), rows=4, plan=(1, 112, True)),
        lambda: linear.run(draw(4, 7), out),
        lambda: linear.run(good, blank(3, 6)),
        lambda: linear.run(good, out, residual=draw(4, 5)),
        lambda: linear.run(good, out, activation="mish"),
        lambda: linear.run(good, out, before=(draw(7), None, 1e-5)),
        lambda: linear.run(good, out, threads=0),
        lambda: linear.run(good.T.copy().T, out),
        lambda: linear.run(np.broadcast_to(good[:1], (4, 8)), out),
        lambda: _native.layer_norm(good, out, draw(8), epsilon=1e-5),
        lambda: _native.apply("exp", draw(3), blank(4)),
        lambda: _native.apply("sin", draw(3), blank(3)),
    ]
    for call in refused:
        with pytest.raises((ValueError, TypeError)):
            call()
    with pytest.raises(KeyError, match="abacus"):
        _native.Linear(weight, rows=4, kernels="abacus")


SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 2, 5, 7, 3, 5),
    (2, 3, 15, 33, 16, 17),
    (1, 1, 29, 197, 64, 64),
    (1, 2, 3, 2500, 8, 32),
]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [(), (0, 1, 2), (0, 1), (2,)], ids=str)
def test_attention(kernels, shape, masked):
    batch, heads, queries, keys, depth, value_depth = shape
    q, k = draw(batch, heads, queries, depth), draw(batch, heads, keys, depth, seed=1)
    v, mask = draw(batch, heads, keys, value_depth, seed=2), None
    if masked:  # these axes are broadcast
        mask = draw(*(1 if axis in masked else shape[axis] for axis in range(3)), keys, seed=3)
        mask[..., ::3] = -np.inf
        mask[..., -1] = 0
    expected = softmax_product(q, k, v, mask, 0.4)
    for threads in (1, 2):
        out = blank(batch, heads, queries, value_depth)
        _native.attention(q, k, v, out, mask, scale=0.4, threads=threads, kernels=kernels)
        assert_near(out, expected)


@pytest.mark.parametrize("kernels", KERNELS)
def test_attention_reads_heads_from_between_others(kernels):
    """One projection's output holds queries, keys and values of all heads side by side."""
    joint = draw(2, 21, 3, 4, 24)
    q, k, v = joint.transpose(2, 0, 3, 1, 4)
    out = blank(2, 21, 4, 24)
    _native.attention(
        q, k, v, out.transpose(0, 2, 1, 3), scale=-0.3, kernels=kernels
    )  # a scale may be negative
    assert_near(out.transpose(0, 2, 1, 3), softmax_product(q, k, v, None, -0.3))


@pytest.mark.parametrize("kernels", KERNELS)
def test_attention_at_the_edges(kernels):
    q, k, v = draw(1, 1, 4, 8), draw(1, 1, 2100, 8, seed=1), draw(1, 1, 2100, 5, seed=2)
    mask = np.zeros((1, 1, 4, 2100), np.float32)
    mask[0, 0, 0] = -np.inf  # nothing to attend to: 0 / 0
    mask[0, 0, 1, :1500] = -np.inf  # nothing in the first block of keys
    mask[0, 0, 2] = np.finfo(np.float32).min  # all alike, as torch's exports mask
    mask[0, 0, 3, 17] = np.nan
    out = blank(1, 1, 4, 5)
    _native.attention(q, k, v, out, mask, scale=1.0, kernels=kernels)
    assert np.isnan(out[0, 0, [0, 3]]).all()
    expected = softmax_product(q, k, v, mask, 1.0)
    assert_near(out[0, 0, 1], expected[0, 0, 1])
    assert_near(out[0, 0, 2], v[0, 0].astype(float).mean(0))
    # Scores that overflow exp unless the largest is subtracted.
    _native.attention(q * 1000, k, v, out, scale=1.0, kernels=kernels)
    assert_near(out, softmax_product(q * 1000, k, v, None, 1.0), 1e-4)
    empty = blank(1, 1, 4, 5)
    _native.attention(q, k[:, :, :0], v[:, :, :0], empty, scale=1.0, kernels=kernels)
    assert not empty.any()


def test_attention_of_what_does_not_fit_is_refused():
    q, out = draw(1, 2, 3, 4), blank(1, 2, 3, 4)
    wrong = draw(1, 2, 3, 5)
    for arrays in [(q, wrong, q, out), (q, q, draw(1, 2, 4, 4), out), (q, q, q, wrong), (q[0], q, q, out),
                   (q, q, q, out, draw(3, 3)), (q, q, q, out, draw(1, 3, 3, 3)), (q, q, q, out, draw(1, 1, 1, 2)),
                   (q, q.transpose(0, 1, 3, 2), q, out)]:  # fmt: skip
        with pytest.raises(ValueError):
            _native.attention(*arrays, scale=1.0)
    endless = np.broadcast_to(q[:1, :1, :1], (1, 1, 2**40, 4))
    with pytest.raises(ValueError, match="2\\^28"):
        _native.attention(q[:, :1], endless, endless, out[:, :1], scale=1.0)
    row = np.zeros((1, 1, 1, 2**17), np.float32)
    many = np.broadcast_to(row, (1, 1, 2**28, 2**17))
    with pytest.raises(MemoryError):
        _native.attention(row, many, many, row.copy(), scale=1.0)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("columns", [1, 3, 16, 33, 47, 193])
def test_layer_norm_keeps_its_digits_far_from_zero(kernels, columns):
    x, scale, shift = draw(5, columns) + 1000, draw(columns, seed=1), draw(columns, seed=2)
    out = blank(5, columns)
    _native.layer_norm(x, out, scale, shift, epsilon=1e-3, kernels=kernels)
    # The mean is rounded to half a unit of its last place, 3e-5 at 1000, which the result inherits.
    assert_near(out, layer_norm(x.astype(float), scale, shift, 1e-3), 1e-3 if columns < 3 else 1e-4)
    _native.layer_norm(x - 1000, out, scale, epsilon=1e-3, kernels=kernels)
    assert_near(out, layer_norm(x.astype(float) - 1000, scale, 0, 1e-3))


def ulps(got, expected):
    return np.abs(got - expected) / np.spacing(np.abs(expected).astype(np.float32)).astype(float)


@pytest.mark.parametrize("kernels", KERNELS)
def test_errors_of_elementary_functions(kernels):
    x = np.concatenate(
        [np.linspace(-87.3, 88.7, 40001), np.linspace(-4, 4, 40001), np.geomspace(1e-30, 1, 999)]
    )
    x = x.astype(np.float32)
    exact, out = x.astype(float), np.empty_like(x)
    _native.apply("exp", x, out, kernels=kernels)
    assert ulps(out, np.exp(exact)).max() <= 1
    _native.apply("tanh", x, out, kernels=kernels)
    assert ulps(out, np.tanh(exact)).max() <= 2.5
    _native.apply("erf", x, out, kernels=kernels)
    assert ulps(out, erf(exact)).max() <= 5.5
    assert np.abs(out - erf(exact)).max() <= 3.5e-7
    for name in ("gelu", "gelu_tanh", "silu", "relu"):
        _native.apply(name, x, out, kernels=kernels)
        expected = ACTIVATIONS[name](exact)
        assert (np.abs(out - expected) <= 3e-7 * np.maximum(1, np.abs(exact))).all(), name


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("size", [1, 3, 16, 21])
def test_ends_of_elementary_functions(kernels, size):
    limits = {
        "exp": {np.inf: np.inf, -np.inf: 0, 1e30: np.inf, -1e30: 0, 0.0: 1},
        "erf": {np.inf: 1, -np.inf: -1, 1e30: 1, -1e30: -1, 0.0: 0},
        "tanh": {np.inf: 1, -np.inf: -1, 1e30: 1, -1e30: -1, 0.0: 0},
        "relu": {np.inf: np.inf, -np.inf: 0, -1e30: 0},
        "gelu": {np.inf: np.inf, 1e30: np.float32(1e30), -1e30: 0, 0.0: 0},
        "gelu_tanh": {np.inf: np.inf, 1e30: np.float32(1e30), -1e30: 0, 0.0: 0},
        "silu": {np.inf: np.inf, 1e30: np.float32(1e30), -1e30: 0, 0.0: 0},
    }
    for name, cases in limits.items():
        for x, expected in {**cases, np.nan: np.nan}.items():
            out = blank(size)
            _native.apply(name, np.full(size, x, np.float32), out, kernels=kernels)
            np.testing.assert_array_equal(out, np.full(size, expected, np.float32), err_msg=f"{name}({x})")
