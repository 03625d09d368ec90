"""Quantisation: data is checked, ranges are what they say, graphs mean what they should, budgets are kept."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import pytest
from engine_doubles import add_engines
from quantise_cases import batched, classifier, data, judge_of, labelled

from raceline import engines
from raceline.convert import optimise, quantise
from raceline.convert.example import model_from_text
from raceline.convert.quantise.calibrate import observe
from raceline.convert.quantise.insert import rounded
from raceline.core.clock import ManualClock
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, ShapeError
from raceline.engines import Options
from raceline.ir import check, run_reference, this_machine

RANDOM = np.random.default_rng(5)


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
    full = list(found.full_batches(4))
    assert [len(batch["x"]) for batch in full] == [4, 4, 4] and np.array_equal(full[2]["x"][3], data(10)[9])
    assert [len(half["x"]) for half in (part.arrays for part in found.split())] == [5, 5]
    assert found.thinned(3).items == 3 and found.shapes == {"x": (1, 3, 8, 8)}


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


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_survives_weights_next_to_nothing(engine, per_channel):
    """As a float too it would be rounded to the products' scale, and clipped there."""
    model = classifier()
    held = model.program.graph.initializers
    weight, bias = (np.array(held[name].const_value.numpy()) for name in ("w1", "b1"))
    weight[3 if per_channel else ...] *= 1e-9
    bias[3] = 2.0
    for name, array in (("w1", weight), ("b1", bias)):
        held[name].const_value = onnx_ir.tensor(array)
    made = quantised(model, replace(quantise.scheme_for(engine, this_machine()), per_channel=per_channel))
    x = data(4)
    found = engines.load(engine).load(made, engines.Options(precision="int8")).run({"x": x})["y"]
    expected = run_reference(model, {"x": x})["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


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


def test_openvino_gets_pairs_that_are_neighbours_where_the_layer_reads():
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 8, 8, 3] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) {
            s = Sigmoid(x)
            t = Transpose<perm = [0, 3, 1, 2]>(s)
            y = Conv(t, w)
        }"""
    model = batched(model_from_text(text, w=(4, 3, 3, 3)))
    rows = {"x": np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype(np.float32)}
    some = quantise.from_arrays(model.signature, rows, batch=4)

    def made(scheme):
        planned = quantise.plan(model, scheme)
        return quantise.quantise(planned, observe(planned.model, some, planned.values), scheme)

    assert ops(made(quantise.Scheme(results=True))).index("QuantizeLinear") < 2  # then moves 8-bit elements
    here = [
        op
        for op in ops(made(quantise.Scheme(results=False)))
        if "Linear" in op or op in {"Transpose", "Conv"}
    ]
    assert here[:3] == ["Transpose", "QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize(("products", "computed"), [("all", 4), ("scores", 2), ("none", 0)])
def test_openvino_gets_scores_around_zero(products, computed):
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 8, 16] x, float[16, 16] wq, float[16, 16] wk) => (float[N, 8, 16] y) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            t = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, t)
            p = Softmax<axis = -1>(s)
            y = MatMul(p, x)
        }"""
    model = batched(model_from_text(text, wq=(16, 16), wk=(16, 16)))
    rows = {"x": np.random.default_rng(0).standard_normal((8, 8, 16)).astype(np.float32)}
    some = quantise.from_arrays(model.signature, rows, batch=4)
    scheme = quantise.Scheme(results=False, products=products)
    planned = quantise.plan(model, scheme)
    made = quantise.quantise(planned, observe(planned.model, some, planned.values), scheme)
    layers = [node for node in made.program.graph if node.op_type == "MatMul"]
    read = [[value.producer() for value in node.inputs] for node in layers[2:]]  # scores, and what they weigh
    whole = [n for pair in read for n in pair if n is not None and n.op_type == "DequantizeLinear"]
    assert len(whole) == computed + (products != "all")  # x is in bytes for the layers before
    if products == "scores":
        assert all(node.inputs[0].dtype.numpy() == np.int8 for node in read[0])
        assert all(node.inputs[2].const_value.numpy() == 0 for node in read[0])
    expected, found = run_reference(model, rows)["y"], run_reference(made, rows)["y"]
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("shapes", [{}, {"x": (2, 8, 16)}])
def test_onnxruntime_multiplies_bytes_whether_shapes_are_fixed_or_not(shapes, tmp_path, monkeypatch):
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 8, 16] x, float[16, 16] w, float[16] b) => (float[N, 8, 16] y) {
            m = MatMul(x, w)
            y = Add(m, b)
        }"""
    model = batched(model_from_text(text, w=(16, 16), b=(16,)))
    rows = {"x": np.random.default_rng(0).standard_normal((8, 8, 16)).astype(np.float32)}
    some = quantise.from_arrays(model.signature, rows, batch=4)
    scheme = quantise.scheme_for("onnxruntime", this_machine())
    planned = quantise.plan(model, scheme)
    made = quantise.quantise(planned, observe(planned.model, some, planned.values), scheme)
    engine, path = engines.load("onnxruntime"), tmp_path / "as_it_runs.onnx"
    usual = engine._settings

    def written(options):
        settings = usual(options)
        settings.optimized_model_filepath = str(path)
        return settings

    monkeypatch.setattr(engine, "_settings", written)
    engine.load(made, Options(shapes=shapes)).close()
    runs = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert "MatMulIntegerToFloat" in runs and not runs & {"Gemm", "MatMul"}


@pytest.mark.parametrize(
    "last", ["y = Conv(x, w)", "c = Conv(x, w)\n y = Add(c, c)", "c = Conv(x, w)\n y = Relu(c)"]
)
def test_outputs_that_nothing_reads_stay_as_they_are(last):
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) {{ {last} }}"""
    model = batched(model_from_text(text, w=(4, 3, 3, 3)))
    made = quantised(model, quantise.Scheme(results=True))
    check(made)
    assert apart_from(made, model, {"x": data(8, seed=9)}) < 0.1


@pytest.mark.parametrize("keep", [(), ("Conv_0",), ("Conv_2",), ("MatMul_7",), ("Conv_0", "MatMul_7")])
def test_graphs_are_sound_whatever_is_kept(keep):
    model, scheme = classifier(), quantise.Scheme(results=True)
    planned = quantise.plan(model, scheme)
    observed = observe(planned.model, samples(model), planned.values)
    made = quantise.quantise(planned, observed, scheme, keep=keep)
    check(made)
    inputs = {"x": data(8, seed=9)}
    assert apart_from(made, model, inputs) < 0.05


def apart_from(made, model, inputs):
    expected, found = run_reference(model, inputs)["y"], run_reference(made, inputs)["y"]
    return np.abs(found - expected).max() / np.abs(expected).max()


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
    judge = judge_of(model, labelled(model), quantise.Budget("top1", drop=0.1))
    assert judge.full == 0.75
    assert judge.score(model, "onnxruntime").drop == 0
    for size in (1, 7, 24):  # however the items are grouped
        answers = [run_reference(model, call) for call in judge.samples.full_batches(size)]
        assert judge.mark(answers).quantised == 0.75
    turned = [{"y": -answer["y"]} for answer in answers]
    assert judge.mark(turned).quantised < 0.3 and judge.mark(turned).items == 24


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(24), np.zeros((24, 2), int)])
def test_labels_that_do_not_fit_are_told(labels):
    model = classifier()
    with pytest.raises(ConfigError, match="labels of type .* for 24 items"):
        quantise.from_arrays(model.signature, {"x": data(24)}, labels=labels)


def test_labels_come_from_a_file_and_follow_their_items(tmp_path):
    model = classifier()
    np.save(tmp_path / "x.npy", data(10))
    np.save(tmp_path / "labels.npy", np.arange(10))
    found = quantise.from_file(model.signature, tmp_path / "x.npy", labels=tmp_path / "labels.npy", limit=5)
    assert list(found.labels) == [0, 2, 4, 6, 8] and np.array_equal(found.arrays["x"], data(10)[::2])
    assert [list(half.labels) for half in found.split()] == [[0, 4, 8], [2, 6]]
    with pytest.raises(ConfigError, match="no labels"):
        quantise.samples_for(model.signature, "generated", {"x": (1, 3, 8, 8)}, tmp_path / "labels.npy")


def test_classes_need_scores():
    model = batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
            net (float[N, 3] x, float[3, 2] w) => (int64[N] c) {
                y = MatMul(x, w)
                c = ArgMax<axis = 1, keepdims = 0>(y)
            }""",
            w=(3, 2),
        )
    )
    few = quantise.from_arrays(model.signature, {"x": np.ones((2, 3), np.float32)})
    with pytest.raises(ConfigError, match="top1 needs scores"):
        judge_of(model, few, quantise.Budget("top1"))


def test_classes_of_every_output_count():
    model = batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]> net (float[N, 3] x, float[3, 4] w, float[3, 5] v)
            => (float[N, 4] a, float[N, 5] b) { a = MatMul(x, w)  b = MatMul(x, v) }""",
            w=(3, 4),
            v=(3, 5),
        )
    )
    x = np.random.default_rng(1).standard_normal((16, 3)).astype(np.float32)
    judge = judge_of(model, quantise.from_arrays(model.signature, {"x": x}), quantise.Budget("top1"))
    right = [run_reference(model, call) for call in judge.samples.full_batches(8)]
    assert judge.mark(right).quantised == 1.0
    wrong = [answer | {"b": np.roll(answer["b"], 1, axis=1)} for answer in right]
    assert judge.mark(wrong).quantised < 0.5


def test_halves_are_drawn_by_chance_and_classes_are_shared_out():
    model = classifier()
    x = np.zeros((40, 3, 8, 8), np.float32)
    x[1::2] = 1.0  # a recording that alternates
    labels = np.repeat([0, 1, 2, 3], 10)
    for part in quantise.from_arrays(model.signature, {"x": x}).split():
        assert 0.2 < part.arrays["x"].mean() < 0.8
    halves = quantise.from_arrays(model.signature, {"x": x}, labels=labels).split()
    assert all(np.bincount(half.labels).tolist() == [5, 5, 5, 5] for half in halves)
    again = quantise.from_arrays(model.signature, {"x": x}, labels=labels).split()
    assert all(
        np.array_equal(one.arrays["x"], other.arrays["x"]) for one, other in zip(halves, again, strict=True)
    )


def test_padding_with_other_numbers_has_a_range_of_its_own():
    model = batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
            net (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w, float[5, 4, 3, 3] v) => (float[N, 5, 8, 8] y) {
                c = Conv(x, w)  r = Relu(c)
                p = Constant<value = int64[8] {0, 0, 2, 2, 0, 0, 2, 2}>()  f = Constant<value = float {-20.0}>()
                d = Pad(r, p, f)  y = Conv(d, v)
            }""",
            w=(4, 3, 3, 3),
            v=(5, 4, 3, 3),
        )
    )
    made = quantised(model, quantise.Scheme())
    x = data(4)
    expected = run_reference(model, {"x": x})["y"]
    assert np.abs(run_reference(made, {"x": x})["y"] - expected).max() < 0.05 * np.abs(expected).max()


def test_one_item_is_not_enough():
    model = classifier()
    few = quantise.from_arrays(model.signature, {"x": data(1)})
    with pytest.raises(ConfigError, match="one item"):
        quantise.within_budget(model, few, quantise.Scheme(), quantise.Budget(), engine="onnxruntime")


class Slow:
    """A study whose engine is the reference and whose clock moves with every scoring."""

    def __init__(self, model, drop, few=None):
        self.clock, self.runs = ManualClock(), 0
        seen, judged = (few or samples(model)).split()
        self.study = quantise.Study(
            model, seen, judge_of(model, judged, quantise.Budget(drop=drop), run=self), clock=self.clock
        )

    def __call__(self, model, engine, samples, precision="fp32"):
        self.runs += 1
        self.clock.sleep_s(1.0)
        return [run_reference(model, call) for call in samples.full_batches(samples.batch)]


@pytest.mark.parametrize(("deadline_s", "most"), [(0.0, 1), (2.5, 3), (6.0, 8)])
def test_a_deadline_ends_the_search_with_the_best_found(deadline_s, most):
    slow = Slow(classifier(), drop=0.0)
    before = slow.runs
    found = slow.study.within_budget(quantise.Scheme(), "onnxruntime", deadline_s=deadline_s)
    assert slow.runs - before <= most and not found.met and "time" in found.stopped
    assert found.score.quantised > 0.9


def test_layers_are_not_searched_where_nothing_is_gained():
    slow = Slow(classifier(), drop=0.0)
    before = slow.runs
    found = slow.study.within_budget(quantise.Scheme(), "onnxruntime", worth=lambda made: "no gain")
    assert slow.runs - before == len(quantise.METHODS) and found.stopped == "no gain" and not found.kept


def test_groups_are_looked_at_before_layers():
    """Nine layers of which one is bad: its group of three is looked at layer by layer, the others are not."""
    names = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(8))
    parameters = ", ".join(f"float[8, 8] w{i}" for i in range(9))
    model = batched(
        model_from_text(
            f"""<ir_version: 8, opset_import: ["": 17]>
            net (float[N, 8] h0, {parameters}) => (float[N, 8] y) {{ {names} y = MatMul(h8, w8) }}""",
            **{f"w{i}": np.eye(8, dtype=np.float32) for i in range(9)},
        )
    )
    import onnx_ir as ir

    bad = np.eye(8, dtype=np.float32) * 0.4
    bad[0, 0] = 100.0  # with one scale for all, the rest rounds to zero
    model.program.graph.initializers["w4"].const_value = ir.tensor(bad, name="w4")
    x = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    x[:, 0] = 0
    few = quantise.from_arrays(model.signature, {"h0": x}, batch=4)
    slow = Slow(model, 0.05, few)
    found = slow.study.within_budget(quantise.Scheme(per_channel=False, results=False), "onnxruntime")
    assert found.met and max(found.sensitivity, key=found.sensitivity.get) == found.kept[0]
    kept = [
        node for node in found.model.program.graph if node.op_type == "MatMul" and node.name == found.kept[0]
    ]
    assert kept[0].inputs[1].name == "w4"
    assert found.layers == 8 and slow.runs < 1 + 3 + 1 + 3 + 9 + 3  # fewer than with every layer alone
    assert any(len({found.sensitivity[f"MatMul_{i + j}"] for j in range(3)}) == 1 for i in (0, 6))


def test_an_engine_that_crashes_or_refuses_is_told(monkeypatch):
    add_engines(monkeypatch)
    model = classifier()
    few = samples(model)
    with quantise.Runner(few) as run:
        with pytest.raises(BackendLostError, match="SIGSEGV"):
            run(model, "crashing", few)
        with pytest.raises(BadModelError):
            run(model, "refusing", few)
        answers = run(model, "onnxruntime", few)
        assert len(answers) == 6 and np.allclose(
            answers[0]["y"], run_reference(model, next(iter(few)))["y"], atol=1e-4
        )
        assert run.gain(model, model, "onnxruntime") > 0
