"""GPT-2 and its kin: next-token logits of whole sequences, without a cache."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.transformer import (
    activation,
    attend,
    causal_mask,
    each_head,
    positions,
    split_heads,
    token_inputs,
)
from raceline.convert.formats.safetensors.weights import Config, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("gpt2",)


def fits(names: Collection[str]) -> bool:
    """Never: the number of heads is in the config.json alone."""
    return False


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Tokens (batch, sequence) to logits, or to states where the checkpoint is of the bare model."""
    weights.under("transformer.")
    for name, wanted in (("add_cross_attention", False), ("scale_attn_weights", True),
                         ("scale_attn_by_inverse_layer_idx", False)):  # fmt: skip
        config.need(name, wanted)
    size, vocabulary = config.size("n_embd"), config.size("vocab_size")
    ids, mask = token_inputs(b, "input_ids", "attention_mask")
    table = weights.take("wte.weight", vocabulary, size)
    places = weights.take("wpe.weight", config.size("n_positions", 1024), size)
    x = b.op("Add", b.op("Gather", table, ids, axis=0), b.op("Gather", places, positions(b, ids), axis=0))
    seen = causal_mask(b, ids, mask)
    for number in range(config.size("n_layer", most=1000)):
        x = _layer(b, weights, config, x, seen, f"h.{number}.")
    x = weights.layer_norm(x, "ln_f", size, config.number("layer_norm_epsilon", 1e-5))
    weights.ignore(".attn.bias", ".attn.masked_bias")
    if config.architecture() not in {"GPT2LMHeadModel", "GPT2LMHead", ""}:
        config.need("architectures", ["GPT2Model"])
        return {"last_hidden_state": x}
    if "lm_head.weight" in weights:
        return {"logits": weights.linear(x, "lm_head", size, vocabulary, bias=False)}
    config.need("tie_word_embeddings", True)
    return {"logits": b.op("MatMul", x, b.transpose(table, [1, 0]))}


def _layer(b: Builder, weights: Weights, config: Config, x: ir.Value, mask: ir.Value, at: str) -> Any:
    size, heads = config.size("n_embd"), config.size("n_head")
    inner, epsilon = config.size("n_inner", 4 * size), config.number("layer_norm_epsilon", 1e-5)
    normal = weights.layer_norm(x, f"{at}ln_1", size, epsilon)
    together = _product(b, weights, normal, f"{at}attn.c_attn", size, 3 * size)
    q, k, v = (
        split_heads(b, part, heads, each_head(size, heads))
        for part in b.op("Split", together, [size] * 3, axis=-1, outputs=3)
    )
    mixed = attend(b, q, k, v, (each_head(size, heads)) ** -0.5, mask)
    x = b.op("Add", _product(b, weights, mixed, f"{at}attn.c_proj", size, size), x)
    normal = weights.layer_norm(x, f"{at}ln_2", size, epsilon)
    hidden = _product(b, weights, normal, f"{at}mlp.c_fc", size, inner)
    hidden = activation(b, hidden, config.get("activation_function", "gelu_new"))
    return b.op("Add", _product(b, weights, hidden, f"{at}mlp.c_proj", inner, size), x)


def _product(b: Builder, weights: Weights, x: ir.Value, name: str, inputs: int, outputs: int) -> Any:
    """Compute x W + b: these weights are (inputs, outputs), unlike everywhere else."""
    y = b.op("MatMul", x, weights.take(f"{name}.weight", inputs, outputs))
    return b.op("Add", y, weights.take(f"{name}.bias", outputs))
