"""Let a convolution of few output channels fill the vector registers: compute blocks of outputs at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.fused import definition, is_fused, kind
from raceline.convert.graph import (
    Array,
    Match,
    Scope,
    attribute,
    constant,
    describe,
    is_op,
    operand,
    shape_of,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Compute blocks of neighbouring outputs as channels where a Conv has too few of them"
after: tuple[str, ...] = ("fuse_conv_activation", "simplify_transpose", "remove_dead_code")
tolerance = 1e-5  # sums gain terms that are zero, and are then added up in another order

# Kernels keep neighbouring output channels in one vector register: of 16 lanes with AVX-512. With fewer lanes
# the same blocks should gain less; that was not measured.
LANES = 16
BLOCKS = (1, 2, 3, 4, 8, 16)
MOST_CHANNELS = 2 * LANES
LARGEST_BYTES = 1 << 20  # of the new weights
# What it costs to put an output element in its place, in multiply-adds of full registers: a rough fit to ONNX
# Runtime and OpenVINO on an AVX-512 core (2026-11). Of five shapes it was near for four; for 33 channels and a
# 3x3 kernel it predicts 3x where OpenVINO gained 1.8x and ONNX Runtime lost 7 %. The tuner has the last word.
MOVE = 400.0
CROP = 50.0
LEAST_GAIN = 1.3


@dataclass(frozen=True)
class _Convolution:
    """The sizes that decide; one entry for each spatial axis."""

    channels: int
    inputs: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    sizes: tuple[int, ...]

    def macs_per_element(self, block: Sequence[int]) -> float:
        """Multiply-adds that one output element takes, idle lanes and what is cropped counted in."""
        kernel = [k + (b - 1) * s for k, s, b in zip(self.kernel, self.strides, block, strict=True)]
        channels = self.channels * math.prod(block)
        waste = math.prod(-(-size // b) * b / size for size, b in zip(self.sizes, block, strict=True))
        lanes = -(-channels // LANES) * LANES / channels
        return self.inputs * math.prod(kernel) * waste * lanes

    def blocks(self) -> Iterator[tuple[int, ...]]:
        """The blocks worth a thought."""
        for block in itertools.product(BLOCKS, repeat=len(self.kernel)):
            fits = all(b <= size for b, size in zip(block, self.sizes, strict=True))
            if fits and 1 < math.prod(block) <= MOST_CHANNELS // self.channels:
                yield block

    def best_block(self) -> tuple[int, ...] | None:
        """The cheapest block, where it gains enough."""

        def macs(block: tuple[int, ...]) -> float:
            cropped = any(size % b for size, b in zip(self.sizes, block, strict=True))
            return self.macs_per_element(block) + MOVE + CROP * cropped

        best = min(self.blocks(), key=macs, default=None)
        now = self.macs_per_element([1] * len(self.kernel))
        return best if best is not None and now >= LEAST_GAIN * macs(best) else None


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A convolution, with what is fused to it, of fewer output channels than lanes."""
    if not (is_op(node, "Conv") or _is_fused_conv(node, scope)):
        return None
    weight = constant(operand(node, 1))
    if weight is None or weight.dtype != np.float32 or weight.ndim < 3 or len(weight) >= LANES:
        return None
    sizes = (shape_of(node.outputs[0]) or ())[2:]
    if len(sizes) != weight.ndim - 2 or attribute(node, "group", 1) != 1:
        return None
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        return Match((node,), obstacle=f"the size of {node.outputs[0].name!r} is only known at run time")
    strides = attribute(node, "strides", [1] * len(sizes))
    conv = _Convolution(len(weight), weight.shape[1], weight.shape[2:], tuple(strides), tuple(fixed))
    block = conv.best_block()
    return None if block is None else Match((node,), {"block": block, "conv": conv})


def check(match: Match, scope: Scope) -> str:
    """Everything about the convolution must be known, and the new weights must stay small."""
    (node,) = match.nodes
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return f"the padding of {describe(node)} is chosen at run time"
    if set(attribute(node, "dilations", [1])) != {1}:
        return f"{describe(node)} is dilated: its taps are not neighbours"
    if operand(node, 2) is not None and constant(operand(node, 2)) is None:
        return f"the bias of {describe(node)} is not constant"
    size = _spread(_weight(node), match.values["conv"].strides, match.values["block"]).nbytes
    return "" if size <= LARGEST_BYTES else f"its weights would grow to {size} bytes"


def rewrite(match: Match, scope: Scope) -> str:
    """Widen the convolution, and put its channels where they belong."""
    (node,) = match.nodes
    conv, block = match.values["conv"], match.values["block"]
    wide = _widened(scope, node, conv, block)
    result = _unfolded(scope, node, wide, conv, block)
    scope.replace(match.result, result)
    scope.remove(match.nodes)
    text = "x".join(map(str, block))
    return (
        f"{conv.channels} channels fill {conv.channels} of {LANES} lanes; blocks of {text} outputs make "
        f"{conv.channels * math.prod(block)} channels"
    )


def _is_fused_conv(node: ir.Node, scope: Scope) -> bool:
    """Whether a node is a Conv with element-wise arithmetic after it that is the same for all elements."""
    if not is_fused(node) or not kind(node).startswith("Conv") or kind(node).startswith("ConvTranspose"):
        return False
    roles = [formal.name for formal in definition(scope, node).inputs]
    return roles in (["x", "weight"], ["x", "weight", "bias"])


def _weight(node: ir.Node) -> Array:
    weight = constant(operand(node, 1))
    assert weight is not None
    return weight


def _spread(weight: Array, strides: Sequence[int], block: Sequence[int]) -> Array:
    """The weights of all outputs of a block, each shifted to its place: (channels * block, inputs, *kernel)."""
    channels, inputs, *kernel = weight.shape
    larger = [k + (b - 1) * s for k, s, b in zip(kernel, strides, block, strict=True)]
    spread = np.zeros((channels, *block, inputs, *larger), weight.dtype)
    for place in np.ndindex(*block):
        window = tuple(slice(p * s, p * s + k) for p, s, k in zip(place, strides, kernel, strict=True))
        spread[(slice(None), *place, slice(None), *window)] = weight
    return spread.reshape(channels * math.prod(block), inputs, *larger)


def _widened(scope: Scope, node: ir.Node, conv: _Convolution, block: tuple[int, ...]) -> ir.Value:
    """The same operator with the weights of whole blocks, one step a block."""
    import onnx_ir as ir

    weight = _spread(_weight(node), conv.strides, block)
    spatial = len(block)
    pads = attribute(node, "pads", [0] * 2 * spatial)
    missing = [-size % b * s for size, b, s in zip(conv.sizes, block, conv.strides, strict=True)]
    settings = {
        "strides": [b * s for b, s in zip(block, conv.strides, strict=True)],
        "kernel_shape": list(weight.shape[2:]),
        "pads": [*pads[:spatial], *(p + m for p, m in zip(pads[spatial:], missing, strict=True))],
    }
    inputs = [operand(node, 0), scope.add_constant(f"{_name(node, 1)}_wide", weight)]
    bias = constant(operand(node, 2))
    if bias is not None:
        inputs.append(scope.add_constant(f"{_name(node, 2)}_wide", np.repeat(bias, math.prod(block))))
    kept = [attr for name, attr in node.attributes.items() if name not in settings]
    output = ir.Value(name=scope.name(f"{node.outputs[0].name}_wide"), type=node.outputs[0].type)
    attributes = [*kept, *(ir.AttrInt64s(name, numbers) for name, numbers in settings.items())]
    wide = ir.Node(
        node.domain, node.op_type, inputs, attributes, outputs=[output], name=scope.name(f"{node.name}_wide")
    )
    scope.insert(wide, node)
    return output


def _name(node: ir.Node, index: int) -> str:
    value = operand(node, index)
    return str(value.name) if value is not None else str(node.name)


def _unfolded(
    scope: Scope, node: ir.Node, wide: ir.Value, conv: _Convolution, block: tuple[int, ...]
) -> ir.Value:
    """The elements of (channels * block, *sizes / block) in the order (channels, *sizes)."""
    sizes = [-(-size // b) * b for size, b in zip(conv.sizes, block, strict=True)]
    exact = tuple(sizes) == conv.sizes
    like = node.outputs[0] if exact else None
    spatial = len(block)
    if block == (block[0],) * 2 and scope.opset >= 11:
        whole = scope.add_node("DepthToSpace", [wide], node, like, blocksize=block[0], mode="CRD")
    else:
        apart = [0, conv.channels, *block, *(size // b for size, b in zip(sizes, block, strict=True))]
        order = [0, 1, *itertools.chain(*((2 + spatial + axis, 2 + axis) for axis in range(spatial)))]
        cells = scope.add_node("Reshape", [wide, _integers(scope, node, apart)], node)
        turned = scope.add_node("Transpose", [cells], node, perm=order)
        joined = _integers(scope, node, [0, conv.channels, *sizes])
        whole = scope.add_node("Reshape", [turned, joined], node, like)
    if exact:
        return whole
    axes = list(range(2, 2 + spatial))
    bounds = [_integers(scope, node, numbers) for numbers in ([0] * spatial, list(conv.sizes), axes)]
    return scope.add_node("Slice", [whole, *bounds], node, node.outputs[0])


def _integers(scope: Scope, node: ir.Node, numbers: Sequence[int]) -> ir.Value:
    return scope.add_constant(f"{node.outputs[0].name}_sizes", np.array(numbers, np.int64))


def example() -> Model:
    """A map of one channel, as detectors and pitch trackers end in."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 24, 16, 22] x, float[1, 24, 5, 5] w, float[1] b) => (float[N, 1, 16, 22] y) {
            y = Conv<pads = [2, 2, 2, 2]>(x, w, b)
        }""",
        w=(1, 24, 5, 5),
        b=(1,),
    )
