"""Recurrent layers, their masks and their wrappers."""

from keras_cases.building import chain, function

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
