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
from raceline.ir.reference_pools import Windows, average_pool, lp_pool, max_pool, max_pool_places
from raceline.ir.reference_recurrent import recurrent
from raceline.ir.reference_resize import Resampling, resize, upsample
from raceline.ir.reference_trees import tree_ensemble

Outputs = tuple[Any, ...]


@lru_cache(maxsize=1)
def replacements() -> list[Any]:
    """Operator classes for `ReferenceEvaluator(new_ops=...)`."""
    functions: dict[str, Callable[..., Outputs]] = {
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "CumSum": _cum_sum,
        "DequantizeLinear": _dequantize,
        "Erf": _erf,
        "GRU": _gru,
        "Gemm": _gemm,
        "GlobalLpPool": _global_lp_pool,
        "GlobalMaxPool": _global_max_pool,
        "GridSample": _grid_sample,
        "Hardmax": _hardmax,
        "InstanceNormalization": _instance_normalization,
        "LRN": _lrn,
        "LSTM": _lstm,
        "LayerNormalization": _layer_normalization,
        "LogSoftmax": _log_softmax,
        "LpNormalization": _lp_normalization,
        "LpPool": _lp_pool,
        "MatMul": _matmul,
        "MaxPool": _max_pool,
        "Mean": _mean,
        "NonMaxSuppression": _non_max_suppression,
        "OneHot": _one_hot,
        "Optional": _optional,
        "OptionalGetElement": _optional_element,
        "OptionalHasElement": _optional_there,
        "Pad": _pad,
        "Pow": _power,
        "RMSNormalization": _rms_normalization,
        "RNN": _rnn,
        "ReduceL2": _sums_of_squares,
        "ReduceLogSumExp": _log_sum_exp,
        "ReduceSumSquare": _sums_of_squares,
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


def _original_wide(op: Any, inputs: Outputs) -> Outputs:
    """What the evaluator computes from half precision made single, in the first input's type again."""
    wide = tuple(kernels.widen(x) if isinstance(x, np.ndarray) else x for x in inputs)
    return tuple(x.astype(inputs[0].dtype, copy=False) for x in _original(op, op.onnx_node, wide))


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
    epsilon, count = given.get("epsilon", 1e-5), len(op.output)
    # Before opset 14 more than one output asked for training.
    if given.get("training_mode") or (_opset(op) < 14 and sum(map(bool, op.output)) > 1):
        momentum = given.get("momentum", 0.9)
        return kernels.batch_normalization_training(*inputs, epsilon=epsilon, momentum=momentum)[:count]
    return (kernels.batch_normalization(*inputs, epsilon=epsilon), *inputs[3:])[:count]


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
    """The evaluator loses positions with SAME_LOWER, and counts no further than one channel where it says which."""
    order = given.pop("storage_order", 0)
    windows = Windows.over(inputs[0].shape[2:], **given)
    best = max_pool(inputs[0], windows)
    wanted = sum(map(bool, op.output)) > 1
    return (best, max_pool_places(inputs[0], windows, order)) if wanted else (best,)


def _average_pool(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator shifts the windows where the last is incomplete, and pads by SAME without the dilation."""
    counted = given.pop("count_include_pad", 0)
    return (average_pool(inputs[0], Windows.over(inputs[0].shape[2:], **given), counted),)


def _lp_pool(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As AveragePool, of whose mean the evaluator makes a sum by the whole window, however much of it is there."""
    p = given.pop("p", 2)
    return (lp_pool(inputs[0], Windows.over(inputs[0].shape[2:], **given), int(p)),)


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
    options = {key: value for key, value in given.items() if key not in {"hidden_size", "output_sequence"}}
    x, w, r, bias, lengths, hidden, cell, peepholes = (_at(inputs, i) for i in range(8))
    return recurrent(kind, x, w, r, bias, lengths, (hidden, cell), peepholes, **options)


def _log_sum_exp(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator makes NaN of nothing but -inf."""
    axes = given["axes"] if "axes" in given else _at(inputs, 1)
    some = axes is not None and len(axes) > 0
    every = () if given.get("noop_with_empty_axes") else None
    chosen = tuple(int(axis) for axis in axes) if some else every
    return (kernels.log_sum_exp(inputs[0], chosen, bool(given.get("keepdims", 1))),)


def _sums_of_squares(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator squares half precision in half precision, where 256 is infinite, and widens integers."""
    return _original_wide(op, inputs)


def _instance_normalization(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator takes the moments of half precision in half precision."""
    return _original_wide(op, inputs)


def _layer_normalization(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As InstanceNormalization."""
    given.pop("stash_type", None)
    y, mean, inverse = kernels.layer_normalization(*inputs, **given)
    return (y, mean.astype(np.float32), inverse.astype(np.float32))[: len(op.output)]


def _rms_normalization(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """As InstanceNormalization."""
    given.pop("stash_type", None)
    return (kernels.rms_normalization(*inputs, **given),)


def _power(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator fails at negative powers of integers."""
    return (kernels.power(*inputs),)


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
    """The evaluator takes no true scalars, and none that are left out before others."""
    left_out = (np.array([0]), np.array([0], np.float32), np.array([-np.inf], np.float32))
    scalars = [_at(inputs, 2 + place) for place in range(3)]
    filled = [default if x is None else x.reshape(-1) for x, default in zip(scalars, left_out, strict=True)]
    return _original(op, op.onnx_node, (*inputs[:2], *filled))


def _one_hot(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator takes no depth in brackets."""
    return _original(op, op.onnx_node, (inputs[0], inputs[1].reshape(()), inputs[2]))


def _cum_sum(op: Any, inputs: Outputs, given: dict[str, Any]) -> Outputs:
    """The evaluator takes no axis in brackets, which runtimes do."""
    return _original(op, op.onnx_node, (inputs[0], inputs[1].reshape(())))


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
    roi, scales, sizes = (
        x if x is not None and x.size else None for x in (*inputs[1:], None, None, None)[:3]
    )
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
