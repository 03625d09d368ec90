"""Fourier transforms and complex numbers, which are kept as two tensors of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.asking import Complex, known_ints
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("RFFT2D")
def rfft2d(b: Builder, node: SourceNode, x: ir.Value, lengths: ir.Value) -> Complex:
    """Over the last two axes, of which the last gives only its first half and one; cut or padded before."""
    height, width = known_ints(b, lengths, "lengths")
    rank = b.rank(x)
    if rank < 2 or min(height, width) < 1:
        raise ValueError(f"a transform of {height} by {width} of {rank} axes")
    signal = b.op("Unsqueeze", x, [rank])
    spectrum = b.op("DFT", signal, np.array(width, np.int64), np.array(rank - 1, np.int64), onesided=1)
    if height > 1 or b.shape(x)[-2] != 1:
        spectrum = b.op("DFT", spectrum, np.array(height, np.int64), np.array(rank - 2, np.int64))
    real, imag = b.op("Split", spectrum, [1, 1], axis=rank, outputs=2)
    return Complex(b.op("Squeeze", real, [rank]), b.op("Squeeze", imag, [rank]))


@rules("COMPLEX_ABS")
def complex_abs(b: Builder, node: SourceNode, x: Complex) -> ir.Value:
    """The length of each number."""
    square = b.op("Add", b.op("Mul", x.real, x.real), b.op("Mul", x.imag, x.imag))
    return b.op("Sqrt", square)  # type: ignore[no-any-return]


@rules("REAL")
def real(b: Builder, node: SourceNode, x: Complex | ir.Value) -> ir.Value:
    """The real part."""
    return _complex(x).real


@rules("IMAG")
def imag(b: Builder, node: SourceNode, x: Complex | ir.Value) -> ir.Value:
    """The imaginary part."""
    return _complex(x).imag


def _complex(x: Complex | ir.Value) -> Complex:
    if not isinstance(x, Complex):
        raise UnsupportedError("complex numbers that are an input or a weight")
    return x
