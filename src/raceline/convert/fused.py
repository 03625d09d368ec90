"""Fused operators: a call of a model-local function whose body is the very nodes it replaces.

The body is in standard operators of the model's own opset, so any engine may inline it and computes what it
computed before, bit by bit. Numbers that set an operator up (strides, alpha, epsilon) are attributes of the
function, handed on by reference; numbers that define it (axes, permutations, the 0.5 of a GELU) stand in the
body. Equal bodies are one function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.graph import Match, Scope, constant, escape
from raceline.core.errors import InvariantError
from raceline.ir import FUSED_DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

SETTINGS = frozenset(
    "alpha approximate auto_pad beta bias dilations epsilon gamma group kernel_shape lambd output_padding "
    "output_shape pads strides transA transB".split()
)
EMBED_LIMIT = 8  # elements; integer constants up to this size (a target shape, axes) stand in the body


def fuse(
    scope: Scope,
    match: Match,
    name: str,
    inputs: Mapping[str, ir.Value | None],
    others: Sequence[ir.Value] = (),
) -> ir.Node:
    """Replace the nodes of a match by one call of a function `name`, and return the call.

    Args:
        scope: the graph they are in.
        match: nodes of which only the last one's first output is used elsewhere.
        name: what they are together, for people: ConvRelu. A second, different body gets `ConvRelu_2`.
        inputs: the function's first operands by their names in the body; what is None is left out.
        others: further operands. Whatever else the body needs follows, constants of one element and short
            integer lists excepted, which stand in the body.
    """
    import onnx_ir as ir

    nodes = match.nodes
    if problem := escape(nodes):
        raise InvariantError(f"{name} cannot be fused", problem)
    body = _Body(scope, nodes)
    operands: dict[ir.Value, str] = {}
    for role, value in inputs.items():
        if value is not None:
            operands.setdefault(value, role)
    for value in (*others, *body.outer_values()):
        operands.setdefault(value, "operand")
    function = _share(scope.program, body.function(name, operands))
    result = match.result
    output = ir.Value(type=result.type, shape=result.shape)
    call = ir.Node(
        FUSED_DOMAIN,
        function.name,
        list(operands),
        body.settings.values(),
        outputs=[output],
        name=scope.name(f"{nodes[0].name}_fused"),
    )
    label, was_output = result.name, result.is_graph_output()
    scope.insert(call, nodes[-1])
    scope.replace(result, output)
    scope.remove(nodes)
    if not was_output:
        output.name = label
    scope.program.opset_imports.setdefault(FUSED_DOMAIN, 1)
    scope.program.ir_version = max(scope.program.ir_version, 8)  # functions came with IR version 8
    return call


def is_fused(node: ir.Node | None, *names: str) -> bool:
    """Whether a node calls a fused operator; of these names, where any are given."""
    if node is None or node.domain != FUSED_DOMAIN:
        return False
    return not names or kind(node) in names


def kind(node: ir.Node) -> str:
    """The fused operator's name without the number that tells its bodies apart."""
    return node.op_type.split("_")[0]


def definition(scope: Scope, node: ir.Node) -> ir.Function:
    """The function that a node of the fused domain calls."""
    return scope.program.functions[node.op_identifier()]


@dataclass
class _Body:
    """Copies nodes into a function, calls of fused operators flattened into what they stand for."""

    scope: Scope
    nodes: tuple[ir.Node, ...]
    settings: dict[str, ir.Attr] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def outer_values(self) -> Iterator[ir.Value]:
        """What the nodes read from outside and cannot embed, in order of first use."""
        inner = {value for node in self.nodes for value in node.outputs}
        for value in dict.fromkeys(v for node in self.nodes for v in node.inputs if v is not None):
            if value not in inner and not _embeds(value):
                yield value

    def function(self, name: str, operands: Mapping[ir.Value, str]) -> ir.Function:
        """The function of these operands, given with the names they have inside."""
        import onnx_ir as ir

        formals = {operand: ir.Value(name=self._name(role)) for operand, role in operands.items()}
        values: dict[ir.Value, ir.Value | None] = {**formals}
        copies: list[ir.Node] = []
        for node in self.nodes:
            self._copy(node, values, node.attributes, copies)
        result = values[self.nodes[-1].outputs[0]]
        assert result is not None
        graph = ir.Graph(
            list(formals.values()), [result], nodes=copies, opset_imports={"": self.scope.opset}, name=name
        )
        attributes = [ir.Attr(key, attr.type, None) for key, attr in self.settings.items()]
        return ir.Function(FUSED_DOMAIN, name, graph=graph, attributes=attributes)

    def _copy(
        self,
        node: ir.Node,
        values: dict[ir.Value, ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        copies: list[ir.Node],
    ) -> None:
        """Append a copy of `node`, reading and writing `values`; a fused call's body in place of the call."""
        if is_fused(node):
            self._copy_call(node, values, copies)
            return
        import onnx_ir as ir

        operands = [self._operand(value, values, copies) for value in node.inputs]
        outputs = [ir.Value(name=self._name(node.op_type.lower())) for _ in node.outputs]
        values.update(zip(node.outputs, outputs, strict=True))
        settled = self._attributes(node, attributes)
        copies.append(ir.Node("", node.op_type, operands, settled, outputs=outputs, name=outputs[0].name))

    def _copy_call(
        self, call: ir.Node, values: dict[ir.Value, ir.Value | None], copies: list[ir.Node]
    ) -> None:
        function = definition(self.scope, call)
        given = [*call.inputs, *[None] * (len(function.inputs) - len(call.inputs))]
        inner = {
            formal: None if value is None else self._operand(value, values, copies)
            for formal, value in zip(function.inputs, given, strict=True)
        }
        for node in function:
            resolved = {
                key: call.attributes[attr.ref_attr_name or ""] if attr.is_ref() else attr
                for key, attr in node.attributes.items()
                if not attr.is_ref() or attr.ref_attr_name in call.attributes
            }
            self._copy(node, inner, resolved, copies)
        values[call.outputs[0]] = inner[function.outputs[0]]

    def _operand(
        self, value: ir.Value | None, values: dict[ir.Value, ir.Value | None], copies: list[ir.Node]
    ) -> ir.Value | None:
        """What stands in the body for an input of a node; a constant that no operand brings is embedded."""
        import onnx_ir as ir

        if value is None or value in values:
            return None if value is None else values[value]
        array = constant(value)
        assert array is not None, value
        output = ir.Value(name=self._name("constant"))
        tensor = ir.tensor(np.array(array), name=None)
        copies.append(ir.node("Constant", [], {"value": tensor}, outputs=[output], name=output.name))
        values[value] = output
        return output

    def _attributes(self, node: ir.Node, attributes: Mapping[str, ir.Attr]) -> list[ir.Attr]:
        import onnx_ir as ir

        settled = []
        for key, attr in sorted(attributes.items()):
            if key not in SETTINGS or node.op_type == "Constant":
                settled.append(ir.Attr(key, attr.type, attr.value))
                continue
            name = key if key not in self.settings else self._name(f"{node.op_type.lower()}_{key}")
            self.settings[name] = ir.Attr(name, attr.type, attr.value)
            settled.append(ir.RefAttr(key, name, attr.type))
        return settled

    def _name(self, hint: str) -> str:
        count = self._names[hint] = self._names.get(hint, 0) + 1
        return hint if count == 1 else f"{hint}_{count}"


def _embeds(value: ir.Value) -> bool:
    """Whether a constant is part of the definition rather than an operand."""
    array = constant(value)
    return array is not None and (array.size == 1 or (array.dtype.kind == "i" and array.size <= EMBED_LIMIT))


def _share(program: ir.Model, function: ir.Function) -> ir.Function:
    """The function of that body that the model already has, or this one, added under a free name."""
    text = _text(function)
    name, count = function.name, 1
    while (other := program.functions.get((FUSED_DOMAIN, function.name, ""))) is not None:
        if _text(other) == text:
            return other
        count += 1
        function.name = f"{name}_{count}"
    program.functions[function.identifier()] = function
    return function


def _text(function: ir.Function) -> bytes:
    """The body alone, byte by byte."""
    import onnx_ir as ir

    proto = ir.to_proto(function)
    proto.name = ""
    return bytes(proto.SerializeToString(deterministic=True))


def drop_unused(program: ir.Model) -> None:
    """Remove fused functions that nothing calls any more."""
    from onnx_ir.passes.common import RemoveUnusedFunctionsPass

    RemoveUnusedFunctionsPass()(program)  # type: ignore[no-untyped-call]
