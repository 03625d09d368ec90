"""Complex numbers and Fourier transforms; a complex tensor is two real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import dtype
from raceline.convert.formats.tensorflow.math import rules as real_rules
from raceline.convert.formats.tensorflow.values import Complex, fixed_ints, fixed_rank
from raceline.convert.lower import Rule, Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("Complex")
def _complex(b: Builder, node: SourceNode, real: ir.Value, imaginary: ir.Value) -> Any:
    shape = b.op("Mul", b.op("Add", real, imaginary), b.scalar(0, real))
    if b.shape(real) == b.shape(imaginary):
        return Complex(real, imaginary)
    return Complex(b.op("Add", real, shape), b.op("Add", imaginary, shape))


@rules("Real", "Imag", "ComplexAbs", "Angle", "Conj")
def _part(b: Builder, node: SourceNode, x: Any) -> Any:
    pair = _pair(b, x)
    if node.op == "Real":
        return pair.real
    if node.op == "Imag":
        return pair.imaginary
    if node.op == "Conj":
        return Complex(pair.real, b.op("Neg", pair.imaginary)) if isinstance(x, Complex) else x
    if node.op == "ComplexAbs":
        square = b.op("Add", b.op("Mul", pair.real, pair.real), b.op("Mul", pair.imaginary, pair.imaginary))
        return b.op("Sqrt", square)
    if not isinstance(x, Complex):
        raise UnsupportedError("of real numbers")
    return real_rules.table["Atan2"](b, node, pair.imaginary, pair.real)


def _pair(b: Builder, x: Any) -> Complex:
    if isinstance(x, Complex):
        return x
    return Complex(x, b.op("Mul", x, b.scalar(0, x)))


# ---------------------------------------------------------------- transforms


@rules("RFFT")
def _rfft(b: Builder, node: SourceNode, x: ir.Value, length: ir.Value) -> Any:
    (size,) = fixed_ints(b, length, "length")
    pairs = b.op("Unsqueeze", _fitted(b, x, size), [-1])
    return _parts(b, _dft(b, pairs, onesided=1))


@rules("FFT", "IFFT")
def _fft(b: Builder, node: SourceNode, x: Any) -> Any:
    pair = _pair(b, x)
    joined = b.op("Concat", *(b.op("Unsqueeze", item, [-1]) for item in (pair.real, pair.imaginary)), axis=-1)
    return _parts(b, _dft(b, joined, inverse=int(node.op == "IFFT")))


@rules("RFFT2D")
def _rfft2d(b: Builder, node: SourceNode, x: ir.Value, lengths: ir.Value) -> Any:
    rows, columns = fixed_ints(b, lengths, "length")
    rank = fixed_rank(b, x)
    order = [*range(rank - 2), rank - 1, rank - 2]
    high = b.transpose(_fitted(b, b.transpose(x, order), rows), order)
    half = _dft(b, b.op("Unsqueeze", _fitted(b, high, columns), [-1]), onesided=1)
    return _parts(b, _dft(b, half, axis=-3))


@rules("FFT2D", "IFFT2D")
def _fft2d(b: Builder, node: SourceNode, x: Any) -> Any:
    pair, inverse = _pair(b, x), int(node.op == "IFFT2D")
    joined = b.op("Concat", *(b.op("Unsqueeze", item, [-1]) for item in (pair.real, pair.imaginary)), axis=-1)
    return _parts(b, _dft(b, _dft(b, joined, inverse=inverse), inverse=inverse, axis=-3))


@rules("IRFFT")
def _irfft(b: Builder, node: SourceNode, x: Any, length: ir.Value) -> Any:
    """By a product with the matrix of cosines and sines: ONNX has no inverse of a half."""
    (size,) = fixed_ints(b, length, "length")
    pair = _pair(b, x)
    half = size // 2 + 1
    steps = 2 * np.pi * np.outer(np.arange(half), np.arange(size)) / size
    weight = np.full((half, 1), 2.0)
    weight[0] = 1
    if size % 2 == 0:
        weight[-1] = 1
    kind = b.dtype(pair.real)
    parts = [_fitted(b, item, half) for item in (pair.real, pair.imaginary)]
    cosines, sines = (table * weight / size for table in (np.cos(steps), -np.sin(steps)))
    return b.op(
        "Add",
        b.op("MatMul", parts[0], cosines.astype(kind)),
        b.op("MatMul", parts[1], sines.astype(kind)),
    )


def _dft(b: Builder, x: ir.Value, *, onesided: int = 0, inverse: int = 0, axis: int = -2) -> ir.Value:
    """Along one axis; the last holds real and imaginary parts."""
    return b.op("DFT", x, None, np.int64(axis), onesided=onesided, inverse=inverse)  # type: ignore[no-any-return]


def _parts(b: Builder, pairs: ir.Value) -> Complex:
    real, imaginary = (b.op("Gather", pairs, np.int64(place), axis=-1) for place in (0, 1))
    return Complex(real, imaginary)


def _fitted(b: Builder, x: ir.Value, size: int) -> ir.Value:
    """The last axis cut, or filled up with zeros, to a size."""
    rank = fixed_rank(b, x)
    known = b.shape(x)[-1]
    if known == size:
        return x
    if not isinstance(known, int):
        x = b.op("Pad", x, [0] * (2 * rank - 1) + [size], None, mode="constant")
        return b.op("Slice", x, [0], [size], [rank - 1])  # type: ignore[no-any-return]
    if known < size:
        return b.op("Pad", x, [0] * (2 * rank - 1) + [size - known], None, mode="constant")  # type: ignore[no-any-return]
    return b.op("Slice", x, [0], [size], [rank - 1])  # type: ignore[no-any-return]


# ---------------------------------------------------------------- other operators on complex numbers


def with_complex(table: dict[str, Rule]) -> dict[str, Rule]:
    """The same rules, those of common operators also for complex numbers."""
    return table | {op: _either(op, table[op]) for op in _ALSO}


def _either(op: str, rule: Rule) -> Rule:
    def run(b: Builder, node: SourceNode, *inputs: Any) -> Any:
        if not any(isinstance(item, Complex) for item in inputs):
            wanted = dtype(node, "DstT") if op == "Cast" else None
            if wanted is not None and wanted.kind == "c":
                return _pair(b, b.cast(inputs[0], np.float32 if wanted.itemsize == 8 else np.float64))
            return rule(b, node, *inputs)
        return _ALSO[op](b, node, rule, *inputs)

    return run


def _each_part(b: Builder, node: SourceNode, rule: Rule, *inputs: Any) -> Any:
    """Operators that move elements, or that are linear: each part by itself."""
    pairs = [_pair(b, x) if isinstance(x, Complex) else Complex(x, x) for x in inputs]
    real = rule(b, node, *(pair.real for pair in pairs))
    imaginary = rule(b, node, *(pair.imaginary for pair in pairs))
    if isinstance(real, tuple):
        return tuple(Complex(one, other) for one, other in zip(real, imaginary, strict=True))
    return Complex(real, imaginary)


def _sum(b: Builder, node: SourceNode, rule: Rule, x: Any, y: Any) -> Any:
    one, other = _pair(b, x), _pair(b, y)
    return Complex(rule(b, node, one.real, other.real), rule(b, node, one.imaginary, other.imaginary))


def _product(b: Builder, node: SourceNode, rule: Rule, x: Any, y: Any) -> Any:
    one, other = _pair(b, x), _pair(b, y)
    return _times(b, one, other)


def _times(b: Builder, one: Complex, other: Complex) -> Complex:
    real = b.op("Sub", b.op("Mul", one.real, other.real), b.op("Mul", one.imaginary, other.imaginary))
    imaginary = b.op("Add", b.op("Mul", one.real, other.imaginary), b.op("Mul", one.imaginary, other.real))
    return Complex(real, imaginary)


def _quotient(b: Builder, node: SourceNode, rule: Rule, x: Any, y: Any) -> Any:
    one, other = _pair(b, x), _pair(b, y)
    size = b.op("Add", b.op("Mul", other.real, other.real), b.op("Mul", other.imaginary, other.imaginary))
    above = _times(b, one, Complex(other.real, b.op("Neg", other.imaginary)))
    return Complex(b.op("Div", above.real, size), b.op("Div", above.imaginary, size))


def _exponential(b: Builder, node: SourceNode, rule: Rule, x: Complex) -> Any:
    size = b.op("Exp", x.real)
    return Complex(b.op("Mul", size, b.op("Cos", x.imaginary)), b.op("Mul", size, b.op("Sin", x.imaginary)))


def _size_of(b: Builder, node: SourceNode, rule: Rule, x: Complex) -> Any:
    return rule(b, node, x.real)


def _cast(b: Builder, node: SourceNode, rule: Rule, x: Complex) -> Any:
    wanted = dtype(node, "DstT")
    if wanted.kind != "c":
        return b.cast(x.real, wanted)  # as TensorFlow does: the imaginary part is dropped
    kind = np.float32 if wanted.itemsize == 8 else np.float64
    return Complex(b.cast(x.real, kind), b.cast(x.imaginary, kind))


_ALSO: dict[str, Any] = {
    **dict.fromkeys(
        """Reshape Transpose ExpandDims Squeeze ConcatV2 Pack Unpack Split SplitV StridedSlice Slice GatherV2 Tile
        Pad ReverseV2 Neg Sum Mean BroadcastTo Select SelectV2""".split(),
        _each_part,
    ),
    **dict.fromkeys(("Add", "AddV2", "Sub"), _sum),
    "Mul": _product,
    "RealDiv": _quotient,
    "Exp": _exponential,
    "Shape": _size_of,
    "Cast": _cast,
}
SPECIAL = frozenset({*rules.table, *_ALSO})
"""Operators here that take complex numbers."""
