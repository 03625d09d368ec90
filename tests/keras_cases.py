"""Networks for the Keras reader, built by Keras itself: name -> function that returns a model.

Run as a script it saves each with random weights, with inputs and the outputs that Keras computes:

    KERAS_BACKEND=torch python keras_cases.py FOLDER [NAME ...]
"""

import os
import sys
from pathlib import Path

import numpy as np

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def chain(name, *shape, layers, dtype="float32"):
    """A case of layers one after another."""

    def build():
        import keras

        x = inputs = keras.Input(shape, dtype=dtype, name="x")
        for layer in layers(keras.layers):
            x = layer(x)
        return keras.Model(inputs, x)

    CASES[name] = build


def function(name, *shapes, body, dtype="float32"):
    """A case of some function of its inputs."""

    def build():
        import keras

        inputs = [keras.Input(shape, dtype=dtype, name=f"x{i}") for i, shape in enumerate(shapes)]
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], body(keras, *inputs))

    CASES[name] = build


# Dense layers and activations
chain("dense", 5, layers=lambda L: [L.Dense(4, activation="relu"), L.Dense(3, use_bias=False)])
chain("dense_many_axes", 3, 4, 5, layers=lambda L: [L.Dense(6, activation="gelu")])
chain(
    "einsum_dense",
    4,
    5,
    layers=lambda L: [L.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d")],
)
chain(
    "einsum_dense_heads",
    4,
    6,
    layers=lambda L: [
        L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"),
        L.EinsumDense("abde,dec->abc", output_shape=(None, 5), bias_axes="c"),
    ],
)
chain(
    "einsum_dense_odd",
    4,
    5,
    layers=lambda L: [L.EinsumDense("abc,bd->adc", output_shape=(7, 5), bias_axes="d")],
)
chain(
    "einsum_dense_dots",
    2,
    3,
    5,
    layers=lambda L: [L.EinsumDense("...x,xy->...y", output_shape=4, bias_axes="y")],
)
for _name in (
    "relu relu6 elu selu softplus softsign tanh sigmoid exponential hard_sigmoid hard_silu silu gelu softmax "
    "log_softmax leaky_relu mish celu hard_tanh hard_shrink soft_shrink tanh_shrink squareplus log_sigmoid "
    "sparse_plus sparse_sigmoid glu linear"
).split():
    chain(f"activation_{_name}", 6, layers=lambda L, n=_name: [L.Dense(6), L.Activation(n)])
chain("relu_all", 7, layers=lambda L: [L.ReLU(max_value=1.5, negative_slope=0.3, threshold=0.2)])
chain("relu_threshold", 7, layers=lambda L: [L.ReLU(threshold=0.5)])
chain("relu_max", 7, layers=lambda L: [L.ReLU(max_value=1.0)])
chain("relu_slope_max", 7, layers=lambda L: [L.ReLU(max_value=1.0, negative_slope=0.1)])
chain("leaky_elu", 7, layers=lambda L: [L.LeakyReLU(negative_slope=0.2), L.ELU(alpha=0.7)])
chain(
    "layer_as_activation", 5, layers=lambda L: [L.Dense(4, activation=L.LeakyReLU(0.1)), L.Activation("relu")]
)
chain("prelu", 4, 5, 3, layers=lambda L: [L.PReLU(shared_axes=[1, 2]), L.PReLU()])
chain("softmax_axis", 4, 5, layers=lambda L: [L.Softmax(axis=1), L.Softmax(axis=[1, 2])])

# Convolutions
chain(
    "conv1d",
    9,
    3,
    layers=lambda L: [L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.Conv1D(5, 2, 2, "same")],
)
chain(
    "conv2d",
    9,
    10,
    3,
    layers=lambda L: [
        L.Conv2D(4, 3, 2, "same", activation="relu"),
        L.Conv2D(6, (2, 3), groups=2, use_bias=False),
    ],
)
chain("conv2d_dilated", 12, 12, 2, layers=lambda L: [L.Conv2D(4, 3, dilation_rate=(2, 3), padding="same")])
chain("conv3d", 5, 6, 7, 2, layers=lambda L: [L.Conv3D(3, 3, 2, "same"), L.Conv3D(2, 2)])
chain("depthwise", 8, 9, 3, layers=lambda L: [L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)])
chain("depthwise1d", 8, 3, layers=lambda L: [L.DepthwiseConv1D(3, padding="same", activation="relu")])
chain("separable", 8, 9, 3, layers=lambda L: [L.SeparableConv2D(5, 3, 1, "same", depth_multiplier=2)])
chain("separable1d", 9, 3, layers=lambda L: [L.SeparableConv1D(5, 3, 2, "valid")])
for _k, _s, _p in [
    (3, 2, "same"),
    (2, 2, "valid"),
    (4, 2, "same"),
    (5, 3, "valid"),
    (1, 2, "same"),
    (3, 1, "same"),
]:
    chain(
        f"conv2d_transpose_{_k}{_s}{_p}", 5, 6, 2, layers=lambda L, a=(_k, _s, _p): [L.Conv2DTranspose(3, *a)]
    )
chain("conv1d_transpose", 6, 2, layers=lambda L: [L.Conv1DTranspose(3, 3, 2, "same")])
chain("conv3d_transpose", 3, 4, 3, 2, layers=lambda L: [L.Conv3DTranspose(2, 3, 2, "same")])
chain(
    "conv2d_transpose_extra", 5, 6, 2, layers=lambda L: [L.Conv2DTranspose(3, 3, 2, "same", output_padding=1)]
)
chain(
    "conv_open", None, None, 3, layers=lambda L: [L.Conv2D(4, 3, padding="same"), L.GlobalAveragePooling2D()]
)

# Pooling
chain("pool2d", 9, 8, 3, layers=lambda L: [L.MaxPooling2D(3, 2, "same"), L.AveragePooling2D(2)])
chain("average_same", 7, 7, 3, layers=lambda L: [L.AveragePooling2D(3, 2, "same")])
chain("pool1d", 9, 3, layers=lambda L: [L.MaxPooling1D(2), L.AveragePooling1D(2, 1, "same")])
chain("pool3d", 6, 6, 5, 2, layers=lambda L: [L.MaxPooling3D(2), L.AveragePooling3D(2, 1)])
chain(
    "global_pool", 5, 6, 3, layers=lambda L: [L.GlobalAveragePooling2D(keepdims=True), L.GlobalMaxPooling2D()]
)
chain("global_pool1d", 5, 6, layers=lambda L: [L.GlobalMaxPooling1D()])
chain("global_pool3d", 3, 4, 5, 2, layers=lambda L: [L.GlobalAveragePooling3D()])
chain("adaptive", 7, 5, 3, layers=lambda L: [L.AdaptiveAveragePooling2D((3, 2))])
chain("adaptive_max", 7, 3, layers=lambda L: [L.AdaptiveMaxPooling1D(3)])

# Normalisation
chain(
    "batch_norm",
    4,
    5,
    3,
    layers=lambda L: [
        L.BatchNormalization(),
        L.BatchNormalization(axis=1, scale=False),
        L.BatchNormalization(center=False),
    ],
)
chain("batch_norm_flat", 6, layers=lambda L: [L.BatchNormalization(epsilon=0.1)])
chain(
    "layer_norm", 4, 6, layers=lambda L: [L.LayerNormalization(), L.LayerNormalization(axis=1, center=False)]
)
chain(
    "layer_norm_axes",
    4,
    5,
    6,
    layers=lambda L: [L.LayerNormalization(axis=[2, 3]), L.LayerNormalization(axis=[1, 2], scale=False)],
)
chain("group_norm", 4, 5, 6, layers=lambda L: [L.GroupNormalization(3), L.GroupNormalization(-1, axis=1)])
chain("rms_norm", 4, 6, layers=lambda L: [L.RMSNormalization()])
chain("unit_norm", 4, 6, layers=lambda L: [L.UnitNormalization(axis=1)])
chain("spectral_norm", 6, layers=lambda L: [L.SpectralNormalization(L.Dense(4))])

# Shapes
chain(
    "reshape",
    4,
    6,
    layers=lambda L: [L.Reshape((2, -1, 3)), L.Permute((3, 1, 2)), L.Flatten(), L.RepeatVector(2)],
)
chain(
    "padding", 4, 5, 2, layers=lambda L: [L.ZeroPadding2D(((1, 2), (0, 3))), L.Cropping2D(((2, 0), (1, 1)))]
)
chain("padding1d", 6, 2, layers=lambda L: [L.ZeroPadding1D((1, 2)), L.Cropping1D(1)])
chain("padding3d", 3, 4, 5, 2, layers=lambda L: [L.ZeroPadding3D(1), L.Cropping3D(((1, 0), (0, 1), (2, 1)))])
for _mode in ("nearest", "bilinear", "bicubic"):
    chain(f"upsampling_{_mode}", 4, 5, 2, layers=lambda L, m=_mode: [L.UpSampling2D((2, 3), interpolation=m)])
    chain(f"resizing_{_mode}", 4, 5, 2, layers=lambda L, m=_mode: [L.Resizing(7, 9, interpolation=m)])
    chain(f"resizing_down_{_mode}", 9, 8, 2, layers=lambda L, m=_mode: [L.Resizing(4, 5, interpolation=m)])
chain("upsampling1d", 4, 2, layers=lambda L: [L.UpSampling1D(3)])
chain("upsampling3d", 2, 3, 4, 2, layers=lambda L: [L.UpSampling3D(2)])
chain(
    "nothing",
    4,
    5,
    layers=lambda L: [
        L.Dropout(0.5),
        L.SpatialDropout1D(0.2),
        L.GaussianNoise(0.1),
        L.GaussianDropout(0.1),
        L.AlphaDropout(0.1),
        L.ActivityRegularization(0.1),
        L.Identity(),
    ],
)
chain("rescaling", 4, 5, 3, layers=lambda L: [L.Rescaling(1 / 127.5, -1), L.Rescaling([1.0, 2.0, 3.0])])
chain("pixels", 4, 5, 3, layers=lambda L: [L.Rescaling(1 / 255), L.CenterCrop(2, 3)], dtype="uint8")
chain("normalization_given", 4, 3, layers=lambda L: [L.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])])
chain(
    "normalization_all",
    4,
    3,
    layers=lambda L: [L.Normalization(axis=None, mean=2.0, variance=4.0, invert=True)],
)
chain("discretization", 4, layers=lambda L: [L.Discretization(bin_boundaries=[-1.0, 0.0, 0.5])])
chain("categories", 4, layers=lambda L: [L.CategoryEncoding(5, output_mode="multi_hot")], dtype="int32")
chain("categories_count", 4, layers=lambda L: [L.CategoryEncoding(5, output_mode="count")], dtype="int32")


@case
def channels_first():
    import keras

    L = keras.layers
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 8, 9), name="x")
    x = L.Conv2D(4, 3, 1, "same", **first)(x)
    x = L.BatchNormalization(axis=1)(x)
    x = L.ZeroPadding2D(1, **first)(x)
    x = L.UpSampling2D(2, **first)(x)
    x = L.Cropping2D(1, **first)(x)
    y = L.Flatten(**first)(x)
    return keras.Model(inputs, [x, y])


# Merging
function(
    "merges",
    (4, 5),
    (4, 5),
    body=lambda k, x, y: [
        getattr(k.layers, name)()([x, y]) for name in "Add Subtract Multiply Average Maximum Minimum".split()
    ],
)
function("merge_ranks", (5,), (4, 5), (1, 5), body=lambda k, x, y, z: k.layers.Add()([x, y, z]))
function(
    "concatenate",
    (4, 5),
    (4, 2),
    (4, 5),
    body=lambda k, x, y, z: [k.layers.Concatenate()([x, y]), k.layers.Concatenate(axis=1)([x, z])],
)
function(
    "dots",
    (4, 5),
    (3, 5),
    body=lambda k, x, y: [k.layers.Dot(axes=2)([x, y]), k.layers.Dot(axes=(2, 2), normalize=True)([x, y])],
)
function(
    "dot_vectors",
    (5,),
    (5,),
    (4, 5),
    body=lambda k, x, y, z: [
        k.layers.Dot(axes=1)([x, y]),
        k.layers.Dot(axes=(1, 2), normalize=True)([x, z]),
        k.layers.Dot(axes=(2, 1))([z, y]),
    ],
)
function("dot_tall", (4, 5, 6), (6, 3), body=lambda k, x, y: k.layers.Dot(axes=(3, 1))([x, y]))


# Recurrent layers
for _kind in ("LSTM", "GRU", "SimpleRNN"):
    chain(f"{_kind}_last", 5, 3, layers=lambda L, n=_kind: [getattr(L, n)(4)])
    chain(
        f"{_kind}_backwards",
        5,
        3,
        layers=lambda L, n=_kind: [
            getattr(L, n)(4, go_backwards=True, return_sequences=True, use_bias=False)
        ],
    )
    chain(f"{_kind}_open", None, 3, layers=lambda L, n=_kind: [getattr(L, n)(4, return_sequences=True)])
    chain(f"{_kind}_odd", 5, 3, layers=lambda L, n=_kind: [getattr(L, n)(4, activation="gelu")])
    function(
        f"{_kind}_states",
        (5, 3),
        (4,),
        body=lambda k, x, s, n=_kind: getattr(k.layers, n)(4, return_state=True, return_sequences=True)(
            x, initial_state=[s, s] if n == "LSTM" else [s]
        ),
    )
    for _return in (True, False):
        function(
            f"{_kind}_masked_{_return}",
            (7,),
            body=lambda k, x, n=_kind, r=_return: getattr(k.layers, n)(4, return_sequences=r)(
                k.layers.Embedding(6, 3, mask_zero=True)(x)
            ),
            dtype="int32",
        )
        function(
            f"{_kind}_masked_odd_{_return}",
            (7,),
            body=lambda k, x, n=_kind, r=_return: getattr(k.layers, n)(
                4, return_sequences=r, activation="elu"
            )(k.layers.Embedding(6, 3, mask_zero=True)(x)),
            dtype="int32",
        )
    for _mode in ("concat", "sum", "mul", "ave", None):
        function(
            f"bidirectional_{_kind}_{_mode}",
            (5, 3),
            body=lambda k, x, n=_kind, m=_mode: k.layers.Bidirectional(
                getattr(k.layers, n)(4, return_sequences=True), merge_mode=m
            )(x),
        )
    function(
        f"bidirectional_{_kind}_masked",
        (7,),
        body=lambda k, x, n=_kind: [
            k.layers.Bidirectional(getattr(k.layers, n)(4, return_sequences=r))(
                k.layers.Embedding(6, 3, mask_zero=True)(x)
            )
            for r in (True, False)
        ],
        dtype="int32",
    )
chain(
    "gru_reset_before",
    5,
    3,
    layers=lambda L: [L.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid")],
)
chain("gru_reset_before_plain", 5, 3, layers=lambda L: [L.GRU(4, reset_after=False)])
chain(
    "bidirectional_last",
    5,
    3,
    layers=lambda L: [L.Bidirectional(L.LSTM(4), backward_layer=L.LSTM(3, go_backwards=True))],
)
function(
    "bidirectional_states",
    (5, 3),
    body=lambda k, x: k.layers.Bidirectional(k.layers.LSTM(4, return_state=True))(x),
)
chain(
    "rnn_cells",
    5,
    3,
    layers=lambda L: [L.RNN([L.GRUCell(4), L.LSTMCell(3)], return_sequences=True), L.RNN(L.LSTMCell(2))],
)
chain(
    "conv_lstm",
    3,
    5,
    6,
    2,
    layers=lambda L: [
        L.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
        L.ConvLSTM2D(2, 2, strides=2),
    ],
)
chain("conv_lstm1d", 3, 6, 2, layers=lambda L: [L.ConvLSTM1D(3, 3)])
function("masking", (6, 3), body=lambda k, x: k.layers.LSTM(4)(k.layers.Masking(0.5)(k.ops.maximum(x, 0.5))))
chain(
    "masking_layer",
    6,
    3,
    layers=lambda L: [L.ReLU(), L.Masking(0.0), L.LSTM(4, return_sequences=True), L.Dense(2)],
)
chain(
    "time_distributed",
    5,
    6,
    7,
    2,
    layers=lambda L: [
        L.TimeDistributed(L.Conv2D(3, 3, activation="relu")),
        L.TimeDistributed(L.GlobalAveragePooling2D()),
        L.TimeDistributed(L.Dense(4)),
    ],
)
chain(
    "time_distributed_open",
    None,
    6,
    layers=lambda L: [L.TimeDistributed(L.Dense(4)), L.TimeDistributed(L.BatchNormalization())],
)
chain(
    "pool_masked",
    6,
    layers=lambda L: [
        L.Embedding(6, 3, mask_zero=True),
        L.Dropout(0.1),
        L.Dense(4),
        L.GlobalAveragePooling1D(),
    ],
    dtype="int32",
)
function(
    "merged_masks",
    (6,),
    (6,),
    body=lambda k, x, y: k.layers.LSTM(3)(
        k.layers.Add()([k.layers.Embedding(6, 3, mask_zero=True)(v) for v in (x, y)])
    ),
    dtype="int32",
)
function(
    "concatenated_masks",
    (6,),
    (6,),
    body=lambda k, x, y: [
        k.layers.LSTM(3)(
            k.layers.Concatenate(axis=a)([k.layers.Embedding(6, 3, mask_zero=True)(v) for v in (x, y)])
        )
        for a in (1, 2)
    ],
    dtype="int32",
)


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


# Structure
@case
def nested():
    import keras

    L = keras.layers
    a = keras.Input((5,), name="a")
    inner_in = keras.Input((5,), name="inner_in")
    inner = keras.Model(
        inner_in, [L.Dense(3)(inner_in), L.Dense(4, activation="relu")(inner_in)], name="inner"
    )
    chain = keras.Sequential([L.Dense(5, activation="tanh"), L.BatchNormalization()], name="chain")
    x, y = inner(a)
    once, twice = chain(a), chain(chain(a))
    z, w = inner(twice)
    frozen = keras.Sequential([L.Dense(2), L.BatchNormalization(), L.Dense(2)], name="frozen")
    frozen.trainable = False
    out = frozen(L.Concatenate()([x, z]))
    return keras.Model(a, [x, y, once, z, w, out])


@case
def shared():
    import keras

    L = keras.layers
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    dense = L.Dense(5, activation="tanh", name="dense")
    other = L.Dense(5, name="other")
    return keras.Model([a, b], {"one": dense(other(dense(a))), "two": L.Subtract()([dense(b), other(b)])})


@case
def partly_frozen():
    import keras

    L = keras.layers
    inner = keras.Sequential(
        [L.Dense(4), L.BatchNormalization(), L.Dense(4), L.BatchNormalization()], name="inner"
    )
    inner.build((None, 5))
    inner.layers[0].trainable = False
    return keras.Sequential([keras.Input((5,)), inner, L.Dense(2)])


@case
def sequential():
    import keras

    L = keras.layers
    model = keras.Sequential(
        [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(3, "softmax")]
    )
    model.build((None, 8, 8, 2))
    return model


@case
def dictionary():
    import keras

    L = keras.layers
    inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((4,), name="right")}
    inner = keras.Model(inputs, L.Concatenate()([inputs["left"], inputs["right"]]), name="join")
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    return keras.Model([a, b], inner({"right": a, "left": b}))


@case
def time_distributed_model():
    import keras

    L = keras.layers
    inner = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(3, 3), L.Flatten(), L.Dense(4)], name="inner")
    x = keras.Input((5, 6, 6, 2), name="x")
    return keras.Model(x, L.LSTM(3)(L.TimeDistributed(inner)(x)))


@case
def passed_through():
    import keras

    x = keras.Input((3,), name="x")
    return keras.Model(x, [x, keras.layers.Dense(2)(x)])


@case
def transformer():
    import keras

    L, ops = keras.layers, keras.ops
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = L.Embedding(20, 16)(tokens) + L.Embedding(8, 16)(ops.arange(8))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 4)(y, y, use_causal_mask=True)
        y = L.LayerNormalization()(x)
        x = x + L.Dense(16)(L.Dense(32, activation="gelu")(y))
    return keras.Model(tokens, L.Dense(20)(x))


def randomise(model, seed):
    """Weights that no layer would start with, so that two of them cannot be mistaken for each other."""
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        array = rng.normal(size=weight.shape) * 0.4
        values.append((np.abs(array) + 0.5 if "variance" in weight.name else array).astype("float32"))
    model.set_weights(values)


def feeds_of(model, batch, seed):
    """Inputs by name; open axes have 6 elements."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in model.inputs:
        shape = [batch, *(6 if size is None else size for size in tensor.shape[1:])]
        name, dtype = tensor.name, str(tensor.dtype)
        whole = rng.integers(0, 5, shape)
        feeds[name] = (whole if "int" in dtype else rng.normal(size=shape)).astype(dtype)
    return feeds


def flat(outputs):
    if isinstance(outputs, dict):
        return [leaf for key in sorted(outputs) for leaf in flat(outputs[key])]
    if isinstance(outputs, list | tuple):
        return [leaf for item in outputs for leaf in flat(item)]
    return [outputs]


def write(folder, name):
    """Save one case: the model in both formats, its inputs and what Keras computes of them."""
    import keras

    keras.utils.clear_session()
    model = CASES[name]()
    randomise(model, seed=len(name))
    arrays = {}
    for batch in (1, 3):
        feeds = feeds_of(model, batch, seed=batch)
        ordered = [feeds[tensor.name] for tensor in model.inputs]
        outputs = model(ordered if len(ordered) > 1 else ordered[0], training=False)
        arrays |= {f"in:{batch}:{key}": array for key, array in feeds.items()}
        arrays |= {
            f"out:{batch}:{i}": keras.ops.convert_to_numpy(leaf) for i, leaf in enumerate(flat(outputs))
        }
    np.savez(Path(folder) / f"{name}.npz", **arrays)
    model.save(Path(folder) / f"{name}.keras")
    model.save(Path(folder) / f"{name}.h5")


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "torch")
    failed = {}
    for wanted in sys.argv[2:] or CASES:
        try:
            write(sys.argv[1], wanted)
        except Exception as error:  # noqa: BLE001  each case by itself
            failed[wanted] = f"{type(error).__name__}: {str(error)[:300]}"
    for key, text in failed.items():
        sys.stderr.write(f"{key}: {text}\n")
