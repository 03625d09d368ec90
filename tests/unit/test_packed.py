"""4-bit weights: half the bytes where a model is kept, the same numbers on every engine."""

import importlib

import ml_dtypes
import numpy as np
import onnx_ir
import pytest

from raceline import engines
from raceline.convert.example import model_from_text
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError
from raceline.ir import Bundle, run_reference
from raceline.ir.packed import packed, widened

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 96)).astype(np.float32)


def model(opset=21, low=-8, high=8, zero=0):
    """y = x (w - zero) s, w of int8; the zero point is also read elsewhere."""
    return model_from_text(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        layer (float[n, 96] x, int8[96, 80] w, float[80] s, int8[80] z, float ss, int8 zz)
            => (float[n, 80] y, int8[n, 96] q) {{
          wide = DequantizeLinear <axis = 1> (w, s, z)
          y = MatMul(x, wide)
          q = QuantizeLinear(x, ss, zz)
        }}""",
        w=RNG.integers(low, high, (96, 80)).astype(np.int8),
        s=RNG.uniform(0.01, 0.1, 80).astype(np.float32),
        z=np.full(80, zero, np.int8),
        ss=np.array(0.05, np.float32),
        zz=np.array(1, np.int8),
    )


def kinds(model):
    return {name: value.const_value.dtype for name, value in model.program.graph.initializers.items()}


def test_packing_halves_the_bytes_and_no_number_changes(tmp_path):
    whole = model(zero=2)
    small = packed(whole)
    assert kinds(small)["w"] == kinds(small)["z"] == onnx_ir.DataType.INT4
    assert kinds(small)["zz"] == onnx_ir.DataType.INT8  # another operator's
    assert kinds(whole)["w"] == onnx_ir.DataType.INT8
    np.testing.assert_array_equal(run_reference(small, {"x": X})["y"], run_reference(whole, {"x": X})["y"])
    bundle = Bundle.write(tmp_path / "b", small)
    assert bundle.files["weights.bin"].size_bytes == 96 * 80 // 2
    stored = bundle.model.program.graph.initializers["w"].const_value.numpy()
    assert stored.dtype == ml_dtypes.int4
    np.testing.assert_array_equal(
        stored.astype(np.int8), whole.program.graph.initializers["w"].const_value.numpy()
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "mnn", "reference"])
def test_engines_compute_the_same_with_packed_weights(name):
    whole = model()
    engine = engines.load(name)
    expected = run_reference(whole, {"x": X})
    if name == "mnn":  # it has no QuantizeLinear to int8 outputs
        whole = without_q(whole)
    session = engine.load(packed(whole), engines.Options())
    np.testing.assert_allclose(session.run({"x": X})["y"], expected["y"], atol=1e-3, rtol=1e-3)
    session.close()


def without_q(model):
    from dataclasses import replace

    made = model.clone()
    graph = made.program.graph
    node = next(n for n in graph if n.op_type == "QuantizeLinear")
    graph.outputs.pop(1)
    graph.remove(node, safe=True)
    return replace(made, signature=replace(made.signature, outputs=made.signature.outputs[:1]))


def test_widening_gives_back_what_was_packed():
    whole = model()
    again = widened(packed(whole))
    assert kinds(again) == kinds(whole)
    np.testing.assert_array_equal(
        again.program.graph.initializers["w"].const_value.numpy(),
        whole.program.graph.initializers["w"].const_value.numpy(),
    )


def test_a_zero_point_that_others_read_stays_theirs():
    whole = model_from_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        layer (float[n, 16] x, int8[16, 16] w, int8[16, 16] v, float s, int8 z) => (float[n, 16] y) {
          a = DequantizeLinear(w, s, z)
          b = DequantizeLinear(v, s, z)
          c = MatMul(x, a)
          y = MatMul(c, b)
        }""",
        w=RNG.integers(-8, 8, (16, 16)).astype(np.int8),
        v=np.full((16, 16), 100, np.int8),
        s=np.array(0.1, np.float32),
        z=np.array(1, np.int8),
    )
    small = packed(whole)
    assert kinds(small)["w"] == onnx_ir.DataType.INT4
    assert kinds(small)["v"] == kinds(small)["z"] == onnx_ir.DataType.INT8
    feeds = {"x": X[:, :16]}
    np.testing.assert_array_equal(run_reference(small, feeds)["y"], run_reference(whole, feeds)["y"])
    np.testing.assert_array_equal(run_reference(widened(small), feeds)["y"], run_reference(whole, feeds)["y"])


def test_what_does_not_fit_stays():
    whole = model(low=-9)
    whole.program.graph.initializers["w"].const_value.numpy()[0, 0] = -9
    assert packed(whole) is whole
    assert widened(whole) is whole


def test_an_old_opset_is_refused():
    with pytest.raises(BadModelError, match=r"opset is 19.*21"):
        packed(model(opset=19))


@pytest.mark.parametrize("writer", ["mnn", "openvino", "qdq_onnx", "onnx"])
def test_other_formats_hold_the_same_numbers(writer, tmp_path):
    whole = without_q(model())
    module = importlib.import_module(f"raceline.convert.writers.{writer}")
    path = tmp_path / f"model{module.extension}"
    module.write(packed(whole), path)
    (found,) = module.run(path, [{"x": X}])
    np.testing.assert_allclose(found["y"], run_reference(whole, {"x": X})["y"], atol=1e-3, rtol=1e-3)


def test_an_older_opset_gets_wide_weights():
    whole = without_q(model())
    older = with_opset(packed(whole), 17)
    assert kinds(older)["w"] == onnx_ir.DataType.INT8
    np.testing.assert_array_equal(run_reference(older, {"x": X})["y"], run_reference(whole, {"x": X})["y"])
