"""How two models differ, whatever formats they come from: outputs, layer by layer, and where they first part.

Both are run in the reference on the same generated inputs. Layers meet by name where both models use a name;
elsewhere by their numbers, whatever the layout: a value has a counterpart where the other model computes one with
the same count, sum, sum of magnitudes, least and largest element. Inputs and outputs meet by name, or in order,
and their channels may come first in one model and last in the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raceline.convert.equivalence import Difference, differences
from raceline.core.errors import ShapeError
from raceline.core.progress import Progress, Silent
from raceline.engines import Tolerance
from raceline.ir import Model, Reference, Shapes, TensorSpec, make_inputs, structure, suggest_sizes

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

_LEAST_ELEMENTS = 8  # of fewer, equal numbers are no sign of the same layer
_SAME_NUMBERS = 1e-3  # of the sum of magnitudes
_TURNS = {3: ((0, 2, 1),), 4: ((0, 2, 3, 1), (0, 3, 1, 2)), 5: ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3))}


@dataclass(frozen=True)
class Layer:
    """A value of the first model and its counterpart in the second.

    Attributes:
        value: its name.
        operator: what computes it.
        node: the node's name.
        counterpart: the second model's value; empty where there is none.
        how: "name" where both share it, "numbers" where only its numbers were found again, "" for none.
        max_abs, max_rel: how far they are apart, and beside the largest magnitude; None where layouts differ.
        ok: whether they agree.
    """

    value: str
    operator: str
    node: str
    counterpart: str
    how: str
    max_abs: float | None
    max_rel: float | None
    ok: bool


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        first, second: their names.
        sizes: of the first model's dynamic axes.
        seed: of the generated inputs.
        rtol: how far an output may be off, beside its largest magnitude.
        inputs, outputs: how they were paired, in words.
        differences: of each output.
        layers: the first model's values in order of computation.
        divergence: where they first part; None where the outputs agree.
    """

    first: str
    second: str
    sizes: dict[str, int]
    seed: int
    rtol: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    differences: tuple[Difference, ...]
    layers: tuple[Layer, ...]
    divergence: Layer | None

    @property
    def ok(self) -> bool:
        """Whether every output agrees."""
        return all(difference.ok for difference in self.differences)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the verdict among them."""
        return {"ok": self.ok, **asdict(self)}


def compare_models(
    first: Model,
    second: Model,
    *,
    shapes: Shapes | None = None,
    seed: int = 0,
    rtol: float = 1e-4,
    progress: Progress | None = None,
) -> Comparison:
    """Run both models on the same inputs and compare all they compute.

    Args:
        first: its values are the measure.
        second: stays as it is, like the first.
        shapes: of inputs of the first, where axes are open.
        seed: of the generated inputs.
        rtol: how far an output may be off, beside its largest magnitude.
        progress: told of each model's run.

    Raises:
        ShapeError: inputs or outputs do not pair, or no sizes suit both.
        BadModelError: one of the models cannot be computed.
    """
    ins = _paired(first.signature.inputs, second.signature.inputs, "inputs")
    outs = _paired(first.signature.outputs, second.signature.outputs, "outputs")
    given = {**_fixed_by(ins), **(shapes or {})}
    (sizes,) = suggest_sizes(first, given)
    feeds = make_inputs(first.signature, first.signature.concrete(sizes), seed=seed)
    turned = {b.name: _turned(feeds[a.name], b) for a, b in ins}
    second.signature.validate(turned)
    with (progress or Silent()).step("run both models", 2) as step:
        left = _run(first, feeds)
        step.advance(note=second.name)
        right = _run(second, turned)
        step.advance()
    tolerance = Tolerance(min(1e-5, rtol), rtol)
    expected = {a.name: np.asarray(left[a.name]) for a, _ in outs}
    got = {a.name: _turned_like(np.asarray(right[b.name]), expected[a.name]) for a, b in outs}
    found = differences(expected, got, tolerance)
    layers = tuple(_layers(first, left, {**right, **got}, tolerance))
    wrong = [difference.name for difference in found if not difference.ok]
    return Comparison(
        first=first.name,
        second=second.name,
        sizes=dict(sizes),
        seed=seed,
        rtol=rtol,
        inputs=tuple(f"{a} = {b}" for a, b in ins),
        outputs=tuple(f"{a} = {b}" for a, b in outs),
        differences=tuple(found),
        layers=layers,
        divergence=None if not wrong else _first_parting(first, layers, wrong),
    )


Pairs = list[tuple[TensorSpec, TensorSpec]]


def _paired(first: Sequence[TensorSpec], second: Sequence[TensorSpec], kind: str) -> Pairs:
    """Inputs or outputs that belong together.

    Raises:
        ShapeError: there are more on one side, or they do not fit.
    """
    by_name = {spec.name: spec for spec in second}
    if by_name.keys() == {spec.name for spec in first}:
        pairs = [(spec, by_name[spec.name]) for spec in first]
    elif len(first) == len(second):
        pairs = list(zip(first, second, strict=True))
    else:
        raise ShapeError(
            f"the models have {len(first)} and {len(second)} {kind}",
            f"{', '.join(map(str, first))} beside {', '.join(map(str, second))}",
        )
    wrong = [f"{a} beside {b}" for a, b in pairs if kind == "inputs" and not _may_fit(a, b)]
    if wrong:
        raise ShapeError(f"the {kind} of the models do not fit", ", ".join(wrong))
    return pairs


def _may_fit(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether some array suits both, axes turned where need be."""
    if one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return False
    orders = [tuple(range(len(one.shape))), *_TURNS.get(len(one.shape), ())]
    return any(_agree([one.shape[axis] for axis in order], other.shape) for order in orders)


def _agree(one: Sequence[int | str], other: Sequence[int | str]) -> bool:
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one, other, strict=True))


def _fixed_by(pairs: Pairs) -> dict[str, tuple[int, ...]]:
    """Shapes of the first model's inputs that the second model prescribes."""
    found = {}
    for one, other in pairs:
        merged = [b if isinstance(a, str) else a for a, b in zip(one.shape, other.shape, strict=True)]
        sizes = [size for size in merged if isinstance(size, int)]
        if len(sizes) == len(one.shape) and _agree(one.shape, other.shape):
            found[one.name] = tuple(sizes)
    return found


def _turned(array: Array, spec: TensorSpec) -> Array:
    """The array with its axes in the order that a spec wants."""
    if spec.fits(array.shape):
        return array
    for order in _TURNS.get(array.ndim, ()):
        turned = array.transpose(order)
        if spec.fits(turned.shape):
            return np.ascontiguousarray(turned)
    raise ShapeError(f"no input suits both models: {list(array.shape)}", f"the second takes {spec}")


def _turned_like(array: Array, expected: Array) -> Array:
    """An output with its axes in the order of the expected one; as it is where that does not help."""
    if array.shape == expected.shape:
        return array
    for order in _TURNS.get(array.ndim, ()):
        if array.transpose(order).shape == expected.shape:
            return array.transpose(order)
    return array


def _run(model: Model, feeds: Tensors) -> dict[str, Any]:
    """Every value that the model computes, in order."""
    return dict(Reference(model).steps(feeds))


def _layers(
    model: Model, left: Mapping[str, Any], right: Mapping[str, Any], tolerance: Tolerance
) -> Iterator[Layer]:
    """The first model's values, each with its counterpart."""
    known = _Numbers(right)
    for node in Reference(model).proto.graph.node:
        for name in node.output:
            value = left.get(name)
            if not isinstance(value, np.ndarray) or not name:
                continue
            other = right.get(name)
            label = node.name or name
            if isinstance(other, np.ndarray) and other.shape == value.shape:
                (found,) = differences({name: value}, {name: other}, tolerance)
                yield Layer(name, node.op_type, label, name, "name", found.max_abs, found.max_rel, found.ok)
            elif value.dtype.kind == "f" and value.size >= _LEAST_ELEMENTS:
                match = known.find(value)
                yield Layer(
                    name, node.op_type, label, match, "numbers" if match else "", None, None, bool(match)
                )


class _Numbers:
    """Values that can be found by their numbers, whatever their layout."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._known: dict[int, list[tuple[str, Array]]] = {}
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size >= _LEAST_ELEMENTS:
                self._known.setdefault(value.size, []).append((name, _figures(value)))

    def find(self, value: Array) -> str:
        """The name of a value with the same numbers; empty where there is none."""
        figures = _figures(value)
        scale = np.array([figures[1], figures[1], *[np.abs(figures[2:]).max(initial=0.0)] * 2])
        for name, other in self._known.get(value.size, []):
            if np.all(np.abs(other - figures) <= _SAME_NUMBERS * scale):
                return name
        return ""


def _figures(value: Array) -> Array:
    """Sum, sum of magnitudes, least and largest element."""
    wide = value.astype(np.float64)
    return np.array([wide.sum(), np.abs(wide).sum(), wide.min(), wide.max()])


def _first_parting(model: Model, layers: Sequence[Layer], wrong: Sequence[str]) -> Layer | None:
    """The first layer that differs, reads only what agrees, and leads to a wrong output by layers that all differ.

    What passes scaled on purpose and undid later leads to none.
    """
    by_value = {layer.value: layer for layer in layers}
    producers = {name: node for node in Reference(model).proto.graph.node for name in node.output if name}
    place = {layer.value: index for index, layer in enumerate(layers)}
    roots: set[str] = set()
    seen: set[str] = set()
    waiting = list(wrong)
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        before = _differing_sources(value, producers, by_value)
        waiting += before
        if not before and value in by_value:
            roots.add(value)
    return min((by_value[value] for value in roots), key=lambda layer: place[layer.value], default=None)


def _differing_sources(value: str, producers: Mapping[str, Any], layers: Mapping[str, Layer]) -> list[str]:
    """The nearest layers that a value is computed from and that differ; values too small to judge are passed."""
    found, seen = [], set()
    waiting = list(structure.reads(producers[value])) if value in producers else []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in layers:
            waiting += structure.reads(producers[name]) if name in producers else []
        elif not layers[name].ok:
            found.append(name)
    return found
