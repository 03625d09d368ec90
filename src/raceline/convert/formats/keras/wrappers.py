"""Layers around a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call, Tensor, floating
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_READS_MASKS = frozenset(
    "Softmax GlobalAveragePooling1D LSTM GRU SimpleRNN RNN Bidirectional Attention AdditiveAttention "
    "MultiHeadAttention GroupedQueryAttention GroupQueryAttention Functional Model Sequential "
    "TimeDistributed".split()
)


@rules("TimeDistributed")
def time_distributed(b: Builder, call: Call, x: ir.Value, mask: Any = None) -> Any:
    """The same layer on each step: steps become part of the batch, and come back."""
    layer = call.layer.children.get("layer")
    if layer is None:
        raise UnsupportedError("no layer inside")
    if (mask is not None or call.masks[:1] not in ([], [None])) and layer.kind in _READS_MASKS:
        raise UnsupportedError(f"a mask over a {layer.kind}")
    x = floating(b, x) if layer.kind != "Embedding" else x
    shape = b.shape(x)
    if len(shape) < 3:
        raise UnsupportedError(f"{len(shape)} axes")
    if not all(isinstance(size, int) for size in shape[2:]):
        raise UnsupportedError("steps of open sizes")
    joined = b.op("Reshape", x, [-1, *(int(str(size)) for size in shape[2:])])
    y = call.evaluate(b, layer, (Tensor(joined),), {})
    if not isinstance(y, Tensor):
        raise UnsupportedError("a layer of several outputs")
    rest = b.shape(y.value)[1:]
    if not all(isinstance(size, int) for size in rest):
        raise UnsupportedError("results of open sizes")
    sizes = [int(str(size)) for size in rest]
    target = b.op("Concat", b.op("Shape", x, start=0, end=2), np.array(sizes, np.int64), axis=0)
    return b.op("Reshape", y.value, target)


@rules("SpectralNormalization")
def spectral_normalization(b: Builder, call: Call, x: ir.Value) -> Any:
    """Changes its layer's kernel while training only."""
    return call.evaluate(b, call.layer.children["layer"], (Tensor(x),), {}).value
