"""Products of 8-bit matrices of our own, at the shapes of ViT-Ti/16 and MiniLM-L6.

Weights have a scale for each column. `u8 to u8` begins and ends in bytes, as between quantised layers; `in floats`
quantises its input and gives floats, as between layers that stay in floating point. Engines pick their instruction
set by themselves and cannot be told: rows that hold our kernels to a lesser set name no peer. MNN takes no bytes as
input, and multiplies floats where the others multiply bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from benchmarks._kernels import CONTRIB, IR_VERSION, Arrays, Kernel
from raceline import _native  # noqa: PLC2701  the kernels themselves are measured

OPSET = 13  # what all engines fuse
RATES = {"avx512_vnni", "avx_vnni", "avx512bw", "avx2"}  # sets whose peak the probe measures
SCALE, ZERO, OUT_SCALE, OUT_ZERO = 0.02, 121, 0.05, 128


def _model(nodes: list[Any], feeds: Arrays, out: "np.ndarray[Any, Any]", constants: Arrays) -> Any:
    def info(name: str, array: "np.ndarray[Any, Any]") -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        nodes,
        "kernel",
        [info(name, array) for name, array in feeds.items()],
        [info("y", out)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    if all(node.domain != CONTRIB for node in nodes):
        opsets.pop()
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _constants(k: int, n: int) -> Arrays:
    draw = np.random.default_rng(0).standard_normal
    return {
        "w": np.clip(np.rint(draw((k, n)) * 32), -127, 127).astype(np.int8),
        "ws": (np.abs(draw(n)) * 0.001 + 0.001).astype(np.float32),
        "wz": np.zeros(n, np.int8),
        "b": draw(n).astype(np.float32),
        "s": np.float32(SCALE),
        "z": np.uint8(ZERO),
        "ys": np.float32(OUT_SCALE),
        "yz": np.uint8(OUT_ZERO),
    }


def linear(rows: int, k: int, n: int, in_floats: bool, kernels: str = "") -> Kernel:
    """Our kernels held to a set of their own where `kernels` names one; no peer then."""
    node, constants = helper.make_node, _constants(k, n)
    number = np.random.default_rng(1)
    x = number.integers(0, 256, (rows, k), np.uint8)
    if in_floats:
        x = ((x.astype(np.float32) - ZERO) * np.float32(SCALE)).astype(np.float32)
    out = np.zeros((rows, n), np.float32 if in_floats else np.uint8)
    bias = constants["b"] if in_floats else np.zeros(n, np.float32)
    begin = [node("QuantizeLinear", ["x", "s", "z"], ["xq"])] if in_floats else []
    opened = node("DequantizeLinear", ["xq" if in_floats else "x", "s", "z"], ["xd"])
    weight = node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1)
    product = node("MatMul", ["xd", "wd"], ["p"])
    end = node("Add", ["p", "b"], ["y"]) if in_floats else node("QuantizeLinear", ["p", "ys", "yz"], ["y"])
    scales = {name: constants[name] for name in ("s", "z", "w", "ws", "wz")}
    constants = scales | {name: constants[name] for name in (("b",) if in_floats else ("ys", "yz"))}
    models = [_model([*begin, opened, weight, product, end], {"x": x}, out, constants)]
    if in_floats:
        inputs = ["xq", "w", "s", "ws", "z", "wz", "b"]
        joint = [*begin, node("MatMulIntegerToFloat", inputs, ["y"], domain=CONTRIB)]
    else:
        joint = [node("QLinearMatMul", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["y"])]
    spelled = {"onnxruntime": [_model(joint, {"x": x}, out, constants)]}
    own = _native.Int8Linear(constants["w"], constants["ws"], bias, rows=rows, kernels=kernels, seconds=0.2)
    steps = {} if in_floats else {"out_scale": OUT_SCALE, "out_zero_point": OUT_ZERO}
    used = kernels or _native.int8_kernels()[0]
    kind = "in floats" if in_floats else "u8 to u8"
    return Kernel(
        f"int8 {kernels + ' ' if kernels else ''}{kind} {rows}x{k}x{n}",
        2 * rows * k * n,
        {"x": x},
        lambda: own.run(x, out, scale=SCALE, zero_point=ZERO, **steps),
        out,
        [] if kernels else models,
        {} if kernels else spelled,
        weight_bytes=k * n,
        rate=("int8", used) if used in RATES else None,
        atol=5e-3 if in_floats else 1,
        without=() if in_floats else ("mnn",),
    )


def kernels() -> Iterator[Kernel]:
    """Linear layers at batch 1 and 8, on this CPU's best kernels and on each lesser set."""
    shapes = [
        (197, 192, 576),
        (197, 192, 768),
        (197, 768, 192),
        (128, 384, 384),
        (128, 384, 1536),
        (128, 1536, 384),
    ]
    for rows, k, n in [*shapes, (1576, 768, 192), (1024, 384, 1536), (1, 384, 1536)]:
        for in_floats in (False, True):
            yield linear(rows, k, n, in_floats)
    for name in [set_ for set_ in _native.int8_kernels()[1:] if set_ in RATES]:
        for rows, k, n in shapes[1:3] + shapes[4:]:
            yield linear(rows, k, n, in_floats=False, kernels=name)
