"""Numbers agree but for rounding, in every part of a tensor and at every scale."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceline.ir.near import is_exact, is_near, is_void, nearness

ENGINE = {"atol": 1e-5, "rtol": 1e-4}
LOOSE = {"atol": 1e-5, "rtol": 5e-3}
TOLERANCES = pytest.mark.parametrize("tolerance", [ENGINE, LOOSE], ids=["1e-4", "5e-3"])


def detections():
    """Boxes up to 320 beside class scores of 0.02 down to 1e-4, as a detector gives them: [1, 22, 100]."""
    rng = np.random.default_rng(0)
    scale = np.concatenate([np.full(4, 320.0), np.geomspace(0.02, 1e-4, 18)])
    return (rng.random((1, 22, 100)) * scale[:, None]).astype(np.float32)


def with_channel(channel, new):
    right = detections()
    wrong = right.copy()
    wrong[:, channel] = new(right)
    return wrong, right


@TOLERANCES
@pytest.mark.parametrize("channel", range(22))
@pytest.mark.parametrize("change", ["zero", "scale", "shift", "swap"])
def test_no_channel_is_too_small_to_count(tolerance, channel, change):
    changes = {
        "zero": lambda right: 0 * right[:, channel],
        "scale": lambda right: 1.1 * right[:, channel],
        "shift": lambda right: right[:, channel] + 0.1 * right[:, channel].max(),
        "swap": lambda right: right[:, 5 if channel == 4 else channel - 1],
    }
    wrong, right = with_channel(channel, changes[change])
    found = nearness(wrong, right, **tolerance)
    assert not found.ok
    assert channel < 4 or f"index {channel} of axis 1" in found.why


@TOLERANCES
def test_rounding_passes_at_every_scale(tolerance):
    right = detections()
    noise = np.random.default_rng(1).uniform(-1, 1, right.shape).astype(np.float32)
    for scale in (1e-30, 1e-6, 1.0, 1e30):
        expected = right * np.float32(scale)
        assert is_near(expected * (1 + np.float32(1e-6) * noise), expected, **tolerance)


@TOLERANCES
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("shape", [(1,), (1, 10), (2, 3, 64)])
def test_zeros_are_not_near_to_numbers_however_small(tolerance, scale, shape):
    expected = np.full(shape, scale, np.float32)
    assert not is_near(np.zeros_like(expected), expected, **tolerance)
    assert not is_near(-expected, expected, **tolerance)


def test_what_an_approximation_is_off_by_near_zero_passes():
    expected = np.full((4, 64), 5e-6, np.float32)
    assert is_near(expected + np.float32(1.6e-7), expected, **ENGINE)
    assert not is_near(expected + np.float32(1e-6), expected, **ENGINE)


def test_a_channel_of_zeros_may_hold_rounding():
    expected = np.concatenate([np.zeros((1, 64)), np.ones((1, 64))]).astype(np.float32)
    off = np.zeros_like(expected)
    off[0, 5] = 2e-7
    assert is_near(expected + off, expected, **ENGINE)
    assert not is_near(expected + 100 * off, expected, **ENGINE)


def test_few_elements_are_judged_with_the_others():
    expected = np.array([[1.0, 1e-4]], np.float32)  # logits of one item: the second cancelled
    assert is_near(expected + np.float32(2e-5), expected, **ENGINE)


@pytest.mark.parametrize("got", [[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2]])
def test_what_is_not_finite_must_be_the_same(got):
    expected = np.array([np.inf, 1, 2], np.float32)
    found = nearness(np.array(got, np.float32), expected, **ENGINE)
    assert found.ok == (got[0] == np.inf)
    assert found.ok or (found.max_abs is None and "one side" in found.why)


def test_imaginary_parts_count():
    expected = np.ones((4, 64), np.complex64)
    assert is_near(expected * np.complex64(1 + 1e-6j), expected, **ENGINE)
    assert not is_near(expected * np.complex64(1 + 1e-2j), expected, **ENGINE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_type_is_allowed_its_own_roundings(dtype):
    expected = np.ones(64, np.float32)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert is_near((expected + 2 * eps).astype(dtype), expected.astype(dtype), **ENGINE)
    assert not is_near((expected + 20 * eps).astype(dtype), expected.astype(dtype), **ENGINE)


@given(st.integers(0, 2**32 - 1), st.floats(-25, 25), st.lists(st.integers(0, 5), max_size=4))
def test_everything_is_near_to_itself_and_nothing_to_twice_itself(seed, power, shape):
    numbers = (np.random.default_rng(seed).standard_normal(shape) * 10.0**power).astype(np.float32)
    assert is_near(numbers, numbers, atol=0.0, rtol=0.0)
    assert numbers.size == 0 or not np.abs(numbers).max() or not is_near(2 * numbers, numbers, **LOOSE)


@pytest.mark.parametrize("dtype", [np.int8, bool, object, "U4", ml_dtypes.int4])
def test_types_without_roundings(dtype):
    assert is_exact(np.dtype(dtype)) and not is_void(np.zeros(2, dtype))


def test_nothing_finite_is_void():
    assert is_void(np.array([np.nan, np.inf], np.float32)) and is_void(np.full(2, np.nan, ml_dtypes.bfloat16))
    assert not is_void(np.array([np.nan, 0], np.float32)) and not is_void(np.zeros(0, np.float32))
