"""`raceline deploy` as a user runs it: a real journey on a small model, and every kind of bad input."""

import html.parser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raceline import engines
from raceline.convert import Reduced
from raceline.convert.example import model_from_text
from raceline.core.errors import BackendLostError, BadModelError
from raceline.core.progress import Silent
from raceline.ir import Bundle, Candidate, Measurement, Profile
from raceline.loop import Plan, deploy, preparing
from raceline.serve import evaluate


def run(*arguments, cache=None, **environment):
    """The command line in a process of its own."""
    variables = {**os.environ, **environment}
    if cache is not None:
        variables["RACELINE_CACHE_DIR"] = str(cache)
    return subprocess.run(
        [sys.executable, "-m", "raceline", *map(str, arguments)],
        capture_output=True, text=True, timeout=280, env=variables,
    )  # fmt: skip


def network(weight=None, *, operator="Relu", shape=("batch", 3, 16, 16)):
    """conv -> operator -> mean -> gemm, small enough to deploy in seconds."""
    rng = np.random.default_rng(0)
    conv = rng.normal(size=(8, 3, 3, 3)).astype(np.float32) if weight is None else weight
    dense = rng.normal(size=(8, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["a"], ["b"], name="act1"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "dense"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 4])],
        [numpy_helper.from_array(conv, "conv"), numpy_helper.from_array(dense, "dense")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path):
    onnx.save(network(), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


class Checker(html.parser.HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in {"src", "href"}]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A whole journey, and the folder it ended in."""
    folder = tmp_path_factory.mktemp("deployed")
    onnx.save(network(), folder / "small.onnx")
    done = run(
        "deploy",
        folder / "small.onnx",
        "-o",
        folder / "out",
        "--once",
        "--json",
        "--budget",
        "2s",
        "--seconds",
        1,
    )
    assert done.returncode == 0, done.stderr
    return done, folder / "out"


def test_the_whole_journey_ends_in_a_bundle_a_report_and_figures(deployed):
    done, out = deployed
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["equivalence"]["ok"] is True
    for way in ("before", "after"):
        assert figures[way]["saturated"]["requests_per_s"] > 0
        assert figures[way]["saturated"]["errors"] == {} and figures[way]["shared"]["errors"] == {}
        assert 0 < figures[way]["saturated"]["resource_efficiency"] < 1
    bundle = Bundle.open(out / "small")
    assert bundle.model.signature.batch_axis is not None
    assert bundle.profile.best().latency_s > 0
    page = Checker()
    page.feed((out / "small" / "report.html").read_text())
    assert page.fetched == []
    text = " ".join(page.text)
    for needed in ("P99 latency", "Requests/s", "Resource efficiency", "fuse_conv_activation", "proven"):
        assert needed in text


def refused(done, *words):
    """The command failed because of its input: exit code 2, a message with these words, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return done


def test_a_truncated_file(model, tmp_path):
    model.write_bytes(model.read_bytes()[:-40])
    refused(run("deploy", model, "--out", tmp_path / "out", "--once"), "small.onnx", "cut off")
    assert not (tmp_path / "out").exists()


def test_unknown_operators_are_all_named(tmp_path):
    bad = network(operator="Frobnicate")
    bad.graph.node[2].op_type = "Defenestrate"
    onnx.save(bad, tmp_path / "m.onnx")
    done = run("deploy", tmp_path / "m.onnx", "--out", tmp_path / "out", "--once")
    refused(done, "Frobnicate", "Defenestrate", "act1")
    assert not (tmp_path / "out").exists()


def test_a_model_over_the_memory_limit(model, tmp_path):
    done = run("deploy", model, "--out", tmp_path / "out", "--once", "--memory-limit", "1KiB")
    refused(done, "small.onnx", "1 KiB")


def test_external_data_that_climbs_out(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(864))
    folder = tmp_path / "folder"
    folder.mkdir()
    bad = network()
    weight = bad.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    (folder / "m.onnx").write_bytes(bad.SerializeToString())
    refused(run("deploy", folder / "m.onnx", "--out", tmp_path / "out", "--once"), "outside")


def test_nan_weights(tmp_path):
    weight = np.ones((8, 3, 3, 3), np.float32)
    weight[0, 0, 0, 0] = np.nan
    onnx.save(network(weight), tmp_path / "m.onnx")
    done = run("deploy", tmp_path / "m.onnx", "--out", tmp_path / "out", "--once")
    refused(done, "conv", "NaN")
    assert not (tmp_path / "out").exists()


def test_a_zero_size_axis(tmp_path, model):
    done = run("deploy", model, "--shape", "x=0,3,16,16", "--out", tmp_path / "out", "--once")
    refused(done, "--shape", "at least 1")
    weight = np.ones((0, 3, 3, 3), np.float32)
    onnx.save(network(weight), tmp_path / "z.onnx")
    refused(run("deploy", tmp_path / "z.onnx", "--out", tmp_path / "out", "--once"), "conv")


def test_what_would_fail_at_the_end_is_refused_at_once(model, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run("deploy", model, "--out", tmp_path / "file", "--once"), "is a file")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("deploy", model, "--out", tmp_path / "out", "--port", port), str(port), "in use")
    assert not (tmp_path / "out").exists()


def test_a_model_without_intermediate_tensors_whose_axis_of_size_0_is_open(tmp_path):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [0, 3]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "m.onnx",
    )
    name = os.fsdecode(b"na\xffme.onnx")
    (tmp_path / "m.onnx").rename(tmp_path / name)
    done = run(
        "deploy", tmp_path / name, "--out", tmp_path / "out", "--once", "--budget", 1, "--seconds", 0.5
    )
    assert done.returncode == 0, done.stderr
    assert "'x' declares an axis of size 0" in done.stderr


def test_a_shape_that_does_not_fit(model, tmp_path):
    done = run("deploy", model, "--shape", "x=1,4,16,16", "--out", tmp_path / "out", "--once")
    refused(done, "'x'", "[1, 4, 16, 16]")
    done = run("deploy", model, "--shape", "z=1,4", "--out", tmp_path / "out", "--once")
    refused(done, "'z'", "x: float32")


def test_no_such_file_and_no_model_at_all(tmp_path):
    refused(run("deploy", tmp_path / "nothing.onnx", "--once"), "nothing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    refused(run("deploy", tmp_path / "text.onnx", "--once"), "text.onnx")


def test_a_read_only_out_folder(model, tmp_path):
    """The superuser may write anywhere: step down where that is who runs the tests."""
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    code = f"""
import os, sys
from pathlib import Path
from raceline.core.errors import ConfigError
from raceline.loop import Plan, deploy, preparing
if os.geteuid() == 0:
    os.setuid(65534)
try:
    deploy(Plan(model=Path({str(model)!r}), out=Path({str(out)!r}), budget_s=1))
except ConfigError as error:
    print(error)
"""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "nothing can be written to" in done.stdout and "out" in done.stdout, done.stderr
    assert list(out.iterdir()) == []


def test_options_that_a_format_lacks_are_refused_at_once(model, tmp_path):
    done = run("deploy", model, "--out", tmp_path / "out", "--once", "--read", "signature=serve")
    refused(done, "reader onnx", "'signature'")


def test_serving_what_is_no_bundle(tmp_path):
    refused(run("serve", tmp_path / "nothing"), "nothing")
    (tmp_path / "bundle.json").write_text("{}")
    refused(run("serve", tmp_path), "bundle.json")


def test_a_second_deploy_replaces_the_first_and_a_failed_one_leaves_it(deployed, model, tmp_path):
    """A cache that cannot be written is a warning meanwhile."""
    out = shutil.copytree(deployed[1], tmp_path / "out")
    first = (out / "small" / "bundle.json").read_bytes()
    (tmp_path / "cache").write_text("a file where the folder should be")
    short = ("--out", out, "--once", "--budget", 1, "--seconds", 0.5)
    done = run("deploy", model, *short, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "cache" in done.stderr
    before = (out / "small" / "bundle.json").read_bytes()
    assert before != first
    model.write_bytes(b"broken")
    refused(run("deploy", model, *short), "small.onnx")
    assert (out / "small" / "bundle.json").read_bytes() == before
    assert set(Bundle.open(out / "small").attachments) == {"report.html"}


def test_a_terminated_deploy_leaves_no_process_and_no_half_bundle(model, tmp_path):
    command = [sys.executable, "-m", "raceline", "deploy", str(model), "--out", str(tmp_path / "out"),
               "--once", "--budget", "60", "--seconds", "60"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("serve untouched"):
                break
        children = set(_children(process.pid))
        deadline = time.monotonic() + 60
        while not children and time.monotonic() < deadline:
            time.sleep(0.1)
            children = set(_children(process.pid))
        assert children
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["small"]
    assert Bundle.open(tmp_path / "out" / "small").profile is not None  # proven; only the report is missing
    while (left := [pid for pid in children if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.parametrize("before", [0, 1, 3], ids=["at once", "between loads", "in the last load"])
def test_a_server_that_dies_while_it_is_measured_is_no_success(model, tmp_path, monkeypatch, before):
    """Answers that never came must not leave a good P99 of the others."""
    loads = []

    def killing(*arguments, server_pid, **more):
        loads.append(server_pid)
        if len(loads) <= before:
            return evaluate(*arguments, server_pid=server_pid, **more)
        threading.Timer(0.0 if before == 0 else 1.3, os.kill, (server_pid, signal.SIGKILL)).start()
        return evaluate(*arguments, server_pid=server_pid, **more)

    monkeypatch.setitem(deploy.__globals__, "evaluate", killing)
    with pytest.raises(BackendLostError, match="the server died while it was measured"):
        deploy(Plan(model, tmp_path / "out", budget_s=1, load_s=1.0))


def test_a_model_that_onnx_runtime_refuses_is_compared_on_another_engine(model, tmp_path, monkeypatch):
    monkeypatch.setitem(deploy.__globals__, "_PLAIN_ENGINE", "absent")
    result = deploy(Plan(model, tmp_path / "out", budget_s=1, load_s=0.5))
    assert result.before.setup.split()[0] in engines.names()


def proven_by(monkeypatch, right):
    """Choose between two measured engines, of which only some compute the right thing for a server."""

    def prove(source, model, reduced, profile, choice, sizes, progress):
        best = profile.best().candidate
        proof = SimpleNamespace(ok=best.engine in right)
        return best, proof, "" if proof.ok else f"{best.engine} lies"

    monkeypatch.setattr(preparing, "_prove", prove)
    source, model = (
        model_from_text(
            f"<ir_version: 8, opset_import: ['': 17]> net (float[2] x) => (float[2] y) {{ y = {op}(x) }}".replace(
                "'", '"'
            )
        )
        for op in ("Relu", "Neg")
    )
    rows = tuple(
        Measurement(Candidate(engine, variant=variant), latency_s=seconds, runs=3)
        for engine, variant, seconds in (("openvino", "source", 1.0), ("onnxruntime", "optimised", 2.0))
    )
    profile = Profile("here", "0" * 64, {"x": (2,)}, rows)
    return source, model, preparing._proven(source, model, Reduced(), profile, {}, Silent())


def test_an_engine_that_differs_for_a_server_makes_room_for_the_next(monkeypatch):
    source, model, (served, choice, profile, proof) = proven_by(monkeypatch, {"openvino", "onnxruntime"})
    assert served is source and profile.variant == "source" and proof.ok and choice.engine == "openvino"
    source, model, (served, choice, profile, _) = proven_by(monkeypatch, {"onnxruntime"})
    assert served is model and profile.best().candidate.engine == choice.engine == "onnxruntime"
    assert profile.measurements[0].failure == "not equivalent: openvino lies"
    with pytest.raises(BadModelError, match="openvino lies.*onnxruntime lies"):
        proven_by(monkeypatch, set())


@pytest.mark.parametrize("taken", [{"out/small/notes.txt": "mine"}, {"out": "a file"}])
def test_a_place_that_cannot_be_written_is_refused_at_once(model, tmp_path, taken):
    for name, text in taken.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = refused(run("deploy", model, "--out", tmp_path / "out", "--once"), "out")
    assert "optimise" not in done.stderr


def test_durations_nobody_can_mean_are_refused_at_once(model, tmp_path):
    for seconds in ("4000", "inf"):
        done = refused(
            run("deploy", model, "--out", tmp_path / "out", "--once", "--seconds", seconds), "load"
        )
        assert "optimise" not in done.stderr


def _runs(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _children(pid):
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, task.read_text().split())
