"""Whether numbers agree but for rounding: as a whole, and in every slice, so that small parts count too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# How much less exact than the whole tensor a slice of it may be, each beside its own largest magnitude: sums
# that cancel leave small slices with the rounding of their large terms. The engines that are right about
# the benchmarks' models need 0.5 at most (2026-11); the rest is for models with more cancellation.
_SLICE = 5.0
_LEAST_IN_SLICE = 16  # elements; of fewer, the largest magnitude says little about what they could have been
_SHARE = (
    0.01  # of the largest magnitude that the absolute part of a tolerance may reach, so that zeros differ
)
_MOST = 0.5  # of the largest magnitude of the whole, whatever else is allowed: zeros are never right
APPROXIMATION = 3e-7
"""What approximations are off by near zero: ONNX Runtime's Sigmoid by 1e-7, OpenVINO's Erf by 3e-7."""

_ROUNDINGS = 4  # steps of the numbers' own type that are always allowed: half precision has few of them


@dataclass(frozen=True)
class Nearness:
    """How near some numbers are to others.

    Attributes:
        max_abs: largest absolute difference of finite elements; None where one side alone is finite.
        scale: largest finite magnitude of what was expected.
        ok: whether they agree.
        why: which slice differs, or what else is wrong, where the largest difference alone does not show it.
    """

    max_abs: float | None
    scale: float
    ok: bool
    why: str = ""


def nearness(got: Array, expected: Array, *, atol: float, rtol: float) -> Nearness:
    """Compare floating-point or complex numbers; NaN agrees with NaN, infinity with infinity of its sign.

    Two rules hold: of the whole, |got - expected| <= atol + rtol * max|expected|; and the same of each slice
    along each axis, with the slice's own maximum and 5 * rtol. The absolute part shrinks with the maximum,
    so that zeros are never near to numbers however small.

    Args:
        got: any shape.
        expected: of the same shape.
        atol: largest absolute part.
        rtol: relative part; at least four steps of the numbers' type.
    """
    a, b = _wide(got), _wide(expected)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(finite | same):
        return Nearness(None, 0.0, False, "not finite on one side only")
    apart = np.abs(np.subtract(a, b, out=np.zeros_like(a), where=finite))
    size = np.where(finite, np.abs(b), 0.0)
    max_abs, scale = float(apart.max(initial=0.0)), float(size.max(initial=0.0))
    rtol = max(rtol, _ROUNDINGS * _eps(expected.dtype))
    slack = min(float(_slack(np.array(scale), atol)), _MOST * scale) if scale else atol
    if max_abs > slack + rtol * scale:
        return Nearness(max_abs, scale, False)
    why = _wrong_slice(apart, size, slack, _SLICE * rtol)
    return Nearness(max_abs, scale, not why, why)


def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether values of this type (whole numbers, booleans, text) must be equal: they have no roundings."""
    return dtype.kind in "biuOSU" or dtype.name in {"int4", "uint4", "int2", "uint2"}


def is_void(numbers: Array) -> bool:
    """Whether there are numbers of a type with roundings, but none is finite: they agree with anything alike."""
    return not is_exact(numbers.dtype) and numbers.size > 0 and not np.any(np.isfinite(numbers))


def is_near(got: Array, expected: Array, *, atol: float, rtol: float) -> bool:
    """Whether numbers agree, as `nearness` has it."""
    return nearness(got, expected, atol=atol, rtol=rtol).ok


def allowed(scale: Array, *, atol: float, rtol: float) -> Array:
    """How far numbers may be apart that stand among others up to `scale`."""
    return _slack(scale, atol) + rtol * scale


def _wide(numbers: Array) -> Array:
    return numbers.astype(np.complex128 if numbers.dtype.kind == "c" else np.float64)


def _eps(dtype: np.dtype[Any]) -> float:
    """The relative step between numbers of a floating-point type."""
    import ml_dtypes

    plain = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
    return float(ml_dtypes.finfo(plain).eps)  # type: ignore[no-untyped-call]


def _slack(scale: Array, atol: float) -> Array:
    """The absolute part for numbers up to `scale`."""
    return np.minimum(atol, np.maximum(_SHARE * scale, APPROXIMATION))


def _wrong_slice(apart: Array, size: Array, atol: float, rtol: float) -> str:
    """The slice that is furthest off; empty where all are within the tolerance."""
    for axis, off, scale in _slices(apart, size):
        over = off - allowed(scale, atol=atol, rtol=rtol)
        worst = int(np.argmax(over))
        if over[worst] > 0:
            return (
                f"is off by {off[worst]:.1e} at index {worst} of axis {axis}, "
                f"where the largest magnitude is {scale[worst]:.1e}"
            )
    return ""


def _slices(apart: Array, size: Array) -> Iterator[tuple[int, Array, Array]]:
    """Each axis worth looking along, with the largest difference and magnitude of each of its slices."""
    for axis, count in enumerate(apart.shape):
        if count > 1 and apart.size // count >= _LEAST_IN_SLICE:
            others = tuple(other for other in range(apart.ndim) if other != axis)
            yield axis, apart.max(axis=others), size.max(axis=others)
