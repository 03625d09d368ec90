"""Nets that multiply few rows with large matrices, made here: bare products, a decoder, and driving policies."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._kernels import draw, model_of
from benchmarks._models import Case
from raceline import zoo
from raceline.convert.formats.safetensors.file import serialised
from raceline.ir import TensorSpec, Values

WIDE, NARROW = 4096, 1024  # of the products
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": True, "n_embd": 768,
    "n_head": 12, "n_layer": 6, "n_positions": 1024, "vocab_size": 50257,
}  # fmt: skip
POLICIES = ("conditional_imitation", "pilotnet")


def products(folder: Path, rows: int) -> Case:
    """Four products of 64 MiB of weights together, a Relu between, for so many rows."""
    import onnx
    from onnx import helper

    sizes = [NARROW, WIDE] * 2 + [NARROW]
    rng = np.random.default_rng(0)  # no two alike, which would be merged
    shapes = [(sizes[n], sizes[n + 1]) for n in range(4)]
    constants = {
        f"w{n}": (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)
        for n, shape in enumerate(shapes)
    }
    nodes = []
    for n in range(4):
        nodes.append(
            helper.make_node("MatMul", [f"r{n}" if n else "x", f"w{n}"], ["y" if n == 3 else f"m{n}"])
        )
        if n < 3:
            nodes.append(helper.make_node("Relu", [f"m{n}"], [f"r{n + 1}"]))
    path = folder / f"products_{rows}.onnx"
    onnx.save(model_of(nodes, {"x": draw(rows, NARROW)}, (rows, NARROW), constants), path)
    spec = TensorSpec("x", "float32", (rows, NARROW), Values(-1.0, 1.0, source="user"))
    return Case(path.stem, path, (spec,), "made here")


def gpt2(folder: Path, tokens: int) -> Case:
    """GPT-2 of six layers with seeded random weights, as a checkpoint, and so many tokens at once."""
    path = folder / "gpt2"
    if not path.exists():
        path.mkdir()
        (path / "config.json").write_text(json.dumps(GPT2))
        (path / "model.safetensors").write_bytes(serialised(_gpt2_weights(768, 6)))
    ids = TensorSpec("input_ids", "int64", (1, tokens), Values(0, 50256, source="user"))
    mask = TensorSpec("attention_mask", "int64", (1, tokens), Values(1, 1, source="user"))
    return Case(f"gpt2_{tokens}", path, (ids, mask), "made here")


def _gpt2_weights(size: int, layers: int) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    """Seeded weights by the names of the checkpoint, spread as untrained ones are."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (50257, size), "wpe.weight": (1024, size)}
    matrices = {"attn.c_attn": (size, 3 * size), "attn.c_proj": (size, size),
                "mlp.c_fc": (size, 4 * size), "mlp.c_proj": (4 * size, size)}  # fmt: skip
    for layer in range(layers):
        for name, shape in matrices.items():
            shapes[f"h.{layer}.{name}.weight"], shapes[f"h.{layer}.{name}.bias"] = shape, shape[1:]
        shapes |= {
            f"h.{layer}.{norm}.{part}": (size,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")
        }
    shapes |= {f"ln_f.{part}": (size,) for part in ("weight", "bias")}
    made = {}
    for name, shape in shapes.items():
        middle = 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0
        made[f"transformer.{name}"] = (middle + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    return made


def policy(folder: Path, name: str) -> Case:
    """A driving policy of the zoo."""
    (entry,) = (entry for entry in zoo.list() if entry.name == name)
    return Case(name, zoo.export_onnx(name, folder / f"{name}.onnx"), entry.inputs, "raceline.zoo")


MADE: dict[str, Callable[[Path], Case]] = {
    **{f"products_{rows}": lambda folder, n=rows: products(folder, n) for rows in (1, 2, 4, 8)},
    **{f"gpt2_{tokens}": lambda folder, n=tokens: gpt2(folder, n) for tokens in (1, 4)},
    **{name: lambda folder, name=name: policy(folder, name) for name in POLICIES},
}
"""Name -> what writes the net into a folder; the number is of rows."""
