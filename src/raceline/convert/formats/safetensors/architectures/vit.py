"""ViT image encoders and classifiers, with Hugging Face's names."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.transformer import activation, attend, each_head, split_heads
from raceline.convert.formats.safetensors.weights import Config, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("vit", "deit")


def fits(names: Collection[str]) -> bool:
    """Never: the number of heads is in the config.json alone."""
    return False


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Images (batch, channels, height, width) to states and logits."""
    weights.under("vit.", "deit.")
    size, patch, side = (
        config.size("hidden_size"),
        config.size("patch_size", 16),
        config.size("image_size", 224),
    )
    channels, epsilon = config.size("num_channels", 3), config.number("layer_norm_eps", 1e-12)
    tokens = 2 if config.get("model_type") == "deit" else 1
    images = b.input("pixel_values", np.float32, ["batch", channels, side, side])
    at = "embeddings.patch_embeddings.projection"
    x = b.op("Conv", images, weights.take(f"{at}.weight", size, channels, patch, patch),
             weights.take(f"{at}.bias", size), strides=[patch, patch])  # fmt: skip
    x = b.transpose(b.op("Reshape", x, [0, size, (side // patch) ** 2]), [0, 2, 1])
    many = b.op("Concat", b.op("Shape", images, start=0, end=1), [1, size], axis=0)
    names = ("cls_token", "distillation_token")[:tokens]
    first = [b.op("Expand", weights.take(f"embeddings.{name}", 1, 1, size), many) for name in names]
    x = b.op("Concat", *first, x, axis=1)
    places = (side // patch) ** 2 + tokens
    x = b.op("Add", x, weights.take("embeddings.position_embeddings", 1, places, size))
    for number in range(config.size("num_hidden_layers", most=1000)):
        x = _layer(b, weights, config, x, f"encoder.layer.{number}.", size)
    x = weights.layer_norm(x, "layernorm", size, epsilon)
    weights.leave_out("decoder.", "embeddings.mask_token", "vit.embeddings.mask_token")
    return _head(b, weights, config, x, size)


def _layer(b: Builder, weights: Weights, config: Config, x: ir.Value, at: str, size: int) -> ir.Value:
    heads, inner = config.size("num_attention_heads"), config.size("intermediate_size")
    epsilon, biased = config.number("layer_norm_eps", 1e-12), bool(config.get("qkv_bias", True))
    normal = weights.layer_norm(x, f"{at}layernorm_before", size, epsilon)
    q, k, v = (
        split_heads(b, weights.linear(normal, f"{at}attention.attention.{name}", size, size, bias=biased),
                    heads, each_head(size, heads))
        for name in ("query", "key", "value")
    )  # fmt: skip
    mixed = attend(b, q, k, v, (each_head(size, heads)) ** -0.5, None)
    x = b.op("Add", weights.linear(mixed, f"{at}attention.output.dense", size, size), x)
    normal = weights.layer_norm(x, f"{at}layernorm_after", size, epsilon)
    hidden = weights.linear(normal, f"{at}intermediate.dense", size, inner)
    hidden = activation(b, hidden, config.get("hidden_act", "gelu"))
    y: ir.Value = b.op("Add", weights.linear(hidden, f"{at}output.dense", inner, size), x)
    return y


def _head(b: Builder, weights: Weights, config: Config, x: ir.Value, size: int) -> dict[str, ir.Value]:
    first = b.op("Squeeze", b.op("Slice", x, [0], [1], [1]), [1])
    if "classifier.weight" in weights:
        return {"logits": weights.linear(first, "classifier", size, weights.shape("classifier.weight")[0])}
    found = {"last_hidden_state": x}
    if "pooler.dense.weight" in weights:
        outputs = config.size("pooler_output_size", size)
        pooled = weights.linear(first, "pooler.dense", size, outputs)
        found["pooler_output"] = activation(b, pooled, config.get("pooler_act", "tanh"))
    return found
