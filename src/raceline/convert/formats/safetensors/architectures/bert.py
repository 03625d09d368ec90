"""BERT, RoBERTa, XLM-RoBERTa and DistilBERT encoders, with their pooler or classifier (MiniLM is a BERT)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.transformer import (
    activation,
    attend,
    each_head,
    padding_mask,
    positions,
    split_heads,
    token_inputs,
)
from raceline.convert.formats.safetensors.weights import Config, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("bert", "roberta", "xlm-roberta", "distilbert", "camembert")


@dataclass(frozen=True)
class _Names:
    """What a family calls the parts of a layer."""

    layer: str
    query: str
    key: str
    value: str
    attention: str
    attention_norm: str
    up: str
    down: str
    norm: str


_BERT = _Names(
    "encoder.layer.{}.", "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
    "output.LayerNorm",
)  # fmt: skip
_DISTILBERT = _Names(
    "transformer.layer.{}.", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
_HEADS = ("cls.", "lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "qa_outputs.")


def fits(names: Collection[str]) -> bool:
    """Never: the number of heads is in the config.json alone."""
    return False


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Tokens (batch, sequence) to states, and to what the pooler or the classifier makes of them."""
    distil = config.get("model_type") == "distilbert"
    roberta = config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}
    config.need("position_embedding_type", "absolute")
    config.need("is_decoder", False)
    config.need("add_cross_attention", False)
    weights.under("bert.", "roberta.", "distilbert.")
    size = config.size("dim" if distil else "hidden_size")
    ids, mask = token_inputs(b, "input_ids", "attention_mask")
    x = _embedded(b, weights, config, ids, size, distil=distil, roberta=roberta)
    seen = padding_mask(b, mask)
    for number in range(config.size("n_layers" if distil else "num_hidden_layers", most=1000)):
        x = _layer(b, weights, config, x, seen, number, distil)
    weights.ignore("position_ids")
    return _head(b, weights, config, x, size, distil=distil, roberta=roberta)


def _embedded(
    b: Builder, weights: Weights, config: Config, ids: ir.Value, size: int, *, distil: bool, roberta: bool
) -> Any:
    longest = config.size("max_position_embeddings", 512)
    words = weights.take("embeddings.word_embeddings.weight", config.size("vocab_size"), size)
    x = b.op("Gather", words, ids, axis=0)
    if not distil:
        kinds = config.size("type_vocab_size", 2)
        table = weights.take("embeddings.token_type_embeddings.weight", kinds, size)
        if roberta and kinds == 1:
            x = b.op("Add", x, table)
        else:
            (which,) = token_inputs(b, "token_type_ids")
            x = b.op("Add", x, b.op("Gather", table, which, axis=0))
    places = weights.take("embeddings.position_embeddings.weight", longest, size)
    where = _roberta_positions(b, ids, config) if roberta else positions(b, ids)
    x = b.op("Add", x, b.op("Gather", places, where, axis=0))
    return weights.layer_norm(x, "embeddings.LayerNorm", size, config.number("layer_norm_eps", 1e-12))


def _roberta_positions(b: Builder, ids: ir.Value, config: Config) -> Any:
    """Tokens are counted from behind the padding's own number on; padding keeps that number."""
    padding = np.array(int(config.number("pad_token_id", 1)), np.int64)
    real = b.cast(b.op("Not", b.op("Equal", ids, padding)), np.int64)
    count = b.op("CumSum", real, np.array(1, np.int64))
    return b.op("Add", b.op("Mul", count, real), padding)


def _layer(
    b: Builder, weights: Weights, config: Config, x: ir.Value, mask: ir.Value, number: int, distil: bool
) -> Any:
    names = _DISTILBERT if distil else _BERT
    size = config.size("dim" if distil else "hidden_size")
    inner = config.size("hidden_dim" if distil else "intermediate_size")
    heads = config.size("n_heads" if distil else "num_attention_heads")
    epsilon = config.number("layer_norm_eps", 1e-12)
    at = names.layer.format(number)
    q, k, v = (
        split_heads(b, weights.linear(x, at + name, size, size), heads, each_head(size, heads))
        for name in (names.query, names.key, names.value)
    )
    mixed = attend(b, q, k, v, (each_head(size, heads)) ** -0.5, mask)
    x = b.op("Add", weights.linear(mixed, at + names.attention, size, size), x)
    x = weights.layer_norm(x, at + names.attention_norm, size, epsilon)
    hidden = weights.linear(x, at + names.up, size, inner)
    hidden = activation(b, hidden, config.get("activation" if distil else "hidden_act", "gelu"))
    x = b.op("Add", weights.linear(hidden, at + names.down, inner, size), x)
    return weights.layer_norm(x, at + names.norm, size, epsilon)


def _head(
    b: Builder, weights: Weights, config: Config, x: ir.Value, size: int, *, distil: bool, roberta: bool
) -> dict[str, Any]:
    """What stands on the encoder, by the weights that are there."""
    kind = config.architecture()
    found: dict[str, Any] = {"last_hidden_state": x}
    first = b.op("Squeeze", b.op("Slice", x, [0], [1], [1]), [1])
    if "pooler.dense.weight" in weights:
        pooled = b.op("Tanh", weights.linear(first, "pooler.dense", size, size))
        found["pooler_output"] = first = pooled
    if kind.endswith("ForTokenClassification"):
        labels = weights.shape("classifier.weight")[:1]
        return {"logits": weights.linear(x, "classifier", size, *labels or (1,))}
    if kind.endswith("ForSequenceClassification"):
        if distil:
            first = b.op("Relu", weights.linear(first, "pre_classifier", size, size))
        if roberta:
            first = b.op("Tanh", weights.linear(first, "classifier.dense", size, size))
        name = "classifier.out_proj" if roberta else "classifier"
        labels = weights.shape(f"{name}.weight")[:1]
        return {"logits": weights.linear(first, name, size, *labels or (1,))}
    weights.leave_out(*_HEADS)
    return found
