"""Cut a graph between two nodes: where few tensors cross, and the models of what lies between two cuts.

A cut is a place in the graph's order: so many nodes come before it. What depends on weights alone crosses no
cut, for each side computes its own; nor do the model's inputs, which every part may read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raceline.core.errors import BadModelError
from raceline.ir.model import Model
from raceline.ir.serialise import bare_proto
from raceline.ir.shapes import infer_shapes
from raceline.ir.signature import Provenance, Shapes, Signature, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

_STANDARD = frozenset({"", "ai.onnx"})
_DRAWS = ("Random", "Multinomial", "Bernoulli", "Dropout")  # give other values each time


@dataclass(frozen=True)
class Cut:
    """A place between two nodes.

    Attributes:
        place: how many nodes come before it.
        after: what the node before it writes; a name of the place that outlives a change of the graph's order.
        live: the tensors that cross it.
    """

    place: int
    after: str
    live: tuple[TensorSpec, ...]

    @property
    def live_bytes(self) -> int:
        """How much crosses; an open axis counts as one."""
        return sum(
            np.dtype(spec.dtype).itemsize * math.prod(d for d in spec.shape if isinstance(d, int))
            for spec in self.live
        )


class Segments:
    """A model that can be cut into parts which, run one after another, compute the same.

    Args:
        model: stays as it is; the parts share its weights.
        shapes: the inputs' shapes where the parts will see only those; None leaves axes open.

    Raises:
        ShapeError: the model cannot take these shapes.
    """

    def __init__(self, model: Model, shapes: Shapes | None = None) -> None:
        self._model = model
        self._nodes: list[ir.Node] = list(model.program.graph)
        specs = _open_specs(model) if shapes is None else _fixed_specs(model, shapes)
        for spec in (*model.signature.inputs, *model.signature.outputs):
            known = specs.get(spec.name, spec) if shapes is not None else spec
            specs[spec.name] = replace(spec, shape=known.shape)  # the signature's type and range of values
        self._specs = specs
        self._written, self._last_read = _lifetimes(self._nodes)

    @property
    def size(self) -> int:
        """How many places there are behind a node; the last is the graph's end."""
        return len(self._nodes)

    def cuts(self, *, most_live: int = 2) -> list[Cut]:
        """The places, in order, where between one and `most_live` tensors of known type and rank cross."""
        found = []
        for place, node in enumerate(self._nodes[:-1], start=1):
            live = self._live(place)
            after = next((value.name for value in node.outputs if value.name), "")
            if after and 0 < len(live) <= most_live and all(name in self._specs for name in live):
                found.append(Cut(place, after, tuple(self._specs[name] for name in live)))
        return found

    def place_after(self, value: str) -> int:
        """How many nodes there are up to the one that writes `value`.

        Raises:
            BadModelError: none of the main graph's nodes writes it.
        """
        for place, node in enumerate(self._nodes, start=1):
            if any(output.name == value for output in node.outputs):
                return place
        raise BadModelError(f"{self._model.name} cannot be cut after {value!r}", "no node of it writes that")

    def part(self, start: int, stop: int) -> Model:
        """The model of the nodes between two places; 0 is the graph's start and `size` its end.

        It takes what crosses `start` and those of the model's inputs that it reads; it gives what crosses `stop`
        and those of the model's outputs that are written between.

        Raises:
            BadModelError: the type of a tensor that crosses is not known.
        """
        import onnx_ir as ir

        graph = self._model.program.graph
        given = [*self._live(stop), *(n for n in self._outputs(start, stop) if n not in self._live(stop))]
        taken = [*(v.name or "" for v in graph.inputs), *self._live(start)]
        try:
            # It walks back from the outputs, so that constants come along.
            extracted = ir.convenience.extract(graph, taken, given)
        except ValueError as error:
            raise BadModelError(
                f"{self._model.name} cannot be cut at {start} and {stop}", str(error)
            ) from error
        for value in [v for v in extracted.inputs if not v.uses() and not v.is_graph_output()]:
            extracted.inputs.remove(value)
        functions = [function.clone() for function in self._model.program.functions.values()]
        program = ir.Model(extracted, ir_version=self._model.program.ir_version, functions=functions)
        signature = Signature(
            tuple(self._declared(value) for value in extracted.inputs),
            tuple(self._declared(value) for value in extracted.outputs),
        )
        return Model(program, signature, Provenance(source=self._model.name))

    def _live(self, place: int) -> list[str]:
        """Values that are written before a place and read behind it."""
        return [name for name, born in self._written.items() if born < place <= self._last_read.get(name, -1)]

    def _outputs(self, start: int, stop: int) -> Iterator[str]:
        """The model's outputs that this part gives; what no node writes is given by the last."""
        place = {output: i for i, node in enumerate(self._nodes) for output in node.outputs}
        for value in self._model.program.graph.outputs:
            if start <= place.get(value, self.size - 1) < stop:
                yield value.name or ""

    def _declared(self, value: ir.Value) -> TensorSpec:
        """What the value is, also written into it: engines want their inputs typed."""
        import onnx_ir as ir

        name = value.name or ""
        if name not in self._specs:
            raise BadModelError(
                f"{self._model.name} cannot be cut where {name!r} crosses", "its type is not known"
            )
        spec = self._specs[name]
        value.dtype = value.dtype or ir.DataType.from_numpy(np.dtype(spec.dtype))
        value.shape = ir.Shape(spec.shape)
        return spec


def _lifetimes(nodes: Sequence[ir.Node]) -> tuple[dict[str, int], dict[str, int]]:
    """The places of the nodes that write each value, unless it is constant, and that read it last."""
    constant: set[ir.Value] = set()
    written: dict[str, int] = {}
    last_read: dict[str, int] = {}
    for place, node in enumerate(nodes):
        reads = list(_reads(node))
        for value in reads:
            last_read[value.name or ""] = place
        if _repeats(node) and all(value.is_initializer() or value in constant for value in reads):
            constant |= set(node.outputs)
        else:
            written |= {value.name: place for value in node.outputs if value.name}
    return written, last_read


def _repeats(node: ir.Node) -> bool:
    """Whether a node gives the same for the same inputs, as far as its name tells."""
    return node.domain in _STANDARD and not node.op_type.startswith(_DRAWS) and not any(_graphs(node))


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, what its subgraphs take from outside included."""
    yield from (value for value in node.inputs if value is not None)
    for graph in _graphs(node):
        inside = {*graph.inputs, *graph.initializers.values()}
        inside |= {value for inner in graph for value in inner.outputs}
        outer = [value for inner in graph for value in _reads(inner)]
        yield from (value for value in (*outer, *graph.outputs) if value not in inside)


def _graphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield attribute.as_graph()
        elif attribute.type.name == "GRAPHS":
            yield from attribute.as_graphs()


def _fixed_specs(model: Model, shapes: Shapes) -> dict[str, TensorSpec]:
    """Type and shape of every tensor once the inputs' shapes are given; not of those that only a run tells."""
    from onnx.helper import tensor_dtype_to_np_dtype

    table = infer_shapes(model, shapes)
    return {
        name: TensorSpec(name, tensor_dtype_to_np_dtype(info.data_type).name, info.shape)
        for name, info in table.known.items()
    }


def _open_specs(model: Model) -> dict[str, TensorSpec]:
    """Type and rank of every tensor, as far as ONNX's inference tells; unknown axes get names of their own."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    inferred = onnx.shape_inference.infer_shapes(bare_proto(model.program), data_prop=True)
    found = {}
    for info in inferred.graph.value_info:
        tensor = info.type.tensor_type
        if tensor.elem_type and tensor.HasField("shape"):
            dims = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{info.name}.{axis}"
                for axis, dim in enumerate(tensor.shape.dim)
            )
            found[info.name] = TensorSpec(info.name, tensor_dtype_to_np_dtype(tensor.elem_type).name, dims)
    return found
