"""Pictures in another size, and sampled along a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import fixed, ints
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


def _resize(b: Builder, x: Any, sizes: Any, factors: Any, **settings: Any) -> Any:
    """Resize the axes behind the channels to sizes, or by factors."""
    given = [item for item in factors or [] if item is not None]
    if given and len(given) == b.rank(x) - 2:
        scales = b.constant(np.array([1, 1, *fixed(given, "factors")], np.float32))
        expected = None if sizes is None else [s for s in sizes if not isinstance(s, Scalar)]
        have = b.shape(x)[2:]
        if expected is None or expected == [
            int(np.floor(h * np.float32(f))) if isinstance(h, int) else None
            for h, f in zip(have, given, strict=True)
        ]:
            return b.op("Resize", x, None, scales, **settings)
    if sizes is None:
        raise UnsupportedError("neither a size nor a factor is given")
    front = [b.shape(x)[0], b.shape(x)[1]]
    known = [
        d if isinstance(d, int) else Scalar(b.op("Shape", x, start=at, end=at + 1), int)
        for at, d in enumerate(front)
    ]
    return b.op("Resize", x, None, None, ints(b, [*known, *sizes]), **settings)


@rules("aten::upsample_nearest1d", "aten::upsample_nearest2d", "aten::upsample_nearest3d",
       "aten::_upsample_nearest_exact1d", "aten::_upsample_nearest_exact2d")  # fmt: skip
def nearest(b: Builder, node: Node, x: Any, sizes: Any, *factors: Any) -> Any:
    """The nearest element."""
    exact = "exact" in node.op
    settings = {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel" if exact else "asymmetric",
        "nearest_mode": "round_prefer_ceil" if exact else "floor",
    }
    return _resize(b, x, sizes, factors[0] if node.overload == "vec" else list(factors), **settings)


@rules("aten::upsample_linear1d", "aten::upsample_bilinear2d", "aten::upsample_trilinear3d",
       "aten::upsample_bicubic2d")  # fmt: skip
def linear(b: Builder, node: Node, x: Any, sizes: Any, align: Any, *factors: Any) -> Any:
    """Linear or cubic interpolation."""
    settings: dict[str, Any] = {
        "mode": "cubic" if "bicubic" in node.op else "linear",
        "coordinate_transformation_mode": "align_corners" if align else "half_pixel",
    }
    if "bicubic" in node.op:
        settings["cubic_coeff_a"] = -0.75
    return _resize(b, x, sizes, factors[0] if node.overload == "vec" else list(factors), **settings)


_MODES = ("linear", "nearest", "cubic")
_PADDING = ("zeros", "border", "reflection")


@rules("aten::grid_sampler", "aten::grid_sampler_2d", "aten::grid_sampler_3d")
def grid_sampler(b: Builder, node: Node, x: Any, grid: Any, mode: Any, padding: Any, align: Any) -> Any:
    """Elements at the places that a grid names."""
    return b.op(
        "GridSample",
        x,
        grid,
        mode=_MODES[mode],
        padding_mode=_PADDING[padding],
        align_corners=int(bool(align)),
    )


@rules("aten::affine_grid_generator")
def affine_grid(b: Builder, node: Node, theta: Any, sizes: Any, align: Any) -> Any:
    """The grid of an affine map."""
    return b.op("AffineGrid", theta, ints(b, sizes), align_corners=int(bool(align)))
