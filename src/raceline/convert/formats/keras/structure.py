"""A model's configuration, of any Keras since 2.0, as layers and the graph that they form."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from raceline.convert.formats.keras.layers import Layer, flat, mapped
from raceline.convert.formats.keras.names import snake_case, unique
from raceline.convert.formats.keras.variables import CELLS, MODELS, own_weights, projections
from raceline.core.errors import BadModelError

_DEEPEST = 32
_CONSTANT = "_CONSTANT_VALUE"
_CLASSES = {"GroupQueryAttention": "GroupedQueryAttention"}  # saved by another name than the class has
_OWN_PACKAGES = ("keras", "tf_keras", "keras_core", "tensorflow")


class Ref(NamedTuple):
    """One tensor of a graph: an output of the nth use of a layer.

    Attributes:
        listed: whether it was written as a list, in which counts of models start at 1 more often than not.
    """

    layer: str
    use: int
    tensor: int
    listed: bool = False


@dataclass
class Use:
    """One call of a layer; the leaves of its arguments are `Ref`s and plain values."""

    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Graph:
    """The inside of a model.

    Attributes:
        inputs: nested lists or dictionaries of `Ref`s.
        outputs: likewise.
        layers: by name, in the order of the file.
        uses: (layer, number) -> call.
    """

    inputs: Any = ()
    outputs: Any = ()
    layers: dict[str, Layer] = field(default_factory=dict)
    uses: dict[tuple[str, int], Use] = field(default_factory=dict)

    def resolved(self, ref: Ref) -> Ref:
        """The same tensor with the count of uses started at 0."""
        if not ref.listed or (layer := self.layers.get(ref.layer)) is None or layer.graph is None:
            return ref
        return ref._replace(use=ref.use - self._first_use(layer), listed=False)

    def _first_use(self, layer: Layer) -> int:
        """The number that the file gives the first call of a model: 1 where its own making counted as one."""
        listed = [ref.use for ref in self._refs() if ref.listed and ref.layer == layer.name]
        count = sum(name == layer.name for name, _ in self.uses)
        if max(listed, default=0) >= count:
            return 1
        if 0 in listed or (layer.kind == "Sequential" and layer.major >= 3):
            return 0
        first = next(iter(layer.graph.layers.values()), None)
        return int(layer.kind != "Sequential" or (first is not None and first.kind == "InputLayer"))

    def _refs(self) -> Iterator[Ref]:
        structures: list[Any] = [self.outputs]
        for use in self.uses.values():
            structures += [use.args, use.kwargs]
        for structure in structures:
            yield from (leaf for leaf in leaves(structure) if isinstance(leaf, Ref))


def leaves(structure: Any) -> list[Any]:
    """The leaves of arguments, `Ref`s whole."""
    if isinstance(structure, Ref):
        return [structure]
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in leaves(structure[key])]
    if isinstance(structure, list | tuple):
        return [leaf for item in structure for leaf in leaves(item)]
    return [structure]


class Reader:
    """Reads configurations of one file.

    Args:
        source: its name, for messages.
        major: 3 for Keras 3, else 2.
        known: classes that have a translation; operations as `ops.NAME`.
    """

    def __init__(self, source: str, major: int, known: Collection[str]) -> None:
        self._known = known
        self._source = source
        self._major = major
        self._shared: dict[Any, Layer] = {}
        self._depth = 0

    def layer(self, data: Any) -> Layer:
        """A layer and everything inside it.

        Raises:
            BadModelError: the configuration is broken.
        """
        if not isinstance(data, dict) or not isinstance(data.get("class_name"), str):
            raise self._broken("a layer has no class_name")
        shared = data.get("shared_object_id")
        if isinstance(shared, int) and shared in self._shared:
            return self._shared[shared]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._broken(f"models are nested deeper than {_DEEPEST} levels")
        found = self._layer(data)
        self._depth -= 1
        if isinstance(shared, int):
            self._shared[shared] = found
        return found

    def _layer(self, data: dict[str, Any]) -> Layer:
        kind = self._kind(data)
        config = data.get("config")
        if kind == "Sequential" and isinstance(config, list):  # Keras 2.0 to 2.2.2
            config = {"name": data.get("name", "sequential"), "layers": config}
        if not isinstance(config, dict):
            raise self._broken(f"a layer of class {kind} has no config")
        config = dict(config)
        if isinstance(build := data.get("build_config"), dict):
            config.setdefault("build_config", build)
        name = str(data.get("name") or config.get("name") or snake_case(kind))
        layer = Layer(kind, name, config, self._major, own_weights(kind, config))
        if kind in MODELS and "layers" in config:
            self._fill_model(layer)
        else:
            layer.children = self._children(layer)
        return layer

    def _kind(self, data: dict[str, Any]) -> str:
        """The class, marked as an operation or as foreign where it is one."""
        name, module = str(data["class_name"]), data.get("module")
        config = data.get("config")
        if module is None and isinstance(data.get("registered_name"), str) and ">" in data["registered_name"]:
            return str(data["registered_name"])
        if module is None:
            return f"ops.{name}" if self._major >= 3 and self._is_operation(name, config) else name
        if str(module).partition(".")[0] not in _OWN_PACKAGES:
            return f"{module}.{name}"
        return f"ops.{name}" if ".ops." in f"{module}." else name

    def _is_operation(self, name: str, config: Any) -> bool:
        """Whether a class without a module is one of keras.ops rather than a layer of the same name."""
        settings = config if isinstance(config, dict) else {}
        return f"ops.{name}" in self._known and (
            name not in self._known or not {"trainable", "dtype"} & set(settings)
        )

    def _children(self, layer: Layer) -> dict[str, Layer]:
        """The layers inside a layer that is no model."""
        config = layer.config
        if layer.kind in CELLS:
            cell = CELLS[layer.kind]
            return {"cell": Layer(cell, layer.name, config, self._major, own_weights(cell, config))}
        if layer.kind == "Bidirectional":
            return self._two_ways(config)
        if layer.kind == "StackedRNNCells":
            cells = config.get("cells")
            if not isinstance(cells, list) or not cells:
                raise self._broken(f"layer {layer.name!r} has no cells")
            used: dict[str, int] = {}
            found = [self.layer(cell) for cell in cells]
            return {f"cells/{unique(snake_case(cell.kind), used)}": cell for cell in found}
        if dense := projections(layer.kind, config):
            return {
                attribute: Layer(
                    "EinsumDense",
                    name,
                    config,
                    self._major,
                    (("kernel", "bias") if bias else ("kernel",), ()),
                )
                for attribute, (name, bias) in dense.items()
            }
        inner = [key for key in ("layer", "cell") if isinstance(config.get(key), dict)]
        return {key: self.layer(config[key]) for key in inner}

    def _two_ways(self, config: Mapping[str, Any]) -> dict[str, Layer]:
        """The layers of a Bidirectional; the backward one is the other, turned round, where none is given."""
        forward = self.layer(config.get("layer"))
        plain = forward.name.removeprefix("forward_")
        if isinstance(config.get("backward_layer"), dict):
            backward = self.layer(config["backward_layer"])
        else:
            backward = self.layer(config.get("layer"))
            turned = {**backward.config, "go_backwards": not backward.config.get("go_backwards", False)}
            backward = Layer(
                backward.kind, f"backward_{plain}", turned, self._major, backward.own, backward.children
            )
            for child in backward.children.values():
                child.name = backward.name
        if not forward.name.startswith("forward_"):
            forward.name = f"forward_{plain}"
            for child in forward.children.values():
                child.name = forward.name
        return {"forward_layer": forward, "backward_layer": backward}

    def _fill_model(self, model: Layer) -> None:
        """Read the layers of a model and how they are connected."""
        entries = model.config["layers"]
        if (
            not isinstance(entries, list)
            or not entries
            or not all(isinstance(entry, dict) for entry in entries)
        ):
            raise self._broken(f"model {model.name!r} has no layers")
        graph = Graph()
        for entry in entries:
            layer = self.layer(entry)
            if layer.name in graph.layers:
                raise self._broken(f"two layers of {model.name!r} are named {layer.name!r}")
            graph.layers[layer.name] = layer
        used: dict[str, int] = {}
        for layer in graph.layers.values():
            if not layer.kind.startswith("ops."):
                base = snake_case(_CLASSES.get(layer.kind, layer.kind.rpartition(">")[2].rpartition(".")[2]))
                model.children[f"layers/{unique(base, used)}"] = layer
        model.graph = graph
        if model.kind == "Sequential":
            self._chain(model, graph)
        else:
            self._connect(model, graph, entries)

    def _chain(self, model: Layer, graph: Graph) -> None:
        """Connect the layers of a Sequential."""
        layers = list(graph.layers.values())
        if layers[0].kind == "InputLayer":
            layers = layers[1:]
        first = (
            Ref("", 0, 0) if graph.layers and next(iter(graph.layers.values())).kind != "InputLayer" else None
        )
        here = first or Ref(next(iter(graph.layers)), 0, 0)
        graph.inputs = here
        for layer in layers:
            graph.uses[layer.name, 0] = Use(layer, (here,), {})
            here = Ref(layer.name, 0, 0)
        graph.outputs = here
        model.graph = graph

    def _connect(self, model: Layer, graph: Graph, entries: list[dict[str, Any]]) -> None:
        """Connect the layers of a Functional model."""
        for entry, layer in zip(entries, graph.layers.values(), strict=True):
            nodes = entry.get("inbound_nodes") or []
            if not isinstance(nodes, list):
                raise self._broken(f"the inbound_nodes of {layer.name!r} are no list")
            for number, node in enumerate(nodes):
                args, kwargs = self._arguments(node, graph)
                graph.uses[layer.name, number] = Use(layer, args, kwargs)
        for side in ("input_layers", "output_layers"):
            if side not in model.config:
                raise self._broken(f"model {model.name!r} has no {side}")
        graph.inputs = self._ends(model.config["input_layers"])
        graph.outputs = self._ends(model.config["output_layers"])

    def _ends(self, structure: Any) -> Any:
        """Inputs or outputs of a model."""
        if _is_listed(structure):
            return Ref(structure[0], structure[1], structure[2], listed=True)
        if isinstance(structure, dict):
            return {str(key): self._ends(item) for key, item in structure.items()}
        if isinstance(structure, list):
            return [self._ends(item) for item in structure]
        raise self._broken(f"an input or output is {structure!r}")

    def _arguments(self, node: Any, graph: Graph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What one call is given."""
        if isinstance(node, dict) and "args" in node:
            args, kwargs = self._decoded(node["args"]), self._decoded(node.get("kwargs", {}))
            if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
                raise self._broken("the arguments of a call are no list")
            return tuple(args), kwargs
        settings: dict[str, Any] = {}
        first = self._old_tensors(node, graph, settings)
        if isinstance(first, list) and len(first) == 1:
            first = first[0]
        return (first,), settings

    def _old_tensors(self, node: Any, graph: Graph, settings: dict[str, Any]) -> Any:
        """The first argument of a call as Keras 2 writes it; the others are put into `settings`."""
        if (
            isinstance(node, list)
            and len(node) in {3, 4}
            and isinstance(node[0], str)
            and isinstance(node[1], int)
        ):
            if len(node) == 4 and isinstance(node[3], dict) and not settings:
                settings.update({str(key): self._old_value(item, graph) for key, item in node[3].items()})
            if node[0] == _CONSTANT:
                return self._decoded(node[2])
            return Ref(node[0], node[1], int(node[2]), listed=True)
        if isinstance(node, dict):
            return {str(key): self._old_tensors(item, graph, settings) for key, item in node.items()}
        if isinstance(node, list):
            return [self._old_tensors(item, graph, settings) for item in node]
        raise self._broken(f"a call is given {str(node)[:100]!r}")

    def _old_value(self, item: Any, graph: Graph) -> Any:
        """A further argument in Keras 2: a tensor is a list of layer, use and output."""
        if _is_listed(item) and item[0] in graph.layers:
            return Ref(item[0], item[1], item[2], listed=True)
        if isinstance(item, list):
            return [self._old_value(part, graph) for part in item]
        if isinstance(item, dict) and "class_name" not in item:
            return {str(key): self._old_value(part, graph) for key, part in item.items()}
        return self._decoded(item)

    def _decoded(self, item: Any) -> Any:
        """A value as Keras 3 writes it."""
        if isinstance(item, list):
            return [self._decoded(part) for part in item]
        if not isinstance(item, dict):
            return item
        name, config = item.get("class_name"), item.get("config")
        if name == "__keras_tensor__":
            history = config.get("keras_history") if isinstance(config, dict) else None
            if not isinstance(history, list) or not _is_listed(history):
                raise self._broken("a tensor has no keras_history")
            return Ref(*history)
        if name == "__tuple__" or (name is None and "items" in item and item.get("type") == "tuple"):
            return tuple(self._decoded(part) for part in item.get("items", []))
        if not isinstance(name, str):
            return {str(key): self._decoded(part) for key, part in item.items()}
        return self._constant(name, config, item)

    def _constant(self, name: str, config: Any, item: dict[str, Any]) -> Any:
        """A slice, an array, or something that only some rules understand."""
        if name == "__ellipsis__":
            return Ellipsis
        if not isinstance(config, dict):
            return item
        if name in {"__tensor__", "__numpy__"}:
            dtype = str(config.get("dtype", "float32"))
            return np.array(config.get("value"), np.float32 if dtype == "bfloat16" else np.dtype(dtype))
        if name == "__slice__":
            start, stop, step = (self._decoded(config.get(key)) for key in ("start", "stop", "step"))
            return slice(start, stop, step)
        return item

    def _broken(self, why: str) -> BadModelError:
        return BadModelError(f"{self._source} is broken", why, "Save the model again.")


def _is_listed(item: Any) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 3
        and isinstance(item[0], str)
        and all(isinstance(part, int) and not isinstance(part, bool) for part in item[1:])
    )


__all__ = ["Graph", "Reader", "Ref", "Use", "flat", "leaves", "mapped"]
