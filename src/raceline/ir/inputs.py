"""Inputs to run a model on: values that make sense, sizes that work, and whether items may be stacked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, RacelineError, ShapeError, UnsupportedOperatorError
from raceline.ir.model import Model
from raceline.ir.near import APPROXIMATION, is_exact, is_near, is_void
from raceline.ir.reference import Reference
from raceline.ir.shapes import infer_shapes
from raceline.ir.signature import Shapes, Signature, TensorSpec, Values

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]
Run = Callable[[Mapping[str, Array]], Tensors]
RunAll = Callable[[Sequence[Mapping[str, Array]]], Sequence[Tensors]]
Sizes = dict[str, int]

_IMAGES = [
    (224, 224), (320, 320), (640, 640), (256, 256), (512, 512), (48, 320), (32, 320), (48, 192), (32, 100),
    (64, 64), (128, 128), (112, 112), (32, 32), (28, 28),
]  # fmt: skip
_LENGTHS = [128, 64, 256, 512, 1024, 16, 8, 4, 2, 1, 16000, 48000]
_CHANNELS = frozenset({1, 2, 3, 4})
_MOST_TRIED = 60
_DEFAULT_INTEGERS = Values(0, 9)
_MASK = Values(0, 1)


def make_inputs(signature: Signature, shapes: Shapes, *, seed: int) -> Tensors:
    """Generate inputs; the same seed gives the same inputs, each independent of the others.

    Floats are N(0, 1), integers 0 to 9, bytes take all values, unless the signature knows better.

    Args:
        signature: names, element types and ranges.
        shapes: input name -> concrete shape; all inputs.
        seed: any number.

    Raises:
        ShapeError: a shape is missing, does not fit, or has an axis of size 0.
    """
    made = {}
    for spec in signature.inputs:
        shape = shapes.get(spec.name)
        if shape is None or not spec.fits(tuple(shape)) or any(size < 1 for size in shape):
            raise ShapeError(
                f"input {spec.name!r} cannot have shape {None if shape is None else list(shape)}",
                f"it is {spec}, and every axis must have at least one element",
                f"Give it as --shape {spec.name}=... with positive sizes.",
            )
        generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        made[spec.name] = _fill(spec, tuple(shape), generator)
    return made


def suggest_sizes(
    model: Model, given: Shapes | None = None, *, run: Run | None = None, want: int = 1
) -> list[Sizes]:
    """Find sizes of the dynamic axes with which the model runs.

    Sizes the user gave are kept. The others are tried in the order of what models of that shape usually take:
    batch 1, pictures from 224 by 224, sequences from 128; a size counts once shapes fit together and a run
    gives outputs that are not empty.

    Args:
        model: stays as it is.
        given: input name -> shape, for any of the inputs.
        run: how to run the model; the reference where None.
        want: how many different sizes to look for; the first is the most usual one, the others vary it.

    Returns:
        at least one mapping of axis name to size.

    Raises:
        ShapeError: what was given does not fit, or nothing tried works; the message says how to give shapes.
    """
    signature = model.signature
    fixed = _sizes_of(signature, given or {})
    open_axes = [axis for axis in signature.dynamic_axes if axis not in fixed]
    if not open_axes and (not fixed or want == 1):
        return [fixed]
    reference = _reference(model, run)
    found: list[Sizes] = []
    failure: RacelineError | None = None
    for tried, sizes in enumerate(_candidates(model, fixed, open_axes, found)):
        if tried == _MOST_TRIED or len(found) == want:
            break
        try:
            _attempt(model, signature.concrete(sizes), reference, run)
            found.append(sizes)
        except (ShapeError, BadModelError) as error:
            failure = failure or error
    if not found:
        raise _nothing_works(signature, open_axes, failure)
    return found


def prove_batch_axis(
    model: Model, sizes: Mapping[str, int], *, run_all: RunAll | None = None, seed: int = 0
) -> str | None:
    """Find out whether axis 0 of every input and output is a batch of independent items.

    Two items run alone and then together, in both orders; every output row must be the same each time, and
    the two items must give different outputs, or the test would prove nothing.

    Args:
        model: stays as it is.
        sizes: sizes with which the model runs; those of the axes 0 do not count.
        run_all: how to run the model on several inputs; the reference where None.
        seed: of the items.

    Returns:
        the name for the batch axis (that of the first input's axis 0), to be set by `with_batch_axis`; None
        where items are not independent, or that cannot be shown.
    """
    signature = model.signature
    axes = _first_axes(signature)
    if axes is None:
        return None
    shapes = signature.concrete({**sizes, **dict.fromkeys(axes, 1)})
    one, two = (make_inputs(signature, shapes, seed=seed + i) for i in range(2))
    try:
        *alone, together, turned = (run_all or _in_reference(model))(
            [one, two, _stack([one, two]), _stack([two, one])]
        )
    except RacelineError:
        return None  # a model that takes one item only
    differ = False
    for spec in signature.outputs:
        first, second = alone[0][spec.name], alone[1][spec.name]
        if not _same_rows([first, second], together[spec.name]):
            return None
        if not _same_rows([second, first], turned[spec.name]):
            return None
        differ |= not _close(first, second)
    return axes[0] if differ else None


def _in_reference(model: Model) -> RunAll:
    reference = Reference(model)
    return lambda cases: [reference.run(case) for case in cases]


def _fill(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Random values of the right type and range."""
    dtype, values = _dtype(spec.dtype), spec.values
    if dtype.kind == "O":
        numbers = generator.integers(0, 1000, shape)
        return np.array([f"text {n}" for n in numbers.reshape(-1)], object).reshape(shape)
    if values is not None and values.choices:
        return generator.choice(np.array(values.choices), shape).astype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind == "c":
        parts = generator.standard_normal((2, *shape))
        return np.asarray(parts[0] + 1j * parts[1]).astype(dtype)
    if not _is_integer(dtype):
        if values is not None:
            return np.asarray(generator.uniform(values.low, values.high, shape)).astype(dtype)
        return np.asarray(generator.standard_normal(shape, np.float32)).astype(dtype)
    values = values or _default_integers(spec, dtype)
    return generator.integers(int(values.low), int(values.high), shape, endpoint=True).astype(dtype)


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" or dtype.name in {"int4", "uint4", "int2", "uint2"}


def _default_integers(spec: TensorSpec, dtype: np.dtype[Any]) -> Values:
    import ml_dtypes

    if dtype.itemsize == 1:
        info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        return Values(int(info.min), int(info.max))
    return _MASK if "mask" in spec.name.lower() else _DEFAULT_INTEGERS


def _sizes_of(signature: Signature, given: Shapes) -> Sizes:
    """The sizes that given shapes imply.

    Raises:
        ShapeError: a shape does not fit its input, or two give one axis different sizes.
    """
    sizes: Sizes = {}
    for name, shape in given.items():
        spec = signature.input(name)
        if not spec.fits(tuple(shape)) or any(size < 1 for size in shape):
            why = f"it is {spec}, and every axis must have at least one element"
            raise ShapeError(f"input {name!r} cannot have shape {list(shape)}", why)
        for axis, size in zip(spec.shape, shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise ShapeError(f"axis {axis!r} is {sizes[axis]} and {size} at once", f"seen at {spec}")
    return sizes


def _candidates(model: Model, fixed: Sizes, open_axes: list[str], found: list[Sizes]) -> Iterator[Sizes]:
    """Sizes to try, likeliest first; once one works, variations of it."""
    batch, images, lengths = _roles(model.signature, open_axes)
    start = {**fixed, **dict.fromkeys(batch, 1)}
    for image in _image_sizes(model) if images else [(0, 0)]:
        for length in _LENGTHS if lengths else [0]:
            if not found:
                seen = {axis: image[side] for axis, side in images.items()}
                yield {**start, **seen, **dict.fromkeys(lengths, length)}
    if found:
        base = found[0]
        for items in (2, 3):
            yield base | dict.fromkeys(batch, items)
        for times in (2, 3):
            longer = {axis: base[axis] * times for axis in lengths}
            yield base | longer | {axis: base[axis] + 32 * times for axis in images}


def _roles(signature: Signature, open_axes: list[str]) -> tuple[list[str], dict[str, int], list[str]]:
    """Axes that count items; that span a picture (0 high, 1 wide); and that count steps."""
    batch: list[str] = []
    images: dict[str, int] = {}
    for spec in signature.inputs:
        for place, axis in enumerate(spec.shape):
            if not isinstance(axis, str) or axis not in open_axes:
                continue
            if "batch" in axis.lower() or (place == 0 and len(spec.shape) > 1):
                batch.append(axis)
            elif len(spec.shape) == 4 and place in _picture_axes(spec):
                images.setdefault(axis, _picture_axes(spec).index(place))
    images = {axis: side for axis, side in images.items() if axis not in batch}
    return batch, images, [a for a in open_axes if a not in batch and a not in images]


def _picture_axes(spec: TensorSpec) -> tuple[int, int]:
    return (1, 2) if spec.shape[3] in _CHANNELS and spec.shape[1] not in _CHANNELS else (2, 3)


def _image_sizes(model: Model) -> list[tuple[int, int]]:
    """Usual pictures; first the size that the exporter noted, if it did."""
    noted = model.program.metadata_props.get("imgsz", "")  # as Ultralytics writes it
    try:
        high, wide = json.loads(noted)
    except (ValueError, TypeError):
        return _IMAGES
    usable = all(isinstance(size, int) and 0 < size <= 4096 for size in (high, wide))
    return [(high, wide), *_IMAGES] if usable else _IMAGES


def _reference(model: Model, run: Run | None) -> Reference | None:
    """The reference; None where it lacks an operator and something else can run the model."""
    try:
        return Reference(model)
    except UnsupportedOperatorError:
        if run is None:
            raise
        return None


def _attempt(model: Model, shapes: Shapes, reference: Reference | None, run: Run | None) -> None:
    """Run once at these shapes.

    Raises:
        ShapeError: the shapes do not fit together, or an output is empty.
        BadModelError: the run fails.
    """
    if reference is not None:
        infer_shapes(model, shapes, reference)
        run = run or reference.run
    assert run is not None
    outputs = run(make_inputs(model.signature, shapes, seed=0))
    empty = [name for name, array in outputs.items() if array.size == 0]
    if empty:
        raise ShapeError(f"output {empty[0]!r} is empty", f"with {dict(shapes)}")


def _first_axes(signature: Signature) -> list[str] | None:
    """Names of all inputs' axes 0, if each tensor has an open axis 0 of a name used nowhere else."""
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or any(not spec.shape or isinstance(spec.shape[0], int) for spec in specs):
        return None
    axes = list(dict.fromkeys(str(spec.shape[0]) for spec in signature.inputs))
    elsewhere = {axis for spec in signature.inputs for axis in spec.shape[1:]}
    return None if elsewhere & set(axes) else axes


def _stack(items: list[Tensors]) -> Tensors:
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def _same_rows(alone: list[Array], together: Array) -> bool:
    """Whether a batch holds exactly what its items gave alone, and each item some number."""
    if any(a.ndim == 0 or len(a) != 1 for a in alone) or len(together) != len(alone):
        return False
    return all(_close(together[row : row + 1], item) and not is_void(item) for row, item in enumerate(alone))


def _close(a: Array, b: Array) -> bool:
    """Equal but for rounding, which grows with the largest element of all and of each slice."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if is_exact(a.dtype):
        return bool(np.array_equal(a, b))
    return is_near(a, b, atol=APPROXIMATION, rtol=1e-2 if a.dtype.itemsize < 4 else 1e-4)


def _nothing_works(signature: Signature, open_axes: list[str], failure: RacelineError | None) -> ShapeError:
    example = next(spec for spec in signature.inputs if any(d in open_axes for d in spec.shape))
    guess = ",".join(str(d) if isinstance(d, int) else "N" for d in example.shape)
    return ShapeError(
        f"no size of {', '.join(map(repr, open_axes))} was found with which the model runs",
        f"the first attempt failed: {failure}",
        f"Give the shapes it was made for, for example --shape {example.name}={guess}.",
    )
