"""What the nodes of a traced module do to quantised values."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

_CLIP_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
_CLIP_FUNCTIONS = {
    torch.relu, torch.clamp, functional.relu, functional.relu6, functional.hardtanh,
    "relu", "relu_", "clamp",
}  # fmt: skip
_SAME_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SAME_FUNCTIONS = {functional.dropout, "contiguous"}
_MOVE_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Flatten, nn.Unflatten, nn.PixelShuffle)
_MOVE_FUNCTIONS = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze,
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.pixel_shuffle,
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze",
}  # fmt: skip
_FLOW_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_FLOW_FUNCTIONS = {
    operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat, torch.concat,
    torch.mean, functional.avg_pool2d, functional.adaptive_avg_pool2d, "add", "add_", "mul", "mul_", "mean",
}  # fmt: skip


class Kinds:
    """Tells nodes apart; the graph's modules are looked up by name.

    Args:
        modules: of the traced module, by qualified name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None where it calls none."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def clips(self, node: fx.Node) -> bool:
        """Whether it only cuts values off, as the range of what is quantised behind it does too."""
        return self._is(node, _CLIP_MODULES, _CLIP_FUNCTIONS)

    def moves(self, node: fx.Node) -> bool:
        """Whether it gives back elements of its first argument."""
        return self.keeps(node) or self._is(node, _MOVE_MODULES, _MOVE_FUNCTIONS)

    def keeps(self, node: fx.Node) -> bool:
        """Whether it does nothing in inference."""
        return self._is(node, _SAME_MODULES, _SAME_FUNCTIONS)

    def flows(self, node: fx.Node) -> bool:
        """Whether engines compute it in 8 bits between quantised values."""
        return self._is(node, _FLOW_MODULES, _FLOW_FUNCTIONS)

    def origin(self, node: fx.Node) -> fx.Node:
        """Where the elements of a node's result come from."""
        while self.moves(node) and node.args and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node

    def result(self, node: fx.Node) -> fx.Node:
        """The node whose result is quantised behind this one: itself, or the clip that alone reads it."""
        users = [*node.users]
        return users[0] if len(users) == 1 and self.clips(users[0]) else node

    def _is(self, node: fx.Node, modules: tuple[type[nn.Module], ...], functions: set[Any]) -> bool:
        if node.op == "call_module":
            return isinstance(self._modules.get(str(node.target)), modules)
        return node.op in {"call_function", "call_method"} and node.target in functions


def is_float_tensor(node: fx.Node) -> bool:
    """Whether the shapes that were propagated say that a node gives one float32 tensor."""
    meta = node.meta.get("tensor_meta")
    return getattr(meta, "dtype", None) is torch.float32
