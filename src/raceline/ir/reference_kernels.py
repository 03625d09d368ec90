"""Plain NumPy kernels where the onnx package's reference evaluator is wrong, inexact or wasteful.

What each replaces and why stands in `reference_operators`. All sum in float32 or better. Legend of shapes:
N batch, C channels in, M channels out, G groups, K kernel positions times channels, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Ints = Sequence[int]

_MOST_COLUMN_BYTES = 32 * 1024**2
_ERF_END, _ERF_STEPS = 6, 256  # erf(6) is 1 in double precision
_ERF_POINTS = np.arange(_ERF_END * _ERF_STEPS + 1) / _ERF_STEPS
_ERF_VALUES = np.array([math.erf(point) for point in _ERF_POINTS])
_ERF_SLOPES = 2 / math.sqrt(math.pi) * np.exp(-(_ERF_POINTS**2)) / _ERF_STEPS


def conv(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolution as ONNX defines it: the weights times what each output position sees.

    Args:
        x: (N, C, *space).
        w: (M, C/G, *kernel).
        bias: (M,).
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        dilations: step inside the kernel, per axis in space.
        group: G.
        pads: zeros before each axis, then after each.
        strides: step of the kernel, per axis in space.

    Returns:
        (N, M, *space out), of x's element type.
    """
    kernel, space = w.shape[2:], x.ndim - 2
    dilations, strides = dilations or [1] * space, strides or [1] * space
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = pads_around(auto_pad, pads, x.shape[2:], reach, strides)
    padded = np.pad(widen(x), [(0, 0), (0, 0), *zip(before, after, strict=True)])
    out = [(p - r) // s + 1 for p, r, s in zip(padded.shape[2:], reach, strides, strict=True)]
    if min(out, default=1) < 1:
        raise ValueError(f"a kernel that reaches {reach} does not fit into {list(padded.shape[2:])}")
    num_out, num_taps = w.shape[0] // group, int(np.prod(w.shape[1:]))
    w_GMK = _contiguous(widen(w).reshape(group, num_out, num_taps))
    total = np.empty((x.shape[0], group, num_out, *out), padded.dtype)
    row_bytes = padded.itemsize * group * num_taps * int(np.prod(out[1:]))
    step = max(1, _MOST_COLUMN_BYTES // row_bytes)
    for item, start in product(range(x.shape[0]), range(0, out[0], step)):
        size = [min(step, out[0] - start), *out[1:]]
        first = padded[item, :, start * strides[0] :]
        columns_GKL = _columns(first, kernel, dilations, strides, size).reshape(group, num_taps, -1)
        total[item, :, :, start : start + size[0]] = (w_GMK @ columns_GKL).reshape(group, num_out, *size)
    return _finish(total.reshape(x.shape[0], w.shape[0], *out), bias, x)


def conv_transpose(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Transposed convolution as ONNX defines it: every input element adds its scaled kernel to the output.

    Args:
        x: (N, C, *space).
        w: (C, M/G, *kernel).
        bias: (M,).
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        dilations: step inside the kernel, per axis in space.
        group: G.
        output_padding: zeros added after the end of each axis.
        output_shape: sizes in space; decides the padding where given.
        pads: what to cut before each axis, then after each.
        strides: step of the kernel, per axis in space.

    Returns:
        (N, M, *space out), of x's element type.
    """
    kernel, space = w.shape[2:], x.ndim - 2
    dilations, strides = dilations or [1] * space, strides or [1] * space
    extra = output_padding or [0] * space
    zipped = zip(x.shape[2:], kernel, dilations, strides, extra, strict=True)
    full = [s * (i - 1) + (k - 1) * d + 1 + e for i, k, d, s, e in zipped]
    before, after = _transpose_pads(auto_pad, pads, output_shape, full, x.shape[2:], strides)
    wide, m = widen(x), w.shape[1]
    canvas = np.zeros((x.shape[0], group * m, *full), wide.dtype)
    x_NGCL = wide.reshape(x.shape[0], group, x.shape[1] // group, int(np.prod(x.shape[2:])))
    w_GMCk = np.swapaxes(widen(w).reshape(group, x.shape[1] // group, m, *kernel), 1, 2)
    for at in np.ndindex(*kernel):
        places = window(at, dilations, strides, x.shape[2:])
        canvas[places] += (_contiguous(w_GMCk[(..., *at)]) @ x_NGCL).reshape(
            x.shape[0], group * m, *x.shape[2:]
        )
    return _finish(_cut(canvas, before, after), bias, x)


def global_max_pool(x: Array) -> Array:
    """The largest element of each channel: (N, C, *space) to (N, C, 1, ...)."""
    return np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))


def batch_normalization(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> Array:
    """What inference computes: scale * (x - mean) / sqrt(variance + epsilon) + bias, per channel.

    Args:
        x: (N, C, *space).
        scale: (C,).
        bias: (C,).
        mean: (C,).
        variance: (C,).
        epsilon: keeps the root away from zero.
    """
    per_channel = (-1, *[1] * (x.ndim - 2))
    factor = widen(scale) / np.sqrt(widen(variance) + epsilon)
    shifted = widen(x) - widen(mean).reshape(per_channel)
    total = factor.reshape(per_channel) * shifted + widen(bias).reshape(per_channel)
    return np.asarray(total.astype(x.dtype, copy=False))


def batch_normalization_training(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> tuple[Array, Array, Array, Array, Array]:
    """What training computes: normalised by the batch's own moments, which also move the running ones.

    Args:
        x: (N, C, *space).
        scale: (C,).
        bias: (C,).
        mean: (C,) running.
        variance: (C,) running.
        epsilon: keeps the root away from zero.
        momentum: of the running moments; the rest comes from the batch.

    Returns:
        y (N, C, *space), then (C,) each: running mean and variance, those of the batch.
    """
    others = (0, *range(2, x.ndim))
    own, spread = widen(x).mean(axis=others), widen(x).var(axis=others)
    y = batch_normalization(x, scale, bias, own, spread, epsilon=epsilon)
    pairs = ((mean, own), (variance, spread))
    moved = [(widen(old) * momentum + new * (1 - momentum)).astype(old.dtype) for old, new in pairs]
    return y, moved[0], moved[1], own.astype(mean.dtype), spread.astype(variance.dtype)


def layer_normalization(
    x: Array, scale: Array, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Normalise over `axis` and all after it, then scale and shift.

    Args:
        x: any shape.
        scale: broadcasts to x.
        bias: broadcasts to x.
        axis: the first that is normalised over.
        epsilon: keeps the root away from zero.

    Returns:
        y; the mean; one over the standard deviation; both single at least, with length 1 where they were taken.
    """
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = widen(x)
    mean = wide.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(wide.var(axis=axes, keepdims=True) + epsilon)
    y = ((wide - mean) * inverse).astype(x.dtype, copy=False) * scale  # the second stage is x's own precision
    return np.asarray(y if bias is None else y + bias).astype(x.dtype, copy=False), mean, inverse


def rms_normalization(x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    """Divide by the root of the mean square over `axis` and all after it, then scale."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = widen(x)
    normal = wide / np.sqrt((wide**2).mean(axis=axes, keepdims=True) + epsilon)
    return np.asarray(normal.astype(x.dtype, copy=False) * scale).astype(x.dtype, copy=False)


def log_sum_exp(x: Array, axes: tuple[int, ...] | None, keepdims: bool) -> Array:
    """The logarithm of the sum of exponentials, shifted so that nothing overflows; -inf of nothing but -inf."""
    wide = x.astype(np.float64) if x.dtype.kind in "iu" else widen(x)
    top = wide.max(axis=axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(top), top, 0)
    total = np.log(np.exp(wide - shift).sum(axis=axes, keepdims=True)) + shift
    return np.asarray((total if keepdims else total.squeeze(axes)).astype(x.dtype, copy=False))


def power(x: Array, y: Array) -> Array:
    """Each element of x to the power of y's, in x's type; an integer's negative power is rounded towards zero."""
    if x.dtype.kind in "iu" and y.dtype.kind in "if" and np.any(y < 0):
        return np.asarray(np.trunc(np.power(x.astype(np.float64), y)).astype(x.dtype))
    return np.asarray(np.power(x, y).astype(x.dtype, copy=False))


def local_response_norm(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """Each element over the energy of its channel and the `size` channels around it.

    Args:
        x: (N, C, *space).
        size: channels in one neighbourhood.
        alpha: weight of the energy.
        beta: exponent.
        bias: added to the energy.
    """
    squares = widen(x) ** 2
    before, after = (size - 1) // 2, size // 2
    ends = range(x.shape[1])
    energy = np.stack([squares[:, max(0, c - before) : c + after + 1].sum(1) for c in ends], axis=1)
    return np.asarray((x / (bias + alpha / size * energy) ** beta).astype(x.dtype, copy=False))


def lp_norm(x: Array, p: int, axis: int | tuple[int, ...]) -> Array:
    """(sum |x|^p)^(1/p) along the axes, which keep length 1."""
    total = (np.abs(widen(x)) ** p).sum(axis=axis, keepdims=True)
    return np.asarray((total ** (1.0 / p)).astype(x.dtype, copy=False))


def softmax(x: Array, axis: int) -> Array:
    """exp(x) over its sum along the axis, shifted so that nothing overflows."""
    shifted = np.exp(widen(x) - widen(x).max(axis=axis, keepdims=True))
    return np.asarray((shifted / shifted.sum(axis=axis, keepdims=True)).astype(x.dtype, copy=False))


def log_softmax(x: Array, axis: int) -> Array:
    """The logarithm of `softmax`, computed without its underflow."""
    shifted = widen(x) - widen(x).max(axis=axis, keepdims=True)
    return np.asarray((shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype))


def hardmax(x: Array, axis: int) -> Array:
    """One at the first largest element along the axis, zero elsewhere."""
    chosen = np.expand_dims(x.argmax(axis=axis), axis)
    out = np.zeros_like(x)
    np.put_along_axis(out, chosen, 1, axis=axis)
    return out


def as_matrix(x: Array, axis: int) -> Array:
    """All axes before `axis` as rows, the others as columns: how old operators see their input."""
    rows = int(np.prod(x.shape[:axis] if axis >= 0 else x.shape[: x.ndim + axis]))
    return x.reshape(rows, -1)


def pad(x: Array, pads: Ints, mode: str, value: Any, axes: Ints | None = None) -> Array:
    """Add to, or with negative pads cut from, both ends of each axis.

    Args:
        x: any shape.
        pads: amounts before each of `axes`, then after each.
        mode: constant, reflect, edge or wrap.
        value: what a constant pad holds.
        axes: all axes where None.
    """
    chosen = [a % x.ndim for a in (range(x.ndim) if axes is None else axes)]
    ends = [(0, 0)] * x.ndim
    for place, axis in enumerate(chosen):
        ends[axis] = (int(pads[place]), int(pads[place + len(chosen)]))
    cut = x[tuple(slice(max(0, -b), n - max(0, -a)) for (b, a), n in zip(ends, x.shape, strict=True))]
    grown = [(max(0, b), max(0, a)) for b, a in ends]
    options = {"constant_values": value} if mode == "constant" else {}
    return np.asarray(np.pad(cut, grown, mode=mode, **options))  # type: ignore[call-overload]


def dequantize(x: Array, scale: Array, zero: Array | None = None, axis: int = 1) -> Array:
    """(x - zero) * scale, per tensor or per slice of an axis.

    Args:
        x: integers.
        scale: one, or one per slice.
        zero: as many; 0 where None.
        axis: the axis of the slices.
    """
    per_slice = [1] * x.ndim
    if scale.size > 1:
        per_slice[axis] = scale.size
    else:
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
        per_slice = []
    centred = x.astype(np.float32)
    if zero is not None:
        centred = centred - zero.astype(np.float32).reshape(per_slice)
    return np.asarray((centred * scale.reshape(per_slice)).astype(scale.dtype, copy=False))


def erf(x: Array) -> Array:
    """The error function; in double precision exactly as C's, else by cubic Hermite interpolation of it.

    Between points 1/256 apart, with the known slope 2 exp(-x^2) / sqrt(pi), the error stays under 1e-11.
    """
    if x.dtype == np.float64:
        return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64).reshape(x.shape)
    place = np.clip(np.abs(x.astype(np.float64)), 0, _ERF_END) * _ERF_STEPS
    left = np.minimum(np.nan_to_num(place).astype(np.int64), len(_ERF_VALUES) - 2)
    t = place - left
    value, slope = _ERF_VALUES, _ERF_SLOPES
    rise = value[left + 1] - value[left]
    bend = (1 - t) * (slope[left] - rise) - t * (slope[left + 1] - rise)
    return np.asarray((np.sign(x) * (value[left] + t * (rise + (1 - t) * bend))).astype(x.dtype))


def matmul(a: Array, b: Array) -> Array:
    """Matrix product, half precision summed in single."""
    return np.asarray(np.matmul(widen(a), widen(b)).astype(np.result_type(a, b), copy=False))


def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """The matrix product alpha * A' B' + beta * C, half precision summed in single."""
    left, right = widen(a.T if transA else a), widen(b.T if transB else b)
    total = left.dtype.type(alpha) * (left @ right)
    if c is not None:
        total = total + left.dtype.type(beta) * widen(c)
    return np.asarray(total.astype(a.dtype, copy=False))


def window(at: Ints, dilations: Ints, strides: Ints, out: Ints) -> tuple[Any, ...]:
    """The elements that all output positions see at one kernel position, in space."""
    steps = zip(at, dilations, strides, out, strict=True)
    return (..., *(slice(i * d, i * d + s * (n - 1) + 1, s) for i, d, s, n in steps))


def _columns(image: Array, kernel: Ints, dilations: Ints, strides: Ints, out: Ints) -> Array:
    """What each output position sees: (C, *space) to (C, *kernel, *out)."""
    columns = np.empty((image.shape[0], *kernel, *out), image.dtype)
    for at in np.ndindex(*kernel):
        columns[(slice(None), *at)] = image[window(at, dilations, strides, out)]
    return columns


def _contiguous(x: Array) -> Array:
    """The same matrix in plain order: NumPy multiplies strided ones without its fast library."""
    return np.ascontiguousarray(x)


def widen(x: Array) -> Array:
    """Half precisions as float32; everything else as it is."""
    narrow = x.dtype.itemsize < 4 and x.dtype.kind not in "biu"
    return x.astype(np.float32) if narrow else x


def _finish(total: Array, bias: Array | None, x: Array) -> Array:
    if bias is not None:
        total += widen(bias).reshape(-1, *[1] * (x.ndim - 2))
    return np.asarray(total.astype(x.dtype, copy=False))


def pads_around(
    auto_pad: str, pads: Ints | None, sizes: Ints, reach: Ints, strides: Ints
) -> tuple[list[int], list[int]]:
    """What is added before and after each axis in space, by the pads or the way to find them."""
    space = len(sizes)
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        zipped = zip(sizes, reach, strides, strict=True)
        needed = [max(0, (-(-n // s) - 1) * s + r - n) for n, r, s in zipped]
        less, more = [n // 2 for n in needed], [n - n // 2 for n in needed]
        return (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    if auto_pad == "VALID" or pads is None:
        return [0] * space, [0] * space
    return list(pads[:space]), list(pads[space:])


def _transpose_pads(
    auto_pad: str, pads: Ints | None, output_shape: Ints | None, full: Ints, sizes: Ints, strides: Ints
) -> tuple[list[int], list[int]]:
    """What to cut before and after each axis in space; negative where zeros must be added."""
    space = len(full)
    same = auto_pad in {"SAME_UPPER", "SAME_LOWER"}
    if output_shape is None and not same:
        given = [0] * 2 * space if pads is None or auto_pad == "VALID" else list(pads)
        return given[:space], given[space:]
    wanted = output_shape or [n * s for n, s in zip(sizes, strides, strict=True)]
    surplus = [f - o for f, o in zip(full, wanted, strict=True)]
    # Towards zero, so that a single missing element is added at the end.
    half = [int(n / 2) if auto_pad == "SAME_UPPER" or n < 0 else n - n // 2 for n in surplus]
    return half, [n - h for n, h in zip(surplus, half, strict=True)]


def _cut(canvas: Array, before: Ints, after: Ints) -> Array:
    grown = [(max(0, -b), max(0, -a)) for b, a in zip(before, after, strict=True)]
    canvas = np.pad(canvas, [(0, 0), (0, 0), *grown])
    ends = zip(before, after, canvas.shape[2:], strict=True)
    kept: tuple[Any, ...] = (..., *(slice(max(0, b), n - max(0, a)) for b, a, n in ends))
    return np.asarray(canvas[kept])
