"""The service under load and trouble: batching, cancelling, deadlines, reloading, draining, rude clients."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from serve_doubles import load_double, sessions, triton_input, wait_for, write_double
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import raceline
from raceline.core.errors import BadModelError, ConfigError, NotReadyError
from raceline.serve import Repository, Server, Settings
from raceline.serve.repository import State

TESTS = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    write_double(tmp_path, "scale", "scale")
    return tmp_path


def serving(root, **settings):
    return Server(Repository([root], Settings(**settings), load=load_double)).background()


def rows(count=1, seed=0):
    return np.random.default_rng(seed).random((count, 4), dtype=np.float32)


def ask(client, x, model="scale", **options):
    return client.infer(model, [triton_input("x", x)], **options).as_numpy("y")


def expected(x, factor=2.0):
    return factor * x + x.sum(axis=1, keepdims=True)


def request(x, model="scale"):
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return message


def refused(status):
    return pytest.raises(InferenceServerException, match=rf"StatusCode\.{status}")


# ---------------------------------------------------------------- load


def test_answers_under_concurrent_load_are_those_of_single_requests(root):
    with serving(root, max_batch=8) as server:
        session = sessions(server.repository)["scale"]
        session.delay_s = 0.001  # so that requests pile up

        def one_client(seed):
            chance = np.random.default_rng(seed)
            with triton.InferenceServerClient(server.address) as client:
                for _ in range(25):
                    x = chance.random((int(chance.integers(1, 4)), 4), dtype=np.float32)
                    np.testing.assert_allclose(ask(client, x), expected(x), rtol=1e-6)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one_client, range(8)))
        assert max(session.sizes) > 3, "nothing was batched"
        assert max(session.sizes) <= 8


def test_the_asyncio_client(root):
    async def script(address):
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            asked = [rows(2, seed) for seed in range(20)]
            tasks = [client.infer("scale", [triton_input("x", x, triton_aio)]) for x in asked]
            for x, answer in zip(asked, await asyncio.gather(*tasks), strict=True):
                np.testing.assert_allclose(answer.as_numpy("y"), expected(x), rtol=1e-6)

    with serving(root) as server:
        asyncio.run(script(server.address))


@pytest.fixture
def held(root):
    """A server whose engine is inside a first call and stays there until `open_` is set."""
    import grpc

    with serving(root, max_batch=2, max_queue=2) as server:
        session = sessions(server.repository)["scale"]
        session.open_.clear()
        with grpc.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            first = stub.ModelInfer.future(request(rows()))
            assert session.entered.acquire(timeout=20)
            yield server, session, stub
            session.open_.set()
            first.result()


def waiting(server):
    return server.repository.live("scale").waiting_items


def test_a_client_cancels(held):
    server, session, stub = held
    future = stub.ModelInfer.future(request(rows()))
    wait_for(lambda: waiting(server) == 1)
    future.cancel()
    wait_for(lambda: waiting(server) == 0)
    session.open_.set()
    assert stub.ModelInfer(request(rows(2))).outputs[0].shape[:] == [2, 4]
    assert session.sizes == [1, 2]


def test_a_client_disappears(held):
    import grpc

    server, _, _ = held
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        lost = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request(rows()))
        wait_for(lambda: waiting(server) == 1)
    wait_for(lambda: waiting(server) == 0)
    assert lost.done()


def test_a_full_queue(held):
    server, _, stub = held
    second = stub.ModelInfer.future(request(rows(2)))
    wait_for(lambda: waiting(server) == 2)
    with triton.InferenceServerClient(server.address) as client, refused("RESOURCE_EXHAUSTED") as caught:
        ask(client, rows())
    caught.match("Try again")
    assert not second.done()


def test_the_timeout_parameter_bounds_the_wait(held):
    server, _, _ = held
    with triton.InferenceServerClient(server.address) as client, refused("DEADLINE_EXCEEDED") as caught:
        ask(client, rows(), timeout=20_000)  # microseconds
    caught.match("cannot be answered in time")


def test_the_calls_deadline_frees_the_queue(held):
    server, _, _ = held
    with triton.InferenceServerClient(server.address) as client, refused("DEADLINE_EXCEEDED"):
        ask(client, rows(), client_timeout=0.05)
    wait_for(lambda: waiting(server) == 0)


# ---------------------------------------------------------------- models come and go


def index(client):
    return {m.name: (m.state, m.reason) for m in client.get_model_repository_index().models}


def test_load_unload_and_index(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        write_double(root, "late", "scale", factor=5.0)
        assert index(client)["late"] == ("UNAVAILABLE", "it is not loaded")
        with refused("UNAVAILABLE"):
            ask(client, rows(), "late")
        client.load_model("late")
        np.testing.assert_allclose(ask(client, rows(), "late"), expected(rows(), 5.0), rtol=1e-6)
        assert index(client) == {"late": ("READY", ""), "scale": ("READY", "")}
        client.unload_model("late")
        assert not client.is_model_ready("late")
        assert index(client)["late"] == ("UNAVAILABLE", "it was unloaded")
        ready = client.get_model_repository_index().models
        assert len(ready) == 2


def test_index_of_ready_models_only(root):
    import grpc

    write_double(root, "broken", "scale", broken=True)
    with serving(root) as server, grpc.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        models = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models
        assert [model.name for model in models] == ["scale"]


@pytest.mark.parametrize("name", ["nobody", "../scale", "/etc", ".", ""])
def test_what_is_not_in_the_repository_cannot_be_loaded(root, name):
    write_double(root.parent, "outside", "scale")
    with (
        serving(root) as server,
        triton.InferenceServerClient(server.address) as client,
        refused("NOT_FOUND"),
    ):
        client.load_model(name)


def test_bundles_that_are_being_written_are_not_offered(root):
    write_double(root, ".scale.new-1234", "scale")
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        assert set(index(client)) == {"scale"}


def test_a_folder_that_is_removed_takes_no_model_away(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        shutil.rmtree(root)
        assert index(client) == {"scale": ("READY", "")}
        assert ask(client, rows()).shape == (1, 4)
        with refused("NOT_FOUND"):
            client.load_model("scale")


def test_a_load_with_overrides_is_refused(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        with refused("INVALID_ARGUMENT") as caught:
            client.load_model("scale", config="{}")
        caught.match("cannot be overridden")


def test_a_reload_swaps_and_requests_under_way_finish_on_the_old(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        old = sessions(server.repository)["scale"]
        old.open_.clear()
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(lambda: ask(client, rows()))
            assert old.entered.acquire(timeout=20)
            write_double(root, "scale", "scale", factor=7.0)
            client.load_model("scale")
            np.testing.assert_allclose(ask(client, rows()), expected(rows(), 7.0), rtol=1e-6)
            assert not under_way.done()
            assert not old.closed
            old.open_.set()
            np.testing.assert_allclose(under_way.result(20), expected(rows(), 2.0), rtol=1e-6)
        wait_for(lambda: old.closed)


def test_a_reload_that_fails_keeps_what_was_served(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        write_double(root, "scale", "scale", broken=True)
        with refused("FAILED_PRECONDITION") as caught:
            client.load_model("scale")
        caught.match("scale is broken")
        np.testing.assert_allclose(ask(client, rows()), expected(rows()), rtol=1e-6)
        assert client.is_model_ready("scale")


def test_a_bad_bundle_leaves_the_others_serving(root):
    write_double(root, "broken", "scale", broken=True)
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        assert index(client)["broken"][0] == "UNAVAILABLE"
        assert "weights" in index(client)["broken"][1]
        assert not client.is_model_ready("broken")
        assert ask(client, rows()).shape == (1, 4)


def test_an_unexpected_failure_of_a_load_is_told_too(root):
    (write_double(root, "odd", "scale") / "bundle.json").write_text("not JSON")
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        state, reason = index(client)["odd"]
        assert state == "UNAVAILABLE"
        assert "cannot be loaded: JSONDecodeError" in reason
        assert client.is_model_ready("scale")


def test_a_load_goes_on_when_its_caller_leaves(root):
    with serving(root) as server, triton.InferenceServerClient(server.address) as client:
        write_double(root, "late", "scale", load_s=1.5)
        with refused("DEADLINE_EXCEEDED"):
            client.load_model("late", client_timeout=0.1)
        assert index(client)["late"] == ("LOADING", "it is loading")
        wait_for(lambda: client.is_model_ready("late"))


def test_stopping_during_a_load_leaves_nothing_behind(root):
    async def script():
        repository = Repository([root], load=load_double)
        write_double(root, "scale", "scale", load_s=1.0)
        loading = asyncio.create_task(repository.load("scale"))
        while repository.index()[0].state is not State.LOADING:
            await asyncio.sleep(0.001)
        await repository.drain()
        with pytest.raises(NotReadyError, match="stopping"):
            await loading
        await repository.close()
        assert repository.live_models() == []

    asyncio.run(script())


def test_nothing_but_bad_bundles_is_an_error(tmp_path):
    write_double(tmp_path, "broken", "scale", broken=True)
    with pytest.raises(BadModelError, match="broken"), serving(tmp_path):
        pass


def test_paths_that_are_no_bundles(tmp_path):
    with pytest.raises(ConfigError, match="not a folder"):
        Repository([tmp_path / "missing"])
    one, other = (write_double(tmp_path / side, "same", "scale") for side in "ab")
    with pytest.raises(ConfigError, match="two bundles are named 'same'"):
        Repository([one, other])


def test_a_port_that_is_taken(root):
    with serving(root) as server:
        second = Server(Repository([root], load=load_double), port=server.port)
        with (
            pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port}"),
            second.background(),
        ):
            pass


# ---------------------------------------------------------------- stopping


@pytest.fixture
def program():
    """Starts serve_doubles.py as a process; kills what is left at the end."""
    started = []

    def start(**arguments):
        path = os.pathsep.join([str(TESTS), str(Path(raceline.__file__).parents[1])])
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "serve_doubles.py"), json.dumps(arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        return process, f"127.0.0.1:{int(process.stdout.readline())}"

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def admitted(client):
    """Requests that reached the engine."""
    return client.get_inference_statistics("scale").model_stats[0].inference_stats.queue.count


def test_sigterm_under_load_loses_nothing(tmp_path, program):
    """Every answer that the server computed reaches its client; what it did not admit, it says so."""
    folder = write_double(tmp_path, "scale", "scale", delay_s=0.02)
    process, address = program(paths=[str(folder)], settings={"max_batch": 4})
    outcomes = Counter()
    some_answered = threading.Event()

    def one_client(seed):
        with triton.InferenceServerClient(address) as client:
            while True:
                try:
                    np.testing.assert_allclose(ask(client, rows(1, seed)), expected(rows(1, seed)), rtol=1e-6)
                except InferenceServerException as error:
                    outcomes[error.status()] += 1
                    return
                outcomes["answered"] += 1
                if outcomes["answered"] > 50:
                    some_answered.set()

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(one_client, seed) for seed in range(12)]
        assert some_answered.wait(30)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.result(30)
    assert process.wait(30) == 0
    answered_by_server = json.loads(process.stdout.readline())
    # gRPC itself answers CANCELLED to a call that arrives in the instant in which the connection closes.
    assert set(outcomes) <= {"answered", "StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}
    assert outcomes["StatusCode.UNAVAILABLE"] > 0
    assert outcomes["answered"] == answered_by_server["success"] == answered_by_server["admitted"]


def test_readiness_goes_first_and_admitted_work_finishes(tmp_path, program):
    folder = write_double(tmp_path, "scale", "scale", delay_s=0.7)
    process, address = program(paths=[str(folder)], settings={"max_batch": 1, "workers": 2})
    with triton.InferenceServerClient(address) as client, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, client, rows(1, seed)) for seed in range(2)]
        wait_for(lambda: admitted(client) == 2)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not client.is_server_ready())
        assert not client.is_model_ready("scale")
        assert client.is_server_live()
        assert not all(answer.done() for answer in answers)
        with refused("UNAVAILABLE") as caught:
            ask(client, rows())
        caught.match("draining")
        for seed, answer in enumerate(answers):
            np.testing.assert_allclose(answer.result(20), expected(rows(1, seed)), rtol=1e-6)
    assert process.wait(20) == 0


@pytest.mark.parametrize("how", ["bound", "second signal"])
def test_a_drain_that_hangs_is_cut_short(tmp_path, program, how):
    folder = write_double(tmp_path, "scale", "scale", delay_s=600)
    process, address = program(paths=[str(folder)], drain_s=0.3 if how == "bound" else 600)
    with triton.InferenceServerClient(address) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, client, rows())
        wait_for(lambda: admitted(client) == 1)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not client.is_server_ready())
        if how == "second signal":
            process.send_signal(signal.SIGTERM)
        with refused("UNAVAILABLE"):
            answer.result(30)
    assert process.wait(30) == 1


# ---------------------------------------------------------------- rude clients

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = bytes(3) + b"\4" + bytes(5)
HALF_HEADERS = b"\0\1\0\1\4\0\0\0\1" + b"half of what was announced"


@pytest.mark.parametrize(
    "said",
    [b"", PREFACE, PREFACE + EMPTY_SETTINGS + HALF_HEADERS, b"GET / HTTP/1.1\r\n\r\n", os.urandom(512)],
)
def test_connections_that_say_little_or_nonsense_hold_up_nobody(root, said):
    with serving(root) as server:
        rude = [socket.create_connection((server.host, server.port)) for _ in range(30)]
        for connection in rude:
            connection.sendall(said)
        with triton.InferenceServerClient(server.address) as client:
            for seed in range(20):
                np.testing.assert_allclose(ask(client, rows(1, seed)), expected(rows(1, seed)), rtol=1e-6)
        # ... nor does the stop of the server wait for them: leaving the block joins it.
        assert server.ready
    for connection in rude:
        connection.close()
