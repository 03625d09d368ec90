"""Run a model slowly and rightly, on the standard's own definitions: the truth that engines are held to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.core.errors import BadModelError, ShapeError, UnknownNameError, UnsupportedOperatorError
from raceline.core.units import format_bytes
from raceline.ir import reference_operators, structure, weights
from raceline.ir.infer import TensorInfo, infer_node, small
from raceline.ir.limits import available_memory_bytes
from raceline.ir.model import Model
from raceline.ir.serialise import bare_proto, inlined

if TYPE_CHECKING:
    import onnx

Tensors = dict[str, "np.ndarray[Any, Any]"]

# What kernels raise when the inputs do not suit them.
_KERNEL_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


class Reference:
    """A model prepared to be computed node by node; functions are inlined, weights stay where they are.

    Args:
        model: stays as it is.

    Attributes:
        proto: the inlined graph without its large weights.
        opsets: domain -> version.
        kernels: the implementation of each node of the main graph.

    Raises:
        UnsupportedOperatorError: operators without a reference implementation, all of them.
    """

    def __init__(self, model: Model) -> None:
        self.name = model.name
        program = inlined(model.program)
        self.proto: onnx.ModelProto = bare_proto(program)
        self.opsets = structure.opsets(self.proto)
        self._weights = {
            value.name or "": tensor
            for value, tensor in weights.initializers(program)
            if value.graph is program.graph
        }
        self.kernels = _kernels(self.proto, self.name)
        self._free_after = _last_uses(self.proto.graph)

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The value of an initializer of the main graph; None for any other name."""
        tensor = self._weights.get(name)
        return None if tensor is None else _for_numpy(tensor.numpy())

    def constants(self) -> Iterator[str]:
        """Names of the main graph's initializers."""
        yield from self._weights

    def run(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        *,
        outputs: Sequence[str] | None = None,
        keep: Collection[str] = (),
    ) -> Tensors:
        """Compute outputs by name.

        Args:
            inputs: named arrays, already validated against the signature.
            outputs: names to return instead of the model's outputs; any value of the main graph will do.
            keep: names of intermediate values to return beside the outputs.

        Returns:
            name -> array.

        Raises:
            BadModelError: a node cannot be computed, or would take more memory than there is.
            UnknownNameError: `outputs` or `keep` names a value that does not exist.
        """
        wanted = [o.name for o in self.proto.graph.output] if outputs is None else list(outputs)
        wanted += [name for name in keep if name not in wanted]
        asked = set(wanted)
        result = {name: _as_output(value) for name, value in self.steps(inputs) if name in asked}
        missing = [name for name in wanted if name not in result]
        if missing:
            raise UnknownNameError("value in the graph", missing[0], sorted(self._names())[:50])
        return {name: result[name] for name in wanted}

    def steps(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[tuple[str, Any]]:
        """Compute node by node, yielding every value by name as it appears: inputs first, weights never.

        Values are let go once nothing needs them any more, so memory stays near what an engine takes.
        """
        values: dict[str, Any] = {"": None, **{name: self.constant(name) for name in self.constants()}}
        for name, array in inputs.items():
            values[name] = _for_numpy(array)
            yield name, array
        limit = available_memory_bytes()
        for index, node in enumerate(self.proto.graph.node):
            self._refuse_growth(node, values, limit)
            computed = self._compute(index, node, values)
            for name, value in zip(node.output, computed, strict=False):
                if name:
                    values[name] = value
                    yield name, value
            for name in self._free_after[index]:
                values.pop(name, None)

    def compute(self, place: int, values: dict[str, Any]) -> Tensors:
        """Compute one node of the main graph.

        Args:
            place: of the node in `proto.graph.node`.
            values: at least what it reads, by name; "" stands for None.

        Raises:
            BadModelError: it cannot be computed with these.
        """
        node = self.proto.graph.node[place]
        return dict(zip(node.output, self._compute(place, node, values), strict=False))

    def _compute(self, index: int, node: Any, values: dict[str, Any]) -> tuple[Any, ...]:
        kernel = self.kernels[index]
        arguments = [values[name] for name in node.input]
        context = {"context": values} if kernel.need_context() else {}
        try:
            # Overflow and NaN are results here, not accidents: they are compared like any other.
            with np.errstate(all="ignore"):
                return tuple(kernel.run(*arguments, **context))
        except _KERNEL_FAILURES as error:
            shapes = ", ".join(
                f"{n}{list(np.shape(a))}" for n, a in zip(node.input, arguments, strict=True) if n
            )
            what = f"node {structure.label(node)!r} ({node.op_type}) of {self.name} cannot be computed"
            raise BadModelError(what, f"{_cause(error)} with {shapes or 'no inputs'}") from error

    def _refuse_growth(self, node: Any, values: Mapping[str, Any], limit_bytes: int) -> None:
        """Refuse a node whose outputs would not fit into memory, before NumPy tries."""
        known = {
            n: TensorInfo.of(v) for n in structure.reads(node) if isinstance(v := values.get(n), np.ndarray)
        }
        constants = {name: values[name] for name in known if small(values[name])}
        try:
            outputs = infer_node(node, known, constants, self.opsets)
        except ShapeError:
            return  # the kernel decides; ONNX's inference is stricter than its operators in places
        needed = sum(info.nbytes for info in outputs.values())
        if needed > limit_bytes:
            raise BadModelError(
                f"node {structure.label(node)!r} ({node.op_type}) of {self.name} cannot be computed",
                f"its outputs take {format_bytes(needed)}, and {format_bytes(limit_bytes)} are free",
            )

    def _names(self) -> set[str]:
        graph = self.proto.graph
        return {i.name for i in graph.input} | {n for node in graph.node for n in node.output if n}


def run_reference(
    model: Model,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    *,
    outputs: Sequence[str] | None = None,
    keep: Collection[str] | None = None,
) -> Tensors:
    """Compute a model's outputs by the standard's own definitions.

    Where a model runs more than once, `Reference(model).run` prepares only once.

    Args:
        model: stays as it is.
        inputs: named arrays that fit the signature.
        outputs: names to return instead of the model's outputs; intermediate values too.
        keep: names of intermediate values to return beside the outputs.

    Returns:
        name -> array.

    Raises:
        ShapeError: the inputs do not fit the signature.
        UnsupportedOperatorError: operators without a reference implementation, all of them.
        BadModelError: a node cannot be computed with these inputs.
        UnknownNameError: a name in `outputs` or `keep` is no value of the graph.
    """
    model.signature.validate(inputs)
    return Reference(model).run(inputs, outputs=outputs, keep=keep or ())


def _kernels(proto: onnx.ModelProto, name: str) -> list[Any]:
    """An implementation for every node of the main graph."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    new_ops = reference_operators.replacements()
    try:
        return list(ReferenceEvaluator(proto, new_ops=new_ops).rt_nodes_)
    except _KERNEL_FAILURES:
        pass  # some operators need types to choose their definition; infer them and ask again
    try:
        typed = onnx.shape_inference.infer_shapes(proto)
        return list(ReferenceEvaluator(typed, new_ops=new_ops).rt_nodes_)
    except _KERNEL_FAILURES as error:
        uses = _without_kernel(proto)
        if uses:
            raise UnsupportedOperatorError(
                name, uses, "The reference computes standard ONNX only."
            ) from error
        raise BadModelError(f"{name} cannot be computed", _cause(error)) from error


def _without_kernel(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Every operator that the evaluator refuses on its own, with the nodes that use it."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    uses: dict[str, list[str]] = {}
    versions = structure.opsets(proto)
    for node in structure.all_nodes(proto.graph.node):
        if structure.subgraphs(node):
            continue  # its nodes follow by themselves
        graph = onnx.helper.make_graph([node], "one", [], [])
        try:
            ReferenceEvaluator(graph, opsets=versions, new_ops=reference_operators.replacements())
        except _KERNEL_FAILURES:
            uses.setdefault(f"{node.domain or 'ai.onnx'}.{node.op_type}", []).append(structure.label(node))
    return uses


def _last_uses(graph: Any) -> list[list[str]]:
    """For each node, the values that nothing after it reads."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in (*structure.reads(node), *node.output):
            last[name] = index
    free: list[list[str]] = [[] for _ in graph.node]
    for name, index in last.items():
        if name:
            free[index].append(name)
    return free


def _for_numpy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Strings as the evaluator expects them; everything else as it is."""
    if array.dtype.kind in "OS" and any(isinstance(text, bytes) for text in array.reshape(-1)):
        decoded = [t.decode() if isinstance(t, bytes) else t for t in array.reshape(-1)]
        return np.array(decoded, dtype=object).reshape(array.shape)
    return array


def _as_output(value: Any) -> np.ndarray[Any, Any]:
    """An array whose strings, if it holds any, are objects, as the signature says."""
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "SU" else array


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
