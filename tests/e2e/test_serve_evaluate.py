"""The evaluation against servers whose latency and limits are known beforehand."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_doubles import load_double, sessions, wait_for, write_double

from raceline.core.errors import ConfigError, NotReadyError
from raceline.serve import Load, Machine, Repository, Server, Settings, evaluate, proc, saturate
from raceline.serve._load import arrivals_s
from raceline.serve.evaluate import inputs_from_metadata, percentile


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    write_double(root, "slow", "scale", delay_s=0.02)
    write_double(root, "ragged", "ragged")
    write_double(root, "echo_object", "echo_object")
    repository = Repository([root], Settings(max_batch=1, max_queue=16), load=load_double)
    with Server(repository).background() as server:
        yield server


def run(server, load, model="slow", **options):
    return evaluate(server.address, model, load, server_pid=os.getpid(), **options)


def test_a_closed_loop_of_one_sees_the_engines_latency(server):
    result = run(server, Load(concurrency=1, duration_s=1.0, warm_up_s=0.2), machine=Machine(1e6, 1e9))
    assert result.errors == {}
    assert result.latency_s["p50"] >= 0.020
    assert result.requests_per_s <= 50
    assert result.gflop_per_s == pytest.approx(result.items_per_s * 1e-3)
    assert result.resource_efficiency == pytest.approx(result.items_per_s * 1e-3)
    assert not result.generator_limited
    assert result.server_cpu_s_per_request > 0
    assert 0 < result.cpu_utilisation <= 1
    assert result.server_rss_bytes > 10 << 20
    assert result.to_json()["load"]["concurrency"] == 1


def test_in_a_closed_loop_latency_is_concurrency_over_throughput(server):
    """Little's law, which also shows that nothing is counted twice or lost."""
    result = run(server, Load(concurrency=4, duration_s=1.0, warm_up_s=0.2))
    assert result.latency_s["mean"] * result.requests_per_s == pytest.approx(4, rel=0.35)


def test_an_open_loop_keeps_to_its_rate(server):
    result = run(server, Load(rate_per_s=20, duration_s=2.0, warm_up_s=0.1, seed=3))
    due = [at for at in arrivals_s(20, 3, 2.1) if at >= 0.1]
    assert abs(result.requests - len(due)) <= 2  # the window's edges
    assert result.errors == {}


def test_a_stall_cannot_hide_the_requests_it_held_up(server):
    """Coordinated omission: every request that was due during a stall shows it, not the first alone."""
    session = sessions(server.repository)["slow"]
    held = 6
    due_s = list(arrivals_s(25, 5, 1.0))
    at_least_s = sum(due_s[held] - due for due in due_s[:held])  # opened once the seventh has come
    session.open_.clear()

    def open_when_they_wait():
        wait_for(lambda: server.repository.live("slow").waiting_items >= held)
        session.open_.set()

    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(open_when_they_wait)
        result = run(server, Load(rate_per_s=25, seed=5, duration_s=1.0, warm_up_s=0.0))
        opened.result()
    assert result.errors == {}
    assert result.requests == len(due_s)
    assert result.latency_s["mean"] * result.requests >= at_least_s


def test_refusals_are_counted_by_status(server):
    result = run(server, Load(concurrency=40, duration_s=0.5, warm_up_s=0.1))
    assert set(result.errors) == {"RESOURCE_EXHAUSTED"}
    assert 0 < sum(result.errors.values()) < result.requests


def test_items_are_counted(server):
    x = {"x": np.ones((3, 7), np.float32)}
    result = run(server, Load(concurrency=2, duration_s=0.4, warm_up_s=0.1), "ragged", inputs=x, items=3)
    assert result.items_per_s == pytest.approx(3 * result.requests_per_s)
    assert result.errors == {}


def test_inputs_are_made_from_the_servers_metadata(server):
    assert inputs_from_metadata(server.address, "slow", items=2)["x"].shape == (2, 4)
    assert inputs_from_metadata(server.address, "echo_object")["x"].tolist() == [["", "", ""]]
    result = run(server, Load(concurrency=1, duration_s=0.3, warm_up_s=0.0), "echo_object")
    assert result.errors == {}
    assert result.requests > 0


def test_saturation_stops_where_throughput_does(monkeypatch):
    per_s = {1: 100, 2: 190, 4: 300, 8: 310, 16: 305, 32: 900}
    module = sys.modules["raceline.serve.evaluate"]

    def canned(address, model, load, inputs, **options):
        assert (load.duration_s, load.rate_per_s) == (0.5, 0.0)
        return SimpleNamespace(load=load, requests_per_s=per_s[load.concurrency])

    monkeypatch.setattr(module, "evaluate", canned)
    runs = saturate("nowhere", "m", load=Load(rate_per_s=9, duration_s=0.5))
    assert [run.load.concurrency for run in runs] == [1, 2, 4, 8, 16]
    assert [
        run.load.concurrency for run in saturate("x", "m", load=Load(concurrency=1, duration_s=0.5), most=2)
    ] == [1, 2]


def test_a_server_that_is_not_there():
    with pytest.raises(NotReadyError, match="127.0.0.1:1 did not answer"):
        evaluate("127.0.0.1:1", "m", Load(concurrency=1))


def test_a_model_that_is_not_there(server):
    with pytest.raises(NotReadyError, match="nobody"):
        evaluate(server.address, "nobody", Load(concurrency=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"concurrency": 1, "rate_per_s": 1.0},
        {"concurrency": 1, "duration_s": 0.0},
        {"concurrency": 1, "duration_s": 1e9},
        {"concurrency": 1, "timeout_s": 0.0},
        {"concurrency": 1, "connections": 0},
    ],
)
def test_impossible_loads(wrong):
    with pytest.raises(ConfigError):
        Load(**wrong)


# ---------------------------------------------------------------- the parts


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(values, quantile):
    values = sorted(values)
    found = percentile(values, quantile)
    assert found in values
    assert sum(v <= found for v in values) >= quantile * len(values) - 1e-6
    below = [v for v in values if v < found]
    assert not below or len(below) < quantile * len(values) + 1e-6


def test_percentiles_of_a_hundred():
    values = list(range(1, 101))
    assert [percentile(values, q) for q in (0.5, 0.99, 0.999, 1.0)] == [50, 99, 100, 100]


def test_arrivals_replay_and_have_their_rate():
    first = list(arrivals_s(200, 7, 50))
    assert first == list(arrivals_s(200, 7, 50))
    assert first != list(arrivals_s(200, 8, 50))
    assert len(first) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(first)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as of an exponential


def test_usage_sees_the_children():
    burn = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(60)"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        try:
            end_s = time.monotonic() + 30
            while (seen := proc.usage(process.pid)).cpu_s < 0.1 and time.monotonic() < end_s:
                time.sleep(0.05)
            own_s = sum(os.times()[:2])
            assert seen.cpu_s >= 0.1
            assert proc.usage(os.getpid()).cpu_s >= seen.cpu_s
            assert proc.usage(os.getpid()).cpu_s >= own_s - 0.05
            assert seen.rss_bytes > 5 << 20
        finally:
            os.kill(child, signal.SIGKILL)


def test_usage_of_nobody():
    assert proc.usage(2**22 + 1) is None
