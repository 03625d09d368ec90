"""Our protocol file is the public one, field by field, and lives beside a client's copy without a clash."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from raceline.serve.messages import SERVICE, message, pool, rpcs

ROOT = Path(__file__).parents[2]


def fields(descriptor):
    """All that matters of a message's fields on the wire and in generated code."""
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    oneofs = [oneof.name for oneof in proto.oneof_decl]
    return {
        (
            f.name,
            f.number,
            f.type,
            f.label,
            f.type_name,
            oneofs[f.oneof_index] if f.HasField("oneof_index") else "",
        )
        for f in proto.field
    }


def messages(file):
    """Every message of a file, nested ones included, by full name."""
    todo = list(file.message_types_by_name.values())
    while todo:
        descriptor = todo.pop()
        todo += descriptor.nested_types
        yield descriptor


def enums(file):
    yield from file.enum_types_by_name.values()
    for descriptor in messages(file):
        yield from descriptor.enum_types


FILES = (model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR)
THEIRS = {descriptor.full_name: descriptor for file in FILES for descriptor in messages(file)}


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_message_is_the_public_one(name):
    ours, theirs = fields(pool().FindMessageTypeByName(name)), fields(THEIRS[name])
    assert theirs <= ours
    newer = {field[:2] for field in ours - theirs}  # fields of later clients; see the next test
    assert not {number for _, number in newer} & {field[1] for field in theirs}


def test_fields_beyond_the_oldest_client_are_few_and_known():
    """Later versions of the client added these; anything else here would be an invention of ours."""
    ours = {
        f"{d.full_name}.{f.name}": f.number
        for name in THEIRS
        for d in [pool().FindMessageTypeByName(name)]
        for f in d.fields
        if f.name not in THEIRS[name].fields_by_name
    }
    known = {
        "inference.ModelInput.is_non_linear_format_io": 9,
        "inference.ModelOutput.is_non_linear_format_io": 7,
        "inference.ModelEnsembling.max_inflight_requests": 2,
        "inference.ModelConfig.runtime": 25,
        "inference.ModelConfig.model_metrics": 26,
        "inference.ModelStatistics.response_stats": 9,
    }
    assert ours.items() <= known.items()


def test_enums_are_the_public_ones():
    for file in FILES:
        for theirs in enums(file):
            ours = pool().FindEnumTypeByName(theirs.full_name)
            assert [(v.name, v.number) for v in ours.values] == [(v.name, v.number) for v in theirs.values]


def test_procedures_are_the_public_ones():
    (theirs,) = service_pb2.DESCRIPTOR.services_by_name.values()
    assert theirs.full_name == SERVICE
    expected = {
        m.name: (m.input_type.full_name, m.output_type.full_name, m.server_streaming, m.client_streaming)
        for m in theirs.methods
    }
    ours = {
        m.name: (m.input_type.full_name, m.output_type.full_name, m.server_streaming, m.client_streaming)
        for m in pool().FindServiceByName(SERVICE).methods
    }
    assert ours == expected
    assert set(rpcs()) == set(expected)


def test_both_copies_live_in_one_process():
    theirs = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"12"])
    theirs.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    ours = message("ModelInferRequest").FromString(theirs.SerializeToString())
    assert (ours.model_name, ours.inputs[0].shape[:], ours.raw_input_contents[:]) == ("m", [1, 2], [b"12"])
    assert type(ours) is not type(theirs)


def test_the_compiled_file_is_up_to_date(tmp_path):
    pytest.importorskip("grpc_tools")
    fresh = tmp_path / "fresh.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", f"--descriptor_set_out={fresh}"]
    subprocess.run([*command, "protos/kserve_v2.proto"], cwd=ROOT, check=True)
    committed = ROOT / "src/raceline/serve/kserve_v2.binpb"
    sets = []
    for file in (fresh, committed):
        sets.append(descriptor_pb2.FileDescriptorSet())
        sets[-1].ParseFromString(file.read_bytes())
    assert sets[0] == sets[1], "run `make protos`"
