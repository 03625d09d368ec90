"""The network as the XML describes it: layers in the order of their dependencies, with named ports.

Format: https://docs.openvino.ai, "OpenVINO IR format", versions 10 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass

from raceline.convert.formats.openvino.markup import Element
from raceline.core.errors import BadModelError
from raceline.core.units import counted

VERSIONS = ("10", "11")
PortId = tuple[str, str]
"""Identity of a layer, and of one of its ports."""


@dataclass(frozen=True)
class Port:
    """One input or output of a layer.

    Attributes:
        id: unique among the layer's ports.
        precision: such as FP32; "" where the file leaves it out.
        dims: a size, or None for an open axis.
        names: the tensor's names, for outputs.
    """

    id: str
    precision: str
    dims: tuple[int | None, ...]
    names: tuple[str, ...] = ()


@dataclass
class Layer:
    """One operation.

    Attributes:
        id: unique in its network.
        name: the friendly name.
        type: the operation.
        version: its operation set.
        data: its attributes, as text.
        inputs: in order.
        outputs: in order.
        sources: of each input, the output that feeds it.
        element: the whole element, for the few layers that hold more.
    """

    id: str
    name: str
    type: str
    version: str
    data: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    element: Element
    sources: tuple[PortId, ...] = ()


@dataclass
class Net:
    """A network, or the body of a loop.

    Attributes:
        name: the file's.
        layers: each after those that it reads.
        places: identity -> place in the file, which orders inputs and outputs.
    """

    name: str
    layers: list[Layer]
    places: dict[str, int]

    def of_type(self, kind: str) -> list[Layer]:
        """The layers of one operation, in the file's order."""
        found = [layer for layer in self.layers if layer.type == kind]
        return sorted(found, key=lambda layer: self.places[layer.id])


def net_of(element: Element, source: str) -> Net:
    """Read a network or the body of a loop.

    Raises:
        BadModelError: something is missing, twice, or runs in a circle.
    """
    layers: dict[str, Layer] = {}
    for item in element.all("layers", "layer"):
        layer = _layer(item, source)
        if layer.id in layers:
            raise BadModelError(f"{source} is broken", f"two layers have the id {layer.id!r}")
        layers[layer.id] = layer
    if not layers:
        raise BadModelError(f"{source} is broken", "it has no layers", "Export it again.")
    _connect(element, layers, source)
    places = {key: place for place, key in enumerate(layers)}
    return Net(element.attributes.get("name", ""), _sorted(layers, source), places)


def _layer(item: Element, source: str) -> Layer:
    data = item.find("data")
    kind = item.attributes.get("type", "")
    name = item.attributes.get("name", item.attributes.get("id", ""))
    try:
        if len(_ports(item, "output")) < (kind == "Parameter") or len(_ports(item, "input")) < (
            kind == "Result"
        ):
            raise ValueError(f"a {kind} without a port")
        return Layer(
            id=item.attributes["id"],
            name=name,
            type=item.attributes["type"],
            version=item.attributes.get("version", ""),
            data=dict(data.attributes) if data else {},
            inputs=_ports(item, "input"),
            outputs=_ports(item, "output"),
            element=item,
        )
    except KeyError as error:
        raise BadModelError(
            f"{source} is broken", f"layer {name[:100]!r} has no attribute {error.args[0]!r}"
        ) from error
    except ValueError as error:
        raise BadModelError(f"{source} is broken", f"layer {name[:100]!r}: {error}") from error


def _ports(item: Element, side: str) -> tuple[Port, ...]:
    ports = tuple(
        Port(
            id=port.attributes["id"],
            precision=port.attributes.get("precision", ""),
            dims=tuple(size_of(dim.text) for dim in port.all("dim")),
            names=tuple(split_names(port.attributes.get("names", ""))),
        )
        for port in item.all(side, "port")
    )
    if len({port.id for port in ports}) != len(ports):
        raise ValueError(f"two {side} ports have one id")
    return ports


def size_of(text: str) -> int | None:
    """A size as the format writes it: a number, or -1, ?, or a range for an open axis."""
    text = text.strip()
    if text in {"-1", "?", ""} or ".." in text:
        return None
    size = int(text)
    if not 0 <= size < 1 << 62:
        raise ValueError(f"a size of {size}")
    return size


def split_names(text: str) -> list[str]:
    """Names from a list with commas; a comma that belongs to a name has a backslash before it."""
    names = [""]
    escaped = False
    for char in text:
        if escaped or char not in "\\,":
            names[-1] += char if not escaped or char in "\\," else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            names.append("")
    return [name for name in names if name]


def _connect(element: Element, layers: dict[str, Layer], source: str) -> None:
    """Give every layer the outputs that feed its inputs."""
    feeds: dict[PortId, PortId] = {}
    for edge in element.all("edges", "edge"):
        try:
            start, end = (
                (edge.attributes[f"{side}-layer"], edge.attributes[f"{side}-port"]) for side in ("from", "to")
            )
        except KeyError as error:
            raise BadModelError(f"{source} is broken", f"an edge has no {error.args[0]!r}") from error
        if end in feeds:
            raise BadModelError(f"{source} is broken", f"two edges lead to port {end[1]} of layer {end[0]}")
        feeds[end] = start
    known = {(layer.id, port.id) for layer in layers.values() for port in layer.outputs}
    for layer in layers.values():
        ends = [(layer.id, port.id) for port in layer.inputs]
        if lost := [end for end in ends if feeds.get(end) not in known]:
            raise BadModelError(
                f"{source} is broken", f"nothing feeds input port {lost[0][1]} of layer {layer.name[:100]!r}"
            )
        layer.sources = tuple(feeds[end] for end in ends)


def _sorted(layers: dict[str, Layer], source: str) -> list[Layer]:
    """The layers in the order of their dependencies, else as the file has them."""
    waiting = {key: len({s[0] for s in layer.sources}) for key, layer in layers.items()}
    readers: dict[str, list[str]] = {key: [] for key in layers}
    for layer in layers.values():
        for feeder in {s[0] for s in layer.sources}:
            readers[feeder].append(layer.id)
    ready = [key for key in reversed(layers) if not waiting[key]]
    order = []
    while ready:
        key = ready.pop()
        order.append(layers[key])
        for reader in reversed(readers[key]):
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(order) != len(layers):
        raise BadModelError(
            f"{source} is broken",
            f"on a circle, or behind one, lie {counted(len(layers) - len(order), 'layer')}",
        )
    return order
