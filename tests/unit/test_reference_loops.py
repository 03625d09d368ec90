"""Loop, Scan and optional values of the reference, against ONNX Runtime and by hand."""

import ir_models as m
import numpy as np
import onnx
import pytest
from onnx import parser

from raceline import engines
from raceline.convert import optimise
from raceline.core.errors import BadModelError
from raceline.ir import run_reference


def read(text, folder):
    return m.read(parser.parse_model(text).SerializeToString(), folder)


def both(text, folder, **feeds):
    """The reference's outputs, which ONNX Runtime's must equal."""
    model = read(text, folder)
    found = run_reference(model, feeds)
    for name, array in engines.load("onnxruntime").load(model, engines.Options()).run(feeds).items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-6)
    return found


LOOP = """<ir_version: 8, opset_import: ["" : 16]>
g (int64 most, float[2,3] x) => (float[2,3] last, float[turns,2,3] all, int64[turns] count) {{
  last, all, count = Loop <body = body (int64 turn, bool going, float[2,3] held)
    => (bool stay, float[2,3] next, float[2,3] given, int64 number) {{
      next = Add(held, x)
      given = Mul(next, next)
      number = Identity(turn)
      limit = Constant <value = int64 {{4}}>()
      stay = Less(turn, limit)
  }}>(most, "", x)
}}""".replace("{{", "{").replace("}}", "}")


@pytest.mark.parametrize("most, turns", [(3, 3), (100, 5), (1, 1)])
def test_what_the_turns_of_a_loop_give_gains_an_axis(tmp_path, most, turns):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = both(LOOP, tmp_path, most=np.array(most), x=x)
    assert found["all"].shape == (turns, 2, 3) and found["count"].tolist() == list(range(turns))


def test_a_loop_that_never_turns(tmp_path):
    found = both(LOOP, tmp_path, most=np.array(0), x=np.ones((2, 3), np.float32))
    assert found["all"].shape == (0, 2, 3)


SCAN = """<ir_version: 8, opset_import: ["" : 16]>
g (float[2] start, float[2,4] x, float[4,3] y) => (float[2] last, float[2,4] sums, float[3,4] seen) {
  last, sums, seen = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
    scan_output_axes = [1, -1], scan_output_directions = [0, 1],
    body = body (float[2] held, float[2] one, float[3] other) => (float[2] next, float[2] sum, float[3] same) {
      next = Add(held, one)
      sum = Identity(next)
      same = Neg(other)
  }>(start, x, y)
}"""


def test_scan_along_other_axes_and_backwards(tmp_path):
    x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.arange(12, dtype=np.float32).reshape(4, 3)
    found = both(SCAN, tmp_path, start=np.zeros(2, np.float32), x=x, y=y)
    np.testing.assert_array_equal(found["sums"], np.cumsum(x[:, ::-1], axis=1))
    np.testing.assert_array_equal(found["seen"], -y[::-1].T)


OLD_SCAN = """<ir_version: 3, opset_import: ["" : 8]>
g (int64[b] lengths, float[b,2] start, float[b,4,2] x) => (float[b,2] last, float[b,4,2] sums) {
  last, sums = Scan <num_scan_inputs = 1, directions = [%d],
    body = body (float[2] held, float[2] one) => (float[2] next, float[2] sum) {
      next = Add(held, one)
      sum = Identity(next)
  }>(lengths, start, x)
}"""


@pytest.mark.parametrize("backwards", [0, 1])
def test_sequences_of_an_old_scan_have_lengths_of_their_own(tmp_path, backwards):
    x = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    found = both(
        OLD_SCAN % backwards, tmp_path, lengths=np.array([4, 1, 3]), start=np.ones((3, 2), np.float32), x=x
    )
    assert found["last"][1].tolist() == (1 + x[1, 0]).tolist() and not found["sums"][1, 1:].any()


OPTIONAL = """<ir_version: 10, opset_import: ["" : 18]>
g (float[n] x) => (bool there, bool absent, float[n] y) {
  some = Optional(x)
  there = OptionalHasElement(some)
  y = OptionalGetElement(some)
  absent = OptionalHasElement()
}"""


def test_optional_values(tmp_path):
    found = run_reference(read(OPTIONAL, tmp_path), {"x": np.ones(3, np.float32)})
    assert found["there"] and not found["absent"] and found["y"].shape == (3,)


def test_normalisation_over_the_axes_that_are_not_said(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = MeanVarianceNormalization(x) }"""
    x = np.random.default_rng(0).normal(2, 3, (2, 3, 4, 4)).astype(np.float32)
    found = both(text, tmp_path, x=x)["y"]
    expected = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_image_decoder_without_its_library_is_told(tmp_path):
    assert onnx.defs.has("ImageDecoder")
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (uint8[n] data) => (uint8[h,w,3] y) { y = ImageDecoder(data) }"""
    with pytest.raises(BadModelError, match="ImageDecoder"):
        run_reference(read(text, tmp_path), {"data": np.zeros(8, np.uint8)})


def test_lists_of_constants_are_not_folded_into_a_tensor(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 16]>
    g (int64 at) => (float[2] y) {
      one = Constant <value = float[2] {1, 2}>()
      two = Constant <value = float[2] {3, 4}>()
      list = SequenceConstruct(one, two)
      y = SequenceAt(list, at)
    }"""
    model, _ = optimise(read(text, tmp_path))
    assert run_reference(model, {"at": np.array(1)})["y"].tolist() == [3, 4]
