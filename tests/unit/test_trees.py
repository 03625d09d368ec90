"""Trees of ai.onnx.ml: built, checked, and computed by the reference as ONNX Runtime computes them."""

import numpy as np
import onnx_ir as ir
import pytest

from raceline import engines
from raceline.convert.build import Builder
from raceline.core.errors import BadModelError
from raceline.ir import Provenance, run_reference

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
AVERAGE, SUM, MIN, MAX = range(4)


def ensemble(modes=(LT,) * 6, *, how=SUM, after=0, members=(), targets=(0, 1, 0, 1, 0, 1, 0, 1)):
    """Two trees of three nodes over four columns, and what they are made into."""
    modes = np.array(modes, np.uint8)
    b = Builder("trees")
    x = b.input("x", np.float32, ["rows", 4])
    y = b.op(
        "TreeEnsemble", x, domain="ai.onnx.ml", n_targets=2, aggregate_function=how, post_transform=after,
        tree_roots=[0, 3], nodes_featureids=[0, 1, 2, 3, 0, 1], nodes_modes=ir.tensor(modes),
        nodes_splits=ir.tensor(np.array([0, 0.5, -0.5, 1, 0, 0], np.float32)),
        nodes_truenodeids=[1, 0, 2, 4, 4, 6], nodes_trueleafs=[0, 1, 1, 0, 1, 1],
        nodes_falsenodeids=[2, 1, 3, 5, 5, 7], nodes_falseleafs=[0, 1, 1, 0, 1, 1],
        nodes_missing_value_tracks_true=[1, 0, 1, 0, 1, 0],
        leaf_targetids=list(targets), leaf_weights=ir.tensor(np.arange(1, 9, dtype=np.float32)),
        membership_values=ir.tensor(np.array(members, np.float32)) if members else None,
    )  # fmt: skip
    assert b.shape(y) == ("rows", 2) and b.dtype(y) == np.float32
    b.output(y, "y")
    return b.model(Provenance(source="here", source_format="test"))


def rows():
    x = np.random.default_rng(0).integers(-2, 3, (50, 4)).astype(np.float32) / 2
    x[::7, 1] = x[::5, 0] = np.nan
    return x


def same(model):
    x = rows()
    found = run_reference(model, {"x": x})["y"]
    session = engines.load("onnxruntime").load(model, engines.Options())
    np.testing.assert_allclose(found, session.run({"x": x})["y"], rtol=1e-6)
    assert len(np.unique(found)) > 2


@pytest.mark.parametrize("mode", [LEQ, LT, GTE, GT, EQ, NEQ])
def test_each_comparison(mode):
    same(ensemble((mode,) * 6))


def test_sets_between_marks_that_are_no_numbers():
    nan = np.nan
    modes = (MEMBER, LT, MEMBER, MEMBER, GT, LEQ)
    same(ensemble(modes, members=(0.5, 1, nan, -1, nan, 0, nan)))


@pytest.mark.parametrize("how", [AVERAGE, SUM])
def test_each_way_to_bring_trees_together(how):
    same(ensemble(how=how))


@pytest.mark.parametrize("how", [MIN, MAX])
def test_extremes(how):
    same(ensemble(how=how, targets=(0,) * 8))


def test_what_comes_after():
    """By the standard's numbers; ONNX Runtime 1.32 takes 1 for LOGISTIC and 2 for SOFTMAX."""
    x = rows()
    plain, softmax, logistic, softmax_zero = (
        run_reference(ensemble(after=after), {"x": x})["y"].astype(np.float64) for after in range(4)
    )
    powers = np.exp(plain)
    np.testing.assert_allclose(softmax, powers / powers.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(logistic, 1 / (1 + 1 / powers), rtol=1e-5)
    zero = np.where(plain == 0, 0, powers)
    np.testing.assert_allclose(softmax_zero, zero / zero.sum(1, keepdims=True), rtol=1e-5)


def test_trees_of_one_leaf():
    b = Builder("leaf")
    x = b.input("x", np.float32, ["rows", 1])
    y = b.op(
        "TreeEnsemble", x, domain="ai.onnx.ml", n_targets=1, tree_roots=[0, 1], nodes_featureids=[0, 0],
        nodes_modes=ir.tensor(np.array([LT, LEQ], np.uint8)),
        nodes_splits=ir.tensor(np.zeros(2, np.float32)),
        nodes_truenodeids=[0, 2], nodes_trueleafs=[1, 1], nodes_falsenodeids=[1, 2], nodes_falseleafs=[1, 1],
        leaf_targetids=[0, 0, 0], leaf_weights=ir.tensor(np.float32([1, 2, 100])),
    )  # fmt: skip
    b.output(y, "y")
    model = b.model(Provenance(source="here", source_format="test"))
    x = np.float32([[-1], [1]])
    assert run_reference(model, {"x": x})["y"].reshape(-1).tolist() == [101, 102]


def test_circles_end():
    model = ensemble()
    node = model.program.graph[0]
    node.attributes["nodes_trueleafs"] = ir.AttrInt64s("nodes_trueleafs", [0] * 6)
    node.attributes["nodes_truenodeids"] = ir.AttrInt64s("nodes_truenodeids", [0] * 6)
    with pytest.raises(BadModelError, match="circles"):
        run_reference(model, {"x": -np.ones((3, 4), np.float32)})


def test_other_weights_must_be_numbers():
    with pytest.raises(BadModelError, match="NaN"):
        b = Builder("nan")
        x = b.input("x", np.float32, ["rows"])
        b.output(b.op("Add", x, np.array([np.nan], np.float32)), "y")
        b.model(Provenance(source="here", source_format="test"))


def test_a_lone_nan_that_is_chosen_is_meant():
    b = Builder("undefined")
    x, there = b.input("x", np.float32, ["rows"]), b.input("there", np.bool_, ["rows"])
    b.output(b.op("Where", there, x, np.float32(np.nan)), "y")
    model = b.model(Provenance(source="here", source_format="test"))
    feeds = {"x": np.float32([1, 2]), "there": np.array([True, False])}
    np.testing.assert_array_equal(run_reference(model, feeds)["y"], [1, np.nan])
