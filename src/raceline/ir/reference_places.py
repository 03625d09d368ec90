"""GridSample as ONNX defines it, by NumPy: an image looked up at places that lie between its elements.

Source: https://onnx.ai/onnx/operators/onnx__GridSample.html. Legend of shapes: N batch, C channels, P places,
K neighbours of a place along one axis.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from raceline.ir.reference_resize import cubic_weights

Array = np.ndarray[Any, Any]

_CUBIC_A = -0.75
_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""How opset 16 called them."""


def grid_sample(
    x: Array, grid: Array, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Array:
    """Look an image, or a volume, up at the places of a grid.

    Args:
        x: (N, C, *space).
        grid: (N, *out, axes in space), -1 to 1, the innermost axis first.
        mode: nearest, linear or cubic.
        padding_mode: zeros, border or reflection: what lies outside.
        align_corners: 1 where -1 and 1 are the centres of the outermost elements, not their edges.

    Returns:
        (N, C, *out), of x's element type.

    Raises:
        ValueError: a mode that the standard does not know.
    """
    mode, space = _MODES.get(mode, mode), x.shape[2:]
    if mode not in {"nearest", "linear", "cubic"} or padding_mode not in {"zeros", "border", "reflection"}:
        raise ValueError(f"the mode {mode!r} or padding_mode {padding_mode!r} is not one of the standard's")
    # Nearest neighbours in single precision, as engines find them: a place halfway is one for them too.
    kind = np.float64 if mode != "nearest" or grid.dtype == np.float64 else np.float32
    places = grid.reshape(grid.shape[0], -1, len(space))[..., ::-1].astype(kind)
    axes = [
        _neighbours(places[..., i], n, mode, padding_mode, bool(align_corners)) for i, n in enumerate(space)
    ]
    total = np.zeros((*x.shape[:2], places.shape[1]), x.dtype if mode == "nearest" else np.float64)
    x_NCL = x.reshape(*x.shape[:2], -1)
    strides = [int(np.prod(space[i + 1 :])) for i in range(len(space))]
    for one in product(*(range(axis[0].shape[-1]) for axis in axes)):
        at_NP = sum(axis[0][..., k] * stride for axis, k, stride in zip(axes, one, strides, strict=True))
        weight_NP = np.prod([axis[1][..., k] for axis, k in zip(axes, one, strict=True)], axis=0)
        seen_NCP = np.take_along_axis(x_NCL, np.asarray(at_NP)[:, None], axis=2)
        total += (seen_NCP * weight_NP[:, None]).astype(total.dtype, copy=False)
    return total.reshape(*x.shape[:2], *grid.shape[1:-1]).astype(x.dtype, copy=False)


def _neighbours(place: Array, size: int, mode: str, padding: str, aligned: bool) -> tuple[Array, Array]:
    """The elements around each place along one axis, and their weights: (N, P, K) each."""
    half = place.dtype.type(0.5)
    where = (place + 1) * half * (size - 1) if aligned else ((place + 1) * size - 1) * half
    if mode == "nearest":
        # A place outside is moved before it is rounded, so that what lies halfway is reflected halfway.
        inside = _reflected(where, size, aligned) if padding == "reflection" else where
        seen = np.rint(inside)[..., None]
        weight = np.ones_like(seen)
    else:
        seen = np.floor(where)[..., None] + (np.arange(-1, 3) if mode == "cubic" else np.arange(2))
        distance = np.abs(seen - where[..., None])
        weight = cubic_weights(distance, _CUBIC_A) if mode == "cubic" else 1 - distance
    if padding == "zeros":
        weight = np.where((seen >= 0) & (seen <= size - 1), weight, 0)
    elif padding == "reflection":
        seen = _reflected(seen, size, aligned)
    return np.clip(np.nan_to_num(seen), 0, size - 1).astype(np.int64), weight


def _reflected(where: Array, size: int, aligned: bool) -> Array:
    """Places mirrored into the image, at the centres of the outermost elements or at their edges."""
    low, span = (0.0, size - 1) if aligned else (-0.5, size)
    if span == 0:
        return np.zeros_like(where)
    turned = np.mod(where - where.dtype.type(low), 2 * span)
    return np.asarray(np.minimum(turned, 2 * span - turned) + where.dtype.type(low))
