"""MaxPool, AveragePool and LpPool as ONNX defines them, by NumPy: one kernel position of all windows at a time.

Source: https://onnx.ai/onnx/operators/onnx__AveragePool.html and its siblings. Legend of shapes: N batch,
C channels. ONNX Runtime (1.32) leaves the dilation out where it pads by SAME; the standard, and so this, do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raceline.ir.reference_kernels import pads_around, widen, window

Array = np.ndarray[Any, Any]
Ints = Sequence[int]


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pool lie, per axis in space.

    Attributes:
        kernel: elements of a window.
        dilations: from one of them to the next.
        strides: from one window to the next.
        before: padding before the input.
        after: padding after it.
        out: windows.
    """

    kernel: Ints
    dilations: Ints
    strides: Ints
    before: Ints
    after: Ints
    out: Ints

    @classmethod
    def over(
        cls,
        space: Ints,
        kernel_shape: Ints,
        *,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Ints | None = None,
        pads: Ints | None = None,
        strides: Ints | None = None,
    ) -> Windows:
        """The windows over an input of these sizes, by the operators' attributes."""
        dilations, strides = dilations or [1] * len(space), strides or [1] * len(space)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
        before, after = pads_around(auto_pad, pads, space, reach, strides)
        # With auto_pad the standard's formulas give one number, of whole windows; ONNX Runtime rounds VALID up too.
        ceil = bool(ceil_mode) and auto_pad in {"", "NOTSET"}
        zipped = zip(space, before, after, reach, strides, strict=True)
        out = [_num_windows(n, b, a, r, s, ceil) for n, b, a, r, s in zipped]
        if min(out, default=1) < 1:
            raise ValueError(f"a window that reaches {reach} does not fit into {list(space)} and its padding")
        return cls(kernel_shape, dilations, strides, before, after, out)

    def padded(self, x: Array, fill: Any) -> Array:
        """The input with all that the windows reach before and after it."""
        space = x.shape[-len(self.out) :]
        zipped = zip(self.out, self.strides, self.kernel, self.dilations, strict=True)
        ends = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zipped]
        grown = [(b, max(0, end - n - b)) for n, b, end in zip(space, self.before, ends, strict=True)]
        return np.pad(x, [(0, 0)] * (x.ndim - len(grown)) + grown, constant_values=fill)

    def seen(self, padded: Array) -> Iterator[Array]:
        """What all windows see at each position of the kernel: (..., *out)."""
        for at in np.ndindex(*self.kernel):
            yield padded[window(at, self.dilations, self.strides, self.out)]


def max_pool(x: Array, windows: Windows) -> Array:
    """The largest element of each window; padding never wins: (N, C, *space) to (N, C, *out)."""
    lowest = _lowest(x)
    best = np.full((*x.shape[:2], *windows.out), lowest, x.dtype)
    for seen in windows.seen(windows.padded(x, lowest)):
        np.maximum(best, seen, out=best)
    return best


def max_pool_places(x: Array, windows: Windows, storage_order: int = 0) -> Array:
    """Where each window's largest element lies in the whole tensor, the first of equal ones: (N, C, *out).

    Args:
        x: (N, C, *space).
        windows: of the pool.
        storage_order: 1 counts the elements of a channel with the first axis in space fastest.
    """
    space = x.shape[2:]
    order = np.arange(int(np.prod(space))).reshape(space, order="F" if storage_order else "C")
    places = windows.seen(windows.padded(order, -1))
    best = np.full((*x.shape[:2], *windows.out), _lowest(x), x.dtype)
    found = np.full(best.shape, -1, np.int64)
    for seen, place in zip(windows.seen(windows.padded(x, _lowest(x))), places, strict=True):
        better = (seen > best) | (np.isnan(seen) & ~np.isnan(best))
        wins = (place >= 0) & ((found < 0) | better)
        best, found = np.where(wins, seen, best), np.where(wins, place, found)
    channel = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(space))
    return np.asarray(found + channel * order.size)


def average_pool(x: Array, windows: Windows, count_include_pad: int = 0) -> Array:
    """The mean of each window: (N, C, *space) to (N, C, *out).

    Args:
        x: (N, C, *space).
        windows: of the pool.
        count_include_pad: 1 counts padding as zeros; what lies beyond it never counts.
    """
    total: Any = sum(windows.seen(windows.padded(widen(x), 0)))
    counted, space = windows, x.shape[2:]
    if count_include_pad:
        space = tuple(b + n + a for b, n, a in zip(windows.before, space, windows.after, strict=True))
        counted = replace(windows, before=[0] * len(space))
    number: Any = sum(counted.seen(counted.padded(np.ones(space, total.dtype), 0)))
    return np.asarray((total / number).astype(x.dtype, copy=False))


def lp_pool(x: Array, windows: Windows, p: int = 2) -> Array:
    """The p-norm of each window: (N, C, *space) to (N, C, *out)."""
    total: Any = sum(windows.seen(windows.padded(np.abs(widen(x)) ** p, 0)))
    return np.asarray((total ** (1.0 / p)).astype(x.dtype, copy=False))


def _num_windows(size: int, before: int, after: int, reach: int, stride: int, ceil: bool) -> int:
    """Windows along one axis."""
    room = size + before + after - reach
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count  # it must start inside


def _lowest(x: Array) -> Any:
    return np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
