"""Loop and Scan by the standard's text, around the evaluator's own way of running a body.

onnx's evaluator (1.20 to 1.23) stacks what the turns of a Loop give along an axis that is there already, so that
scalars gain an axis and matrices lose one; its Scan knows neither other axes, nor directions, nor opset 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Outputs = tuple[Any, ...]


def loops() -> list[Any]:
    """The operator classes for `ReferenceEvaluator(new_ops=...)`."""
    from onnx.reference.op_run import OpRun

    def need_context(self: Any) -> bool:
        return True

    def of(name: str, run: Any) -> Any:
        return type(name, (OpRun,), {"op_domain": "", "_run": run, "need_context": need_context})

    return [of("Loop", _loop), of("Scan", _scan)]


def _turn(
    op: Any, context: Mapping[str, Any] | None, inputs: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """One run of the body, which also sees what is around it."""
    more = {key: given[key] for key in ("attributes", "bindings") if given.get(key) is not None}
    return op._run_body({**(context or {}), **inputs}, **more)  # noqa: SLF001


def _loop(op: Any, *inputs: Any, context: Any = None, **given: Any) -> Outputs:
    """https://onnx.ai/onnx/operators/onnx__Loop.html."""
    most, going, *carried = (*inputs, None, None)[: max(2, len(inputs))]
    names, results = op.body.input_names, op.body.output_names
    collected: list[list[Any]] = [[] for _ in results[1 + len(carried) :]]
    turn = 0
    while (going is None or bool(np.all(going))) and (
        most is None or turn < int(np.asarray(most).reshape(()))
    ):
        step = dict(zip(names, (np.array(turn, np.int64), np.array(True), *carried), strict=True))
        going, *values = _turn(op, context, step, given)
        carried, turns = values[: len(carried)], values[len(carried) :]
        for held, value in zip(collected, turns, strict=True):
            held.append(value)
        turn += 1
    outputs = op.body.proto_.output[1 + len(carried) :]
    return (*carried, *(_stacked(held, output, 0) for held, output in zip(collected, outputs, strict=True)))


def _scan(op: Any, *inputs: Any, context: Any = None, **given: Any) -> Outputs:
    """https://onnx.ai/onnx/operators/onnx__Scan.html."""
    if int(op.run_params["opsets"][""]) >= 9:
        return _scan_once(op, inputs, context, given)
    lengths, *rest = inputs  # until opset 8 every input is a batch, of sequences of lengths of their own
    num_states = len(rest) - int(op.num_scan_inputs)
    longest = rest[num_states].shape[1]
    items = []
    for k, parts in enumerate(zip(*rest, strict=True)):
        length = longest if lengths is None else int(lengths[k])
        scanned = [part[:length] for part in parts[num_states:]]
        computed = _scan_once(op, [*parts[:num_states], *scanned], context, given)
        items.append(
            (*computed[:num_states], *(_lengthened(part, longest) for part in computed[num_states:]))
        )
    return tuple(np.stack(parts) for parts in zip(*items, strict=True))


def _lengthened(part: Any, length: int) -> Any:
    """A sequence with zeros up to the longest one's length."""
    return np.pad(part, [(0, length - len(part)), *[(0, 0)] * (part.ndim - 1)])


def _scan_once(op: Any, inputs: Sequence[Any], context: Any, given: Mapping[str, Any]) -> Outputs:
    num_scanned = int(op.num_scan_inputs)
    state, scanned = list(inputs[: len(inputs) - num_scanned]), inputs[len(inputs) - num_scanned :]
    names, results = op.body.input_names, op.body.output_names
    num_collected = len(results) - len(state)
    axes = _setting(op, "scan_input_axes", num_scanned)
    old = int(op.run_params["opsets"][""]) < 9
    backwards = _setting(op, "directions" if old else "scan_input_directions", num_scanned)
    series = [np.moveaxis(x, axis, 0)[:: -1 if back else 1] for x, axis, back in
              zip(scanned, axes, backwards, strict=True)]  # fmt: skip
    collected: list[list[Any]] = [[] for _ in range(num_collected)]
    for slices in zip(*series, strict=True):
        values = _turn(op, context, dict(zip(names, (*state, *slices), strict=True)), given)
        state, turns = list(values[: len(state)]), values[len(state) :]
        for held, value in zip(collected, turns, strict=True):
            held.append(value)
    ends = zip(
        collected,
        op.body.proto_.output[len(state) :],
        _setting(op, "scan_output_axes", num_collected),
        _setting(op, "scan_output_directions", num_collected),
        strict=True,
    )
    return (*state, *(_stacked(held[:: -1 if back else 1], out, axis) for held, out, axis, back in ends))


def _setting(op: Any, name: str, count: int) -> list[int]:
    """An attribute of one number for each input or output; zeros where it is left out."""
    found = getattr(op, name, None)
    return [0] * count if found is None or len(found) == 0 else [int(number) for number in found]


def _stacked(turns: Sequence[Any], output: Any, axis: int) -> Any:
    """What the turns gave, along a new axis; of no turns, what the body declares."""
    if turns:
        return np.stack([np.asarray(value) for value in turns], axis=axis)
    import onnx

    declared = output.type.tensor_type
    sizes = [max(0, dim.dim_value) for dim in declared.shape.dim]
    sizes.insert(axis % (len(sizes) + 1), 0)
    return np.zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type or 1))
