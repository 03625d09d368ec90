"""Real bundles on real engines: served answers are those of the reference, whoever shares the batch."""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from serve_doubles import triton_input

from raceline import engines
from raceline.core.errors import BadModelError, MissingDependencyError
from raceline.ir import (
    Bundle,
    Candidate,
    Measurement,
    Model,
    Profile,
    make_inputs,
    run_reference,
    signature_of,
    with_batch_axis,
)
from raceline.ir.probe import describe
from raceline.serve import Repository, Server, Settings

SHAPES = {"x": (1, 8)}


def small_model(*, convolution=False):
    """Softmax(x @ weight), batched along N; the product as a convolution of single pixels where that is asked."""
    import onnx_ir as ir

    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    text = """<ir_version: 9, opset_import: ["" : 17]> small (float[N,8] x) => (float[N,5] y)
              <float[8,5] weight> { h = MatMul(x, weight)  y = Softmax(h) }"""
    if convolution:
        weight = np.ascontiguousarray(weight.T).reshape(5, 8, 1, 1)
        text = """<ir_version: 9, opset_import: ["" : 17]> small (float[N,8] x) => (float[N,5] y)
                  <float[5,8,1,1] weight, int64[4] pixels = {0, 8, 1, 1}>
                  { p = Reshape(x, pixels)  c = Conv(p, weight)  h = Flatten(c)  y = Softmax(h) }"""
    program = ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="weight")])
    return with_batch_axis(Model(program, signature_of(program)), "N")


def measured(engine, model_sha256, *, chunk=0, platform=""):
    """A profile of this machine (or a named one): this engine, one thread, batches of eight (or one by one)."""
    rows = tuple(
        Measurement(
            Candidate(engine, batch=batch, chunk=chunk), latency_s=0.001 * (batch if chunk else 1), runs=9
        )
        for batch in (1, 8)
    )
    return Profile(platform or describe().key, model_sha256, SHAPES, rows)


@pytest.fixture(scope="module")
def model():
    return small_model()


def installed(engine):
    try:
        engines.load(engine).version()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))
    return engine


@pytest.mark.parametrize("chunk", [0, 1], ids=["batches", "item by item"])
@pytest.mark.parametrize("engine", engines.names())
def test_answers_are_those_of_the_reference(tmp_path, model, engine, chunk):
    model = small_model(convolution=True) if engine == "native" else model
    Bundle.write(tmp_path / "small", model, profile=measured(installed(engine), "0" * 64, chunk=chunk))
    tolerance = engines.load(engine).tolerance
    repository = Repository([tmp_path / "small"])
    with Server(repository).background() as server:
        choice = repository.live("small").loaded.choice
        assert (choice.engine, choice.max_batch) == (engine, 1 if chunk else 8)

        def one_client(seed):
            with triton.InferenceServerClient(server.address) as client:
                for items in (1, 2, 3):
                    x = make_inputs(model.signature, {"x": (items, 8)}, seed=seed)["x"]
                    y = client.infer("small", [triton_input("x", x)]).as_numpy("y")
                    expected = run_reference(model, {"x": x})["y"]
                    limit = tolerance.atol + tolerance.rtol * np.abs(expected).max()
                    assert np.abs(y - expected).max() <= max(limit, 1e-6)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(one_client, range(6)))
        statistics = repository.live("small").statistics
        assert statistics.items == 6 * (1 + 2 + 3)
        assert statistics.fail.count == 0


def test_settings_override_the_profile(tmp_path, model):
    Bundle.write(tmp_path / "small", model, profile=measured("reference", "0" * 64))
    repository = Repository([tmp_path / "small"], Settings(engine=installed("onnxruntime"), max_batch=3))
    with Server(repository).background():
        choice = repository.live("small").loaded.choice
        assert (choice.engine, choice.max_batch) == ("onnxruntime", 3)


def test_a_profile_of_another_machine_is_not_used(tmp_path, model):
    profile = measured("reference", "0" * 64, platform="npu-box")
    Bundle.write(tmp_path / "small", model, profile=profile)
    repository = Repository([tmp_path / "small"])
    with Server(repository).background():
        choice = repository.live("small").loaded.choice
        assert choice.engine == "onnxruntime"
        assert "not measured" in choice.why


def test_a_changed_weight_is_refused_and_named(tmp_path, model):
    Bundle.write(tmp_path / "small", model, profile=measured("reference", "0" * 64))
    file = tmp_path / "small" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(BadModelError, match="model.onnx"), Server(Repository([tmp_path])).background():
        pass


def test_serve_bundle_serves_until_it_is_told_to_stop(tmp_path, model):
    """The whole program: it says where it listens, answers, shows its metrics, and ends well on SIGTERM."""
    Bundle.write(tmp_path / "small", model, profile=measured("reference", "0" * 64))
    code = (
        "import sys; from raceline.serve import serve_bundle\n"
        "sys.exit(0 if serve_bundle([sys.argv[1]], port=0, metrics_port=int(sys.argv[2])) else 1)"
    )
    port = free_port()
    command = [sys.executable, "-c", code, str(tmp_path), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving small at grpc://127.0.0.1:")
            with triton.InferenceServerClient(line.rpartition("/")[2].strip()) as client:
                x = np.ones((1, 8), np.float32)
                client.infer("small", [triton_input("x", x)])
                with contextlib.suppress(Exception):
                    client.infer("small", [triton_input("x", x[:, :4])])
            text = scrape(port)
            assert 'raceline_serve_requests_total{model="small",status="ok"} 1.0' in text
            assert 'raceline_serve_requests_total{model="small",status="ShapeError"} 1.0' in text
            assert 'raceline_serve_batch_items_count{model="small"} 1.0' in text
            assert 'raceline_serve_queue_items{model="small"} 0.0' in text
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return response.read().decode()
