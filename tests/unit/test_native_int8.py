"""Products of 8-bit matrices of our own are exact on every instruction set, and end as ONNX's operators do."""

import itertools
import math

import numpy as np
import pytest

from raceline import _native

KERNELS = _native.int8_kernels()
FORMS = {"avx512_vnni": [False], "avx_vnni": [False], "avx512bw": [False, True], "avx2": [False, True],
         "plain": [True]}  # fmt: skip
WIDEST = {"avx512_vnni": 4, "avx_vnni": 3, "avx512bw": 4, "avx2": 3, "plain": 2}


def whole(shape, seed, low, high, dtype):
    return np.random.default_rng(seed).integers(low, high, shape, dtype, endpoint=True)


def trained(k, n, seed=1, spread=32):
    """Weights as they are found in networks: of two neighbours rarely both are large."""
    drawn = np.random.default_rng(seed).standard_normal((k, n)) * spread
    return np.clip(np.rint(drawn), -127, 127).astype(np.int8)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sums(x, zero, weight):
    return (x.astype(np.int64) - zero) @ weight.astype(np.int64)


def plans(kernels):
    return [
        (v, rows, wide) for v in range(1, WIDEST[kernels] + 1) for rows in (5, 40) for wide in FORMS[kernels]
    ]


def quantised(x, scale, zero, dtype):
    limits = np.iinfo(dtype)
    held = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
    return held.astype(np.int64)


def test_the_plain_kernels_are_always_there_and_the_last():
    assert KERNELS[-1] == "plain"
    assert set(KERNELS) <= set(WIDEST)
    assert ("avx2" in KERNELS) == {"avx2", "fma"}.issubset(_native.instruction_sets())


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [1, 2, 14, 15, 33])
def test_sums_of_odd_shapes_are_exact(kernels, rows):
    for k, n in itertools.product([1, 3, 4, 5, 63, 64, 65, 130], [1, 7, 16, 17, 31, 50, 130]):
        x = whole((rows, k), 0, 0, 255, np.uint8)
        weight = whole((k, n), 1, -128, 127, np.int8)
        expected = sums(x, 7, weight)
        for plan in plans(kernels)[rows % 2 :: 2]:
            linear = _native.Int8Linear(weight, np.ones(n, np.float32), rows=rows, kernels=kernels, plan=plan)
            out = np.full((rows, n), np.nan, np.float32)
            linear.run(x, out, scale=1.0, zero_point=7)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("weight", [-128, 127, -127, 100])
@pytest.mark.parametrize("byte", [0, 255])
def test_nothing_saturates(kernels, weight, byte):
    """The largest products, which pairs of 16 bits cannot hold, alone and among others of either sign."""
    k, n = 520, 40
    weights = np.full((k, n), weight, np.int8)
    weights[:, 1::3] = whole((k, len(range(1, n, 3))), 2, -128, 127, np.int8)
    weights[:, 2::3] = np.where(np.arange(k) % 3 == 0, 127, -128)[:, None]
    x = np.full((9, k), byte, np.uint8)
    x[3] = 255 - byte
    x[4, ::2] = 255 - byte
    for zero, wide in itertools.product((0, 255), FORMS[kernels]):
        linear = _native.Int8Linear(
            weights, np.ones(n, np.float32), rows=9, kernels=kernels, plan=(2, 112, wide)
        )
        out = np.empty((9, n), np.float32)
        linear.run(x, out, scale=1.0, zero_point=zero)
        np.testing.assert_array_equal(out, sums(x, zero, weights).astype(np.float32))


@pytest.mark.parametrize("kernels", KERNELS)
def test_sums_of_the_greatest_depth_fit(kernels):
    x, weight = np.full((3, 32768), 255, np.uint8), np.full((32768, 17), -128, np.int8)
    for zero, wide in itertools.product((0, 255), FORMS[kernels]):
        linear = _native.Int8Linear(
            weight, np.ones(17, np.float32), rows=3, kernels=kernels, plan=(1, 112, wide)
        )
        out = np.empty((3, 17), np.float32)
        linear.run(x, out, scale=1.0, zero_point=zero)
        np.testing.assert_array_equal(out, sums(x, zero, weight).astype(np.float32))


@pytest.mark.parametrize("kernels", KERNELS)
def test_few_of_the_usual_weights_are_split_and_those_of_seven_bits_never(kernels):
    usual, small = trained(256, 96), trained(256, 96, spread=16).clip(-64, 64)
    ones = np.ones(96, np.float32)
    for wide in FORMS[kernels]:
        given = {"rows": 8, "kernels": kernels, "plan": (2, 112, wide)}
        assert _native.Int8Linear(small, ones, **given).split_share == 0
        share = _native.Int8Linear(usual, ones, **given).split_share
        saturates = kernels in {"avx2", "avx512bw"} and not wide
        assert 0 < share < 0.25 if saturates else share == 0


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("of_x", [np.uint8, np.int8, np.float32], ids=lambda t: t.__name__)
@pytest.mark.parametrize("of_out", [np.uint8, np.int8, np.float32], ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ["", "relu", "gelu"])
def test_what_is_fused_around_a_product(kernels, of_x, of_out, activation):
    rows, k, n, scale, out_scale = 37, 66, 53, 0.03, 0.11
    zero, out_zero = (-9 if of_x == np.int8 else 121), (5 if of_out == np.int8 else 117)
    weight, steps, bias = trained(k, n), np.abs(draw(n, seed=3)) * 0.01 + 0.001, draw(n, seed=4)
    residual = draw(rows, n, seed=5)
    bytes_ = np.int8 if of_x == np.int8 else np.uint8
    limits = np.iinfo(bytes_)
    x = whole((rows, k), 0, limits.min, limits.max, bytes_)
    given = ((x.astype(np.float32) - zero) * np.float32(scale)) if of_x == np.float32 else x
    expected = sums(x, zero, weight) * (scale * steps.astype(float)) + bias
    if activation == "relu":
        expected = np.maximum(expected, 0)
    elif activation:
        expected = 0.5 * expected * (1 + np.vectorize(math.erf)(expected / math.sqrt(2)))
    for added in (None, residual):
        total = expected if added is None else expected + added
        for plan in plans(kernels)[::3]:
            linear = _native.Int8Linear(weight, steps, bias, rows=rows, kernels=kernels, plan=plan)
            call = {"scale": scale, "zero_point": zero, "out_scale": out_scale, "out_zero_point": out_zero,
                    "activation": activation}  # fmt: skip
            if of_out == np.float32:
                call["out_scale"], call["out_zero_point"] = 1.0, 0
            out, again = np.zeros((rows, n), of_out), np.zeros((rows, n), of_out)
            linear.run(given, out, residual=added, **call)
            linear.run(given, again, residual=added, threads=3, **call)
            np.testing.assert_array_equal(again, out)
            if of_out == np.float32:
                assert np.abs(out - total).max() <= 3e-6 * np.abs(total).max()
            else:  # at a tie the last bit of the float decides
                exact = quantised(total, out_scale, out_zero, of_out)
                wrong = np.flatnonzero(out.astype(int) != exact)
                assert np.abs(out.astype(int) - exact).max() <= 1
                assert len(wrong) <= 3


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_plan_found_by_timing_gives_the_same_numbers(kernels):
    x = whole((40, 128), 0, 0, 255, np.uint8)
    for weight in (trained(128, 96), whole((128, 96), 1, -128, 127, np.int8)):
        linear = _native.Int8Linear(weight, np.ones(96, np.float32), rows=40, kernels=kernels, seconds=0.01)
        out = np.empty((40, 96), np.float32)
        linear.run(x, out, scale=1.0, zero_point=128)
        np.testing.assert_array_equal(out, sums(x, 128, weight))
        assert linear.plan[2] in FORMS[kernels]
        assert linear.size_bytes >= weight.nbytes


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_and_columns_may_lie_apart(kernels):
    wide_x, wide_weight = whole((9, 40), 0, 0, 255, np.uint8), trained(20, 90)
    wide_out = np.zeros((9, 70), np.uint8)
    x, weight, out = wide_x[:, 5:25], wide_weight[:, 3:53], wide_out[:, 10:60]
    linear = _native.Int8Linear(weight, np.full(50, 0.01, np.float32), rows=9, kernels=kernels)
    linear.run(x, out, scale=1.0, zero_point=3, out_scale=1.0, out_zero_point=128)
    exact = quantised(sums(x, 3, weight) * np.float32(0.01).astype(float), 1, 128, np.uint8)
    assert np.abs(out.astype(int) - exact).max() <= 1
    assert not wide_out[:, :10].any() and not wide_out[:, 60:].any()


@pytest.mark.parametrize("kernels", KERNELS)
def test_nothing_to_multiply(kernels):
    def blank(*shape, dtype=np.uint8):
        return np.zeros(shape, dtype)

    ones, out = np.ones(4, np.float32), blank(3, 4, dtype=np.float32)
    _native.Int8Linear(blank(0, 4, dtype=np.int8), ones, ones, rows=3, kernels=kernels).run(
        blank(3, 0), out, scale=1
    )
    np.testing.assert_array_equal(out, np.ones((3, 4)))
    _native.Int8Linear(blank(4, 0, dtype=np.int8), ones[:0], rows=3, kernels=kernels).run(
        blank(3, 4), out[:, :0], scale=1
    )
    _native.Int8Linear(blank(4, 4, dtype=np.int8), ones, rows=0, kernels=kernels).run(
        blank(0, 4), out[:0], scale=1
    )


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=lambda t: t.__name__)
@pytest.mark.parametrize("size", [1, 7, 16, 37])
def test_quantising_rounds_half_to_even_and_holds_what_is_beyond(kernels, dtype, size):
    limits = np.iinfo(dtype)
    x = np.resize(np.array([0.25, 0.75, -0.25, 1e30, -1e30, np.inf, -np.inf, 3.2, 60.0], np.float32), size)
    out = np.zeros(size, dtype)
    for zero in (limits.min, 3, limits.max):
        _native.quantise(x, out, scale=0.5, zero_point=int(zero), kernels=kernels)
        np.testing.assert_array_equal(out, quantised(x.astype(float), 0.5, int(zero), dtype))
    _native.quantise(np.full(size, np.nan, np.float32), out, scale=0.5, kernels=kernels)
    np.testing.assert_array_equal(out, np.full(size, limits.min, dtype))  # a byte has no NaN


def test_what_does_not_fit_is_refused():
    weight, ones = trained(8, 6), np.ones(6, np.float32)
    linear = _native.Int8Linear(weight, ones, rows=4)
    x, out, small = np.zeros((4, 8), np.uint8), np.zeros((4, 6), np.float32), np.zeros((4, 6), np.int8)
    refused = [
        lambda: _native.Int8Linear(weight[0], ones, rows=4),
        lambda: _native.Int8Linear(weight, ones[:5], rows=4),
        lambda: _native.Int8Linear(weight, ones, ones[:5], rows=4),
        lambda: _native.Int8Linear(weight.astype(np.uint8), ones, rows=4),
        lambda: _native.Int8Linear(weight, ones, rows=4, plan=(9, 112, False)),
        lambda: _native.Int8Linear(weight, ones, rows=4, plan=(1, 0, False)),
        lambda: _native.Int8Linear(weight, ones, rows=4, plan=(1, 112, False), kernels="plain"),
        lambda: _native.Int8Linear(np.zeros((32769, 1), np.int8), ones[:1], rows=1),
        lambda: linear.run(x[:, :7], out, scale=1.0),
        lambda: linear.run(x, out[:3], scale=1.0),
        lambda: linear.run(x.astype(np.int16), out, scale=1.0),
        lambda: linear.run(x, out.astype(np.float64), scale=1.0),
        lambda: linear.run(x, out, scale=0.0),
        lambda: linear.run(x, out, scale=math.nan),
        lambda: linear.run(x, out, scale=1e-45),
        lambda: linear.run(x, out, scale=1.0, zero_point=256),
        lambda: linear.run(x, out, scale=1.0, zero_point=-1),
        lambda: linear.run(x.view(np.int8), out, scale=1.0, zero_point=128),
        lambda: linear.run(x, small, scale=1.0, out_scale=-1.0),
        lambda: linear.run(x, small, scale=1.0, out_zero_point=128),
        lambda: linear.run(x, out, scale=1.0, residual=out[:, :5]),
        lambda: linear.run(x, out, scale=1.0, activation="mish"),
        lambda: linear.run(x, out, scale=1.0, threads=0),
        lambda: linear.run(np.broadcast_to(x[:1], (4, 8)), out, scale=1.0),
        lambda: _native.quantise(ones, small[0][:5], scale=1.0),
        lambda: _native.quantise(ones, out[0], scale=1.0),
    ]
    for call in refused:
        with pytest.raises((ValueError, TypeError)):
            call()
    with pytest.raises(KeyError, match="abacus"):
        _native.Int8Linear(weight, ones, rows=4, kernels="abacus")
