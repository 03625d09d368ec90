"""Recognise weights kept in few bits: Convert, Subtract and Multiply of a constant of whole numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from raceline.convert.formats.openvino.settings import Settings
from raceline.convert.lower import SourceNode

_WHOLE = frozenset({"i8", "u8", "i4", "u4"})
_NAME = "compressed weights"


def with_compressed(nodes: list[SourceNode], kept: Collection[str]) -> list[SourceNode]:
    """The nodes with each such chain as one node of the operation "compressed weights".

    Args:
        nodes: in order.
        kept: values that must stay, as they are results.
    """
    makers = {name: node for node in nodes for name in node.outputs if name}
    readers = Counter(name for node in nodes for name in node.inputs)
    replaced: dict[int, SourceNode] = {}
    dropped: set[int] = set()
    for node in nodes:
        chain = _chain(node, makers) if node.op == "Multiply" else None
        if chain is None:
            continue
        merged, inner = chain
        replaced[id(node)] = merged
        for item in inner:
            name = item.outputs[0]
            if readers[name] == 1 and name not in kept:
                dropped.add(id(item))
    return [replaced.get(id(node), node) for node in nodes if id(node) not in dropped]


def _chain(node: SourceNode, makers: dict[str, SourceNode]) -> tuple[SourceNode, list[SourceNode]] | None:
    """The merged node, and the nodes between it and the constants."""
    top = makers.get(node.inputs[0])
    scale = _constant(node.inputs[1], makers)
    if top is None or scale is None:
        return None
    inner, zero = [top], None
    if top.op == "Subtract":
        zero = _constant(top.inputs[1], makers)
        below = makers.get(top.inputs[0])
        if zero is None or below is None:
            return None
        inner.append(below)
        top = below
    if top.op != "Convert":
        return None
    weight = makers.get(top.inputs[0])
    if weight is None or weight.op != "Const" or weight.attributes.get("element_type") not in _WHOLE:
        return None
    assert isinstance(top.attributes, Settings)
    inputs = (top.inputs[0], scale) + ((zero,) if zero else ())
    return SourceNode(_NAME, node.name, inputs, node.outputs, _like(node, top)), inner


def _like(node: SourceNode, convert: SourceNode) -> Settings:
    """Attributes of the merged node: the type that Convert makes, and the outputs of Multiply."""
    from dataclasses import replace

    assert isinstance(node.attributes, Settings) and isinstance(convert.attributes, Settings)
    layer = replace(
        node.attributes.layer,
        data={"destination_type": convert.attributes.layer.data["destination_type"]},
    )
    return Settings(layer, node.attributes.context)


def _constant(name: str, makers: dict[str, SourceNode]) -> str | None:
    """The value itself if it is a constant, or a constant in another type; None otherwise."""
    node = makers.get(name)
    if node is not None and node.op == "Convert":
        node = makers.get(node.inputs[0])
    return name if node is not None and node.op == "Const" else None
