"""Layers by themselves: dense, convolutions, pools, norms, shapes, merging."""

from keras_cases.building import case, chain, function

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
