"""Build one layer's nodes: unwrap tensors and masks, apply its rule, and pass masks on as Keras does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras import (
    activations,
    attention,
    convolution,
    dense,
    merging,
    normalization,
    operations,
    pooling,
    preprocessing,
    recurrent,
    reshaping,
    tensorflow,
    wrappers,
)
from raceline.convert.formats.keras.calls import Calls, Slot
from raceline.convert.formats.keras.layers import UNKNOWN, Call, Layer, Mask, Tensor, flat, mapped
from raceline.convert.lower import Rule, SourceNode, UnsupportedError, lower, merged
from raceline.ir.limits import Limits

if TYPE_CHECKING:
    import onnx_ir as ir

WAY_OUT = (
    "Replace these layers by Keras's own, or export a SavedModel with model.export(...) and read that folder."
)
RULES = merged(
    activations.rules,
    attention.rules,
    convolution.rules,
    dense.rules,
    merging.rules,
    normalization.rules,
    operations.rules,
    pooling.rules,
    preprocessing.rules,
    recurrent.rules,
    reshaping.rules,
    tensorflow.rules,
    wrappers.rules,
)
_KEEP_MASKS = frozenset(
    "Dense Activation Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise "
    "AlphaDropout ActivityRegularization Identity ReLU LeakyReLU PReLU ELU ThresholdedReLU Softmax "
    "BatchNormalization LayerNormalization GroupNormalization UnitNormalization Rescaling Normalization "
    "TimeDistributed".split()
)
_SAME_TENSOR = frozenset(
    f"ops.{name}"
    for name in "Cast StopGradient Copy Reshape Transpose Squeeze BroadcastTo ConvertToTensor GetItem".split()
)
_NO_MEANING = frozenset({"training"})


def evaluate(b: Builder, layer: Layer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Build a layer.

    Args:
        b: receives the nodes.
        layer: with its weights.
        args: what it is called on; `Tensor`s in nested lists, and plain values.
        kwargs: likewise.

    Returns:
        `Tensor`s, nested as the layer's results are.

    Raises:
        UnsupportedError: it has no translation.
        UnsupportedOperatorError: layers inside it have none.
    """
    if layer.graph is not None:
        return _model(b, layer, args)
    _refuse_precision(layer)
    kwargs = {key: value for key, value in kwargs.items() if key not in _NO_MEANING and value is not None}
    if kwargs.get("return_attention_scores") is False:
        kwargs.pop("return_attention_scores")
    kwargs = {
        key: value for key, value in kwargs.items() if not (key == "use_causal_mask" and value is False)
    }
    first = args[0] if args else next(iter(kwargs.values()), None)
    masks = [item.mask for item in flat(first) if isinstance(item, Tensor)]
    call = Call(layer, masks, evaluate, tuple(args), kwargs)
    rule = RULES.get(layer.kind)
    if rule is None:
        raise UnsupportedError(f"a layer of class {layer.kind}")
    plain = [mapped(item, lambda leaf: _value(b, layer, leaf)) for item in args]
    named = {key: mapped(item, lambda leaf: _value(b, layer, leaf)) for key, item in kwargs.items()}
    result = rule(b, call, *plain, **named)
    values = list(result) if isinstance(result, list | tuple) else [result]
    after = call.result_masks if call.result_masks is not None else [_mask_after(layer, masks)] * len(values)
    tensors = [
        Tensor(value, mask) for value, mask in zip(values, [*after, *[None] * len(values)], strict=False)
    ]
    return tensors if isinstance(result, list | tuple) else tensors[0]


def _value(b: Builder, layer: Layer, leaf: Any) -> Any:
    """The value of a tensor; layers compute in float32 whatever fractions they are given."""
    if not isinstance(leaf, Tensor):
        return leaf
    value: ir.Value = leaf.value
    fraction = b.dtype(value).kind in "fV" and b.dtype(value) != np.float32
    return b.cast(value, np.float32) if fraction else value


def _mask_after(layer: Layer, masks: Sequence[Mask]) -> Mask:
    """The mask of the results of a layer that does nothing special about masks."""
    if all(mask is None for mask in masks):
        return None
    if layer.kind in _KEEP_MASKS:
        return masks[0]
    return UNKNOWN if layer.kind in _SAME_TENSOR else None


def _refuse_precision(layer: Layer) -> None:
    """Refuse layers whose weights are quantised.

    Raises:
        UnsupportedError: this is one.
    """
    policy = layer.config.get("dtype")
    name = policy.get("class_name") if isinstance(policy, dict) else policy
    inner = policy.get("config") if isinstance(policy, dict) else None
    said = f"{name} {inner.get('mode', inner.get('name', '')) if isinstance(inner, dict) else ''}"
    if "Quantized" in said or "int8" in said.split() or "float8" in said:
        raise UnsupportedError(f"weights quantised by Keras ({said.strip()})")
    if layer.config.get("lora_rank"):
        raise UnsupportedError("low-rank adapters that were not merged")


def _model(b: Builder, layer: Layer, args: Sequence[Any]) -> Any:
    """A model inside a wrapper."""
    calls = Calls(layer.name, Limits(max_nodes=b.limits.max_nodes))
    tensors = flat(list(args))
    names = [f"given:{number}" for number in range(len(tensors))]
    outputs = calls.unroll(layer.graph, names)
    values: dict[str, Any] = dict(zip(names, tensors, strict=True))
    lower(b, calls.nodes, TABLE, values, source=layer.name, way_out=WAY_OUT)
    result = [values[str(name)] for name in flat(outputs)]
    return result if len(result) > 1 else result[0]


def _node(b: Builder, node: SourceNode, *tensors: Any) -> tuple[Any, ...]:
    """A call of the graph: put the tensors into their places among the arguments, and build the layer."""

    def filled(structure: Any) -> Any:
        if isinstance(structure, Slot):
            return tensors[structure.number]
        if isinstance(structure, dict):
            return {key: filled(item) for key, item in structure.items()}
        if isinstance(structure, list | tuple):
            return type(structure)(filled(item) for item in structure)
        return structure

    result = evaluate(
        b, node.attributes["layer"], filled(node.attributes["args"]), filled(node.attributes["kwargs"])
    )
    return tuple(result) if isinstance(result, list) else (result,)


TABLE: dict[str, Rule] = dict.fromkeys(RULES, _node)
