"""Weights as whole numbers: a scale for each channel, or for each block of few weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.convert.quantise.insert import rounded

Array = np.ndarray[Any, Any]
_SHRINKING = np.linspace(1.0, 0.7, 13)  # shares of a block's reach that are tried as its range
_NOTHING = 1e-36  # weights below it vanish in any sum, and scales for them would be denormal
_CHUNK = 1 << 20  # weights that are rounded at a time, so that the trials stay in the caches


@dataclass(frozen=True)
class Rounded:
    """A weight in whole numbers: (whole - zero) * scale.

    Attributes:
        whole: of the weight's shape; int8, or 4 bits in the types of ml_dtypes.
        scale: float32; of one axis, or of the weight's shape with `axis` divided by `block`.
        zero: as the scale; None where it is 0.
        axis: of the channels, or along which blocks lie.
        block: weights that share a scale; 0 where a channel does.
    """

    whole: Array
    scale: Array
    zero: Array | None
    axis: int
    block: int = 0

    @property
    def bits(self) -> int:
        """Of each weight."""
        return 4 if self.block else 8


def rounded_channels(weight: Array, axis: int) -> Rounded:
    """A weight in 8 bits around zero, with a scale for each index of an axis."""
    whole, scale = rounded(weight, axis, 8)
    return Rounded(whole, scale, None, axis)


def rounded_blocks(weight: Array, axis: int, block: int, *, asymmetric: bool) -> Rounded:
    """A weight in 4 bits with a scale for each block along an axis, chosen for the least squared error.

    Args:
        weight: float32; `block` divides its `axis`.
        axis: along which blocks lie.
        block: weights in one.
        asymmetric: 0..15 with a zero point for each block; else -8..7 around zero, the largest weight at -8.
    """
    import ml_dtypes

    last = np.ascontiguousarray(np.moveaxis(weight, axis, -1))
    rows = last.reshape(-1, block)
    step = max(1, _CHUNK // block)
    found = [_fitted(rows[at : at + step], asymmetric=asymmetric) for at in range(0, len(rows), step)]
    whole, scale, zero = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kind = ml_dtypes.uint4 if asymmetric else ml_dtypes.int4
    blocks = (*last.shape[:-1], last.shape[-1] // block)
    return Rounded(
        _back(whole.reshape(last.shape), axis).astype(kind),
        _back(scale.reshape(blocks), axis),
        _back(zero.reshape(blocks), axis).astype(kind) if asymmetric else None,
        axis,
        block,
    )


def _back(array: Array, axis: int) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, -1, axis))


def _fitted(rows: Array, *, asymmetric: bool) -> tuple[Array, Array, Array]:
    """Whole numbers (int8), scales and zero points (one a row) of the range with the least squared error."""
    reach = np.abs(rows).max(axis=1, keepdims=True)
    reach = np.where(reach < _NOTHING, np.float32(np.inf), reach)  # such rows become zeros
    rows = rows / reach
    low, high = _range(rows, asymmetric=asymmetric)
    best = np.full((len(rows), 1), np.inf, np.float32)
    whole = np.zeros(rows.shape, np.int8)
    scale, zero = np.ones_like(best), np.zeros(best.shape, np.int8)
    for share in _SHRINKING.astype(np.float32):
        trial, steps, level = _in_sixteen(rows, low * share, high * share, asymmetric=asymmetric)
        error = (((trial - level) * steps - rows) ** 2).sum(axis=1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        whole = np.where(better, trial, whole).astype(np.int8)
        scale, zero = np.where(better, steps, scale), np.where(better, level, zero).astype(np.int8)
    return whole, (scale * np.where(np.isinf(reach), 1, reach)).astype(np.float32), zero


def _range(rows: Array, *, asymmetric: bool) -> tuple[Array, Array]:
    """The least and the largest of a row and zero; around zero: the farthest one, with its sign, twice."""
    low = np.minimum(rows.min(axis=1, keepdims=True), 0)
    high = np.maximum(rows.max(axis=1, keepdims=True), 0)
    if asymmetric:
        return low, high
    farthest = np.where(-low > high, low, high)
    return farthest, farthest


def _in_sixteen(rows: Array, low: Array, high: Array, *, asymmetric: bool) -> tuple[Array, Array, Array]:
    """Rows in 16 whole numbers, with their scales and zero points; a row of zeros has any scale."""
    scale = (high - low) / np.float32(15) if asymmetric else high / np.float32(-8)
    scale = np.where(scale == 0, np.float32(1), scale)
    if asymmetric:
        zero = np.clip(np.rint(-low / scale), 0, 15)
        return np.clip(np.rint(rows / scale) + zero, 0, 15), scale, zero
    return np.clip(np.rint(rows / scale), -8, 7), scale, np.zeros_like(scale)
