"""Quantisation: data is checked, ranges are what they say, graphs mean what they should, budgets are kept."""

from dataclasses import replace

import numpy as np
import pytest

from raceline.convert import optimise, quantise
from raceline.convert.example import model_from_text
from raceline.convert.quantise.calibrate import observe
from raceline.convert.quantise.insert import rounded
from raceline.core.errors import BadModelError, ConfigError, ShapeError
from raceline.ir import run_reference, this_machine

RANDOM = np.random.default_rng(5)


def classifier():
    """Two convolutions with a residual sum, pooled, and a linear layer."""
    return batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 8, 8] x, float[8, 3, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8, 5] w3)
            => (float[N, 5] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(c)
            d = Conv<pads = [1, 1, 1, 1]>(r, w2)
            s = Add(d, r)
            t = Relu(s)
            p = GlobalAveragePool(t)
            f = Flatten(p)
            y = MatMul(f, w3)
        }""",
            w1=(8, 3, 3, 3),
            b1=(8,),
            w2=(8, 8, 3, 3),
            w3=(8, 5),
        )
    )


def batched(model):
    return replace(model, signature=replace(model.signature, batch_axis="N"))


def data(items=24, seed=0):
    return np.random.default_rng(seed).standard_normal((items, 3, 8, 8)).astype(np.float32)


def samples(model, items=24):
    return quantise.from_arrays(model.signature, {"x": data(items)}, batch=4)


def quantised(model, scheme):
    planned = quantise.plan(model, scheme)
    return quantise.quantise(planned, observe(planned.model, samples(model), planned.values), scheme)


def ops(model):
    return [node.op_type for node in model.program.graph]


# ---------------------------------------------------------------- data


def test_arrays_become_batches():
    model = classifier()
    found = samples(model, 10)
    assert [len(batch["x"]) for batch in found] == [4, 4, 2] and found.items == 10


@pytest.mark.parametrize(
    ("arrays", "kind", "told"),
    [
        ({"x": np.zeros((4, 3, 8, 9), np.float32)}, ShapeError, "shape"),
        ({"x": np.zeros((4, 3, 8, 8), np.float64)}, ShapeError, "float32"),
        ({"z": np.zeros((4, 3, 8, 8), np.float32)}, ShapeError, "unknown 'z'"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, BadModelError, "empty"),
        ({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, BadModelError, "NaN"),
        ({"x": np.zeros((2, 3, 8, 8), np.float32), "z": np.zeros((3, 1))}, ShapeError, "numbers of items"),
    ],
)
def test_data_that_does_not_fit_is_told(arrays, kind, told):
    with pytest.raises(kind, match=told):
        quantise.from_arrays(classifier().signature, arrays)


def test_files_are_read(tmp_path):
    signature = classifier().signature
    np.savez(tmp_path / "named.npz", x=data(6))
    np.save(tmp_path / "alone.npy", data(6))
    for name in ("named.npz", "alone.npy"):
        found = quantise.from_file(signature, tmp_path / name, limit=5)
        assert found.items == 5 and found.origin == name


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY"])
def test_damaged_files_are_told(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no calibration data"):
        quantise.from_file(classifier().signature, path)


def test_pickles_are_never_opened(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ConfigError, match="no calibration data"):
        quantise.from_file(classifier().signature, path)


# ---------------------------------------------------------------- ranges


def seen(values):
    found = quantise.Observed()
    found.reach(values)
    found.count(values, 2048)
    return found


def test_minmax_covers_all_and_zero():
    found = seen(np.array([0.5, 2.0, 3.0]))
    assert found.range("minmax", symmetric=False) == (0.0, 3.0)
    assert found.range("minmax", symmetric=True) == (-3.0, 3.0)


def test_percentile_leaves_outliers_out():
    values = np.concatenate([RANDOM.standard_normal(100_000), [1000.0]])
    low, high = seen(values).range("percentile", symmetric=False)
    assert -6 < low < -3 and 3 < high < 10


@pytest.mark.parametrize("outliers", [0, 3])
def test_mse_has_the_least_error(outliers):
    values = np.concatenate([RANDOM.standard_normal(20_000), np.full(outliers, 60.0)])
    found = seen(values)

    def error(low, high):
        step = (high - low) / 255
        return float(((np.clip(np.rint(values / step) * step, low, high) - values) ** 2).sum())

    errors = {m: error(*found.range(m, symmetric=False)) for m in quantise.METHODS}
    assert errors["mse"] <= 1.01 * min(errors.values())


def test_a_constant_has_a_range():
    low, high = seen(np.zeros(10)).range("mse", symmetric=False)
    assert low <= 0 < high


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("bits", [4, 7, 8])
def test_weights_are_rounded_to_the_nearest(axis, bits):
    weight = RANDOM.standard_normal((3, 4, 5)).astype(np.float32)
    small, scale = rounded(weight, axis, bits)
    shape = [1, 1, 1]
    if axis is not None:
        shape[axis] = -1
    assert np.abs(small).max() == 2 ** (bits - 1) - 1
    assert np.all(np.abs(small * scale.reshape(shape) - weight) <= 0.5001 * scale.reshape(shape))


def test_channels_of_zeros_have_a_scale():
    small, scale = rounded(np.zeros((2, 3), np.float32), 0, 8)
    assert not small.any() and (scale > 0).all()


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_a_quantised_net_is_near_the_original(results, activations):
    model = classifier()
    made = quantised(model, quantise.Scheme(activations=activations, results=results))
    inputs = {"x": data(8, seed=9)}
    expected, found = run_reference(model, inputs)["y"], run_reference(made, inputs)["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(found - expected).max() > 0
    assert made.signature.inputs == model.signature.inputs


def test_every_layer_reads_whole_numbers():
    made = quantised(classifier(), quantise.Scheme(results=True))
    for node in made.program.graph:
        if node.op_type in {"Conv", "MatMul"}:
            assert [value.producer().op_type for value in node.inputs] == ["DequantizeLinear"] * len(
                node.inputs
            )


def test_what_was_fused_is_quantised_too():
    fused, _ = optimise(classifier())
    assert {node.domain for node in fused.program.graph} == {"", "raceline"}
    made = quantised(fused, quantise.Scheme())
    assert ops(made).count("Conv") == 2 and "quantised 3 layers" in made.provenance.steps[-1]


def test_weights_take_a_quarter():
    made = quantised(classifier(), quantise.Scheme())
    weights = made.program.graph.initializers
    assert {str(w.dtype) for name, w in weights.items() if name.endswith("w2_quantised")} == {"INT8"}
    assert "w2" not in weights


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }", "no convolution"),
        ("(float[N,3] x, float[3,3] v) => (float[N,3] y) { y = Gemm<alpha = 2.0>(x, v) }", "scales"),
        ("(double[N,3] x, double[3,3] v) => (double[N,3] y) { y = MatMul(x, v) }", "not float32"),
    ],
)
def test_models_without_anything_to_quantise_are_told(body, reason):
    weights = {"v": np.ones((3, 3), np.float64 if "double" in body else np.float32)} if "v)" in body else {}
    model = model_from_text(f'<ir_version: 8, opset_import: ["": 17]> net {body}', **weights)
    with pytest.raises(BadModelError, match=reason):
        quantise.plan(model, quantise.Scheme())


def test_nan_inside_is_told():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3] x, float[3, 3] v) => (float[N, 3] y) { l = Log(x) y = MatMul(l, v) }""",
        v=(3, 3),
    )
    model = batched(model)
    planned = quantise.plan(model, quantise.Scheme())
    bad = quantise.from_arrays(model.signature, {"x": -np.ones((2, 3), np.float32)})
    with pytest.raises(BadModelError, match="'l' on the calibration data"):
        observe(planned.model, bad, planned.values)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_budget_is_kept(engine):
    model = classifier()
    found = quantise.within_budget(
        model,
        samples(model),
        quantise.scheme_for(engine, this_machine()),
        quantise.Budget(drop=0.05),
        engine=engine,
    )
    assert found.met and found.layers == 3 and not found.kept and 0.95 <= found.score.quantised < 1


def test_the_sensitive_layer_is_kept():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 16] x, float[16, 16] w1, float[16, 16] w2) => (float[N, 16] y) {
            a = MatMul(x, w1)
            y = MatMul(a, w2)
        }""",
        w1=(16, 16),
        w2=(16, 16),
    )
    model = batched(model)
    weight = model.program.graph.initializers["w2"]
    array = weight.const_value.numpy().copy()
    array[:, ::2] *= 1e-3  # with one scale for all, half of the columns round to zero
    array[:, 1::2] *= 1e-6
    array[0, 0] = 50.0
    import onnx_ir as ir

    weight.const_value = ir.tensor(array, name="w2")
    x = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    x[:, 0] = 0
    found = quantise.within_budget(
        model,
        quantise.from_arrays(model.signature, {"x": x}, batch=4),
        quantise.Scheme(per_channel=False, results=False),
        quantise.Budget(drop=0.02),
        engine="onnxruntime",
    )
    worst = max(found.sensitivity, key=found.sensitivity.get)
    assert found.met and found.kept == (worst,) and found.layers == 1


def test_a_budget_that_cannot_be_met_is_told():
    model = classifier()
    found = quantise.within_budget(
        model, samples(model), quantise.Scheme(), quantise.Budget(drop=0.0), engine="onnxruntime"
    )
    assert not found.met and found.score.drop > 0 and found.layers > 0


def test_classes_are_counted():
    model = classifier()
    x, few = data(24), samples(model)
    labels = run_reference(model, {"x": x})["y"].argmax(1)
    labels[:6] = (labels[:6] + 1) % 5
    budget = quantise.Budget("top1", drop=0.1)
    judge = quantise.Judge(model, few, budget, labels=labels)
    assert judge.full == 0.75
    with pytest.raises(ConfigError, match="3 labels for 24"):
        quantise.Judge(model, few, budget, labels=labels[:3])


def test_one_batch_is_not_enough():
    model = classifier()
    few = quantise.from_arrays(model.signature, {"x": data(3)})
    with pytest.raises(ConfigError, match="one batch"):
        quantise.within_budget(model, few, quantise.Scheme(), quantise.Budget(), engine="onnxruntime")
