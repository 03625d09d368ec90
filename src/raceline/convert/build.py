"""Build a graph node by node, with types and shapes known as it grows: what readers write into."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.dims import dims_in
from raceline.convert.graph import Array, constant, shape_of
from raceline.core.errors import BadModelError
from raceline.ir import (
    Limits,
    Model,
    Provenance,
    Signature,
    check,
    infer_values,
    operators,
    scales,
    signature_of,
)
from raceline.ir.infer import MOST_CONSTANT_ELEMENTS
from raceline.ir.load import PARSE_FAILURES, equation_problem, root_cause

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
"""Opset that readers write: all engines take it, and it has 4-bit types, blocked QDQ and Gelu."""

OPSETS = {"": OPSET, "ai.onnx.ml": 5}
"""The version of each domain of the standard; that of trees and other classical models has TreeEnsemble."""

Dim = int | str | None
Operand = "ir.Value | Array | Sequence[int] | int | float | bool | None"
"""What a node may read: a value; an array; integers (an int64 tensor); None where it is left out."""

_MOST_FOLDED_BYTES = 64 * 1024
_RANDOM = frozenset(
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
_NEVER_FOLDED = _RANDOM | frozenset(
    "DequantizeLinear QuantizeLinear DynamicQuantizeLinear If Loop Scan SequenceMap "
    "Optional SequenceConstruct SequenceErase SequenceInsert SplitToSequence".split()
)


class Builder:
    """A graph of standard ONNX under construction.

    Every node's output types and shapes are inferred at once, symbolic axes included. What reads nothing but
    constants is computed at once where the result is small, and rearranged without a copy where it is large,
    so that a rule can ask for the array behind a value (`array`) however the source spelt it.

    Attributes:
        graph: what is built so far.
        where: the source's node that is being translated; names and messages carry it.
    """

    def __init__(self, name: str, *, limits: Limits | None = None) -> None:
        import onnx_ir as ir

        self.graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": OPSET})
        self.limits = limits or Limits()
        self.where = ""
        self._names: dict[str, int] = {}
        self._small: dict[tuple[Any, ...], ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._count = [0]
        self._wanted: dict[ir.Value, str] = {}

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Name what is built inside the block after a node of the source."""
        outer, self.where = self.where, where
        try:
            yield
        finally:
            self.where = outer

    def input(self, name: str, dtype: Any, shape: Sequence[Dim]) -> ir.Value:
        """Add an input.

        Args:
            name: as in the source; kept.
            dtype: a NumPy dtype, or an onnx_ir DataType.
            shape: a size, a name, or None for an open axis that has no name.
        """
        import onnx_ir as ir

        value = ir.Value(name=self._name(name), type=ir.TensorType(_data_type(dtype)), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def constant(self, array: Any, name: str = "") -> ir.Value:
        """A value that always holds this array; small ones are made once, however often they are asked for.

        Args:
            array: anything that NumPy takes; text as an array of objects.
            name: for a weight, as in the source; empty for what has none.
        """
        import onnx_ir as ir

        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if 0 < array.nbytes <= 64 and not name else None
        if key is not None and array.dtype.kind != "O" and key in self._small:
            return self._small[key]
        text = array.dtype.kind in "OSU"
        unique = self._name(name or "const")
        tensor: Any = (
            ir.StringTensor(
                [str(t).encode() for t in array.reshape(-1)], shape=ir.Shape(array.shape), name=unique
            )
            if text
            else ir.Tensor(array, name=unique)
        )
        value = ir.val(unique, const_value=tensor)
        self._weights[unique] = value
        if key is not None and not text:
            self._small[key] = value
        return value

    def op(
        self,
        op_type: str,
        *inputs: Any,
        outputs: int = 1,
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a node and return its output, or a tuple where there are several.

        Args:
            op_type: an operator of the standard at `OPSET`.
            inputs: values; arrays and numbers become constants (integers int64, other numbers float32); None
                leaves an input out.
            outputs: how many.
            domain: where it is not the standard's own.
            name: of the first output, where the source has one.
            attributes: None leaves one out.

        Raises:
            BadModelError: the operator cannot take these inputs, or the graph grows beyond the limits.
        """
        import onnx_ir as ir

        self._count[0] += 1
        if self._count[0] > self.limits.max_nodes:
            raise BadModelError(
                "the model is too large", f"it has more than the limit of {self.limits.max_nodes} nodes"
            )
        operands = [self._operand(item) for item in inputs]
        while operands and operands[-1] is None:
            operands.pop()  # spelt out, it crashes ONNX Runtime's LayerNormalization
        hint = name or f"{self.where}/{op_type}".lstrip("/")
        results = [ir.Value(name=self._name(hint if i == 0 else f"{hint}.{i}")) for i in range(outputs)]
        given = {key: item for key, item in attributes.items() if item is not None}
        node = ir.node(
            op_type, operands, given, domain=domain, outputs=results, name=self._name(hint, kind="node")
        )
        self._infer(node)
        folded = self._folded(node)
        if folded is not None:
            results = [self.constant(array, name=name) for array in folded]
            _detach(node)
        else:
            self.graph.append(node)
            if domain:
                self.graph.opset_imports.setdefault(domain, OPSETS.get(domain, 1))
        return results[0] if outputs == 1 else tuple(results)

    def body(self, name: str) -> Builder:
        """A builder for a graph inside this one (a branch, a loop's body) that may read this one's values."""
        inner = type(self)(name, limits=self.limits)
        inner._names, inner._small, inner._weights, inner._count = (
            self._names, self._small, self._weights, self._count,
        )  # fmt: skip
        inner.where = self.where
        return inner

    def close(self, results: Sequence[ir.Value]) -> ir.Graph:
        """End a graph that `body` began; its results are computed inside it, copied where they were not."""
        for value in results:
            own = (
                value.graph is self.graph and value.producer() is not None and value not in self.graph.outputs
            )
            result = value if own else self.op("Identity", value)
            # An Identity of a constant was folded, and a graph's result must be computed inside it.
            self.graph.outputs.append(result if result.producer() is not None else self._copied(result))
        return self.graph

    def control(
        self, op_type: str, inputs: Sequence[Any], types: Sequence[Any], **graphs: Any
    ) -> list[ir.Value]:
        """Add an `If`, `Loop` or `Scan`; what it writes is given, as inference does not look inside.

        Args:
            op_type: the operator.
            inputs: as for `op`.
            types: (NumPy dtype, shape) of each output.
            graphs: its graphs and other attributes.
        """
        import onnx_ir as ir

        hint = f"{self.where}/{op_type}".lstrip("/")
        results = [
            ir.Value(
                name=self._name(hint),
                type=ir.TensorType(_data_type(dtype)),
                shape=None if shape is None else ir.Shape(shape),
            )
            for dtype, shape in types
        ]
        operands = [self._operand(item) for item in inputs]
        self.graph.append(
            ir.node(op_type, operands, graphs, outputs=results, name=self._name(hint, kind="node"))
        )
        return results

    def output(self, value: ir.Value, name: str) -> None:
        """Declare an output; where the value already has a meaning to callers, a node copies it.

        It gets its name even where something inside the graph has that; an input keeps its own.
        """
        taken = value in self.graph.outputs or value.producer() is None or value.graph is not self.graph
        result = self.op("Identity", value) if taken else value
        if result.producer() is None:  # an Identity of a constant was folded
            result = self._copied(result)
        if result.name != name:
            self._wanted[result] = name
        self.graph.outputs.append(result)

    def array(self, value: ir.Value | None) -> Array | None:
        """The array behind a value that is constant; None for every other."""
        return constant(value)

    def shape(self, value: ir.Value) -> tuple[Dim, ...]:
        """A size, a name or None for each axis.

        Raises:
            BadModelError: not even the number of axes is known.
        """
        shape = shape_of(value)
        if shape is None:
            raise BadModelError(
                f"the number of axes of {value.name!r} is unknown", "it depends on what the model computes"
            )
        return shape

    def rank(self, value: ir.Value) -> int:
        """Number of axes; raises as `shape`."""
        return len(self.shape(value))

    def dtype(self, value: ir.Value) -> np.dtype[Any]:
        """The element type.

        Raises:
            BadModelError: it is unknown.
        """
        if value.dtype is None:
            raise BadModelError(f"the element type of {value.name!r} is unknown")
        return value.dtype.numpy()

    def sizes(self, value: ir.Value) -> ir.Value:
        """The shape as a tensor: a constant where all sizes are fixed."""
        shape = shape_of(value)
        if shape is not None and all(isinstance(dim, int) for dim in shape):
            return self.constant(np.array(shape, np.int64))
        return self.op("Shape", value)  # type: ignore[no-any-return]

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A scalar of another value's element type."""
        return self.constant(np.array(number, self.dtype(like)))

    def cast(self, value: ir.Value, dtype: Any) -> ir.Value:
        """The value in another element type; itself where it has that one."""
        wanted = _data_type(dtype)
        return value if value.dtype == wanted else self.op("Cast", value, to=int(wanted))

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The value with its axes in another order; itself where the order stays."""
        same = list(perm) == list(range(len(perm)))
        return value if same else self.op("Transpose", value, perm=[int(axis) for axis in perm])

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """The value in another shape; -1 for one axis that follows."""
        return self.op("Reshape", value, [int(size) for size in shape])  # type: ignore[no-any-return]

    def model(self, provenance: Provenance) -> Model:
        """The finished model, checked.

        Raises:
            BadModelError: it is not sound.
        """
        import onnx_ir as ir

        steps = tuple(self._name_outputs())
        provenance = replace(provenance, steps=(*provenance.steps, *steps))
        used = {id(v) for node in self.graph.all_nodes() for v in node.inputs}
        for value in self._weights.values():
            if id(value) in used:
                self.graph.register_initializer(value)
        program = ir.Model(self.graph, ir_version=10, producer_name="raceline")
        program.opset_imports.update(self.graph.opset_imports)
        model = Model(program, Signature((), ()), provenance)
        model.signature = signature_of(program, infer_values(program))
        check(model, allow_nan=self.limits.allow_nan)
        scales.refuse(model)
        return model

    def _name_outputs(self) -> Iterator[str]:
        """Give outputs the names that callers know, and tell where that cannot be."""
        made = [value for node in self.graph.all_nodes() for value in node.outputs]
        inner = {value.name: value for value in (*self._weights.values(), *made)}
        fixed = {
            value.name for value in (*self.graph.inputs, *self.graph.outputs) if value not in self._wanted
        }
        for value, name in self._wanted.items():
            if name in fixed:
                value.name = self._name(name)
                yield f"Output {name!r} became {value.name!r}: another input or output has its name."
                continue
            if (holder := inner.get(name)) is not None and holder is not value:
                holder.name = self._name(f"{name}_inside")
            self._names[f"value:{name}"] = max(1, self._names.get(f"value:{name}", 0))
            value.name = name
            fixed.add(name)

    def _operand(self, item: Any) -> ir.Value | None:
        import onnx_ir as ir

        if item is None or isinstance(item, ir.Value):
            return item
        if isinstance(item, bool | np.ndarray | np.generic):
            return self.constant(np.asarray(item))
        if isinstance(item, float):
            return self.constant(np.array(item, np.float32))
        return self.constant(np.array(item, np.int64))

    def _name(self, hint: str, kind: str = "value") -> str:
        """A name that no other value (or node) of the graph has."""
        key = f"{kind}:{hint}"
        while True:
            count = self._names.get(key, 0)
            self._names[key] = count + 1
            name = hint if count == 0 else f"{hint}_{count + 1}"
            if count == 0 or self._names.setdefault(f"{kind}:{name}", 0) == 0:
                self._names[f"{kind}:{name}"] = max(1, self._names[f"{kind}:{name}"])
                return name

    def _copied(self, value: ir.Value) -> ir.Value:
        """A node's copy of a constant, for an output."""
        import onnx_ir as ir

        result = ir.Value(name=self._name(f"{value.name}_copy"), type=value.type, shape=value.shape)
        self.graph.append(
            ir.node("Identity", [value], outputs=[result], name=self._name("copy", kind="node"))
        )
        return result

    def _infer(self, node: ir.Node) -> None:
        """Give the outputs of a node their types and shapes."""
        import onnx
        import onnx_ir as ir

        domain = operators.normal_domain(node.domain)
        version = OPSETS.get(domain, 1)
        schema = operators.schema(domain, node.op_type, version)
        needed = [value for value in node.inputs if value is not None]
        if schema is None or any(value.type is None for value in needed):
            return
        types = {value.name: ir.serde.serialize_value(value).type for value in needed}
        data = {
            value.name: onnx.numpy_helper.from_array(np.asarray(array, order="C"))  # keeps scalars scalars
            for value in needed
            if (array := constant(value)) is not None
            and array.size <= MOST_CONSTANT_ELEMENTS
            and array.dtype.kind in "biuf"
        }
        imports = [onnx.helper.make_opsetid(domain, version)]
        if node.op_type == "Einsum" and (why := equation_problem(node.attributes.get_string("equation", ""))):
            raise BadModelError(f"{self.where or 'a node'!r} becomes an Einsum", why)
        try:
            proto = ir.serde.serialize_node(node)
            found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, *PARSE_FAILURES) as error:
            seen = ", ".join(f"{list(shape_of(value) or '?')}" for value in needed)
            what = f"{self.where or 'a node'!r} becomes {node.op_type}"
            raise BadModelError(f"{what}, which cannot take {seen}", root_cause(error)) from error
        for value in node.outputs:
            if value.name in found:
                value.type = ir.serde.deserialize_type_proto_for_type(found[value.name])
                value.shape = ir.serde.deserialize_type_proto_for_shape(found[value.name])
        _complete(node)

    def _folded(self, node: ir.Node) -> list[Array] | None:
        """What a node computes, if that is known now and cheap to keep."""
        if node.domain or node.op_type in _NEVER_FOLDED or not node.inputs:
            return None
        arrays = [constant(value) for value in node.inputs]
        if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
            return None
        if all(array is None for array in arrays):
            return None
        view = _VIEWS.get(node.op_type)
        if view is not None and shape_of(node.outputs[0]) is not None:
            return [view(node, *arrays)]
        if any(array is not None and array.nbytes > _MOST_FOLDED_BYTES for array in arrays):
            return None
        sizes = [shape_of(value) for value in node.outputs]
        if any(shape is None or not all(isinstance(d, int) for d in shape) for shape in sizes):
            return None
        if (
            sum(math.prod(d for d in shape or () if isinstance(d, int)) for shape in sizes) * 8
            > _MOST_FOLDED_BYTES
        ):
            return None
        return _computed(node, arrays)


def _detach(node: ir.Node) -> None:
    """Take a node that will not be used off the values it reads."""
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _computed(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array] | None:
    """The outputs by the standard's own definition; None where it cannot tell."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    proto = ir.serde.serialize_node(node)
    feeds = {v.name: a for v, a in zip(node.inputs, arrays, strict=True) if v is not None}
    inputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in feeds]
    outputs = [onnx.helper.make_value_info(v.name, onnx.TypeProto()) for v in node.outputs]
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, feeds)]
    except PARSE_FAILURES:
        return None


def _complete(node: ir.Node) -> None:
    """Learn what ONNX's inference does not: shapes that the graph itself calculates from open axes."""
    import onnx_ir as ir

    learn = _LEARNT.get(node.op_type)
    dims = learn(node) if learn and not node.domain else None
    if dims is None:
        return
    result = node.outputs[0]
    seen = shape_of(result) or (None,) * len(dims)
    if len(seen) == len(dims):
        result.shape = ir.Shape(
            [old if old is not None else new for old, new in zip(seen, dims, strict=True)]
        )


def _asked(node: ir.Node, place: int) -> list[Dim] | None:
    """The sizes that an input of a node asks for, None for one that is not known."""
    dims = dims_in(node.inputs[place])
    if dims is None:
        return None
    return [dim if isinstance(dim, str) or (isinstance(dim, int) and dim > 0) else None for dim in dims]


def _expanded(node: ir.Node) -> list[Dim] | None:
    """Sizes after Expand: those asked for where the input has one element or none."""
    asked, have = _asked(node, 1), shape_of(node.inputs[0])
    if asked is None or have is None:
        return None
    count = max(len(asked), len(have))
    pairs = zip([1] * (count - len(have)) + list(have), [1] * (count - len(asked)) + asked, strict=True)
    return [
        new if old == 1 or (isinstance(new, int) and new > 1) else old if new == 1 or old == new else None
        for old, new in pairs
    ]


def _padded(node: ir.Node) -> list[Dim] | None:
    """Sizes after Pad: axes without padding keep theirs."""
    have, pads = shape_of(node.inputs[0]), constant(node.inputs[1])
    if have is None or pads is None:
        return None
    listed = constant(node.inputs[3]) if len(node.inputs) > 3 else np.arange(len(have))
    if listed is None or pads.size != 2 * listed.size:
        return None
    dims: list[Dim] = list(have)
    for axis, low, high in zip(listed, pads[: listed.size], pads[listed.size :], strict=True):
        size, more = have[int(axis)], int(low) + int(high)
        dims[int(axis)] = size + more if isinstance(size, int) else None if low or high else size
    return dims


_LEARNT: Mapping[str, Any] = {
    "Reshape": lambda node: _asked(node, 1),
    "ConstantOfShape": lambda node: _asked(node, 0),
    "Expand": _expanded,
    "Pad": _padded,
}


def _view_transpose(node: ir.Node, array: Array) -> Array:
    perm = node.attributes.get("perm")
    return array.transpose(None if perm is None else perm.as_ints())


def _view_shaped(node: ir.Node, array: Array, *_: Any) -> Array:
    shape = shape_of(node.outputs[0])
    assert shape is not None
    return array.reshape([-1 if not isinstance(dim, int) else dim for dim in shape])


def _view_identity(node: ir.Node, array: Array) -> Array:
    return array


def _view_cast(node: ir.Node, array: Array) -> Array:
    import onnx_ir as ir

    with np.errstate(all="ignore"):  # infinities and NaN become some integer, as in any engine
        return array.astype(ir.DataType(node.attributes["to"].as_int()).numpy(), copy=False)


_VIEWS: Mapping[str, Any] = {
    "Transpose": _view_transpose,
    "Reshape": _view_shaped,
    "Squeeze": _view_shaped,
    "Unsqueeze": _view_shaped,
    "Identity": _view_identity,
    "Cast": _view_cast,
}
"""Operators that rearrange an array of any size in place, or in a copy that takes the original's place."""


def _data_type(dtype: Any) -> Any:
    import onnx_ir as ir

    return dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(np.dtype(dtype))
