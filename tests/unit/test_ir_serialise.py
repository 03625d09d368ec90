"""ONNX written for engines, and the digest that names a model."""

import hashlib
import resource

import ir_models as m
import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError
from raceline.ir import IR_VERSION_CAP, OPSET_CAP, Limits, check, structural_sha256, to_proto, write_onnx
from raceline.ir import weights as tensors
from raceline.ir.serialise import inlined, write_weights

FEEDS = {"x": np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)}


@pytest.fixture
def expected():
    return m.judged(m.perceptron(), FEEDS)["y"]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("build", [m.perceptron, m.fused])
def test_a_message_runs_and_leaves_the_model_alone(tmp_path, expected, build, inline):
    model = m.read(build(), tmp_path)
    before = structural_sha256(model)
    proto = to_proto(model, inline=inline)
    assert bool(proto.functions) == (build is m.fused and not inline)
    np.testing.assert_allclose(m.judged(proto, FEEDS)["y"], expected, rtol=1e-6)
    assert structural_sha256(model) == before
    check(model)


def test_external_weights_are_embedded_in_a_message(tmp_path, expected):
    proto = to_proto(m.read(m.external(tmp_path), tmp_path))
    (tmp_path / "w.bin").unlink()
    np.testing.assert_allclose(m.judged(proto, FEEDS)["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "written"), [(3, 8), (8, 8), (11, 11), (14, IR_VERSION_CAP), (99, IR_VERSION_CAP)]
)
def test_the_ir_version_is_one_that_engines_take(tmp_path, given, written):
    model = m.perceptron(ir_version=given)
    if given == 3:
        model.graph.input.extend([m.info("w", [4, 3]), m.info("b", [3])])
    proto = to_proto(m.read(model, tmp_path))
    assert proto.ir_version == written
    assert m.session(proto)


def test_a_model_at_both_caps_is_taken_by_the_runtime():
    assert m.session(m.perceptron(opset=OPSET_CAP, ir_version=IR_VERSION_CAP))


# Files ------------------------------------------------------------------------------------------------------


def test_a_file_holds_all_where_all_fits(tmp_path, expected):
    files = write_onnx(m.read(m.fused(), tmp_path), tmp_path / "out.onnx")
    assert files == [tmp_path / "out.onnx"]
    assert not onnx.load(files[0]).functions
    np.testing.assert_allclose(m.judged(files[0], FEEDS)["y"], expected, rtol=1e-6)


def test_weights_over_the_threshold_go_into_an_aligned_file(tmp_path, expected):
    model = m.read(m.fused(), tmp_path)
    files = write_onnx(model, tmp_path / "out.onnx", external_threshold_bytes=8, inline_functions=False)
    assert files == [tmp_path / "out.onnx", tmp_path / "out.onnx.data"]
    again = reader.read(files[0])
    assert list(again.program.functions) == list(model.program.functions)
    found = [v.const_value for v in again.program.graph.initializers.values()]
    assert all(isinstance(t, onnx_ir.ExternalTensor) and t.offset % 64 == 0 for t in found)
    np.testing.assert_allclose(m.judged(files[0], FEEDS)["y"], expected, rtol=1e-6)
    assert structural_sha256(again) == structural_sha256(model)


def test_weights_that_lie_there_already_are_not_written_again(tmp_path, expected):
    model = m.read(m.external(tmp_path), tmp_path)
    before = (tmp_path / "w.bin").stat().st_mtime_ns
    files = write_onnx(model, tmp_path / "out.onnx", external_threshold_bytes=20)
    assert files == [tmp_path / "out.onnx"]
    assert (tmp_path / "w.bin").stat().st_mtime_ns == before
    np.testing.assert_allclose(m.judged(files[0], FEEDS)["y"], expected, rtol=1e-6)


def test_a_weights_file_that_is_in_use_is_never_overwritten(tmp_path, expected):
    first = write_onnx(m.read(m.perceptron(), tmp_path), tmp_path / "out.onnx", external_threshold_bytes=8)
    model = reader.read(first[0])
    bias = model.program.graph.initializers["b"]
    bias.const_value = onnx_ir.Tensor(bias.const_value.numpy().copy(), name="b")  # as a pass would
    again = write_onnx(model, tmp_path / "out.onnx", external_threshold_bytes=8)
    assert again[1].name == "out.onnx.1.data"
    np.testing.assert_allclose(m.judged(again[0], FEEDS)["y"], expected, rtol=1e-6)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "out.onnx"
    write_onnx(m.read(m.perceptron(), tmp_path), path)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_onnx(reader.read(path), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


def test_every_element_type_is_written_as_onnx_stores_it(tmp_path):
    made = {
        "half": np.arange(5, dtype=np.float16),
        "brain": np.arange(5).astype(ml_dtypes.bfloat16),
        "quarter": np.arange(5).astype(ml_dtypes.float8_e4m3fn),
        "nibbles": np.arange(-4, 3).astype(ml_dtypes.int4),
        "flags": np.array([True, False]),
        "scalar": np.array(3.5),
        "none": np.zeros((0, 3), np.float32),
        "big": np.arange(3000, dtype=">i4"),
    }
    values = [onnx_ir.Tensor(a.astype(a.dtype.newbyteorder("=")) if n == "big" else a, name=n)
              for n, a in made.items()]  # fmt: skip
    sha = hashlib.sha256()
    with (tmp_path / "w.bin").open("wb") as file:
        extents = write_weights(values, file, sha)
    content = (tmp_path / "w.bin").read_bytes()
    assert sha.hexdigest() == hashlib.sha256(content).hexdigest()
    for value, extent in zip(values, extents, strict=True):
        assert extent.length == value.nbytes
        assert extent.offset % (4096 if value.nbytes >= 4096 else 64) == 0
        assert content[extent.offset : extent.offset + extent.length] == value.tobytes()


def test_over_two_gigabytes_do_not_fit_into_a_message(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    huge = np.broadcast_to(np.float32(0), (600_000_000, 1))  # takes no memory
    model.program.graph.initializers["b"].const_value = onnx_ir.Tensor(huge, name="b")
    with pytest.raises(BadModelError, match="write_onnx"):
        to_proto(model)


# The digest -------------------------------------------------------------------------------------------------


def digest(model, folder, **limits):
    return structural_sha256(m.read(model, folder, limits=Limits(**limits)))


def test_the_digest_names_what_is_computed_not_where_it_lies(tmp_path):
    base = digest(m.perceptron(), tmp_path)
    renamed = m.perceptron(ir_version=9)
    renamed.producer_name, renamed.doc_string, renamed.graph.name = "else", "notes", "other"
    renamed.graph.node[0].name = "other"
    renamed.graph.value_info.append(m.info("h", ["batch", 3]))
    renamed.metadata_props.add(key="date", value="today")
    assert digest(renamed, tmp_path) == base
    assert digest(m.external(tmp_path), tmp_path) == base
    typed = m.perceptron()
    weight = typed.graph.initializer[0]
    weight.float_data.extend(np.frombuffer(weight.raw_data, np.float32).tolist())
    weight.ClearField("raw_data")
    assert digest(typed, tmp_path) == base


def _weight(model):
    model.graph.initializer[0].raw_data = np.zeros(12, np.float32).tobytes()


def _operator(model):
    model.graph.node[2].op_type = "Sigmoid"


def _attribute(model):
    model.graph.node[2].op_type = "LeakyRelu"
    model.graph.node[2].attribute.append(helper.make_attribute("alpha", 0.3))


def _edge(model):
    model.graph.node[2].input[0] = "h"


def _opset(model):
    model.opset_import[0].version = 16


def _axis(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7


def test_anything_that_changes_the_results_changes_the_digest(tmp_path):
    digests = {digest(m.perceptron(), tmp_path), digest(m.fused(), tmp_path)}
    for change in (_weight, _operator, _attribute, _edge, _opset, _axis):
        model = m.perceptron()
        change(model)
        digests.add(digest(model, tmp_path))
    assert len(digests) == 8


def test_a_weight_is_hashed_once_in_its_life(tmp_path, monkeypatch):
    model = m.read(m.perceptron(), tmp_path)
    first = structural_sha256(model)
    monkeypatch.setattr(tensors, "chunks", None)
    assert structural_sha256(model.clone()) == first


# Inlining ---------------------------------------------------------------------------------------------------


def test_inlining_keeps_the_names_of_what_calls_write(tmp_path):
    model = m.read(m.fused(), tmp_path)
    flat = inlined(model.program)
    assert [node.op_type for node in flat.graph] == ["MatMul", "Add", "Relu"]
    assert flat.graph.outputs[0].name == "y"
    assert list(model.program.functions)


def test_a_function_of_another_opset_cannot_be_inlined(tmp_path):
    model = m.fused()
    model.opset_import[0].version = 18
    with pytest.raises(BadModelError, match="cannot be inlined"):
        m.read(model, tmp_path)


def test_a_model_with_branches_is_written_whole(tmp_path):
    branch = [
        helper.make_graph(
            [helper.make_node(op, ["x", "k"], [f"o{op}"])],
            op,
            [],
            [m.info(f"o{op}", [2])],
            [m.tensor("k", [3.0, 4])],
        )
        for op in ("Add", "Mul")
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])
    made = m.proto([node], [m.info("x", [2]), m.info("c", [], TensorProto.BOOL)], [m.info("y", [2])])
    files = write_onnx(m.read(made, tmp_path), tmp_path / "out.onnx", external_threshold_bytes=0)
    for flag, expected in ((True, [4, 6]), (False, [3, 8])):
        feeds = {"x": np.array([1, 2], np.float32), "c": np.array(flag)}
        np.testing.assert_array_equal(m.judged(files[0], feeds)["y"], expected)
