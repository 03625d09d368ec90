"""The signature of a program, with a proper name for every axis whose size is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raceline.core.errors import BadModelError
from raceline.ir.model import Model
from raceline.ir.serialise import bare_proto
from raceline.ir.signature import Dim, Signature, TensorSpec, Values

if TYPE_CHECKING:
    import onnx_ir as ir

# What exporters write for "I do not know"; as a name it would tie unrelated axes together.
_MEANINGLESS = frozenset({"", "?", "-1", "0", "none", "none__", "unk", "unknown"})
_CHANNELS = frozenset({1, 2, 3, 4})  # of a picture

Shape = list[Dim | None]  # None: nothing is known of the axis


def signature_of(program: ir.Model, values: Mapping[str, Values] | None = None) -> Signature:
    """Derive the signature from a graph and write the names it gives to open axes into the graph.

    Axes declared as -1, 0, `?` or not at all become dynamic axes with names of their own: `batch`, `height`
    and `width` where the shape tells, else the input's name and the axis. Outputs that the file leaves open
    are completed by shape inference.

    Args:
        program: its input and output shapes are completed in place.
        values: ranges of inputs, by name.

    Returns:
        the signature; a batch axis is never assumed.

    Raises:
        BadModelError: an input or output is no tensor, or has no known number of axes.
    """
    import onnx_ir as ir

    inputs = [v for v in program.graph.inputs if v.name not in program.graph.initializers]
    outputs = list(program.graph.outputs)
    _refuse_other_types([*inputs, *outputs])
    declared = {v.name or "": _declared(v) for v in inputs}
    taken = {d for shape in declared.values() for d in shape or [] if isinstance(d, str)}
    in_specs, out_specs = [], []
    for value in inputs:
        shape = declared[value.name or ""]
        if shape is None:
            raise _no_rank("input", value.name or "")
        named = _named(shape, value.name or "", taken, is_only=len(inputs) == 1)
        in_specs.append(_spec(value, named, (values or {}).get(value.name or "")))
    inferred = _inferred_outputs(program)
    for value in outputs:
        element, inferred_shape = inferred.get(value.name or "", (0, None))
        if not value.dtype:  # not declared
            value.dtype = ir.DataType(element)
        shape = _merged(_declared(value), inferred_shape)
        if shape is None:
            raise _no_rank("output", value.name or "")
        named = [_or_new(dim, value.name or "", axis, taken) for axis, dim in enumerate(shape)]
        out_specs.append(_spec(value, named, None))
    return Signature(tuple(in_specs), tuple(out_specs))


def with_batch_axis(model: Model, name: str | None) -> Model:
    """The same model with axis 0 of every input and output called `name` and declared the batch axis.

    Only for an axis that `prove_batch_axis` has proven. None gives the model as it is.

    Raises:
        BadModelError: an input or output has no open axis 0.
    """
    if name is None:
        return model
    copy = model.clone()
    specs = (*model.signature.inputs, *model.signature.outputs)
    if any(not spec.shape or isinstance(spec.shape[0], int) for spec in specs):
        raise BadModelError(f"{model.name} has no batch axis", "an input or output has no open axis 0")
    for value in (*copy.program.graph.inputs, *copy.program.graph.outputs):
        if value.shape is not None and len(value.shape):
            _set_shape(value, [name, *_dims(value)[1:]])
    renamed = [replace(spec, shape=(name, *spec.shape[1:])) for spec in specs]
    count = len(model.signature.inputs)
    signature = Signature(tuple(renamed[:count]), tuple(renamed[count:]), batch_axis=name)
    return replace(copy, signature=signature)


def _spec(value: ir.Value, shape: Sequence[Dim], values: Values | None) -> TensorSpec:
    """A TensorSpec; the graph's value learns the same shape."""
    if not value.dtype:
        what = f"the element type of {value.name!r} is unknown"
        raise BadModelError(what, next_step="Declare it in the model.")
    _set_shape(value, shape)
    return TensorSpec(value.name or "", value.dtype.numpy().name, tuple(shape), values)


def _set_shape(value: ir.Value, shape: Sequence[Dim | None]) -> None:
    import onnx_ir as ir

    value.shape = ir.Shape(shape)


def _declared(value: ir.Value) -> Shape | None:
    """The shape as the file gives it, meaningless entries as None."""
    return None if value.shape is None else _dims(value)


def _dims(value: ir.Value) -> Shape:
    assert value.shape is not None
    return [_dim(d if isinstance(d, int) else d.value) for d in value.shape]


def _dim(size: int | str | None) -> Dim | None:
    if isinstance(size, int):
        return size if size > 0 else None
    return None if size is None or size.strip().lower() in _MEANINGLESS else size


def _named(shape: Shape, owner: str, taken: set[str], *, is_only: bool) -> list[Dim]:
    """Give every open axis of an input a name."""
    wanted: dict[int, str] = {}
    if len(shape) >= 2:
        wanted[0] = "batch"
    if len(shape) == 4:
        for channel, (high, wide) in ((1, (2, 3)), (3, (1, 2))):
            if shape[channel] in _CHANNELS:
                wanted |= {high: "height", wide: "width"}
                break
    named: list[Dim] = []
    for axis, dim in enumerate(shape):
        name = wanted.get(axis)
        if dim is None and name is not None:
            name = _unused(name if is_only else f"{owner}_{name}", taken)
        named.append(dim if dim is not None else name or _or_new(None, owner, axis, taken))
    return named


def _or_new(dim: Dim | None, owner: str, axis: int, taken: set[str]) -> Dim:
    return dim if dim is not None else _unused(f"{owner}_axis{axis}", taken)


def _unused(name: str, taken: set[str]) -> str:
    numbered = (name if i == 1 else f"{name}_{i}" for i in range(1, len(taken) + 2))
    free = next(candidate for candidate in numbered if candidate not in taken)
    taken.add(free)
    return free


def _merged(declared: Shape | None, inferred: Shape | None) -> Shape | None:
    """The declared shape, its open axes filled by inference."""
    if declared is None or inferred is None or len(declared) != len(inferred):
        return declared if declared is not None else inferred
    return [d if d is not None else i for d, i in zip(declared, inferred, strict=True)]


def _inferred_outputs(program: ir.Model) -> dict[str, tuple[int, Shape | None]]:
    """Element type and shape of the outputs by ONNX's inference; nothing where it fails: `check` reports."""
    import onnx

    try:
        proto = onnx.shape_inference.infer_shapes(bare_proto(program), data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    found: dict[str, tuple[int, Shape | None]] = {}
    for output in proto.graph.output:
        kind = output.type.tensor_type
        dims = [_dim(d.dim_param or d.dim_value) for d in kind.shape.dim] if kind.HasField("shape") else None
        found[output.name] = kind.elem_type, dims
    return found


def _refuse_other_types(values: Sequence[ir.Value]) -> None:
    import onnx_ir as ir

    typed = [v for v in values if v.type is not None]
    other = [f"{v.name!r} is {v.type}" for v in typed if not isinstance(v.type, ir.TensorType)]
    if other:
        raise BadModelError(
            "only tensors can go in and out of a model",
            ", ".join(other),
            "Export the model again with tensors there; for scikit-learn converters, with zipmap=False.",
        )
    packed = [f"{v.name!r} is {v.dtype.name}" for v in typed if v.dtype is not None and is_packed(v.dtype)]
    if packed:
        raise BadModelError(
            "engines pass int4, float8 and the like only as weights, not in and out of a model",
            ", ".join(packed),
            "Cast them inside the model.",
        )


def is_packed(dtype: ir.DataType) -> bool:
    """Whether it is one of the types that exist for weights only: int4, float8 and the like."""
    import onnx_ir as ir

    plain = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.BOOL, ir.DataType.STRING}
    return dtype not in {*plain, ir.DataType.UNDEFINED} and dtype.bitwidth <= 8


def _no_rank(kind: str, name: str) -> BadModelError:
    return BadModelError(
        f"the {kind} {name!r} does not say how many axes it has",
        "neither the file nor shape inference tells",
        "Declare its shape in the model, with a name for each axis of open size.",
    )
