"""Oddities of sound files that the reader settles, so that every engine runs them; and those it refuses."""

import ir_models as m
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from opening import opened

from raceline import engines
from raceline.core.errors import BadModelError
from raceline.ir import Limits, run_reference

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, weights=(), **more):
    graph = helper.make_graph(nodes, "main", inputs, outputs, list(weights))
    more.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, ir_version=10, **more)


@pytest.mark.parametrize("name", engines.names())
def test_nodes_that_share_a_name_get_one_each(tmp_path, name):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="n"),
        helper.make_node("Sigmoid", ["a"], ["y"], name="n"),
    ]
    got = m.read(model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])]), tmp_path)
    assert len({node.name for node in got.program.graph}) == 2
    assert "shared a name (n)" in got.provenance.steps[0]
    x = {"x": np.ones((2, 4), np.float32)}
    session = opened(name, got, engines.Options())
    np.testing.assert_allclose(session.run(x)["y"], run_reference(got, x)["y"], rtol=1e-5)


@pytest.mark.parametrize("name", engines.names())
def test_an_output_that_is_a_weight_is_copied_by_a_node(tmp_path, name):
    taken = numpy_helper.from_array(np.zeros(4, np.float32), "w_weight")
    nodes = [helper.make_node("Add", ["x", "w_weight"], ["y"])]
    outputs = [value("y", ["N", 4]), value("w", [4, 3])]
    weights = [numpy_helper.from_array(WEIGHT, "w"), taken]
    got = m.read(model(nodes, [value("x", ["N", 4])], outputs, weights), tmp_path)
    assert "'w' is a weight" in got.provenance.steps[0]
    x = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(run_reference(got, x)["w"], WEIGHT)
    np.testing.assert_array_equal(opened(name, got, engines.Options()).run(x)["w"], WEIGHT)


@pytest.mark.parametrize("name", engines.names())
def test_small_external_weights_reach_every_engine(tmp_path, name):
    got = m.read(m.external(tmp_path), tmp_path)
    x = {"x": np.ones((2, 4), np.float32)}
    session = opened(name, got, engines.Options())
    np.testing.assert_allclose(session.run(x)["y"], run_reference(got, x)["y"], rtol=1e-5)


@pytest.mark.parametrize("size", [4, 1000])
@pytest.mark.parametrize("name", engines.names())
def test_weights_that_nothing_reads_do_no_harm(tmp_path, name, size):
    unread = numpy_helper.from_array(np.ones(size, np.float32), "unread")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    got = m.read(model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])], [unread]), tmp_path)
    x = {"x": np.ones((2, 4), np.float32)}
    for options in (
        engines.Options(),
        engines.Options(shapes={"x": (2, 4)}),
        engines.Options(optimise=False),
    ):
        session = opened(name, got, options)
        np.testing.assert_allclose(session.run(x)["y"], x["x"])


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
def test_types_that_are_for_weights_only_are_refused_at_the_edge(tmp_path, kind):
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    nodes = [helper.make_node("DequantizeLinear", ["x", "s"], ["y"])]
    proto = model(
        nodes, [value("x", ["N", 4], kind)], [value("y", ["N", 4])], [scale],
        opset_imports=[helper.make_opsetid("", 21)],
    )  # fmt: skip
    with pytest.raises(BadModelError, match="'x' is .*only as weights|only as weights.*'x' is"):
        m.read(proto, tmp_path)


def doubling(count):
    """Functions of which each calls the one before twice: 2 ** count nodes in a few hundred bytes."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    functions = []
    for level in range(count):
        inner = f"F{level - 1}" if level else "Relu"
        domain = "my" if level else ""
        nodes = [
            helper.make_node(inner, ["x"], ["h"], domain=domain),
            helper.make_node(inner, ["h"], ["y"], domain=domain),
        ]
        functions.append(helper.make_function("my", f"F{level}", ["x"], ["y"], nodes, imports))
    call = helper.make_node(f"F{count - 1}", ["x"], ["y"], domain="my")
    return model(
        [call], [value("x", ["N", 4])], [value("y", ["N", 4])], functions=functions, opset_imports=imports
    )


def test_functions_that_expand_without_end_are_refused_at_once(tmp_path):
    with pytest.raises(BadModelError, match="4294967296 nodes once its functions are expanded.*max_nodes"):
        m.read(doubling(32), tmp_path)
    assert m.read(doubling(3), tmp_path)
    with pytest.raises(BadModelError, match="64 nodes once"):
        m.read(doubling(6), tmp_path, limits=Limits(max_nodes=60))
