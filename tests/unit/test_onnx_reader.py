"""The ONNX reader: what it makes of sound models, and that nothing else gets through."""

import hashlib
import logging
import os
import resource

import ir_models as m
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Limits, run_reference


def test_a_sound_model_reads_with_its_provenance(tmp_path):
    model = m.perceptron()
    model.producer_name, model.producer_version = "trainer", "7"
    got = m.read(model, tmp_path)
    assert [str(s) for s in got.signature.inputs] == ["x: float32[batch, 4]"]
    assert [str(s) for s in got.signature.outputs] == ["y: float32[batch, 3]"]
    assert got.signature.batch_axis is None
    assert got.provenance.source == "model.onnx"
    assert got.provenance.producer == "trainer 7"
    assert got.provenance.steps == ()
    assert got.provenance.source_sha256 == hashlib.sha256(model.SerializeToString()).hexdigest()


def test_a_read_model_computes_what_the_file_does(tmp_path):
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)}
    expected = m.judged(m.perceptron(), feeds)
    for model in (m.perceptron(), m.fused(), m.external(tmp_path)):
        got = run_reference(m.read(model, tmp_path), feeds)
        np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-6)


# External data ----------------------------------------------------------------------------------------------


def test_external_weights_are_mapped_when_used_and_part_of_the_digest(tmp_path):
    model = m.external(tmp_path, offset=64)
    got = m.read(model, tmp_path)
    weight = got.program.graph.initializers["w"].const_value
    assert isinstance(weight, onnx_ir.ExternalTensor)
    digest = hashlib.sha256(model.SerializeToString() + (tmp_path / "w.bin").read_bytes()).hexdigest()
    assert got.provenance.source_sha256 == digest


def test_external_data_may_lie_in_a_folder_below(tmp_path):
    (tmp_path / "deep").mkdir()
    model = m.external(tmp_path, location="deep/w.bin")
    (tmp_path / "w.bin").rename(tmp_path / "deep" / "w.bin")
    assert m.read(model, tmp_path).signature.inputs


@pytest.mark.parametrize(
    "change",
    [
        {"location": "../w.bin"},
        {"location": "deep/../../w.bin"},
        {"location": "/etc/passwd"},
        {"location": ""},
        {"location": "."},
        {"location": "absent.bin"},
        {"location": "w.bin\0"},
        {"location": "x" * 5000},
        {"offset": 1},
        {"offset": -8},
        {"offset": 10**30},
        {"offset": "four"},
        {"length": 47},
        {"length": 10**12},
        {"length": -48},
    ],
    ids=str,
)
def test_external_data_that_is_not_there_is_refused(tmp_path, change):
    model = m.external(tmp_path, **{"values": np.ones(12), **change})
    (tmp_path / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())
    (tmp_path.parent / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())
    with pytest.raises(BadModelError, match="'w'"):
        m.read(model, tmp_path)


def test_external_data_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    model = m.external(tmp_path)
    (inside / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(BadModelError, match="outside the model's folder"):
        m.read(model, inside)


def test_external_data_in_a_linked_folder_is_refused(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    model = m.external(tmp_path, location="out/w.bin")
    (inside / "out").symlink_to(tmp_path)
    with pytest.raises(BadModelError, match="outside the model's folder"):
        m.read(model, inside)


def test_a_link_that_stays_inside_is_fine(tmp_path):
    model = m.external(tmp_path, location="link.bin")
    (tmp_path / "link.bin").symlink_to("w.bin")
    assert m.read(model, tmp_path).signature.inputs


def test_external_data_of_several_hard_links_is_refused(tmp_path):
    model = m.external(tmp_path)
    os.link(tmp_path / "w.bin", tmp_path / "other.bin")
    with pytest.raises(BadModelError, match="hard links"):
        m.read(model, tmp_path)


def test_a_pipe_is_no_external_data_and_does_not_block(tmp_path):
    model = m.external(tmp_path, write=False)
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(BadModelError, match="no plain file"):
        m.read(model, tmp_path)


# Versions ---------------------------------------------------------------------------------------------------


def test_old_models_list_their_weights_as_inputs(tmp_path):
    model = m.perceptron(ir_version=3, opset=9)
    model.graph.input.extend([m.info("w", [4, 3]), m.info("b", [3])])
    got = m.read(model, tmp_path)
    assert [s.name for s in got.signature.inputs] == ["x"]
    assert got.provenance.steps == ()


def test_an_input_with_a_default_is_fixed_and_that_is_told(tmp_path):
    model = m.perceptron()
    model.graph.input.append(m.info("b", [3]))
    got = m.read(model, tmp_path)
    assert [s.name for s in got.signature.inputs] == ["x"]
    assert got.provenance.steps == ("Fixed 1 input at the default value (b).",)


@pytest.mark.parametrize("version", [14, 99])
def test_a_newer_ir_version_reads_and_is_told(tmp_path, version):
    got = m.read(m.perceptron(ir_version=version), tmp_path)
    assert got.program.ir_version == version
    assert f"IR version {version}" in got.provenance.steps[0]


def test_an_opset_newer_than_engines_promise_is_told(tmp_path):
    got = m.read(m.perceptron(opset=onnx.defs.onnx_opset_version()), tmp_path)
    assert any("newer than 26" in step for step in got.provenance.steps)
    assert got.program.opset_imports[""] == onnx.defs.onnx_opset_version()


def test_an_opset_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(BadModelError, match="opset 999"):
        m.read(m.perceptron(opset=999), tmp_path)


# Axes -------------------------------------------------------------------------------------------------------


def with_input_shape(shape, **changes):
    relu = helper.make_node("Relu", ["x"], ["y"])
    value = m.info("x", shape)
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(size, int):
            dim.dim_value = size  # make_tensor_value_info would drop what is negative
    return m.proto([relu], [value], [m.info("y", [None] * len(shape))], **changes)


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ([-1, 3, "?", "?"], ("batch", 3, "height", "width")),
        ([0, 3, 0, 0], ("batch", 3, "height", "width")),
        ([None, 8, 8, 3], ("batch", 8, 8, 3)),
        ([None, None, None, 3], ("batch", "height", "width", 3)),
        ([1, "", 64], (1, "x_axis1", 64)),
        (["n", "?"], ("n", "x_axis1")),
        (["?"], ("x_axis0",)),
        ([None, "batch"], ("batch_2", "batch")),
        ([], ()),
    ],
    ids=str,
)
def test_open_axes_get_names_of_their_own(tmp_path, declared, named):
    got = m.read(with_input_shape(declared), tmp_path)
    assert got.signature.inputs[0].shape == named
    assert got.signature.outputs[0].shape == named  # inference follows them through Relu


def test_open_axes_of_several_inputs_are_not_tied_together(tmp_path):
    add = helper.make_node("Concat", ["a", "b"], ["y"], axis=0)
    model = m.proto([add], [m.info("a", ["?", 2]), m.info("b", ["?", 2])], [m.info("y", ["?", 2])])
    got = m.read(model, tmp_path)
    assert got.signature.dynamic_axes == ("a_batch", "b_batch")


def test_an_output_without_a_shape_is_inferred(tmp_path):
    model = m.perceptron()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert m.read(model, tmp_path).signature.outputs[0].shape == ("batch", 3)


def test_an_output_without_a_type_is_inferred(tmp_path):
    model = m.perceptron()
    model.graph.output[0].type.tensor_type.elem_type = 0
    assert str(m.read(model, tmp_path).signature.outputs[0]) == "y: float32[batch, 3]"


def test_an_input_without_a_type_is_refused(tmp_path):
    model = m.perceptron()
    model.graph.input[0].type.tensor_type.elem_type = 0
    with pytest.raises(BadModelError, match="element type"):
        m.read(model, tmp_path)


def test_an_input_without_a_shape_is_refused(tmp_path):
    model = m.perceptron()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(BadModelError, match="how many axes"):
        m.read(model, tmp_path)


def test_a_sequence_is_no_output_of_a_deployable_model(tmp_path):
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    model = m.proto([node], [m.info("x", [2])], [helper.make_value_info("y", kind)])
    with pytest.raises(BadModelError, match="only tensors"):
        m.read(model, tmp_path)


# Bad input --------------------------------------------------------------------------------------------------


def test_every_truncation_of_a_model_is_refused(tmp_path):
    data = m.fused().SerializeToString()
    for end in range(len(data)):
        with pytest.raises(BadModelError):
            m.read(data[:end], tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage that is no protobuf", b"\x08\x08", b"PK\x03\x04" * 100, b"\xff" * 64, b"\0" * 64],
)
def test_garbage_is_refused_and_not_recognised(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert not reader.recognises(path)
    with pytest.raises(BadModelError, match=r"model\.onnx"):
        reader.read(path)


def test_a_folder_and_an_absent_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.onnx"):
        assert not reader.recognises(path)
        with pytest.raises(BadModelError):
            reader.read(path)


def test_a_saved_model_of_another_framework_is_not_recognised(tmp_path):
    path = tmp_path / "saved_model.pb"  # schema version 1, then one large meta graph
    path.write_bytes(b"\x08\x01\x12\xe8\x07" + b"\0" * 1000)
    assert not reader.recognises(path)


def test_a_model_cut_inside_its_graph_is_recognised(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(m.perceptron().SerializeToString()[:100])
    assert reader.recognises(path)


def claims_too_much():
    model = m.perceptron()
    weight = model.graph.initializer[0]
    del weight.dims[:]
    weight.dims.extend([10**9, 4])
    return model


def test_a_claim_of_a_billion_elements_costs_nothing(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadModelError, match="needs 16000000000 bytes and has 48"):
        m.read(claims_too_much(), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def mutated(change):
    model = m.perceptron()
    change(model)
    return model


def _rename(model, node, name):
    model.graph.node[node].output[0] = name


def _cycle(model):
    model.graph.node[0].input[0] = "s"


def _no_name(model):
    model.graph.initializer[0].name = ""


def _negative(model):
    model.graph.initializer[0].dims[0] = -4


def _wrong_field(model):
    weight = model.graph.initializer[1]
    weight.ClearField("raw_data")
    weight.int32_data.extend([1, 2, 3])


def _unknown_type(model):
    model.graph.initializer[0].data_type = 999


def _sparse(model):
    model.graph.sparse_initializer.add().values.name = "s"


def _no_opset(model):
    del model.opset_import[:]


def _two_opsets(model):
    model.opset_import.add(domain="ai.onnx", version=11)


def _duplicate_weight(model):
    model.graph.initializer.append(model.graph.initializer[0])


def _ghost_output(model):
    model.graph.output[0].name = "ghost"


def _no_outputs(model):
    del model.graph.output[:]


def _wrong_attribute(model):
    model.graph.node[2].attribute.append(helper.make_attribute("axis", "sideways"))


def _empty_weight(model):
    weight = model.graph.initializer[0]
    weight.dims[0] = 0
    weight.raw_data = b""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


def _shapes(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: _rename(model, 1, "h"), "writes 'h', which exists already"),
        (lambda model: _rename(model, 1, "w"), "writes 'w', which exists already"),
        (lambda model: _rename(model, 0, "lost"), "reads 'h' which nothing writes"),
        (_cycle, "a cycle"),
        (_no_name, "has no name"),
        (_negative, "impossible shape"),
        (_wrong_field, "field of another type"),
        (_unknown_type, "unknown element type 999"),
        (_sparse, "sparse"),
        (_no_opset, "no opset"),
        (_two_opsets, "opset of 'ai.onnx' is declared 2 times"),
        (_duplicate_weight, "initializer 'w' is declared 2 times"),
        (_ghost_output, "'ghost' is produced by nothing"),
        (_no_outputs, "no outputs"),
        (_wrong_attribute, "axis"),
        (_empty_weight, "empty shape"),
        (_shapes, "do not fit together"),
    ],
)
def test_a_broken_graph_is_refused_with_its_reason(tmp_path, change, message):
    with pytest.raises(BadModelError, match=message):
        m.read(mutated(change), tmp_path)


def test_all_problems_are_told_at_once(tmp_path):
    model = m.perceptron()
    _rename(model, 0, "lost")
    _negative(model)
    _ghost_output(model)
    with pytest.raises(BadModelError) as caught:
        m.read(model, tmp_path)
    assert all(word in str(caught.value) for word in ("lost", "impossible shape", "ghost")) or (
        all(word in str(caught.value) for word in ("nothing writes", "impossible shape", "ghost"))
    )


def test_nodes_out_of_order_are_sorted_and_that_is_told(tmp_path):
    model = m.perceptron()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    got = m.read(model, tmp_path)
    assert [node.op_type for node in got.program.graph] == ["MatMul", "Add", "Relu"]
    assert "order" in got.provenance.steps[0]


def test_all_unknown_operators_are_listed_wherever_they_stand(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Inside", ["x"], ["t"], name="deep")], "then", [], [m.info("t", [2])]
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [m.info("e", [2])])
    body = [helper.make_node("InFunction", ["a"], ["c"], name="body")]
    function = helper.make_function("mine", "F", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=inner, else_branch=other),
        helper.make_node("F", ["i"], ["f"], domain="mine"),
        helper.make_node("Plugin", ["f"], ["p"], domain="vendor", name="one"),
        helper.make_node("Plugin", ["p"], ["q"], domain="vendor", name="two"),
        helper.make_node("NoSuch", ["q"], ["r"], domain="com.microsoft", name="contrib"),
        helper.make_node("Gelu", ["r"], ["y"], name="too new for opset 17"),
    ]
    model = m.proto(
        nodes, [m.info("x", [2]), m.info("c", [], TensorProto.BOOL)], [m.info("y", [2])],
        functions=[function], domains=["mine", "vendor", "com.microsoft"],
    )  # fmt: skip
    with pytest.raises(UnsupportedOperatorError) as caught:
        m.read(model, tmp_path)
    assert caught.value.uses == {
        "ai.onnx.Inside at opset 17": ["deep"],
        "ai.onnx.InFunction at opset 17": ["body"],
        "vendor.Plugin at opset 1": ["one", "two"],
        "com.microsoft.NoSuch at opset 1": ["contrib"],
        "ai.onnx.Gelu at opset 17": ["too new for opset 17"],
    }


def test_a_contributed_operator_of_onnx_runtime_is_known(tmp_path):
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    model = m.proto([node], [m.info("x", [2])], [m.info("y", [2])], domains=["com.microsoft"])
    assert m.read(model, tmp_path).signature.outputs[0].shape == (2,)


def test_the_contributed_operators_are_those_of_the_installed_runtime():
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    from raceline.ir.operators import CONTRIB_DOMAIN, CONTRIB_OPERATORS

    installed = {s.name for s in get_all_operator_schema() if s.domain == CONTRIB_DOMAIN}
    assert len(CONTRIB_OPERATORS & installed) >= 100
    assert CONTRIB_OPERATORS <= installed


def test_functions_that_call_each_other_are_refused(tmp_path):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [
        helper.make_function(
            "mine", a, ["x"], ["y"], [helper.make_node(b, ["x"], ["y"], domain="mine")], opsets
        )
        for a, b in (("F", "G"), ("G", "F"))
    ]
    node = helper.make_node("F", ["x"], ["y"], domain="mine")
    model = m.proto([node], [m.info("x", [2])], [m.info("y", [2])], functions=functions, domains=["mine"])
    with pytest.raises(BadModelError, match="in a circle"):
        m.read(model, tmp_path)


# Limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_model_bytes=300), "too large"),
        (Limits(max_nodes=2), "3 nodes, more than the limit of 2"),
        (Limits(max_name_chars=6), "a name of 7 characters"),
    ],
)
def test_a_model_beyond_a_limit_is_refused(tmp_path, limits, message):
    with pytest.raises(BadModelError, match=message):
        m.read(m.perceptron(), tmp_path, limits=limits)


def test_external_weights_count_towards_the_memory_limit(tmp_path):
    model = m.external(tmp_path, values=np.ones((4, 3)))
    limit = len(model.SerializeToString()) * 200
    assert m.read(model, tmp_path, limits=Limits(max_model_bytes=limit))
    model.graph.initializer[0].dims[0] = 400_000
    model.graph.initializer[0].external_data[2].value = str(400_000 * 12)
    (tmp_path / "w.bin").write_bytes(bytes(400_000 * 12))
    with pytest.raises(BadModelError, match="too large"):
        m.read(model, tmp_path, limits=Limits(max_model_bytes=limit))


def test_a_file_that_would_swell_when_parsed_is_refused_unparsed(tmp_path, monkeypatch):
    bomb = b"\x08\x08" + b"\x3a" + b"\xc0\x9a\x0c" + b"\x0a\x00" * 100_000  # a graph of empty nodes
    monkeypatch.setattr(onnx.ModelProto, "ParseFromString", None, raising=False)
    with pytest.raises(BadModelError, match="too large"):
        m.read(bomb, tmp_path, limits=Limits(max_model_bytes=20_000_000))


def test_the_default_limit_is_a_share_of_this_machine(monkeypatch):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < Limits().max_model_bytes < total


# Numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["embedded", "external", "constant"])
def test_nan_weights_are_refused_by_name(tmp_path, place):
    values = np.ones((4, 3), np.float32)
    values[1, 2] = np.nan
    if place == "external":
        model = m.external(tmp_path, values=values)
    else:
        model = m.perceptron()
        model.graph.initializer[0].raw_data = values.tobytes()
    if place == "constant":
        constant = helper.make_node("Constant", [], ["w"], value=model.graph.initializer[0])
        model.graph.node.insert(0, constant)
        del model.graph.initializer[0]
    with pytest.raises(BadModelError, match="weight 'w' holds 1 NaN of 12"):
        m.read(model, tmp_path)
    got = m.read(model, tmp_path, limits=Limits(allow_nan=True))
    assert got.provenance.steps == ("Weight 'w' holds 1 NaN and 0 infinite elements.",)


def test_infinite_weights_pass_with_a_warning(tmp_path, caplog):
    model = m.perceptron()
    model.graph.initializer[1].raw_data = np.array([0, -np.inf, np.inf], np.float32).tobytes()
    with caplog.at_level(logging.WARNING):
        got = m.read(model, tmp_path)
    assert got.provenance.steps == ("Weight 'b' holds 0 NaN and 2 infinite elements.",)
    assert "2 infinite" in caplog.text


# Real models ------------------------------------------------------------------------------------------------

EXPECTED = {
    "basic-pitch": "serving_default_input_2:0: float32[unk__749, 43844, 1]",
    "magika": "bytes: int32[unk__214, 2048]",
    "nudenet": "images: float32[batch, 3, height, width]",
    "ocr-cls": "x: float32[batch, 3, height, width]",
    "ocr-det": "x: float32[p2o.DynamicDimension.0, 3, p2o.DynamicDimension.1, p2o.DynamicDimension.2]",
    "ocr-rec": "x: float32[p2o.DynamicDimension.0, 3, height, p2o.DynamicDimension.1]",
    "silero": "input: float32[input_batch, input_axis1]",
    "silero-16k": "input: float32[batch, sequence]",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_models_read_with_named_axes(name):
    model = m.read_real(name)
    assert str(model.signature.inputs[0]) == EXPECTED[name]
    assert reader.recognises(m.real_path(name))
    assert all(dim != 0 for spec in model.signature.outputs for dim in spec.shape)


def test_an_opset_that_is_said_twice_alike_is_taken_once(tmp_path):
    proto = m.perceptron()
    proto.opset_import.add(domain="ai.onnx", version=proto.opset_import[0].version)
    model = m.read(proto.SerializeToString(), tmp_path)
    assert any("twice" in step for step in model.provenance.steps)


def test_an_equation_that_is_none_is_told(tmp_path):
    """onnx's shape inference never ends on it."""
    node = helper.make_node("Einsum", ["x", "x"], ["y"], name="product", equation="...i2,...jk->...ik")
    with pytest.raises(BadModelError, match=r"'product' \(Einsum\).*none of letters"):
        m.read(m.proto([node], [m.info("x", [2, 2])], [m.info("y", [2, 2])]), tmp_path)
