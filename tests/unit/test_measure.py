import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from engine_doubles import SHAPES, add_engines, net

import raceline
from raceline import engines
from raceline.convert.measure import Bench, Worker
from raceline.core.errors import BackendLostError, BadModelError
from raceline.ir import Candidate, make_inputs
from raceline.ir.reference import run_reference


@pytest.fixture
def bench(tmp_path, monkeypatch):
    add_engines(monkeypatch)
    with Bench({"source": net(tmp_path)}, SHAPES, call_timeout_s=5.0) as opened:
        yield opened


def candidate(engine, **kwargs):
    return Candidate(engine, variant="source", **kwargs)


def test_a_candidate_is_timed_and_its_outputs_come_back(bench):
    honest = candidate("honest", batch=2)
    assert bench.load(honest) == 1000
    timing = bench.time(honest, 3)
    assert len(timing.times_s) == len(timing.disturbed) == 3 and min(timing.times_s) > 0
    model = bench.models["source"]
    for seed in (0, 5):
        inputs = make_inputs(model.signature, engines.batched(model.signature, SHAPES, 2), seed=seed)
        np.testing.assert_array_equal(
            bench.compute(honest, seed=seed)["y"], run_reference(model, inputs)["y"]
        )


def test_a_crash_is_told_with_its_signal_and_the_last_words(bench):
    with pytest.raises(BackendLostError, match="SIGSEGV.*last words of the crashing engine"):
        bench.load(candidate("crashing"))
    assert len(bench.time(candidate("honest"), 1).times_s) == 1


def test_a_hang_is_ended(bench):
    bench.load_timeout_s = 3.0
    with pytest.raises(BackendLostError, match="no answer within 3 s"):
        bench.load(candidate("hanging"))


def test_candidates_that_a_crash_took_along_come_back(bench):
    well = candidate("moody", threads=1)
    bench.load(well)
    with pytest.raises(BackendLostError, match="ended with status 7"):
        bench.load(candidate("moody", threads=2))
    assert len(bench.time(well, 2).times_s) == 2


def test_a_refusal_is_the_engines_own_message(bench):
    with pytest.raises(BadModelError, match=r"Conv \(conv1\); Relu \(relu1\)"):
        bench.load(candidate("refusing"))


def test_a_dropped_candidate_is_loaded_again_when_used(bench):
    honest = candidate("honest")
    bench.load(honest)
    bench.drop(honest)
    bench.drop(honest)
    assert len(bench.time(honest, 1).times_s) == 1


def test_no_worker_outlives_its_block(tmp_path, monkeypatch):
    add_engines(monkeypatch)
    with Bench({"source": net(tmp_path)}, SHAPES) as bench:
        bench.load(candidate("honest"))
        (worker,) = bench._workers.values()
        pid, folder = worker._process.pid, bench._folder
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).exists()


def test_a_worker_dies_with_its_parent(tmp_path, monkeypatch):
    """Even a parent that is killed leaves no worker behind, not even a busy one, and its files go with the next."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = textwrap.dedent(f"""
        import sys, threading, time
        sys.path[:0] = [{str(Path(raceline.__file__).parents[1])!r}, {str(Path(__file__).parents[1])!r}]
        from engine_doubles import SHAPES, FOLDER, net
        from pathlib import Path
        from raceline import engines
        from raceline.convert.measure import Bench
        from raceline.ir import Candidate
        engines.__path__.append(str(FOLDER))
        with Bench({{"source": net(Path({str(tmp_path)!r}))}}, SHAPES) as bench:
            bench.load(Candidate("honest", variant="source"))
            print(bench._workers["honest"]._process.pid, flush=True)
            bench.load(Candidate("hanging", variant="source"))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        signal.sigtimedwait([], 0.05)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the worker outlived its parent")
    (left,) = tmp_path.glob(".raceline-tune*")
    os.utime(left, (0, 0))  # a young one might be of a process that has not locked it yet
    with Bench({"source": net(tmp_path)}, SHAPES), Bench({"source": net(tmp_path)}, SHAPES):
        assert not left.exists() and len([*tmp_path.glob(".raceline-tune*")]) == 2


def test_a_worker_refuses_a_foreign_parent():
    reads, writes = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "raceline.convert._worker", str(reads), str(writes), "1"],
        pass_fds=(reads, writes), check=False,
        env={**os.environ, "PYTHONPATH": str(Path(raceline.__file__).parents[1])},
    )  # fmt: skip
    os.close(reads)
    os.close(writes)
    assert done.returncode == 1


def test_the_environment_of_a_worker_can_be_changed():
    worker = Worker({"RACELINE_TEST": "yes", "PATH": None})
    environ = Path(f"/proc/{worker._process.pid}/environ")
    try:
        while not (text := environ.read_bytes()) and worker._process.poll() is None:
            time.sleep(0.01)  # the kernel has not filled it in yet
        environment = text.split(b"\0")
    finally:
        worker.end()
        worker.end()
    assert b"RACELINE_TEST=yes" in environment
    assert not any(line.startswith(b"PATH=") for line in environment)
