"""The reference run, held to ONNX Runtime and to PyTorch's recorded outputs, as others are held to it."""

import math
from pathlib import Path

import ir_models as m
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from raceline.core.errors import BadModelError, ShapeError, UnknownNameError, UnsupportedOperatorError
from raceline.ir import Model, Reference, Signature, make_inputs, run_reference
from raceline.ir.reference import available_memory_bytes
from raceline.ir.reference_kernels import erf


def unread(proto):
    """A Model without the reader's checks, for single operators at any opset."""
    return Model(onnx_ir.serde.deserialize_model(proto), Signature((), ()))


def one_node(operator, opset, inputs, num_outputs=1, **attributes):
    """A ModelProto of one node, and its feeds; a None among the inputs is left out."""
    names = ["" if x is None else f"i{k}" for k, x in enumerate(inputs)]
    outputs = [f"o{k}" for k in range(num_outputs)]
    feeds = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if name}
    values = [m.info(n, x.shape, helper.np_dtype_to_tensor_dtype(x.dtype)) for n, x in feeds.items()]
    node = helper.make_node(operator, names, outputs, **attributes)
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    return m.proto([node], values, ends, opset=opset), feeds


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def bytes_(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 255, shape).astype(np.uint8)


def recurrent(gates, directions, *rest):
    """Inputs of a recurrent layer: 4 steps, 3 items, 6 wide, 5 hidden."""
    size = gates * 5
    weights = [floats(directions, size, width) for width in (6, 5)]
    return [floats(4, 3, 6), *weights, floats(directions, 2 * size), *rest]


PICTURE = floats(2, 4, 7, 8)
MOMENTS = [floats(4), floats(4), floats(4), abs(floats(4))]
STATE = floats(1, 3, 5)
LENGTHS = np.array([4, 2, 3], np.int32)
# Operators that Raceline computes itself, at the opsets where the onnx package's evaluator fails or differs.
OPERATORS = [
    *(
        (name, opset, [floats(2, 3, 4, 5)], 1, {} if axis is None else {"axis": axis})
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (7, 11, 13)
        for axis in (None, 1, 2)
    ),
    ("BatchNormalization", 9, [PICTURE, *MOMENTS], 1, {"momentum": 0.5}),
    ("BatchNormalization", 15, [PICTURE, *MOMENTS], 1, {"epsilon": 0.1}),
    *(
        ("Conv", 11, [PICTURE, floats(8, 4 // g, 3, 3), floats(8)], 1,
         {"group": g, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]})
        for g in (1, 2, 4)
    ),
    *(
        ("ConvTranspose", 11, [PICTURE, floats(4, 6, 3, 3), floats(6 * g)], 1,
         {"group": g, "strides": [2, 3], "pads": [1, 0, 1, 1], "output_padding": [1, 1]})
        for g in (1, 2, 4)
    ),
    *(
        case
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for case in (
            ("Conv", 11, [PICTURE, floats(3, 4, 3, 2)], 1, {"auto_pad": pad, "strides": [2, 3]}),
            ("ConvTranspose", 11, [PICTURE, floats(4, 3, 3, 2)], 1, {"auto_pad": pad, "strides": [2, 1]}),
            ("MaxPool", 12, [PICTURE], 1, {"auto_pad": pad, "strides": [2, 2], "kernel_shape": [3, 3]}),
        )
    ),
    ("Conv", 11, [floats(1, 2, 9), floats(3, 2, 3)], 1, {}),
    ("Conv", 11, [floats(1, 2, 5, 5, 5), floats(3, 2, 2, 3, 2)], 1, {}),
    ("ConvTranspose", 11, [floats(1, 2, 5), floats(2, 3, 4)], 1, {"dilations": [2]}),
    ("ConvTranspose", 11, [PICTURE, floats(4, 3, 3, 3)], 1, {"output_shape": [14, 16], "strides": [2, 2]}),
    ("MaxPool", 8, [PICTURE], 1, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", 12, [PICTURE], 1, {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    ("MaxPool", 12, [PICTURE], 2, {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    ("MaxPool", 12, [bytes_(1, 2, 6, 6)], 1, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    *(
        (name, 11, [floats(*shape)], 1, {})
        for name in ("GlobalMaxPool", "GlobalLpPool")
        for shape in ((2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 3))
    ),
    *(
        (name, opset, recurrent(gates, 2 if way == "bidirectional" else 1, *rest), outputs,
         {"hidden_size": 5, "direction": way, **options})
        for opset in (7, 14)
        for way in ("forward", "reverse", "bidirectional")
        for name, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
        for rest, options in (([], {}), ([LENGTHS], {}), ([], {"clip": 0.4}))
    ),
    ("LSTM", 14, recurrent(4, 1, None, STATE, STATE, floats(1, 15)), 3, {"hidden_size": 5}),
    ("GRU", 14, recurrent(3, 1, LENGTHS), 2, {"hidden_size": 5, "linear_before_reset": 1}),
    ("RNN", 14, recurrent(1, 1), 2, {"hidden_size": 5, "activations": ["Relu"]}),
    *(
        (name, 14, recurrent(gates, d), 1,
         {"hidden_size": 5, "direction": "bidirectional" if d == 2 else "forward",
          "activations": names[:count] * d, "activation_alpha": alphas[:count] * d, "activation_beta": betas * d})
        for names, alphas, betas in (
            (["HardSigmoid", "LeakyRelu", "Elu"], [0.3, 0.2, 0.7], [0.4]),
            (["Affine", "ThresholdedRelu", "Softsign"], [0.1, 0.2], [0.3]),
        )
        for name, gates, count in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 1))
        for d in (1, 2)
    ),
    ("LSTM", 14, recurrent(4, 1), 1,
     {"hidden_size": 5, "activations": ["Sigmoid", "ScaledTanh", "Softplus"], "activation_alpha": [1.5],
      "activation_beta": [0.6]}),
    ("LSTM", 14, recurrent(4, 1), 1, {"hidden_size": 5, "activations": ["HardSigmoid", "Elu", "LeakyRelu"]}),
    ("ConvTranspose", 11, [floats(1, 1, 4), floats(1, 1, 2)], 1,
     {"output_shape": [9], "strides": [2], "auto_pad": "SAME_UPPER"}),
    ("LRN", 13, [floats(1, 6, 3, 3)], 1, {"size": 3, "alpha": 0.01, "beta": 0.6, "bias": 1.5}),
    ("LpNormalization", 7, [floats(2, 3)], 1, {"axis": 1, "p": 1}),
    ("DequantizeLinear", 10, [bytes_(3, 4), np.float32(0.02), np.uint8(128)], 1, {}),
    ("DequantizeLinear", 13, [bytes_(3, 4), floats(3), bytes_(3)], 1, {"axis": 0}),
    ("QuantizeLinear", 13, [floats(3, 4), abs(floats(4)), bytes_(4)], 1, {"axis": 1}),
    ("Pad", 2, [PICTURE], 1, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "value": 1.5}),
    ("Pad", 11, [PICTURE, ints(0, 0, -1, 2, 0, 0, 2, -1)], 1, {}),
    ("Pad", 18, [PICTURE, ints(1, -2), None, ints(-1)], 1, {}),
    ("Upsample", 7, [PICTURE], 1, {"scales": [1.0, 1.0, 2.0, 2.0]}),
    ("Upsample", 9, [PICTURE, np.array([1, 1, 2, 3], np.float32)], 1, {"mode": "linear"}),
    ("Resize", 10, [PICTURE, np.array([1, 1, 0.5, 0.75], np.float32)], 1, {"mode": "nearest"}),
    ("Resize", 10, [PICTURE, np.array([1, 1, 2, 1.5], np.float32)], 1, {"mode": "linear"}),
    ("Resize", 13, [PICTURE, None, np.array([1, 1, 2, 2], np.float32)], 1, {"mode": "cubic"}),
    ("Scatter", 9, [floats(3, 3), np.array([[1, 0, 2], [0, 2, 1]]), floats(2, 3)], 1, {}),
    ("Mean", 13, [floats(3, 1), floats(1, 4)], 1, {}),
    ("RoiAlign", 10, [PICTURE[:1], np.array([[0, 0, 4, 4], [1, 2, 6, 7]], np.float32), ints(0, 0)], 1,
     {"output_height": 3, "output_width": 3, "sampling_ratio": 2}),
    *(
        ("GridSample", 16, [PICTURE, np.clip(floats(2, 3, 4, 2), -1, 1)], 1, {"mode": mode})
        for mode in ("bilinear", "nearest", "bicubic")
    ),
    ("Gemm", 7, [floats(3, 4), floats(5, 4), floats(5)], 1, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", 11, [floats(4, 3), floats(4, 5)], 1, {"transA": 1}),
    ("MatMul", 9, [floats(2, 1, 3, 4), floats(5, 4, 6)], 1, {}),
    ("MatMul", 9, [floats(4), floats(4, 3)], 1, {}),
    ("NonMaxSuppression", 10,
     [abs(floats(1, 6, 4)).cumsum(-1), abs(floats(1, 2, 6)), np.int64(3), np.float32(0.5)], 1, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "opset", "inputs", "num_outputs", "attributes"),
    OPERATORS,
    ids=[f"{o[0]}-{o[1]}-{i}" for i, o in enumerate(OPERATORS)],
)
def test_operators_compute_what_onnx_runtime_does(operator, opset, inputs, num_outputs, attributes):
    proto, feeds = one_node(operator, opset, inputs, num_outputs, **attributes)
    expected = m.judged(proto, feeds)
    got = Reference(unread(proto)).run(feeds)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


RECORDED = [
    c for kind in ("simple", "pytorch-converted", "pytorch-operator") for c in load_model_tests(kind=kind)
]


def read_proto(kind, path):
    return numpy_helper.to_array(kind.FromString(path.read_bytes()))


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: c.name)
def test_recorded_outputs_are_met(case):
    """The outputs were written by PyTorch and the standard's authors; the onnx package carries them."""
    folder = Path(case.model_dir)
    proto = onnx.load(folder / "model.onnx")
    if any(node.domain == "ai.onnx.preview.training" for node in proto.graph.node):
        with pytest.raises(UnsupportedOperatorError):
            Reference(unread(proto))
        return
    if any(not i.type.HasField("tensor_type") for i in proto.graph.input):
        return  # sequences cannot enter a Model
    reference = Reference(unread(proto))
    for data in sorted(folder.glob("test_data_set_*")):
        paths = [(value.name, data / f"input_{k}.pb") for k, value in enumerate(proto.graph.input)]
        feeds = {name: read_proto(TensorProto, path) for name, path in paths if path.exists()}
        got = reference.run(feeds)
        for k, value in enumerate(proto.graph.output):
            expected = read_proto(TensorProto, data / f"output_{k}.pb")
            assert got[value.name].dtype == expected.dtype
            if expected.dtype.kind in "OSU":
                assert got[value.name].tolist() == expected.tolist()
            else:
                np.testing.assert_allclose(
                    got[value.name], expected, rtol=case.rtol, atol=max(case.atol, 1e-6)
                )


@pytest.mark.parametrize("name", ["magika", "silero-16k", "ocr-cls", "silero"])
def test_real_models_compute_what_onnx_runtime_does(name):
    sizes = {"unk__214": 2, "batch": 1, "height": 48, "width": 192, "sequence": 576, "input_batch": 1,
             "input_axis1": 576, "state_axis1": 1}  # fmt: skip
    model = m.read_real(name)
    feeds = make_inputs(model.signature, model.signature.concrete(sizes), seed=3)
    expected = m.judged(m.real_path(name), feeds)
    for output, array in run_reference(model, feeds).items():
        np.testing.assert_allclose(
            array, expected[output], rtol=1e-4, atol=1e-5 * abs(expected[output]).max()
        )


def test_the_error_function_is_that_of_c():
    points = np.concatenate([np.linspace(-7, 7, 20_001), [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30]])
    expected = np.array([math.erf(p) for p in points])
    np.testing.assert_array_equal(erf(points), expected)
    single = points.astype(np.float32)
    expected = np.array([math.erf(p) for p in single.tolist()], np.float32)
    np.testing.assert_allclose(erf(single), expected, rtol=1e-6, atol=0)


def test_half_precision_is_summed_in_single():
    ones = np.full((1, 4096), 1, np.float16)
    small = np.full((4096, 1), 2**-10, np.float16)
    proto, feeds = one_node("MatMul", 17, [ones, small])
    assert Reference(unread(proto)).run(feeds)["o0"] == np.float16(4)


# Intermediates ----------------------------------------------------------------------------------------------


def test_any_value_can_be_kept_or_asked_for(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    feeds = {"x": floats(2, 4)}
    both = run_reference(model, feeds, keep=["h", "s"])
    assert list(both) == ["y", "h", "s"]
    np.testing.assert_array_equal(both["y"], np.maximum(both["s"], 0))
    assert list(run_reference(model, feeds, outputs=["h"])) == ["h"]


def test_what_a_fused_operator_writes_keeps_its_name(tmp_path):
    got = run_reference(m.read(m.fused(), tmp_path), {"x": floats(2, 4)}, keep=["x"])
    assert list(got) == ["y", "x"]


def test_steps_come_in_order_and_are_let_go(tmp_path):
    reference = Reference(m.read(m.perceptron(), tmp_path))
    assert [name for name, _ in reference.steps({"x": floats(2, 4)})] == ["x", "h", "s", "y"]


def test_an_unknown_value_is_told(tmp_path):
    with pytest.raises(UnknownNameError, match="ghost"):
        run_reference(m.read(m.perceptron(), tmp_path), {"x": floats(2, 4)}, keep=["ghost"])


# Refusals ---------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_before_anything_runs(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    for wrong in ({}, {"x": floats(2, 5)}, {"x": np.ones((2, 4))}, {"x": floats(2, 4), "z": floats(1)}):
        with pytest.raises(ShapeError):
            run_reference(model, wrong)


def test_operators_without_a_definition_are_all_listed(tmp_path):
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["a"], domain="com.microsoft", name="one"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("FastGelu", ["b"], ["c"], domain="com.microsoft", name="two"),
        helper.make_node("QuickGelu", ["c"], ["y"], domain="com.microsoft", name="three"),
    ]
    model = m.proto(nodes, [m.info("x", [2])], [m.info("y", [2])], domains=["com.microsoft"])
    with pytest.raises(UnsupportedOperatorError) as caught:
        run_reference(m.read(model, tmp_path), {"x": floats(2)})
    assert caught.value.uses == {
        "com.microsoft.QuickGelu": ["one", "three"],
        "com.microsoft.FastGelu": ["two"],
    }


def test_a_node_that_fails_is_named_with_its_shapes(tmp_path):
    node = helper.make_node("Reshape", ["x", "s"], ["y"], name="fold")
    model = m.proto(
        [node], [m.info("x", ["n"]), m.info("s", [2], TensorProto.INT64)], [m.info("y", ["a", "b"])]
    )
    with pytest.raises(BadModelError, match=r"node 'fold' \(Reshape\).*x\[6\], s\[2\]"):
        run_reference(m.read(model, tmp_path), {"x": floats(6), "s": ints(4, 4)})


def test_a_node_that_would_fill_the_memory_is_refused_before_it_runs(tmp_path):
    node = helper.make_node("ConstantOfShape", ["s"], ["y"], name="bomb")
    model = m.proto([node], [m.info("s", [2], TensorProto.INT64)], [m.info("y", ["a", "b"])])
    with pytest.raises(BadModelError, match="'bomb'.*are free"):
        run_reference(m.read(model, tmp_path), {"s": ints(10**6, available_memory_bytes() // 10**6)})


@pytest.mark.parametrize(
    ("activation", "told"), [("Swish", "Swish is not one of the standard's"), ("ScaledTanh", "give both")]
)
def test_an_activation_that_cannot_be_known_is_told(activation, told):
    proto, feeds = one_node("LSTM", 15, recurrent(4, 1), 1, hidden_size=5, activations=[activation] * 3)
    with pytest.raises(BadModelError, match=told):
        Reference(unread(proto)).run(feeds)
