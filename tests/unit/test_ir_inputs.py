"""Generated inputs, sizes that work, and the proof of a batch axis."""

import ir_models as m
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from raceline.core.errors import ShapeError, UnsupportedOperatorError
from raceline.ir import (
    Reference,
    Signature,
    TensorSpec,
    Values,
    check,
    make_inputs,
    prove_batch_axis,
    suggest_sizes,
    with_batch_axis,
)
from raceline.ir.inputs import _same_rows

DTYPES = (
    "float16 float32 float64 bfloat16 float8_e4m3fn int4 uint4 int8 uint8 int16 uint16 int32 uint32 int64 "
    "uint64 bool complex64 complex128 object"
).split()


def signature(**specs):
    return Signature(tuple(TensorSpec(name, *spec) for name, spec in specs.items()), ())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type_is_filled(dtype):
    made = make_inputs(signature(x=(dtype, ("n", 300))), {"x": (2, 300)}, seed=0)["x"]
    assert made.shape == (2, 300)
    assert made.dtype.name == dtype
    assert len({str(v) for v in made.reshape(-1).tolist()}) > 1


def test_the_same_seed_gives_the_same_and_inputs_do_not_hang_together():
    one = signature(a=("float32", (5,)))
    two = signature(b=("float32", (5,)), a=("float32", (5,)))
    first = make_inputs(one, {"a": (5,)}, seed=7)
    second = make_inputs(two, {"a": (5,), "b": (5,)}, seed=7)
    np.testing.assert_array_equal(first["a"], second["a"])
    assert not np.array_equal(second["a"], second["b"])
    assert not np.array_equal(first["a"], make_inputs(one, {"a": (5,)}, seed=8)["a"])


@given(low=st.integers(-1000, 1000), span=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_integers_stay_in_their_range_both_ends_included(low, span, seed):
    spec = signature(x=("int64", (400,), Values(low, low + span)))
    made = make_inputs(spec, {"x": (400,)}, seed=seed)["x"]
    assert made.min() >= low
    assert made.max() <= low + span
    assert span > 20 or set(made.tolist()) == set(range(low, low + span + 1)) or span > 8


def test_floats_stay_in_their_range_and_choices_are_kept():
    spec = signature(x=("float32", (500,), Values(-2, 3)), rate=("int64", (40,), Values(8, 16, (8, 16))))
    made = make_inputs(spec, {"x": (500,), "rate": (40,)}, seed=1)
    assert -2 <= made["x"].min() < -1.9
    assert 2.9 < made["x"].max() < 3
    assert set(made["rate"].tolist()) == {8, 16}


def test_a_mask_holds_zeros_and_ones():
    made = make_inputs(signature(attention_mask=("int64", (99,))), {"attention_mask": (99,)}, seed=0)
    assert set(made["attention_mask"].tolist()) == {0, 1}


@pytest.mark.parametrize("shape", [{}, {"x": (2,)}, {"x": (2, 0)}, {"x": (2, -1)}, {"x": (2, 4)}])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match="--shape x="):
        make_inputs(signature(x=("float32", ("n", 3))), shape, seed=0)


# Sizes ------------------------------------------------------------------------------------------------------


def convolution(height, width):
    """A picture model whose head only fits features of `height` by `width`, an eighth of the picture."""
    channels = 2 * height * width
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["f"], strides=[8, 8]),
        helper.make_node("Flatten", ["f"], ["v"]),
        helper.make_node("MatMul", ["v", "w"], ["y"]),
    ]
    weights = [m.tensor("k", np.ones((2, 3, 8, 8))), m.tensor("w", np.ones((channels, 5)))]
    return m.proto(nodes, [m.info("x", ["?", 3, "?", "?"])], [m.info("y", ["?", 5])], weights)


@pytest.mark.parametrize("size", [(224, 224), (320, 320), (48, 320)])
def test_the_picture_size_is_found(tmp_path, size):
    model = m.read(convolution(size[0] // 8, size[1] // 8), tmp_path)
    assert suggest_sizes(model) == [{"batch": 1, "height": size[0], "width": size[1]}]


def test_a_size_that_the_exporter_noted_comes_first(tmp_path):
    relu = helper.make_node("Relu", ["x"], ["y"])
    made = m.proto([relu], [m.info("x", [1, 3, "h", "w"])], [m.info("y", [1, 3, "h", "w"])])
    made.metadata_props.add(key="imgsz", value="[96, 160]")
    assert suggest_sizes(m.read(made, tmp_path)) == [{"h": 96, "w": 160}]
    made.metadata_props[0].value = "[-1, 10**9]"
    assert suggest_sizes(m.read(made, tmp_path)) == [{"h": 224, "w": 224}]


def test_more_sizes_vary_the_first(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    model = m.read(m.proto([node], [m.info("x", ["n", "s"])], [m.info("y", ["n", "s"])]), tmp_path)
    assert suggest_sizes(model, want=4) == [
        {"n": 1, "s": 128}, {"n": 2, "s": 128}, {"n": 3, "s": 128}, {"n": 1, "s": 256},
    ]  # fmt: skip


def test_given_shapes_are_kept_and_the_rest_is_found(tmp_path):
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    inputs = [m.info("a", ["n", "s"]), m.info("b", ["n", "t"])]
    model = m.read(m.proto([node], inputs, [m.info("y", ["n", "u"])]), tmp_path)
    assert suggest_sizes(model, {"a": (5, 7)}) == [{"n": 5, "s": 7, "t": 128}]


@pytest.mark.parametrize(
    "given_shapes", [{"a": (0, 7)}, {"a": (5,)}, {"a": (5, 7), "b": (4, 3)}, {"c": (1,)}]
)
def test_given_shapes_that_do_not_fit_are_refused(tmp_path, given_shapes):
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    inputs = [m.info("a", ["n", "s"]), m.info("b", ["n", "t"])]
    model = m.read(m.proto([node], inputs, [m.info("y", ["n", "u"])]), tmp_path)
    with pytest.raises(ShapeError):
        suggest_sizes(model, given_shapes)


def test_where_nothing_works_the_user_is_asked(tmp_path):
    model = m.read(convolution(19, 23), tmp_path)
    with pytest.raises(ShapeError, match="--shape x=N,3,N,N"):
        suggest_sizes(model)
    assert suggest_sizes(model, {"x": (1, 3, 152, 184)}) == [{"batch": 1, "height": 152, "width": 184}]


def test_another_runner_stands_in_where_the_reference_lacks_an_operator(tmp_path):
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    made = m.proto([node], [m.info("x", ["n", "s"])], [m.info("y", ["n", "s"])], domains=["com.microsoft"])
    model = m.read(made, tmp_path)
    with pytest.raises(UnsupportedOperatorError):
        suggest_sizes(model)
    assert suggest_sizes(model, run=lambda feeds: m.judged(made, feeds)) == [{"n": 1, "s": 128}]


REAL_SIZES = {
    "basic-pitch": {"unk__749": 1},
    "magika": {"unk__214": 1},
    "nudenet": {"batch": 1, "height": 320, "width": 320},
    "ocr-cls": {"batch": 1, "height": 224, "width": 224},
    "ocr-det": {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 224, "p2o.DynamicDimension.2": 224},
    "ocr-rec": {"p2o.DynamicDimension.0": 1, "height": 48, "p2o.DynamicDimension.1": 320},
}


@pytest.mark.parametrize("name", REAL_SIZES)
def test_sizes_of_real_models_are_found(name):
    assert suggest_sizes(m.read_real(name)) == [REAL_SIZES[name]]


def test_a_real_model_with_a_state_takes_given_shapes():
    model = m.read_real("silero-16k")
    assert suggest_sizes(model, {"input": (1, 576)}) == [{"batch": 1, "sequence": 576}]
    assert prove_batch_axis(model, {"batch": 1, "sequence": 576}) is None  # the state's axis 0 is no batch


# Batch ------------------------------------------------------------------------------------------------------


def proof(tmp_path, nodes, weights=(), *, inputs=None, outputs=None, sizes=None):
    made = m.proto(nodes, inputs or [m.info("x", ["n", 4])], outputs or [m.info("y", ["n", 4])], weights)
    return prove_batch_axis(m.read(made, tmp_path), sizes or {"n": 1})


def test_independent_rows_are_proven(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    axis = prove_batch_axis(model, {"batch": 1})
    assert axis == "batch"
    check(with_batch_axis(model, axis))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])],
        [helper.make_node("CumSum", ["x", "zero"], ["y"])],
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["t", "x"], ["p"]),
         helper.make_node("MatMul", ["x", "p"], ["y"])],
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[0])],
    ],
)  # fmt: skip
def test_rows_that_mix_are_not(tmp_path, nodes):
    assert proof(tmp_path, nodes, [m.tensor("zero", 0, np.int64)]) is None


def test_an_output_that_ignores_its_input_proves_nothing(tmp_path):
    node = helper.make_node("Mul", ["x", "zero"], ["y"])
    assert proof(tmp_path, [node], [m.tensor("zero", 0)]) is None


def test_a_batch_that_the_graph_fixes_is_not_open(tmp_path):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    weights = [m.tensor("shape", [1, 4], np.int64)]
    assert proof(tmp_path, [node], weights) is None


def test_an_axis_that_stands_elsewhere_too_is_no_batch(tmp_path):
    node = helper.make_node("MatMul", ["x", "s"], ["y"])
    inputs = [m.info("x", ["n", "n"]), m.info("s", ["n", 4])]
    assert proof(tmp_path, [node], inputs=inputs) is None


def test_several_inputs_are_stacked_together(tmp_path):
    node = helper.make_node("Add", ["a", "b"], ["y"])
    inputs = [m.info("a", ["?", 4]), m.info("b", ["?", 4])]
    assert proof(tmp_path, [node], inputs=inputs, outputs=[m.info("y", ["?", 4])], sizes={}) == "a_batch"


def test_the_proof_uses_the_runner_it_is_given(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    reference, batches = Reference(model), []

    def run_all(cases):
        batches.extend(len(feeds["x"]) for feeds in cases)
        return [reference.run(feeds) for feeds in cases]

    assert prove_batch_axis(model, {"batch": 1}, run_all=run_all) == "batch"
    assert batches == [1, 1, 2, 2]


def test_a_runner_that_mixes_rows_is_found_out(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    reference = Reference(model)

    def run_all(cases):
        return [{"y": reference.run(feeds)["y"] + len(feeds["x"])} for feeds in cases]

    assert prove_batch_axis(model, {"batch": 1}, run_all=run_all) is None


@pytest.mark.parametrize("wrong", ["small channel", "small row", "nothing finite", "another type"])
def test_rows_must_agree_in_their_small_parts_too(wrong):
    rng = np.random.default_rng(0)
    rows = [(rng.random((1, 2, 20)) * [[[300.0], [0.01]]]).astype(np.float32) for _ in range(2)]
    rows[1] *= np.float32(1e-3)
    together = np.concatenate(rows)
    assert _same_rows(rows, together * np.float32(1 + 1e-6))
    if wrong == "small channel":
        together[0, 1] *= 1.1
    elif wrong == "small row":
        together[1] += 0.01 * rows[1].max()
    elif wrong == "nothing finite":
        together[0] = rows[0][:] = np.nan
    else:
        together = together.astype(np.float64)
    assert not _same_rows(rows, together)


@pytest.mark.parametrize("name", ["magika", "ocr-cls"])
def test_real_models_are_proven(name):
    model = m.read_real(name)
    sizes = REAL_SIZES[name] | ({"height": 48, "width": 192} if name == "ocr-cls" else {})
    assert prove_batch_axis(model, sizes) == model.signature.inputs[0].shape[0]


def test_integers_as_inputs_work_to_the_end(tmp_path):
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = m.tensor("table", np.random.default_rng(0).standard_normal((5, 3)))
    inputs, outputs = [m.info("x", ["n", "s"], TensorProto.INT64)], [m.info("y", ["n", "s", 3])]
    model = m.read(m.proto([node], inputs, outputs, [table]), tmp_path)
    (sizes,) = suggest_sizes(model)
    assert prove_batch_axis(model, sizes) == "n"
