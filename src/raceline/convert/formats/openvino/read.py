"""From the two files to a model."""

from __future__ import annotations

from pathlib import Path

from raceline.convert.build import Builder
from raceline.convert.files import content, refuse_strange, sha256, too_large
from raceline.convert.formats.openvino.assemble import add_input, run_net
from raceline.convert.formats.openvino.elements import Weights
from raceline.convert.formats.openvino.markup import Element, parse
from raceline.convert.formats.openvino.net import VERSIONS, Layer, Net, net_of, split_names
from raceline.convert.formats.openvino.settings import Context
from raceline.convert.formats.openvino.table import table
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model, Provenance

_ELEMENTS_PER_NODE = 16
_NEXT = "_next"
"""Added to a variable's name for the output that is its next value."""


def read_ir(path: Path, limits: Limits) -> Model:
    """Read the .xml and the .bin of the same name.

    Raises:
        BadModelError: one of them is broken, hostile or beyond the limits.
        UnsupportedOperatorError: operations that have no rule, all of them.
    """
    data = content(path, limits)
    root = parse(data, path.name, _ELEMENTS_PER_NODE * max(limits.max_nodes, 16))
    version = root.attributes.get("version", "")
    if root.tag != "net" or version not in VERSIONS:
        raise BadModelError(
            f"{path.name} is no OpenVINO IR of version 10 or 11",
            f"it is a <{root.tag[:40]}> of version {version[:20]!r}",
            "Convert it again with a release of OpenVINO from 2020 or later.",
        )
    weights, files = _weights(path, len(data), limits)
    net = net_of(root, path.name)
    if len(net.layers) > limits.max_nodes:
        raise BadModelError(
            f"{path.name} is too large", f"it has more than the limit of {limits.max_nodes} nodes"
        )
    builder = Builder(net.name[: limits.max_name_chars] or path.stem, limits=limits)
    context = Context(path.name, weights, table())
    try:
        _translate(builder, net, context)
    except (ValueError, KeyError) as error:
        raise BadModelError(f"{path.name} is broken", str(error), "Export it again.") from error
    provenance = Provenance(
        source=path.name, source_format="openvino", source_sha256=sha256(files), producer=_producer(root)
    )
    model = builder.model(provenance)
    for step in context.steps:
        model = model.with_step(step)
    return model


def _weights(path: Path, xml_bytes: int, limits: Limits) -> tuple[Weights, list[Path]]:
    """The bytes beside the XML, and the files that make up the model; a model may have no weights."""
    beside = path.with_suffix(".bin")
    if not beside.exists():
        return Weights(b"", f"{beside.name} (which is not there)"), [path]
    size = refuse_strange(beside, limits)
    if size + xml_bytes > limits.max_model_bytes:
        raise too_large(beside.name, size + xml_bytes, limits)
    return Weights(content(beside, limits) if size else b"", beside.name), [path, beside]


def _translate(b: Builder, net: Net, context: Context) -> None:
    """Inputs, layers, outputs."""
    taken: set[str] = set()
    parameters = {}
    for layer in net.of_type("Parameter"):
        try:
            parameters[layer.id] = add_input(b, layer, _unique(_input_name(layer), taken))
        except BadModelError as error:
            what = f"{context.source}: input {layer.name[:100]!r}: {error.what}"
            raise BadModelError(what, error.why, error.next_step) from error
    results = run_net(b, net, parameters, context)
    layers = {layer.id: layer for layer in net.layers}
    for layer in net.of_type("Result"):
        name = _unique(_output_name(layer, layers), taken)
        b.output(results[layer.id], name)
    for variable, value in context.states.items():
        b.output(value, _unique(f"{variable}{_NEXT}", taken))
    if not b.graph.outputs:
        raise BadModelError(f"{context.source} is broken", "it has no results")


def _input_name(layer: Layer) -> str:
    """The first of the tensor's names, else the layer's."""
    return next(iter(layer.outputs[0].names), layer.name) if layer.outputs else layer.name


def _output_name(result: Layer, layers: dict[str, Layer]) -> str:
    """The first of the tensor's names, else that of the layer that makes it."""
    own = split_names(result.element.attributes.get("output_names", ""))
    if own:
        return own[0]
    maker, port_id = result.sources[0]
    ports = layers[maker].outputs
    place, port = next((i, p) for i, p in enumerate(ports) if p.id == port_id)
    if port.names:
        return port.names[0]
    return layers[maker].name + (f".{place}" if len(ports) > 1 else "")


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number where another input or output has it."""
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _producer(root: Element) -> str:
    """Who wrote the file, with the version, where it says."""
    info = root.find("rt_info")
    for entry in info.children if info is not None else ():
        name = entry.attributes.get("name", entry.tag)
        if name in {"OpenVINO Runtime", "Runtime_version", "MO_version"}:
            version = entry.attributes.get("value", "").split("-")[0]
            return f"OpenVINO {version}"[:100].strip()
    return ""
