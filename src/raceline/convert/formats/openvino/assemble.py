"""Turn a network into source nodes and run the rules over them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.elements import dtype_of, shape_of
from raceline.convert.formats.openvino.net import Layer, Net
from raceline.convert.formats.openvino.patterns import with_compressed
from raceline.convert.formats.openvino.settings import Context, Settings
from raceline.convert.lower import SourceNode, lower

if TYPE_CHECKING:
    import onnx_ir as ir

WAY_OUT = "Save the model without these operations, or read it in the format that it was converted from."


def run_net(b: Builder, net: Net, parameters: dict[str, Any], context: Context) -> dict[str, ir.Value]:
    """Translate a network, or a body, into a builder.

    Args:
        b: receives the nodes.
        net: the layers in order.
        parameters: values of Parameter layers, by the layer's identity.
        context: what the file's rules share.

    Returns:
        the values of Result layers, by the layer's identity.
    """
    values: MutableMapping[str, Any] = {}
    results: dict[str, str] = {}
    read = {f"{source}:{port}" for layer in net.layers for source, port in layer.sources}
    nodes = []
    for layer in net.layers:
        if layer.type == "Parameter":
            given = parameters.get(layer.id)
            if given is None:
                raise ValueError(f"nothing gives the parameter {layer.name[:100]!r}")
            values[f"{layer.id}:{layer.outputs[0].id}"] = given
        elif layer.type == "Result":
            results[layer.id] = ":".join(layer.sources[0])
        else:
            nodes.append(_node(layer, read, context))
    lower(
        b, with_compressed(nodes, set(results.values())), context.table, values,
        source=context.source, way_out=WAY_OUT,
    )  # fmt: skip
    return {layer: values[name] for layer, name in results.items()}


def _node(layer: Layer, read: set[str], context: Context) -> SourceNode:
    """A layer as the rules see it; operations of sets that are not the standard's keep the set's name."""
    standard = layer.version.startswith("opset") or not layer.version
    names = [f"{layer.id}:{port.id}" for port in layer.outputs]
    return SourceNode(
        op=layer.type
        if standard or layer.version.startswith("ie_internal")
        else f"{layer.type} ({layer.version})",
        name=layer.name,
        inputs=tuple(":".join(source) for source in layer.sources),
        outputs=tuple(name if name in read else "" for name in names),
        attributes=Settings(layer, context),
    )


def add_input(b: Builder, layer: Layer, name: str) -> ir.Value:
    """A Parameter layer as an input of the model."""
    return b.input(name, dtype_of(layer.data["element_type"]), shape_of(layer.data["shape"]))
