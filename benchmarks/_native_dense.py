"""Matrix products, attention, layer norm and GELU of our own, at the shapes of ViT-Ti/16 and MiniLM-L6."""

from collections.abc import Iterator

import numpy as np
from onnx import helper

from benchmarks._kernels import CONTRIB, Kernel, draw, model_of
from raceline import _native  # noqa: PLC2701  the kernels themselves are measured


def linear(rows: int, k: int, n: int, gelu: bool = False) -> Kernel:
    """Weights and a bias, perhaps with GELU (erf form)."""
    node = helper.make_node
    feeds, constants = {"x": draw(rows, k)}, {"w": draw(k, n, scale=k**-0.5), "b": draw(n)}
    last, activation = ("z", [node("Gelu", ["z"], ["y"])]) if gelu else ("y", [])
    split = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], [last]), *activation]
    joint = [node("Gemm", ["x", "w", "b"], [last]), *activation]
    models = [model_of(nodes, feeds, (rows, n), constants) for nodes in (split, joint)]
    spellings = {}
    if gelu:
        biased = [node("MatMul", ["x", "w"], ["p"]), node("BiasGelu", ["p", "b"], ["y"], domain=CONTRIB)]
        spellings["onnxruntime"] = [model_of(biased, feeds, (rows, n), constants)]
    own = _native.Linear(constants["w"], constants["b"], rows=rows, seconds=0.2)
    out = np.empty((rows, n), np.float32)
    activation_name = "gelu" if gelu else ""
    name = f"linear{'+gelu' if gelu else ''} {rows}x{k}x{n}"
    return Kernel(
        name,
        2 * rows * k * n,
        feeds,
        lambda: own.run(feeds["x"], out, activation=activation_name),
        out,
        models,
        spellings,
    )


def attention(batch: int, heads: int, size: int, depth: int, masked: bool) -> Kernel:
    """Softmax(q k^T / sqrt(depth) + mask) v; inputs (batch, size, heads * depth), as projections leave them."""
    node, width = helper.make_node, heads * depth
    feeds = {name: draw(batch, size, width) for name in "qkv"}
    if masked:
        feeds["m"] = np.zeros((batch, 1, 1, size), np.float32)
    split = [node("Reshape", [name, "split"], [name + "4"]) for name in "qkv"]
    turned = [
        node("Transpose", [f"{name}4"], [f"{name}h"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
        for name in "qkv"
    ]
    scores = [node("MatMul", ["qh", "kh"], ["s"]), node("Mul", ["s", "scale"], ["t"])]
    weights = [node("Add", ["t", "m"], ["u"])] if masked else []
    rest = [
        node("Softmax", ["u" if masked else "t"], ["w"], axis=-1),
        node("MatMul", ["w", "vh"], ["o"]),
        node("Transpose", ["o"], ["o4"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o4", "join"], ["y"]),
    ]
    constants = {
        "split": np.array([batch, size, heads, depth]),
        "join": np.array([batch, size, width]),
        "scale": np.float32(depth**-0.5),
    }
    shape = (batch, size, width)
    whole = model_of([*split, *turned, *scores, *weights, *rest], feeds, shape, constants)
    inputs = ["q", "k", "v", *(["", "", "m4"] if masked else [])]
    fused = [node("MultiHeadAttention", inputs, ["y"], domain=CONTRIB, num_heads=heads)]
    if masked:  # its bias is not broadcast along the queries
        sizes = np.array([batch, 1, size, size])
        fused.insert(0, node("Expand", ["m", "sizes"], ["m4"]))
        constants_fused = {"sizes": sizes}
    else:
        constants_fused = {}
    own = [feeds[name].reshape(batch, size, heads, depth).transpose(0, 2, 1, 3) for name in "qkv"]
    out = np.empty(shape, np.float32)
    into = out.reshape(batch, size, heads, depth).transpose(0, 2, 1, 3)
    return Kernel(
        f"attention {batch}x{heads}x{size}x{depth}{' masked' if masked else ''}",
        4 * batch * heads * size * size * depth,
        feeds,
        lambda: _native.attention(*own, into, feeds.get("m"), scale=depth**-0.5),
        out,
        [whole],
        {"onnxruntime": [model_of(fused, feeds, shape, constants_fused)]},
    )


def layer_norm(rows: int, columns: int) -> Kernel:
    """Counted as eight operations an element."""
    feeds, constants = {"x": draw(rows, columns)}, {"g": draw(columns), "b": draw(columns, scale=0.5)}
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1)]
    out = np.empty((rows, columns), np.float32)
    return Kernel(
        f"layer_norm {rows}x{columns}",
        8 * rows * columns,
        feeds,
        lambda: _native.layer_norm(feeds["x"], out, constants["g"], constants["b"], epsilon=1e-5),
        out,
        [model_of(nodes, feeds, (rows, columns), constants)],
    )


def kernels() -> Iterator[Kernel]:
    """The operators of ViT-Ti/16 (197 tokens) and MiniLM-L6 (128), at batch 1 and 8, and products of few rows."""
    for batch in (1, 8):
        for k, n in ((192, 192), (192, 576), (768, 192)):
            yield linear(197 * batch, k, n)
        yield linear(197 * batch, 192, 768, gelu=True)
        for k, n in ((384, 384), (1536, 384)):
            yield linear(128 * batch, k, n)
        yield linear(128 * batch, 384, 1536, gelu=True)
        yield attention(batch, 3, 197, 64, masked=False)
        yield attention(batch, 12, 128, 32, masked=True)
    for rows in (1, 4, 16):
        yield linear(rows, 384, 1536)
    yield layer_norm(197, 192)
    yield layer_norm(128, 384)
