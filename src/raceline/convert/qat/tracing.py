"""From a module to a copy of it that computes as its quantised form will."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from raceline.convert.qat.fake import FakeQuantise
from raceline.convert.qat.kinds import Kinds, is_float_tensor
from raceline.convert.qat.layers import CONVOLUTIONS, NORMS, TRANSPOSED, QuantisedLayer, unfit
from raceline.convert.quantise.plan import reasons
from raceline.convert.quantise.scheme import Scheme
from raceline.core.errors import BadModelError, ConfigError

_LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
_FUNCTIONS = {
    functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose1d,
    functional.conv_transpose2d, functional.conv_transpose3d,
}  # fmt: skip
_QUANTISER = "quantise"


class FakeQuantised(nn.Module):
    """A module that computes in floating point what its quantised form will compute in whole numbers.

    Attributes:
        traced: the graph, with quantised layers and quantisers in it.
        scheme: how it is quantised.
        refused: layers that stay in floating point, each with its reason.
        example: inputs that it was traced with.
    """

    def __init__(
        self, traced: fx.GraphModule, scheme: Scheme, refused: dict[str, str], example: tuple[Tensor, ...]
    ) -> None:
        super().__init__()
        self.traced, self.scheme, self.refused, self.example = traced, scheme, refused, example

    def forward(self, *inputs: Tensor) -> Any:
        """What the original gives, rounded where it will be."""
        return self.traced(*inputs)

    @property
    def layers(self) -> dict[str, QuantisedLayer]:
        """The quantised layers by their names in the original."""
        named = self.traced.named_modules()
        return {name: module for name, module in named if isinstance(module, QuantisedLayer)}

    @property
    def quantisers(self) -> dict[str, FakeQuantise]:
        """What rounds activations, by name."""
        named = self.traced.named_modules()
        return {name: module for name, module in named if isinstance(module, FakeQuantise)}

    def set_mode(self, activations: str, *, weights: bool) -> None:
        """What all quantisers do ("off", "watch", "count" or "on"), and whether weights are rounded."""
        for quantiser in self.quantisers.values():
            quantiser.mode = activations
        for layer in self.layers.values():
            layer.rounds = weights

    def freeze_norms(self) -> None:
        """Keep the BatchNorms' statistics as they are from now on."""
        for layer in self.layers.values():
            layer.frozen = True


def prepared(module: nn.Module, example: Sequence[Tensor], scheme: Scheme) -> FakeQuantised:
    """See `raceline.convert.qat.prepare`."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{type(module).__name__} is no network", "", "Give a torch.nn.Module.")
    given = tuple(example)
    inner = copy.deepcopy(module).eval()
    for part in inner.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # what is written over cannot be trained through a quantiser
    traced = _traced(inner, given)
    kinds = Kinds(dict(traced.named_modules()))
    refused = _replace_layers(traced, kinds, scheme)
    _insert_quantisers(traced, scheme)
    made = FakeQuantised(traced, scheme, refused, given)
    if not made.layers:
        raise BadModelError(
            f"{type(module).__name__} has nothing to quantise",
            reasons(refused) or "it calls no convolution and no linear layer of torch.nn",
            "Train and serve it as it is.",
        )
    _same_answers(module, made, given)
    made.train(module.training)
    return made


def _traced(module: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The module as a graph of calls with the shapes of all results noted."""
    name = type(module).__name__
    try:
        with torch.no_grad():
            module(*example)
            traced = fx.symbolic_trace(module)
            ShapeProp(traced).propagate(*example)
    except Exception as error:  # noqa: BLE001  the module's own code runs here and may raise anything
        raise BadModelError(
            f"{name} cannot be traced",
            f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
            "Its forward must take the example's tensors and must not branch on their values.",
        ) from error
    for node in traced.graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    traced.recompile()
    return traced


def _replace_layers(traced: fx.GraphModule, kinds: Kinds, scheme: Scheme) -> dict[str, str]:
    """Put a QuantisedLayer in the place of each layer and its BatchNorm; returns what was left, and why."""
    refused: dict[str, str] = {}
    calls: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in [*traced.graph.nodes]:
        layer, name = kinds.module(node), str(node.target)
        if not isinstance(layer, _LAYERS):
            refused |= _left(node, layer)
            continue
        why = unfit(layer)
        if calls[name] > 1:
            why = "it is called more than once"
        elif len(node.args) != 1 or node.kwargs:
            why = "it is called with more than its input"
        if why:
            refused[name] = why
            continue
        norm = _norm_behind(node, kinds, calls)
        made = QuantisedLayer(
            layer,
            None if norm is None else kinds.module(norm),
            scheme.weight_bits,
            per_channel=scheme.per_channel,
        )
        _put(traced, name, made)
        if norm is not None:
            norm.replace_all_uses_with(node)
            node.meta["tensor_meta"] = norm.meta.get("tensor_meta")
            traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return refused


def _left(node: fx.Node, layer: Any) -> dict[str, str]:
    """What multiplies by weights and is no layer that can be rounded, with the reason."""
    if isinstance(layer, nn.Module):
        heavy = any(parameter.ndim > 1 for parameter in layer.parameters())
        why = f"{type(layer).__name__} is not rounded, only convolutions and linear layers are"
        return {str(node.target): why} if heavy else {}
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return {node.name: "it is called as a function; make it a layer of torch.nn"}
    return {}


def _norm_behind(node: fx.Node, kinds: Kinds, calls: dict[str, int]) -> fx.Node | None:
    """The BatchNorm that alone reads a layer's result, along the layer's own axis of channels."""
    users = [*node.users]
    norm = kinds.module(users[0]) if len(users) == 1 else None
    if not isinstance(norm, NORMS) or norm.running_mean is None or calls[str(users[0].target)] > 1:
        return None
    shape = getattr(node.meta.get("tensor_meta"), "shape", ())
    if isinstance(kinds.module(node), nn.Linear) and len(shape) != 2:
        return None  # BatchNorm counts channels along axis 1, the layer along its last
    return users[0]


def _put(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(traced.get_submodule(owner), last, module)


def _insert_quantisers(traced: fx.GraphModule, scheme: Scheme) -> None:
    """Round the results that layers read, and those that the scheme wants rounded, for all their readers."""
    kinds = Kinds(dict(traced.named_modules()))
    found = _values(traced.graph, kinds, scheme)
    names = {}
    for number, node in enumerate(found):
        readers = [user for user in node.users if user.op != "output"]
        if not readers:
            continue
        name = f"{_QUANTISER}_{number}"
        traced.add_submodule(name, FakeQuantise(scheme))
        with traced.graph.inserting_after(node):
            made = traced.graph.call_module(name, (node,))
        made.meta["tensor_meta"] = node.meta.get("tensor_meta")
        for reader in readers:
            reader.replace_input_with(node, made)
        names[node] = name
    for node, layer in layers_of(traced):
        layer.source = str(kinds.origin(node.args[0]).target)
    traced.graph.lint()
    traced.recompile()


def layers_of(traced: fx.GraphModule) -> Iterator[tuple[Any, QuantisedLayer]]:
    """Every node that calls a quantised layer, with it."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, QuantisedLayer):
            yield node, layer


def _values(graph: fx.Graph, kinds: Kinds, scheme: Scheme) -> list[fx.Node]:
    """The nodes whose results are rounded, in order and without repetition."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        layer = kinds.module(node)
        if isinstance(layer, QuantisedLayer):
            found[kinds.origin(node.args[0])] = None
            if scheme.results and isinstance(layer.layer, CONVOLUTIONS):
                found[kinds.result(node)] = None
    if scheme.results:
        for node in graph.nodes:
            if kinds.flows(node) and _all_found(node, kinds, found):
                found[kinds.result(node)] = None
    order = {node: place for place, node in enumerate(graph.nodes)}
    return sorted((node for node in found if is_float_tensor(node)), key=order.__getitem__)


def _all_found(node: fx.Node, kinds: Kinds, found: dict[fx.Node, None]) -> bool:
    """Whether all tensors that a node reads are rounded."""
    inputs = [source for source in node.all_input_nodes if is_float_tensor(source)]
    return bool(inputs) and all(kinds.origin(source) in found for source in inputs)


def _same_answers(module: nn.Module, made: FakeQuantised, example: tuple[Tensor, ...]) -> None:
    """Refuse a copy that computes something else than the original before anything is rounded.

    Raises:
        BadModelError: it does, so the module does something that tracing does not see.
    """
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            expected, found = module(*example), made.eval()(*example)
    finally:
        for part, mode in training:
            part.training = mode
    for one, other in zip(tensors_of(expected), tensors_of(found), strict=True):
        scale = float(one.abs().max()) if one.numel() else 0.0
        if one.shape != other.shape or not torch.allclose(
            one, other, atol=1e-4 * max(scale, 1e-6), rtol=1e-3
        ):
            raise BadModelError(
                f"{type(module).__name__} computes something else once it is traced",
                "a part of it depends on what tracing does not see, such as values or what it did before",
                "Write its forward as calls of modules and functions on tensors.",
            )


def tensors_of(answer: Any) -> list[Tensor]:
    """The tensors of what a module gave: one, or those of a tuple, list or dictionary."""
    if isinstance(answer, Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, dict) else answer
    return [tensor for part in parts for tensor in tensors_of(part)]
