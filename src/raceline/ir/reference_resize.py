"""Resize as ONNX defines it, by NumPy: each output position of an axis is a weighted sum of some input positions.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html. Legend of shapes: O positions out, K positions that
each of them sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


_PLACES = (
    "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "tf_half_pixel_for_nn",
    "align_corners", "tf_crop_and_resize",
)  # fmt: skip
_KNOWN = {
    "mode": ("nearest", "linear", "cubic"),
    "coordinate_transformation_mode": _PLACES,
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
}


@dataclass(frozen=True)
class Resampling:
    """The attributes of Resize, by the standard's names.

    Raises:
        ValueError: a mode that the standard does not know.
    """

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    antialias: int = 0
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    keep_aspect_ratio_policy: str = "stretch"

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")


@dataclass(frozen=True)
class _Axis:
    """One axis: its lengths before and after, the latter also before it was rounded, and what is cropped."""

    size: int
    out: int
    target: np.floating[Any]
    scale: np.floating[Any]
    start: float = 0.0
    end: float = 1.0

    @property
    def stays(self) -> bool:
        """Whether it keeps its length; where all axes do, a scale of 1.2 changes nothing, as in runtimes."""
        return self.out == self.size and (self.start, self.end) == (0, 1)


def resize(
    x: Array,
    how: Resampling,
    *,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    roi: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
) -> Array:
    """Resize some axes, one after another.

    Args:
        x: any shape.
        how: the way to interpolate.
        scales: one for each of `axes`.
        sizes: one for each of `axes`, where there are no scales.
        roi: where to begin on each of `axes`, then where to end; parts of the input's length.
        axes: all of them where None.

    Returns:
        of x's element type; integers are rounded towards zero, as runtimes do.

    Raises:
        ValueError: neither scales nor sizes, or both; a crop without its roi.
    """
    chosen = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    lengths = [x.shape[axis] for axis in chosen]
    ends = [(0.0, 1.0)] * len(chosen)
    if how.coordinate_transformation_mode == "tf_crop_and_resize":
        if roi is None:
            raise ValueError("tf_crop_and_resize needs the input roi")
        ends = list(zip(roi[: len(chosen)], roi[len(chosen) :], strict=True))
    if scales is not None and sizes is None:
        plan = _by_scales(lengths, scales, ends)
    elif sizes is not None and scales is None:
        plan = _by_sizes(lengths, sizes, ends, how)
    else:
        raise ValueError("Resize needs either scales or sizes, and not both")
    if all(one.stays for one in plan):
        return x
    # Nearest neighbours are never mixed; everything else is, in double precision.
    total = x if how.mode == "nearest" else x.astype(np.float64)
    # The last axes first, while there is less to gather along them, which is slow.
    for axis, one in sorted(zip(chosen, plan, strict=True), key=itemgetter(0), reverse=True):
        # One axis alone that keeps its length by a scale of 1.2 is resampled, but not, in runtimes, antialiased.
        if not one.stays or (one.scale != 1 and not how.antialias):
            total = _resized(total, axis, one, how)
    if x.dtype.kind in "iu" and x.dtype.itemsize < 4:
        total = total.astype(np.float32)  # 2.9999999999 is a 3
    return total.astype(x.dtype, copy=False)


def upsample(x: Array, scales: Sequence[float], mode: str) -> Array:
    """Resize as it was before opset 11: output position i sees input position i / scale.

    Args:
        x: any shape.
        scales: one per axis.
        mode: nearest or linear.
    """
    for axis, scale in enumerate(scales):
        # The standard is silent here; runtimes round up when shrinking.
        how = Resampling(mode, "asymmetric", "ceil" if scale < 1 else "floor")
        x = resize(x, how, scales=[scale], axes=[axis])
    return x


def cubic_weights(distance: Array, a: float) -> Array:
    """Keys' filter at each distance from its centre, zero from 2 on.

    Source: equation 4 of https://ieeexplore.ieee.org/document/1163711.
    """
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _by_scales(
    lengths: Sequence[int], scales: Sequence[float], ends: Sequence[tuple[float, float]]
) -> list[_Axis]:
    """The axes' lengths from scales, in single precision as they are: 10 * 0.7 must count as 7."""
    plan = []
    for length, scale, (start, end) in zip(lengths, np.asarray(scales, np.float32), ends, strict=True):
        target = np.float32(length) * np.float32(end - start) * scale
        plan.append(_Axis(length, int(target), target, scale, start, end))
    return plan


def _by_sizes(
    lengths: Sequence[int], sizes: Sequence[int], ends: Sequence[tuple[float, float]], how: Resampling
) -> list[_Axis]:
    """The axes' lengths from sizes, or from the one of them that bounds the scale of all."""
    pairs = list(zip(map(int, sizes), lengths, strict=True))
    policy = how.keep_aspect_ratio_policy
    if policy != "stretch":
        bound = {"not_larger": min, "not_smaller": max}[policy]
        part, whole = bound(pairs, key=lambda pair: pair[0] / pair[1])
        # In whole numbers, so that halves are exact; they are rounded up.
        sizes = [(2 * length * part + whole) // (2 * whole) for length in lengths]
        pairs = [(part, whole)] * len(lengths)
    plan = []
    for length, size, (part, whole), (start, end) in zip(lengths, sizes, pairs, ends, strict=True):
        scale = np.float64(part) / np.float64(whole)
        plan.append(_Axis(length, int(size), np.float64(size), scale, start, end))
    return plan


def _resized(x: Array, axis: int, one: _Axis, how: Resampling) -> Array:
    """One axis resized; it is last while that happens."""
    if one.out == 0:
        return np.zeros((*x.shape[:axis], 0, *x.shape[axis + 1 :]), x.dtype)
    if how.mode == "nearest":
        place = _places(one, how, np.float32)
        total = x.take(np.clip(_nearest(place, how.nearest_mode), 0, one.size - 1), axis)
    else:
        place = _places(one, how, np.float64)
        total = _mixed(x, axis, *_taps(place, one, how))
    if how.coordinate_transformation_mode == "tf_crop_and_resize":
        outside = (place < 0) | (place > one.size - 1)
        total[(slice(None),) * axis + (outside,)] = how.extrapolation_value
    return total


def _places(one: _Axis, how: Resampling, kind: type[np.floating[Any]]) -> Array:
    """Where in the input each output position lies.

    For the nearest neighbour in single precision, as the scales are: 6 / 1.2 must count as 5.
    """
    i, scale, last = np.arange(one.out, dtype=kind), kind(one.scale), kind(one.size - 1)
    half = kind(0.5)
    match how.coordinate_transformation_mode:
        case "half_pixel":
            place = (i + half) / scale - half
        case "pytorch_half_pixel":
            place = (i + half) / scale - half if one.out > 1 else np.zeros_like(i)
        case "half_pixel_symmetric":
            offset = kind(one.size) / 2 * (1 - kind(one.out) / kind(one.target))
            place = offset + (i + half) / scale - half
        case "asymmetric":
            place = i / scale
        case "tf_half_pixel_for_nn":  # of opset 11 only
            place = (i + half) / scale
        case "align_corners":
            # By the target's length before it is rounded down, as the standard's own examples have it and its
            # author confirmed (https://github.com/onnx/onnx/issues/2462); runtimes take the rounded length.
            place = i * last / (kind(one.target) - 1) if one.out > 1 else np.zeros_like(i)
        case _:  # a crop
            start, end = kind(one.start), kind(one.end)
            step = (end - start) * last / kind(max(1, one.out - 1))
            place = start * last + i * step if one.out > 1 else half * (start + end) * last + i
    return np.asarray(place, kind)


def _nearest(place: Array, mode: str) -> Array:
    """The input position nearest to each place."""
    half = place.dtype.type(0.5)
    rounded = {
        "round_prefer_floor": np.ceil(place - half),
        "round_prefer_ceil": np.floor(place + half),
        "floor": np.floor(place),
        "ceil": np.ceil(place),
    }[mode]
    return np.asarray(rounded, np.int64)


def _taps(place: Array, one: _Axis, how: Resampling) -> tuple[Array, Array]:
    """The input positions that each output position sees, inside the input, and their weights: (O, K) each."""
    cubic = how.mode == "cubic"
    # Antialiasing stretches the filter where the input is made smaller.
    narrow = min(1.0, float(one.scale)) if how.antialias else 1.0
    reach = int(np.ceil((2 if cubic else 1) / narrow))
    seen = np.floor(place).astype(np.int64)[:, None] + np.arange(1 - reach, 1 + reach)
    distance = np.abs(seen - place[:, None]) * narrow
    weight = cubic_weights(distance, how.cubic_coeff_a) if cubic else np.maximum(0, 1 - distance)
    inside = np.clip(seen, 0, one.size - 1)
    if how.exclude_outside:
        kept = np.where(inside == seen, weight, 0)
        # A place so far out that it sees nothing inside takes the edge.
        weight = np.where(kept.sum(axis=1, keepdims=True) == 0, weight, kept)
    return inside, weight / weight.sum(axis=1, keepdims=True)


def _mixed(x: Array, axis: int, seen: Array, weight: Array) -> Array:
    """The weighted sum along one axis."""
    along = (-1, *[1] * (x.ndim - axis - 1))
    total = x.take(seen[:, 0], axis) * weight[:, 0].reshape(along)
    for k in range(1, seen.shape[1]):
        total += x.take(seen[:, k], axis) * weight[:, k].reshape(along)
    return np.asarray(total)
