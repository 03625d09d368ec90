"""Bring a model to another opset, node by node, or say of every node why that cannot be.

Three ways, in this order: the standard did not change what the node means (the texts of both definitions are
the same, only their lists of types differ); ONNX's own version converter has an adapter, asked for each node
alone so that one refusal does not hide the next, and large weights never pass through it; the operator is newer
than the opset but defined by a body of older ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from raceline.convert.graph import Array, constant, rank
from raceline.convert.shapes import forget_probes, infer
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Model, check, operators
from raceline.ir.infer import MOST_CONSTANT_ELEMENTS
from raceline.ir.load import PARSE_FAILURES, root_cause
from raceline.ir.packed import OPSET as PACKED_OPSET
from raceline.ir.packed import widened
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Operators whose text was edited from one version to the next while their meaning stayed, as long as the
# attributes named here are at the value given or absent; None where only absent will do.
_SAME_MEANING: Mapping[tuple[str, int, int], Mapping[str, Any]] = {
    **{(op, 13, 14): {} for op in ("Add", "Sub", "Mul", "Div")},
    ("Loop", 13, 16): {},
    ("Reshape", 13, 14): {"allowzero": 0},
    ("BatchNormalization", 14, 15): {},
    ("BatchNormalization", 9, 14): {"training_mode": 0},
    ("Shape", 13, 15): {"start": 0, "end": None},
    ("Gemm", 11, 13): {},
    ("Max", 12, 13): {},
    ("Min", 12, 13): {},
}
# Versions in which an operator got another meaning that ONNX's converter does not know of.
_MISTRANSLATED: Mapping[str, int] = {"Hardmax": 13, "RoiAlign": 16}
_LAST_AXIS = frozenset({"Softmax", "LogSoftmax"})  # before 13 they took all axes from theirs on as one
_NO_BODY = frozenset({"Attention"})  # engines disagree with its body about masks beside a past
_HALF_PIXEL = 11  # since then Resize counts from the middle of a pixel unless it says otherwise
_WAY_OUT = "Choose another opset or consumer."
_OLDEST_OPSET = 7  # before it, broadcasting was an attribute, and no engine of today reads it
_DEEPEST = 4  # bodies inside bodies


class _Unchangeable(Exception):  # noqa: N818  # a signal inside this file; its message is the reason
    """A node that has no equal at the other opset."""


@dataclass
class _Change:
    """A change of opset under way."""

    program: ir.Model
    old: int
    new: int
    count: int = 0
    known: dict[bytes, onnx.ModelProto | str] = field(default_factory=dict)

    def name(self, hint: str) -> str:
        """A name that the model does not have; names with this beginning are ours alone."""
        self.count += 1
        return f"raceline_opset{self.new}_{self.count}_{hint}"

    def adapted(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """The little model at the other opset; the converter, which is slow, sees each kind of it once.

        Raises:
            _Unchangeable: it has no equal there.
        """
        key = proto.SerializeToString(deterministic=True)
        if key not in self.known:
            try:
                self.known[key] = _adapted(proto, self.new)
            except _Unchangeable as why:
                self.known[key] = str(why)
        found = self.known[key]
        if isinstance(found, str):
            raise _Unchangeable(found)
        return found


def with_opset(model: Model, opset: int) -> Model:
    """The model in the words of another opset of ONNX's own domain; fused functions are inlined.

    Args:
        model: stays as it is; returned itself where it has that opset already.
        opset: 7 or newer, as far as the installed onnx package knows.

    Raises:
        UnsupportedOperatorError: nodes that have no equal there, all of them, each with its reason.
        BadModelError: there is no such opset.
    """
    newest = operators.newest_opset()
    if not _OLDEST_OPSET <= opset <= newest:
        raise BadModelError(f"there is no opset {opset}", f"known are {_OLDEST_OPSET} to {newest}")
    old = model.program.opset_imports.get("", 1)
    if old == opset:
        return model
    program = inlined(widened(model).program if opset < PACKED_OPSET else model.program)
    infer(program)
    forget_probes(program)
    change = _Change(program, old, opset)
    refused: dict[str, list[str]] = {}
    for graph in list(program.graphs()):
        for node in tuple(graph):
            try:
                _rewrite(change, graph, node, old)
            except _Unchangeable as why:
                refused.setdefault(f"{node.op_type}: {why}", []).append(
                    node.name or str(node.outputs[0].name)
                )
    if refused:
        raise UnsupportedOperatorError(f"{model.name} at opset {opset} instead of {old}", refused, _WAY_OUT)
    program.opset_imports[""] = opset
    result = replace(model, program=program).with_step(f"opset {old} became {opset}")
    try:
        check(result, allow_nan=True)
    except BadModelError as error:
        raise BadModelError(
            f"{model.name} does not fit together at opset {opset} instead of {old}", error.why, _WAY_OUT
        ) from error
    return result


def _rewrite(change: _Change, graph: ir.Graph, node: ir.Node, old: int, depth: int = 0) -> None:
    """Replace a node by its equal, where it has to change at all.

    Args:
        change: under way.
        graph: the node's.
        node: an operator as opset `old` has it.
        old: the whole model's opset, or that of a body that was put in.
        depth: how many bodies it came out of.
    """
    if operators.normal_domain(node.domain) or _keeps_meaning(node, old, change.new):
        return
    if any(attribute.type.name in {"GRAPH", "GRAPHS"} for attribute in node.attributes.values()):
        raise _Unchangeable("what it means was changed, and nodes that hold graphs cannot be rewritten")
    proto = _alone(node, old)
    try:
        _splice(change, graph, node, change.adapted(proto))
    except _Unchangeable:
        body = _body(proto, change.new) if depth < _DEEPEST else None
        if body is None:
            raise
        for inner in _splice(change, graph, node, body):
            _rewrite(change, graph, inner, body.opset_import[0].version, depth + 1)


def _keeps_meaning(node: ir.Node, old: int, new: int) -> bool:
    """Whether both opsets mean the same by this node."""
    first, last = operators.schema("", node.op_type, old), operators.schema("", node.op_type, new)
    if first is None:
        raise _Unchangeable(f"opset {old} does not define it")
    if last is None:
        return False
    if first.since_version == last.since_version:
        return True
    boundary = _MISTRANSLATED.get(node.op_type, 0)
    if min(old, new) < boundary <= max(old, new) or (node.op_type == "Resize" and new < _HALF_PIXEL <= old):
        raise _Unchangeable(f"opset {boundary or _HALF_PIXEL} gave it another meaning")
    if node.op_type in _LAST_AXIS and new < 13 <= old and not _along_last_axis(node):
        raise _Unchangeable("before opset 13 it could not go along this axis alone")
    if node.op_type == "Constant":  # what it holds was never read another way, only further ways came
        same = set(node.attributes) <= set(last.attributes)
    else:
        same = all(_same_step(node, *step) for step in pairwise(_steps(node.op_type, old, new)))
    if not same or not _takes_types(node, last):
        return False
    for name in set(node.attributes) - set(last.attributes):
        node.attributes.pop(name)
    return True


def _along_last_axis(node: ir.Node) -> bool:
    axis, size = node.attributes.get_int("axis", -1), rank(node.inputs[0])
    return axis == -1 or (size is not None and axis == size - 1)


def _steps(op_type: str, old: int, new: int) -> list[Any]:
    """The definitions that an operator had between two opsets, the oldest first."""
    found = (operators.schema("", op_type, opset) for opset in range(min(old, new), max(old, new) + 1))
    by_version = {schema.since_version: schema for schema in found if schema is not None}
    return [by_version[version] for version in sorted(by_version)]


def _same_step(node: ir.Node, older: Any, newer: Any) -> bool:
    """Whether a definition and the next one say the same of this node."""
    if _text(older) == _text(newer):
        return True
    needed = _SAME_MEANING.get((node.op_type, older.since_version, newer.since_version))
    if needed is None:
        return False
    for name, value in needed.items():
        if name in node.attributes and node.attributes[name].as_int() != value:
            raise _Unchangeable(f"{name} = {node.attributes[name].as_int()} is newer")
    return True


def _text(schema: Any) -> tuple[Any, ...]:
    """All that a definition says, its lists of types excepted."""
    attributes = {
        name: (
            attribute.type,
            attribute.required,
            str(attribute.default_value),
            attribute.description.split(),
        )
        for name, attribute in schema.attributes.items()
    }
    ports = [
        (port.name, port.option, port.is_homogeneous, port.min_arity)
        for port in (*schema.inputs, *schema.outputs)
    ]
    return schema.doc.split(), attributes, ports


def _takes_types(node: ir.Node, schema: Any) -> bool:
    """Whether a definition knows the types that the node reads and writes."""
    for values, ports in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for place, value in enumerate(values):
            if value is None or value.dtype is None or not ports:
                continue
            port = ports[min(place, len(ports) - 1)]
            spelt = f"tensor({_SPELT.get(value.dtype.name, value.dtype.name.lower())})"
            if port.types and spelt not in port.types:
                raise _Unchangeable(f"it does not take {spelt} there")
    return True


_SPELT = {"FLOAT": "float", "DOUBLE": "double"}


def _alone(node: ir.Node, opset: int) -> onnx.ModelProto:
    """The node as a model of its own that reads i0, i1, ... and writes o0, o1, ..., settings inside."""
    import onnx
    import onnx_ir as ir

    names = _names(node)
    inputs, weights = [], []
    for value in dict.fromkeys(v for v in node.inputs if v is not None):
        array = constant(value)
        if array is not None and _sets_up(array):
            weights.append(onnx.numpy_helper.from_array(array, names[value]))
        elif value.type is None:
            raise _Unchangeable(f"the type of {value.name!r} is unknown")
        else:
            inputs.append(_declared(value, names[value]))
    outputs = [_declared(value, names[value]) for value in node.outputs if value.name]
    proto = ir.serde.serialize_node(node)
    for key in ("name", "doc_string", "metadata_props", "input", "output"):
        proto.ClearField(key)
    proto.input.extend("" if value is None else names[value] for value in node.inputs)
    proto.output.extend(names[value] if value.name else "" for value in node.outputs)
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs, weights)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=_IR_VERSION
    )


def _sets_up(array: Array) -> bool:
    """Whether an adapter may ask for a constant: axes, shapes and pads, scales and bounds; no weights."""
    most = MOST_CONSTANT_ELEMENTS if array.dtype.kind in "biu" else _MOST_FLOATS
    return array.dtype.kind in "biuf" and array.size <= most


def _names(node: ir.Node) -> dict[ir.Value, str]:
    """What the values are called in the little model."""
    values = dict.fromkeys(value for value in node.inputs if value is not None)
    names = {value: f"i{place}" for place, value in enumerate(values)}
    return names | {value: f"o{place}" for place, value in enumerate(node.outputs)}


def _declared(value: ir.Value, name: str) -> onnx.ValueInfoProto:
    import onnx_ir as ir

    proto = ir.serde.serialize_value(value)
    for key in ("doc_string", "metadata_props"):
        proto.ClearField(key)
    proto.name = name
    return proto


_IR_VERSION = 10
_MOST_FLOATS = 8


def _adapted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The little model at the other opset, by ONNX's converter."""
    import onnx

    try:
        result = onnx.version_converter.convert_version(proto, opset)
        _keep_corners(proto, result)
        _drop_defaults(proto, result, opset)
        _check_nodes(result, opset)
    except (*PARSE_FAILURES, onnx.version_converter.ConvertError, onnx.checker.ValidationError) as error:
        raise _Unchangeable(_reason(error)) from error
    return result


def _drop_defaults(proto: onnx.ModelProto, result: onnx.ModelProto, opset: int) -> None:
    """Take out what the other opset does not know and what said no more than its absence does."""
    source = proto.graph.node[0]
    old = operators.schema("", source.op_type, proto.opset_import[0].version)
    new = operators.schema("", source.op_type, opset)
    if old is None or new is None:
        return
    for node in result.graph.node:
        if node.op_type == source.op_type:
            kept = [
                attribute
                for attribute in node.attribute
                if attribute.name in new.attributes
                or attribute.name not in old.attributes
                or str(attribute) != str(old.attributes[attribute.name].default_value)
            ]
            copies = [type(attribute).FromString(attribute.SerializeToString()) for attribute in kept]
            node.ClearField("attribute")
            node.attribute.extend(copies)


def _keep_corners(proto: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Say in a Resize that came of an older one, or of Upsample, what that meant: it counted from the corner."""
    import onnx

    op_type, version = proto.graph.node[0].op_type, proto.opset_import[0].version
    if op_type == "Upsample" or (op_type == "Resize" and version < _HALF_PIXEL):
        for node in result.graph.node:
            if node.op_type == "Resize" and result.opset_import[0].version >= _HALF_PIXEL:
                corner = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                node.attribute.extend(onnx.helper.make_attribute(key, text) for key, text in corner.items())


def _check_nodes(proto: onnx.ModelProto, opset: int) -> None:
    """Whether every node has the attributes, and as many operands, as its definition says.

    Raises:
        onnx.checker.ValidationError: one has not.
    """
    import onnx

    context = onnx.checker.C.CheckerContext()
    context.ir_version = _IR_VERSION
    context.opset_imports = {"": opset}
    for node in proto.graph.node:
        onnx.checker.check_node(node, context)


def _body(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """The little model with its one node replaced by what defines it; None where nothing does."""
    import onnx
    import onnx.inliner

    version = proto.opset_import[0].version
    schema = operators.schema("", proto.graph.node[0].op_type, version)
    if (
        schema is None
        or schema.name in _NO_BODY
        or not schema.has_context_dependent_function
        and not schema.has_function
    ):
        return None
    versions = [*schema.context_dependent_function_opset_versions, *schema.function_opset_versions]
    fitting = [v for v in versions if v <= version]
    if not fitting:
        return None
    chosen = min((v for v in fitting if v >= opset), default=max(fitting))
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    given = {attribute.name for attribute in proto.graph.node[0].attribute}
    defaults = [
        a.default_value for name, a in schema.attributes.items() if name not in given and a.default_value.name
    ]
    copy.graph.node[0].attribute.extend(defaults)  # a body refers to them, and knows no defaults
    try:
        function = _function(schema, copy, chosen)
    except PARSE_FAILURES:
        return None
    if any(attribute.HasField("g") for node in function.node for attribute in node.attribute):
        return None  # its inner graphs read names that would have to be told apart
    function.domain, function.name = "raceline.body", "body"
    node = copy.graph.node[0]
    node.domain, node.op_type = function.domain, function.name
    copy.functions.append(function)
    copy.opset_import.add(domain=function.domain, version=1)
    copy.opset_import[0].version = function.opset_import[0].version
    flat = onnx.inliner.inline_local_functions(copy)
    return onnx.shape_inference.infer_shapes(flat)


def _function(schema: Any, proto: onnx.ModelProto, version: int) -> Any:
    import onnx

    function = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        node = proto.graph.node[0]
        types = {value.name: value.type for value in proto.graph.input}
        types |= {
            t.name: onnx.helper.make_tensor_type_proto(t.data_type, t.dims) for t in proto.graph.initializer
        }
        given = [types[name].SerializeToString() for name in node.input if name]
        text = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), given
        )
    else:
        text = schema.get_function_with_opset_version(version)
    function.ParseFromString(text)
    return function


def _splice(change: _Change, graph: ir.Graph, node: ir.Node, proto: onnx.ModelProto) -> list[ir.Node]:
    """Put what the little model holds in the node's place, and return it."""
    import onnx_ir as ir

    inner = _names(node)
    values: dict[str, ir.Value] = {inner[v]: v for v in node.inputs if v is not None}
    for tensor in proto.graph.initializer:
        if tensor.name not in values:
            name = change.name(tensor.name)
            fresh = ir.val(name, const_value=ir.tensor(ir.TensorProtoTensor(tensor).numpy(), name=name))
            change.program.graph.register_initializer(fresh)
            values[tensor.name] = fresh
    made = [_copied(change, item, values) for item in proto.graph.node]
    made[-1].name = node.name
    known = {info.name: info.type for info in proto.graph.value_info}
    for name in known.keys() & values.keys():
        values[name].type = ir.serde.deserialize_type_proto_for_type(known[name])
        values[name].shape = ir.serde.deserialize_type_proto_for_shape(known[name])
    for item in made:
        graph.insert_before(node, item)
    for value in node.outputs:
        if not value.name:
            continue
        name, new = value.name, values[inner[value]]
        new.type, new.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
        value.name, new.name = None, name
    graph.remove(node, safe=True)
    return made


def _copied(change: _Change, proto: Any, values: dict[str, ir.Value]) -> ir.Node:
    """One node of the little model, reading and writing values of the large one."""
    import onnx_ir as ir

    fresh = [ir.Value(name=change.name(name) if name else "") for name in proto.output]
    attributes = [ir.serde.deserialize_attribute(attribute) for attribute in proto.attribute]
    inputs = [values[name] if name else None for name in proto.input]
    values.update((name, value) for name, value in zip(proto.output, fresh, strict=True) if name)
    return ir.Node("", proto.op_type, inputs, attributes, outputs=fresh, name=change.name(proto.op_type))


def _reason(error: BaseException) -> str:
    """What the converter or the checker says, without the places in its source."""
    told = root_cause(error)
    for mark in ("Assertion `false` failed: ", "Assertion failed: "):
        told = told.rpartition(mark)[2]
    return told.replace("$", "")
