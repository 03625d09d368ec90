"""Attention, and keras.ops as nodes."""

from keras_cases.building import function

# Attention
function(
    "attention",
    (4, 5),
    (6, 5),
    (6, 5),
    body=lambda k, q, v, u: [
        k.layers.Attention(use_scale=True)([q, v, u]),
        k.layers.Attention(score_mode="concat")([q, v]),
        k.layers.AdditiveAttention()([q, v, u]),
        k.layers.Attention()([q, v], use_causal_mask=True),
    ],
)
function(
    "attention_masked",
    (4,),
    (6,),
    body=lambda k, q, v: k.layers.Attention()([k.layers.Embedding(6, 5, mask_zero=True)(x) for x in (q, v)]),
    dtype="int32",
)
function(
    "mha",
    (4, 6),
    (5, 6),
    body=lambda k, q, v: [
        k.layers.MultiHeadAttention(2, 3)(q, v),
        k.layers.MultiHeadAttention(2, 3, value_dim=4, output_shape=7)(q, q, q),
        k.layers.MultiHeadAttention(2, 3, use_bias=False)(q, q, use_causal_mask=True),
        k.layers.MultiHeadAttention(2, 3, dropout=0.1)(q, v, return_attention_scores=True)[1],
    ],
)
for _drop in (0.0, 0.1):
    function(
        f"mha_masked_{_drop}",
        (6,),
        body=lambda k, x, d=_drop: [
            k.layers.MultiHeadAttention(2, 3, dropout=d)(
                e := k.layers.Embedding(6, 4, mask_zero=True)(x), e, use_causal_mask=c
            )
            for c in (True, False)
        ],
        dtype="int32",
    )
function(
    "mha_given_mask",
    (4, 6),
    (4, 4),
    body=lambda k, q, m: k.layers.MultiHeadAttention(2, 3)(q, q, attention_mask=k.ops.greater(m, -0.5)),
)
function(
    "gqa",
    (4, 6),
    body=lambda k, q: [
        k.layers.GroupQueryAttention(3, 4, 2)(q, q),
        k.layers.GroupQueryAttention(3, 4, 2)(q, q, use_causal_mask=True),
    ],
)


# keras.ops as nodes
function(
    "ops_arithmetic",
    (4, 5),
    (4, 5),
    body=lambda k, x, y: [
        x + y,
        x - 1,
        2.0 * x,
        x / (k.ops.abs(y) + 1),
        k.ops.abs(x) ** 2,
        -x,
        x // 0.7,
        x % 0.7,
        k.ops.maximum(x, y),
        k.ops.minimum(x, 0.1),
        k.ops.square(x),
        k.ops.sqrt(k.ops.abs(x)),
        k.ops.rsqrt(k.ops.abs(x) + 1),
        1 - x,
    ],
)
function(
    "ops_functions",
    (4, 5),
    body=lambda k, x: [
        getattr(k.ops, n)(x)
        for n in "exp sin cos tanh floor ceil sign erf sigmoid relu silu softplus log_sigmoid".split()
    ],
)
function(
    "ops_logs",
    (4, 5),
    body=lambda k, x: [
        getattr(k.ops, n)(k.ops.abs(x) + 0.1) for n in "log log1p log2 log10 expm1 reciprocal".split()
    ],
)
function(
    "ops_reductions",
    (4, 5),
    body=lambda k, x: [
        getattr(k.ops, n)(x, axis=a, keepdims=d)
        for n in "mean sum max min prod var std logsumexp".split()
        for a, d in ((1, False), ((1, 2), True), (-1, True))
    ],
)
function(
    "ops_compare",
    (4, 5),
    (4, 5),
    body=lambda k, x, y: (
        [
            k.ops.cast(v, "float32")
            for v in (
                x > y,
                x <= 0.1,
                k.ops.equal(x, x),
                k.ops.not_equal(x, y),
                k.ops.logical_and(x > 0, y > 0),
                k.ops.logical_not(x > 0),
            )
        ]
        + [k.ops.where(x > 0, x, y), k.ops.where(x > 0, 1.0, y)]
    ),
)
function(
    "ops_shapes",
    (4, 6),
    body=lambda k, x: [
        k.ops.reshape(x, (-1, 3, 8)),
        k.ops.transpose(x, (0, 2, 1)),
        k.ops.expand_dims(x, -1),
        k.ops.flip(x, 1),
        k.ops.squeeze(k.ops.expand_dims(x, 1), 1),
        k.ops.swapaxes(x, 1, 2),
        k.ops.moveaxis(x, 2, 0),
        k.ops.tile(x, (1, 2, 1)),
        k.ops.repeat(x, 2, axis=1),
        k.ops.pad(x, ((0, 0), (1, 2), (0, 1))),
        k.ops.cumsum(x, axis=1),
        k.ops.ravel(x),
    ],
)
function(
    "ops_items",
    (4, 6),
    body=lambda k, x: [
        x[:, 1],
        x[:, 1:3, ::2],
        x[..., -1],
        x[:, None, :, 0],
        x[:, ::-1],
        x[:, -2:],
        x[..., None],
    ],
)
function(
    "ops_joins",
    (4, 6),
    (4, 6),
    body=lambda k, x, y: [
        k.ops.concatenate([x, y], axis=-1),
        k.ops.stack([x, y], axis=1),
        *k.ops.split(x, 3, axis=2),
        *k.ops.split(x, [1, 4], axis=2),
        *k.ops.unstack(x, axis=1),
    ],
)
function(
    "ops_products",
    (4, 5),
    (5, 3),
    body=lambda k, x, y: [
        k.ops.matmul(x, y),
        x @ y,
        k.ops.einsum("bij,bjk->bik", x, y),
        k.ops.normalize(x, axis=-1),
        k.ops.norm(x, axis=-1),
    ],
)
function(
    "ops_choices",
    (4, 5),
    body=lambda k, x: [
        k.ops.argmax(x, axis=-1),
        k.ops.one_hot(k.ops.argmax(x, axis=-1), 5),
        k.ops.take(x, [2, 0], axis=1),
        k.ops.clip(x, -0.5, 0.5),
        *k.ops.top_k(x, 2),
        k.ops.softmax(x, axis=1),
        k.ops.gelu(x),
        k.ops.leaky_relu(x, 0.3),
        k.ops.round(x * 3),
        k.ops.zeros_like(x),
        k.ops.ones_like(x),
    ],
)
function(
    "ops_integers",
    (4,),
    body=lambda k, x: [
        x + 1,
        x * 2,
        x // 2,
        x % 3,
        x / 2,
        k.ops.cast(x, "float32") * 0.5,
        k.ops.maximum(x, 2),
    ],
    dtype="int32",
)
