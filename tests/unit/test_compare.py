"""Two models side by side: layers meet by name or by their numbers, and the first parting is named."""

import numpy as np
import pytest

from raceline.convert import compare_models, optimise
from raceline.convert.example import model_from_text
from raceline.core.errors import ShapeError

F = np.float32
RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((4, 3, 3, 3)).astype(F), RNG.standard_normal((4, 5)).astype(F)

FIRST = """<ir_version: 8, opset_import: ["" : 17]>
first (float[n, 3, 6, 6] x, float[4, 3, 3, 3] w, float[4, 5] v) => (float[n, 5] y) {
  [one] c = Conv(x, w) [two] r = Relu(c) [three] p = GlobalAveragePool(r)
  [four] f = Flatten(p) [five] y = MatMul(f, v) }"""
# The same with other names, channels last, and a pooling spelt as a mean.
LAST = """<ir_version: 8, opset_import: ["" : 17]>
last (float[1, 6, 6, 3] picture, float[4, 3, 3, 3] w, float[4, 5] v) => (float[1, 5] scores) {
  t = Transpose<perm = [0, 3, 1, 2]>(picture) a = Conv(t, w) b = Transpose<perm = [0, 2, 3, 1]>(a)
  d = Relu(b) e = ReduceMean<axes = [1, 2], keepdims = 0>(d) scores = MatMul(e, v) }"""


def build(text, w=W, v=V):
    return model_from_text(text, w=w, v=v)


def test_a_model_is_like_itself():
    found = compare_models(build(FIRST), build(FIRST))
    assert found.ok and found.divergence is None
    assert all(layer.how == "name" and layer.ok and layer.max_abs == 0 for layer in found.layers)
    assert [layer.node for layer in found.layers] == ["one", "two", "three", "four", "five"]


def test_an_optimised_model_agrees():
    model = build(FIRST)
    found = compare_models(model, optimise(model)[0])
    assert found.ok and found.to_json()["ok"] is True


def test_other_names_and_another_layout_are_seen_through():
    found = compare_models(build(FIRST), build(LAST))
    assert found.ok
    assert found.sizes == {"n": 1}
    by_value = {layer.value: layer for layer in found.layers}
    assert by_value["c"].how == by_value["r"].how == "numbers"
    assert by_value["c"].counterpart in {"a", "b"} and by_value["r"].counterpart == "d"


@pytest.mark.parametrize("text", [FIRST, LAST])
def test_the_first_parting_is_named(text):
    found = compare_models(build(FIRST), build(text, w=W + F(0.05)))
    assert not found.ok
    assert found.divergence.node == "one"
    late = compare_models(build(FIRST), build(text, v=V * F(1.01)))
    assert late.divergence.node == "five"


def test_the_tolerance_is_the_callers():
    assert not compare_models(build(FIRST), build(FIRST, v=V * F(1.001))).ok
    assert compare_models(build(FIRST), build(FIRST, v=V * F(1.001)), rtol=1e-2).ok


@pytest.mark.parametrize(
    "other",
    [
        """a (float[n, 3, 7, 7] x) => (float[n, 3, 7, 7] y) { y = Relu(x) }""",
        """a (int64[n, 3, 6, 6] x) => (int64[n, 3, 6, 6] y) { y = Abs(x) }""",
        """a (float[n] x, float[n] z) => (float[n] y) { y = Add(x, z) }""",
    ],
    ids=["size", "type", "number"],
)
def test_models_that_take_other_inputs_are_refused(other):
    with pytest.raises(ShapeError):
        compare_models(build(FIRST), model_from_text(f'<ir_version: 8, opset_import: ["" : 17]> {other}'))


def test_outputs_of_another_shape_differ():
    other = FIRST.replace("float[n, 5] y", "float[n, 6] y").replace("float[4, 5] v", "float[4, 6] v")
    found = compare_models(build(FIRST), build(other, v=np.ones((4, 6), F)))
    assert not found.ok and "shape" in found.differences[0].why
