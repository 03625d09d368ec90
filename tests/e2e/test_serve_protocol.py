"""The official Triton client against a server in this process: health, metadata, inference, refusals."""

import re

import numpy as np
import pytest
import tritonclient.grpc as triton
from serve_doubles import KINDS, load_double, random_tensor, sessions, triton_input, wait_for, write_double
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from raceline.serve import Repository, Server
from raceline.serve.tensors import wire_name


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    for name in ("scale", "ragged", "single", "picky", "index", *(f"echo_{kind}" for kind in KINDS)):
        write_double(root, name, name)
    with Server(Repository([root], load=load_double), max_message_bytes=1 << 20).background() as server:
        yield server


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def stub(server):
    import grpc

    with grpc.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer(client, model, arrays, **options):
    return client.infer(model, [triton_input(name, array) for name, array in arrays.items()], **options)


def rows(count=2, seed=0):
    return np.random.default_rng(seed).random((count, 4), dtype=np.float32)


def refused(status):
    return pytest.raises(InferenceServerException, match=rf"StatusCode\.{status}")


# ---------------------------------------------------------------- health and metadata


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("scale")
    assert client.is_model_ready("scale", "1")
    assert not client.is_model_ready("nobody")


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata.name == "raceline"
    assert "model_repository" in metadata.extensions
    assert "system_shared_memory" not in metadata.extensions


def test_model_metadata(client):
    metadata = client.get_model_metadata("scale")
    assert (metadata.name, list(metadata.versions)) == ("scale", ["1"])
    (x,) = metadata.inputs
    assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, 4])
    assert [(t.name, list(t.shape)) for t in metadata.outputs] == [("y", [-1, 4]), ("total", [-1])]


def test_config_leaves_the_batch_axis_out(client):
    config = client.get_model_config("scale").config
    assert (config.max_batch_size, config.backend) == (8, "double")
    assert [list(tensor.dims) for tensor in config.output] == [[4], []]
    assert config.HasField("dynamic_batching")


def test_config_of_a_model_without_batch_axis(client):
    config = client.get_model_config("single").config
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4]
    assert not config.HasField("dynamic_batching")


# ---------------------------------------------------------------- inference


def test_infer(client):
    x = rows()
    answer = infer(client, "scale", {"x": x}, request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("y"), 2 * x + x.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(answer.as_numpy("total"), x.sum(1), rtol=1e-6)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "scale", "1")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bfloat16"])
def test_every_element_type_comes_back_as_it_went(client, kind):
    x = random_tensor(kind, (2, 3), np.random.default_rng(1))
    answer = infer(client, f"echo_{kind}", {"x": x})
    assert answer.get_output("y").datatype == wire_name(kind)
    y = answer.as_numpy("y")
    if kind == "object":
        y = np.vectorize(bytes.decode, otypes=[object])(y)
    np.testing.assert_array_equal(y, x.astype(y.dtype))


def test_bfloat16_comes_back_as_it_went(stub):
    """As raw contents: clients differ in which arrays they take for it."""
    x = random_tensor("bfloat16", (2, 3), np.random.default_rng(1))
    response = stub.ModelInfer(raw_request("echo_bfloat16", "BF16", (2, 3), (x.tobytes(),)))
    assert response.outputs[0].datatype == "BF16"
    assert response.raw_output_contents[0] == x.tobytes()


def test_a_model_without_batch_axis(client):
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(infer(client, "single", {"x": x}).as_numpy("y"), x[::-1])


def test_more_items_than_the_largest_batch_run_alone(client):
    x = rows(100)
    np.testing.assert_allclose(infer(client, "scale", {"x": x}).as_numpy("total"), x.sum(1), rtol=1e-5)


def test_only_the_outputs_asked_for(client):
    answer = infer(client, "scale", {"x": rows()}, outputs=[triton.InferRequestedOutput("total")])
    assert [tensor.name for tensor in answer.get_response().outputs] == ["total"]


def test_outputs_come_in_the_order_asked_for(client):
    wanted = [triton.InferRequestedOutput("total"), triton.InferRequestedOutput("y")]
    answer = infer(client, "scale", {"x": rows()}, outputs=wanted)
    assert [tensor.name for tensor in answer.get_response().outputs] == ["total", "y"]
    assert answer.as_numpy("total").shape == (2,)


TYPED = {
    "bool": ("bool_contents", [True, False, True]),
    "int8": ("int_contents", [-128, 0, 127]),
    "int64": ("int64_contents", [-(2**63), 0, 2**63 - 1]),
    "uint16": ("uint_contents", [0, 1, 65535]),
    "uint64": ("uint64_contents", [0, 1, 2**64 - 1]),
    "float32": ("fp32_contents", [0.5, -1.0, 2.0]),
    "float64": ("fp64_contents", [0.1, 0.2, 0.3]),
    "object": ("bytes_contents", [b"a", "é".encode(), b""]),
}


def typed_request(kind, field, values, shape=(1, 3)):
    request = service_pb2.ModelInferRequest(model_name=f"echo_{kind}")
    tensor = request.inputs.add(name="x", datatype=wire_name(kind), shape=shape)
    getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize("kind", TYPED)
def test_typed_contents(stub, kind):
    field, values = TYPED[kind]
    response = stub.ModelInfer(typed_request(kind, field, values))
    result = triton.InferResult(response).as_numpy("y").ravel()
    np.testing.assert_array_equal(result, np.array(values, result.dtype))


# ---------------------------------------------------------------- refusals


def test_unknown_model_and_version(client):
    with refused("NOT_FOUND") as caught:
        infer(client, "nobody", {"x": rows()})
    assert "'nobody'" in str(caught.value)
    assert "scale" in str(caught.value)
    with refused("NOT_FOUND"):
        infer(client, "scale", {"x": rows()}, model_version="7")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": rows().astype(np.float64)}, "input 'x' is FP64: it must be FP32"),
        ({"x": rows()[:, :3]}, r"input 'x' has shape \[2, 3\]"),
        ({"x": rows()[0]}, r"input 'x' has shape \[4\]"),
        ({"wrong": rows()}, "no input 'wrong'"),
        ({"x": rows(), "extra": rows()}, "no input 'extra'"),
        ({}, "missing 'x'"),
    ],
    ids=["type", "size", "rank", "name", "extra", "missing"],
)
def test_inputs_that_do_not_fit(client, arrays, says):
    with refused("INVALID_ARGUMENT") as caught:
        infer(client, "scale", arrays)
    caught.match(says)


def test_an_unknown_output(client):
    with refused("INVALID_ARGUMENT") as caught:
        infer(client, "scale", {"x": rows()}, outputs=[triton.InferRequestedOutput("z")])
    caught.match("no output 'z'.*y, total")


def raw_request(model="scale", datatype="FP32", shape=(2, 4), raw=(bytes(32),), **fields):
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    request.raw_input_contents.extend(raw)
    return request


def twice():
    request = raw_request(raw=(bytes(32), bytes(32)))
    request.inputs.add(name="x", datatype="FP32", shape=(2, 4))
    return request


def both():
    request = raw_request()
    request.inputs[0].contents.fp32_contents.extend([0.0] * 8)
    return request


def parameter(name, **value):
    request = raw_request()
    request.inputs[0].parameters[name].CopyFrom(service_pb2.InferParameter(**value))
    return request


def timeout(microseconds):
    request = raw_request()
    request.parameters["timeout"].int64_param = microseconds
    return request


MALFORMED = {
    "short raw contents": (raw_request(raw=(bytes(31),)), "31 bytes .* takes 32"),
    "long raw contents": (raw_request(raw=(bytes(36),)), "36 bytes .* takes 32"),
    "no contents": (raw_request(raw=()), r"0 values: shape \[2, 4\] takes 8"),
    "too many raw contents": (raw_request(raw=(bytes(32), bytes(32))), "1 inputs came with 2 raw"),
    "twice": (twice(), "'x' came twice"),
    "raw and typed": (both(), "raw and as typed"),
    "no type": (raw_request(datatype=""), "of no type: it must be FP32"),
    "unknown type": (raw_request(datatype="FP8"), "FP8: it must be FP32"),
    "negative size": (raw_request(shape=(-2, -4)), "at least 1"),
    "zero size": (raw_request(shape=(0, 4), raw=(b"",)), "at least 1"),
    "overflowing size": (raw_request(shape=(2**62, 4)), "takes 73786976294838206464"),
    "shared memory": (parameter("shared_memory_region", string_param="r"), "shared memory"),
    "half a length": (raw_request("echo_object", "BYTES", (1, 3), (b"\1\0",)), "inside the length"),
    "half an element": (raw_request("echo_object", "BYTES", (1, 3), (b"\7\0\0\0ab",)), "7 bytes announced"),
    "few elements": (raw_request("echo_object", "BYTES", (1, 3), (b"\0\0\0\0",)), "has 1 elements"),
    "not UTF-8": (
        raw_request("echo_object", "BYTES", (1, 3), (b"\1\0\0\0\xff" * 3,)),
        "'x' holds an element that is not UTF-8",
    ),
    "typed in the wrong field": (typed_request("float32", "int_contents", [1, 2, 3]), "fp32_contents"),
    "typed half precision": (typed_request("float16", "fp32_contents", [1, 2, 3]), "no typed contents"),
    "typed out of range": (typed_request("int8", "int_contents", [1, 2, 128]), "values reach 1 to 128"),
    "few values": (typed_request("float32", "fp32_contents", [1, 2]), "has 2 values"),
    "negative timeout": (timeout(-5), "'timeout' is -5"),
    "index beyond the table": (
        raw_request("index", "INT64", (1, 2), (np.array([0, 10]).tobytes(),)),
        "values from 0 to 10: the model takes 0 to 9",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests(stub, case):
    import grpc

    request, says = MALFORMED[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    assert re.search(says, caught.value.details()), caught.value.details()


def test_bytes_that_are_no_message(server):
    import grpc

    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff not protobuf")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a ModelInferRequest" in caught.value.details()


def test_an_oversized_message(client):
    with refused("RESOURCE_EXHAUSTED") as caught:
        infer(client, "scale", {"x": rows(1 << 17)})  # 2 MiB; the limit is 1
    caught.match("larger than max")
    assert infer(client, "scale", {"x": rows()}).as_numpy("y").shape == (2, 4)


def test_one_requests_bad_values_fail_no_other(client, server):
    session = sessions(server.repository)["picky"]
    session.open_.clear()
    good, bad = rows(1), -rows(1)
    answers = {}

    def ask(key, x):
        def done(result, error):
            answers[key] = error or result.as_numpy("y")

        client.async_infer("picky", [triton_input("x", x)], done)

    ask("first", good)
    assert session.entered.acquire(timeout=10)
    ask("bad", bad)
    ask("good", good)
    statistics = lambda: client.get_inference_statistics("picky").model_stats[0]  # noqa: E731
    model = server.repository.live("picky")
    wait_for(lambda: model.waiting_items == 2)
    session.open_.set()
    wait_for(lambda: len(answers) == 3)
    np.testing.assert_array_equal(answers["good"], good + 1)
    assert "INTERNAL" in str(answers["bad"])
    assert "negative numbers" in str(answers["bad"])
    assert (statistics().inference_stats.success.count, statistics().inference_stats.fail.count) == (2, 1)


# ---------------------------------------------------------------- statistics and what is not offered


def test_statistics_count_what_happened(client):
    before = client.get_inference_statistics("ragged").model_stats[0]
    for length in (3, 3, 5):
        infer(client, "ragged", {"x": np.ones((2, length), np.float32)})
    with refused("INVALID_ARGUMENT"):
        infer(client, "ragged", {"x": np.ones((2, 3), np.int32)})
    after = client.get_inference_statistics("ragged").model_stats[0]
    assert after.inference_count - before.inference_count == 6
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_stats.success.ns > after.inference_stats.compute_infer.ns > 0
    assert {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats} == {2: 3}
    assert after.last_inference > 1.6e12  # milliseconds of the wall clock
    assert after.memory_usage[0].byte_size == 12345


def test_statistics_of_all_models(client):
    names = {model.name for model in client.get_inference_statistics().model_stats}
    assert {"scale", "single"} <= names


def test_shared_memory_is_refused_but_unregistering_works(client):
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    with refused("UNIMPLEMENTED") as caught:
        client.register_system_shared_memory("r", "/r", 64)
    caught.match("Shared memory is not offered")


def test_settings_and_streams_are_not_offered(client, stub):
    import grpc

    with refused("UNIMPLEMENTED"):
        client.get_trace_settings()
    with refused("UNIMPLEMENTED"):
        client.get_log_settings()
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(iter([raw_request()])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
