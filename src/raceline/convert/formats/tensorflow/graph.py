"""A GraphDef's nodes as a list in order, calls of functions replaced by what the functions do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raceline.convert.formats.tensorflow.attributes import Attributes, FunctionName, attributes_of
from raceline.convert.lower import SourceNode
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Limits

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
WRITES = frozenset(
    """Assign AssignAdd AssignSub AssignVariableOp AssignAddVariableOp AssignSubVariableOp ScatterUpdate ScatterAdd
    ScatterSub ScatterMul ScatterDiv ScatterMin ScatterMax ScatterNdUpdate ScatterNdAdd ScatterNdSub
    ResourceScatterUpdate ResourceScatterAdd ResourceScatterSub ResourceScatterMul ResourceScatterDiv
    ResourceScatterMin ResourceScatterMax ResourceScatterNdUpdate ResourceScatterNdAdd ResourceScatterNdSub
    ResourceStridedSliceAssign StridedSliceAssign CountUpTo ResourceCountUpTo LookupTableInsertV2
    LookupTableRemoveV2 WriteFile""".split()
)
"""Operators that change what the next call computes."""

_MOST_DEPTH = 64
# Names of outputs of operators that have several, in order: a function's nodes refer to them by name.
_OUTPUTS: dict[str, str] = {
    "FusedBatchNorm": "y batch_mean batch_variance reserve_space_1 reserve_space_2",
    "FusedBatchNormV2": "y batch_mean batch_variance reserve_space_1 reserve_space_2",
    "FusedBatchNormV3": "y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3",
    "TopKV2": "values indices",
    "TopK": "values indices",
    "Unique": "y idx",
    "UniqueV2": "y idx",
    "UniqueWithCounts": "y idx count",
    "UniqueWithCountsV2": "y idx count",
    "NonMaxSuppressionV4": "selected_indices valid_outputs",
    "NonMaxSuppressionV5": "selected_indices selected_scores valid_outputs",
    "CombinedNonMaxSuppression": "nmsed_boxes nmsed_scores nmsed_classes valid_detections",
    "Switch": "output_false output_true",
    "Merge": "output value_index",
    "MaxPoolWithArgmax": "output argmax",
    "TensorListPopBack": "output_handle tensor",
    "TensorListConcat": "tensor lengths",
    "TensorListConcatV2": "tensor lengths",
    "LookupTableExportV2": "keys values",
    "ListDiff": "out idx",
    "Svd": "s u v",
    "Qr": "q r",
    "SelfAdjointEigV2": "e v",
    "BroadcastGradientArgs": "r0 r1",
    "SoftmaxCrossEntropyWithLogits": "loss backprop",
    "BlockLSTM": "i cs f o ci co h",
    "BlockLSTMV2": "i cs f o ci co h",
    "LSTMBlockCell": "i cs f o ci co h",
    "GRUBlockCell": "r u c h",
    "QuantizeV2": "output output_min output_max",
    "QuantizedConv2D": "output min_output max_output",
    "CTCGreedyDecoder": "decoded_indices decoded_values decoded_shape log_probability",
    "FractionalMaxPool": "output row_pooling_sequence col_pooling_sequence",
    "GenerateBoundingBoxProposals": "rois roi_probabilities",
    "LogMatrixDeterminant": "sign log_abs_determinant",
    "SparseReshape": "output_indices output_shape",
    "SparseFillEmptyRows": "output_indices output_values empty_row_indicator reverse_index_map",
}


@dataclass(frozen=True)
class Body:
    """A function ready to be translated.

    Attributes:
        inputs: keys under which its nodes read its arguments.
        nodes: in order.
        outputs: keys of its results.
    """

    inputs: tuple[str, ...]
    nodes: list[SourceNode]
    outputs: tuple[str, ...]


@dataclass
class _Scope:
    """One graph while it is unrolled: the main one, or one call of a function.

    Attributes:
        number: tells its keys from those of others.
        prefix: of names in messages.
        nodes: by name.
        given: what the call says for the function's attributes.
        results: node or argument -> keys of its outputs, where they are not its own.
        done: names that are in the list.
        functions: those being expanded, outermost first.
    """

    number: int
    prefix: str
    nodes: Mapping[str, Any]
    given: Mapping[str, Any]
    results: dict[str, Sequence[str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    functions: tuple[str, ...] = ()

    def key(self, ref: str) -> str:
        """The key of what an input refers to."""
        name, place = self.place(ref)
        if name in self.results:
            known = self.results[name]
            if place >= len(known):
                raise BadModelError(f"{self.prefix}{name} has no output {place}")
            return known[place]
        return f"{self.number}|{name}:{place}"

    def place(self, ref: str) -> tuple[str, int]:
        """Node (or argument) and number of the output that an input refers to."""
        name, *rest = ref.split(":")
        if not rest:
            return name, 0
        if not rest[-1].isdecimal() or len(rest[-1]) > 6:
            raise BadModelError(f"a node reads {ref[:200]!r}, which is no output's name")
        index = int(rest[-1])
        if len(rest) == 1:
            return name, index
        node = self.nodes.get(name)
        names = _OUTPUTS.get(node.op if node is not None else "", "").split()
        return name, index + (names.index(rest[0]) if rest[0] in names else 0)


class Library:
    """The main graph and the functions of one GraphDef.

    Args:
        graph: the message.
        source: the file's name, for messages.
        limits: bound of all nodes, calls expanded.

    Raises:
        BadModelError: two nodes or two functions have one name.
    """

    def __init__(self, graph: Any, source: str, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.main = self._by_name(graph.node, "")
        self.functions: dict[str, Any] = {}
        for function in graph.library.function:
            if function.signature.name in self.functions:
                raise self._broken(f"there are two functions {function.signature.name!r}")
            self.functions[function.signature.name] = function
        self._bodies: dict[str, Mapping[str, Any]] = {}
        self._writes: dict[str, list[tuple[str, str]]] = {}
        self._count = self._scopes = 0

    def unroll(self, wanted: Sequence[str], given: Sequence[str] = ()) -> Body:
        """The nodes that compute some tensors of the main graph, and writes that happen on the way.

        Args:
            wanted: names of tensors.
            given: names of nodes whose results are known already; what they need is left out.

        Raises:
            BadModelError: a node reads what is not there, or the graph goes round in circles.
        """
        scope = self._scope("", self.main, {}, ())
        scope.done.update(given)
        nodes: list[_Entry] = []
        keys = self._run(scope, wanted, nodes)
        writes = [
            SourceNode(op, name, (), (), Attributes({}))
            for op, name in self._writes_reached(scope.done - set(given))
        ]
        return Body((), writes + _needed(nodes, keys), tuple(keys))

    def body(self, function: FunctionName, where: str, functions: tuple[str, ...] = ()) -> Body:
        """A function by itself, for a branch or a loop.

        Args:
            function: which, with its attributes.
            where: the node that calls it.
            functions: those around it.

        Raises:
            BadModelError: as `unroll`, or there is no such function, or it calls itself.
        """
        scope, definition = self._function_scope(function, where, functions)
        names = [arg.name for arg in definition.signature.input_arg]
        inputs = tuple(f"{scope.number}|{name}:0" for name in names)
        for name, key in zip(names, inputs, strict=True):
            scope.results[name] = [key]
        nodes: list[_Entry] = []
        keys = self._run(scope, self._returns(definition), nodes)
        return Body(inputs, _needed(nodes, keys), tuple(keys))

    def assignments(self, root: str) -> list[SourceNode]:
        """Everything that a node of the main graph makes happen, as a node that restores variables does."""
        scope = self._scope("", self.main, {}, ())
        nodes: list[_Entry] = []
        reached = self.reached([root])
        self._run(scope, [name for name in reached if self.main[name].op in WRITES], nodes)
        for name in reached:
            node = self.main[name]
            called = self._called(node, {})
            if called is not None and called.name in self.functions:
                self._run_writes(scope, node, called, nodes)
        return _needed(nodes, [], all_writes=True)

    def _run_writes(self, scope: _Scope, node: Any, called: FunctionName, nodes: list[_Entry]) -> None:
        """What a called function writes, and what a function that it calls does."""
        data = [ref for ref in node.input if not ref.startswith("^")]
        keys = self._run(scope, data, nodes)
        inner, definition = self._function_scope(called, f"{scope.prefix}{node.name}", scope.functions)
        self._bind(inner, definition, keys, node.name)
        self._run(inner, [n.name for n in inner.nodes.values() if n.op in WRITES], nodes)
        for child in inner.nodes.values():
            further = self._called(child, inner.given)
            if further is not None and further.name in self.functions:
                self._run_writes(inner, child, further, nodes)

    # ------------------------------------------------------------ order

    def _run(self, scope: _Scope, wanted: Sequence[str], out: list[_Entry]) -> list[str]:
        """Put what some tensors of a scope need into the list; returns their keys."""
        for ref in wanted:
            name, _ = scope.place(ref)
            if name not in scope.results or name in scope.nodes:
                self._visit(scope, name, out)
        return [scope.key(ref) for ref in wanted]

    def _visit(self, scope: _Scope, root: str, out: list[_Entry]) -> None:
        open_names: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = []

        def enter(name: str, reader: str) -> None:
            if name in scope.done or (name in scope.results and name not in scope.nodes):
                return
            if name not in scope.nodes:
                raise self._broken(f"{reader or 'an output'} reads {name[:200]!r}, which nothing writes")
            if name in open_names:
                self._refuse_circle(scope, name, open_names)
            open_names.add(name)
            data = [scope.place(ref)[0] for ref in scope.nodes[name].input if not ref.startswith("^")]
            stack.append((name, iter(data)))

        enter(root, "")
        while stack:
            name, rest = stack[-1]
            before = next(rest, None)
            if before is not None:
                enter(before, f"{scope.prefix}{name}")
                continue
            stack.pop()
            open_names.discard(name)
            scope.done.add(name)
            self._emit(scope, scope.nodes[name], out)

    def _emit(self, scope: _Scope, node: Any, out: list[_Entry]) -> None:
        """Put one node into the list, or what the function does that it calls."""
        self._count += 1
        if self._count > self.limits.max_nodes:
            raise BadModelError(
                f"{self.source} is too large",
                f"it has more than the limit of {self.limits.max_nodes} nodes once its functions are expanded",
            )
        keys = [scope.key(ref) for ref in node.input if not ref.startswith("^")]
        name = scope.prefix + node.name
        called = self._called(node, scope.given)
        if called is not None:
            inner, definition = self._function_scope(called, name, scope.functions)
            self._bind(inner, definition, keys, name)
            scope.results[node.name] = self._run(inner, self._returns(definition), out)
            return
        attributes = attributes_of(node.attr, scope.given, self.limits)
        out.append(_Entry(node.op, name, keys, f"{scope.number}|{node.name}", attributes, scope.functions))

    def _called(self, node: Any, given: Mapping[str, Any]) -> FunctionName | None:
        """The function that a node only calls."""
        if node.op in CALLS:
            function = attributes_of({"f": node.attr["f"]}, given, self.limits)["f"]
            if not isinstance(function, FunctionName):
                raise self._broken(f"{node.name!r} calls no function")
            return function
        if node.op in self.functions:
            return FunctionName(node.op, attributes_of(node.attr, given, self.limits))
        return None

    # ------------------------------------------------------------ functions

    def _scope(
        self, prefix: str, nodes: Mapping[str, Any], given: Mapping[str, Any], functions: tuple[str, ...]
    ) -> _Scope:
        number = self._scopes if nodes is not self.main else 0
        self._scopes += 1
        return _Scope(number, prefix, nodes, given, functions=functions)

    def _function_scope(
        self, function: FunctionName, where: str, functions: tuple[str, ...]
    ) -> tuple[_Scope, Any]:
        definition = self.functions.get(function.name)
        if definition is None:
            raise self._broken(f"{where!r} calls {function.name[:200]!r}, which is not in its library")
        if function.name in functions or len(functions) >= _MOST_DEPTH:
            raise self._broken(f"the function {function.name[:200]!r} calls itself, or calls go too deep")
        if function.name not in self._bodies:
            self._bodies[function.name] = self._by_name(definition.node_def, function.name)
        body = self._bodies[function.name]
        return self._scope(f"{where}/", body, function.attributes, (*functions, function.name)), definition

    def _bind(self, scope: _Scope, definition: Any, keys: Sequence[str], where: str) -> None:
        args = definition.signature.input_arg
        if len(args) != len(keys) or any(arg.number_attr or arg.type_list_attr for arg in args):
            raise self._broken(
                f"{where!r} calls {definition.signature.name!r} with {len(keys)} inputs, it has {len(args)}"
            )
        for arg, key in zip(args, keys, strict=True):
            scope.results[arg.name] = [key]

    def _returns(self, definition: Any) -> list[str]:
        """What a function's results refer to, in order."""
        names = [arg.name for arg in definition.signature.output_arg]
        absent = [name for name in names if name not in definition.ret]
        if absent:
            raise self._broken(f"the function {definition.signature.name!r} does not return {absent[0]!r}")
        return [definition.ret[name] for name in names]

    # ------------------------------------------------------------ writes

    def _writes_reached(self, done: set[str]) -> list[tuple[str, str]]:
        """Writes that happen whenever these nodes of the main graph run."""
        found: dict[tuple[str, str], None] = {}
        for name in self.reached(list(done)):
            node = self.main[name]
            if node.op in WRITES:
                found[node.op, name] = None
            for function in self._mentioned(node):
                found |= dict.fromkeys(self._writes_of(function))
        return list(found)

    def _writes_of(self, function: str) -> list[tuple[str, str]]:
        """Writes of a function and of those it mentions; a body holds only what it runs."""
        found: dict[tuple[str, str], None] = {}
        waiting, seen = [function], {function}
        while waiting:
            name = waiting.pop()
            definition = self.functions.get(name)
            for node in definition.node_def if definition is not None else ():
                if node.op in WRITES:
                    found[node.op, f"{name}/{node.name}"] = None
                fresh = [other for other in self._mentioned(node) if other not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
        return list(found)

    def _mentioned(self, node: Any) -> list[str]:
        names = [item.func.name for item in node.attr.values() if item.HasField("func")]
        names += [f.name for item in node.attr.values() if item.HasField("list") for f in item.list.func]
        return [name for name in [*names, node.op] if name in self.functions]

    def reached(self, roots: Sequence[str]) -> list[str]:
        """Nodes of the main graph that run whenever some others do."""
        waiting, seen = list(roots), set(roots)
        while waiting:
            node = self.main.get(waiting.pop())
            for ref in node.input if node is not None else ():
                name = ref.lstrip("^").split(":")[0]
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return [name for name in seen if name in self.main]

    # ------------------------------------------------------------ refusals

    def _by_name(self, nodes: Any, where: str) -> dict[str, Any]:
        named = {node.name: node for node in nodes}
        if len(named) != len(nodes):
            raise self._broken(f"nodes share a name{f' in the function {where!r}' if where else ''}")
        return named

    def _refuse_circle(self, scope: _Scope, name: str, open_names: set[str]) -> None:
        loops = [n for n in open_names if scope.nodes[n].op in {"NextIteration", "RefNextIteration"}]
        if loops:
            raise UnsupportedOperatorError(
                self.source,
                {"NextIteration: a loop of TensorFlow 1": [scope.prefix + n for n in sorted(loops)]},
                "Save it again with tf.compat.v1.enable_control_flow_v2().",
            )
        raise self._broken(f"node {scope.prefix}{name} needs its own result")

    def _broken(self, why: str) -> BadModelError:
        return BadModelError(f"{self.source} is broken", why, "Export the model again.")


@dataclass(frozen=True)
class _Entry:
    """A node in the list, before it is known which of its outputs are read."""

    op: str
    name: str
    inputs: list[str]
    key: str
    attributes: Mapping[str, Any]
    functions: tuple[str, ...]


def _needed(nodes: Sequence[_Entry], keys: Sequence[str], *, all_writes: bool = False) -> list[SourceNode]:
    """The nodes that some tensors really need, with the outputs that are read."""
    read: dict[str, int] = {}

    def note(key: str) -> None:
        owner, _, place = key.rpartition(":")
        read[owner] = max(read.get(owner, 0), int(place) + 1)

    for key in keys:
        note(key)
    kept = []
    for entry in reversed(nodes):
        if entry.key not in read and not (all_writes and entry.op in WRITES):
            continue
        for key in entry.inputs:
            note(key)
        outputs = tuple(f"{entry.key}:{place}" for place in range(read.get(entry.key, 0)))
        attributes = Attributes({**entry.attributes, "_functions": entry.functions})
        kept.append(SourceNode(entry.op, entry.name, tuple(entry.inputs), outputs, attributes))
    return kept[::-1]
