"""Weights alone in few bits: rounded well, told where they are not, the same on every engine, small on disk."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from carried_models import settled
from engine_doubles import MACHINE, SHAPES, add_engines, net

from raceline import engines
from raceline.convert import IRTranslator, quantise, reduce
from raceline.convert.example import model_from_text
from raceline.convert.few_rows import few_rows
from raceline.convert.measure import Bench
from raceline.convert.quantise.rounding import rounded_blocks, rounded_channels
from raceline.convert.shrinking import folder_bytes, shrink
from raceline.convert.tune import tune
from raceline.core.errors import BadModelError, ConfigError
from raceline.engines import _few_bits, onnxruntime
from raceline.ir import Bundle, check, make_inputs, run_reference
from raceline.ir.weights_only import dequantised, restored

RNG = np.random.default_rng(11)
REAL = ("magika", "silero_vad_static")
ENGINES = ("onnxruntime", "openvino", "mnn", "native", "patchwork")


def layers(rows=2, k=256):
    """An embedding, products of two spellings, a convolution whose sum no block divides, and a tiny product."""
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        net (int64[n, {rows}] ids, float[n, 3, 8, 8] x, float[64, {k}] table, float[{k}, 128] w1, float[96, 128] w2,
             float[96] b2, float[32, 3, 3, 3] c, float[96, 1] tiny)
            => (float[m, 1] y, float[n, 32, 6, 6] z) {{
          e = Gather(table, ids)
          a = MatMul(e, w1)
          r = Relu(a)
          flat = Constant<value_ints = [-1, 128]>()
          f = Reshape(r, flat)
          g = Gemm<transB = 1>(f, w2, b2)
          y = MatMul(g, tiny)
          z = Conv(x, c)
        }}""",
        table=(64, k), w1=(k, 128), w2=(96, 128), b2=(96,), c=(32, 3, 3, 3), tiny=(96, 1),
    )  # fmt: skip


def feeds(items=2):
    rng = np.random.default_rng(items)
    return {
        "ids": rng.integers(0, 64, (items, 2)),
        "x": rng.standard_normal((items, 3, 8, 8)).astype(np.float32),
    }


def written(model, bits, asymmetric=False, keep=()):
    return quantise.shelf(model, bits).written(quantise.Stored(bits, asymmetric), keep)


def off(found, expected):
    return max(
        float(np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]))
        for name in expected
    )


def kinds(model):
    return {name: value.const_value.dtype.name for name, value in model.program.graph.initializers.items()}


# ---------------------------------------------------------------- rounding


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_no_weight_is_off_by_more_than_a_step(axis, asymmetric):
    weight = (RNG.standard_normal((64, 96)) + 0.3).astype(np.float32)
    made = rounded_blocks(weight, axis, 32, asymmetric=asymmetric)
    wide = dequantised(made.whole, made.scale, made.zero, axis=axis, block=32)
    steps = np.repeat(np.abs(made.scale), 32, axis)
    assert np.all(np.abs(wide - weight) <= 2.5 * steps), "at most what shrinking the range cuts off"
    plain = rounded_channels(weight, 1 - axis)
    assert off({"w": wide}, {"w": weight}) < 0.1
    eight = dequantised(plain.whole, plain.scale, None, axis=1 - axis)
    assert off({"w": eight}, {"w": weight}) < 0.01


def test_the_range_has_the_least_error_of_those_tried():
    weight = RNG.standard_normal((32, 200)).astype(np.float32)
    made = rounded_blocks(weight, 0, 32, asymmetric=False)
    best = off({"w": dequantised(made.whole, made.scale, None, axis=0, block=32)}, {"w": weight})
    scale = np.abs(weight).max(0) / 7
    assert best < 0.95 * off({"w": np.clip(np.rint(weight / scale), -8, 7) * scale}, {"w": weight})


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 1e30])
def test_blocks_of_any_size_have_finite_scales(asymmetric, size):
    weight = np.full((32, 4), size, np.float32)
    weight[::2] *= -1
    made = rounded_blocks(weight, 0, 32, asymmetric=asymmetric)
    wide = dequantised(made.whole, made.scale, made.zero, axis=0, block=32)
    assert np.isfinite(made.scale).all() and np.all(made.scale != 0)
    assert np.all(np.abs(wide - weight) <= 0.3 * size + 1e-36)


# ---------------------------------------------------------------- graphs


def test_what_is_stored_and_what_is_not_is_told():
    found = quantise.shelf(layers(), 4)
    assert set(found.layers) == {"Gather_0", "MatMul_1", "Gemm_5", "Conv_7"}
    assert "would take" in found.refused["MatMul_6"] and "with their scales" in found.refused["MatMul_6"]
    assert "no multiple of 16" in found.notes["Conv_7"]
    made = found.written(quantise.Stored(4))
    check(made)
    assert sorted(kinds(made).values()).count("INT4") == 3 and "INT8" in kinds(made).values()
    assert made.signature.outputs == layers().signature.outputs
    assert "Gemm" not in [node.op_type for node in made.program.graph]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_computes_what_the_reference_does(name, bits):
    model = layers()
    made, inputs = written(model, bits), feeds()
    expected = run_reference(made, inputs)
    assert off(expected, run_reference(model, inputs)) < {8: 0.05, 4: 0.6}[bits]
    session = engines.load(name).load(made, engines.Options())
    assert off(session.run(inputs), expected) < 1e-4, "at full precision nothing else is rounded"
    session.close()
    session = engines.load(name).load(made, engines.Options(precision=f"int{bits}-weights"))
    assert off(session.run(inputs), expected) < 0.02, "kernels for such weights may round what they multiply"
    session.close()


def test_onnxruntime_multiplies_by_few_bits_where_it_may(monkeypatch, tmp_path):
    """At full precision it widens them while loading; else it would at every call."""
    real, path = onnxruntime._settings, tmp_path / "optimised.onnx"

    def settings(options):
        found = real(options)
        found.optimized_model_filepath = str(path)
        return found

    monkeypatch.setattr(onnxruntime, "_settings", settings)

    def seen(precision):
        onnxruntime.load(written(layers(), 4), engines.Options(precision=precision)).close()
        return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]

    assert not {"MatMulNBits", "DequantizeLinear"} & {*seen("fp32")}
    few = seen("int4-weights")
    assert few.count("MatMulNBits") == 2 and "DequantizeLinear" not in few


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("k", [48, 200, 1008])
def test_onnxruntimes_products_mean_the_same(monkeypatch, bits, asymmetric, k):
    """Whatever the blocks, where what is multiplied is not rounded."""
    monkeypatch.setattr(_few_bits, "_ROUNDED", 1)
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        net (float[n, {k}] x, float[{k}, 65] w) => (float[n, 65] y) {{ y = MatMul(x, w) }}""",
        w=RNG.standard_normal((k, 65)).astype(np.float32) + 0.5,
    )
    made, inputs = written(model, bits, asymmetric), {"x": RNG.standard_normal((3, k)).astype(np.float32)}
    session = onnxruntime.load(made, engines.Options(precision=f"int{bits}-weights"))
    assert off(session.run(inputs), run_reference(made, inputs)) < 1e-5
    session.close()


def test_weights_between_whole_numbers_stay_as_they_are():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 32] x, float s, uint8 z, int8[32, 32] w, float[32] t) => (float[n, 32] y) {
          q = QuantizeLinear(x, s, z)
          d = DequantizeLinear(q, s, z)
          v = DequantizeLinear<axis = 1>(w, t)
          y = MatMul(d, v)
        }""",
        s=np.array(0.02, np.float32), z=np.array(128, np.uint8), w=np.ones((32, 32), np.int8),
        t=np.ones(32, np.float32),
    )  # fmt: skip
    assert restored(model) is model


def test_a_table_that_is_also_the_last_matrix_is_stored_once():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (int64[n, 3] ids, float[90, 64] table) => (float[n, 3, 90] y) {
          e = Gather(table, ids)
          t = Transpose(table)
          y = MatMul(e, t)
        }""",
        table=(90, 64),
    )
    made = written(model, 8)
    assert sorted(kinds(made).values()) == ["FLOAT", "INT8"]
    inputs = {"ids": RNG.integers(0, 90, (4, 3))}
    expected = run_reference(model, inputs)
    assert off(run_reference(made, inputs), expected) < 0.02
    session = engines.load("onnxruntime").load(made, engines.Options())
    assert off(session.run(inputs), run_reference(made, inputs)) < 1e-5
    session.close()


def test_a_weight_that_others_read_too_is_told():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[64, 64] x, float[64, 64] w) => (float[64, 64] y) { p = MatMul(x, w) y = Add(p, w) }""",
        w=(64, 64),
    )
    with pytest.raises(BadModelError, match="also read by 'Add_1'"):
        quantise.shelf(model, 8)


@pytest.mark.parametrize(
    ("body", "weight", "reason"),
    [
        ("y = Relu(x)", None, "no constant weights"),
        ("y = MatMul(x, w)", np.full((64, 64), np.nan, np.float32), "not all finite"),
        ("y = MatMul(x, w)", np.ones((64, 2), np.float32), "would take"),
    ],
)
def test_models_without_anything_to_store_are_told(body, weight, reason):
    shape = "" if weight is None else f", float[64, {weight.shape[1]}] w"
    given = {} if weight is None else {"w": weight}
    model = model_from_text(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[n, 64] x{shape}) => (float[n, k] y) {{ {body} }}',
        **given,
    )
    with pytest.raises(BadModelError, match=reason):
        quantise.shelf(model, 4)


def test_settings_that_make_no_sense():
    for settings in ({"bits": 5}, {"bits": 4, "kept_bits": 16}):
        with pytest.raises(ConfigError):
            quantise.Stored(**settings)


# ---------------------------------------------------------------- real nets


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", REAL)
def test_real_nets_are_small_and_compute_the_same_everywhere(name, bits, tmp_path):
    source, sizes = settled(name)
    model = IRTranslator().optimize(source)
    made = written(model, bits)
    Bundle.write(tmp_path / "full", model)
    Bundle.write(tmp_path / "few", made)
    share = folder_bytes(tmp_path / "few") / folder_bytes(tmp_path / "full")
    assert share < {8: 0.45, 4: 0.42}[bits], "every byte counted"
    inputs = make_inputs(source.signature, source.signature.concrete(sizes), seed=3)
    expected = run_reference(made, inputs)
    opened = Bundle.open(tmp_path / "few").model
    for engine in ("onnxruntime", "openvino"):
        session = engines.load(engine).load(opened, engines.Options())
        assert off(session.run(inputs), expected) < 1e-3
        session.close()


# ---------------------------------------------------------------- budgets


def in_this_process(model, engine, samples, precision="fp32"):
    session = engines.load(engine).load(model, engines.Options(precision=precision))
    return [session.run(call) for call in samples.full_batches(samples.batch)]


def found_within(drop, bits=4):
    model = layers()
    calls = [feeds(items) for items in (2, 2, 2)]
    arrays = {name: np.stack([one[name] for one in calls]) for name in calls[0]}
    samples = quantise.from_arrays(model.signature, arrays)
    judge = quantise.Judge(model, samples, quantise.Budget(drop=drop), run=in_this_process)
    return quantise.Study(model, samples, judge).within_budget(quantise.Stored(bits), "onnxruntime")


def test_a_budget_is_kept_with_sensitive_layers_in_eight_bits():
    loose = found_within(0.9)
    assert loose.met and not loose.kept and not loose.scheme.asymmetric and loose.layers == 4
    found = found_within(loose.score.drop / 3)
    assert found.met and found.kept and found.scheme.kept_bits == 8 and "8 bits" in found.kept_as
    assert set(found.kept) <= set(found.sensitivity) and "INT8" in kinds(found.model).values()


def test_a_budget_that_cannot_be_met_is_told():
    found = found_within(0.0)
    assert not found.met and found.score.drop > 0 and found.kept_as == ""


def test_shrinking_needs_no_kernels_and_every_item_judges(tmp_path):
    model = step()
    made = shrink(
        model, rows_of(model, 4), quantise.Budget(), MACHINE, tmp_path / "q", engine="mnn", weights_only=8
    )
    assert made.found.met and made.found.score.items == 4 and made.reduction > 0.7
    told = made.to_json()
    assert told["scheme"]["bits"] == 8 and told["engine"] == "mnn" and told["layers"] == 1


# ---------------------------------------------------------------- the tuner


def step(rows=1):
    """A product that reads 4 MiB of weights for each row."""
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        net (float[n, {rows}, 1024] x, float[1024, 1024] w, float[1024] b) => (float[n, {rows}, 1024] y) {{
          p = MatMul(x, w)
          y = Add(p, b)
        }}""",
        w=(1024, 1024), b=(1024,),
    )  # fmt: skip
    return replace(model, signature=replace(model.signature, batch_axis="n"))


def test_only_products_of_few_rows_may_gain(tmp_path):
    few, many = (
        few_rows(step(), {"x": (1, 1, 1024)}, MACHINE),
        few_rows(step(16), {"x": (1, 16, 1024)}, MACHINE),
    )
    assert few.share > 0.9 and not few.why_not and few.most_batch == 8 and few.weight_bytes == 4 << 20
    assert few_rows(step(8), {"x": (1, 8, 1024)}, MACHINE).most_batch == 1
    assert many.share == 0 and "0% of its time" in many.why_not
    assert "cache" in few_rows(net(tmp_path), SHAPES, MACHINE).why_not, "its product is tiny"
    small = few_rows(layers(rows=1), {"ids": (1, 2), "x": (1, 3, 8, 8)}, MACHINE)
    assert "cache" in small.why_not or "time" in small.why_not


def rows_of(model, items=16):
    return quantise.from_arrays(
        model.signature, {"x": RNG.standard_normal((items, 1, 1024)).astype(np.float32)}, batch=4
    )


def test_nets_that_cannot_gain_cost_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(quantise.Study, "shelf", None)  # would fail where it is called
    model = net(tmp_path)
    pictures = quantise.from_arrays(
        model.signature, {"x": RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)}
    )
    found = reduce(
        model,
        pictures,
        quantise.Budget(),
        MACHINE,
        shapes=SHAPES,
        precisions=("int8-weights", "int4-weights"),
    )
    assert not found.ways and found.notes[0].startswith("weights alone in few bits are out")


def test_they_are_judged_and_raced(monkeypatch, tmp_path):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path))
    add_engines(monkeypatch)
    gains = {"onnxruntime": 2.0, "openvino": 1.0}
    monkeypatch.setattr(quantise.Runner, "gain", lambda self, full, made, engine, precision: gains[engine])
    model, shapes = step(), {"x": (1, 1, 1024)}
    found = reduce(
        model, rows_of(model), quantise.Budget(drop=0.15), MACHINE, shapes=shapes,
        precisions=("int8-weights", "int4-weights"),
    )  # fmt: skip
    assert [(way.engine, way.precision, way.most_batch) for way in found.ways] == [
        ("onnxruntime", "int8-weights", 8),
        ("onnxruntime", "int4-weights", 8),
    ]
    assert found.notes == tuple(
        f"{bits}-weights on openvino is out: it takes 1.00 times the time of full precision"
        for bits in ("int8", "int4")
    )
    profile = tune(
        model, model, MACHINE, shapes=shapes, reduced=found, batches=(1, 16), threads=(1,), budget_s=60.0,
        engine_names=["onnxruntime"], open_bench=Bench, cache=False,
    )  # fmt: skip
    few = [row for row in profile.measurements if row.candidate.precision != "fp32"]
    assert {(r.candidate.precision, r.candidate.batch) for r in few if not r.failure} == {
        ("int8-weights", 1),
        ("int4-weights", 1),
    }
    assert all(0.85 <= row.accuracy.quantised < 1 for row in few)


def test_those_asked_for_are_made_whether_they_gain_or_not():
    model = step(16)
    items = quantise.from_arrays(
        model.signature, {"x": RNG.standard_normal((16, 16, 1024)).astype(np.float32)}, batch=4
    )
    found = reduce(
        model, items, quantise.Budget(), MACHINE, shapes={"x": (1, 16, 1024)}, precisions=("int8-weights",),
        wanted=True, engine_names=["onnxruntime"],
    )  # fmt: skip
    (way,) = found.ways
    assert (way.precision, way.variant, way.most_batch) == ("int8-weights", "int8-weights-onnxruntime", 0)
