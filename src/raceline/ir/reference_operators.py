"""Operators that take the place of those of onnx's reference evaluator (1.20 to 1.23), each with the reason.

Found by comparing every operator, at old and new opsets, with ONNX Runtime and with PyTorch's recorded
outputs; the tests keep both comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from raceline.ir import reference_kernels as kernels
from raceline.ir.reference_loops import loops
from raceline.ir.reference_places import grid_sample
from raceline.ir.reference_recurrent import ACTIVATIONS, recurrent
from raceline.ir.reference_resize import Resampling, resize, upsample
from raceline.ir.reference_trees import tree_ensemble

Outputs = tuple[Any, ...]


@lru_cache(maxsize=1)
def replacements() -> list[Any]:
    """Operator classes for `ReferenceEvaluator(new_ops=...)`."""
    functions: dict[str, Callable[..., Outputs]] = {
        "BatchNormalization": _batch_normalization,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "DequantizeLinear": _dequantize,
        "Erf": _erf,
        "GRU": _gru,
        "Gemm": _gemm,
        "GlobalLpPool": _global_lp_pool,
        "GlobalMaxPool": _global_max_pool,
        "GridSample": _grid_sample,
        "Hardmax": _hardmax,
        "LRN": _lrn,
        "LSTM": _lstm,
        "LogSoftmax": _log_softmax,
        "LpNormalization": _lp_normalization,
        "MatMul": _matmul,
        "MaxPool": _max_pool,
        "Mean": _mean,
        "NonMaxSuppression": _non_max_suppression,
        "Optional": _optional,
        "OptionalGetElement": _optional_element,
        "OptionalHasElement": _optional_there,
        "Pad": _pad,
        "RNN": _rnn,
        "Resize": _resize,
        "RoiAlign": _roi_align,
        "Scatter": _scatter,
        "Softmax": _softmax,
        "Upsample": _upsample,
    }
    standard = [_operator(name, function) for name, function in functions.items()]
    return [*standard, *loops(), _operator("TreeEnsemble", _tree_ensemble, "ai.onnx.ml")]


def _operator(name: str, function: Callable[..., Outputs], domain: str = "") -> Any:
    """The operator class that the evaluator wants, around a function (operator, inputs, attributes)."""
    from onnx.reference.op_run import OpRun

    def _run(self: Any, *inputs: Any, **attributes: Any) -> Outputs:
        given = {key: value for key, value in attributes.items() if value is not None}
        return function(self, inputs, given)

    def _load_attributes(self: Any) -> None:
        # The evaluator adds the newest opset's defaults to nodes of old opsets; the function knows its own.
        schema, self._schema = self._schema, None
        OpRun._load_attributes(self)  # noqa: SLF001
        self._schema = schema

    return type(name, (OpRun,), {"op_domain": domain, "_run": _run, "_load_attributes": _load_attributes})


def _opset(op: Any) -> int:
    return int(op.run_params["opsets"][""])


def _at(inputs: Outputs, index: int) -> Any:
    """An input that may be left out."""
    return inputs[index] if index < len(inputs) else None


def _original(op: Any, node: Any, inputs: Outputs) -> Outputs:
    """What the evaluator itself computes for a node, at its opset."""
    from onnx.reference.ops import load_op

    implementation = load_op("", node.op_type, _opset(op))
    return tuple(implementation(node, op.run_params).run(*inputs))


def _with_attributes(node: Any, **changes: str) -> Any:
    """A copy of a node with string attributes set."""
    from onnx import helper

    copy = type(node)()
    copy.CopyFrom(node)
    kept = [a for a in node.attribute if a.name not in changes]
    del copy.attribute[:]
    copy.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in changes.items())])
    return copy


# Wrong results ----------------------------------------------------------------------------------------------


_NOTHING = [None]
"""An optional value that holds none; one that holds something is that itself."""


def _optional(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator wraps a value here and does not unwrap it where its element is asked for."""
    return (inputs[0] if inputs else _NOTHING,)


def _optional_element(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    if _is_nothing(inputs[0]):
        raise ValueError("an optional value that holds none is asked for its element")
    return (inputs[0],)


def _optional_there(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    return (np.array(bool(inputs) and not _is_nothing(inputs[0])),)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 1 and value[0] is None)


def _tree_ensemble(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator gives trees of a single leaf the weight of another, and walks row by row."""
    return (tree_ensemble(inputs[0], given),)


def _batch_normalization(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """Before opset 14 the evaluator normalises by the batch's own mean, as if training."""
    if given.get("training_mode") or sum(map(bool, op.output)) > 1:
        raise NotImplementedError("batch normalisation in training mode; export the model for inference")
    return (kernels.batch_normalization(*inputs, epsilon=given.get("epsilon", 1e-5)),)


def _conv_transpose(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator mixes up channels as soon as a group writes more than one, and it is slow."""
    given.pop("kernel_shape", None)
    return (kernels.conv_transpose(*inputs, **given),)


def _global_max_pool(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator reduces the wrong axes unless there are exactly two in space."""
    return (kernels.global_max_pool(inputs[0]),)


def _softmax(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """Before opset 13 the axis splits the tensor into a matrix; the evaluator does not know."""
    return _along_axis(op, inputs[0], given, kernels.softmax)


def _log_softmax(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As Softmax."""
    return _along_axis(op, inputs[0], given, kernels.log_softmax)


def _hardmax(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As Softmax."""
    return _along_axis(op, inputs[0], given, kernels.hardmax)


def _along_axis(op: Any, x: Any, given: dict[str, Any], kernel: Callable[[Any, int], Any]) -> Outputs:
    if _opset(op) >= 13:
        return (kernel(x, given.get("axis", -1)),)
    return (kernel(kernels.as_matrix(x, given.get("axis", 1)), 1).reshape(x.shape),)


def _max_pool(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """With SAME_LOWER the evaluator loses positions; it is also slow. Indices are its own, without SAME."""
    given.pop("storage_order", None)
    best = kernels.max_pool(inputs[0], **given)
    if sum(map(bool, op.output)) < 2:
        return (best,)
    values, indices = _original(op, op.onnx_node, inputs)
    if not np.array_equal(values, best):
        raise NotImplementedError(f"indices of a pool with auto_pad {given.get('auto_pad')}")
    return best, indices


def _lrn(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator counts channels by the batch size."""
    options = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **given}
    return (kernels.local_response_norm(inputs[0], **options),)


def _lp_normalization(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator forgets the absolute value."""
    x = inputs[0]
    norm = kernels.lp_norm(x, given.get("p", 2), given.get("axis", -1))
    return (np.where(norm == 0, 0, x / norm).astype(x.dtype),)


def _lstm(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator ignores sequence lengths, the clip and the activations."""
    return _recur("LSTM", inputs, given)


def _gru(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As LSTM."""
    return _recur("GRU", inputs, given)


def _rnn(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As LSTM."""
    return _recur("RNN", inputs, given)


def _recur(kind: str, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    names = given.get("activations", [])
    scaled = given.keys() & {"activation_alpha", "activation_beta"}
    if scaled or not ACTIVATIONS.keys() >= set(names):
        raise NotImplementedError(f"activations {names} {sorted(scaled)}")
    options = {key: value for key, value in given.items() if key not in {"hidden_size", "output_sequence"}}
    x, w, r, bias, lengths, hidden, cell, peepholes = (_at(inputs, i) for i in range(8))
    return recurrent(kind, x, w, r, bias, lengths, (hidden, cell), peepholes, **options)


def _roi_align(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """Before opset 16 there was one way to round; the evaluator takes the newer default."""
    node = op.onnx_node
    if _opset(op) < 16:
        node = _with_attributes(node, coordinate_transformation_mode="output_half_pixel")
    return _original(op, node, inputs)


# Missing ----------------------------------------------------------------------------------------------------


def _dequantize(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator has no version before opset 19."""
    if _opset(op) >= 19:
        return _original(op, op.onnx_node, inputs)
    return (kernels.dequantize(inputs[0], inputs[1], _at(inputs, 2), given.get("axis", 1)),)


def _global_lp_pool(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """Missing."""
    return (kernels.lp_norm(inputs[0], given.get("p", 2), tuple(range(2, inputs[0].ndim))),)


def _grid_sample(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator moves a place outside to the edge before it looks around it, and is slow."""
    return (grid_sample(*inputs, **given),)


def _mean(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator cannot broadcast the first input."""
    total = inputs[0]
    for x in inputs[1:]:
        total = total + x
    return ((total / len(inputs)).astype(inputs[0].dtype),)


def _non_max_suppression(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator takes no true scalars."""
    scalars = [None if x is None else x.reshape(-1) for x in inputs[2:]]
    return _original(op, op.onnx_node, (*inputs[:2], *scalars))


def _pad(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator cannot cut."""
    mode = given.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    x = inputs[0]
    if _opset(op) < 11:
        return (kernels.pad(x, given["pads"], mode, given.get("value", 0.0)),)
    value = _at(inputs, 2)
    fill = x.dtype.type(0) if value is None or not np.size(value) else np.asarray(value).reshape(-1)[0]
    return (kernels.pad(x, inputs[1], mode, fill, _at(inputs, 3)),)


def _resize(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator rounds fractional scales otherwise than runtimes, and misses the mode for one position."""
    if _opset(op) == 10:
        return _upsample(op, inputs, given)  # the second input holds the scales
    axes = given.pop("axes", None)
    roi, scales, sizes = (x if x is not None and x.size else None for x in (*inputs[1:], None, None, None)[:3])
    return (resize(inputs[0], Resampling(**given), scales=scales, sizes=sizes, roi=roi, axes=axes),)


def _upsample(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator knows one mode of one version."""
    scales = given["scales"] if "scales" in given else inputs[1]
    return (upsample(inputs[0], scales, given.get("mode", "nearest")),)


def _scatter(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """Renamed at opset 11; the evaluator knows the new name only."""
    out, axis = inputs[0].copy(), given.get("axis", 0) % inputs[0].ndim
    for at in np.ndindex(*inputs[1].shape):
        out[(*at[:axis], inputs[1][at], *at[axis + 1 :])] = inputs[2][at]
    return (out,)


# Inexact or wasteful ----------------------------------------------------------------------------------------


def _conv(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator builds index arrays many times larger than the tensors; here a bounded part at a time."""
    given.pop("kernel_shape", None)
    return (kernels.conv(*inputs, **given),)


def _erf(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator calls C once for each element."""
    return (kernels.erf(inputs[0]),)


def _matmul(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator sums half precision in half precision."""
    return (kernels.matmul(*inputs),)


def _gemm(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As MatMul."""
    given.pop("broadcast", None)
    return (kernels.gemm(*inputs, **given),)
