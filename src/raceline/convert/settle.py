"""Settle what a model leaves open: sizes of dynamic axes, values of scalar inputs, the batch axis."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raceline.convert import runtimes
from raceline.convert.graph import Array, shape_of
from raceline.convert.rewrite import optimise
from raceline.core.errors import RacelineError, ShapeError
from raceline.ir import (
    Model,
    Reference,
    Shapes,
    Values,
    prove_batch_axis,
    signature_of,
    suggest_sizes,
    with_batch_axis,
    write_onnx,
)

_logger = logging.getLogger(__name__)
_FOLDING = (
    "lift_constants",
    "fold_constants",
    "remove_identity",
    "fold_if",
    "unroll_loop",
    "remove_dead_code",
)
_QUICK_ENGINE = "onnxruntime"  # the proof compares an engine with itself, so a fast one serves


def settle(
    model: Model, *, shapes: Shapes | None = None, values: Mapping[str, Values | float] | None = None
) -> tuple[Model, dict[str, int]]:
    """Find sizes with which the model runs, and whether its items can be stacked.

    Args:
        model: as read.
        shapes: input name -> shape at batch 1, for inputs the caller knows.
        values: input name -> what it may hold. A number fixes a scalar input, such as a sample rate: it
            becomes a constant and is no input any more, so that what depends on it can be folded.

    Returns:
        the model with its values and batch axis (if there is one) in its signature; and the size of every
        dynamic axis at batch 1.

    Raises:
        ShapeError: an input does not exist, a shape does not fit, or no sizes were found; says what to give.
    """
    for name, value in (values or {}).items():
        model = _holding(model, name, value) if isinstance(value, Values) else _fixed(model, name, value)
    if any(not isinstance(value, Values) for value in (values or {}).values()):
        # What a fixed input chooses between: with it, some engines refuse the model or crash while loading it.
        model, _ = optimise(model, passes=_FOLDING)
    (sizes,) = suggest_sizes(model, shapes, want=1)
    batch_axis = _batch_axis(model, sizes)
    model = with_batch_axis(model, batch_axis)
    if batch_axis:
        if sizes.get(batch_axis, 1) != 1 and shapes:
            _logger.warning(
                "%s: axis %r is the batch; its size of %d is not used",
                model.name,
                batch_axis,
                sizes[batch_axis],
            )
        sizes = {axis: size for axis, size in sizes.items() if axis in model.signature.dynamic_axes}
        sizes[batch_axis] = 1
    if shapes and _branches(model):
        model = _of_sizes(model, shapes, {axis: size for axis, size in sizes.items() if axis != batch_axis})
        sizes = {axis: size for axis, size in sizes.items() if axis in model.signature.dynamic_axes}
    return model, sizes


def _batch_axis(model: Model, sizes: Mapping[str, int]) -> str | None:
    """The batch axis, if one is proven; in an engine if one takes the model, in the slow reference else.

    The engine runs in a child process: some models kill it.
    """

    def run_all(cases: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        with tempfile.TemporaryDirectory(prefix="raceline-settle-") as place:
            path = Path(place, "model.onnx")
            write_onnx(model, path, external_threshold_bytes=1024)
            try:
                return runtimes.run(path, cases, _QUICK_ENGINE)
            except RacelineError as error:
                _logger.debug("%s: %s does not take the proof: %s", model.name, _QUICK_ENGINE, error)
        reference = Reference(model)
        return [reference.run(case) for case in cases]

    return prove_batch_axis(model, sizes, run_all=run_all)


def _branches(model: Model) -> int:
    """How many branches the graph has left."""
    return sum(node.op_type == "If" for node in model.program.graph.all_nodes())


def _of_sizes(model: Model, shapes: Shapes, sizes: Mapping[str, int]) -> Model:
    """The model for inputs of the caller's shapes alone, if that settles branches; else as it is.

    Exporters write a branch wherever a framework's operator asks for a size (squeeze an axis if it is 1), and
    engines that have no branches then refuse the model.
    """
    import onnx_ir as ir

    axes = {dim for spec in model.signature.inputs if spec.name in shapes for dim in spec.shape}
    fixed = {axis: size for axis, size in sizes.items() if axis in axes}
    copy = model.clone()
    for value in copy.program.graph.inputs:
        value.shape = ir.Shape(
            [fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in shape_of(value) or ()]
        )
    copy, _ = optimise(_signed(copy, model), passes=_FOLDING)
    copy = _signed(copy, model)  # what the branches hid of the outputs' shapes is known now
    if _branches(copy) == _branches(model):
        return model
    named = ", ".join(f"{axis} at {size}" for axis, size in fixed.items())
    return copy.with_step(f"Fixed the axes {named}: branches of the graph depend on them.")


def _signed(model: Model, like: Model) -> Model:
    """The model with a signature of its inputs' present shapes, and outputs of what follows from them."""
    import onnx_ir as ir

    for value in model.program.graph.outputs:
        value.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in shape_of(value) or ()])
    values = {spec.name: spec.values for spec in like.signature.inputs if spec.values}
    signature = signature_of(model.program, values)
    return replace(model, signature=replace(signature, batch_axis=like.signature.batch_axis))


def _holding(model: Model, name: str, values: Values) -> Model:
    """The model, knowing what input `name` holds."""
    model.signature.input(name)  # an unknown name is refused with the names there are
    inputs = tuple(replace(s, values=values) if s.name == name else s for s in model.signature.inputs)
    return replace(model, signature=replace(model.signature, inputs=inputs))


def _fixed(model: Model, name: str, number: float) -> Model:
    """The model with a constant in the place of input `name`."""
    import onnx_ir as ir

    spec = model.signature.input(name)
    if len(spec.shape) > 1 or any(dim != 1 and not isinstance(dim, str) for dim in spec.shape):
        raise ShapeError(f"input {name!r} cannot be one value", f"it is {spec}", "Name scalars only.")
    with np.errstate(all="ignore"):
        array = np.full([1] * len(spec.shape), number).astype(spec.dtype)
    if array.reshape(-1)[0] != number:
        raise ShapeError(
            f"input {name!r} cannot be {number}", f"it is {spec}", "Give a value that it can hold."
        )
    fixed = model.clone()
    graph = fixed.program.graph
    (value,) = [v for v in graph.inputs if v.name == name]
    graph.inputs.remove(value)
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)
    graph.register_initializer(value)
    others = tuple(s for s in model.signature.inputs if s.name != name)
    fixed = replace(fixed, signature=replace(model.signature, inputs=others))
    return fixed.with_step(f"Fixed input {name!r} at {number:g}; it is no input any more.")
