"""Scales that lose numbers are refused with their node; those that genuine quantisers write are not."""

import numpy as np
import onnx
import onnx_ir
import pytest

from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError
from raceline.ir import Limits, run_reference

WEIGHTS = np.array([[1, 0, 3], [4, 0, 5]], np.int8)


def saved(folder, body, opset=21, **weights):
    """A model in ONNX's text form whose named inputs are initializers."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{head} main {body}")
    for name, array in weights.items():
        (known,) = [value for value in model.graph.input if value.name == name]
        model.graph.input.remove(known)
        model.graph.initializer.append(onnx_ir.to_proto(onnx_ir.tensor(array, name=name)))
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def refused(path, message):
    with pytest.raises(BadModelError, match=rf"m\.onnx.*{message}.*Quantise the model again"):
        reader.read(path)


QUANTISE = "(float[N,3] x, float[3] s, int8[3] z) => (int8[N,3] q) { [n] q = QuantizeLinear(x, s, z) }"
STORED = (
    "(float[N,2] x, int8[2,3] w, float[3] s) => (float[N,3] y) "
    "{ [n] v = DequantizeLinear(w, s) y = MatMul(x, v) }"
)
ZEROS = np.zeros(3, np.int8)


@pytest.mark.parametrize("bad", [0.0, -0.5, np.inf, -0.0])
def test_a_step_of_a_run_is_a_positive_number(tmp_path, bad):
    path = saved(tmp_path, QUANTISE, s=np.float32([0.1, bad, 0.2]), z=ZEROS)
    refused(path, r"node 'n' \(QuantizeLinear\) takes the scale 's'; elements .* no positive number: 1 of 3")


def test_a_scale_of_nan_is_refused_even_where_nan_is_allowed(tmp_path):
    path = saved(tmp_path, QUANTISE, s=np.float32([0.1, np.nan, 0.2]), z=ZEROS)
    with pytest.raises(BadModelError, match=r"\(QuantizeLinear\) takes the scale 's'.*nan"):
        reader.read(path, limits=Limits(allow_nan=True))


@pytest.mark.parametrize("scale", [np.finfo(np.float32).tiny, 1e-38])
def test_the_smallest_positive_scale_is_a_scale(tmp_path, scale):
    reader.read(saved(tmp_path, QUANTISE, s=np.float32([0.1, scale, 0.2]), z=ZEROS))


@pytest.mark.parametrize("scales", [[0.5, 0.0, 0.25], [0.5, 0.1, -0.25]])
def test_genuine_scales_of_stored_weights_are_read(tmp_path, scales):
    """Of a channel without weights, and with the sign of the largest weight."""
    model = reader.read(saved(tmp_path, STORED, w=WEIGHTS, s=np.float32(scales)))
    (y,) = run_reference(model, {"x": np.eye(2, dtype=np.float32)}).values()
    np.testing.assert_allclose(y, WEIGHTS * np.float32(scales))


@pytest.mark.parametrize("scales", [[0.0, 0.1, 0.1], [0.1, 0.1, np.inf]])
def test_scales_that_lose_stored_weights_are_refused(tmp_path, scales):
    path = saved(tmp_path, STORED, w=WEIGHTS, s=np.float32(scales))
    refused(path, r"node 'n' \(DequantizeLinear\) takes the scale 's'; elements .*: 1 of 3")


def test_a_zero_point_says_which_weights_are_zero(tmp_path):
    body = STORED.replace("float[3] s", "float[3] s, int8[3] z").replace("(w, s)", "(w, s, z)")
    points = np.int8([1, 7, 3])
    scales = np.float32([0.5, 0.0, 0.25])
    reader.read(saved(tmp_path, body, w=np.int8([[1, 7, 3], [4, 7, 5]]), s=scales, z=points))
    refused(saved(tmp_path, body, w=WEIGHTS, s=scales, z=points), "zero, though weights there are not")


def test_a_block_of_zeros_may_have_a_scale_of_zero(tmp_path):
    body = (
        "(float[N,4] x, int8[4,2] w, float[2,2] s) => (float[N,2] y) "
        "{ [n] v = DequantizeLinear<axis = 0, block_size = 2>(w, s) y = MatMul(x, v) }"
    )
    weights = np.int8([[0, 1], [0, 2], [3, 4], [5, 6]])
    reader.read(saved(tmp_path, body, w=weights, s=np.float32([[0, 1], [1, 1]])))
    refused(saved(tmp_path, body, w=weights, s=np.float32([[1, 1], [0, 1]])), "'n'")


ONE = np.float32(0.5)
POINT = np.array(0, np.int8)
LINEAR = (
    "(int8[N,2] x, float a, int8 p, int8[2,3] w, float b, int8 q, float c, int8 r) => (int8[N,3] y) "
    "{ [n] y = QLinearMatMul(x, a, p, w, b, q, c, r) }"
)
SUM = (
    "(int8[2] x, float a, int8 p, float b, int8 q, float c, int8 r) => (int8[2] y) "
    "{ [n] y = com.microsoft.QLinearAdd(x, a, p, x, b, q, c, r) }"
)
JOINED = (
    "(int8[2] x, float a, int8 p, float b, int8 q, float c, int8 r) => (int8[4] y) "
    "{ [n] y = com.microsoft.QLinearConcat<axis = 0>(a, p, x, b, q, x, c, r) }"
)
PRODUCT = (
    "(int8[N,2] x, int8[2,3] w, float a, float b) => (float[N,3] y) "
    "{ [n] i = MatMulInteger(x, w) f = Cast<to = 1>(i) s = Mul(a, b) y = Mul(f, s) }"
)
KINDS = {"p": POINT, "q": POINT, "r": POINT}


@pytest.mark.parametrize("zero", ["a", "b", "c"])
@pytest.mark.parametrize("body", [LINEAR, SUM, JOINED])
def test_every_place_of_a_scale_is_looked_at(tmp_path, body, zero):
    weights = {"a": ONE, "b": ONE, "c": ONE, zero: np.float32(0), **KINDS}
    if body is LINEAR:
        weights["w"] = WEIGHTS
    refused(saved(tmp_path, body, **weights), f"'n' .* takes the scale '{zero}' of 0")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf])
def test_factors_behind_an_integer_product_are_scales(tmp_path, bad):
    body = (
        PRODUCT.replace("int8[2,3] w, ", "")
        .replace("x, w)", "x, v)")
        .replace("int8[N,2] x", "int8[N,2] x, int8[2,3] v")
    )
    refused(saved(tmp_path, body, b=np.float32(bad)), r"'n' \(MatMulInteger\) takes the scale 'b'")


def test_scales_that_a_run_computes_are_no_matter(tmp_path):
    body = "(float[N,3] x) => (uint8[N,3] q) { [n] q, s, z = DynamicQuantizeLinear(x) }"
    assert reader.read(saved(tmp_path, body)).signature.outputs
