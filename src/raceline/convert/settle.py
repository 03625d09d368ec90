"""Settle what a model leaves open: sizes of dynamic axes, values of scalar inputs, the batch axis."""

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from raceline.core.errors import RacelineError, ShapeError
from raceline.engines import Options, load
from raceline.ir import Model, Shapes, Values, prove_batch_axis, suggest_sizes, with_batch_axis

_logger = logging.getLogger(__name__)
_QUICK_ENGINE = "onnxruntime"  # the proof compares an engine with itself, so a fast one serves


def settle(
    model: Model, *, shapes: Shapes | None = None, values: Mapping[str, Values | float] | None = None
) -> tuple[Model, dict[str, int]]:
    """Find sizes with which the model runs, and whether its items can be stacked.

    Args:
        model: as read.
        shapes: input name -> shape at batch 1, for inputs the caller knows.
        values: input name -> what it may hold; a number where that is the only one, such as a sample rate.

    Returns:
        the model with its values and batch axis (if there is one) in its signature; and the size of every
        dynamic axis at batch 1.

    Raises:
        ShapeError: an input does not exist, a shape does not fit, or no sizes were found; says what to give.
    """
    for name, value in (values or {}).items():
        model = _holding(model, name, value)
    (sizes,) = suggest_sizes(model, shapes, want=1)
    try:
        session = load(_QUICK_ENGINE).load(model, Options())
    except RacelineError:
        batch_axis = prove_batch_axis(model, sizes)
    else:
        with closing(session):
            batch_axis = prove_batch_axis(model, sizes, run=session.run)
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
    return model, sizes


def _holding(model: Model, name: str, values: Values | float) -> Model:
    """The model, knowing what input `name` holds."""
    spec = model.signature.input(name)  # an unknown name is refused with the names there are
    if not isinstance(values, Values):
        if len(spec.shape) > 1:
            raise ShapeError(f"input {name!r} cannot be one value", f"it is {spec}", "Name scalars only.")
        values = int(values) if spec.dtype.startswith(("int", "uint")) else values
        values = Values(values, values, (values,), "user")
    inputs = tuple(replace(s, values=values) if s.name == name else s for s in model.signature.inputs)
    return replace(model, signature=replace(model.signature, inputs=inputs))
