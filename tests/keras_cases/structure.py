"""Models in models, shared and partly frozen layers, and whole networks."""

from keras_cases.building import case


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
