import struct

import numpy as np
import pytest
from flatbuffers import flexbuffers
from tflite_cases import CASES

from raceline.convert.formats.tflite.data import array_of, densified
from raceline.convert.formats.tflite.file import Sparsity, Tensor
from raceline.convert.formats.tflite.translate import RULES
from raceline.convert.formats.tflite.write import GraphSpec, OperatorSpec, TensorSpec, written
from raceline.convert.readers import tflite
from raceline.core.errors import BadModelError, UnknownNameError, UnsupportedOperatorError
from raceline.ir import Limits, run_reference

F = TensorSpec("float32", (2, 3))
OPEN = TensorSpec("float32", (-1, 3))
NAN = TensorSpec("float32", (2, 3), np.full(6, np.nan, np.float32))
SHORT = TensorSpec("float32", (9, 9), np.ones(6, np.float32))


def read(folder, *graphs, signatures=(), **options):
    path = folder / "model.tflite"
    path.write_bytes(written(*graphs, signatures=signatures))
    return tflite.read(path, **options)


def one(op, operands, options=None, tensors=None, outputs=("y",), **more):
    """A graph of one operator that reads `x`."""
    tensors = {"x": F, **(tensors or {}), **{name: TensorSpec("float32", (2, 3)) for name in outputs}}
    return GraphSpec(tensors, [OperatorSpec(op, operands, outputs, options, **more)], ["x"], list(outputs))


def test_names_of_a_signature_are_kept(tmp_path):
    graph = one("TANH", ["x"], tensors={"x": OPEN})
    signatures = [("serve", {"picture": "x"}, {"score": "y"})]
    model = read(tmp_path, graph, signatures=signatures)
    assert [s.name for s in model.signature.inputs] == ["picture"]
    assert [s.name for s in model.signature.outputs] == ["score"]
    assert model.signature.inputs[0].shape[1] == 3 and isinstance(model.signature.inputs[0].shape[0], str)
    read(tmp_path, graph, signatures=signatures, signature="serve")
    with pytest.raises(UnknownNameError, match="serve"):
        read(tmp_path, graph, signatures=signatures, signature="train")


def test_any_batch_where_the_file_leaves_it_open(tmp_path):
    model = tflite.read(tflite.example(tmp_path))
    for batch in (1, 2, 7):
        x = np.random.default_rng(batch).normal(size=(batch, 3)).astype(np.float32)
        np.testing.assert_allclose(
            run_reference(model, {"x": x})["y"], tflite.answer({"x": x})["y"], rtol=1e-6
        )


def test_outputs_keep_names_that_weights_or_nodes_would_take(tmp_path):
    tensors = {"x": F, "y": np.ones((2, 3), np.float32), "a": F, "a/Tanh": F}
    steps = [
        OperatorSpec("ADD", ["x", "y"], ["a"], ("AddOptions", {})),
        OperatorSpec("TANH", ["a"], ["a/Tanh"]),
    ]
    graph = GraphSpec(tensors, steps, ["x"], ["a/Tanh", "a"])
    model = read(tmp_path, graph, signatures=[("s", {"x": "x"}, {"y": "a/Tanh", "a/Add": "a"})])
    x = np.zeros((2, 3), np.float32)
    found = run_reference(model, {"x": x})
    np.testing.assert_allclose(found["y"], np.tanh(x + 1), rtol=1e-6)
    np.testing.assert_allclose(found["a/Add"], x + 1)


def test_inputs_and_weights_may_be_outputs(tmp_path):
    graph = GraphSpec({"x": F, "w": np.ones(2, np.float32)}, [], ["x"], ["x", "w"])
    found = run_reference(read(tmp_path, graph), {"x": np.full((2, 3), 4, np.float32)})
    assert [array.reshape(-1)[0] for array in found.values()] == [4, 1]


def test_everything_that_is_missing_is_told_at_once(tmp_path):
    tensors = {name: F for name in ("x", "a", "b", "c", "d")}
    steps = [
        OperatorSpec("CUSTOM FlexSvd", ["x"], ["a"]),
        OperatorSpec("SKIP_GRAM", ["x"], ["b"]),
        OperatorSpec("SVDF", ["x", "x", "x", "", "x"], ["c"], ("SVDFOptions", {})),
        OperatorSpec("TANH", ["a"], ["d"]),
    ]
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(tmp_path, GraphSpec(tensors, steps, ["x"], ["b", "c", "d"]))
    told = str(caught.value)
    for word in (
        "model.tflite",
        "CUSTOM FlexSvd (a)",
        "SKIP_GRAM (b)",
        "keeps state",
        "SELECT_TF_OPS",
        "3 unsupported",
    ):
        assert word in told


@pytest.mark.parametrize(
    "graph, words",
    [
        (one("ADD", ["x", "x"], ("AddOptions", {"fused_activation_function": 5})), "SIGN_BIT"),
        (one("FULLY_CONNECTED", ["x", "w", ""], ("FullyConnectedOptions", {"weights_format": 1}),
             {"w": np.ones((3, 3), np.float32)}), "shuffled"),
        (one("RESHAPE", ["x", "t"], None, {"t": TensorSpec("string", (1,), np.zeros(8, np.uint8))}), "STRING"),
        (one("LSTM", ["x", *[""] * 19], ("LSTMOptions", {})), "keeps state"),
        (one("NON_MAX_SUPPRESSION_V5", ["x", "x", "k", "x", "x", "s"], ("NonMaxSuppressionV5Options", {}),
             {"k": np.array(3, np.int32), "s": np.array(0.5, np.float32)}, ("y", "z", "n")), "soft"),
        (one("HASHTABLE", [], ("HashtableOptions", {"table_id": 1})), "HASHTABLE"),
        (one("ASSIGN_VARIABLE", ["x", "x"], ("AssignVariableOptions", {}), outputs=()), "kept between calls"),
    ],
)  # fmt: skip
def test_what_would_change_meaning_is_refused(tmp_path, graph, words):
    with pytest.raises(UnsupportedOperatorError, match=words):
        read(tmp_path, graph)


@pytest.mark.parametrize(
    "graph, words",
    [
        (one("TANH", ["y"]), "nothing writes"),
        (one("GATHER", ["x", "i"], ("GatherOptions", {"axis": 1, "batch_dims": -(2**31)}),
             {"i": np.array([0, 1], np.int32)}), "batch axes"),
        (one("CALL", ["x"], ("CallOptions", {"subgraph": 0})), "without end"),
        (one("CALL", ["x"], ("CallOptions", {"subgraph": 9})), "no subgraph 9"),
        (one("CONV_2D", ["x", "x", ""], ("Conv2DOptions", {})), "CONV_2D"),
        (one("TRANSPOSE", ["x", "p"], None, {"p": np.int32([0, 7])}), "no order"),
        (one("STRIDED_SLICE", ["x", "p", "p", "p"], ("StridedSliceOptions", {}),
             {"p": np.int32([1, 1, 1])}), "entries"),
        (GraphSpec({"x": TensorSpec("int8", (2, 3), None, (0.0,), (0,)), "y": F},
                   [OperatorSpec("DEQUANTIZE", ["x"], ["y"])], ["x"], ["x", "y"]), "scale of zero"),
        (GraphSpec({"x": F, "y": TensorSpec("int8", (2, 3), None, (0.0,), (0,))},
                   [OperatorSpec("QUANTIZE", ["x"], ["y"])], ["x"], ["y"]), "scale of zero"),
        (GraphSpec({"x": F, "y": TensorSpec("int8", (2, 3), None, (np.inf,), (0,))},
                   [OperatorSpec("QUANTIZE", ["x"], ["y"])], ["x"], ["y"]), "no positive number"),
        (GraphSpec({"x": F, "y": TensorSpec("int8", (2, 3), None, (1.0,), (300,))},
                   [OperatorSpec("QUANTIZE", ["x"], ["y"])], ["x"], ["y"]), "zero point"),
        (GraphSpec({"x": F, "y": TensorSpec("int8", (2, 3), None, (1.0, 1.0), (0, 0), 1)},
                   [OperatorSpec("QUANTIZE", ["x"], ["y"])], ["x"], ["y"]), "axis 1"),
        (one("ADD", ["x", "w"], ("AddOptions", {}), {"w": NAN}), "NaN"),
        (one("ADD", ["x", "w"], ("AddOptions", {}), {"w": SHORT}), "81 elements"),
        (GraphSpec({"x": TensorSpec("complex64", (2,)), "y": F},
                   [OperatorSpec("REAL", ["x"], ["y"])], ["x"], ["y"]), "COMPLEX64"),
        (GraphSpec({"x": F, "y": F}, [], ["x"], ["y"]), "written by nothing"),
    ],
)  # fmt: skip
def test_broken_models_are_told_with_the_file_and_the_place(tmp_path, graph, words):
    with pytest.raises(BadModelError, match=words) as caught:
        read(tmp_path, graph)
    assert "NaN" in words or "model.tflite" in str(caught.value) or "tensor" in str(caught.value)


@pytest.mark.parametrize("stored, fine", [([[1, 0], [2, 0]], True), ([[1, 0], [2, 1]], False)])
def test_a_stored_channel_of_zeros_may_have_a_scale_of_zero(tmp_path, stored, fine):
    """As TensorFlow Lite's own quantiser gives it to channels without weights."""
    weights = TensorSpec("int8", (2, 2), np.int8(stored), (0.5, 0.0), (0, 0), 1)
    tensors = {"w": weights, "x": TensorSpec("float32", (2, 2)), "y": TensorSpec("float32", (2, 2))}
    dequantised = OperatorSpec("DEQUANTIZE", ["w"], ["v"])
    tensors["v"] = TensorSpec("float32", (2, 2))
    add = OperatorSpec("ADD", ["x", "v"], ["y"], ("AddOptions", {}))
    graph = GraphSpec(tensors, [dequantised, add], ["x"], ["y"])
    if not fine:
        with pytest.raises(BadModelError, match="zero, though weights there are not"):
            read(tmp_path, graph)
        return
    (y,) = run_reference(read(tmp_path, graph), {"x": np.zeros((2, 2), np.float32)}).values()
    np.testing.assert_array_equal(y, np.float32(stored) * 0.5)


def test_subgraphs_that_call_each_other_for_ever_or_too_often_end(tmp_path):
    def calls(index):
        tensors = {"x": F, "a": F, "y": F}
        options = ("CallOptions", {"subgraph": index})
        steps = [OperatorSpec("CALL", ["x"], ["a"], options), OperatorSpec("CALL", ["a"], ["y"], options)]
        return GraphSpec(tensors, steps, ["x"], ["y"])

    graphs = [calls(i + 1) for i in range(30)] + [GraphSpec({"x": F}, [], ["x"], ["x"])]
    with pytest.raises(BadModelError, match="without end"):
        read(tmp_path, *graphs)


def test_a_subgraph_may_stand_in_for_a_node_and_random_numbers_have_their_shape(tmp_path):
    sizes = np.int32([4, 5])
    call = OperatorSpec("CALL", ["x"], ["y"], ("CallOptions", {"subgraph": 1}))
    draw = OperatorSpec("RANDOM_UNIFORM", ["n"], ["r"], ("RandomOptions", {"seed": 1}))
    options = ("StableHLOCompositeOptions", {"name": "tanh", "decomposition_subgraph_index": 2})
    composite = OperatorSpec("STABLEHLO_COMPOSITE", ["y"], ["z"], options)
    tensors = {"x": F, "y": F, "z": F, "n": sizes, "r": TensorSpec("float32", (4, 5))}
    main = GraphSpec(tensors, [call, composite, draw], ["x"], ["z", "r"])
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    found = run_reference(read(tmp_path, main, one("RELU", ["x"]), one("TANH", ["x"])), {"x": x})
    np.testing.assert_allclose(found["z"], np.tanh(np.maximum(x, 0)), rtol=1e-6)
    assert found["r"].shape == (4, 5) and 0 <= found["r"].min() <= found["r"].max() < 1


def test_every_operator_has_a_case_or_a_test_of_its_own():
    elsewhere = {
        "CALL", "STABLEHLO_COMPOSITE", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE",
        "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "RFFT2D", "DENSIFY", "RNN", "SVDF",
    }  # fmt: skip
    untested = set(RULES) - {case.op for case in CASES} - elsewhere
    assert all(op.startswith("CUSTOM ") for op in untested), untested


def with_variables(first, operations, tensors, written=()):
    """A graph of `x` and `y` whose variables are set up by another one: `NAME` holds what is read of each."""
    resource = TensorSpec("resource", ())
    handles = [
        OperatorSpec("VAR_HANDLE", [], [f"h{n}"], ("VarHandleOptions", {"container": "", "shared_name": n}))
        for n in first
    ]

    def assigned(name, value):
        return OperatorSpec("ASSIGN_VARIABLE", [f"h{name}", value], [], ("AssignVariableOptions", {}))

    known = {f"h{name}": resource for name in first}
    once = OperatorSpec("CALL_ONCE", [], [], ("CallOnceOptions", {"init_subgraph_index": 1}))
    reads = [OperatorSpec("READ_VARIABLE", [f"h{n}"], [n], ("ReadVariableOptions", {})) for n in first]
    main = GraphSpec(
        {"x": F, "y": F, **known, **dict.fromkeys(first, F), **tensors},
        [once, *handles, *reads, *operations, *(assigned(*pair) for pair in written)],
        ["x"],
        ["y"],
    )
    setup = GraphSpec(
        {**known, **{f"c{name}": array for name, array in first.items()}},
        [*handles, *(assigned(name, f"c{name}") for name in first)],
        [],
        [],
    )
    return main, setup


def test_each_variable_is_a_constant_of_its_own(tmp_path):
    first = {name: np.full((2, 3), number, np.float32) for name, number in (("a", 3), ("b", 10))}
    operations = [
        OperatorSpec("MUL", ["x", "a"], ["p"], ("MulOptions", {})),
        OperatorSpec("ADD", ["p", "b"], ["y"], ("AddOptions", {})),
    ]
    model = read(tmp_path, *with_variables(first, operations, {"p": F}))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    np.testing.assert_array_equal(run_reference(model, {"x": x})["y"], 3 * x + 10)


def test_a_variable_that_lasts_is_an_input_and_an_output(tmp_path):
    """y = w + x, and w is y at the next call."""
    first = np.full((2, 3), 0.5, np.float32)
    operations = [OperatorSpec("ADD", ["x", "w"], ["y"], ("AddOptions", {}))]
    model = read(tmp_path, *with_variables({"w": first}, operations, {}, written=[("w", "y")]))
    assert [spec.name for spec in model.signature.outputs] == ["y", "w_next"]
    assert "beginning with 0.5 everywhere" in model.provenance.steps[0]
    state, x = first, np.ones((2, 3), np.float32)
    for turn in range(1, 4):
        found = run_reference(model, {"x": x, "w": state})
        state = found["w_next"]
        np.testing.assert_array_equal(found["y"], first + turn)


def test_limits_of_bytes_and_nodes_are_kept(tmp_path):
    with pytest.raises(BadModelError, match="limit"):
        read(tmp_path, one("TANH", ["x"]), limits=Limits(max_model_bytes=100))


def stored(dtype, data, shape, sparsity=None):
    return Tensor("0:w", "w", dtype, shape, np.frombuffer(bytes(data), np.uint8), None, False, sparsity)


def test_packed_and_short_types_are_unpacked():
    nibbles = array_of(stored("INT4", [0x21, 0x8F, 0x07], (5,)), 100)
    np.testing.assert_array_equal(nibbles, [1, 2, -1, -8, 7])
    short = array_of(stored("BFLOAT16", np.uint16([0x3F80, 0xC000]).tobytes(), (2,)), 100)
    np.testing.assert_array_equal(short, [1, -2])
    with pytest.raises(BadModelError, match="whole elements"):
        array_of(stored("FLOAT32", bytes(5), (1,)), 100)


def test_sparse_weights_are_filled_up():
    dense = np.array([[0, 5, 0], [0, 0, 0], [7, 0, 9]], np.float32)
    rows = Sparsity((0, 1), (), (3, (np.array([0, 1, 1, 3]), np.array([1, 0, 2]))))
    np.testing.assert_array_equal(densified(np.float32([5, 7, 9]), rows, (3, 3), 1000, "w"), dense)
    # Blocks of 1 x 2: a row of blocks, each block dense.
    blocks = Sparsity((0, 1, 2), (1,), (2, (np.array([0, 1, 2]), np.array([1, 0])), 2))
    found = densified(np.float32([1, 2, 3, 4]), blocks, (2, 4), 1000, "w")
    np.testing.assert_array_equal(found, [[0, 0, 1, 2], [3, 4, 0, 0]])


@pytest.mark.parametrize(
    "sparsity, shape",
    [
        (Sparsity((0, 1), (), (3, (np.array([0, 1, 1, 9]), np.array([1, 0, 2])))), (3, 3)),
        (Sparsity((0, 1), (), (3, (np.array([0, 1, 1, 3]), np.array([1, 0, 8])))), (3, 3)),
        (Sparsity((0, 0), (), (3, 3)), (3, 3)),
        (Sparsity((0, 1), (), (3,)), (3, 3)),
        (Sparsity((0, 1), (), (1 << 30, 1 << 30)), (1 << 30, 1 << 30)),
        (Sparsity((0, 1), (), (3, (np.array([0, 1, 1, 3]), np.array([1, 0, 2])))), (3, 1 << 24)),
    ],
)
def test_sparse_weights_that_contradict_themselves_are_refused(sparsity, shape):
    with pytest.raises(BadModelError, match="sparse tensor 'w'"):
        densified(np.float32([5, 7, 9]), sparsity, shape, 1 << 40, "w")


def detections(boxes, scores, anchors, regular):
    """The SSD head's last step, written out: at most three boxes, overlap 0.5, score 0.3 (by class or by best)."""
    centre = boxes[:, :2] / 10 * anchors[:, 2:] + anchors[:, :2]
    half = np.exp(boxes[:, 2:] / 5) * anchors[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], 1)

    def overlap(a, b):
        size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
        return size / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - size)

    def suppressed(values):
        kept = []
        for i in np.argsort(-values, kind="stable"):
            if (
                values[i] >= 0.3
                and len(kept) < 3
                and all(overlap(corners[i], corners[k]) <= 0.5 for k in kept)
            ):
                kept.append(i)
        return kept

    if regular:
        found = [(scores[i, c], i, c) for c in range(scores.shape[1]) for i in suppressed(scores[:, c])]
        return corners, sorted(found, key=lambda item: -item[0])[:3]
    return corners, [(scores[i].max(), i, scores[i].argmax()) for i in suppressed(scores.max(1))]


@pytest.mark.parametrize("regular", [False, True])
def test_detections_are_decoded_and_suppressed(tmp_path, regular):
    settings = {"max_detections": 3, "max_classes_per_detection": 1, "detections_per_class": 3, "num_classes": 2,
                "nms_score_threshold": 0.3, "nms_iou_threshold": 0.5, "y_scale": 10.0, "x_scale": 10.0,
                "h_scale": 5.0, "w_scale": 5.0, "use_regular_nms": regular}  # fmt: skip
    rng = np.random.default_rng(0)
    anchors = np.concatenate([rng.uniform(0, 1, (12, 2)), np.full((12, 2), 0.4)], 1).astype(np.float32)
    tensors = {
        "x": TensorSpec("float32", (1, 12, 4)), "s": TensorSpec("float32", (1, 12, 3)), "a": anchors,
        **{name: TensorSpec("float32", None) for name in ("box", "kind", "score", "count")},
    }  # fmt: skip
    names = ["box", "kind", "score", "count"]
    custom = bytes(flexbuffers.Dumps(settings))
    step = OperatorSpec("CUSTOM TFLite_Detection_PostProcess", ["x", "s", "a"], names, None, custom)
    model = read(tmp_path, GraphSpec(tensors, [step], ["x", "s"], names))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        codes = rng.normal(0, 1, (1, 12, 4)).astype(np.float32)
        scores = rng.uniform(0, 1, (1, 12, 3)).astype(np.float32)
        found = run_reference(model, {"x": codes, "s": scores})
        corners, expected = detections(codes[0], scores[0, :, 1:], anchors, regular)
        assert found["count"] == [len(expected)]
        assert found["box"].shape == (1, 3, 4)
        for place, (score, box, kind) in enumerate(expected):
            np.testing.assert_allclose(found["score"][0, place], score, rtol=1e-6)
            np.testing.assert_allclose(found["box"][0, place], corners[box], rtol=1e-4, atol=1e-6)
            assert found["kind"][0, place] == kind


def test_pooled_places_lead_back(tmp_path):
    pool = struct.pack("<6i", 2, 2, 2, 2, 2, 0)
    shapes = {"x": (1, 4, 6, 3), "m": (1, 2, 3, 3), "i": (1, 2, 3, 3), "y": (1, 4, 6, 3)}
    tensors = {name: TensorSpec("float32", shape) for name, shape in shapes.items()}
    steps = [
        OperatorSpec("CUSTOM MaxPoolingWithArgmax2D", ["x"], ["m", "i"], None, pool),
        OperatorSpec("CUSTOM MaxUnpooling2D", ["m", "i"], ["y"], None, pool),
    ]
    model = read(tmp_path, GraphSpec(tensors, steps, ["x"], ["m", "y"]))
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    found = run_reference(model, {"x": x})
    windows = x.reshape(1, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(found["m"], windows)
    np.testing.assert_array_equal(found["y"], np.where(x == windows.repeat(2, 1).repeat(2, 2), x, 0))
