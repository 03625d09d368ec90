"""Loop and Scan, in the place of those of onnx's reference evaluator.

Theirs (1.20 to 1.23) joins what a loop collects along the first axis of the values instead of a new one, never
turns where the condition is left out, and knows neither reversed nor other axes of a Scan.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Outputs = tuple[Any, ...]


def classes() -> list[Any]:
    """Operator classes for `ReferenceEvaluator(new_ops=...)`."""
    from onnx.reference.op_run import OpRun

    class Loop(OpRun):  # type: ignore[misc]
        op_domain = ""

        def need_context(self) -> bool:
            return True

        def _run(self, *inputs: Any, **settings: Any) -> Outputs:
            return _loop(self, inputs, settings)

    class Scan(OpRun):  # type: ignore[misc]
        op_domain = ""

        def need_context(self) -> bool:
            return True

        def _run(self, *inputs: Any, **settings: Any) -> Outputs:
            return _scan(self, inputs, settings)

    return [Loop, Scan]


def _loop(op: Any, inputs: Outputs, settings: dict[str, Any]) -> Outputs:
    """Inputs: number of turns and condition, each None where left out; then what is carried."""
    most, condition, *carried = (*inputs, None, None)[: max(2, len(inputs))]
    names, results = op.body.input_names, op.body.output_names
    collected: list[list[Any]] = [[] for _ in results[1 + len(carried) :]]
    goes_on = True if condition is None else bool(np.reshape(condition, -1)[0])
    for turn in itertools.count() if most is None else range(int(np.reshape(most, -1)[0])):
        if not goes_on:
            break
        given = dict(zip(names, (np.array(turn, np.int64), np.array(goes_on), *carried), strict=True))
        again, *values = _turn(op, given, settings)
        goes_on = bool(np.reshape(again, -1)[0])
        carried, scanned = values[: len(carried)], values[len(carried) :]
        for kept, value in zip(collected, scanned, strict=True):
            kept.append(value)
    stacks = [_stacked(op, kept, 1 + len(carried) + place) for place, kept in enumerate(collected)]
    return (*carried, *stacks)


def _scan(op: Any, inputs: Outputs, settings: dict[str, Any]) -> Outputs:
    """Inputs: what is carried, then what is scanned along an axis each."""
    if int(op.run_params["opsets"][""]) < 9:
        raise NotImplementedError("Scan of opset 8, which has a batch axis of its own")
    count = int(settings["num_scan_inputs"])
    carried, scanned = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    slices = [
        np.flip(moved, 0) if backwards else moved
        for value, axis, backwards in zip(
            scanned,
            _each(settings, "scan_input_axes", count),
            _each(settings, "scan_input_directions", count),
            strict=True,
        )
        for moved in [np.moveaxis(value, axis, 0)]
    ]
    names, results = op.body.input_names, op.body.output_names
    collected: list[list[Any]] = [[] for _ in results[len(carried) :]]
    for turn in range(len(slices[0])):
        given = dict(zip(names, (*carried, *(values[turn] for values in slices)), strict=True))
        values = _turn(op, given, settings)
        carried = list(values[: len(carried)])
        for kept, value in zip(collected, values[len(carried) :], strict=True):
            kept.append(value)
    axes = _each(settings, "scan_output_axes", len(collected))
    backwards = _each(settings, "scan_output_directions", len(collected))
    stacks = [_stacked(op, kept, len(carried) + place) for place, kept in enumerate(collected)]
    turned = [np.flip(stack, 0) if back else stack for stack, back in zip(stacks, backwards, strict=True)]
    return (*carried, *(np.moveaxis(stack, 0, axis) for stack, axis in zip(turned, axes, strict=True)))


def _turn(op: Any, given: dict[str, Any], settings: dict[str, Any]) -> list[Any]:
    """What the body computes once; its own inputs hide values of the same name around it."""
    passed = {key: settings[key] for key in ("attributes", "bindings") if key in settings}
    values: list[Any] = op._run_body({**(settings.get("context") or {}), **given}, **passed)  # noqa: SLF001
    return values


def _each(settings: dict[str, Any], name: str, count: int) -> list[int]:
    """One number for each scanned value; 0 where they are left out."""
    given = settings.get(name)
    return [0] * count if given is None else [int(number) for number in given]


def _stacked(op: Any, values: list[Any], place: int) -> Any:
    """Values of all turns along a new first axis; of no turn, an empty array of the declared shape."""
    if values:
        return np.stack(values)
    import onnx

    declared = next(attribute.g for attribute in op.onnx_node.attribute if attribute.name == "body").output[
        place
    ]
    kind = declared.type.tensor_type
    if not kind.elem_type or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        raise NotImplementedError(f"{declared.name!r} is collected in no turn, and its shape is not declared")
    shape = (0, *(dim.dim_value for dim in kind.shape.dim))
    return np.empty(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
