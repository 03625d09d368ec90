"""Llama, Mistral, Qwen2 and Qwen3 decoders: next-token logits of whole sequences, without a cache."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.transformer import (
    activation,
    attend,
    causal_mask,
    positions,
    split_heads,
    token_inputs,
)
from raceline.convert.formats.safetensors.weights import Config, Weights
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("llama", "mistral", "qwen2", "qwen3")


def fits(names: Collection[str]) -> bool:
    """Never: the number of heads is in the config.json alone."""
    return False


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Tokens (batch, sequence) to logits, or to states where the checkpoint is of the bare model."""
    weights.under("model.")
    size, vocabulary = config.size("hidden_size"), config.size("vocab_size")
    config.need("pretraining_tp", 1)
    ids, mask = token_inputs(b, "input_ids", "attention_mask")
    table = weights.take("embed_tokens.weight", vocabulary, size)
    x = b.op("Gather", table, ids, axis=0)
    seen = causal_mask(b, ids, mask, _window(config))
    turn = _rotation(b, config, ids)
    for number in range(config.size("num_hidden_layers", most=1000)):
        x = _layer(b, weights, config, x, seen, turn, f"layers.{number}.")
    x = _rms_norm(b, weights, config, x, "norm", size)
    weights.ignore("rotary_emb.inv_freq")
    if not config.architecture().endswith("ForCausalLM"):
        if config.architecture() and not config.architecture().endswith("Model"):
            raise BadModelError(
                f"config.json says architectures={config.architecture()}",
                "only causal language models are built",
            )
        return {"last_hidden_state": x}
    if "lm_head.weight" in weights:
        return {"logits": weights.linear(x, "lm_head", size, vocabulary, bias=False)}
    if not config.get("tie_word_embeddings", False):
        weights.shape("lm_head.weight")
    return {"logits": b.op("MatMul", x, b.transpose(table, [1, 0]))}


def _window(config: Config) -> int:
    """How far back a position sees; 0 for all the way."""
    used = config.get("use_sliding_window", config.get("model_type") == "mistral")
    if not used or config.get("sliding_window") is None:
        return 0
    if config.get("model_type") != "mistral":
        raise BadModelError(
            "config.json says use_sliding_window=true", "layers with windows of their own are not built"
        )
    return config.size("sliding_window", most=10**9)


def _head_size(config: Config) -> int:
    return config.size("head_dim", config.size("hidden_size") // config.size("num_attention_heads"))


def _frequencies(config: Config) -> np.ndarray[Any, Any]:
    """Radians a position of each pair of elements, as transformers computes them (rope types)."""
    table = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(table, dict):
        raise BadModelError("config.json says nonsense for rope_scaling")
    rope = Config(table)
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    if rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)) != 1:
        raise BadModelError("config.json says partial_rotary_factor", "only whole heads are turned")
    size = _head_size(config)
    found = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    if kind == "default":
        return found
    factor = rope.number("factor", 1.0)
    if kind == "linear":
        return found / factor
    if kind != "llama3":
        raise BadModelError(
            f"config.json says rope_type={str(kind)[:40]}", "default, linear and llama3 are built"
        )
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    original = rope.number("original_max_position_embeddings", 8192)
    if high == low or factor == 0:
        raise BadModelError("config.json says nonsense for rope_scaling")
    share = np.clip((original * found / (2 * math.pi) - low) / (high - low), 0, 1)
    return (1 - share) * found / factor + share * found


def _rotation(b: Builder, config: Config, ids: ir.Value) -> tuple[Any, Any]:
    """Cosine and sine for each position and element: (positions, size)."""
    places = b.op("Unsqueeze", b.cast(positions(b, ids), np.float32), [1])
    angle = b.op("Mul", places, np.tile(_frequencies(config), 2).astype(np.float32)[None])
    return b.op("Cos", angle), b.op("Sin", angle)


def _turned(b: Builder, x: ir.Value, turn: tuple[Any, Any], size: int) -> Any:
    first, second = b.op("Split", x, [size // 2, size // 2], axis=-1, outputs=2)
    crossed = b.op("Concat", b.op("Neg", second), first, axis=-1)
    return b.op("Add", b.op("Mul", x, turn[0]), b.op("Mul", crossed, turn[1]))


def _rms_norm(b: Builder, weights: Weights, config: Config, x: ir.Value, name: str, size: int) -> Any:
    mean = b.op("ReduceMean", b.op("Mul", x, x), [-1], keepdims=1)
    length = b.op("Sqrt", b.op("Add", mean, b.scalar(config.number("rms_norm_eps", 1e-6), x)))
    return b.op("Mul", b.op("Div", x, length), weights.take(f"{name}.weight", size))


def _layer(
    b: Builder, weights: Weights, config: Config, x: ir.Value, mask: ir.Value, turn: tuple[Any, Any], at: str
) -> Any:
    size, inner = config.size("hidden_size"), config.size("intermediate_size")
    biased = bool(config.get("mlp_bias", False))
    normal = _rms_norm(b, weights, config, x, f"{at}input_layernorm", size)
    x = b.op("Add", _attention(b, weights, config, normal, mask, turn, f"{at}self_attn."), x)
    normal = _rms_norm(b, weights, config, x, f"{at}post_attention_layernorm", size)
    gate, up = (
        weights.linear(normal, f"{at}mlp.{name}_proj", size, inner, bias=biased) for name in ("gate", "up")
    )
    gate = activation(b, gate, config.get("hidden_act", "silu"))
    hidden = b.op("Mul", gate, up)
    return b.op("Add", weights.linear(hidden, f"{at}mlp.down_proj", inner, size, bias=biased), x)


def _attention(
    b: Builder, weights: Weights, config: Config, x: ir.Value, mask: ir.Value, turn: tuple[Any, Any], at: str
) -> Any:
    size, heads, each = config.size("hidden_size"), config.size("num_attention_heads"), _head_size(config)
    groups = config.size("num_key_value_heads", heads)
    if heads % groups or each % 2:
        raise BadModelError(f"config.json says {heads} heads, {groups} of keys, {each} elements each")
    qwen2 = config.get("model_type") == "qwen2"
    biased = qwen2 or bool(config.get("attention_bias", False))
    q, k, v = (
        split_heads(b, weights.linear(x, f"{at}{name}_proj", size, count * each, bias=biased), count, each)
        for name, count in (("q", heads), ("k", groups), ("v", groups))
    )
    if config.get("model_type") == "qwen3":
        q, k = (
            _rms_norm(b, weights, config, part, f"{at}{name}_norm", each)
            for name, part in (("q", q), ("k", k))
        )
    q, k = _turned(b, q, turn, each), _turned(b, k, turn, each)
    k, v = (_repeated(b, part, groups, heads // groups, each) for part in (k, v))
    mixed = attend(b, q, k, v, each**-0.5, mask)
    biased = bool(config.get("attention_bias", False)) and not qwen2
    return weights.linear(mixed, f"{at}o_proj", heads * each, size, bias=biased)


def _repeated(b: Builder, x: ir.Value, groups: int, times: int, each: int) -> Any:
    """Each head of keys or values as often as there are query heads for it."""
    if times == 1:
        return x
    wide = b.op("Unsqueeze", x, [2])
    wide = b.op("Concat", *[wide] * times, axis=2)
    return b.op("Reshape", wide, [0, groups * times, -1, each])
